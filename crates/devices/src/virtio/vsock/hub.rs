//! The hub: every connection between ports of the guest and sockets of the host.
//!
//! Bounded on all sides: so many connections, so many answers waiting, so many bytes for each connection. A guest that
//! asks for more is told no with a reset, as a port is on which nobody listens.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use super::connection::{Connection, Flow, Phase};
use super::connector::Connector;
use super::dial::Dial;
use super::packet::{HOST_CID, Header, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, STREAM, op};
use crate::saved::{Unfit, ensure};
use crate::virtio::state::VsockState;

/// Connections at one time, and as many that have not said yet what they want.
const CONNECTIONS_MAX: usize = 256;
/// Answers that wait for the guest; while there are so many, nothing more is taken from it.
const ANSWERS_MAX: usize = 512;
/// Ports of the host's side for connections that the host began, as Firecracker has them.
const FIRST_HOST_PORT: u32 = 1 << 30;

/// Port of the host, port of the guest.
type Ports = (u32, u32);

/// Every connection of one device.
#[derive(Debug)]
pub(super) struct Hub {
    guest_cid: u64,
    dial: Arc<dyn Dial>,
    /// Where hosts come in: at a socket, if there is one, and brought by others of this process.
    listener: Option<Arc<UnixListener>>,
    connector: Connector,
    connections: BTreeMap<Ports, Connection>,
    greeting: Vec<Connection>,
    answers: VecDeque<Header>,
    next_host_port: u32,
    last_served: Ports,
}

impl Hub {
    /// A hub behind `listener`, which does not block, and `connector`; the guest's own connections are made by `dial`.
    pub(super) fn new(
        guest_cid: u64,
        dial: Arc<dyn Dial>,
        listener: Option<Arc<UnixListener>>,
        connector: Connector,
    ) -> Hub {
        Hub {
            guest_cid,
            dial,
            listener,
            connector,
            connections: BTreeMap::new(),
            greeting: Vec::new(),
            answers: VecDeque::new(),
            next_host_port: FIRST_HOST_PORT,
            last_served: (0, 0),
        }
    }

    /// Which connections there are, and what is still to be said of them.
    pub(super) fn save(&self) -> VsockState {
        VsockState {
            lost: self.connections.keys().copied().collect(),
            answers: self
                .answers
                .iter()
                .map(|answer| answer.to_bytes().to_vec())
                .collect(),
            next_host_port: self.next_host_port,
        }
    }

    /// A hub that has none of those connections tells the guest that each has ended.
    pub(super) fn restore(&mut self, state: VsockState) -> Result<(), Unfit> {
        let fits = state.lost.len() <= CONNECTIONS_MAX
            && state.answers.len() <= ANSWERS_MAX + CONNECTIONS_MAX
            && state.next_host_port >= FIRST_HOST_PORT;
        ensure(fits, "socket device", "more connections than it has")?;
        let mut answers = Vec::new();
        for bytes in &state.answers {
            let bytes = bytes.as_slice().try_into();
            ensure(
                bytes.is_ok(),
                "socket device",
                "an answer that is no header",
            )?;
            answers.extend(bytes.map(Header::from_bytes));
        }
        let ends = state.lost.iter().map(|ports| self.plain(*ports, op::RST));
        let ends: Vec<Header> = ends.collect();
        self.answers = answers.into_iter().chain(ends).collect();
        self.next_host_port = state.next_host_port;
        Ok(())
    }

    /// Whether more may be taken from the guest.
    pub(super) fn has_room(&self) -> bool {
        self.answers.len() < ANSWERS_MAX
    }

    /// What to read from.
    pub(super) fn sources(&self) -> Vec<BorrowedFd<'_>> {
        let all = self.greeting.iter().chain(self.connections.values());
        let wanted = all
            .filter(|connection| connection.wants_to_read())
            .map(|c| c.stream.as_fd());
        let listener = self.listener.iter().map(|listener| listener.as_fd());
        listener
            .chain([self.connector.bell()])
            .chain(wanted)
            .collect()
    }

    /// What to write to.
    pub(super) fn sinks(&self) -> Vec<BorrowedFd<'_>> {
        let all = self
            .connections
            .values()
            .filter(|connection| connection.wants_to_write());
        all.map(|connection| connection.stream.as_fd()).collect()
    }

    /// Lets hosts in and hears what they want.
    pub(super) fn welcome(&mut self) {
        while self.greeting.len() < CONNECTIONS_MAX
            && let Some(Ok((stream, _))) = self.listener.as_ref().map(|it| it.accept())
        {
            if stream.set_nonblocking(true).is_ok() {
                self.greeting.push(Connection::new(stream, Phase::Greeting));
            }
        }
        for mut connection in std::mem::take(&mut self.greeting) {
            match connection.read_greeting() {
                Ok(None) => self.greeting.push(connection),
                Ok(Some(guest_port)) => self.ask(connection, guest_port),
                // Whoever says something else finds the socket closed.
                Err(()) => {}
            }
        }
        for (stream, guest_port) in self.connector.take() {
            if stream.set_nonblocking(true).is_ok() {
                self.ask(Connection::new(stream, Phase::Asked), guest_port);
            }
        }
    }

    /// Asks the guest for a connection to this port. Who comes when all places are taken finds the socket closed.
    fn ask(&mut self, mut connection: Connection, guest_port: u32) {
        if self.connections.len() >= CONNECTIONS_MAX {
            return;
        }
        connection.phase = Phase::Asked;
        let ports = (self.free_host_port(guest_port), guest_port);
        self.answer(ports, op::REQUEST, 0, Some(&mut connection));
        self.connections.insert(ports, connection);
    }

    fn free_host_port(&mut self, guest_port: u32) -> u32 {
        loop {
            let port = self.next_host_port;
            self.next_host_port = port.checked_add(1).unwrap_or(FIRST_HOST_PORT);
            if !self.connections.contains_key(&(port, guest_port)) {
                return port;
            }
        }
    }

    /// Takes a packet from the guest; `false` if it is none that a guest may send.
    pub(super) fn take(&mut self, header: &Header, data: &[u8]) -> bool {
        if header.src_cid != self.guest_cid {
            return false;
        }
        let ports = (header.dst_port, header.src_port);
        if header.dst_cid != HOST_CID || header.kind != STREAM {
            self.refuse(header, ports);
            return true;
        }
        if header.op == op::REQUEST {
            self.open(header, ports);
            return true;
        }
        let update = self.plain(ports, op::CREDIT_UPDATE);
        let Some(connection) = self.connections.get_mut(&ports) else {
            self.refuse(header, ports);
            return true;
        };
        connection.note_credit(header);
        let goes_on = match header.op {
            op::RESPONSE if connection.phase == Phase::Asked => {
                connection.say_open(ports.0);
                true
            }
            op::RW => connection.phase == Phase::Open && connection.take(data),
            op::SHUTDOWN => {
                connection.note_shutdown(header.flags);
                true
            }
            op::CREDIT_UPDATE => true,
            op::CREDIT_REQUEST => {
                self.answers.push_back(connection.header(update));
                true
            }
            op::RST => {
                self.connections.remove(&ports);
                return true;
            }
            _ => false,
        };
        if !goes_on {
            self.close(ports);
        }
        goes_on
    }

    /// The guest wants to talk to a port of the host: whoever listens at the path with that number.
    fn open(&mut self, header: &Header, ports: Ports) {
        let has_place =
            self.connections.len() < CONNECTIONS_MAX && !self.connections.contains_key(&ports);
        let stream = has_place.then(|| self.dial.dial(ports.0).ok()).flatten();
        let Some(stream) = stream else {
            // A second request on open ports resets what is there (5.10.6.6 leaves no other answer).
            self.connections.remove(&ports);
            self.refuse(header, ports);
            return;
        };
        let mut connection = Connection::new(stream, Phase::Open);
        connection.note_credit(header);
        self.answer(ports, op::RESPONSE, 0, Some(&mut connection));
        self.connections.insert(ports, connection);
    }

    /// Gives hosts what waits for them, and ends what is over.
    pub(super) fn flush(&mut self) {
        let all: Vec<Ports> = self.connections.keys().copied().collect();
        for ports in all {
            let update = self.plain(ports, op::CREDIT_UPDATE);
            let Some(connection) = self.connections.get_mut(&ports) else {
                continue;
            };
            if !connection.flush() || connection.is_over() {
                self.close(ports);
            } else if connection.owes_credit() {
                self.answers.push_back(connection.header(update));
            }
        }
    }

    /// The next packet for the guest, its data in `bytes`; each connection has its turn.
    pub(super) fn next(&mut self, bytes: &mut [u8]) -> Option<(Header, usize)> {
        if let Some(answer) = self.answers.pop_front() {
            return Some((answer, 0));
        }
        let behind = self
            .connections
            .range((Bound::Excluded(self.last_served), Bound::Unbounded));
        let before = self.connections.range(..=self.last_served);
        let wanting = behind.chain(before).filter(|(_, connection)| {
            connection.phase == Phase::Open && connection.wants_to_read()
        });
        let turns: Vec<Ports> = wanting.map(|(ports, _)| *ports).collect();
        for ports in turns {
            let plain = self.plain(ports, op::RW);
            let connection = self.connections.get_mut(&ports)?;
            let room = bytes.len().min(connection.credit() as usize);
            match connection.read(&mut bytes[..room]) {
                Flow::Bytes(0) => continue,
                Flow::Bytes(count) => {
                    self.last_served = ports;
                    return Some((
                        connection.header(Header {
                            len: count as u32,
                            ..plain
                        }),
                        count,
                    ));
                }
                Flow::End => {
                    let shutdown = Header {
                        op: op::SHUTDOWN,
                        flags: SHUTDOWN_SEND,
                        ..plain
                    };
                    return Some((connection.header(shutdown), 0));
                }
                Flow::Broken => {
                    self.connections.remove(&ports);
                    return Some((
                        Header {
                            op: op::RST,
                            ..plain
                        },
                        0,
                    ));
                }
            }
        }
        None
    }

    /// Ends a connection from our side.
    fn close(&mut self, ports: Ports) {
        self.connections.remove(&ports);
        self.answer(ports, op::RST, SHUTDOWN_RECEIVE | SHUTDOWN_SEND, None);
    }

    /// Says no, unless what was said is a no.
    fn refuse(&mut self, header: &Header, ports: Ports) {
        if header.op != op::RST {
            let answer = Header {
                src_cid: header.dst_cid,
                kind: header.kind,
                ..self.plain(ports, op::RST)
            };
            self.answers.push_back(answer);
        }
    }

    fn answer(&mut self, ports: Ports, op: u16, flags: u32, connection: Option<&mut Connection>) {
        let header = Header {
            flags,
            ..self.plain(ports, op)
        };
        self.answers
            .push_back(connection.map_or(header, |connection| connection.header(header)));
    }

    fn plain(&self, (src_port, dst_port): Ports, op: u16) -> Header {
        let src_cid = HOST_CID;
        let dst_cid = self.guest_cid;
        Header {
            src_cid,
            dst_cid,
            src_port,
            dst_port,
            kind: STREAM,
            op,
            ..Header::default()
        }
    }
}
