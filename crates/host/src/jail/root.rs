//! An empty root: a folder that has nothing in it and cannot be written becomes the root of this process.

use std::io;

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root};

/// A folder that every host has, to put the empty one upon.
const STAND: &str = "/proc";

/// Leaves every path behind, for all threads of this process; it must be in a mount namespace of its own, with the
/// right to change it. What is open stays open.
pub(super) fn leave_everything() -> io::Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // One inode is its root.
    mount(
        "none",
        STAND,
        "tmpfs",
        flags,
        c"size=4k,nr_inodes=1,mode=555",
    )?;
    chdir(STAND)?;
    // The old root comes to lie upon the new one (pivot_root(2)), and goes from there.
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")?;
    mount_remount("/", flags | MountFlags::RDONLY, c"")?;
    // A root that still has something in it is none.
    match rustix::fs::statat(CWD, STAND, rustix::fs::AtFlags::empty()) {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(io::Error::other("the root is not empty")),
    }
}
