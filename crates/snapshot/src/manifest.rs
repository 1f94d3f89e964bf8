//! `snapshot.json`: what a snapshot is. Written last, read first, and believed only with its checksum.
//!
//! ```text
//! { "sha256": "of the text of manifest, as it stands", "manifest": { "format": 1, … } }
//! ```
//!
//! The format is looked at before anything else of the manifest, so that another one is told by its number; fields that this
//! version does not know are refused, since who wrote them meant something by them.

use api::VmName;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::digest::{hexadecimal, is_digest, is_hexadecimal, sha256};
use crate::error::{Damage, SnapshotError, damaged};
use crate::format::{MEMORY, PAGE_BYTES};

/// What the file is called.
pub(crate) const MANIFEST: &str = "snapshot.json";

/// The format that is written and read here.
pub const MANIFEST_FORMAT: u32 = 1;

/// The longest manifest that is read.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// Parts and disks, at most: a guest's board has room for far fewer.
const PARTS_MAX: usize = 1024;

/// The longest name of a part.
const PART_NAME_BYTES_MAX: usize = 63;

/// Digits of an id.
const ID_DIGITS: usize = 32;

/// What a snapshot is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    /// The version of Mother that made it.
    pub made_by: String,
    /// When, in seconds since 1970-01-01 UTC.
    pub made_at: f64,
    /// 128 random bits in hexadecimal: two snapshots that are not copies have two ([`fresh_id`]).
    pub id: String,
    /// What became of the VM.
    pub kind: Kind,
    /// Its name.
    pub vm: String,
    /// Memory that the guest believes to have.
    pub memory_bytes: u64,
    /// How many vCPUs it has.
    pub vcpu_count: u32,
    /// What executed it.
    pub engine: String,
    /// Its resident limit.
    pub limit_bytes: Option<u64>,
    /// What the VM was asked for; files are named by parts.
    pub spec: serde_json::Value,
    /// vCPUs and board.
    pub state: Part,
    /// Memory.
    pub memory: Part,
    /// What a reset of the guest loads again.
    pub images: Vec<Image>,
    /// Disks.
    pub disks: Vec<Disk>,
}

/// What became of the VM that a snapshot is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It ended: nothing else has what it was.
    Suspended,
    /// It ran on.
    Snapshot,
}

impl Kind {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Suspended => "suspended",
            Kind::Snapshot => "snapshot",
        }
    }
}

/// A file of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// How many bytes it has.
    pub bytes: u64,
    /// Its SHA-256; of `memory` that of its header alone, which stands for the checksums of all chunks.
    pub sha256: Option<String>,
}

/// What an image is loaded as.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageRole {
    /// The kernel.
    Kernel,
    /// A module: the first one of a Linux guest is its initrd.
    Module,
}

/// A file that a reset of the guest loads again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// What it is loaded as.
    pub role: ImageRole,
    /// The file.
    pub file: String,
    /// What the guest is told that it is called.
    pub name: String,
    /// Its bytes.
    pub part: Part,
}

/// How a snapshot has a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskHow {
    /// A file of its own that shares what was not written since with the original.
    Reflink,
    /// A file of its own.
    Copy,
    /// The user's file, where it is; known again by its fingerprint.
    Own,
}

/// A disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Which one, from 0 on.
    pub slot: u32,
    /// Where its bytes are.
    pub how: DiskHow,
    /// `raw` or `qcow2`.
    pub format: String,
    /// Bytes that the guest sees.
    pub virtual_bytes: u64,
    /// The part, of a file of the snapshot's own.
    pub file: Option<String>,
    /// How long that is, if it is to be held against it.
    pub file_bytes: Option<u64>,
    /// What the user's file is known by.
    pub fingerprint: Option<String>,
    /// Whether the guest may not write it.
    pub read_only: bool,
}

/// What is known of a file of a snapshot before it is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'a> {
    /// What it is called.
    pub(crate) name: &'a str,
    /// How long it is.
    pub(crate) bytes: Option<u64>,
    /// Its SHA-256, or that of memory's header.
    pub(crate) sha256: Option<&'a str>,
}

impl<'a> Known<'a> {
    fn new(name: &'a str, part: &'a Part) -> Known<'a> {
        Known {
            name,
            bytes: Some(part.bytes),
            sha256: part.sha256.as_deref(),
        }
    }

    /// Whether the digest is of the whole file.
    pub(crate) fn is_summed(&self) -> bool {
        self.sha256.is_some() && self.name != MEMORY
    }
}

/// What stands in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    sha256: String,
    #[serde(borrow)]
    manifest: &'a RawValue,
}

/// What every format begins with.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

/// A new id.
///
/// # Errors
/// If the host has no random bytes.
pub fn fresh_id() -> std::io::Result<String> {
    let mut bytes = [0; ID_DIGITS / 2];
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut bytes[filled..], flags)?;
    }
    Ok(hexadecimal(&bytes))
}

impl Manifest {
    /// As it is written.
    pub fn to_text(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("keys are texts, numbers finite");
        let envelope = Envelope {
            sha256: sha256(text.as_bytes()),
            manifest: &RawValue::from_string(text).expect("it was just written"),
        };
        serde_json::to_string(&envelope).expect("keys are texts") + "\n"
    }

    /// Reads and checks it.
    ///
    /// # Errors
    /// If it is none, was changed, is of another format, or contradicts itself.
    pub fn read(text: &[u8]) -> Result<Manifest, SnapshotError> {
        let json = |error| damaged(MANIFEST, Damage::Json(error));
        let envelope: Envelope<'_> = serde_json::from_slice(text).map_err(json)?;
        let inside = envelope.manifest.get();
        if sha256(inside.as_bytes()) != envelope.sha256 {
            let what = "what stands in it".to_owned();
            return Err(damaged(MANIFEST, Damage::Checksum(what)));
        }
        let head: Head = serde_json::from_str(inside).map_err(json)?;
        if head.format != MANIFEST_FORMAT {
            return Err(SnapshotError::OtherFormat {
                snapshot: None,
                part: MANIFEST.to_owned(),
                found: head.format,
                known: MANIFEST_FORMAT,
            });
        }
        let manifest: Manifest = serde_json::from_str(inside).map_err(json)?;
        match manifest.contradiction() {
            None => Ok(manifest),
            Some(what) => Err(damaged(MANIFEST, Damage::Layout(what))),
        }
    }

    /// Pages of the guest.
    pub fn page_count(&self) -> u64 {
        self.memory_bytes / PAGE_BYTES as u64
    }

    /// Files that belong to it, beside the manifest, with what is known of each.
    pub(crate) fn parts(&self) -> Vec<Known<'_>> {
        let mut parts = vec![
            Known::new("state", &self.state),
            Known::new(MEMORY, &self.memory),
        ];
        let images = self.images.iter();
        parts.extend(images.map(|image| Known::new(&image.file, &image.part)));
        let disks = self.disks.iter().filter_map(|disk| {
            Some(Known {
                name: disk.file.as_deref()?,
                bytes: disk.file_bytes,
                sha256: None,
            })
        });
        parts.extend(disks);
        parts
    }

    /// What in it cannot be true.
    pub(crate) fn contradiction(&self) -> Option<String> {
        if self.memory_bytes == 0 || !self.memory_bytes.is_multiple_of(PAGE_BYTES as u64) {
            return Some(format!("memory of {} bytes", self.memory_bytes));
        }
        if self.vcpu_count == 0 {
            return Some("a guest without a vCPU".to_owned());
        }
        if !self.made_at.is_finite() || self.made_at < 0.0 {
            return Some("a time that is none".to_owned());
        }
        if self.id.len() != ID_DIGITS || !is_hexadecimal(&self.id) {
            return Some("an id that is none".to_owned());
        }
        if VmName::new(&self.vm).is_err() {
            return Some(format!("{:?} as the name of a VM", self.vm));
        }
        let parts = self.parts();
        if parts.len() > PARTS_MAX || self.disks.len() > PARTS_MAX {
            return Some(format!("more than {PARTS_MAX} parts"));
        }
        for (at, part) in parts.iter().enumerate() {
            let name = part.name;
            if !is_part_name(name) {
                return Some(format!("{name:?} as the name of a part"));
            }
            if parts[..at].iter().any(|other| other.name == name) {
                return Some(format!("{name:?} twice"));
            }
            if part.sha256.is_some_and(|digest| !is_digest(digest)) {
                return Some(format!("a SHA-256 of {name:?} that is none"));
            }
        }
        if self.state.sha256.is_none() || self.images.iter().any(|it| it.part.sha256.is_none()) {
            return Some("a part without a checksum".to_owned());
        }
        let wrong = self.disks.iter().enumerate().find(|(at, disk)| {
            let is_twice = self.disks[..*at].iter().any(|it| it.slot == disk.slot);
            let is_ours = disk.how != DiskHow::Own;
            is_twice || disk.file.is_some() != is_ours || (!is_ours && disk.fingerprint.is_none())
        });
        wrong.map(|(_, disk)| format!("a disk {} that cannot be found", disk.slot))
    }
}

/// Whether a file in a snapshot can be called so: never hidden, never a path, never ours.
pub(crate) fn is_part_name(name: &str) -> bool {
    let is_plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
    };
    name.len() <= PART_NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(is_plain)
        && name != MANIFEST
        && name != crate::locks::LOCK
}
