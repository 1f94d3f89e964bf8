//! Memory as the interpreter and exception delivery reach it: page walks with accessed and dirty bits, TLB fills,
//! loads and stores that may cross pages or hit devices.

use mem::Hva;
use vcpu::Exit;
use x86::paging::{self, Access, Walk};
use x86::{Exception, Gpa, Gva, PAGE_SIZE};

use crate::cpu::{GP0, SoftVcpu, Step};

/// How often a walk is repeated because another vCPU changed an entry meanwhile. Each time somebody else got on.
const WALK_ATTEMPTS: usize = 1000;

impl SoftVcpu {
    /// Walks the guest's page tables, checks the access, sets accessed and dirty bits.
    pub(crate) fn walk(&mut self, gva: Gva, access: Access) -> Result<Walk, Exception> {
        let fault = |code| Exception::PageFault {
            address: gva.0,
            code,
        };
        let paging = self.paging();
        for _ in 0..WALK_ATTEMPTS {
            let memory = &self.memory;
            let read = |gpa, size| memory.read_value(gpa, size).unwrap_or(u64::MAX);
            let walk = paging::walk(&paging, gva, access, read).map_err(fault)?;
            paging.check(&walk, access).map_err(fault)?;
            if self.mark_used(&walk, access.write) {
                return Ok(walk);
            }
        }
        // Entries that never hold still: the access is tried again by the guest.
        Err(fault(x86::PageFaultCode::empty()))
    }

    /// Sets accessed bits, and the leaf's dirty bit for a write. False if an entry changed since it was read.
    fn mark_used(&mut self, walk: &Walk, write: bool) -> bool {
        let is_pae = walk.depth == 3;
        for (depth, entry) in walk.entries[..walk.depth].iter().enumerate() {
            let is_leaf = depth + 1 == walk.depth;
            let mut wanted = if is_pae && depth == 0 { 0 } else { paging::A };
            if is_leaf && write {
                wanted |= paging::D;
            }
            let new = entry.value | wanted;
            if new != entry.value {
                let done = self.store_slowly(|memory| {
                    memory.compare_exchange(entry.gpa, walk.entry_size, entry.value, new)
                });
                if matches!(done, Ok(false)) {
                    return false;
                }
                self.stored(entry.gpa, u64::from(walk.entry_size));
            }
        }
        true
    }

    /// Physical address of a linear one for this access; also fills the TLB where it may.
    pub(crate) fn translate(&mut self, gva: Gva, access: Access) -> Result<Gpa, Exception> {
        if self.is_64_bit_address(gva) {
            return Err(GP0);
        }
        let is_default = access == self.access(access.write);
        if is_default {
            let tlbs = self.tlbs();
            let tlb = if access.write {
                &tlbs.write
            } else {
                &tlbs.read
            };
            if let Some(host) = tlb.lookup(gva)
                && let Some(gpa) = self.memory.gpa(Hva(host))
            {
                return Ok(Gpa(gpa.0 | gva.page_offset()));
            }
        }
        let walk = self.walk(gva, access)?;
        if is_default {
            self.fill_tlb(gva, &walk, access.write);
        }
        Ok(walk.gpa)
    }

    /// Not canonical, where that matters.
    fn is_64_bit_address(&self, gva: Gva) -> bool {
        self.is_long_mode() && !gva.is_canonical()
    }

    /// Enters a translation into the current TLBs. Returns false if the page must be reached the slow way: it is
    /// not memory, it is watched by a data breakpoint, or it is to be written and holds translated code.
    pub(crate) fn fill_tlb(&mut self, gva: Gva, walk: &Walk, write: bool) -> bool {
        let page = Gpa(walk.gpa.0 & !(PAGE_SIZE - 1));
        let Some((Hva(host), _)) = self.memory.hva(page) else {
            return false;
        };
        if self.is_watched(gva) {
            return false;
        }
        let may_write = write && self.memory.notes().add_writer(page.gfn(), self.index);
        let tlbs = self.tlbs();
        tlbs.read.fill(gva, host, walk.page_size, walk.global);
        if may_write {
            tlbs.write.fill(gva, host, walk.page_size, walk.global);
        }
        may_write || !write
    }

    /// A data breakpoint lies on this page.
    fn is_watched(&self, gva: Gva) -> bool {
        let dr7 = self.debug.dr7;
        dr7 & 0xff != 0
            && (0..4).any(|n| {
                let enabled = dr7 >> (2 * n) & 3 != 0;
                let kind = dr7 >> (16 + 4 * n) & 3;
                enabled && kind & 1 != 0 && Gva(self.debug.address[n]).page() == gva.page()
            })
    }

    /// Notes data breakpoints that an access hits.
    pub(crate) fn note_data_access(&mut self, gva: u64, size: u64, write: bool) {
        let dr7 = self.debug.dr7;
        if dr7 & 0xff == 0 {
            return;
        }
        for n in 0..4 {
            let kind = dr7 >> (16 + 4 * n) & 3;
            let matches_kind = kind == 3 || kind == 1 && write;
            let len = [1, 2, 8, 4][(dr7 >> (18 + 4 * n) & 3) as usize];
            let start = self.debug.address[n] & !(len - 1);
            let overlaps = gva < start.wrapping_add(len) && start < gva.wrapping_add(size);
            if dr7 >> (2 * n) & 3 != 0 && matches_kind && overlaps {
                self.pending.breakpoints |= 1 << n;
            }
        }
    }

    /// Bytes of `len` from `gva` on that lie in its page.
    pub(crate) fn in_page(gva: u64, len: usize) -> usize {
        len.min((PAGE_SIZE - gva % PAGE_SIZE) as usize)
    }

    /// Physical addresses of an access: one piece, or two if it crosses a page.
    pub(crate) fn pieces(
        &mut self,
        gva: u64,
        len: usize,
        access: Access,
    ) -> Step<[(Gpa, usize); 2]> {
        let first = SoftVcpu::in_page(gva, len);
        let head = self.translate(Gva(gva), access)?;
        let mut pieces = [(head, first), (Gpa(0), 0)];
        if first < len {
            let mut next = gva.wrapping_add(first as u64);
            if !self.is_long_mode() {
                next &= 0xffff_ffff;
            }
            pieces[1] = (self.translate(Gva(next), access)?, len - first);
        }
        Ok(pieces)
    }

    /// Copies from guest memory at a linear address.
    pub(crate) fn read_bytes(&mut self, gva: u64, bytes: &mut [u8], access: Access) -> Step {
        self.note_data_access(gva, bytes.len() as u64, false);
        let pieces = self.pieces(gva, bytes.len(), access)?;
        let mut at = 0;
        for (gpa, len) in pieces {
            self.read_physical(gpa, &mut bytes[at..at + len])?;
            at += len;
        }
        Ok(())
    }

    /// Copies to guest memory at a linear address. Nothing is written if any byte cannot be.
    pub(crate) fn write_bytes(&mut self, gva: u64, bytes: &[u8], access: Access) -> Step {
        self.note_data_access(gva, bytes.len() as u64, true);
        let pieces = self.pieces(gva, bytes.len(), access)?;
        let mut at = 0;
        for (gpa, len) in pieces {
            self.write_physical(gpa, &bytes[at..at + len]);
            at += len;
        }
        Ok(())
    }

    /// Reads memory or asks a device, in pieces of at most 8 bytes.
    pub(crate) fn read_physical(&mut self, gpa: Gpa, bytes: &mut [u8]) -> Step {
        if bytes.is_empty() || self.memory.read(gpa, bytes).is_ok() {
            return Ok(());
        }
        let mut gpa = gpa;
        for chunk in bytes.chunks_mut(8) {
            let value = self.ask(Exit::MmioRead {
                gpa,
                size: chunk.len() as u8,
            })?;
            chunk.copy_from_slice(&value.to_le_bytes()[..chunk.len()]);
            gpa = Gpa(gpa.0 + chunk.len() as u64);
        }
        Ok(())
    }

    /// Writes memory, dropping translations made of it, or posts the write to a device.
    pub(crate) fn write_physical(&mut self, gpa: Gpa, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self
            .store_slowly(|memory| memory.write_by_vcpu(gpa, bytes))
            .is_ok()
        {
            return self.stored(gpa, bytes.len() as u64);
        }
        let mut gpa = gpa;
        for chunk in bytes.chunks(8) {
            let mut value = [0; 8];
            value[..chunk.len()].copy_from_slice(chunk);
            let value = u64::from_le_bytes(value);
            self.posted.push(Exit::MmioWrite {
                gpa,
                size: chunk.len() as u8,
                value,
            });
            gpa = Gpa(gpa.0 + chunk.len() as u64);
        }
    }

    /// Drops translations of what has just been stored to.
    pub(crate) fn stored(&mut self, gpa: Gpa, len_bytes: u64) {
        if self.memory.notes().is_code(gpa.gfn()) {
            self.soft.invalidate(gpa, len_bytes);
        }
    }

    /// Reads a value of 1, 2, 4 or 8 bytes at a linear address.
    pub(crate) fn read_linear(&mut self, gva: u64, size: u8, access: Access) -> Step<u64> {
        let mut bytes = [0; 8];
        self.read_bytes(gva, &mut bytes[..usize::from(size)], access)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes a value of 1, 2, 4 or 8 bytes at a linear address.
    pub(crate) fn write_linear(&mut self, gva: u64, size: u8, value: u64, access: Access) -> Step {
        self.write_bytes(gva, &value.to_le_bytes()[..usize::from(size)], access)
    }

    /// Supervisor access as the CPU itself makes it to descriptor tables and TSS: never overrides SMAP.
    pub(crate) fn system_access(write: bool) -> Access {
        Access {
            write,
            fetch: false,
            user: false,
            smap_override: false,
        }
    }
}
