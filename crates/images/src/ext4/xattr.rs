//! Extended attributes in the rest of an inode ("Extended Attributes").

use crate::ext4::Fields;

/// `EXT4_XATTR_MAGIC`.
const MAGIC: u32 = 0xea02_0000;

/// Bytes of an entry before its name.
const ENTRY_BYTES: usize = 16;

/// Prefixes that are stored as a number (`EXT4_XATTR_INDEX_*`). POSIX ACLs have another form on disk and are not here.
const PREFIXES: [(u8, &str); 3] = [(1, "user."), (4, "trusted."), (6, "security.")];

/// The number of its prefix, the rest of its name, and all of it.
type Numbered<'a> = (u8, &'a str, &'a (String, Vec<u8>));

/// Writes what fits into `area`, which is all zero; the names that did not fit or have no place on disk.
pub(super) fn write<'a>(xattrs: &'a [(String, Vec<u8>)], area: &mut [u8]) -> Vec<&'a str> {
    let mut left_out = Vec::new();
    // Entries are sorted by index, length of name and name; they grow from the front and values from the back.
    let mut sorted: Vec<Numbered<'a>> = Vec::new();
    for xattr in xattrs {
        match PREFIXES
            .iter()
            .find_map(|(index, prefix)| Some((*index, xattr.0.strip_prefix(prefix)?)))
        {
            Some((index, name)) if !name.is_empty() && name.len() <= 255 => {
                sorted.push((index, name, xattr))
            }
            _ => left_out.push(xattr.0.as_str()),
        }
    }
    sorted.sort_by_key(|(index, name, _)| (*index, name.len(), *name));
    sorted.dedup_by_key(|(index, name, _)| (*index, *name));
    let mut front = 4;
    let mut back = area.len();
    for (index, name, xattr) in sorted {
        let value = &xattr.1;
        let entry = ENTRY_BYTES + name.len().next_multiple_of(4);
        let room = value.len().next_multiple_of(4);
        // Four zero bytes end the list.
        if front + entry + 4 + room > back {
            left_out.push(xattr.0.as_str());
            continue;
        }
        back -= room;
        area[back..back + value.len()].copy_from_slice(value);
        area[front] = name.len() as u8;
        area[front + 1] = index;
        // Offsets are counted from the first entry.
        area.put16(front + 2, (back - 4) as u16);
        area.put32(front + 8, value.len() as u32);
        area[front + ENTRY_BYTES..front + ENTRY_BYTES + name.len()]
            .copy_from_slice(name.as_bytes());
        front += entry;
    }
    if front > 4 {
        area.put32(0, MAGIC);
    }
    left_out
}
