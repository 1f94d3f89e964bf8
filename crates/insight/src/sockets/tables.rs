//! The tables that sockets are in. Each is an array of lists; which array, how long, and linked by which member is what
//! kernels differ in.

use std::collections::HashSet;

use x86::Gva;

use super::MAX_SOCKETS;
use crate::blind::Blind;
use crate::look::Look;

/// Most network namespaces.
const MAX_NETS: usize = 1 << 14;
/// Most lists in one table.
const MAX_BUCKETS: u64 = 1 << 24;
/// Bytes of a table that are read at once.
const PIECE: u64 = 1 << 18;

/// An array of lists in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Table {
    /// Where it starts.
    pub start: Gva,
    /// How many lists.
    pub count: u64,
    /// Bytes from one list to the next.
    pub stride: u64,
    /// Where in those bytes the pointer to the first element is.
    pub head_offset: u64,
    /// Where in an element the link is, and what it points to: the next one's link.
    pub link_offset: u64,
}

/// A network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Net {
    /// Where its `struct net` is.
    pub at: Gva,
    /// Its number.
    pub inum: u32,
}

impl Look<'_> {
    /// Every network namespace.
    pub(super) fn net_namespaces(&self) -> Result<Vec<Net>, Blind> {
        let head = self.symbol("net_namespace_list")?;
        let mut nets = Vec::new();
        for at in self
            .steady_list(head, self.offset("net", "list")?)?
            .into_iter()
            .take(MAX_NETS)
        {
            match self.member("net", at, "ns.inum") {
                Ok(inum) => nets.push(Net {
                    at,
                    inum: inum as u32,
                }),
                Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
                Err(_) => self.space().torn(),
            }
        }
        Ok(nets)
    }

    /// The elements of every list of a table. The guest changes lists meanwhile: one that cannot be followed to its end
    /// is followed again, and then taken as far as it goes.
    pub(super) fn elements(&self, table: Table) -> Result<Vec<Gva>, Blind> {
        if table.count > MAX_BUCKETS || table.stride == 0 || table.stride > 1 << 12 {
            return Err(Blind::nonsense(
                "table of sockets is larger than any can be",
            ));
        }
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let at_once = (PIECE / table.stride).max(1);
        let mut first = 0;
        while first < table.count {
            let count = at_once.min(table.count - first);
            let start = Gva(table.start.0.wrapping_add(first * table.stride));
            let bytes = self.space().bytes(start, (count * table.stride) as usize)?;
            for bucket in bytes.chunks_exact(table.stride as usize) {
                let head = bucket.get(table.head_offset as usize..table.head_offset as usize + 8);
                let Some(head) = head
                    .and_then(|head| head.try_into().ok())
                    .map(u64::from_le_bytes)
                else {
                    return Err(Blind::nonsense("table of sockets has lists that overlap"));
                };
                self.chain(head, table.link_offset, &mut seen, &mut found)?;
            }
            first += count;
        }
        Ok(found)
    }

    /// One list. It ends with nothing or, where it is one of those that know their own end, with an odd number.
    fn chain(
        &self,
        first: u64,
        link_offset: u64,
        seen: &mut HashSet<u64>,
        found: &mut Vec<Gva>,
    ) -> Result<(), Blind> {
        let mut at = first;
        while at != 0 && at & 1 == 0 {
            if found.len() >= MAX_SOCKETS {
                return Err(Blind::nonsense("tables hold more sockets than are read"));
            }
            // What was moved to another list while it was read leads into that one: it will be, or was, read itself.
            if !seen.insert(at) {
                self.space().torn();
                return Ok(());
            }
            let next = match self.space().u64(Gva(at)) {
                Ok(next) => next,
                Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
                Err(_) => {
                    self.space().torn();
                    return Ok(());
                }
            };
            found.push(Gva(at.wrapping_sub(link_offset)));
            at = next;
        }
        Ok(())
    }
}
