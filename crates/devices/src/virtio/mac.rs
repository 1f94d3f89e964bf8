//! MAC addresses of guests: locally administered, never the host's.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// The address of the VM called `name`: the same for the same name, and locally administered (IEEE 802, 8.4).
    pub fn of_vm(name: &str) -> MacAddress {
        // FNV-1a: stable over versions and hosts, which a hasher of the standard library does not promise.
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, step);
        let [_, _, _, a, b, c, d, e] = hash.to_be_bytes();
        MacAddress([0x52, a, b, c, d, e])
    }

    /// Reads `52:4d:01:02:03:04`.
    pub fn parse(text: &str) -> Option<MacAddress> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2)?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        let is_hex = text.bytes().all(|b| b == b':' || b.is_ascii_hexdigit());
        (is_hex && parts.next().is_none()).then_some(MacAddress(bytes))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_shown_alike() {
        let check = |text, ok| {
            let read = MacAddress::parse(text).map(|mac| mac.to_string());
            assert_eq!(read.as_deref() == Some(text), ok, "{text}: {read:?}");
        };
        check("52:4d:01:02:03:ff", true);
        check("52:4d:01:02:03", false);
        check("52:4d:01:02:03:04:05", false);
        check("52:4d:01:02:03:g0", false);
        check("52:4d:01:02:03:+1", false);
        check("524d01020304", false);
        check("", false);
    }

    #[test]
    fn each_name_has_its_own_local_address_for_ever() {
        assert_eq!(MacAddress::of_vm("guest"), MacAddress::of_vm("guest"));
        assert_ne!(MacAddress::of_vm("web1"), MacAddress::of_vm("web2"));
        for name in ["guest", "web1", "web2", ""] {
            let first = MacAddress::of_vm(name).0[0];
            assert_eq!(
                first & 3,
                2,
                "{name} is locally administered and not a group"
            );
        }
    }
}
