//! `/etc/ld.so.cache`: where glibc's loader knows libraries to be. The format is glibc's own (`dl-cache.h`), version
//! 1.1, which ldconfig has written alone since glibc 2.32; what is not like it counts as empty.

use std::path::PathBuf;

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER_BYTES: usize = 48;
const ENTRY_BYTES: usize = 24;

/// `FLAG_ELF_LIBC6 | FLAG_X8664_LIB64`: a library of the kind that we look for.
const IS_64_BIT: u32 = 0x0303;

/// `cache_file_new_flags_endian_little`.
const LITTLE_ENDIAN: u8 = 2;

/// Names and places, in the order of the file: the loader looks for a name by halving.
#[derive(Default)]
pub(super) struct LibraryCache(Vec<(String, String)>);

impl LibraryCache {
    /// The host's, empty if it has none.
    pub(super) fn of_host() -> LibraryCache {
        LibraryCache::read(&std::fs::read("/etc/ld.so.cache").unwrap_or_default())
    }

    /// Where a library is.
    pub(super) fn find(&self, library: &str) -> Option<PathBuf> {
        let entry = self.0.iter().find(|(name, _)| name == library);
        entry.map(|(_, path)| PathBuf::from(path))
    }

    /// The libraries among them for which `is_there` says so, as a file for the loader.
    pub(super) fn file_of(&self, is_there: impl Fn(&str) -> bool) -> Vec<u8> {
        let kept: Vec<_> = self.0.iter().filter(|(_, path)| is_there(path)).collect();
        let mut entries = Vec::new();
        let mut texts = Vec::new();
        let first_text = HEADER_BYTES + kept.len() * ENTRY_BYTES;
        for (name, path) in &kept {
            entries.extend(IS_64_BIT.to_le_bytes());
            for text in [name, path] {
                entries.extend(((first_text + texts.len()) as u32).to_le_bytes());
                texts.extend(text.as_bytes());
                texts.push(0);
            }
            // No version of an operating system, and no processor in particular.
            entries.extend([0; 12]);
        }
        let mut file = MAGIC.to_vec();
        file.extend((kept.len() as u32).to_le_bytes());
        file.extend((texts.len() as u32).to_le_bytes());
        file.push(LITTLE_ENDIAN);
        file.resize(HEADER_BYTES, 0);
        file.extend(entries);
        file.extend(texts);
        file
    }

    fn read(bytes: &[u8]) -> LibraryCache {
        let count = if bytes.starts_with(MAGIC) {
            word(bytes, MAGIC.len()).unwrap_or(0)
        } else {
            0
        };
        let entries = bytes.get(HEADER_BYTES..).unwrap_or_default();
        let entries = entries.chunks_exact(ENTRY_BYTES).take(count as usize);
        let libraries = entries.filter_map(|entry| {
            // Variants for newer processors (a hwcap) are left out: the guest may have another processor.
            let is_plain = entry[16..24] == [0; 8];
            if word(entry, 0) != Some(IS_64_BIT) || !is_plain {
                return None;
            }
            let (key, value) = word(entry, 4).zip(word(entry, 8))?;
            text(bytes, key).zip(text(bytes, value))
        });
        LibraryCache(libraries.collect())
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

    /// What is written is judged by glibc's own program, where there is one.
    #[test]
    fn the_loader_finds_what_was_kept_and_nothing_else() {
        let libraries = [
            ("libz.so.1", "/lib/libz.so.1"),
            ("liby.so.2", "/opt/liby.so.2"),
            ("libx.so", "/opt/libx.so"),
        ];
        let libraries = libraries.map(|(name, path)| (name.to_owned(), path.to_owned()));
        let cache = LibraryCache(libraries.to_vec());
        let file = cache.file_of(|path| path.starts_with("/opt"));
        assert_eq!(LibraryCache::read(&file).0, libraries[1..]);
        assert_eq!(LibraryCache::read(&cache.file_of(|_| false)).0, []);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        std::fs::write(&path, file).unwrap();
        let mut ldconfig = std::process::Command::new("/sbin/ldconfig");
        let Ok(output) = ldconfig.arg("-p").arg("-C").arg(&path).output() else {
            return;
        };
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = text.lines().take(3).map(str::trim).collect();
        assert!(lines[0].starts_with("2 libs found"), "{text}");
        assert_eq!(
            lines[1..],
            [
                "liby.so.2 (libc6,x86-64) => /opt/liby.so.2",
                "libx.so (libc6,x86-64) => /opt/libx.so"
            ]
        );
    }
}
