//! TCP and UDP.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use x86::Gva;

use super::owners::Owners;
use super::tables::{Net, Table};
use super::{InetSocket, Protocol, SocketState};
use crate::blind::Blind;
use crate::look::{Look, Object};

/// Families of addresses.
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;

impl Look<'_> {
    /// TCP sockets: those with a peer, and those that listen.
    pub(super) fn tcp(
        &self,
        nets: &[Net],
        owners: &Owners,
        to: &mut Vec<InetSocket>,
    ) -> Result<(), Blind> {
        let mut tables = HashSet::new();
        for hash in self.tcp_hashes(nets)? {
            let info = self.object("inet_hashinfo", hash)?;
            tables.insert(Table {
                start: info.pointer("ehash")?,
                count: info.number("ehash_mask")?.saturating_add(1),
                stride: self.layouts()?.size("inet_ehash_bucket")? as u64,
                head_offset: self.offset("inet_ehash_bucket", "chain")?,
                link_offset: self.offset("sock_common", "skc_nulls_node")?,
            });
            let (head, link) = if self
                .layouts()?
                .has("inet_connection_sock", "icsk_listen_portaddr_node")
            {
                (
                    "head",
                    self.offset("inet_connection_sock", "icsk_listen_portaddr_node")?,
                )
            } else {
                ("nulls_head", self.offset("sock_common", "skc_nulls_node")?)
            };
            tables.insert(Table {
                start: info.pointer("lhash2")?,
                count: info.number("lhash2_mask")?.saturating_add(1),
                stride: self.layouts()?.size("inet_listen_hashbucket")? as u64,
                head_offset: self.offset("inet_listen_hashbucket", head)?,
                link_offset: link,
            });
        }
        self.read_inet(Protocol::Tcp, tables, nets, owners, to)
    }

    /// The kernel's tables for TCP: one for all, and since 6.1 a namespace may have its own.
    fn tcp_hashes(&self, nets: &[Net]) -> Result<HashSet<Gva>, Blind> {
        let mut hashes: HashSet<Gva> = self.symbol("tcp_hashinfo").into_iter().collect();
        let row = self.place("net", "ipv4.tcp_death_row")?;
        for net in nets {
            let row = Gva(net.at.0.wrapping_add(row.offset as u64));
            let is_pointer = !self.layouts()?.has("net", "ipv4.tcp_death_row.hashinfo");
            let row = if is_pointer {
                Gva(self.space().u64(row)?)
            } else {
                row
            };
            let hash = self.member("inet_timewait_death_row", row, "hashinfo")?;
            if hash != 0 {
                hashes.insert(Gva(hash));
            }
        }
        Ok(hashes)
    }

    /// UDP sockets.
    pub(super) fn udp(
        &self,
        nets: &[Net],
        owners: &Owners,
        to: &mut Vec<InetSocket>,
    ) -> Result<(), Blind> {
        let mut starts: HashSet<Gva> = self.symbol("udp_table").into_iter().collect();
        if self.layouts()?.has("net", "ipv4.udp_table") {
            for net in nets {
                let table = self.member("net", net.at, "ipv4.udp_table")?;
                if table != 0 {
                    starts.insert(Gva(table));
                }
            }
        }
        if starts.is_empty() {
            return Err(Blind::NoSymbol("udp_table".to_owned()));
        }
        let mut tables = HashSet::new();
        for start in starts {
            let table = self.object("udp_table", start)?;
            tables.insert(Table {
                start: table.pointer("hash")?,
                count: table.number("mask")?.saturating_add(1),
                stride: self.layouts()?.size("udp_hslot")? as u64,
                head_offset: self.offset("udp_hslot", "head")?,
                link_offset: self.offset("sock_common", "skc_node")?,
            });
        }
        self.read_inet(Protocol::Udp, tables, nets, owners, to)
    }

    fn read_inet(
        &self,
        protocol: Protocol,
        tables: HashSet<Table>,
        nets: &[Net],
        owners: &Owners,
        to: &mut Vec<InetSocket>,
    ) -> Result<(), Blind> {
        for table in tables {
            for at in self.elements(table)? {
                match self.inet_socket(protocol, at, nets, owners) {
                    Ok(socket) => to.extend(socket),
                    Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
                    Err(Blind::NoType(what)) => return Err(Blind::NoType(what)),
                    // Gone, or made something else of, while it was read.
                    Err(_) => self.space().torn(),
                }
            }
        }
        Ok(())
    }

    /// One socket; `None` if it is of another family.
    fn inet_socket(
        &self,
        protocol: Protocol,
        at: Gva,
        nets: &[Net],
        owners: &Owners,
    ) -> Result<Option<InetSocket>, Blind> {
        let common = self.object("sock_common", at)?;
        let family = common.number("skc_family")?;
        if family != AF_INET && family != AF_INET6 {
            return Ok(None);
        }
        let net = common.pointer("skc_net.net")?;
        let Some(net) = nets.iter().find(|candidate| candidate.at == net) else {
            return Err(Blind::nonsense(format!(
                "socket at {at} is in no network namespace"
            )));
        };
        let number = common.number("skc_state")?;
        let state = SocketState::new(number)?;
        // Half-open connections and those that wait are shorter structures: nothing behind the common part is theirs.
        let is_whole = number != 12 && state != SocketState::TimeWait;
        let (uid, inode) = if is_whole {
            let sock = self.object("sock", at)?;
            (
                Some(sock.number("sk_uid.val")? as u32),
                self.socket_inode(sock.pointer("sk_socket")?)?,
            )
        } else {
            (None, 0)
        };
        Ok(Some(InetSocket {
            protocol,
            state,
            local: address(
                &common,
                family,
                "skc_rcv_saddr",
                "skc_v6_rcv_saddr",
                port(&common, "skc_num")?,
            )?,
            remote: address(
                &common,
                family,
                "skc_daddr",
                "skc_v6_daddr",
                port(&common, "skc_dport")?.swap_bytes(),
            )?,
            inode,
            uid,
            net_namespace: net.inum,
            owners: owners.of(at),
            address: at.0,
        }))
    }

    /// The number of a socket's inode; 0 for none.
    pub(super) fn socket_inode(&self, socket: Gva) -> Result<u64, Blind> {
        if socket.0 == 0 {
            return Ok(0);
        }
        let inode = self.offset("socket_alloc", "vfs_inode")?;
        self.member("inode", Gva(socket.0.wrapping_add(inode)), "i_ino")
    }
}

fn port(common: &Object<'_>, path: &str) -> Result<u16, Blind> {
    Ok(common.number(path)? as u16)
}

fn address(
    common: &Object<'_>,
    family: u64,
    v4: &str,
    v6: &str,
    port: u16,
) -> Result<SocketAddr, Blind> {
    let ip = if family == AF_INET6 {
        let bytes: [u8; 16] = common
            .bytes(v6)?
            .try_into()
            .map_err(|_| Blind::nonsense("type information gives IPv6 addresses another size"))?;
        IpAddr::V6(Ipv6Addr::from(bytes))
    } else {
        // In the network's order, in memory.
        IpAddr::V4(Ipv4Addr::from((common.number(v4)? as u32).to_le_bytes()))
    };
    Ok(SocketAddr::new(ip, port))
}
