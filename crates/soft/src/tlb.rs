//! One software TLB: guest pages to host pages, as translated code reads it.
//!
//! It holds what the guest's page tables said when they were walked. The guest says when it changed them (INVLPG,
//! INVPCID, MOV CR3, MOV CR4), and until then a real TLB may be stale too.
//!
//! The entry for page `p` lies at index `p mod` [`TLB_ENTRIES`]. An empty entry holds a tag with other index bits, which no
//! address that hashes there can match, so the check of translated code needs no valid bit: `address ^ tag` is the
//! offset in the page on a hit and more than a page otherwise; comparing it with `4096 - size` also catches
//! accesses that cross into the next page.

use x86::{Gva, PAGE_SIZE};

use crate::index_set::IndexSet;
use crate::large::LargePages;

/// Entries of each TLB.
pub(crate) const TLB_ENTRIES: usize = 8192;

/// Size of the filter that tells which host pages entries may lead to.
const HOST_BITS: usize = 65536;

/// One TLB entry: 16 bytes, read by translated code.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct TlbEntry {
    /// Guest virtual address of the page.
    pub(crate) tag: u64,
    /// Host virtual address of the page.
    pub(crate) host: u64,
}

/// Position of a page in a TLB.
fn tlb_index(gva: u64) -> usize {
    (gva / PAGE_SIZE) as usize % TLB_ENTRIES
}

fn host_bit(host: u64) -> usize {
    (host / PAGE_SIZE) as usize % HOST_BITS
}

/// A TLB for reads or for writes.
pub(crate) struct Tlb {
    entries: Box<[TlbEntry]>,
    /// Indexes that may be filled.
    filled: Vec<u16>,
    /// Entries that survive an address-space switch.
    global: IndexSet<{ TLB_ENTRIES / 64 }>,
    /// Host pages that entries may lead to, hashed: a page that becomes code is in few tables.
    hosts: IndexSet<{ HOST_BITS / 64 }>,
    large: LargePages,
    /// The global ones among them.
    large_global: LargePages,
}

impl Tlb {
    /// Memory of one.
    pub(crate) const BYTES: usize =
        TLB_ENTRIES * (size_of::<TlbEntry>() + size_of::<u16>()) + size_of::<Tlb>();

    pub(crate) fn new() -> Tlb {
        let entries = (0..TLB_ENTRIES).map(Tlb::empty).collect();
        Tlb {
            entries,
            filled: Vec::with_capacity(TLB_ENTRIES),
            global: IndexSet::new(),
            hosts: IndexSet::new(),
            large: LargePages::new(),
            large_global: LargePages::new(),
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

    /// Maps the page of `gva`, in a guest page of `page_size` bytes, to the host page at `host`.
    pub(crate) fn fill(&mut self, gva: Gva, host: u64, page_size: u64, global: bool) {
        let index = tlb_index(gva.0);
        if self.entries[index].host == 0 {
            self.filled.push(index as u16);
        }
        self.entries[index] = TlbEntry {
            tag: gva.page().0,
            host,
        };
        self.global.set(index, global);
        self.hosts.set(host_bit(host), true);
        let large = if global {
            &mut self.large_global
        } else {
            &mut self.large
        };
        large.note(gva, page_size);
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

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        for index in self.filled.drain(..) {
            self.entries[usize::from(index)] = Tlb::empty(usize::from(index));
        }
        self.hosts.clear();
        self.large.clear();
        self.large_global.clear();
    }

    /// Forgets everything but global pages.
    pub(crate) fn clear_local(&mut self) {
        let entries = &mut self.entries;
        let global = &self.global;
        let hosts = &mut self.hosts;
        hosts.clear();
        self.filled.retain(|&index| {
            let index = usize::from(index);
            if global.has(index) {
                hosts.set(host_bit(entries[index].host), true);
            } else {
                entries[index] = Tlb::empty(index);
            }
            global.has(index)
        });
        self.large.clear();
    }

    /// Forgets the guest page around `gva`, with all its pieces if it is a large one.
    pub(crate) fn clear_page(&mut self, gva: Gva) {
        self.clear_small_page(gva.page().0);
        let sizes = self.large.around(gva).chain(self.large_global.around(gva));
        for size in sizes.collect::<Vec<_>>() {
            let start = gva.0 & !(size - 1);
            if size / PAGE_SIZE <= TLB_ENTRIES as u64 {
                for page in (0..size / PAGE_SIZE).map(|piece| start + piece * PAGE_SIZE) {
                    self.clear_small_page(page);
                }
            } else {
                self.clear_matching(|entry| entry.tag & !(size - 1) == start);
            }
        }
    }

    fn clear_small_page(&mut self, page: u64) {
        let index = tlb_index(page);
        if self.entries[index].tag == page {
            // `host` stays non-zero so that the index is not listed twice.
            self.entries[index].tag = Tlb::empty(index).tag;
        }
    }

    /// Forgets whatever leads to a host page.
    pub(crate) fn clear_host_page(&mut self, host: u64) {
        if self.hosts.has(host_bit(host)) {
            self.clear_matching(|entry| entry.host == host);
        }
    }

    fn clear_matching(&mut self, matches: impl Fn(&TlbEntry) -> bool) {
        for &index in &self.filled {
            let entry = &mut self.entries[usize::from(index)];
            if matches(entry) {
                entry.tag = Tlb::empty(usize::from(index)).tag;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: u64 = PAGE_SIZE;
    const LARGE: u64 = 2 << 20;
    const HUGE: u64 = 1 << 30;

    /// Whether translated code would take the entry for an access to `gva`.
    fn hits(tlb: &Tlb, gva: u64, size: u64) -> bool {
        gva ^ tlb.entries[tlb_index(gva)].tag <= PAGE_SIZE - size
    }

    #[test]
    fn an_empty_entry_matches_no_address_that_hashes_to_it() {
        let tlb = Tlb::new();
        for page in [0, 1, 1023, 1024, 0xf_ffff_ffff_ffff_u64] {
            assert!(!hits(&tlb, page << 12, 1), "page {page:#x}");
            assert!(!hits(&tlb, page << 12 | 0xfff, 1), "page {page:#x}");
        }
    }

    #[test]
    fn a_hit_is_an_access_that_ends_in_the_page() {
        let mut tlb = Tlb::new();
        tlb.fill(Gva(0x5123), 0x7000, SMALL, false);
        for (gva, size, expected) in [
            (0x5000, 1, true),
            (0x5ff8, 8, true),
            (0x5ff9, 8, false),
            (0x5fff, 1, true),
            (0x5fc1, 64, false),
            (0x4fff, 1, false),
            (0x6000, 1, false),
            (0x5000 + TLB_ENTRIES as u64 * PAGE_SIZE, 1, false),
            (0xffff_8000_0000_5000, 1, false),
        ] {
            assert_eq!(hits(&tlb, gva, size), expected, "{gva:#x} {size}");
        }
    }

    #[test]
    fn a_page_takes_the_place_of_another_one_that_shares_its_index() {
        let mut tlb = Tlb::new();
        let other = 0x5000 + TLB_ENTRIES as u64 * PAGE_SIZE;
        tlb.fill(Gva(0x5000), 0x7000, SMALL, true);
        tlb.fill(Gva(other), 0x8000, SMALL, false);
        assert_eq!(tlb.lookup(Gva(0x5000)), None);
        assert_eq!(tlb.lookup(Gva(other)), Some(0x8000));
        tlb.clear_local();
        assert_eq!(
            tlb.lookup(Gva(other)),
            None,
            "as local as the page that is there"
        );
    }

    #[test]
    fn a_flushed_page_can_be_filled_again_and_cleared_again() {
        let mut tlb = Tlb::new();
        for _ in 0..2 * TLB_ENTRIES {
            tlb.fill(Gva(0x5000), 0x7000, SMALL, false);
            tlb.clear_page(Gva(0x5fff));
            assert!(!hits(&tlb, 0x5000, 1));
        }
        assert_eq!(tlb.filled.len(), 1, "one index, listed once");
        tlb.fill(Gva(0x5000), 0x7000, SMALL, false);
        tlb.clear();
        assert!(!hits(&tlb, 0x5000, 1));
        assert!(tlb.filled.is_empty());
    }

    /// Pages filled, one flush, and which of them are left.
    #[test]
    fn a_flush_takes_the_whole_guest_page_and_nothing_else() {
        let start = 0x40_0000_0000_u64;
        // Each at an index of its own.
        let far = HUGE + 0x5000;
        let pages = [0, 0x1000, 0x1f_f000, 0x20_0000, 0x3fff_f000, far];
        for (size, flushed, left) in [
            (
                SMALL,
                0x1000,
                &[0, 0x1f_f000, 0x20_0000, 0x3fff_f000, far][..],
            ),
            (LARGE, 0x1f_ffff, &[0x20_0000, 0x3fff_f000, far]),
            (LARGE, 0x20_0000, &[0, 0x1000, 0x1f_f000, 0x3fff_f000, far]),
            (HUGE, 0x12_3456, &[far]),
            (
                HUGE,
                HUGE + 5,
                &[0, 0x1000, 0x1f_f000, 0x20_0000, 0x3fff_f000],
            ),
        ] {
            for global in [false, true] {
                let mut tlb = Tlb::new();
                for page in pages {
                    tlb.fill(Gva(start + page), 0x7000, size, global);
                }
                tlb.clear_page(Gva(start + flushed));
                for page in pages {
                    let is_left = tlb.lookup(Gva(start + page)).is_some();
                    assert_eq!(
                        is_left,
                        left.contains(&page),
                        "size {size:#x} flushed {flushed:#x} page {page:#x}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_host_page_is_found_wherever_it_is_mapped_also_after_local_flushes() {
        let mut tlb = Tlb::new();
        // Two pages that share a place in the filter.
        let host = 0x7000_0000;
        let other = 0x7000_0000 + HOST_BITS as u64 * PAGE_SIZE;
        tlb.fill(Gva(0x5000), host, SMALL, true);
        tlb.fill(Gva(0x6000), host, SMALL, false);
        tlb.fill(Gva(0x7000), other, SMALL, true);
        tlb.clear_local();
        tlb.fill(Gva(0x8000), host, SMALL, false);
        tlb.clear_host_page(0x1234_5000);
        tlb.clear_host_page(host);
        let found = [0x5000, 0x6000, 0x7000, 0x8000].map(|gva| tlb.lookup(Gva(gva)));
        assert_eq!(found, [None, None, Some(other), None]);
    }

    #[test]
    fn an_entry_is_named_by_its_address_and_nothing_outside_is() {
        let mut tlb = Tlb::new();
        tlb.fill(Gva(0x5000), 0x7000, SMALL, false);
        let at = |index: u64| tlb.address() + index * 16;
        assert_eq!(tlb.tag_at(at(5)), 0x5000);
        assert_eq!(tlb.tag_at(at(6)), Tlb::empty(6).tag);
        assert_eq!(tlb.tag_at(at(TLB_ENTRIES as u64)), 0);
        assert_eq!(tlb.tag_at(at(0) - 16), 0);
    }
}
