//! Unix sockets.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x86::Gva;

use super::owners::Owners;
use super::tables::{Net, Table};
use super::{SocketState, UnixSocket};
use crate::blind::Blind;
use crate::look::Look;

/// Lists in the kernel's table (include/net/af_unix.h): 256 for bound sockets, 256 for others, in every kernel.
const BUCKETS: u64 = 512;
/// Longest name, a `sockaddr_un`.
const MAX_NAME: u64 = 110;
/// Bytes of the family before the name.
const FAMILY: u64 = 2;

/// The name of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnixAddress {
    /// A file, by the path it was made with.
    Path(String),
    /// A name that no file has.
    Abstract(String),
}

impl Look<'_> {
    /// Unix sockets: of every namespace since 6.0, of one table before.
    pub(super) fn unix(
        &self,
        nets: &[Net],
        owners: &Owners,
        to: &mut Vec<UnixSocket>,
    ) -> Result<(), Blind> {
        let starts = if self.layouts()?.has("net", "unx.table.buckets") {
            nets.iter()
                .map(|net| self.member("net", net.at, "unx.table.buckets").map(Gva))
                .collect::<Result<Vec<_>, _>>()?
        } else {
            vec![self.symbol("unix_socket_table")?]
        };
        let link_offset = self.offset("sock_common", "skc_node")?;
        for start in starts.into_iter().filter(|start| start.0 != 0) {
            let table = Table {
                start,
                count: BUCKETS,
                stride: 8,
                head_offset: 0,
                link_offset,
            };
            for at in self.elements(table)? {
                match self.unix_socket(at, nets, owners) {
                    Ok(socket) => to.push(socket),
                    Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
                    Err(Blind::NoType(what)) => return Err(Blind::NoType(what)),
                    Err(_) => self.space().torn(),
                }
            }
        }
        Ok(())
    }

    fn unix_socket(&self, at: Gva, nets: &[Net], owners: &Owners) -> Result<UnixSocket, Blind> {
        let sock = self.object("unix_sock", at)?;
        let net = sock.pointer("sk.__sk_common.skc_net.net")?;
        let Some(net) = nets.iter().find(|candidate| candidate.at == net) else {
            return Err(Blind::nonsense(format!(
                "socket at {at} is in no network namespace"
            )));
        };
        let kind = match sock.number("sk.sk_type")? {
            1 => "stream",
            2 => "datagram",
            5 => "seqpacket",
            number => {
                return Err(Blind::nonsense(format!(
                    "Unix socket has the impossible type {number}"
                )));
            }
        };
        let peer = sock.pointer("peer")?;
        let peer_inode = if peer.0 == 0 {
            None
        } else {
            let socket = self.member("sock", peer, "sk_socket")?;
            Some(self.socket_inode(Gva(socket))?).filter(|inode| *inode != 0)
        };
        Ok(UnixSocket {
            kind: kind.to_owned(),
            state: SocketState::new(sock.number("sk.__sk_common.skc_state")?)?,
            name: self.unix_name(sock.pointer("addr")?)?,
            inode: self.socket_inode(sock.pointer("sk.sk_socket")?)?,
            peer_inode,
            uid: sock.number("sk.sk_uid.val")? as u32,
            net_namespace: net.inum,
            owners: owners.of(at),
            address: at.0,
        })
    }

    fn unix_name(&self, address: Gva) -> Result<Option<UnixAddress>, Blind> {
        if address.0 == 0 {
            return Ok(None);
        }
        let len = self.member("unix_address", address, "len")?;
        if !(FAMILY..=MAX_NAME).contains(&len) {
            return Err(Blind::nonsense(format!(
                "Unix socket has a name of {len} bytes"
            )));
        }
        let name = self.offset("unix_address", "name")?.wrapping_add(FAMILY);
        let bytes = self
            .space()
            .bytes(Gva(address.0.wrapping_add(name)), (len - FAMILY) as usize)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Some(match bytes.split_first() {
            Some((0, name)) => UnixAddress::Abstract(text(name)),
            _ => UnixAddress::Path(text(
                bytes.split(|&byte| byte == 0).next().unwrap_or_default(),
            )),
        }))
    }
}
