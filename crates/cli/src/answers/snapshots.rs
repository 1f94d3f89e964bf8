//! What programs read of snapshots.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use snapshot::{DiskHow, ImageRole, Listed, Manifest, MemoryReader, Snapshot};

use super::Problem;

/// A snapshot in the list.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ListedSnapshot<'a> {
    /// What it is called.
    pub name: &'a str,
    /// What is wrong with it, if it cannot be used; then nothing else is known of it.
    pub problem: Option<Problem>,
    /// What its files take of the disk; what it shares with others counts.
    pub disk_bytes: u64,
    /// Whether somebody holds it.
    pub in_use: bool,
    /// Processes that hold it, as far as they can be seen.
    pub processes: &'a [u32],
    /// What it is.
    pub of: Option<SnapshotOf<'a>>,
}

/// What a snapshot is of.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SnapshotOf<'a> {
    /// 32 hexadecimal digits that no other snapshot has.
    pub id: &'a str,
    /// The VM.
    pub vm: &'a str,
    /// `suspended` if the VM ended with it, `snapshot` if it ran on.
    pub kind: &'static str,
    /// When it was made, in seconds since 1970-01-01 UTC.
    pub made: f64,
    /// The version of Mother that made it.
    pub made_by: &'a str,
    /// Memory that the guest believes to have.
    pub memory_bytes: u64,
    /// What of it may be in the host's memory.
    pub limit_bytes: Option<u64>,
    /// How many vCPUs it has.
    pub vcpus: u32,
    /// What executed it.
    pub engine: &'a str,
}

/// A snapshot.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct InspectedSnapshot<'a> {
    /// What it is called, or where it is.
    pub name: &'a str,
    /// Where it is.
    pub folder: String,
    /// What its files take of the disk; what it shares with others counts.
    pub disk_bytes: u64,
    /// Whether somebody holds it.
    pub in_use: bool,
    /// Processes that hold it, as far as they can be seen.
    pub processes: &'a [u32],
    /// What it is.
    pub of: SnapshotOf<'a>,
    /// Memory that is not zeros.
    pub stored_bytes: u64,
    /// What that takes in its file.
    pub memory_file_bytes: u64,
    /// What a reset of the guest loads again.
    pub images: Vec<SnapshotImage<'a>>,
    /// Its disks.
    pub disks: Vec<SnapshotDisk<'a>>,
    /// What the VM was asked for.
    pub asked: &'a Value,
}

/// A file that a reset of the guest loads again.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SnapshotImage<'a> {
    /// `kernel` or `module`.
    pub role: &'static str,
    /// What the guest is told that it is called.
    pub name: &'a str,
    /// The file in the folder.
    pub file: &'a str,
    /// How long it is.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: Option<&'a str>,
}

/// A disk of a snapshot.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SnapshotDisk<'a> {
    /// Which one, from 0 on.
    pub slot: u32,
    /// `reflink`, `copy`, or `own`: the user's file, where it is.
    pub how: &'static str,
    /// `raw` or `qcow2`.
    pub format: &'a str,
    /// Bytes that the guest sees.
    pub size_bytes: u64,
    /// The file in the folder, if it is the snapshot's.
    pub file: Option<&'a str>,
    /// What the user's file is known by.
    pub fingerprint: Option<&'a str>,
    /// Whether the guest may not write it.
    pub read_only: bool,
}

/// Whether a snapshot is as it was written.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct VerifiedSnapshot<'a> {
    /// What it is called, or where it is.
    pub name: &'a str,
    /// Whether every byte that has a checksum is.
    pub whole: bool,
    /// Why not, or why that is not known.
    pub error: Option<Problem>,
}

/// What `mother snapshots rm` and `prune` removed.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FreedSnapshots<'a> {
    /// Snapshots that are gone.
    pub removed: &'a [String],
    /// What that gave back.
    pub freed_bytes: u64,
}

impl<'a> ListedSnapshot<'a> {
    /// Of a line of the list.
    pub fn new(listed: &'a Listed, problem: Option<Problem>) -> ListedSnapshot<'a> {
        ListedSnapshot {
            name: &listed.name,
            problem,
            disk_bytes: listed.disk_bytes,
            in_use: listed.in_use,
            processes: &listed.processes,
            of: listed.manifest.as_ref().ok().map(SnapshotOf::new),
        }
    }
}

impl<'a> SnapshotOf<'a> {
    fn new(manifest: &'a Manifest) -> SnapshotOf<'a> {
        SnapshotOf {
            id: &manifest.id,
            vm: &manifest.vm,
            kind: manifest.kind.as_str(),
            made: manifest.made_at,
            made_by: &manifest.made_by,
            memory_bytes: manifest.memory_bytes,
            limit_bytes: manifest.limit_bytes,
            vcpus: manifest.vcpu_count,
            engine: &manifest.engine,
        }
    }
}

impl<'a> InspectedSnapshot<'a> {
    /// Of a snapshot, its memory, and who holds it.
    pub fn new(
        snapshot: &'a Snapshot,
        memory: &MemoryReader,
        users: Option<&'a [u32]>,
    ) -> InspectedSnapshot<'a> {
        let manifest = snapshot.manifest();
        let images = manifest.images.iter().map(|image| SnapshotImage {
            role: match image.role {
                ImageRole::Kernel => "kernel",
                ImageRole::Module => "module",
            },
            name: &image.name,
            file: &image.file,
            bytes: image.part.bytes,
            sha256: image.part.sha256.as_deref(),
        });
        let disks = manifest.disks.iter().map(|disk| SnapshotDisk {
            slot: disk.slot,
            how: match disk.how {
                DiskHow::Reflink => "reflink",
                DiskHow::Copy => "copy",
                DiskHow::Own => "own",
            },
            format: &disk.format,
            size_bytes: disk.virtual_bytes,
            file: disk.file.as_deref(),
            fingerprint: disk.fingerprint.as_deref(),
            read_only: disk.read_only,
        });
        InspectedSnapshot {
            name: snapshot.name(),
            folder: snapshot.path().display().to_string(),
            disk_bytes: snapshot.disk_bytes(),
            in_use: users.is_some(),
            processes: users.unwrap_or_default(),
            of: SnapshotOf::new(manifest),
            stored_bytes: memory.stored_pages() * snapshot::PAGE_BYTES as u64,
            memory_file_bytes: manifest.memory.bytes,
            images: images.collect(),
            disks: disks.collect(),
            asked: &manifest.spec,
        }
    }
}
