//! Socket pairs that hold much.
//!
//! What a Unix stream socket holds is its sender's send buffer, which the host bounds for ordinary users
//! (`net.core.wmem_max`, 208 KiB as Linux comes). A sender that drops what does not fit, as passt does, then drops most
//! of each burst. Whoever has CAP_NET_ADMIN over the socket's network namespace is not bound (socket(7),
//! `SO_SNDBUFFORCE`), and in a user namespace of its own every process has: so the pair is made by a short-lived
//! process in such namespaces.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use crate::namespace::open_in_namespaces;

/// Two connected sockets, each of which takes about `len_bytes` before it blocks; less where the host forbids user
/// namespaces.
///
/// # Errors
/// What `socketpair` says.
pub fn pair(len_bytes: u32) -> io::Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    if force(ours.as_raw_fd(), len_bytes) && force(theirs.as_raw_fd(), len_bytes) {
        return Ok((ours, theirs));
    }
    if let Some(pair) = pair_from_namespace(len_bytes) {
        return Ok(pair);
    }
    for end in [&ours, &theirs] {
        set(end.as_raw_fd(), libc::SO_SNDBUF, len_bytes);
    }
    Ok((ours, theirs))
}

fn force(fd: RawFd, len_bytes: u32) -> bool {
    set(fd, libc::SO_SNDBUFFORCE, len_bytes)
}

/// The kernel doubles the value for its own books, and half of it is what it holds.
fn set(fd: RawFd, option: libc::c_int, len_bytes: u32) -> bool {
    let value = len_bytes as libc::c_int;
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option reads one int, which lives through the call; a wrong descriptor is an error, nothing more.
    unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size,
        ) == 0
    }
}

/// The pair, made where this user is bound by nothing; `None` where the host does not allow that.
fn pair_from_namespace(len_bytes: u32) -> Option<(UnixStream, UnixStream)> {
    let [ours, theirs] = open_in_namespaces(libc::CLONE_NEWNET, || make_pair(len_bytes))?;
    Some((UnixStream::from(ours), UnixStream::from(theirs)))
}

/// What the short-lived process does: system calls only, no memory is taken.
fn make_pair(len_bytes: u32) -> Option<[RawFd; 2]> {
    let mut fds = [-1, -1];
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: the call writes two ints, and there are two.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) } != 0 {
        return None;
    }
    if fds.iter().all(|fd| force(*fd, len_bytes)) {
        return Some(fds);
    }
    for fd in fds {
        // SAFETY: this descriptor was made above and nobody else knows of it.
        unsafe { libc::close(fd) };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_deep_socket_takes_a_burst_without_waiting() {
        let check = |pair: Option<(UnixStream, UnixStream)>, least: usize| {
            let Some((mut sender, _receiver)) = pair else {
                eprintln!("skipped: this host allows no user namespaces");
                return;
            };
            sender.set_nonblocking(true).unwrap();
            let mut took = 0;
            while let Ok(count) = sender.write(&[0; 65_536]) {
                took += count;
            }
            assert!(took >= least, "it took {took} bytes");
        };
        check(pair(4 << 20).ok(), 65_536);
        check(pair_from_namespace(4 << 20), 4 << 20);
    }
}
