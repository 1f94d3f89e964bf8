//! A guest's memory in a file: which format it is, and where in it the memory lies.
//!
//! ```text
//! ELF core    QEMU's dump-guest-memory, /proc/vmcore, libvirt, Mother   one program header for each stretch
//! kdump       makedumpfile, QEMU (-z), Mother                           pages one by one, packed (`kdump`, `flat`)
//! LiME        LiME, AVML, Mother                                        a header before each stretch
//! snapshot    a snapshot of Mother's, by its folder                     chunks (`snapshot`)
//! raw         anything else: QEMU's pmemsave, memory files of Firecracker and Cloud Hypervisor, dd   layout unknown
//! ```
//!
//! No layout is told by a raw file, so it is as many candidates as there are ways; see [`layout`](super::layout).

mod elf;
mod flat;
mod kdump;
mod lime;
mod pages;
mod snapshot;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use ::snapshot::SnapshotError;
use insight::vmcoreinfo::VmCoreInfo;
use insight::{FileMemory, FileSlot};
use schemars::JsonSchema;
use serde::Serialize;
use thiserror::Error;
use x86::Gpa;

use super::layout::layouts;
use super::recognise::Candidate;

/// Most stretches of memory that one file has.
const STRETCHES_MAX: usize = 1 << 16;
/// Less is no guest's memory.
const RAW_BYTES_MIN: u64 = 1 << 20;

/// What kind of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageFormat {
    /// An ELF core.
    Elf,
    /// The compressed format of makedumpfile.
    Kdump,
    /// LiME.
    Lime,
    /// A snapshot of Mother's.
    Snapshot,
    /// Memory and nothing else.
    Raw,
}

impl ImageFormat {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            ImageFormat::Elf => "ELF core",
            ImageFormat::Kdump => "kdump-compressed dump",
            ImageFormat::Lime => "LiME dump",
            ImageFormat::Snapshot => "snapshot",
            ImageFormat::Raw => "raw memory",
        }
    }
}

/// Why a file is no memory that can be read.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The host refused.
    #[error("it cannot be read")]
    Host(#[from] io::Error),
    /// It is not what its first bytes say, or not whole.
    #[error("{0}")]
    Damaged(String),
    /// It is whole, and in a form that is not read here.
    #[error("{what}")]
    Unsupported {
        /// What it has.
        what: String,
        /// What to do.
        help: &'static str,
    },
    /// The snapshot is none.
    #[error("the snapshot cannot be used")]
    Snapshot(#[from] SnapshotError),
}

/// A file of memory that was opened.
pub struct MemoryImage {
    /// What kind of file it is.
    pub format: ImageFormat,
    /// The memory, in each way that it may be laid out.
    pub candidates: Vec<Candidate>,
    /// What it says beside the memory of what the kernel says of itself.
    pub told: Option<VmCoreInfo>,
}

pub use self::snapshot::of_snapshot;

/// The memory in a file.
///
/// # Errors
/// If it is none, or not one that can be read.
pub fn of_file(file: File) -> Result<MemoryImage, ImageError> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(ImageError::Damaged(
            "it is no plain file; what a pipe or a device has is to be copied to one".to_owned(),
        ));
    }
    from_file(file, metadata.len())
}

/// A file of so many bytes.
fn from_file(file: File, len_bytes: u64) -> Result<MemoryImage, ImageError> {
    let mut magic = [0; 16];
    let known = magic.len().min(len_bytes as usize);
    file.read_exact_at(&mut magic[..known], 0)?;
    match &magic {
        [0x7f, b'E', b'L', b'F', ..] => elf::open(file, len_bytes),
        magic if magic.starts_with(kdump::SIGNATURE) => kdump::open(file, len_bytes),
        magic if magic.starts_with(flat::SIGNATURE) => kdump::open_flattened(file, len_bytes),
        magic if magic.starts_with(&lime::MAGIC.to_le_bytes()) => lime::open(file, len_bytes),
        _ => raw(file, len_bytes),
    }
}

fn raw(file: File, len_bytes: u64) -> Result<MemoryImage, ImageError> {
    if len_bytes < RAW_BYTES_MIN {
        return Err(ImageError::Damaged(
            "it is too short to be a guest's memory, and no dump by its first bytes".to_owned(),
        ));
    }
    // Whole pages; what a tool put behind the last one is none of the guest's.
    let len_bytes = len_bytes & !(x86::PAGE_SIZE - 1);
    let candidate = |layout: super::layout::Layout| {
        let memory = FileMemory::new(file.try_clone()?, layout.slots);
        Ok(Candidate {
            memory: Arc::new(memory),
            words: layout.words.to_owned(),
        })
    };
    let candidates = layouts(len_bytes, 0, true).into_iter().map(candidate);
    Ok(MemoryImage {
        format: ImageFormat::Raw,
        candidates: candidates.collect::<io::Result<_>>()?,
        told: None,
    })
}

/// Memory whose layout is told, in the file itself.
fn told(
    format: ImageFormat,
    file: File,
    slots: Vec<FileSlot>,
    told: Option<VmCoreInfo>,
) -> Result<MemoryImage, ImageError> {
    let slots = apart(slots);
    if slots.is_empty() {
        return Err(ImageError::Damaged(format!(
            "it is a {} without memory",
            format.words()
        )));
    }
    Ok(MemoryImage {
        format,
        candidates: vec![Candidate {
            memory: Arc::new(FileMemory::new(file, slots)),
            words: "as the file says".to_owned(),
        }],
        told,
    })
}

/// Slots that do not overlap: cores have the kernel's image twice. Of two the longer one is kept.
fn apart(mut slots: Vec<FileSlot>) -> Vec<FileSlot> {
    slots.sort_by_key(|slot| (slot.gpa, u64::MAX - slot.len_bytes));
    let mut found: Vec<FileSlot> = Vec::new();
    for slot in slots {
        let covered = found.last().map_or(0, |last| last.gpa.0 + last.len_bytes);
        let skip = covered.saturating_sub(slot.gpa.0).min(slot.len_bytes);
        if skip < slot.len_bytes {
            found.push(FileSlot {
                gpa: Gpa(slot.gpa.0 + skip),
                len_bytes: slot.len_bytes - skip,
                file_offset: slot.file_offset + skip,
            });
        }
    }
    found
}

/// A slot, if both its ends are what they can be: in the file, and in an address space.
fn checked_slot(
    gpa: u64,
    len_bytes: u64,
    file_offset: u64,
    file_bytes: u64,
) -> Result<FileSlot, ImageError> {
    let is_in_file = file_offset
        .checked_add(len_bytes)
        .is_some_and(|end| end <= file_bytes);
    // Physical addresses have 52 bits (SDM vol. 3, 5.1.4).
    let is_address = gpa.checked_add(len_bytes).is_some_and(|end| end <= 1 << 52);
    if !is_in_file || !is_address {
        return Err(ImageError::Damaged(format!(
            "it is cut off or damaged: {len_bytes:#x} bytes of memory at {gpa:#x} are to be at {file_offset:#x} of a file of {file_bytes:#x}"
        )));
    }
    Ok(FileSlot {
        gpa: Gpa(gpa),
        len_bytes,
        file_offset,
    })
}

/// The little-endian number at a place, zero where there is none.
fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..at + N).unwrap_or_default();
    let fold = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
    field.iter().rev().fold(0, fold)
}

/// The VMCOREINFO among notes (System V gABI, "Note Section"), if there is one.
fn vmcoreinfo(notes: &[u8]) -> Option<VmCoreInfo> {
    const HEADER: usize = 12;
    let mut rest = notes;
    while rest.len() >= HEADER {
        let name_len = number::<4>(rest, 0) as usize;
        let text_len = number::<4>(rest, 4) as usize;
        let text_at = HEADER.checked_add(name_len)?.checked_next_multiple_of(4)?;
        let name = rest.get(HEADER..HEADER + name_len)?;
        let text = rest.get(text_at..text_at.checked_add(text_len)?)?;
        if name == b"VMCOREINFO\0" {
            return VmCoreInfo::parse(text);
        }
        let next = (text_at + text_len).checked_next_multiple_of(4)?;
        rest = rest.get(next..)?;
    }
    None
}
