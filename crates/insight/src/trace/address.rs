//! Addresses of sockets, as programs give them (`struct sockaddr` and its kin, include/uapi/linux/{in,in6,un,vm_sockets}.h).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a socket is bound to, or leads to.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
#[serde(tag = "family", rename_all = "kebab-case")]
pub enum SocketAddress {
    /// IPv4 or IPv6.
    Inet {
        /// The address.
        ip: std::net::IpAddr,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix {
        /// Its path; an abstract one's begins with `@`.
        path: String,
    },
    /// Between a guest and its host.
    Vsock {
        /// Whose.
        cid: u32,
        /// The port.
        port: u32,
    },
    /// Another family, by its number.
    Other {
        /// `AF_…` (include/linux/socket.h).
        number: u16,
    },
}

impl SocketAddress {
    /// From the bytes that a program gave; `None` if there are too few for its family.
    pub(super) fn parse(bytes: &[u8]) -> Option<SocketAddress> {
        let half = |at: usize| Some([*bytes.get(at)?, *bytes.get(at + 1)?]);
        let word = |at: usize| -> Option<[u8; 4]> { bytes.get(at..at + 4)?.try_into().ok() };
        Some(match u16::from_le_bytes(half(0)?) {
            1 => SocketAddress::Unix {
                path: unix(&bytes[2..]),
            },
            2 => SocketAddress::Inet {
                ip: Ipv4Addr::from(word(4)?).into(),
                port: u16::from_be_bytes(half(2)?),
            },
            10 => {
                let ip: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
                SocketAddress::v6(ip, u16::from_be_bytes(half(2)?))
            }
            40 => SocketAddress::Vsock {
                port: u32::from_le_bytes(word(4)?),
                cid: u32::from_le_bytes(word(8)?),
            },
            number => SocketAddress::Other { number },
        })
    }

    /// An IPv6 address; one that only carries an IPv4 address is that.
    pub(super) fn v6(ip: [u8; 16], port: u16) -> SocketAddress {
        SocketAddress::Inet {
            ip: Ipv6Addr::from(ip).to_canonical(),
            port,
        }
    }
}

fn unix(path: &[u8]) -> String {
    match path {
        [0, name @ ..] => {
            let end = name
                .iter()
                .rposition(|&byte| byte != 0)
                .map_or(0, |at| at + 1);
            format!("@{}", String::from_utf8_lossy(&name[..end]))
        }
        path => super::recipe::text(path),
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketAddress::Inet { ip, port } => std::net::SocketAddr::new(*ip, *port).fmt(f),
            SocketAddress::Unix { path } if path.is_empty() => write!(f, "unix"),
            SocketAddress::Unix { path } => write!(f, "unix {path}"),
            SocketAddress::Vsock { cid, port } => write!(f, "vsock {cid}:{port}"),
            SocketAddress::Other { number } => write!(f, "family {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_programs_write_them() {
        let check = |bytes: &[u8], expected: Option<&str>| {
            let found = SocketAddress::parse(bytes).map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{bytes:?}");
        };
        check(&[2, 0, 0, 80, 10, 0, 2, 2], Some("10.0.2.2:80"));
        check(&[2, 0, 0, 80, 10, 0], None);
        let v6 = [
            &[10, 0, 0x1f, 0x90, 0, 0, 0, 0][..],
            &Ipv6Addr::LOCALHOST.octets(),
        ]
        .concat();
        check(&v6, Some("[::1]:8080"));
        let mapped = Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped();
        let mapped = [&[10, 0, 0, 53, 0, 0, 0, 0][..], &mapped.octets()].concat();
        check(&mapped, Some("192.0.2.7:53"));
        check(b"\x01\0/run/x.sock\0rest", Some("unix /run/x.sock"));
        check(b"\x01\0\0name\0\0", Some("unix @name"));
        check(b"\x01\0", Some("unix"));
        check(b"\x28\0\0\0\x0a\0\0\0\x02\0\0\0", Some("vsock 2:10"));
        check(b"\x10\0\0\0", Some("family 16"));
        check(b"\x10", None);
        check(b"", None);
    }
}
