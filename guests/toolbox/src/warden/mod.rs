//! Starts one program in a guest and connects its streams to the host over ports of the virtio console.
//!
//! | port | from the host | to the host |
//! |---|---|---|
//! | `mother.control` | 1 standard output is closed, 2 standard error is closed, 3 the host has everything | `GREETING`, then 3 exit status, 4 standard input is closed |
//! | `mother.input` | pieces of standard input | |
//! | `mother.output` | | standard output, byte for byte |
//! | `mother.errors` | | standard error, byte for byte |
//!
//! A message on the control port is its kind (one byte), its length (four bytes, the lowest first) and that many bytes.
//! The exit status (four bytes) comes with how many bytes went into `mother.output` and `mother.errors` before it (eight
//! bytes each): the three ports do not wait for each other, so the host waits until it has so many. A piece of input is
//! its length (four bytes) and that many bytes; one of length 0 is the end.
//!
//! **What a reader does reaches the program as on a pipe.** A port whose other side does not read fills its ring, then
//! writing to it sleeps here, then the program's pipe is full, and the program sleeps in write(2). Nothing here counts
//! time against a slow reader. A reader that has gone is told by the host; then the program's pipe is closed, and its next
//! write gets SIGPIPE. The end of input and a program that reads no more go the same ways in the other direction.
//!
//! **A terminal**, where the host has one: all three streams are the slave of a pseudo-terminal, what the program prints comes out
//! of `mother.output`, and what is typed goes into its master. The host's window is that of the guest's console, `hvc0`, which the
//! kernel hears of; its size is handed on.
//!
//! `warden CONFIGURATION`: zero-ended words `key=value` (`crates/images`, `guest_config.rs`). It returns when the host has
//! everything.
//!
//! `warden --agent ...` is the [guest agent](agent) instead, which starts programs beside that one.

mod agent;
mod ground;
mod identity;
mod terminal;
mod wanted;

use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::{chroot, fchown};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ground::{ENDED_BY_SIGNAL, NOT_EXECUTABLE, NOT_FOUND, QUIET, lock};
use identity::Identity;
use terminal::{Terminal, Window};
use wanted::Wanted;

/// What the guest says first.
const GREETING: &[u8] = b"\0mother warden 2\n";

/// Kinds of messages from the host.
const OUTPUT_IS_CLOSED: u8 = 1;
const ERRORS_ARE_CLOSED: u8 = 2;
const GOODBYE: u8 = 3;

/// Kinds of messages to the host.
const EXIT: u8 = 3;
const INPUT_IS_CLOSED: u8 = 4;

/// Longest message that is taken.
const MESSAGE_BYTES_MAX: u64 = 4096;

/// Bytes read from a pipe at once: what a pipe holds. The driver of a port sends half of it at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Where the kernel lists ports by name, and where their devices are.
const PORTS: &str = "/sys/class/virtio-ports";

/// How long the kernel may take to find the ports.
const PORT_TIME: Duration = Duration::from_secs(30);

/// A file that, if it is there, has the exit status in place of the program's: somebody powered the guest off.
const STATUS: &str = "/run/mother.status";

/// One of the program's two outputs on its way to the host.
#[derive(Default)]
struct Outlet {
    /// Bytes that were read from the program's pipe, and that are in the port.
    read: AtomicU64,
    sent: AtomicU64,
    /// The host's reader has gone.
    is_closed: AtomicBool,
    /// The pipe's end here, to wake its thread.
    pipe: Mutex<Option<RawFd>>,
}

/// Where messages go, one at a time.
type Control = Arc<Mutex<File>>;

pub(crate) fn main() -> io::Result<()> {
    let words: Vec<String> = env::args().collect();
    if let [_, first, own, programs, rest @ ..] = words.as_slice()
        && first == "--agent"
    {
        return agent::serve(own, programs, rest.first().map(String::as_str));
    }
    let [_, configuration] = words.as_slice() else {
        return Err(io::Error::other("usage: warden CONFIGURATION"));
    };
    let configuration = fs::read(configuration)?;
    let from_host = open("mother.control")?;
    let control = Arc::new(Mutex::new(from_host.try_clone()?));
    let input = open("mother.input")?;
    let ports = [open("mother.output")?, open("mother.errors")?];
    lock(&control).write_all(GREETING)?;
    let outlets = [Arc::new(Outlet::default()), Arc::new(Outlet::default())];
    let goodbye = {
        let outlets = outlets.clone();
        thread::spawn(move || listen(from_host, &outlets))
    };
    let mut errors = ports[1].try_clone()?;
    let status = match run(&configuration, input, ports, &outlets, &control) {
        Ok(status) => status
            .code()
            .unwrap_or_else(|| ENDED_BY_SIGNAL + status.signal().unwrap_or(0)),
        Err(error) => {
            let text = format!("mother: cannot start the program in the guest: {error}\n");
            errors.write_all(text.as_bytes())?;
            outlets[1]
                .sent
                .fetch_add(text.len() as u64, Ordering::AcqRel);
            if error.kind() == io::ErrorKind::NotFound {
                NOT_FOUND
            } else {
                NOT_EXECUTABLE
            }
        }
    };
    let status = fs::read_to_string(STATUS)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(status);
    let mut payload = status.to_le_bytes().to_vec();
    for outlet in &outlets {
        payload.extend(outlet.sent.load(Ordering::Acquire).to_le_bytes());
    }
    send(&control, EXIT, &payload)?;
    goodbye
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the host was not heard")))
}

/// Opens a port by its name. The driver may still be looking for it.
fn open(name: &str) -> io::Result<File> {
    let begun = Instant::now();
    loop {
        if let Some(device) = find_port(name) {
            return File::options().read(true).write(true).open(device);
        }
        if begun.elapsed() > PORT_TIME {
            let text = format!("the kernel shows no port {name}: has it virtio_console?");
            return Err(io::Error::other(text));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn find_port(name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(PORTS).ok()?;
    let folders = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_it = |folder: &PathBuf| {
        fs::read_to_string(folder.join("name")).is_ok_and(|text| text.trim_end() == name)
    };
    let folder = folders.into_iter().find(is_it)?;
    let device = Path::new("/dev").join(folder.file_name()?);
    device.exists().then_some(device)
}

/// Hears the host until it has everything.
fn listen(mut from_host: File, outlets: &[Arc<Outlet>; 2]) -> io::Result<()> {
    loop {
        let mut head = [0; 5];
        from_host.read_exact(&mut head)?;
        let len = u64::from(u32::from_le_bytes([head[1], head[2], head[3], head[4]]));
        io::copy(
            &mut (&mut from_host).take(len.min(MESSAGE_BYTES_MAX)),
            &mut io::sink(),
        )?;
        match head[0] {
            OUTPUT_IS_CLOSED => outlets[0].close(),
            ERRORS_ARE_CLOSED => outlets[1].close(),
            GOODBYE => return Ok(()),
            _ => {}
        }
    }
}

impl Outlet {
    /// The host's reader has gone: the program's pipe is closed, also while its thread waits for bytes.
    fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        // Held, so that the number is still that pipe's.
        let pipe = lock(&self.pipe);
        let Some(number) = *pipe else { return };
        let path = format!("/proc/self/fd/{number}");
        if let Ok(mut pipe) = File::options().write(true).open(path) {
            // A byte that nobody sees wakes the thread. A pipe without room for it has woken it already.
            thread::spawn(move || pipe.write_all(&[0]));
        }
    }

    /// Bytes that were read, and that are in the port.
    fn counts(&self) -> (u64, u64) {
        (
            self.read.load(Ordering::Acquire),
            self.sent.load(Ordering::Acquire),
        )
    }

    /// Sends all that comes out of the program's pipe to the host.
    fn carry(&self, mut pipe: impl Read + AsRawFd, mut port: File) -> io::Result<()> {
        *lock(&self.pipe) = Some(pipe.as_raw_fd());
        let mut buffer = vec![0; PIECE_BYTES];
        let mut carried = || -> io::Result<()> {
            while !self.is_closed.load(Ordering::Acquire) {
                let count = pipe.read(&mut buffer)?;
                if count == 0 || self.is_closed.load(Ordering::Acquire) {
                    break;
                }
                self.read.fetch_add(count as u64, Ordering::AcqRel);
                port.write_all(&buffer[..count])?;
                self.sent.fetch_add(count as u64, Ordering::AcqRel);
            }
            Ok(())
        };
        let result = carried();
        *lock(&self.pipe) = None;
        result
    }
}

/// Runs the program to its end and all its output into the ports.
fn run(
    configuration: &[u8],
    input: File,
    ports: [File; 2],
    outlets: &[Arc<Outlet>; 2],
    control: &Control,
) -> io::Result<ExitStatus> {
    // Before the root is another one.
    let window = Window::open();
    let (mut command, identity, size) = command(configuration)?;
    if let Some(size) = size {
        let terminal = Terminal::open(size)?;
        if let Some(identity) = &identity {
            fchown(terminal.slave.as_fd(), Some(identity.uid), None)?;
        }
        return run_at(
            terminal,
            (command, identity),
            (input, ports),
            outlets,
            (control, window),
        );
    }
    let (its_input, to_program) = io::pipe()?;
    let (from_program, its_output) = io::pipe()?;
    let (complaints, its_errors) = io::pipe()?;
    if let Some(identity) = &identity {
        // Its own, so that it may open them again as /dev/stdin, /dev/stdout and /dev/stderr.
        for pipe in [its_input.as_fd(), its_output.as_fd(), its_errors.as_fd()] {
            fchown(pipe, Some(identity.uid), Some(identity.gid))?;
        }
    }
    command
        .stdin(its_input)
        .stdout(its_output)
        .stderr(its_errors);
    let mut child = identity::spawn(&mut command, identity, false)?;
    // The ends of the program's pipes that are here would keep them open.
    drop(command);
    // The thread ends with this process: the program may end before its input does.
    let to_host = control.clone();
    thread::spawn(move || feed(input, Some(to_program), &to_host));
    let [output, errors] = ports;
    let [first, second] = outlets.clone();
    let threads = [
        thread::spawn(move || first.carry(from_program, output)),
        thread::spawn(move || second.carry(complaints, errors)),
    ];
    let status = child.wait()?;
    wait_for_rest(&threads, outlets);
    Ok(status)
}

/// The same at a terminal.
fn run_at(
    terminal: Terminal,
    (mut command, identity): (Command, Option<Identity>),
    (input, [output, _errors]): (File, [File; 2]),
    outlets: &[Arc<Outlet>; 2],
    (control, window): (&Control, Option<Window>),
) -> io::Result<ExitStatus> {
    let Terminal { master, slave } = terminal;
    command
        .stdin(slave.try_clone()?)
        .stdout(slave.try_clone()?)
        .stderr(slave);
    let mut child = identity::spawn(&mut command, identity, true)?;
    // The slave's ends that are here would keep the terminal from hanging up.
    drop(command);
    let to_host = control.clone();
    let typed = master.try_clone()?;
    thread::spawn(move || feed(input, Some(typed), &to_host));
    if let Some(window) = window {
        let master = master.try_clone()?;
        thread::spawn(move || window.hand_on(&master));
    }
    let first = outlets[0].clone();
    let threads = [thread::spawn(move || first.carry(master, output))];
    let status = child.wait()?;
    wait_for_rest(&threads, outlets);
    Ok(status)
}

type Carrier = thread::JoinHandle<io::Result<()>>;

/// Waits until all that the program left in its pipes is in the ports. A pipe may never end, for what the program has
/// started and left behind may hold it: then nothing new for a while is the end, as the end of a container's program is
/// the container's. While a reader lets us wait, that while has not begun.
fn wait_for_rest(threads: &[Carrier], outlets: &[Arc<Outlet>; 2]) {
    let mut quiet_since = Instant::now();
    let mut seen = [(0, 0); 2];
    while !threads.iter().all(thread::JoinHandle::is_finished) {
        let now = [outlets[0].counts(), outlets[1].counts()];
        if now != seen || now.iter().any(|(read, sent)| read != sent) {
            (seen, quiet_since) = (now, Instant::now());
        }
        if quiet_since.elapsed() > QUIET {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// The program as it was configured, who it is if that is not root, and the size of its terminal if it has one.
type Configured = (Command, Option<Identity>, Option<(u16, u16)>);

fn command(configuration: &[u8]) -> io::Result<Configured> {
    let wanted = Wanted::read(configuration)?;
    if let Some(root) = &wanted.root {
        chroot(root)?;
        env::set_current_dir("/")?;
    }
    let folder = wanted.folder.as_deref().unwrap_or("/");
    fs::create_dir_all(folder)?;
    Ok((wanted.command(folder)?, wanted.identity(), wanted.size))
}

/// Gives pieces of input to the program until their end. A program that reads no more is not fed, and the host is told.
fn feed(mut from_host: File, mut stdin: Option<impl Write>, control: &Control) {
    let mut head = [0; 4];
    while from_host.read_exact(&mut head).is_ok() {
        let mut left = u64::from(u32::from_le_bytes(head));
        if left == 0 {
            stdin = None;
        }
        let mut buffer = vec![0; PIECE_BYTES];
        while left > 0 {
            let room = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let Ok(count @ 1..) = from_host.read(&mut buffer[..room]) else {
                return;
            };
            left -= count as u64;
            if let Some(pipe) = &mut stdin
                && pipe.write_all(&buffer[..count]).is_err()
            {
                stdin = None;
                // The host that is not reached will not be missed.
                let _ = send(control, INPUT_IS_CLOSED, &[]);
            }
        }
    }
}

fn send(control: &Control, kind: u8, payload: &[u8]) -> io::Result<()> {
    let mut message = vec![kind];
    message.extend((payload.len() as u32).to_le_bytes());
    message.extend(payload);
    lock(control).write_all(&message)
}
