//! How hypervisors lay a guest's memory out that is one piece for them: from address 0 up to a hole for devices, and on at
//! 4 GiB.

use x86::Gpa;

use insight::FileSlot;

const GIB: u64 = 1 << 30;
/// Where memory goes on behind the hole.
const HIGH: u64 = 4 * GIB;
/// Where the hole begins, and who has it there.
const HOLES: [(u64, &str); 5] = [
    // hw/i386/pc_piix.c (from 3.5 GiB of memory on), microvm; Firecracker's MMIO gap (src/vmm/src/arch/x86_64/layout.rs);
    // Cloud Hypervisor (arch/src/x86_64/layout.rs); Mother.
    (3 * GIB, "hole from 3 GiB"),
    // hw/i386/pc_q35.c, from 2.75 GiB of memory on.
    (2 * GIB, "hole from 2 GiB"),
    // The same machines with less memory than that: one piece, as long as it ends here.
    (0xe000_0000, "hole from 3.5 GiB"),
    (0xb000_0000, "hole from 2.75 GiB"),
    // crosvm (x86_64/src/lib.rs: 3.25 GiB with its PCI window).
    (0xd000_0000, "hole from 3.25 GiB"),
];

/// One way to lay memory out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// In words.
    pub words: &'static str,
    /// What is where.
    pub slots: Vec<FileSlot>,
}

/// Every way in which so many bytes, one behind the other from `offset` on, may be a guest's memory; the likeliest first.
/// `is_physical`: a place in the file may also be the address itself, the hole included.
pub fn layouts(len_bytes: u64, offset: u64, is_physical: bool) -> Vec<Layout> {
    let slot = |gpa, len_bytes, file_offset| FileSlot {
        gpa: Gpa(gpa),
        len_bytes,
        file_offset,
    };
    let flat = Layout {
        words: "in one piece",
        slots: vec![slot(0, len_bytes, offset)],
    };
    let is_short = HOLES.iter().all(|(hole, _)| len_bytes <= *hole);
    if is_short {
        return vec![flat];
    }
    let split = |hole: u64, words| Layout {
        words,
        slots: vec![
            slot(0, hole, offset),
            slot(HIGH, len_bytes - hole, offset + hole),
        ],
    };
    let holes = HOLES.iter().filter(|(hole, _)| len_bytes > *hole);
    let holes = holes.map(|(hole, words)| split(*hole, words));
    let may_be_flat = is_physical || len_bytes <= 0xe000_0000;
    let flat = may_be_flat.then_some(flat);
    if len_bytes <= 0xe000_0000 {
        flat.into_iter().chain(holes).collect()
    } else {
        holes.chain(flat).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_below_every_hole_is_one_piece_and_more_is_split() {
        let check = |len: u64, is_physical: bool, expected: &[&str]| {
            let found = layouts(len, 0x1000, is_physical);
            let words: Vec<&str> = found.iter().map(|layout| layout.words).collect();
            assert_eq!(words, expected, "{len:#x}");
            for layout in &found {
                let sum: u64 = layout.slots.iter().map(|slot| slot.len_bytes).sum();
                assert_eq!(sum, len);
                let last = layout.slots.last().unwrap();
                assert_eq!(last.file_offset + last.len_bytes, 0x1000 + len);
            }
        };
        check(512 << 20, true, &["in one piece"]);
        check(2 * GIB, false, &["in one piece"]);
        check(0xa000_0000, false, &["in one piece", "hole from 2 GiB"]);
        check(
            5 * GIB,
            false,
            &[
                "hole from 3 GiB",
                "hole from 2 GiB",
                "hole from 3.5 GiB",
                "hole from 2.75 GiB",
                "hole from 3.25 GiB",
            ],
        );
        assert_eq!(layouts(5 * GIB, 0, true).len(), 6);
    }
}
