//! Streams of bytes between named ports of a guest (`/dev/virtio-ports/NAME`) and this process, beside the console.
//!
//! Each direction is a pipe of the host's. So what waits is bounded by the kernel, either side sees the other's end as
//! on any pipe, and a guest whose bytes nobody takes waits in its own driver: the device's thread finds no room and
//! leaves the driver's buffers where they are, no vCPU waits, and no time is counted.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use devices::virtio::console::PortEnd;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// One port of the guest's and what is behind it. A guest that starts again finds the same streams where they were.
#[derive(Debug)]
pub struct Channel {
    pub(crate) name: String,
    from_guest: Option<OwnedFd>,
    to_guest: Option<OwnedFd>,
    is_at_end: bool,
}

impl Channel {
    /// A port called `name` with nothing behind it yet.
    pub fn new(name: &str) -> Channel {
        Channel {
            name: name.to_owned(),
            from_guest: None,
            to_guest: None,
            is_at_end: false,
        }
    }

    /// What the guest writes to the port. It ends with the VM. Closed, what the guest writes is dropped.
    ///
    /// # Errors
    /// If the host gives no pipe.
    pub fn from_guest(&mut self) -> io::Result<File> {
        let (reader, writer) = io::pipe()?;
        self.from_guest = Some(never_blocking(writer.into())?);
        Ok(File::from(OwnedFd::from(reader)))
    }

    /// What the guest reads from the port. A sender that is faster than the guest waits.
    ///
    /// # Errors
    /// If the host gives no pipe.
    pub fn to_guest(&mut self) -> io::Result<File> {
        let (reader, writer) = io::pipe()?;
        self.to_guest = Some(never_blocking(reader.into())?);
        Ok(File::from(OwnedFd::from(writer)))
    }
}

/// The two ends of a pipe have flags of their own.
fn never_blocking(end: OwnedFd) -> io::Result<OwnedFd> {
    let flags = fcntl_getfl(&end)?;
    fcntl_setfl(&end, flags | OFlags::NONBLOCK)?;
    Ok(end)
}

impl PortEnd for Channel {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let Some(to) = &self.from_guest else {
            return bytes.len();
        };
        match rustix::io::write(to, bytes) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            // Nobody reads any more, and nobody will.
            Err(_) => bytes.len(),
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> usize {
        let Some(from) = &self.to_guest else { return 0 };
        match rustix::io::read(from, bytes) {
            Ok(count) => {
                self.is_at_end = count == 0;
                count
            }
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => {
                self.is_at_end = true;
                0
            }
        }
    }

    fn arrival(&self) -> Option<BorrowedFd<'_>> {
        self.to_guest.as_ref().map(AsFd::as_fd)
    }

    fn quiet(&mut self) {}

    fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    fn room(&self) -> Option<BorrowedFd<'_>> {
        self.from_guest.as_ref().map(AsFd::as_fd)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn what_nobody_takes_stays_with_the_guest() {
        let mut channel = Channel::new("test");
        let mut taken = channel.from_guest().unwrap();
        let sent: Vec<u8> = (0..1_000_000).map(|n| (n % 251) as u8).collect();
        let mut at = 0;
        let mut got = Vec::new();
        while at < sent.len() {
            match channel.write(&sent[at..]) {
                0 => {
                    let mut piece = [0; 1000];
                    let count = taken.read(&mut piece).unwrap();
                    got.extend_from_slice(&piece[..count]);
                }
                count => at += count,
            }
        }
        drop(channel);
        taken.read_to_end(&mut got).unwrap();
        assert!(got == sent);
    }

    #[test]
    fn the_end_of_either_side_is_seen() {
        let mut channel = Channel::new("test");
        drop(channel.from_guest().unwrap());
        assert_eq!(channel.write(b"to nobody"), 9);
        let mut given = channel.to_guest().unwrap();
        let mut bytes = [0; 10];
        assert_eq!((channel.read(&mut bytes), channel.is_at_end()), (0, false));
        given.write_all(b"last").unwrap();
        drop(given);
        assert_eq!((channel.read(&mut bytes), channel.is_at_end()), (4, false));
        assert_eq!((channel.read(&mut bytes), channel.is_at_end()), (0, true));
    }
}
