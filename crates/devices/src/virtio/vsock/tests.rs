//! The hub with real sockets on the host's side and packets, as a guest's driver makes them, on the other.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::connection::BUFFER_BYTES;
use super::connector::{Connector, NotConnected};
use super::dial::SocketsBeside;
use super::hub::Hub;
use super::packet::{HOST_CID, Header, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, STREAM, op};

const CID: u64 = 3;

struct Bench {
    _folder: tempfile::TempDir,
    path: PathBuf,
    hub: Hub,
    connector: Connector,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vsock");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let connector = Connector::new().unwrap();
        connector.set_served(true);
        Bench {
            _folder: folder,
            hub: Hub::new(
                CID,
                Arc::new(SocketsBeside(path.clone())),
                Some(Arc::new(listener)),
                connector.clone(),
            ),
            connector,
            path,
        }
    }

    /// The guest sends; whether a guest may.
    fn send(&mut self, op: u16, (host_port, guest_port): (u32, u32), data: &[u8]) -> bool {
        let header = Header {
            src_cid: CID,
            dst_cid: HOST_CID,
            src_port: guest_port,
            dst_port: host_port,
            len: data.len() as u32,
            kind: STREAM,
            op,
            flags: if op == op::SHUTDOWN {
                SHUTDOWN_RECEIVE | SHUTDOWN_SEND
            } else {
                0
            },
            buf_alloc: 1000,
            fwd_cnt: 0,
        };
        let right = self.hub.take(&header, data);
        self.hub.flush();
        right
    }

    /// What the guest gets: operation, port of the host, data.
    fn got(&mut self) -> Option<(u16, u32, Vec<u8>)> {
        let mut data = vec![0; 4096];
        let (header, len) = self.hub.next(&mut data)?;
        assert_eq!(
            (header.src_cid, header.dst_cid, header.kind),
            (HOST_CID, CID, STREAM)
        );
        data.truncate(len);
        Some((header.op, header.src_port, data))
    }
}

fn listen(path: &Path, port: u32) -> UnixListener {
    UnixListener::bind(format!("{}_{port}", path.display())).unwrap()
}

fn read(stream: &mut UnixStream) -> Vec<u8> {
    stream
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let mut bytes = vec![0; 4096];
    let count = stream.read(&mut bytes).unwrap();
    bytes.truncate(count);
    bytes
}

#[test]
fn a_guest_reaches_who_listens_behind_its_number() {
    let mut bench = Bench::new();
    let listener = listen(&bench.path, 52);
    assert!(bench.send(op::REQUEST, (52, 1024), b""));
    assert_eq!(bench.got(), Some((op::RESPONSE, 52, Vec::new())));
    let (mut host, _) = listener.accept().unwrap();
    assert!(bench.send(op::RW, (52, 1024), b"hello"));
    assert_eq!(read(&mut host), b"hello");
    host.write_all(b"hello yourself").unwrap();
    assert_eq!(bench.got(), Some((op::RW, 52, b"hello yourself".to_vec())));
    assert_eq!(bench.got(), None);
    drop(host);
    assert_eq!(bench.got(), Some((op::SHUTDOWN, 52, Vec::new())));
    assert!(bench.send(op::SHUTDOWN, (52, 1024), b""));
    assert_eq!(bench.got(), Some((op::RST, 52, Vec::new())));
    assert_eq!(bench.got(), None);
}

#[test]
fn a_host_reaches_a_port_of_the_guest() {
    let mut bench = Bench::new();
    let mut host = UnixStream::connect(&bench.path).unwrap();
    host.write_all(b"CONN").unwrap();
    bench.hub.welcome();
    assert_eq!(bench.got(), None, "half a greeting");
    host.write_all(b"ECT 80\nGET /").unwrap();
    bench.hub.welcome();
    let (asked, port, _) = bench.got().unwrap();
    assert_eq!(asked, op::REQUEST);
    assert_eq!(bench.got(), None, "nothing is sent before the answer");
    assert!(bench.send(op::RESPONSE, (port, 80), b""));
    assert_eq!(read(&mut host), format!("OK {port}\n").as_bytes());
    assert_eq!(
        bench.got(),
        Some((op::RW, port, b"GET /".to_vec())),
        "what followed the greeting is the guest's"
    );
    assert!(bench.send(op::RW, (port, 80), b"200"));
    assert_eq!(read(&mut host), b"200");
    assert!(bench.send(op::RST, (port, 80), b""));
    assert_eq!(read(&mut host), b"", "a reset closes the socket");
}

#[test]
fn a_stream_that_is_brought_reaches_a_port_of_the_guest() {
    let mut bench = Bench::new();
    let (mut host, brought) = UnixStream::pair().unwrap();
    bench.connector.connect(brought, 80).unwrap();
    bench.hub.welcome();
    let (asked, port, _) = bench.got().unwrap();
    assert_eq!(asked, op::REQUEST);
    assert!(bench.send(op::RESPONSE, (port, 80), b""));
    assert_eq!(read(&mut host), format!("OK {port}\n").as_bytes());
    host.write_all(b"ls").unwrap();
    assert_eq!(bench.got(), Some((op::RW, port, b"ls".to_vec())));
    let (mut late, brought) = UnixStream::pair().unwrap();
    bench.connector.connect(brought, 80).unwrap();
    bench.connector.set_served(false);
    assert_eq!(
        read(&mut late),
        b"",
        "a driver that goes leaves nobody waiting"
    );
    let (_host, brought) = UnixStream::pair().unwrap();
    let refused = bench.connector.connect(brought, 80);
    assert_eq!(refused, Err(NotConnected::NoDriver));
}

#[test]
fn who_is_not_there_refuses() {
    let mut bench = Bench::new();
    assert!(bench.send(op::REQUEST, (53, 1024), b""));
    assert_eq!(bench.got(), Some((op::RST, 53, Vec::new())));
    assert!(bench.send(op::RW, (53, 1024), b"data"));
    assert_eq!(bench.got(), Some((op::RST, 53, Vec::new())));
    assert!(bench.send(op::RST, (53, 1024), b""));
    assert_eq!(bench.got(), None, "a reset is not answered by a reset");
    let mut host = UnixStream::connect(&bench.path).unwrap();
    host.write_all(b"CONNECT 81\n").unwrap();
    bench.hub.welcome();
    let (_, port, _) = bench.got().unwrap();
    assert!(bench.send(op::RST, (port, 81), b""));
    assert_eq!(read(&mut host), b"");
}

#[test]
fn a_host_sends_no_more_than_the_guest_has_room_for() {
    let mut bench = Bench::new();
    let listener = listen(&bench.path, 52);
    bench.send(op::REQUEST, (52, 1024), b"");
    bench.got();
    let (mut host, _) = listener.accept().unwrap();
    host.write_all(&[7; 1500]).unwrap();
    assert_eq!(bench.got().unwrap().2.len(), 1000);
    assert_eq!(bench.got(), None);
    assert_eq!(
        bench.hub.sources().len(),
        2,
        "only those who may come are waited for"
    );
    let credit = Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port: 1024,
        dst_port: 52,
        kind: STREAM,
        op: op::CREDIT_UPDATE,
        buf_alloc: 1000,
        fwd_cnt: 1000,
        ..Header::default()
    };
    assert!(bench.hub.take(&credit, b""));
    assert_eq!(bench.got().unwrap().2.len(), 500);
}

#[test]
fn a_guest_that_sends_more_than_it_may_is_reset() {
    let mut bench = Bench::new();
    let listener = listen(&bench.path, 52);
    bench.send(op::REQUEST, (52, 1024), b"");
    bench.got();
    let (_host, _) = listener.accept().unwrap();
    let mut right = true;
    for _ in 0..64 {
        right &= bench.send(op::RW, (52, 1024), &[1; 60_000]);
        if !right {
            break;
        }
    }
    assert!(
        !right,
        "{BUFFER_BYTES} bytes and what a socket holds, not more"
    );
    while let Some((op, ..)) = bench.got() {
        if op == op::RST {
            return;
        }
    }
    panic!("no reset");
}

#[test]
fn a_strange_guest_is_bounded_and_answered() {
    let mut bench = Bench::new();
    let listener = listen(&bench.path, 1);
    listener.set_nonblocking(true).unwrap();
    let mut held = Vec::new();
    for port in 0..2000 {
        if !bench.hub.has_room() {
            while bench.got().is_some() {}
        }
        bench.send(op::REQUEST, (1, port), b"");
        held.extend(listener.accept().ok());
    }
    assert_eq!(held.len(), 256);
    while bench.got().is_some() {}
    for operation in 0..20 {
        for port in [0, 1, 5, u32::MAX] {
            bench.send(operation, (1, port), b"");
        }
    }
    let other = Header {
        src_cid: 99,
        op: op::REQUEST,
        ..Header::default()
    };
    assert!(
        !bench.hub.take(&other, b""),
        "a guest speaks for itself only"
    );
}
