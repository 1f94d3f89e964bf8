//! One connection: a Unix socket of the host on one side, a port of the guest on the other.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::packet::{Header, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, op};

/// What a guest may have sent that the host has not yet taken, for each connection.
pub(super) const BUFFER_BYTES: u32 = 256 << 10;

/// Longest line that a host may write to say what it wants: `CONNECT`, a port, and the end.
const LINE_BYTES_MAX: usize = 32;

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// The host has connected and not yet said to which port.
    Greeting,
    /// The guest has been asked.
    Asked,
    /// Bytes flow.
    Open,
}

/// What became of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flow {
    /// So many bytes; none if it would have to wait.
    Bytes(usize),
    /// It will give no more.
    End,
    /// It is broken.
    Broken,
}

/// A connection. The guest's numbers are modulo 2^32 (5.10.6.3).
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    pub(super) phase: Phase,
    line: Vec<u8>,
    /// From the guest, not yet taken by the host; before it so many bytes of our own words to the host, which are no
    /// affair of the guest's.
    pending: VecDeque<u8>,
    own_bytes: usize,
    /// Bytes that the host has taken, and how many of them the guest knows of.
    forwarded: u32,
    told: u32,
    /// Bytes sent to the guest, and what it says of its buffer.
    sent: u32,
    peer_buffer: u32,
    peer_forwarded: u32,
    /// The guest takes no more; it gives no more; the host gives no more.
    pub(super) guest_deaf: bool,
    pub(super) guest_done: bool,
    pub(super) host_done: bool,
}

impl Connection {
    /// A connection over `stream`, which does not block.
    pub(super) fn new(stream: UnixStream, phase: Phase) -> Connection {
        Connection {
            stream,
            phase,
            line: Vec::new(),
            pending: VecDeque::new(),
            own_bytes: 0,
            forwarded: 0,
            told: 0,
            sent: 0,
            peer_buffer: 0,
            peer_forwarded: 0,
            guest_deaf: false,
            guest_done: false,
            host_done: false,
        }
    }

    /// Reads the host's greeting byte by byte, for what follows it is for the guest. The port, when it is whole.
    ///
    /// # Errors
    /// `Err` for a host that says anything else, or goes away.
    pub(super) fn read_greeting(&mut self) -> Result<Option<u32>, ()> {
        let mut byte = [0];
        loop {
            match self.stream.read(&mut byte) {
                Ok(1) if byte[0] == b'\n' => return parse_greeting(&self.line).map(Some).ok_or(()),
                Ok(1) if self.line.len() < LINE_BYTES_MAX => self.line.push(byte[0]),
                Ok(_) => return Err(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(()),
            }
        }
    }

    /// Takes note of what every packet of the guest's says about its buffer.
    pub(super) fn note_credit(&mut self, header: &Header) {
        self.peer_buffer = header.buf_alloc;
        self.peer_forwarded = header.fwd_cnt;
    }

    /// Bytes that the guest still has room for.
    pub(super) fn credit(&self) -> u32 {
        self.peer_buffer
            .saturating_sub(self.sent.wrapping_sub(self.peer_forwarded))
    }

    /// Whether the host may be asked for bytes for the guest.
    pub(super) fn wants_to_read(&self) -> bool {
        match self.phase {
            Phase::Greeting => true,
            Phase::Asked => false,
            Phase::Open => !self.host_done && !self.guest_deaf && self.credit() > 0,
        }
    }

    /// Whether the host has something to take.
    pub(super) fn wants_to_write(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Reads what the host sends, no more than fits.
    pub(super) fn read(&mut self, bytes: &mut [u8]) -> Flow {
        let flow = match self.stream.read(bytes) {
            Ok(0) => Flow::End,
            Ok(count) => Flow::Bytes(count),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Flow::Bytes(0)
            }
            Err(_) => Flow::Broken,
        };
        match flow {
            Flow::Bytes(count) => self.sent = self.sent.wrapping_add(count as u32),
            Flow::End => self.host_done = true,
            Flow::Broken => {}
        }
        flow
    }

    /// Says that the guest's port is open now, before anything that the guest says.
    pub(super) fn say_open(&mut self, host_port: u32) {
        let line = format!("OK {host_port}\n");
        self.own_bytes = line.len();
        self.pending.extend(line.as_bytes());
        self.phase = Phase::Open;
    }

    /// Takes what the guest sends; `false` if it sends more than it was allowed, or after its end.
    pub(super) fn take(&mut self, bytes: &[u8]) -> bool {
        if self.guest_done
            || self.pending.len() - self.own_bytes + bytes.len() > BUFFER_BYTES as usize
        {
            return false;
        }
        self.pending.extend(bytes);
        true
    }

    /// Writes what the host takes; whether it is there at all.
    pub(super) fn flush(&mut self) -> bool {
        while !self.pending.is_empty() {
            let (front, _) = self.pending.as_slices();
            match self.stream.write(front) {
                Ok(count) => {
                    self.pending.drain(..count);
                    let own = self.own_bytes.min(count);
                    self.own_bytes -= own;
                    self.forwarded = self.forwarded.wrapping_add((count - own) as u32);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        if self.guest_done {
            // A host that is gone already need not hear it.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        true
    }

    /// The guest gives, takes, or both, no more.
    pub(super) fn note_shutdown(&mut self, flags: u32) {
        self.guest_deaf |= flags & SHUTDOWN_RECEIVE != 0;
        self.guest_done |= flags & SHUTDOWN_SEND != 0;
    }

    /// Whether nothing can come any more and everything has been given.
    pub(super) fn is_over(&self) -> bool {
        self.guest_deaf && self.guest_done && self.pending.is_empty()
    }

    /// Whether the guest would do well to know how much the host has taken.
    pub(super) fn owes_credit(&self) -> bool {
        self.forwarded.wrapping_sub(self.told) >= BUFFER_BYTES / 2
    }

    /// A header with this connection's credit in it.
    pub(super) fn header(&mut self, mut header: Header) -> Header {
        self.told = self.forwarded;
        header.buf_alloc = BUFFER_BYTES;
        header.fwd_cnt = self.forwarded;
        if header.op == op::RST {
            header.flags = 0;
        }
        header
    }
}

/// Reads `CONNECT 1234`.
fn parse_greeting(line: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(line).ok()?;
    let port = text.strip_prefix("CONNECT ")?.trim_end_matches('\r');
    port.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| port.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_names_a_port_or_is_none() {
        let check =
            |line: &str, expected| assert_eq!(parse_greeting(line.as_bytes()), expected, "{line}");
        check("CONNECT 52", Some(52));
        check("CONNECT 52\r", Some(52));
        check("CONNECT 4294967295", Some(u32::MAX));
        check("CONNECT 4294967296", None);
        check("CONNECT -1", None);
        check("CONNECT ", None);
        check("connect 52", None);
        check("", None);
    }

    #[test]
    fn credit_is_what_the_guest_says_less_what_is_on_the_way() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut connection = Connection::new(ours, Phase::Open);
        let check = |connection: &mut Connection, buf_alloc, fwd_cnt, expected| {
            connection.note_credit(&Header {
                buf_alloc,
                fwd_cnt,
                ..Header::default()
            });
            assert_eq!(connection.credit(), expected, "{buf_alloc} {fwd_cnt}");
        };
        check(&mut connection, 100, 0, 100);
        theirs.write_all(&[1; 60]).unwrap();
        assert_eq!(connection.read(&mut [0; 200]), Flow::Bytes(60));
        check(&mut connection, 100, 0, 40);
        check(&mut connection, 100, 60, 100);
        check(&mut connection, 50, 0, 0);
        check(
            &mut connection,
            u32::MAX,
            1 << 31,
            u32::MAX - (60_u32.wrapping_sub(1 << 31)),
        );
    }

    #[test]
    fn what_we_say_to_the_host_ourselves_is_not_counted_as_the_guests() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut connection = Connection::new(ours, Phase::Asked);
        let forwarded = |connection: &mut Connection| connection.header(Header::default()).fwd_cnt;
        connection.say_open(7);
        assert!(
            connection.take(&vec![1; BUFFER_BYTES as usize]),
            "all that was promised has room"
        );
        assert!(connection.flush());
        let mut line = [0; 5];
        theirs.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"OK 7\n");
        assert!(
            forwarded(&mut connection) <= BUFFER_BYTES,
            "a guest that is told more takes it for a minus"
        );
        let mut rest = vec![0; BUFFER_BYTES as usize];
        theirs.set_nonblocking(true).unwrap();
        while connection.wants_to_write() {
            let _ = theirs.read(&mut rest);
            assert!(connection.flush());
        }
        assert_eq!(forwarded(&mut connection), BUFFER_BYTES);
    }

    #[test]
    fn more_than_was_allowed_is_refused() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut connection = Connection::new(ours, Phase::Open);
        assert!(connection.take(&vec![0; BUFFER_BYTES as usize]));
        assert!(!connection.take(&[0]));
    }
}
