//! Starts one program in a guest and connects it to the host over one stream of bytes.
//!
//! ```text
//! host ──> 0 bytes of standard input      guest ──> 1 bytes of standard output
//!          1 end of standard input                  2 bytes of standard error
//!                                                   3 exit status, the last frame
//! ```
//!
//! A frame is its kind (one byte), its length (four bytes, the lowest first) and that many bytes. The guest begins
//! with `GREETING`, so that the host knows where frames begin and that somebody listens.
//!
//! `warden CONFIGURATION STREAM`: the configuration is zero-ended words `key=value` (`crates/images`,
//! `guest_config.rs`); the stream is a terminal device in raw mode or anything else that can be read and written.
#![forbid(unsafe_code)]

use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::chroot;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What the guest says first.
const GREETING: &[u8] = b"\0mother warden 1\n";

/// Kinds of frames from the host.
const INPUT: u8 = 0;
const END_OF_INPUT: u8 = 1;

/// Kinds of frames to the host.
const OUTPUT: u8 = 1;
const ERRORS: u8 = 2;
const EXIT: u8 = 3;

/// Bytes in a frame, so that neither output waits long for the other.
const FRAME_BYTES: usize = 4096;

/// Exit statuses of shells for a program that cannot be started: it is not there, or it is no program.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// What a shell adds to the number of the signal that ended a program.
const ENDED_BY_SIGNAL: i32 = 128;

/// How long nothing may come from a program that has ended, and how long its rest may take.
const QUIET: Duration = Duration::from_millis(500);
const REST: Duration = Duration::from_secs(10);

/// Pieces that were read from the program's pipes, and that were sent to the host.
static READ: AtomicU64 = AtomicU64::new(0);
static SENT: AtomicU64 = AtomicU64::new(0);

/// Where frames go, one at a time.
type Stream = Arc<Mutex<File>>;

fn main() -> io::Result<()> {
    let words: Vec<String> = env::args().collect();
    let [_, configuration, stream] = words.as_slice() else {
        return Err(io::Error::other("usage: warden CONFIGURATION STREAM"));
    };
    let configuration = fs::read(configuration)?;
    let from_host = File::options().read(true).write(true).open(stream)?;
    let to_host = Arc::new(Mutex::new(from_host.try_clone()?));
    lock(&to_host).write_all(GREETING)?;
    let status = match run(&configuration, from_host, &to_host) {
        Ok(status) => status
            .code()
            .unwrap_or_else(|| ENDED_BY_SIGNAL + status.signal().unwrap_or(0)),
        Err(error) => {
            let text = format!("mother: cannot start the program in the guest: {error}\n");
            send(&to_host, ERRORS, text.as_bytes())?;
            if error.kind() == io::ErrorKind::NotFound {
                NOT_FOUND
            } else {
                NOT_EXECUTABLE
            }
        }
    };
    send(&to_host, EXIT, &status.to_le_bytes())
}

/// Runs the program to its end and all its output to the host.
fn run(configuration: &[u8], from_host: File, to_host: &Stream) -> io::Result<ExitStatus> {
    let mut command = command(configuration)?;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // The thread ends with this process: the program may end before its input does.
    let stdin = child.stdin.take();
    thread::spawn(move || feed(from_host, stdin));
    let stdout = child
        .stdout
        .take()
        .map(|pipe| pass_on(pipe, to_host.clone(), OUTPUT));
    let stderr = child
        .stderr
        .take()
        .map(|pipe| pass_on(pipe, to_host.clone(), ERRORS));
    let status = child.wait()?;
    wait_for_rest(&[stdout, stderr].into_iter().flatten().collect::<Vec<_>>());
    Ok(status)
}

/// Waits until all that the program left in its pipes is with the host. A pipe may never end, for what the program has
/// started and left behind may hold it: then nothing new for a while is the end, as the end of a container's program is
/// the container's.
fn wait_for_rest(pipes: &[thread::JoinHandle<io::Result<()>>]) {
    let begun = Instant::now();
    let mut quiet_since = begun;
    let mut seen = (0, 0);
    while !pipes.iter().all(thread::JoinHandle::is_finished) {
        let now = (READ.load(Ordering::Acquire), SENT.load(Ordering::Acquire));
        if now != seen || now.0 != now.1 {
            (seen, quiet_since) = (now, Instant::now());
        }
        if quiet_since.elapsed() > QUIET || begun.elapsed() > REST {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The program as it was configured.
fn command(configuration: &[u8]) -> io::Result<Command> {
    let mut arguments = Vec::new();
    let mut environment = Vec::new();
    let (mut root, mut folder, mut uid, mut gid) = (None, "/".to_owned(), 0, 0);
    for word in configuration.split(|&byte| byte == 0) {
        let word = String::from_utf8_lossy(word).into_owned();
        let Some((key, value)) = word.split_once('=') else {
            continue;
        };
        match key {
            "arg" => arguments.push(value.to_owned()),
            "env" => environment.extend(
                value
                    .split_once('=')
                    .map(|(k, v)| (k.to_owned(), v.to_owned())),
            ),
            "root" => root = Some(value.to_owned()),
            "cwd" => folder = value.to_owned(),
            "uid" => uid = value.parse().map_err(io::Error::other)?,
            "gid" => gid = value.parse().map_err(io::Error::other)?,
            _ => return Err(io::Error::other(format!("strange word {word:?}"))),
        }
    }
    if let Some(root) = root {
        chroot(root)?;
        env::set_current_dir("/")?;
    }
    fs::create_dir_all(&folder)?;
    let (program, rest) = arguments
        .split_first()
        .ok_or_else(|| io::Error::other("no program"))?;
    let path = environment
        .iter()
        .find(|(key, _)| key == "PATH")
        .map(|(_, path)| path.clone());
    let mut command = Command::new(find(program, path.as_deref().unwrap_or_default()));
    command
        .arg0(program)
        .args(rest)
        .env_clear()
        .envs(environment)
        .current_dir(folder);
    if (uid, gid) != (0, 0) {
        command.gid(gid).uid(uid);
    }
    Ok(command)
}

/// Looks a name up in the program's own `PATH`, not in ours.
fn find(program: &str, path: &str) -> String {
    if program.contains('/') {
        return program.to_owned();
    }
    let candidates = path.split(':').map(|folder| format!("{folder}/{program}"));
    candidates
        .into_iter()
        .find(|file| fs::metadata(file).is_ok())
        .unwrap_or_else(|| program.to_owned())
}

/// Gives frames of input to the program until their end; a program that reads no more is not fed.
fn feed(mut from_host: File, mut stdin: Option<impl Write>) {
    let mut head = [0; 5];
    while from_host.read_exact(&mut head).is_ok() {
        let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
        let mut bytes = Vec::new();
        if (&mut from_host)
            .take(u64::from(len))
            .read_to_end(&mut bytes)
            .is_err()
        {
            return;
        }
        let is_fed = match (head[0], &mut stdin) {
            (INPUT, Some(pipe)) => pipe.write_all(&bytes).and_then(|()| pipe.flush()).is_ok(),
            (END_OF_INPUT, _) => false,
            _ => true,
        };
        if !is_fed {
            stdin = None;
        }
    }
}

/// Sends all that comes out of a pipe to the host.
fn pass_on(
    mut pipe: impl Read + Send + 'static,
    to_host: Stream,
    kind: u8,
) -> thread::JoinHandle<io::Result<()>> {
    thread::spawn(move || {
        let mut buffer = [0; FRAME_BYTES];
        loop {
            match pipe.read(&mut buffer)? {
                0 => return Ok(()),
                count => {
                    READ.fetch_add(1, Ordering::AcqRel);
                    send(&to_host, kind, &buffer[..count])?;
                    SENT.fetch_add(1, Ordering::AcqRel);
                }
            }
        }
    })
}

fn send(to_host: &Stream, kind: u8, bytes: &[u8]) -> io::Result<()> {
    let mut frame = vec![kind];
    frame.extend((bytes.len() as u32).to_le_bytes());
    frame.extend(bytes);
    lock(to_host).write_all(&frame)
}

fn lock(stream: &Stream) -> std::sync::MutexGuard<'_, File> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}
