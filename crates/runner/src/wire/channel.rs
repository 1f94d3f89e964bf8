//! A socket pair between two processes of a VM: whole messages, with the descriptors that belong to them.
//!
//! The socket keeps packets apart (`SOCK_SEQPACKET`, unix(7)), so a reader never waits for the rest of a message, and
//! descriptors (`SCM_RIGHTS`) cannot come with the wrong one. Every message is one packet of JSON, bounded in length;
//! what is longer, is no message, or lost descriptors on its way is an error, not a guess.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, send,
    sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest message in bytes. What a socket holds by default is a little more (`net.core.wmem_default`, 212,992).
const MESSAGE_BYTES_MAX: usize = 192 << 10;

/// Descriptors with one message, at most; the kernel's own limit is 253 (`SCM_MAX_FD`).
pub(crate) const DESCRIPTORS_MAX: usize = 64;

/// One end of the pair. Messages may be sent by several threads; one thread receives.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
}

impl Channel {
    /// Both ends, neither of which a program that is started inherits.
    pub(crate) fn pair() -> io::Result<(Channel, Channel)> {
        let (one, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Channel { socket: one }, Channel { socket: other }))
    }

    /// The end that `socket` is; `None` if it is no such socket.
    pub(crate) fn of(socket: OwnedFd) -> Option<Channel> {
        let kind = rustix::net::sockopt::socket_type(&socket).ok()?;
        (kind == SocketType::SEQPACKET).then_some(Channel { socket })
    }

    /// The end that `socket` is, which was made or accepted as such a socket.
    pub(crate) fn accepted(socket: OwnedFd) -> Channel {
        Channel { socket }
    }

    /// The descriptor, for a program that is started with it.
    pub(crate) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Sends `message` and `descriptors` with it, waiting for room.
    ///
    /// # Errors
    /// If the other end is closed (`BrokenPipe`, `ConnectionReset`), or the message is too long.
    pub(crate) fn send(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        self.send_with(message, descriptors, SendFlags::empty())
    }

    /// The same without waiting: for who must not depend on how fast the other end reads, or whether it does.
    ///
    /// # Errors
    /// As [`Channel::send`]; `WouldBlock` if there is no room.
    pub(crate) fn send_now(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        self.send_with(message, descriptors, SendFlags::DONTWAIT)
    }

    /// Sends `message` without descriptors by a call that cannot have any: for a jail that lets none out.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub(crate) fn say(&self, message: &impl Serialize) -> io::Result<()> {
        let bytes = bytes_of(message)?;
        loop {
            match send(&self.socket, &bytes, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                sent => return sent.map(drop).map_err(io::Error::from),
            }
        }
    }

    fn send_with(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
        flags: SendFlags,
    ) -> io::Result<()> {
        let flags = flags | SendFlags::NOSIGNAL;
        let bytes = bytes_of(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        // The space may have room for one more by its alignment.
        let rights = SendAncillaryMessage::ScmRights(descriptors);
        if descriptors.len() > DESCRIPTORS_MAX
            || (!descriptors.is_empty() && !ancillary.push(rights))
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "too many descriptors for one message",
            ));
        }
        loop {
            let packet = [IoSlice::new(&bytes)];
            match sendmsg(&self.socket, &packet, &mut ancillary, flags) {
                Err(rustix::io::Errno::INTR) => {}
                sent => return sent.map(drop).map_err(io::Error::from),
            }
        }
    }

    /// Waits for the next message; `None` when the other end is closed and all that it sent has been read.
    ///
    /// # Errors
    /// If what came is no whole message.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut packet = [IoSliceMut::new(&mut bytes)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            match recvmsg(&self.socket, &mut packet, &mut ancillary, flags) {
                Err(rustix::io::Errno::INTR) => {}
                // The other end was closed with messages of ours unread.
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                received => break received?,
            }
        };
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        if received
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a message was cut short",
            ));
        }
        let message = serde_json::from_slice(&bytes[..received.bytes])?;
        Ok(Some((message, descriptors)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A message as it is sent, if it is not too long.
fn bytes_of(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        let len_bytes = bytes.len();
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a message of {len_bytes} bytes is longer than {MESSAGE_BYTES_MAX}"),
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn messages_stay_whole_and_keep_their_descriptors() {
        let (one, other) = Channel::pair().unwrap();
        let mut kept = tempfile::tempfile().unwrap();
        one.send(&"first", &[]).unwrap();
        one.send(&"second", &[kept.as_fd(), kept.as_fd()]).unwrap();
        one.send(&"third", &[]).unwrap();
        drop(one);
        let (first, none) = other.receive::<String>().unwrap().unwrap();
        let (second, two) = other.receive::<String>().unwrap().unwrap();
        let (third, _) = other.receive::<String>().unwrap().unwrap();
        assert_eq!([first, second, third], ["first", "second", "third"]);
        assert_eq!((none.len(), two.len()), (0, 2));
        let mut file = File::from(two.into_iter().next().unwrap());
        file.write_all(b"the same file").unwrap();
        let mut text = String::new();
        std::io::Seek::rewind(&mut kept).unwrap();
        kept.read_to_string(&mut text).unwrap();
        assert_eq!(text, "the same file");
        assert!(
            other.receive::<String>().unwrap().is_none(),
            "the end is heard of"
        );
    }

    #[test]
    fn what_is_no_message_is_refused_and_the_next_one_is_read() {
        let (one, other) = Channel::pair().unwrap();
        one.send(&7, &[]).unwrap();
        one.send(&"x".repeat(100_000), &[]).unwrap();
        assert!(other.receive::<String>().is_err(), "a number is no text");
        assert_eq!(other.receive::<String>().unwrap().unwrap().0.len(), 100_000);
        let too_long = "x".repeat(MESSAGE_BYTES_MAX);
        assert_eq!(
            one.send(&too_long, &[]).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        let file = tempfile::tempfile().unwrap();
        let many = vec![file.as_fd(); DESCRIPTORS_MAX + 1];
        assert_eq!(
            one.send(&1, &many).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        drop(other);
        assert_eq!(
            one.send(&1, &[]).unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }

    #[test]
    fn who_does_not_wait_is_told_that_nobody_reads() {
        let (one, other) = Channel::pair().unwrap();
        let text = "x".repeat(10_000);
        let sent = (0..1000).find_map(|_| one.send_now(&text, &[]).err());
        assert_eq!(sent.unwrap().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(other.receive::<String>().unwrap().unwrap().0, text);
        one.send_now(&text, &[]).unwrap();
    }

    #[test]
    fn only_a_packet_socket_is_an_end() {
        let file = tempfile::tempfile().unwrap();
        assert!(Channel::of(file.into()).is_none());
        let (stream, _) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(Channel::of(stream.into()).is_none());
        let (one, _other) = Channel::pair().unwrap();
        assert!(Channel::of(one.into_socket()).is_some());
    }
}
