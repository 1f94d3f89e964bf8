//! The memory map that a guest is told (ACPI specification 15: "System Address Map Interfaces", alias E820).

use mem::Slots;
use x86::Gpa;

/// What a range of physical addresses is. The numbers are those of E820, PVH and multiboot alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeKind {
    /// Memory to use.
    Ram = 1,
    /// The board's: to be left alone.
    Reserved = 2,
    /// ACPI tables: memory once they have been read.
    Acpi = 3,
}

/// One line of the map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// How long the range is.
    pub len_bytes: u64,
    /// What is there.
    pub kind: RangeKind,
}

impl Range {
    /// A range from its first address to the first address behind it.
    pub fn new(start: u64, end: u64, kind: RangeKind) -> Range {
        Range {
            start,
            len_bytes: end - start,
            kind,
        }
    }

    /// First address behind it.
    pub fn end(&self) -> u64 {
        self.start + self.len_bytes
    }
}

/// Memory to use is what the slots have, less what the board takes. Lowest first; nothing overlaps if the board's
/// ranges do not.
pub(super) fn memory_map(slots: &Slots, board: &[Range]) -> Vec<Range> {
    let mut board = board.to_vec();
    board.sort_by_key(|range| range.start);
    let mut map = board.clone();
    for slot in slots.as_slice() {
        let mut start = slot.gpa.0;
        let end = slot.end().0;
        for hole in &board {
            if hole.end() <= start || hole.start >= end {
                continue;
            }
            if hole.start > start {
                map.push(Range::new(start, hole.start, RangeKind::Ram));
            }
            start = hole.end();
        }
        if start < end {
            map.push(Range::new(start, end, RangeKind::Ram));
        }
    }
    map.sort_by_key(|range| range.start);
    map
}

/// Whether every byte of a range is memory to use.
pub(super) fn is_ram(map: &[Range], start: u64, len_bytes: u64) -> bool {
    let Some(end) = start.checked_add(len_bytes) else {
        return false;
    };
    let mut ram = map.iter().filter(|range| range.kind == RangeKind::Ram);
    ram.any(|range| start >= range.start && end <= range.end())
}

/// The highest page-aligned place for `len_bytes` of memory to use that lies in `from..end`.
pub(super) fn place_high(map: &[Range], len_bytes: u64, from: u64, end: u64) -> Option<Gpa> {
    let ram = map
        .iter()
        .rev()
        .filter(|range| range.kind == RangeKind::Ram);
    let place = |range: &Range| {
        let start = range.end().min(end).checked_sub(len_bytes)? & !x86::address::PAGE_MASK;
        (start >= range.start.max(from)).then_some(Gpa(start))
    };
    ram.filter_map(place).next()
}

#[cfg(test)]
mod tests {
    use super::{Range, RangeKind, memory_map, place_high};
    use mem::Slots;
    use x86::Gpa;

    const BOARD: [(u64, u64, RangeKind); 3] = [
        (0xe000_0000, 0xf000_0000, RangeKind::Reserved),
        (0x9_fc00, 0xa_0000, RangeKind::Reserved),
        (0xe_0000, 0x10_0000, RangeKind::Acpi),
    ];

    fn map(memory_bytes: u64) -> Vec<Range> {
        let board: Vec<Range> = BOARD
            .iter()
            .map(|&(start, end, kind)| Range::new(start, end, kind))
            .collect();
        let mut slots = Slots::default();
        slots.push(Gpa(0), memory_bytes.min(3 << 30));
        if memory_bytes > 3 << 30 {
            slots.push(Gpa(4 << 30), memory_bytes - (3 << 30));
        }
        memory_map(&slots, &board)
    }

    #[test]
    fn the_map_has_holes_where_the_board_is() {
        let check = |memory_bytes, expected: &str| {
            let lines = map(memory_bytes);
            let text = lines
                .iter()
                .map(|line| format!("{:x}..{:x} {:?}", line.start, line.end(), line.kind));
            assert_eq!(text.collect::<Vec<_>>().join("\n"), expected);
        };
        let low = "0..9fc00 Ram\n9fc00..a0000 Reserved\na0000..e0000 Ram\ne0000..100000 Acpi\n";
        check(
            32 << 20,
            &format!("{low}100000..2000000 Ram\ne0000000..f0000000 Reserved"),
        );
        check(
            3 << 30,
            &format!("{low}100000..c0000000 Ram\ne0000000..f0000000 Reserved"),
        );
        check(
            16 << 30,
            &format!(
                "{low}100000..c0000000 Ram\ne0000000..f0000000 Reserved\n100000000..440000000 Ram"
            ),
        );
    }

    #[test]
    fn an_initrd_goes_as_high_as_its_kernel_allows() {
        let check = |memory_bytes, len_bytes, from, end, expected: Option<u64>| {
            let placed = place_high(&map(memory_bytes), len_bytes, from, end).map(|gpa| gpa.0);
            assert_eq!(placed, expected, "{len_bytes:#x} in {from:#x}..{end:#x}");
        };
        let any = u64::MAX;
        check(64 << 20, 0x1800, 0, any, Some(0x3ff_e000));
        check(64 << 20, 0x1000, 0, 0x200_0000, Some(0x1ff_f000));
        check(64 << 20, 0x1000, 0x3ff_f001, any, None);
        check(64 << 20, 64 << 20, 0, any, None);
        check(16 << 30, 0x1000, 0, 1 << 32, Some(0xbfff_f000));
        check(
            16 << 30,
            0x1000,
            0x10_0000,
            0x7fff_ffff + 1,
            Some(0x7fff_f000),
        );
    }
}
