//! A short-lived process in namespaces of its own, for what an ordinary user may do only there.
//!
//! In a user namespace of its own every process has all capabilities over what is made in it. The process shares our table
//! of descriptors, so what it opens is ours when it has ended.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// The descriptors that `work` opened in new namespaces of these kinds (`CLONE_NEW*`; a user namespace always), none of
/// them known to anybody else; `None` where the host does not allow namespaces, or `work` could not do it.
///
/// `work` runs in a copy of this process that has this thread only: it may do system calls and nothing that takes memory or
/// a lock.
pub(crate) fn open_in_namespaces<const N: usize>(
    kinds: libc::c_int,
    work: impl FnOnce() -> Option<[RawFd; N]>,
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
            // SAFETY: the call reads the array, four bytes for each descriptor.
            unsafe { libc::write(writer.as_raw_fd(), fds.as_ptr().cast(), size_of_val(&fds)) };
        }
        // SAFETY: ends this process at once, without the parent's destructors and exit handlers.
        unsafe { libc::_exit(0) }
    }
    if child < 0 {
        return None;
    }
    // It shares our descriptors, the pipe's too, so nothing is closed before it is gone.
    wait_for(child as libc::pid_t);
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

fn wait_for(child: libc::pid_t) {
    loop {
        let mut status = 0;
        // SAFETY: `child` is our child, and `status` lives through the call.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        if waited >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return;
        }
    }
}
