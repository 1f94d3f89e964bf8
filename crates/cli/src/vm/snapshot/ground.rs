//! What a snapshot says of the VM beside its state: what it was asked for, with files named by parts of the snapshot.

use std::path::PathBuf;

use api::{BootChoice, LimitsSaid, VmOrigin, VmSpec};
use serde::{Deserialize, Serialize};

/// What the manifest has as `spec`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ground {
    /// How the VM was started: words, folder, and what was asked for.
    pub(super) words: Vec<String>,
    #[serde(with = "api::host_path")]
    pub(super) folder: PathBuf,
    pub(super) asked: VmSpec,
    /// What its machine is: kernel, initrd and the snapshot's own disks are names of parts.
    pub(super) given: VmSpec,
    /// The string of each module.
    pub(super) strings: Vec<String>,
    /// Whether the guest's kernel looks at the machine's generation, and makes its random numbers anew when that is another.
    pub(super) reseeds: bool,
    /// The boot entry of its disk that it was started by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) boot: Option<BootChoice>,
}

/// The part that is the kernel.
pub(super) const KERNEL: &str = "kernel";

/// The part that is the `n`th disk.
pub(super) fn disk(n: usize) -> String {
    format!("disk{n}")
}

/// What `origin` describes, as it is now: with these limits, of so much memory, and without what belongs to one host or one run.
pub(super) fn of(
    origin: &VmOrigin,
    (limits, memory_bytes): (&LimitsSaid, u64),
    strings: Vec<String>,
    reseeds: bool,
) -> Ground {
    let mut given = origin.given.clone();
    let absolute = |path: &mut PathBuf| *path = origin.folder.join(&*path);
    for disk in &mut given.disks {
        absolute(&mut disk.path);
        disk.base.iter_mut().for_each(absolute);
    }
    given.page_file.iter_mut().for_each(absolute);
    given.vsock.iter_mut().for_each(absolute);
    // What these were is in the disks and the initrd.
    given.user_data = None;
    given.ssh_keys = Vec::new();
    given.hostname = None;
    given.image = None;
    given.keep = None;
    given.app = None;
    given.include = Vec::new();
    given.environment = Vec::new();
    given.workdir = None;
    given.words = Vec::new();
    given.modules = Vec::new();
    given.passt = None;
    given.kernel = Some(KERNEL.into());
    given.initrd = None;
    given.set_limits(limits, memory_bytes);
    Ground {
        words: origin.words.clone(),
        folder: origin.folder.clone(),
        asked: origin.asked.clone(),
        given,
        strings,
        reseeds,
        boot: origin.boot.clone(),
    }
}
