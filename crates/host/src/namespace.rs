//! A short-lived process in namespaces of its own, for what an ordinary user may do only there.
//!
//! In a user namespace of its own every process has all capabilities over what is made in it. The process shares our table
//! of descriptors, so what it opens is ours when it has ended.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};

/// The descriptors that `work` opened in new namespaces of these kinds (`CLONE_NEW*`; a user namespace always), none of
/// them known to anybody else; `None` where the host does not allow namespaces, or `work` could not do it.
///
/// `work` runs in a copy of this process that has this thread only: it may do system calls and nothing that takes memory or
/// a lock.
pub(crate) fn open_in_namespaces<const N: usize>(
    kinds: libc::c_int,
    work: impl FnOnce() -> Option<[OwnedFd; N]>,
) -> Option<[OwnedFd; N]> {
    let (mut reader, writer) = io::pipe().ok()?;
    let flags = libc::CLONE_FILES | libc::CLONE_NEWUSER | kinds | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is fork: the child has its own copy of this thread's stack and of all memory, and
    // does nothing below but system calls, so no lock that another thread held is touched.
    let child = unsafe {
        libc::syscall(
            libc::SYS_clone,
            flags as libc::c_ulong,
            0_usize,
            0_usize,
            0_usize,
            0_usize,
        )
    };
    if child == 0 {
        if let Some(fds) = work() {
            for fd in &fds {
                // If this is not heard, the other side reads too little and has no descriptors.
                let _ = rustix::io::write(&writer, &fd.as_raw_fd().to_ne_bytes());
            }
            // They are the other process's now.
            std::mem::forget(fds);
        }
        // SAFETY: ends this process at once, without the parent's destructors and exit handlers.
        unsafe { libc::_exit(0) }
    }
    if child < 0 {
        return None;
    }
    // It shares our descriptors, the pipe's too, so nothing is closed before it is gone.
    wait_for(Pid::from_raw(child as libc::pid_t)?);
    drop(writer);
    let mut fds = [-1; N];
    for fd in &mut fds {
        let mut bytes = [0; size_of::<RawFd>()];
        io::Read::read_exact(&mut reader, &mut bytes).ok()?;
        *fd = RawFd::from_ne_bytes(bytes);
    }
    // SAFETY: the child made these descriptors in the table that it shared with us, and told only us of them.
    Some(fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }))
}

fn wait_for(child: Pid) {
    while let Err(Errno::INTR) = waitpid(Some(child), WaitOptions::empty()) {}
}
