//! Which parts a disk has: a GPT (UEFI 2.10, 5.3), an MBR with its logical partitions, or none.
//!
//! Libraries for these tables write them too, and bring a dozen others along; what is needed here are starts and lengths. Check
//! sums are not looked at: a table that is damaged leads to no file system, and that is said.

use std::io;
use std::rc::Rc;

use super::disk::ReadDisk;

/// Partitions that are looked at.
const PARTITIONS_MAX: usize = 128;

/// Bytes that a sector has; the second kind is that of disks with 4 KiB sectors.
const SECTOR_BYTES: [u64; 2] = [512, 4096];

/// `0x05` and `0x0f`: an extended partition, in which logical ones lie; `0xee`: what a GPT protects itself with.
const EXTENDED: [u8; 2] = [0x05, 0x0f];
const PROTECTIVE: u8 = 0xee;

/// A part of a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Partition {
    /// Its number, from 1 on; `None` is the whole disk.
    pub(super) number: Option<u32>,
    /// Whether its table is a GPT.
    pub(super) is_gpt: bool,
    /// Where it starts, in bytes.
    pub(super) start: u64,
    /// Its length in bytes.
    pub(super) len_bytes: u64,
}

impl Partition {
    /// The whole disk, as if it were one part.
    pub(super) fn whole(disk: &Rc<dyn ReadDisk>) -> Partition {
        Partition {
            number: None,
            is_gpt: false,
            start: 0,
            len_bytes: disk.len_bytes(),
        }
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        match self.number {
            Some(number) => format!("partition {number}"),
            None => "the whole disk".to_owned(),
        }
    }
}

/// Every part of a disk; one that has no table is one part.
pub(super) fn partitions(disk: &Rc<dyn ReadDisk>) -> io::Result<Vec<Partition>> {
    let whole = Partition::whole(disk);
    let mut first = [0; 512];
    disk.read_at(0, &mut first)?;
    let is_table = first[510..] == [0x55, 0xaa];
    for sector_bytes in SECTOR_BYTES {
        if let Some(parts) = gpt(disk, sector_bytes)? {
            return Ok(parts);
        }
    }
    // A file system may have the same last bytes: then what would be its table makes no sense.
    match is_table.then(|| mbr(disk, &first)).transpose()? {
        Some(parts) if !parts.is_empty() => Ok(parts),
        _ => Ok(vec![whole]),
    }
}

fn number32(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

fn number64(bytes: &[u8], at: usize) -> u64 {
    u64::from(number32(bytes, at)) | u64::from(number32(bytes, at + 4)) << 32
}

/// The partitions of a GPT, if there is one with sectors of this size: that at the start, or its copy at the end.
fn gpt(disk: &Rc<dyn ReadDisk>, sector_bytes: u64) -> io::Result<Option<Vec<Partition>>> {
    let sectors = disk.len_bytes() / sector_bytes;
    for sector in [1, sectors.saturating_sub(1)] {
        let mut head = [0; 92];
        if sector == 0 || sector >= sectors {
            continue;
        }
        disk.read_at(sector * sector_bytes, &mut head)?;
        if head[..8] != *b"EFI PART" {
            continue;
        }
        let table = number64(&head, 72).checked_mul(sector_bytes);
        let entry_bytes = u64::from(number32(&head, 84));
        let count = (number32(&head, 80) as usize).min(PARTITIONS_MAX);
        let Some(table) = table.filter(|_| (128..=4096).contains(&entry_bytes)) else {
            continue;
        };
        let mut parts = Vec::new();
        for number in 0..count as u32 {
            let mut entry = [0; 128];
            let at = table.checked_add(u64::from(number) * entry_bytes);
            let read = at.map(|at| disk.read_at(at, &mut entry));
            if !matches!(read, Some(Ok(()))) {
                break;
            }
            let first = number64(&entry, 32);
            let last = number64(&entry, 40);
            let is_used = entry[..16] != [0; 16] && first > 0 && first <= last && last < sectors;
            if is_used {
                parts.push(Partition {
                    number: Some(number + 1),
                    is_gpt: true,
                    start: first * sector_bytes,
                    len_bytes: (last - first + 1) * sector_bytes,
                });
            }
        }
        return Ok(Some(parts));
    }
    Ok(None)
}

/// An entry of an MBR: its type, and first sector and sectors, if it is in use and within the disk.
fn slot(sector: &[u8; 512], n: usize, base: u64, sectors: u64) -> Option<(u8, u64, u64)> {
    let entry = &sector[446 + 16 * n..][..16];
    let first = base + u64::from(number32(entry, 8));
    let count = u64::from(number32(entry, 12));
    let is_used = entry[0] & 0x7f == 0 && entry[4] != 0 && count > 0 && first > base;
    (is_used && first < sectors).then_some((entry[4], first, count))
}

fn mbr(disk: &Rc<dyn ReadDisk>, first: &[u8; 512]) -> io::Result<Vec<Partition>> {
    let sectors = disk.len_bytes() / 512;
    let part = |number: u32, first: u64, count: u64| Partition {
        number: Some(number),
        is_gpt: false,
        start: first * 512,
        len_bytes: count * 512,
    };
    let mut parts = Vec::new();
    let mut extended = None;
    for n in 0..4 {
        match slot(first, n, 0, sectors) {
            Some((kind, at, _)) if EXTENDED.contains(&kind) => extended = Some(at),
            Some((PROTECTIVE, ..)) | None => {}
            Some((_, at, count)) => parts.push(part(n as u32 + 1, at, count)),
        }
    }
    // Logical partitions are a list: each sector has one, and where the next sector is, from the first of them on.
    let Some(list) = extended else {
        return Ok(parts);
    };
    let mut at = list;
    for number in 5..PARTITIONS_MAX as u32 {
        let mut sector = [0; 512];
        if disk.read_at(at * 512, &mut sector).is_err() || sector[510..] != [0x55, 0xaa] {
            break;
        }
        if let Some((_, first, count)) = slot(&sector, 0, at, sectors) {
            parts.push(part(number, first, count));
        }
        match slot(&sector, 1, list, sectors) {
            Some((_, next, _)) if next > at => at = next,
            _ => break,
        }
    }
    Ok(parts)
}
