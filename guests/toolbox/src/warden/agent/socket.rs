//! Stream sockets of the guest's socket device (vsock(7)), which the standard library does not have.
#![allow(
    unsafe_code,
    reason = "there is no safe form of socket(2), bind(2), listen(2) and accept(2) for these addresses"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `AF_VSOCK`, `SOCK_STREAM` and `SOCK_CLOEXEC` (linux/socket.h).
const FAMILY: u16 = 40;
const STREAM: i32 = 1;
const CLOSED_ON_EXEC: i32 = 0o2_000_000;

/// `VMADDR_CID_ANY` and `VMADDR_CID_HOST` (linux/vm_sockets.h).
const ANY: u32 = u32::MAX;
const HOST: u32 = 2;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

/// `struct sockaddr_vm`.
#[repr(C)]
#[derive(Default)]
struct Address {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    rest: [u8; 4],
}

unsafe extern "C" {
    fn socket(domain: i32, kind: i32, protocol: i32) -> i32;
    fn bind(fd: i32, address: *const Address, len: u32) -> i32;
    fn listen(fd: i32, backlog: i32) -> i32;
    fn accept4(fd: i32, address: *mut Address, len: *mut u32, flags: i32) -> i32;
}

/// A socket that hears connections to a port.
pub(super) struct Listener(OwnedFd);

impl Listener {
    /// Needs the kernel's sockets of this family, not yet the device's driver.
    pub(super) fn bind(port: u32) -> io::Result<Listener> {
        // SAFETY: it takes numbers and touches no memory.
        let fd = check(unsafe { socket(FAMILY.into(), STREAM | CLOSED_ON_EXEC, 0) })?;
        // SAFETY: the descriptor is new and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let address = Address {
            family: FAMILY,
            port,
            cid: ANY,
            ..Address::default()
        };
        let len = size_of::<Address>() as u32;
        // SAFETY: the address lives across the call and is as long as is said.
        check(unsafe { bind(fd.as_raw_fd(), &raw const address, len) })?;
        // SAFETY: it takes numbers and touches no memory.
        check(unsafe { listen(fd.as_raw_fd(), BACKLOG) })?;
        Ok(Listener(fd))
    }

    /// The next connection, if it is the host's.
    pub(super) fn accept(&self) -> io::Result<Option<File>> {
        let mut peer = Address::default();
        let mut len = size_of::<Address>() as u32;
        let number = self.0.as_raw_fd();
        // SAFETY: both live across the call, and the length is that of the address.
        let accepted =
            check(unsafe { accept4(number, &raw mut peer, &raw mut len, CLOSED_ON_EXEC) });
        match accepted {
            Ok(fd) => {
                // SAFETY: the descriptor is new and nobody else's.
                let stream = unsafe { OwnedFd::from_raw_fd(fd) };
                Ok((peer.cid == HOST).then(|| File::from(stream)))
            }
            // Somebody went away before, or a signal came.
            Err(error) if matches!(error.raw_os_error(), Some(4 | 103 | 104)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
