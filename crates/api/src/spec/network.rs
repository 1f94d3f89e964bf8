//! What is behind a guest's network card, which ports of the host lead into it, and its address.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;

use super::name::{NameError, VmName};
use super::text::{BadText, Text, bad, written_as_text};

/// What is behind the network card.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum NetSpec {
    /// Nothing: there is no card.
    #[default]
    None,
    /// NAT without privileges.
    User {
        /// Whether the gateway's address leads to the host's own services.
        reaches_host: bool,
    },
    /// A tap of the host, by the name of its interface.
    Tap(String),
    /// A network between VMs of this user that say the same name.
    Named(VmName),
}

impl fmt::Display for NetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetSpec::None => f.write_str("none"),
            NetSpec::User { reaches_host } => {
                f.write_str(if *reaches_host { "user,host" } else { "user" })
            }
            NetSpec::Tap(name) => write!(f, "tap={name}"),
            NetSpec::Named(name) => write!(f, "net:{name}"),
        }
    }
}

impl FromStr for NetSpec {
    type Err = BadText;

    fn from_str(text: &str) -> Result<NetSpec, BadText> {
        let user = |reaches_host| NetSpec::User { reaches_host };
        if let Some(name) = text.strip_prefix("net:") {
            return match VmName::new(name) {
                Ok(name) => Ok(NetSpec::Named(name)),
                Err(error) => bad(format!("a network: {error}"), NameError::help()),
            };
        }
        match text {
            "none" => Ok(NetSpec::None),
            "user" => Ok(user(false)),
            "user,host" => Ok(user(true)),
            _ => match text.strip_prefix("tap=") {
                Some(name) => Ok(NetSpec::Tap(name.to_owned())),
                None => bad(
                    format!("there is no network \"{}\"", text.escape_debug()),
                    "write `--net user`, `--net user,host` (the gateway's address leads to this host's own \
                     services), `--net net:NAME` (a network between VMs), `--net none` or `--net tap=NAME`",
                ),
            },
        }
    }
}

impl Text for NetSpec {
    const NAME: &'static str = "Network";
    const EXAMPLES: &'static [&'static str] = &["user", "user,host", "none", "tap=tap0", "net:lab"];
}

written_as_text!(NetSpec);

/// Which transport a forward carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the protocols' own names")]
pub enum Transport {
    Tcp,
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
        })
    }
}

/// A port of the host that leads into the guest: `[ADDRESS:]HOST:GUEST[/tcp|/udp]`, on 127.0.0.1 if no address is
/// given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forward {
    /// Address and port of the host.
    pub host: SocketAddrV4,
    /// Port of the guest.
    pub guest_port: u16,
    /// What it carries.
    pub transport: Transport,
}

impl Forward {
    /// Whether both would bind the same port.
    pub fn collides(&self, other: &Forward) -> bool {
        let ours = self.host.ip();
        let theirs = other.host.ip();
        let same_address = ours == theirs || ours.is_unspecified() || theirs.is_unspecified();
        same_address && self.host.port() == other.host.port() && self.transport == other.transport
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self.host.ip() != Ipv4Addr::LOCALHOST {
            write!(f, "{}:", self.host.ip())?;
        }
        write!(f, "{}:{}", self.host.port(), self.guest_port)?;
        f.write_str(match self.transport {
            Transport::Tcp => "",
            Transport::Udp => "/udp",
        })
    }
}

impl FromStr for Forward {
    type Err = BadText;

    fn from_str(text: &str) -> Result<Forward, BadText> {
        let shown = text.escape_debug();
        let help = "write [ADDRESS:]HOST:GUEST[/udp], such as 8080:80 (on 127.0.0.1), 0.0.0.0:8080:80 or 5353:53/udp";
        let (ports, transport) = match text.rsplit_once('/') {
            None => (text, Transport::Tcp),
            Some((ports, "tcp")) => (ports, Transport::Tcp),
            Some((ports, "udp")) => (ports, Transport::Udp),
            Some((_, other)) => {
                let other = other.escape_debug();
                return bad(
                    format!("\"{shown}\": there is no protocol \"{other}\""),
                    help,
                );
            }
        };
        if ports.contains('[') || ports.matches(':').count() > 2 {
            return bad(
                format!("\"{shown}\": only IPv4 addresses can be forwarded from"),
                help,
            );
        }
        let Some((host, guest)) = ports.rsplit_once(':') else {
            return bad(format!("\"{shown}\" is not a forward"), help);
        };
        let (address, host) = host.rsplit_once(':').unwrap_or(("127.0.0.1", host));
        let port = |what: &str, port: &str| match port.parse::<u16>() {
            Ok(0) => bad(
                format!("\"{shown}\": port 0 of the {what} is not a port"),
                help,
            ),
            Ok(number) if !port.starts_with('+') => Ok(number),
            _ => bad(
                format!("\"{shown}\": \"{}\" is not a port", port.escape_debug()),
                help,
            ),
        };
        let Ok(address) = address.parse::<Ipv4Addr>() else {
            let address = address.escape_debug();
            return bad(
                format!("\"{shown}\": \"{address}\" is not an IPv4 address"),
                help,
            );
        };
        Ok(Forward {
            host: SocketAddrV4::new(address, port("host", host)?),
            guest_port: port("guest", guest)?,
            transport,
        })
    }
}

impl Text for Forward {
    const NAME: &'static str = "Forward";
    const EXAMPLES: &'static [&'static str] = &["8080:80", "0.0.0.0:8080:80", "5353:53/udp"];
}

written_as_text!(Forward);

/// The address of a guest's network card: six bytes, `52:00:00:12:34:56`; one interface's own, so not a group's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mac([u8; 6]);

impl Mac {
    /// The bytes, in the order in which they are sent.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = BadText;

    fn from_str(text: &str) -> Result<Mac, BadText> {
        let help =
            "write six bytes such as 52:00:00:12:34:56; without `--mac` the VM's name makes one";
        let byte = |part: &str| {
            let is_hex = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            u8::from_str_radix(part, 16).ok().filter(|_| is_hex)
        };
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        let Some(bytes) = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok()) else {
            return bad(
                format!("\"{}\" is not a MAC address", text.escape_debug()),
                help,
            );
        };
        let mac = Mac(bytes);
        // IEEE 802, 8.2: the least significant bit of the first byte.
        if bytes[0] & 1 != 0 {
            return bad(
                format!("{mac} is the address of a group: its first byte is odd"),
                help,
            );
        }
        if bytes == [0; 6] {
            return bad("an address of zeros is nobody's", help);
        }
        Ok(mac)
    }
}

impl Text for Mac {
    const NAME: &'static str = "MacAddress";
    const EXAMPLES: &'static [&'static str] = &["52:00:00:12:34:56"];
}

written_as_text!(Mac);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::text::{check, come_back};
    use super::*;

    #[test]
    fn a_network_is_understood_or_explained() {
        check::<NetSpec>(&[
            ("none", Ok("none")),
            ("user", Ok("user")),
            ("user,host", Ok("user,host")),
            ("tap=tap0", Ok("tap=tap0")),
            ("tap=", Ok("tap=")),
            ("net:lab", Ok("net:lab")),
            ("net:", Err("a network: the name is empty")),
            (
                "net:../x",
                Err("a network: \"../x\" does not start with a letter or digit"),
            ),
            (
                "net:a,user",
                Err("a network: \"a,user\" has the character ','"),
            ),
            ("bridge", Err("there is no network \"bridge\"")),
            ("user,", Err("there is no network \"user,\"")),
            ("", Err("there is no network \"\"")),
        ]);
    }

    #[test]
    fn a_forward_is_understood_or_explained() {
        check::<Forward>(&[
            ("8080:80", Ok("8080:80")),
            ("127.0.0.1:8080:80", Ok("8080:80")),
            ("127.0.0.2:8080:80/tcp", Ok("127.0.0.2:8080:80")),
            ("0.0.0.0:53:5353/udp", Ok("0.0.0.0:53:5353/udp")),
            ("80", Err("\"80\" is not a forward")),
            ("", Err("\"\" is not a forward")),
            ("0:80", Err("\"0:80\": port 0 of the host is not a port")),
            ("80:0", Err("\"80:0\": port 0 of the guest is not a port")),
            ("70000:80", Err("\"70000:80\": \"70000\" is not a port")),
            ("x:80", Err("\"x:80\": \"x\" is not a port")),
            ("80:", Err("\"80:\": \"\" is not a port")),
            (
                "1.2.3:80:80",
                Err("\"1.2.3:80:80\": \"1.2.3\" is not an IPv4 address"),
            ),
            (
                "[::1]:80:80",
                Err("\"[::1]:80:80\": only IPv4 addresses can be forwarded from"),
            ),
            (
                "80:80/sctp",
                Err("\"80:80/sctp\": there is no protocol \"sctp\""),
            ),
            ("+1:+1", Err("\"+1:+1\": \"+1\" is not a port")),
        ]);
    }

    #[test]
    fn forwards_collide_on_a_port_of_one_address_and_protocol() {
        let check = |one: &str, other: &str, expected: bool| {
            let read = |text: &str| text.parse::<Forward>().unwrap();
            assert_eq!(read(one).collides(&read(other)), expected, "{one} {other}");
            assert_eq!(read(other).collides(&read(one)), expected, "{other} {one}");
        };
        check("80:80", "80:81", true);
        check("80:80", "0.0.0.0:80:81", true);
        check("80:80", "80:80/udp", false);
        check("80:80", "127.0.0.2:80:80", false);
        check("80:80", "81:80", false);
    }

    #[test]
    fn an_address_is_understood_or_explained() {
        check::<Mac>(&[
            ("52:00:00:12:34:56", Ok("52:00:00:12:34:56")),
            ("52:AB:cd:EF:00:01", Ok("52:ab:cd:ef:00:01")),
            (
                "52:00:00:12:34",
                Err("\"52:00:00:12:34\" is not a MAC address"),
            ),
            (
                "52:00:00:12:34:56:78",
                Err("\"52:00:00:12:34:56:78\" is not a MAC address"),
            ),
            (
                "52:0:0:12:34:56",
                Err("\"52:0:0:12:34:56\" is not a MAC address"),
            ),
            (
                "+2:00:00:12:34:56",
                Err("\"+2:00:00:12:34:56\" is not a MAC address"),
            ),
            ("", Err("\"\" is not a MAC address")),
            (
                "01:00:5e:00:00:01",
                Err("01:00:5e:00:00:01 is the address of a group: its first byte is odd"),
            ),
            ("00:00:00:00:00:00", Err("an address of zeros is nobody's")),
        ]);
        assert_eq!("52:00:00:12:34:56".parse::<Mac>().unwrap().bytes()[4], 0x34);
    }

    proptest! {
        #[test]
        fn networks_come_back(
            address in any::<u32>(),
            (port, guest_port) in (1..=u16::MAX, 1..=u16::MAX),
            is_udp in any::<bool>(),
            bytes in any::<[u8; 6]>(),
            name in "\\PC*",
        ) {
            come_back(&Forward {
                host: SocketAddrV4::new(address.into(), port),
                guest_port,
                transport: if is_udp { Transport::Udp } else { Transport::Tcp },
            });
            let [first, ..] = bytes;
            come_back(&Mac([first & !1 | 2, bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]]));
            come_back(&NetSpec::Tap(name));
            come_back(&NetSpec::User { reaches_host: is_udp });
            come_back(&NetSpec::Named(VmName::new(&format!("n{port}")).unwrap()));
        }
    }
}
