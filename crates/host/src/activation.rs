//! Sockets that systemd has opened for this process: sd_listen_fds(3).

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

/// The first descriptor that is passed (SD_LISTEN_FDS_START).
const FIRST: RawFd = 3;

/// Whether it was taken: a descriptor has one owner.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// The first socket that was passed, if one was, and it is a Unix socket. The first call gets it.
pub fn socket() -> Option<UnixListener> {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let is_ours = number("LISTEN_PID") == Some(std::process::id());
    if !is_ours || number("LISTEN_FDS").is_none_or(|count| count == 0) {
        return None;
    }
    if IS_TAKEN.swap(true, Ordering::Relaxed) {
        return None;
    }
    // SAFETY: the variables say that this process was given this descriptor for itself, nothing else here has opened or
    // taken it (what is opened later has another number as long as it is open), and it is taken once.
    let descriptor = unsafe { OwnedFd::from_raw_fd(FIRST) };
    let family = rustix::net::getsockname(&descriptor).ok()?.address_family();
    if family != rustix::net::AddressFamily::UNIX {
        return None;
    }
    // Not for those whom this process starts.
    rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC).ok()?;
    Some(descriptor.into())
}
