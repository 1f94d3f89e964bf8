//! Banks: the software TLB and the jump cache, one set for each address space and privilege.
//!
//! Translated code looks addresses up in the *current* bank through three pointers in the vCPU block, so switching
//! address space or privilege is three stores, not a flush. Each process-context identifier (PCID) has a [`Space`];
//! a space has one [`Bank`] for each [`BankKey`] (user, supervisor, supervisor that may touch user pages, and the code
//! mode). Without PCIDs every CR3 load flushes space 0, as the architecture demands.
//!
//! A bank holds what the guest's page tables said when they were walked. The guest says when it changed them
//! (INVLPG, INVPCID, MOV CR3, MOV CR4), and until then a real TLB may be stale too.
//!
//! The entry for page `p` lies at index `p mod` [`TLB_ENTRIES`]. An empty entry holds a tag with other index bits, which no
//! address that hashes there can match, so the check of translated code needs no valid bit: `address ^ tag` is the
//! offset in the page on a hit and more than a page otherwise; comparing it with `4096 - size` also catches
//! accesses that cross into the next page.

use x86::{Gva, PAGE_SIZE};

use crate::code_cache::HostPc;

/// Entries of each TLB.
pub(crate) const TLB_ENTRIES: usize = 8192;
/// Entries of the jump cache.
pub(crate) const JUMP_ENTRIES: usize = 32768;
/// Size of the filter that tells which pages may have jump-cache entries.
const CODE_PAGE_BITS: usize = 16384;
/// Address spaces kept at once.
const SPACES: usize = 10;

/// One TLB entry: 16 bytes, read by translated code.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct TlbEntry {
    /// Guest virtual address of the page.
    pub(crate) tag: u64,
    /// Host virtual address of the page.
    pub(crate) host: u64,
}

/// One jump-cache entry: where the translation of `pc` starts.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct JumpEntry {
    pub(crate) pc: u64,
    pub(crate) host: HostPc,
}

/// Position of a page in a TLB.
pub(crate) fn tlb_index(gva: u64) -> usize {
    (gva / PAGE_SIZE) as usize % TLB_ENTRIES
}

/// Position of a program counter in the jump cache. Translated code computes the same.
pub(crate) fn jump_index(pc: u64) -> usize {
    (pc ^ pc >> 11) as usize % JUMP_ENTRIES
}

/// A TLB for reads or for writes.
pub(crate) struct Tlb {
    entries: Box<[TlbEntry]>,
    /// Indexes that may be filled.
    filled: Vec<u16>,
    /// Entries that survive an address-space switch.
    global: IndexSet,
}

/// A set of table positions.
struct IndexSet([u64; JUMP_ENTRIES / 64]);

impl IndexSet {
    fn set(&mut self, index: usize, member: bool) {
        let bit = 1 << (index % 64);
        if member {
            self.0[index / 64] |= bit;
        } else {
            self.0[index / 64] &= !bit;
        }
    }

    fn has(&self, index: usize) -> bool {
        self.0[index / 64] & 1 << (index % 64) != 0
    }
}

impl Tlb {
    fn new() -> Tlb {
        let entries = (0..TLB_ENTRIES).map(Tlb::empty).collect();
        Tlb {
            entries,
            filled: Vec::with_capacity(TLB_ENTRIES),
            global: IndexSet([0; JUMP_ENTRIES / 64]),
        }
    }

    fn empty(index: usize) -> TlbEntry {
        TlbEntry {
            tag: (index as u64 ^ 1) * PAGE_SIZE,
            host: 0,
        }
    }

    pub(crate) fn address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }

    /// Maps the page of `gva` to the host page at `host`.
    pub(crate) fn fill(&mut self, gva: Gva, host: u64, global: bool) {
        let index = tlb_index(gva.0);
        if self.entries[index].host == 0 {
            self.filled.push(index as u16);
        }
        self.entries[index] = TlbEntry {
            tag: gva.page().0,
            host,
        };
        self.global.set(index, global);
    }

    /// Host page of `gva`, if it is here.
    pub(crate) fn lookup(&self, gva: Gva) -> Option<u64> {
        let entry = self.entries[tlb_index(gva.0)];
        (entry.host != 0 && entry.tag == gva.page().0).then_some(entry.host)
    }

    /// Tag of the entry at host address `entry`, as translated code computed it.
    pub(crate) fn tag_at(&self, entry: u64) -> u64 {
        let index = entry.wrapping_sub(self.address()) as usize / size_of::<TlbEntry>();
        self.entries.get(index).map_or(0, |entry| entry.tag)
    }

    fn clear(&mut self) {
        for index in self.filled.drain(..) {
            self.entries[usize::from(index)] = Tlb::empty(usize::from(index));
        }
    }

    fn clear_local(&mut self) {
        let (entries, global) = (&mut self.entries, &self.global);
        self.filled.retain(|&index| {
            let index = usize::from(index);
            if !global.has(index) {
                entries[index] = Tlb::empty(index);
            }
            global.has(index)
        });
    }

    fn clear_page(&mut self, gva: Gva) {
        let index = tlb_index(gva.0);
        if self.entries[index].tag == gva.page().0 {
            // `host` stays non-zero so that the index is not listed twice.
            self.entries[index].tag = Tlb::empty(index).tag;
        }
    }

    fn clear_host_page(&mut self, host: u64) {
        for &index in &self.filled {
            let entry = &mut self.entries[usize::from(index)];
            if entry.host == host {
                entry.tag = Tlb::empty(usize::from(index)).tag;
            }
        }
    }
}

/// TLBs and jump cache of one address space at one privilege.
pub(crate) struct Bank {
    pub(crate) read: Tlb,
    pub(crate) write: Tlb,
    jumps: Box<[JumpEntry]>,
    jumps_filled: Vec<u16>,
    jumps_global: IndexSet,
    /// Pages that may have jump-cache entries, hashed: most invalidated pages hold no code.
    code_pages: Box<[u64; CODE_PAGE_BITS / 64]>,
    /// What an empty jump-cache entry leads to, so that even a false match is harmless.
    lookup_stub: HostPc,
}

impl Bank {
    fn new(lookup_stub: HostPc) -> Bank {
        let empty = JumpEntry {
            pc: u64::MAX,
            host: lookup_stub,
        };
        Bank {
            read: Tlb::new(),
            write: Tlb::new(),
            jumps: vec![empty; JUMP_ENTRIES].into_boxed_slice(),
            jumps_filled: Vec::with_capacity(JUMP_ENTRIES),
            jumps_global: IndexSet([0; JUMP_ENTRIES / 64]),
            code_pages: Box::new([0; CODE_PAGE_BITS / 64]),
            lookup_stub,
        }
    }

    pub(crate) fn jumps_address(&self) -> u64 {
        self.jumps.as_ptr() as u64
    }

    fn page_bit(pc: u64) -> (usize, u64) {
        let hash = (pc >> 12 ^ pc >> 26 ^ pc >> 63) as usize % CODE_PAGE_BITS;
        (hash / 64, 1 << (hash % 64))
    }

    pub(crate) fn add_jump(&mut self, pc: u64, host: HostPc, global: bool) {
        let index = jump_index(pc);
        if self.jumps[index].host == self.lookup_stub {
            self.jumps_filled.push(index as u16);
        }
        self.jumps[index] = JumpEntry { pc, host };
        self.jumps_global.set(index, global);
        let (word, bit) = Bank::page_bit(pc);
        self.code_pages[word] |= bit;
    }

    pub(crate) fn jump(&self, pc: u64) -> Option<HostPc> {
        let entry = self.jumps[jump_index(pc)];
        (entry.pc == pc && entry.host != self.lookup_stub).then_some(entry.host)
    }

    fn clear_jumps(&mut self) {
        let empty = JumpEntry {
            pc: u64::MAX,
            host: self.lookup_stub,
        };
        for index in self.jumps_filled.drain(..) {
            self.jumps[usize::from(index)] = empty;
        }
        self.code_pages.fill(0);
    }

    fn clear_local(&mut self) {
        self.read.clear_local();
        self.write.clear_local();
        let empty = JumpEntry {
            pc: u64::MAX,
            host: self.lookup_stub,
        };
        let (jumps, global) = (&mut self.jumps, &self.jumps_global);
        self.jumps_filled.retain(|&index| {
            let index = usize::from(index);
            if !global.has(index) {
                jumps[index] = empty;
            }
            global.has(index)
        });
    }

    fn clear(&mut self) {
        self.read.clear();
        self.write.clear();
        self.clear_jumps();
    }

    fn clear_page(&mut self, gva: Gva) {
        self.read.clear_page(gva);
        self.write.clear_page(gva);
        // A block may start on the page before and straddle into this one.
        let before = gva.0.wrapping_sub(PAGE_SIZE);
        let has_code = |pc| {
            let (word, bit) = Bank::page_bit(pc);
            self.code_pages[word] & bit != 0
        };
        if has_code(gva.0) || has_code(before) {
            self.clear_jumps_of(gva.page().0);
        }
    }

    /// Forgets jumps into a page and into the one before it.
    fn clear_jumps_of(&mut self, page: u64) {
        let empty = JumpEntry {
            pc: u64::MAX,
            host: self.lookup_stub,
        };
        let jumps = &mut self.jumps;
        self.jumps_filled.retain(|&index| {
            let entry = &mut jumps[usize::from(index)];
            let is_near = page.wrapping_sub(entry.pc & !(PAGE_SIZE - 1)) <= PAGE_SIZE;
            if is_near {
                *entry = empty;
            }
            !is_near
        });
    }
}

/// What selects a bank inside an address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BankKey {
    /// CPL 3.
    pub(crate) user: bool,
    /// Supervisor with RFLAGS.AC set under SMAP.
    pub(crate) smap_override: bool,
    /// Code mode bits, so that the jump cache never mixes modes.
    pub(crate) mode: u16,
}

struct Space {
    pcid: u16,
    last_use: u64,
    banks: Vec<(BankKey, Box<Bank>)>,
}

/// Every bank of one vCPU.
pub(crate) struct Banks {
    spaces: Vec<Space>,
    current_space: usize,
    current_bank: usize,
    uses: u64,
    lookup_stub: HostPc,
    /// How often something was flushed.
    pub(crate) flushes: u64,
}

impl Banks {
    pub(crate) fn new(lookup_stub: HostPc) -> Banks {
        let mut banks = Banks {
            spaces: Vec::new(),
            current_space: 0,
            current_bank: 0,
            uses: 0,
            lookup_stub,
            flushes: 0,
        };
        banks.select(
            0,
            BankKey {
                user: false,
                smap_override: false,
                mode: 0,
            },
        );
        banks
    }

    /// Makes the bank of `pcid` and `key` current, empty if it is new.
    pub(crate) fn select(&mut self, pcid: u16, key: BankKey) {
        self.uses += 1;
        self.current_space = match self.spaces.iter().position(|space| space.pcid == pcid) {
            Some(index) => index,
            None => self.add_space(pcid),
        };
        let lookup_stub = self.lookup_stub;
        let space = &mut self.spaces[self.current_space];
        space.last_use = self.uses;
        self.current_bank = match space.banks.iter().position(|(known, _)| *known == key) {
            Some(index) => index,
            None => {
                space.banks.push((key, Box::new(Bank::new(lookup_stub))));
                space.banks.len() - 1
            }
        };
    }

    fn add_space(&mut self, pcid: u16) -> usize {
        let space = Space {
            pcid,
            last_use: 0,
            banks: Vec::new(),
        };
        if self.spaces.len() < SPACES {
            self.spaces.push(space);
            return self.spaces.len() - 1;
        }
        let oldest = (0..SPACES)
            .min_by_key(|&index| self.spaces[index].last_use)
            .unwrap_or(0);
        self.spaces[oldest].pcid = pcid;
        self.clear_space(oldest);
        oldest
    }

    pub(crate) fn current(&mut self) -> &mut Bank {
        &mut self.spaces[self.current_space].banks[self.current_bank].1
    }

    /// Forgets the translations of one PCID but those of global pages.
    pub(crate) fn flush_local(&mut self, pcid: u16) {
        if let Some(index) = self.spaces.iter().position(|space| space.pcid == pcid) {
            self.flushes += 1;
            for (_, bank) in &mut self.spaces[index].banks {
                bank.clear_local();
            }
        }
    }

    /// Forgets everything but global pages.
    pub(crate) fn flush_all_local(&mut self) {
        self.flushes += 1;
        for (_, bank) in self.spaces.iter_mut().flat_map(|space| &mut space.banks) {
            bank.clear_local();
        }
    }

    fn clear_space(&mut self, index: usize) {
        self.flushes += 1;
        for (_, bank) in &mut self.spaces[index].banks {
            bank.clear();
        }
    }

    /// Forgets everything.
    pub(crate) fn flush_all(&mut self) {
        for index in 0..self.spaces.len() {
            self.clear_space(index);
        }
    }

    /// Forgets one page in every address space (a global page may be in all of them).
    pub(crate) fn flush_page(&mut self, gva: Gva) {
        for space in &mut self.spaces {
            for (_, bank) in &mut space.banks {
                bank.clear_page(gva);
            }
        }
    }

    /// Forgets every jump-cache entry: the code cache was cleared.
    pub(crate) fn forget_code(&mut self) {
        for space in &mut self.spaces {
            for (_, bank) in &mut space.banks {
                bank.clear_jumps();
            }
        }
    }

    /// Takes write access to a host page away: it holds translated code now.
    pub(crate) fn protect_host_page(&mut self, host: u64) {
        for space in &mut self.spaces {
            for (_, bank) in &mut space.banks {
                bank.write.clear_host_page(host);
            }
        }
    }

    /// Bytes in all banks.
    pub(crate) fn len_bytes(&self) -> usize {
        let bank = 2 * TLB_ENTRIES * size_of::<TlbEntry>() + JUMP_ENTRIES * size_of::<JumpEntry>();
        self.spaces
            .iter()
            .map(|space| space.banks.len() * bank)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banks() -> Banks {
        Banks::new(1)
    }

    const KERNEL: BankKey = BankKey {
        user: false,
        smap_override: false,
        mode: 0,
    };
    const USER: BankKey = BankKey {
        user: true,
        ..KERNEL
    };

    #[test]
    fn an_empty_entry_matches_no_address_that_hashes_to_it() {
        let tlb = Tlb::new();
        for page in [0, 1, 1023, 1024, 0xf_ffff_ffff_ffff_u64] {
            let gva = page << 12;
            let offset = gva ^ tlb.entries[tlb_index(gva)].tag;
            assert!(offset >= PAGE_SIZE, "page {page:#x}");
        }
    }

    #[test]
    fn address_spaces_do_not_see_each_other() {
        let mut banks = banks();
        banks.select(1, USER);
        banks.current().read.fill(Gva(0x5000), 0x7000, false);
        banks.select(2, USER);
        assert_eq!(banks.current().read.lookup(Gva(0x5123)), None);
        banks.select(1, USER);
        assert_eq!(banks.current().read.lookup(Gva(0x5123)), Some(0x7000));
        banks.flush_local(1);
        assert_eq!(banks.current().read.lookup(Gva(0x5123)), None);
    }

    #[test]
    fn global_pages_survive_a_flush_of_their_address_space() {
        let mut banks = banks();
        banks.select(1, KERNEL);
        let bank = banks.current();
        bank.read.fill(Gva(0x5000), 0x7000, true);
        bank.read.fill(Gva(0x6000), 0x8000, false);
        bank.add_jump(0x5000, 77, true);
        bank.add_jump(0x6000, 88, false);
        banks.flush_local(1);
        let bank = banks.current();
        assert_eq!(
            (bank.read.lookup(Gva(0x5000)), bank.read.lookup(Gva(0x6000))),
            (Some(0x7000), None)
        );
        assert_eq!((bank.jump(0x5000), bank.jump(0x6000)), (Some(77), None));
        banks.flush_all();
        assert_eq!(banks.current().read.lookup(Gva(0x5000)), None);
    }

    #[test]
    fn a_page_that_becomes_code_loses_its_write_entry_everywhere() {
        let mut banks = banks();
        for (pcid, key) in [(1, USER), (1, KERNEL), (2, KERNEL)] {
            banks.select(pcid, key);
            banks.current().write.fill(Gva(0x5000), 0x7000, false);
            banks.current().write.fill(Gva(0x6000), 0x8000, true);
        }
        banks.protect_host_page(0x7000);
        for (pcid, key) in [(1, USER), (1, KERNEL), (2, KERNEL)] {
            banks.select(pcid, key);
            assert_eq!(banks.current().write.lookup(Gva(0x5000)), None);
            assert_eq!(banks.current().write.lookup(Gva(0x6000)), Some(0x8000));
        }
    }

    #[test]
    fn more_address_spaces_than_banks_reuse_the_oldest() {
        let mut banks = banks();
        for pcid in 0..40 {
            banks.select(pcid, USER);
            banks
                .current()
                .read
                .fill(Gva(0x5000), u64::from(pcid) + 1, false);
        }
        banks.select(39, USER);
        assert_eq!(banks.current().read.lookup(Gva(0x5000)), Some(40));
        banks.select(0, USER);
        assert_eq!(banks.current().read.lookup(Gva(0x5000)), None);
    }
}
