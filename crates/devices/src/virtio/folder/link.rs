//! The socket to who serves a folder. It outlives the guest's lives: what is half sent when a driver resets the device goes on to
//! be sent, and what is half received to be received, for the other side takes whole messages.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use folder::{ANSWER_BYTES_MAX, ANSWER_HEADER_BYTES};
use host::lock::Lock;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// What a folder's device is connected to. Cheap to clone; clones are the same port.
#[derive(Clone, Debug)]
pub struct FolderPort(Arc<Port>);

#[derive(Debug)]
struct Port {
    socket: UnixStream,
    link: Lock<Link>,
}

impl FolderPort {
    /// A socket to who serves the folder.
    pub fn new(socket: UnixStream) -> FolderPort {
        FolderPort(Arc::new(Port {
            socket,
            link: Lock::default(),
        }))
    }

    /// What to wait for.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }

    /// Does something with what is on its way, which one worker does at a time.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Link, BorrowedFd<'_>) -> T) -> T {
        act(&mut self.0.link.lock(), self.fd())
    }
}

/// What is on its way, and where it stands.
#[derive(Debug, Default)]
pub(super) struct Link {
    outgoing: Vec<u8>,
    sent_bytes: usize,
    /// The next answer, or its header, of which so much was received.
    incoming: Vec<u8>,
    received_bytes: usize,
    last_ticket: u64,
    /// The server is gone, or cannot be understood any more.
    pub(super) is_lost: bool,
}

/// How far it went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Went {
    /// All of it.
    Through,
    /// The socket has no room, or nothing more, now.
    Waits,
}

impl Link {
    /// Has a message sent, in which the guest's number for it is replaced: what by. All before it has been sent.
    pub(super) fn put(&mut self, mut message: Vec<u8>) -> u64 {
        self.last_ticket += 1;
        message[8..16].copy_from_slice(&self.last_ticket.to_le_bytes());
        self.outgoing = message;
        self.sent_bytes = 0;
        self.last_ticket
    }

    /// Sends what is to be sent, as far as it goes.
    ///
    /// # Errors
    /// If the other side is gone.
    pub(super) fn flush(&mut self, socket: BorrowedFd<'_>) -> io::Result<Went> {
        while self.sent_bytes < self.outgoing.len() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match send(socket, &self.outgoing[self.sent_bytes..], flags) {
                Ok(count) => self.sent_bytes += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Went::Waits),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Went::Through)
    }

    /// Receives the next answer, as far as it has come; then it is there until [`Link::take`].
    ///
    /// # Errors
    /// If the other side is gone, or says what is no answer.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<Went> {
        loop {
            if self.received_bytes == self.incoming.len() {
                let whole = self.said_bytes();
                if !(ANSWER_HEADER_BYTES..=ANSWER_BYTES_MAX).contains(&whole) {
                    let what = format!("it has an answer of {whole} bytes");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
                if self.received_bytes == whole {
                    return Ok(Went::Through);
                }
                self.incoming.resize(whole, 0);
            }
            let rest = &mut self.incoming[self.received_bytes..];
            match recv(socket, rest, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((count, _)) => self.received_bytes += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Went::Waits),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// How long the next answer is, as far as it has said.
    fn said_bytes(&self) -> usize {
        let said = self.incoming.first_chunk().copied();
        said.map_or(ANSWER_HEADER_BYTES, |said| {
            u32::from_le_bytes(said) as usize
        })
    }

    /// The answer that was received, which is whole, and the number of its message.
    pub(super) fn take(&mut self) -> (u64, Vec<u8>) {
        self.received_bytes = 0;
        let answer = std::mem::take(&mut self.incoming);
        let ticket = answer[8..16].try_into().map_or(0, u64::from_le_bytes);
        (ticket, answer)
    }

    /// Nothing is sent or received any more.
    pub(super) fn lose(&mut self) {
        *self = Link {
            is_lost: true,
            last_ticket: self.last_ticket,
            ..Link::default()
        };
    }
}
