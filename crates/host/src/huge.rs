//! Memory files that the host backs with huge pages.
//!
//! A file of `memfd_create` gets huge pages only where the administrator has changed
//! `/sys/kernel/mm/transparent_hugepage/shmem_enabled`. A tmpfs of one's own decides for itself (tmpfs(5), `huge=`), and may
//! be mounted by anybody in a user namespace of their own. It is attached nowhere: no path leads to it, it is known by its
//! descriptor, and ends with it.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use crate::mapping::MemFd;
use crate::namespace::open_in_namespaces;

/// Bytes of a huge page.
pub const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// What new mount calls take (mount(2) API of Linux 5.2, `include/uapi/linux/mount.h`).
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const NO_SUID_NO_DEVICES_NO_PROGRAMS: libc::c_uint = 2 | 4 | 8;
/// Huge pages as far as the file reaches, and as many as it wants.
const OPTIONS: [(&CStr, &CStr); 2] = [(c"huge", c"within_size"), (c"size", c"0")];

/// A file of `len_bytes` that shows up as `name` in `/proc/PID/maps` and comes in huge pages where the host has them at
/// hand, in small ones elsewhere; `None` where this process may not have a tmpfs, or the host has no huge pages.
///
/// # Errors
/// What the kernel says of the file.
pub fn file(name: &CStr, len_bytes: u64) -> io::Result<Option<MemFd>> {
    static FOLDER: OnceLock<Option<OwnedFd>> = OnceLock::new();
    let Some(folder) = FOLDER.get_or_init(|| own(mount()).or_else(mount_in_namespace)) else {
        return Ok(None);
    };
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
    // SAFETY: the call reads a C string, which lives through it.
    let fd = unsafe { libc::openat(folder.as_raw_fd(), name.as_ptr(), flags, 0o600) };
    let fd = own((fd >= 0).then_some(fd)).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the call reads a C string, which lives through it. The name was for `/proc` only, and the next file has the same.
    if unsafe { libc::unlinkat(folder.as_raw_fd(), name.as_ptr(), 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    MemFd::of_file(File::from(fd), len_bytes).map(Some)
}

fn own(fd: Option<RawFd>) -> Option<OwnedFd> {
    // SAFETY: whoever calls has just got this descriptor from the kernel, and nobody else knows of it.
    fd.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The tmpfs, by its descriptor. System calls only, no memory is taken.
fn mount() -> Option<RawFd> {
    let fd = |result: libc::c_long| RawFd::try_from(result).ok().filter(|fd| *fd >= 0);
    // SAFETY: the call reads a C string, which lives through it.
    let context =
        fd(unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), FSOPEN_CLOEXEC) })?;
    let is_set = OPTIONS.iter().all(|(key, value)| {
        let (key, value) = (key.as_ptr(), value.as_ptr());
        // SAFETY: as above.
        unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                context,
                FSCONFIG_SET_STRING,
                key,
                value,
                0,
            ) == 0
        }
    });
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: this command takes no strings.
    let create = || unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context,
            FSCONFIG_CMD_CREATE,
            none,
            none,
            0,
        ) == 0
    };
    let mount = if is_set && create() {
        // SAFETY: the call takes numbers only.
        fd(unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                context,
                FSMOUNT_CLOEXEC,
                NO_SUID_NO_DEVICES_NO_PROGRAMS,
            )
        })
    } else {
        None
    };
    // SAFETY: the descriptor was made above and nobody else knows of it.
    unsafe { libc::close(context) };
    mount
}

fn mount_in_namespace() -> Option<OwnedFd> {
    // Files belong to this user there as here. Another user's group list is not ours to change, so that is forbidden first.
    // SAFETY: the call takes nothing and cannot fail.
    let user = unsafe { libc::geteuid() };
    // SAFETY: as above.
    let group = unsafe { libc::getegid() };
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
    // SAFETY: the call reads a C string, which lives through it.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    if fd < 0 {
        return false;
    }
    // SAFETY: the call reads `bytes`, which lives through it.
    let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    // SAFETY: the descriptor was made above and nobody else knows of it.
    unsafe { libc::close(fd) };
    written == bytes.len() as isize
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
        assert!(
            [4096, HUGE_PAGE_BYTES].contains(&held()),
            "{} bytes",
            held()
        );
        // A second file has the same name, and is another one.
        let second = file(c"memory", HUGE_PAGE_BYTES).unwrap().unwrap();
        assert_eq!(second.file().metadata().unwrap().blocks(), 0);
    }
}
