//! Socket pairs that hold much.
//!
//! What a Unix stream socket holds is its sender's send buffer, which the host bounds for ordinary users
//! (`net.core.wmem_max`, 208 KiB as Linux comes). A sender that drops what does not fit, as passt does, then drops most
//! of each burst. Whoever has CAP_NET_ADMIN over the socket's network namespace is not bound (socket(7),
//! `SO_SNDBUFFORCE`), and in a user namespace of its own every process has: so the pair is made by a short-lived
//! process in such namespaces.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::sockopt::{set_socket_send_buffer_size, set_socket_send_buffer_size_force};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::namespace::open_in_namespaces;

/// Two connected sockets, each of which takes about `len_bytes` before it blocks; less where the host forbids user
/// namespaces.
///
/// # Errors
/// What `socketpair` says.
pub fn pair(len_bytes: u32) -> io::Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    if force(&ours, len_bytes) && force(&theirs, len_bytes) {
        return Ok((ours, theirs));
    }
    if let Some(pair) = pair_from_namespace(len_bytes) {
        return Ok(pair);
    }
    for end in [&ours, &theirs] {
        // As much as there is to have is what an ordinary user gets.
        let _ = set_socket_send_buffer_size(end, len_bytes as usize);
    }
    Ok((ours, theirs))
}

/// The kernel doubles the value for its own books, and half of it is what it holds.
fn force(socket: impl AsFd, len_bytes: u32) -> bool {
    set_socket_send_buffer_size_force(socket, len_bytes as usize).is_ok()
}

/// The pair, made where this user is bound by nothing; `None` where the host does not allow that.
fn pair_from_namespace(len_bytes: u32) -> Option<(UnixStream, UnixStream)> {
    let [ours, theirs] = open_in_namespaces(libc::CLONE_NEWNET, || make_pair(len_bytes))?;
    Some((UnixStream::from(ours), UnixStream::from(theirs)))
}

/// What the short-lived process does: system calls only, no memory is taken.
fn make_pair(len_bytes: u32) -> Option<[OwnedFd; 2]> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .ok()?;
    (force(&ours, len_bytes) && force(&theirs, len_bytes)).then_some([ours, theirs])
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
