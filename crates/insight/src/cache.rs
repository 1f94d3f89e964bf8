//! Profiles of kernel files on disk, one for each file by its SHA-256, so that the next guest with the same kernel costs
//! milliseconds.
//!
//! Only what a kernel file says comes in here, never what a guest's memory says: one guest must not be able to tell another
//! one's observer how to read. A file is believed no more than a guest: a checksum catches accidents, checked reads
//! everything else.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::kept::{self, Entry, KEPT_BYTES_MAX};
use crate::layout::{self, Layout, Layouts, Member};
use crate::profile::{MAX_BANNER, Profile};
use crate::reader::Reader;
use crate::symbols::Symbols;

/// Bytes at the beginning; the last one is the version of the format.
const MAGIC: &[u8; 8] = b"MOTHERK\x04";
/// The code of the kernel file with this SHA-256, as [`store_code`] got it; `None` if there is none, or it is damaged.
pub(crate) fn load_code(folder: &Path, digest: &[u8; 32]) -> Option<Vec<u8>> {
    let mut packed = Vec::new();
    let file = kept::open(folder, Entry::Code(*digest)).ok()?;
    file.take(KEPT_BYTES_MAX).read_to_end(&mut packed).ok()?;
    let rest = packed.strip_prefix(MAGIC)?.strip_prefix(digest)?;
    let (sum, rest) = rest.split_at_checked(32)?;
    // The length comes first, and is believed only in its bounds.
    let len = rest.first_chunk().copied().map(u32::from_le_bytes)?;
    if sum != checksum(rest) || u64::from(len) > KEPT_BYTES_MAX {
        return None;
    }
    lz4_flex::block::decompress_size_prepended(rest).ok()
}

/// Keeps code beside a profile.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn store_code(folder: &Path, digest: &[u8; 32], code: &[u8]) -> io::Result<()> {
    let packed = lz4_flex::block::compress_prepend_size(code);
    let bytes = [MAGIC.as_slice(), digest, &checksum(&packed), &packed].concat();
    kept::put(folder, Entry::Code(*digest), &bytes)
}

/// The profile of the kernel file with this SHA-256; `None` if there is none, or it is damaged.
pub(crate) fn load(folder: &Path, digest: &[u8; 32]) -> Option<Profile> {
    let mut file = kept::open(folder, Entry::Profile(*digest)).ok()?;
    let len = file.metadata().ok()?.len();
    if len > KEPT_BYTES_MAX {
        return None;
    }
    let mut bytes = Vec::with_capacity(len as usize);
    file.read_to_end(&mut bytes).ok()?;
    let rest = bytes.strip_prefix(MAGIC)?;
    let (sum, rest) = rest.split_at_checked(32)?;
    if sum != checksum(rest) {
        return None;
    }
    let mut reader = Reader::new(rest);
    // A file by another's name is another's.
    if reader.take(32)? != digest {
        return None;
    }
    let banner = reader.text()?;
    let has_build_id = reader.u32()? != 0;
    let id = reader.take(20)?.try_into().ok()?;
    let id_offset = reader.i64()?;
    let form = reader.text()?;
    let layouts = if reader.u32()? != 0 {
        Some(read_layouts(&mut reader)?)
    } else {
        None
    };
    let len = reader.u32()? as usize;
    let symbols = Symbols::from_bytes(reader.take(len)?.to_vec())?;
    (banner.len() <= MAX_BANNER).then_some(Profile {
        banner,
        build_id: has_build_id.then_some((id, id_offset)),
        form,
        symbols,
        layouts,
    })
}

/// Keeps the profile of the kernel file with this SHA-256 in `folder`. Whatever has its final name is complete.
///
/// # Errors
/// If the folder or the file cannot be written.
pub(crate) fn store(folder: &Path, digest: &[u8; 32], profile: &Profile) -> io::Result<()> {
    let mut body = digest.to_vec();
    write_text(&mut body, &profile.banner);
    let (id, offset) = profile.build_id.unwrap_or_default();
    body.extend(u32::from(profile.build_id.is_some()).to_le_bytes());
    body.extend(id);
    body.extend(offset.to_le_bytes());
    write_text(&mut body, &profile.form);
    body.extend(u32::from(profile.layouts.is_some()).to_le_bytes());
    if let Some(layouts) = &profile.layouts {
        write_layouts(&mut body, layouts);
    }
    body.extend((profile.symbols.as_bytes().len() as u32).to_le_bytes());
    body.extend(profile.symbols.as_bytes());
    let bytes = [MAGIC.as_slice(), &checksum(&body), &body].concat();
    kept::put(folder, Entry::Profile(*digest), &bytes)
}

/// Against accidents on disk, and against files that a version of Mother wrote which kept other layouts. The bytes are summed
/// in four lanes, as a whole profile must not cost more than a few milliseconds, and the sums are hashed.
fn checksum(bytes: &[u8]) -> [u8; 32] {
    let mut lanes = [
        0x9e37_79b9_7f4a_7c15_u64,
        0xc2b2_ae3d_27d4_eb4f,
        layout::wanted(),
        bytes.len() as u64,
    ];
    let mut chunks = bytes.chunks_exact(32);
    for chunk in &mut chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.chunks_exact(8)) {
            let word = word
                .iter()
                .rev()
                .fold(0, |word, &byte| word << 8 | u64::from(byte));
            *lane = (*lane ^ word)
                .wrapping_mul(0x9fb2_1c65_1e98_df25)
                .rotate_left(29);
        }
    }
    let mut hasher = Sha256::new();
    for lane in lanes {
        hasher.update(lane.to_le_bytes());
    }
    hasher.update(chunks.remainder());
    hasher.finalize().into()
}

fn write_text(to: &mut Vec<u8>, text: &str) {
    to.extend((text.len() as u32).to_le_bytes());
    to.extend(text.as_bytes());
}

fn write_layouts(to: &mut Vec<u8>, layouts: &Layouts) {
    to.extend((layouts.structs.len() as u32).to_le_bytes());
    for (name, layout) in &layouts.structs {
        write_text(to, name);
        to.extend(layout.size.to_le_bytes());
        to.extend((layout.members.len() as u32).to_le_bytes());
        for (name, member) in &layout.members {
            write_text(to, name);
            for number in [
                member.bit_offset,
                member.bit_size,
                member.size,
                member.element,
            ] {
                to.extend(number.to_le_bytes());
            }
            write_text(to, &member.inner);
        }
    }
    to.extend((layouts.enums.len() as u32).to_le_bytes());
    for (name, values) in &layouts.enums {
        write_text(to, name);
        to.extend((values.len() as u32).to_le_bytes());
        for (name, value) in values {
            write_text(to, name);
            to.extend(value.to_le_bytes());
        }
    }
}

fn read_layouts(reader: &mut Reader<'_>) -> Option<Layouts> {
    let mut structs = HashMap::new();
    for _ in 0..reader.u32()? {
        let name = reader.text()?;
        let size = reader.u32()?;
        let mut members = BTreeMap::new();
        for _ in 0..reader.u32()? {
            let name = reader.text()?;
            let [bit_offset, bit_size, size, element] =
                [reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?];
            members.insert(
                name,
                Member {
                    bit_offset,
                    bit_size,
                    size,
                    element,
                    inner: reader.text()?,
                },
            );
        }
        structs.insert(name, Layout { size, members });
    }
    let mut enums = HashMap::new();
    for _ in 0..reader.u32()? {
        let name = reader.text()?;
        let mut values = BTreeMap::new();
        for _ in 0..reader.u32()? {
            values.insert(reader.text()?, reader.i64()?);
        }
        enums.insert(name, values);
    }
    Some(Layouts { structs, enums })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::PathBuf;
    use std::time::SystemTime;

    use super::*;
    use crate::kallsyms::Symbol;
    use crate::kept::MAX_FILES;

    fn path_of(folder: &Path, digest: &[u8; 32]) -> PathBuf {
        folder.join(Entry::Profile(*digest).name())
    }

    fn profile() -> Profile {
        let text = 0xffff_ffff_8100_0000;
        let symbol = |address, name: &str| Symbol {
            address,
            is_relative: true,
            kind: b'T',
            name: name.as_bytes().to_vec(),
        };
        let symbols = [
            symbol(text, "_text"),
            symbol(text + 64, "entry_SYSCALL_64"),
            symbol(text + 999, "linux_banner"),
        ];
        let member = Member {
            bit_offset: 64,
            bit_size: 0,
            size: 16,
            element: 16,
            inner: "list_head".to_owned(),
        };
        let layout = Layout {
            size: 4096,
            members: BTreeMap::from([("tasks".to_owned(), member)]),
        };
        let layouts = Layouts {
            structs: HashMap::from([("task_struct".to_owned(), layout)]),
            enums: HashMap::from([(
                "pid_type".to_owned(),
                BTreeMap::from([("PIDTYPE_TGID".to_owned(), 1)]),
            )]),
        };
        Profile {
            banner: "Linux version 6.1.0-56-cloud-amd64 (debian)".to_owned(),
            build_id: Some(([7; 20], 0x1234)),
            form: "Relative".to_owned(),
            symbols: Symbols::new(&symbols, text),
            layouts: Some(layouts),
        }
    }

    #[test]
    fn what_was_stored_is_loaded_by_the_digest_of_its_kernel_file() {
        let folder = tempfile::tempdir().unwrap();
        store(folder.path(), &[1; 32], &profile()).unwrap();
        assert_eq!(load(folder.path(), &[1; 32]), Some(profile()));
        assert_eq!(load(folder.path(), &[2; 32]), None);
        let plain = Profile {
            build_id: None,
            layouts: None,
            ..profile()
        };
        store(folder.path(), &[2; 32], &plain).unwrap();
        assert_eq!(load(folder.path(), &[2; 32]), Some(plain));
    }

    #[test]
    fn a_profile_under_the_name_of_another_kernel_file_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        store(folder.path(), &[1; 32], &profile()).unwrap();
        fs::rename(
            path_of(folder.path(), &[1; 32]),
            path_of(folder.path(), &[2; 32]),
        )
        .unwrap();
        assert_eq!(load(folder.path(), &[2; 32]), None);
    }

    #[test]
    fn code_that_was_stored_is_loaded_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let code: Vec<u8> = (0..10_000_u32).flat_map(u32::to_le_bytes).collect();
        store_code(folder.path(), &[1; 32], &code).unwrap();
        assert_eq!(load_code(folder.path(), &[1; 32]), Some(code));
        assert_eq!(load_code(folder.path(), &[2; 32]), None);
        let path = path_of(folder.path(), &[1; 32]).with_extension("code");
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(97) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert_eq!(
                load_code(folder.path(), &[1; 32]),
                None,
                "byte {at} changed"
            );
            fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(load_code(folder.path(), &[1; 32]), None, "only {at} bytes");
        }
    }

    #[test]
    fn the_oldest_profiles_go() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..MAX_FILES as u64 + 3 {
            let digest = [number as u8; 32];
            store(folder.path(), &digest, &profile()).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number + 1);
            let file = File::options()
                .append(true)
                .open(path_of(folder.path(), &digest));
            file.unwrap().set_modified(time).unwrap();
        }
        store(folder.path(), &[200; 32], &profile()).unwrap();
        let is_kept = |number: u8| load(folder.path(), &[number; 32]).is_some();
        assert_eq!(
            [0, 2, 3, 4, 34, 200].map(is_kept),
            [false, false, false, true, true, true]
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), MAX_FILES);
    }

    #[test]
    fn a_damaged_file_is_no_profile() {
        let folder = tempfile::tempdir().unwrap();
        store(folder.path(), &[1; 32], &profile()).unwrap();
        let path = path_of(folder.path(), &[1; 32]);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert_eq!(load(folder.path(), &[1; 32]), None, "byte {at} changed");
            fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(load(folder.path(), &[1; 32]), None, "only {at} bytes");
        }
    }
}
