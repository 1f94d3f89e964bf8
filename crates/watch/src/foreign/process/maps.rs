//! Mappings of a process (proc(5), `/proc/PID/maps` and `smaps`), and which of them may be a guest's RAM.

use serde::{Deserialize, Serialize};

/// Most mappings that are kept.
const MAPPINGS_MAX: usize = 1 << 17;
/// Most mappings that are put together.
const STEPS_MAX: usize = 1 << 20;
/// RAM in two mappings has no more than this in the low one, whatever its process was told.
const LOW_BYTES_MAX: u64 = 3 << 30;

/// A mapping that can be read and written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// How long it is.
    pub len_bytes: u64,
    /// Whether others may see what is written.
    pub is_shared: bool,
    /// The number of the file behind it; none of what is anonymous.
    pub inode: u64,
    /// Where in that file it begins.
    pub file_offset: u64,
}

impl Mapping {
    pub(super) fn end(&self) -> u64 {
        self.start + self.len_bytes
    }

    pub(super) fn end_in_file(&self) -> u64 {
        self.file_offset.saturating_add(self.len_bytes)
    }
}

/// The head of a mapping: `start-end flags offset device inode path`.
fn mapping(line: &str) -> Option<Mapping> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = hexadecimal(start).zip(hexadecimal(end))?;
    let flags = fields.next()?;
    let file_offset = hexadecimal(fields.next()?)?;
    let inode = fields.nth(1)?.parse().ok()?;
    flags.starts_with("rw").then_some(Mapping {
        start,
        len_bytes: end.checked_sub(start)?,
        is_shared: flags.ends_with('s'),
        inode,
        file_offset,
    })
}

/// All that can be read and written, ascending.
pub(super) fn mappings(text: &str) -> Vec<Mapping> {
    let found = text.lines().filter_map(mapping);
    found.take(MAPPINGS_MAX).collect()
}

/// Whether one goes on where the other ends: advice to the kernel about part of a mapping splits it.
fn goes_on(one: &Mapping, next: &Mapping) -> bool {
    one.end() == next.start
        && (one.is_shared, one.inode) == (next.is_shared, next.inode)
        && (one.inode == 0 || one.end_in_file() == next.file_offset)
}

/// Those that may be RAM, the likeliest first: as long as the process was told, else the longest. Anonymous memory may
/// have neighbours that have nothing to do with it, so that RAM may begin wherever one of them does.
pub(super) fn ram(all: &[Mapping], told_bytes: Option<u64>, min_bytes: u64) -> Vec<Mapping> {
    let mut found: Vec<(bool, Mapping)> = Vec::new();
    let mut steps = 0;
    for run in all.chunk_by(goes_on) {
        if !(run[0].is_shared || run[0].inode == 0) {
            continue;
        }
        for start in 0..run.len() {
            let mut whole = run[start].clone();
            let wanted = told_bytes.unwrap_or(u64::MAX);
            for next in &run[start + 1..] {
                if whole.len_bytes >= wanted || steps >= STEPS_MAX {
                    break;
                }
                steps += 1;
                whole.len_bytes += next.len_bytes;
            }
            let is_told = Some(whole.len_bytes) == told_bytes;
            if whole.len_bytes >= wanted.min(LOW_BYTES_MAX) || told_bytes.is_none() {
                whole.len_bytes = whole.len_bytes.min(wanted);
                found.push((is_told, whole));
            }
            if told_bytes.is_none() {
                break;
            }
        }
    }
    found.retain(|(_, mapping)| mapping.len_bytes >= min_bytes);
    found.sort_by_key(|(is_told, mapping)| {
        (!is_told, u64::MAX - mapping.len_bytes, !mapping.is_shared)
    });
    found.into_iter().map(|(_, mapping)| mapping).collect()
}

/// What `smaps` says of a mapping, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub resident: u64,
    pub proportional: u64,
    pub shared: u64,
    pub swapped: u64,
    pub huge: u64,
}

/// Sums what lies in the ranges `of` of addresses.
pub(super) fn held(smaps: &str, of: &[Mapping]) -> Held {
    let mut sum = Held::default();
    let mut is_in = false;
    for line in smaps.lines() {
        let Some((key, rest)) = line.split_once(':') else {
            continue;
        };
        // Heads of mappings have a colon in the device's number; keys have no dash.
        if key.contains('-') {
            let start = line.split('-').next();
            let start = start.and_then(|text| u64::from_str_radix(text, 16).ok());
            is_in = start.is_some_and(|start| {
                of.iter()
                    .any(|mapping| (mapping.start..mapping.end()).contains(&start))
            });
            continue;
        }
        let place = match key {
            "Rss" => &mut sum.resident,
            "Pss" => &mut sum.proportional,
            "Shared_Clean" | "Shared_Dirty" => &mut sum.shared,
            "Swap" => &mut sum.swapped,
            "AnonHugePages" | "ShmemPmdMapped" => &mut sum.huge,
            _ => continue,
        };
        let number = rest.split_ascii_whitespace().next();
        let kilobytes: u64 = number.and_then(|text| text.parse().ok()).unwrap_or(0);
        if is_in {
            *place = place.saturating_add(kilobytes.saturating_mul(1024));
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
559355fbe000-559356000000 r--p 00000000 fe:00 1234 /usr/bin/qemu-system-x86_64
7f881be00000-7f885be00000 rw-p 00000000 00:00 0 
7f885be00000-7f895be00000 rw-p 00000000 00:00 0 
7fa357fff000-7fa377fff000 rw-s 00000000 00:01 2547780                    /memfd:memory-backend-memfd (deleted)
7fa378000000-7fa3b7fff000 rwxp 00000000 00:00 0 
7fa3c0000000-7fa3c0021000 rw-p 00000000 00:00 0 
not a mapping
";

    #[test]
    fn ram_is_what_is_as_long_as_the_process_was_told() {
        let all = mappings(TEXT);
        assert_eq!(all.len(), 5, "{all:?}");
        let check = |told: Option<u64>, expected: &[u64]| {
            let found = ram(&all, told, 16 << 20);
            let lens: Vec<u64> = found
                .iter()
                .map(|mapping| mapping.len_bytes >> 20)
                .collect();
            assert_eq!(lens, expected, "{told:?}");
        };
        check(Some(5 << 30), &[5120, 4096]);
        check(None, &[5120, 1023, 512]);
        let shared = &ram(&all, Some(512 << 20), 1)[0];
        assert!(shared.is_shared && shared.inode == 2_547_780);
        // RAM begins where its neighbour ends.
        let four = &ram(&all, Some(4 << 30), 16 << 20)[0];
        assert_eq!((four.start, four.len_bytes), (0x7f88_5be0_0000, 4 << 30));
    }

    #[test]
    fn a_mapping_is_counted_by_where_it_begins() {
        let smaps = "\
7f881be00000-7f885be00000 rw-p 00000000 00:00 0 
Size:            1048576 kB
Rss:                 100 kB
Pss:                  50 kB
Shared_Dirty:         10 kB
Swap:                  4 kB
VmFlags: rd wr
7fa3c0000000-7fa3c0021000 rw-p 00000000 00:00 0 
Rss:                 999 kB
";
        let found = held(smaps, &mappings(TEXT)[..1]);
        let expected = Held {
            resident: 100 << 10,
            proportional: 50 << 10,
            shared: 10 << 10,
            swapped: 4 << 10,
            huge: 0,
        };
        assert_eq!(found, expected);
    }
}
