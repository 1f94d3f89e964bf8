//! Profiles on disk, one file per kernel build, so that the next guest with the same kernel costs milliseconds.
//!
//! A file begins with what tells whether it fits the guest at hand: where the handlers are that registers lead to, and the
//! banner and build-id that must then be found in the guest's memory. Only the file that fits is read whole. A file is
//! believed no more than a guest: a checksum catches accidents, checked reads everything else.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::layout::{self, Layout, Layouts, Member};
use crate::profile::{MAX_BANNER, Profile};
use crate::symbols::Symbols;

/// Bytes at the beginning; the last one is the version of the format.
const MAGIC: &[u8; 8] = b"MOTHERK\x01";
/// Largest file that is read.
const MAX_FILE: u64 = 256 << 20;
/// Most files that are looked at.
const MAX_FILES: usize = 256;
/// How a profile's file ends.
const EXTENSION: &str = "profile";
/// Bytes that are read to see whether a file fits.
const HEAD: usize = 2048;

/// Symbols that registers lead to, of which a profile's file tells the places.
pub(crate) const ANCHORS: [&str; 5] = [
    "_stext",
    "entry_SYSCALL_64",
    "asm_exc_page_fault",
    "page_fault",
    "async_page_fault",
];

/// The beginning of a profile's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    path: PathBuf,
    /// Offsets of [`ANCHORS`] from `_text`; `i64::MIN` where the kernel has none.
    pub anchors: [i64; ANCHORS.len()],
    /// Offset of the banner.
    pub banner_offset: i64,
    /// The banner.
    pub banner: String,
    /// The build-id and its offset.
    pub build_id: Option<([u8; 20], i64)>,
}

/// The beginnings of the profiles in a folder, newest first.
pub(crate) fn heads(folder: &Path) -> Vec<Head> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<(std::time::SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|entry| {
            entry
                .path()
                .extension()
                .is_some_and(|extension| extension == EXTENSION)
        })
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    files.sort_by(|a, b| b.cmp(a));
    files
        .into_iter()
        .take(MAX_FILES)
        .filter_map(|(_, path)| head(&path))
        .collect()
}

fn head(path: &Path) -> Option<Head> {
    let mut bytes = Vec::new();
    File::open(path)
        .ok()?
        .take(HEAD as u64)
        .read_to_end(&mut bytes)
        .ok()?;
    let mut reader = Reader {
        bytes: bytes.strip_prefix(MAGIC)?,
    };
    reader.take(32)?;
    read_head(&mut reader, path)
}

fn read_head(reader: &mut Reader<'_>, path: &Path) -> Option<Head> {
    let mut anchors = [0; ANCHORS.len()];
    for anchor in &mut anchors {
        *anchor = reader.i64()?;
    }
    let banner_offset = reader.i64()?;
    let banner = reader.text()?;
    let has_build_id = reader.u32()? != 0;
    let id = reader.take(20)?.try_into().ok()?;
    let id_offset = reader.i64()?;
    let build_id = has_build_id.then_some((id, id_offset));
    (banner.len() <= MAX_BANNER).then(|| Head {
        path: path.to_owned(),
        anchors,
        banner_offset,
        banner,
        build_id,
    })
}

/// The whole profile behind a beginning; `None` if the file is damaged.
pub(crate) fn load(head: &Head) -> Option<Profile> {
    let mut file = File::open(&head.path).ok()?;
    let len = file.metadata().ok()?.len();
    if len > MAX_FILE {
        return None;
    }
    let mut bytes = Vec::with_capacity(len as usize);
    file.read_to_end(&mut bytes).ok()?;
    let rest = bytes.strip_prefix(MAGIC)?;
    let (sum, rest) = rest.split_at_checked(32)?;
    if sum != checksum(rest) {
        return None;
    }
    let mut reader = Reader { bytes: rest };
    let head = read_head(&mut reader, &head.path)?;
    let form = reader.text()?;
    let layouts = if reader.u32()? != 0 {
        Some(read_layouts(&mut reader)?)
    } else {
        None
    };
    let len = reader.u32()? as usize;
    let symbols = Symbols::from_bytes(reader.take(len)?.to_vec())?;
    Some(Profile {
        banner: head.banner,
        build_id: head.build_id,
        form,
        symbols,
        layouts,
    })
}

/// Keeps a profile in `folder`. Whatever has its final name is complete.
///
/// # Errors
/// If the folder or the file cannot be written.
pub(crate) fn store(folder: &Path, profile: &Profile) -> io::Result<()> {
    let mut body = Vec::new();
    for anchor in ANCHORS {
        body.extend(profile.offset(anchor).unwrap_or(i64::MIN).to_le_bytes());
    }
    body.extend(
        profile
            .offset("linux_banner")
            .unwrap_or(i64::MIN)
            .to_le_bytes(),
    );
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
    fs::create_dir_all(folder)?;
    let title = profile.build_id_hex().unwrap_or_else(|| {
        checksum(profile.banner.as_bytes())
            .iter()
            .take(20)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    });
    let work = folder.join(format!("{title}.{}.work", std::process::id()));
    let written = fs::write(&work, bytes)
        .and_then(|()| fs::rename(&work, folder.join(format!("{title}.{EXTENSION}"))));
    if written.is_err() {
        let _ = fs::remove_file(&work);
    }
    written
}

/// Against accidents on disk, and against files that a version of Mother wrote which kept other layouts. The bytes are summed in four lanes, as a whole profile must not cost more than a few
/// milliseconds, and the sums are hashed.
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

/// Takes bytes from the front; every loop over it ends because the bytes do.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take(8)?.try_into().ok().map(i64::from_le_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let len = self.u32()? as usize;
        String::from_utf8(self.take(len)?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kallsyms::Symbol;

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
    fn what_was_stored_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        store(folder.path(), &profile()).unwrap();
        let heads = heads(folder.path());
        assert_eq!(heads.len(), 1);
        assert_eq!((heads[0].anchors[0], heads[0].anchors[1]), (i64::MIN, 64));
        assert_eq!(load(&heads[0]), Some(profile()));
    }

    #[test]
    fn a_damaged_file_is_no_profile() {
        let folder = tempfile::tempdir().unwrap();
        store(folder.path(), &profile()).unwrap();
        let head = heads(folder.path()).remove(0);
        let whole = fs::read(&head.path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&head.path, &bytes).unwrap();
            assert_eq!(load(&head), None, "byte {at} changed");
            fs::write(&head.path, &whole[..at]).unwrap();
            assert_eq!(load(&head), None, "only {at} bytes");
        }
    }
}
