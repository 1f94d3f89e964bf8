//! Memory files that the host backs with huge pages.
//!
//! A file of `memfd_create` gets huge pages only where the administrator has changed
//! `/sys/kernel/mm/transparent_hugepage/shmem_enabled`. A tmpfs of one's own decides for itself (tmpfs(5), `huge=`), and may
//! be mounted by anybody in a user namespace of their own. It is attached nowhere: no path leads to it, it is known by its
//! descriptor, and ends with it.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rustix::fs::{AtFlags, Mode, OFlags, open, openat, unlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};
use rustix::process::{getegid, geteuid};

use crate::mapping::MemFd;
use crate::namespace::open_in_namespaces;

/// Bytes of a huge page.
pub const HUGE_PAGE_BYTES: u64 = crate::mapping::HUGE_PAGE_BYTES as u64;

/// Huge pages as far as the file reaches, and as many as it wants.
const OPTIONS: [(&CStr, &CStr); 2] = [(c"huge", c"within_size"), (c"size", c"0")];

/// A file of `len_bytes` that shows up as `name` in `/proc/PID/maps` and comes in huge pages where the host has them at
/// hand, in smaller ones elsewhere; `None` where this process may not have a tmpfs, or the host has no huge pages.
///
/// # Errors
/// What the kernel says of the file.
pub fn file(name: &CStr, len_bytes: u64) -> io::Result<Option<MemFd>> {
    static FOLDER: OnceLock<Option<OwnedFd>> = OnceLock::new();
    let Some(folder) = FOLDER.get_or_init(|| mount().or_else(mount_in_namespace)) else {
        return Ok(None);
    };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?;
    // The name was for `/proc` only, and the next file has the same.
    unlinkat(folder, name, AtFlags::empty())?;
    MemFd::of_file(File::from(file), len_bytes).map(Some)
}

/// The tmpfs, by its descriptor. System calls only, no memory is taken.
fn mount() -> Option<OwnedFd> {
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
    for (key, value) in OPTIONS {
        fsconfig_set_string(&context, key, value).ok()?;
    }
    fsconfig_create(&context).ok()?;
    let limits = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, limits).ok()
}

fn mount_in_namespace() -> Option<OwnedFd> {
    let user = geteuid().as_raw();
    let group = getegid().as_raw();
    // Files belong to this user there as here. Another user's group list is not ours to change, so that is forbidden
    // first.
    let maps = [
        (c"/proc/self/setgroups", "deny".to_owned()),
        (c"/proc/self/uid_map", format!("{user} {user} 1")),
        (c"/proc/self/gid_map", format!("{group} {group} 1")),
    ];
    let [mount] = open_in_namespaces(libc::CLONE_NEWNS, || {
        let is_mapped = maps.iter().all(|(path, text)| write(path, text.as_bytes()));
        if is_mapped {
            mount().map(|fd| [fd])
        } else {
            None
        }
    })?;
    Some(mount)
}

/// Writes a file by system calls only.
fn write(path: &CStr, bytes: &[u8]) -> bool {
    open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::write(&file, bytes))
        .is_ok_and(|written| written == bytes.len())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn one_byte_takes_a_huge_page_and_a_hole_costs_nothing() {
        let check = |folder: Option<OwnedFd>, who: &str| {
            if folder.is_none() {
                eprintln!("skipped: {who} may not mount a tmpfs here");
            }
        };
        check(mount_in_namespace(), "a user namespace");
        let Some(memory) = file(c"memory", 4 * HUGE_PAGE_BYTES).unwrap() else {
            eprintln!("skipped: no huge pages here");
            return;
        };
        let held = || memory.file().metadata().unwrap().blocks() * 512;
        assert_eq!(held(), 0);
        memory
            .file()
            .write_all_at(b"x", HUGE_PAGE_BYTES + 5)
            .unwrap();
        // A host whose memory is in pieces gives the largest piece it has: since Linux 6.14 anything between the two
        // (mm/shmem.c, shmem_alloc_and_add_folio).
        assert!(
            held().is_power_of_two() && (4096..=HUGE_PAGE_BYTES).contains(&held()),
            "{} bytes",
            held()
        );
        // A second file has the same name, and is another one.
        let second = file(c"memory", HUGE_PAGE_BYTES).unwrap().unwrap();
        assert_eq!(second.file().metadata().unwrap().blocks(), 0);
    }
}
