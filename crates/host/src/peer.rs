//! Who is at the other end of a Unix socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Who connected, as it is seen from this process's namespaces (`SO_PEERCRED`, unix(7)): somebody whom these do not know has the
/// number 0, and a user whom they do not know is 65534.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// The process.
    pub process: i32,
    /// Its user.
    pub user: u32,
}

/// Asks the kernel.
///
/// # Errors
/// If it is no such socket.
pub fn of(socket: impl AsFd) -> io::Result<Peer> {
    let mut credentials = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the call writes at most `len` bytes to the struct, any bits of which are a value of it.
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut len,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Peer {
        process: credentials.pid,
        user: credentials.uid,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_other_end_is_this_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = of(&one).unwrap();
        assert_eq!(peer.process.cast_unsigned(), std::process::id());
        assert_eq!(peer.user, rustix::process::geteuid().as_raw());
        assert!(of(std::io::pipe().unwrap().0).is_err());
    }
}
