//! The buffers of a descriptor chain as a list, for devices that see a request as a run of bytes.
//!
//! Addresses and lengths are the driver's allegations: they are bounded by what the device wants, and guest memory
//! checks each access.

use mem::VmMemory;
use vm_memory::{Bytes, GuestAddress};

use crate::virtio::Chain;

/// Which half of a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Half {
    /// What the driver wrote for the device.
    Readable,
    /// What the device is to fill.
    Writable,
}

/// Buffers in guest memory, one behind the other. Kept between requests for its allocation.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    list: Vec<(GuestAddress, usize)>,
    len_bytes: usize,
}

impl Segments {
    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.list.clear();
        self.len_bytes = 0;
    }

    /// Bytes in all buffers.
    pub(crate) fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Adds one half of `chain`. A chain has at most as many buffers as its table has entries, and they are taken
    /// only until `enough_bytes` are there.
    pub(crate) fn add(&mut self, chain: Chain<'_>, half: Half, enough_bytes: usize) {
        for descriptor in chain {
            if self.len_bytes >= enough_bytes {
                return;
            }
            if descriptor.is_write_only() == (half == Half::Writable) {
                self.list
                    .push((descriptor.addr(), descriptor.len() as usize));
                self.len_bytes = self.len_bytes.saturating_add(descriptor.len() as usize);
            }
        }
    }

    /// Copies out from `offset`; `None` if there are not that many bytes, or they are not in guest memory.
    pub(crate) fn read(&self, memory: &VmMemory, offset: usize, bytes: &mut [u8]) -> Option<()> {
        let mut done = 0;
        self.each(offset, bytes.len(), |at, len| {
            memory.read_slice(&mut bytes[done..done + len], at).ok()?;
            done += len;
            Some(())
        })
    }

    /// Copies in from `offset`; as [`Segments::read`].
    pub(crate) fn write(&self, memory: &VmMemory, offset: usize, bytes: &[u8]) -> Option<()> {
        let mut done = 0;
        self.each(offset, bytes.len(), |at, len| {
            memory.write_slice(&bytes[done..done + len], at).ok()?;
            done += len;
            Some(())
        })
    }

    /// Every piece of the range, in order.
    fn each(
        &self,
        mut offset: usize,
        mut len_bytes: usize,
        mut copy: impl FnMut(GuestAddress, usize) -> Option<()>,
    ) -> Option<()> {
        for (address, len) in &self.list {
            if len_bytes == 0 {
                break;
            }
            if offset >= *len {
                offset -= len;
                continue;
            }
            let piece = len_bytes.min(len - offset);
            copy(GuestAddress(address.0.checked_add(offset as u64)?), piece)?;
            len_bytes -= piece;
            offset = 0;
        }
        (len_bytes == 0).then_some(())
    }
}
