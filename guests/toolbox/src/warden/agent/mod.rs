//! The guest agent: programs that the host starts beside the guest's own, and the guest held still so that it can be cloned.
//!
//! It listens at port [`PORT`] of the guest's socket device and hears the host alone: a program of the guest that connects
//! over the loopback of such sockets is turned away, or every user of the guest would be root. What it does is asked for
//! by whoever may connect to the VM, and nothing that Mother says of a guest stands on it.
//!
//! Each connection is one matter. The agent says [`GREETING`]; what follows are messages: their kind (one byte), their length
//! (four bytes, the lowest first), and that many bytes.
//!
//! | from the host | kind | with |
//! |---|---|---|
//! | start a program | 1 | zero-ended words `key=value`: `arg`, `env`, `cwd`, `user`, `tty` |
//! | standard input, its end | 2, 3 | bytes; no more than [`WINDOW`] that were not taken |
//! | send its processes a signal | 4 | the number (one byte) |
//! | its terminal has another size | 5 | rows and columns (two bytes each) |
//! | hold the guest still | 6 | |
//! | let it go on | 7 | |
//! | send files | 8 | words: `path`, `follow` |
//! | take files | 9 | words: `to`, `several`, `owners` |
//! | a file, folder or link; bytes of it; no more (also to the host) | 10, 11, 12 | [`files`] |
//!
//! | to the host | kind | with |
//! |---|---|---|
//! | standard output, standard error | 65, 66 | bytes |
//! | so much of the input was taken | 67 | four bytes |
//! | it ended | 68 | its exit status (four bytes) |
//! | it cannot be done | 69 | an exit status (four bytes), and why |
//! | it stands still; it goes on | 70, 71 | |
//! | the files are there | 72 | how many are not (eight bytes) |
//! | something was left out | 73 | a zero-ended path, and why |
//! | how much is going to come | 74 | entries and bytes (eight bytes each) |
//!
//! A program whose client has gone is sent SIGHUP, as if its terminal had been closed. A guest whose client has gone goes
//! on, and so does a clone of it, in which that connection was reset ([`freeze`]).
//!
//! `warden --agent OWN PROGRAMS [CONFIGURATION]`: the control groups of the agent and of what it starts, `-` for the
//! one it is in and for one below that; of a configuration, as the warden has it, what programs are given if nothing else was asked for.

mod exec;
mod files;
mod freeze;
mod groups;
mod socket;
mod users;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::chroot;
use std::sync::{Arc, Mutex};
use std::{env, fs, thread};

use groups::Groups;

use crate::warden::ground::lock;

/// What the agent says first.
const GREETING: &[u8] = b"\0mother agent 1\n";

/// Its port: a reserved one (below 1024), where no user of the guest but root can listen in its place.
const PORT: u32 = 668;

/// Connections at one time.
const CONNECTIONS_MAX: usize = 64;

/// Longest message, without its head.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Standard input that may be under way.
const WINDOW: usize = 256 * 1024;

/// Kinds of messages from the host.
const START: u8 = 1;
const INPUT: u8 = 2;
const INPUT_ENDS: u8 = 3;
const SIGNAL: u8 = 4;
const SIZE: u8 = 5;
const FREEZE: u8 = 6;
const THAW: u8 = 7;
const GIVE: u8 = 8;
const TAKE: u8 = 9;

/// Kinds of messages that carry files, in either direction.
const ENTRY: u8 = 10;
const DATA: u8 = 11;
const END: u8 = 12;

/// Kinds of messages to the host.
const OUTPUT: u8 = 65;
const ERRORS: u8 = 66;
const TOOK: u8 = 67;
const EXIT: u8 = 68;
const FAILED: u8 = 69;
const FROZEN: u8 = 70;
const THAWED: u8 = 71;
const DONE: u8 = 72;
const LEFT_OUT: u8 = 73;
const TOTAL: u8 = 74;

/// The exit status of what cannot be done at all, as container engines have it.
const NOT_DONE: i32 = 125;

/// Where messages go, one at a time.
type Sink = Arc<Mutex<File>>;

/// What every connection knows.
struct Agent {
    groups: Groups,
    /// Words that stand before those of a request.
    defaults: Vec<u8>,
    /// One guest is held still at a time.
    freezing: Mutex<()>,
}

/// Serves until the guest ends.
pub(crate) fn serve(own: &str, programs: &str, configuration: Option<&str>) -> io::Result<()> {
    let groups = Groups::enter(own, programs);
    let mut defaults = Vec::new();
    if let Some(path) = configuration {
        let mut root = None;
        for word in fs::read(path)?.split(|&byte| byte == 0) {
            match word.split(|&byte| byte == b'=').next() {
                Some(b"arg" | b"tty" | b"") | None => {}
                Some(b"root") => root = Some(String::from_utf8_lossy(&word[5..]).into_owned()),
                Some(_) => {
                    defaults.extend(word);
                    defaults.push(0);
                }
            }
        }
        if let Some(root) = root {
            chroot(root)?;
            env::set_current_dir("/")?;
        }
    }
    let listener = socket::Listener::bind(PORT)?;
    let agent = Arc::new(Agent {
        groups,
        defaults,
        freezing: Mutex::new(()),
    });
    let places = Arc::new(());
    loop {
        let Some(stream) = listener.accept()? else {
            continue;
        };
        if Arc::strong_count(&places) > CONNECTIONS_MAX {
            continue;
        }
        let agent = Arc::clone(&agent);
        let place = Arc::clone(&places);
        thread::spawn(move || {
            // A host that goes away in the middle of a word has said enough.
            let _ = agent.hear(stream);
            drop(place);
        });
    }
}

impl Agent {
    fn hear(&self, mut stream: File) -> io::Result<()> {
        stream.write_all(GREETING)?;
        let sink = Arc::new(Mutex::new(stream.try_clone()?));
        let (kind, payload) = receive(&mut stream)?;
        match kind {
            START => exec::run(self, &payload, stream, &sink),
            FREEZE => freeze::hold(self, stream, &sink),
            GIVE => files::give(&payload, &sink),
            TAKE => files::take(&payload, stream, &sink),
            other => fail(&sink, NOT_DONE, &format!("there is no request {other}")),
        }
    }
}

/// The next message.
fn receive(stream: &mut File) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if len > MESSAGE_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut payload = vec![0; len];
    stream.read_exact(&mut payload)?;
    Ok((head[0], payload))
}

fn send(sink: &Sink, kind: u8, payload: &[u8]) -> io::Result<()> {
    let mut message = Vec::with_capacity(5 + payload.len());
    message.push(kind);
    message.extend((payload.len() as u32).to_le_bytes());
    message.extend(payload);
    lock(sink).write_all(&message)
}

fn fail(sink: &Sink, status: i32, why: &str) -> io::Result<()> {
    let mut payload = status.to_le_bytes().to_vec();
    payload.extend(why.as_bytes());
    send(sink, FAILED, &payload)
}
