//! `/etc/ld.so.cache`: where glibc's loader knows libraries to be. The format is glibc's own (`dl-cache.h`), version
//! 1.1, which ldconfig has written alone since glibc 2.32; what is not like it counts as empty.

use std::collections::HashMap;
use std::path::PathBuf;

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER_BYTES: usize = 48;
const ENTRY_BYTES: usize = 24;

/// `FLAG_ELF_LIBC6 | FLAG_X8664_LIB64`: a library of the kind that we look for.
const IS_64_BIT: u32 = 0x0303;

/// Names and places.
#[derive(Default)]
pub(super) struct LibraryCache(HashMap<String, PathBuf>);

impl LibraryCache {
    /// The host's, empty if it has none.
    pub(super) fn of_host() -> LibraryCache {
        LibraryCache::read(&std::fs::read("/etc/ld.so.cache").unwrap_or_default())
    }

    /// Where a library is.
    pub(super) fn find(&self, library: &str) -> Option<PathBuf> {
        self.0.get(library).cloned()
    }

    fn read(bytes: &[u8]) -> LibraryCache {
        let mut libraries = HashMap::new();
        let count = if bytes.starts_with(MAGIC) {
            word(bytes, MAGIC.len()).unwrap_or(0)
        } else {
            0
        };
        for index in 0..count as usize {
            let Some(at) = index
                .checked_mul(ENTRY_BYTES)
                .map(|offset| HEADER_BYTES + offset)
            else {
                break;
            };
            let Some(entry) = bytes.get(at..at + ENTRY_BYTES) else {
                break;
            };
            // Variants for newer processors (a hwcap) are left out: the guest may have another processor.
            let is_plain = entry[16..24] == [0; 8];
            if word(entry, 0) != Some(IS_64_BIT) || !is_plain {
                continue;
            }
            let names = word(entry, 4).zip(word(entry, 8));
            let texts = names.and_then(|(key, value)| text(bytes, key).zip(text(bytes, value)));
            if let Some((name, path)) = texts {
                libraries.entry(name).or_insert_with(|| PathBuf::from(path));
            }
        }
        LibraryCache(libraries)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn text(bytes: &[u8], at: u32) -> Option<String> {
    let rest = bytes.get(at as usize..)?;
    let end = rest.iter().position(|&byte| byte == 0)?;
    String::from_utf8(rest[..end].to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache with one entry.
    fn cache(flags: u32, hwcap: u64) -> Vec<u8> {
        let strings = (HEADER_BYTES + ENTRY_BYTES) as u32;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(1_u32.to_le_bytes());
        bytes.resize(HEADER_BYTES, 0);
        for word in [flags, strings, strings + 8, 0] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(hwcap.to_le_bytes());
        bytes.extend(b"libx.so\0/opt/libx.so\0");
        bytes
    }

    #[test]
    fn a_library_is_found_if_it_is_for_any_64_bit_pc() {
        let check = |bytes: &[u8], expected: Option<&str>| {
            assert_eq!(
                LibraryCache::read(bytes).find("libx.so"),
                expected.map(PathBuf::from)
            );
        };
        check(&cache(IS_64_BIT, 0), Some("/opt/libx.so"));
        check(&cache(0x0003, 0), None);
        check(&cache(IS_64_BIT, 1), None);
        check(&cache(IS_64_BIT, 0)[..60], None);
        check(b"", None);
    }
}
