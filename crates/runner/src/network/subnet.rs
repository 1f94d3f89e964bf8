//! Which addresses a network has: made of its name, so that they are the same on every host and after every start.

use std::net::Ipv4Addr;

/// Hosts of a network are numbered from here on; below are the switch and what may come.
const FIRST: u8 = 10;

/// How many VMs a network takes.
pub(super) const HOSTS_MAX: u8 = 240;

/// A network of 256 addresses below 10.64.0.0/10, where the user network (10.0.2.0/24) is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Subnet {
    prefix: [u8; 3],
}

/// FNV-1a: stable over versions and hosts, which a hasher of the standard library does not promise.
fn hash(name: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    // The last bytes reach the low bits alone.
    hash ^ hash >> 32
}

impl Subnet {
    /// Of the network called `name`.
    pub(super) fn of(name: &str) -> Subnet {
        let [.., high, low] = hash(name).to_be_bytes();
        Subnet {
            prefix: [10, 64 | high & 0x3f, low],
        }
    }

    fn at(self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.prefix;
        Ipv4Addr::new(a, b, c, last)
    }

    /// The switch's own address.
    pub(super) fn server(self) -> Ipv4Addr {
        self.at(1)
    }

    /// Everybody's.
    pub(super) fn broadcast(self) -> Ipv4Addr {
        self.at(255)
    }

    /// Which bits of an address name the network.
    pub(super) fn mask(self) -> Ipv4Addr {
        Ipv4Addr::new(255, 255, 255, 0)
    }

    /// Whether a VM may have it.
    pub(super) fn is_host(self, address: Ipv4Addr) -> bool {
        let last = address.octets()[3];
        address == self.at(last) && (FIRST..FIRST + HOSTS_MAX).contains(&last)
    }

    /// Every VM's address, in the order in which the VM called `name` likes them.
    pub(super) fn hosts(self, name: &str) -> impl Iterator<Item = Ipv4Addr> {
        let first = (hash(name) % u64::from(HOSTS_MAX)) as u8;
        (0..HOSTS_MAX).map(move |step| {
            let number = (u16::from(first) + u16::from(step)) % u16::from(HOSTS_MAX);
            self.at(FIRST + number as u8)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_name_has_its_addresses_for_ever_and_another_one_others() {
        let lab = Subnet::of("lab");
        assert_eq!(lab, Subnet::of("lab"));
        assert_ne!(lab, Subnet::of("lab2"));
        for n in 0..1000 {
            let [a, b, ..] = Subnet::of(&format!("net{n}")).server().octets();
            assert!(a == 10 && (64..128).contains(&b), "{a}.{b}");
        }
        let hosts: BTreeSet<Ipv4Addr> = lab.hosts("web").collect();
        assert_eq!(hosts.len(), usize::from(HOSTS_MAX));
        assert!(hosts.iter().all(|it| lab.is_host(*it)));
        for other in [
            lab.server(),
            lab.broadcast(),
            lab.at(0),
            [10, 0, 2, 15].into(),
        ] {
            assert!(!lab.is_host(other), "{other}");
        }
    }
}
