//! Commands that somebody else starts: a service manager, which gives each a unit of its own.
//!
//! ```text
//! mother run -d ...        in the daemon's sandbox   elsewhere(): words, folder, streams over the socket
//!   |  a socket that the service manager listens at (`MOTHER_STARTER`), one connection for each command
//! mother: starter          in a new unit             perform(): the same command with the same streams; its exit status back
//! ```
//!
//! A VM's processes are born where the command that starts them runs. A daemon that has given up devices, namespaces and
//! most system calls could start no VM in a jail, and its restart would count VMs among its own. So its commands hand
//! themselves over: nothing is granted by that but what the unit of the service manager has, and nobody reaches the
//! socket but the daemon's user. Where no variable names a socket, a command does its work itself.

use std::env;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::trouble::OUR_FAULT;
use crate::wire::Channel;

/// What the process that does it is called.
pub(crate) const NAME: &str = "mother: starter";

/// The variable that names the socket.
pub const STARTER: &str = "MOTHER_STARTER";

/// Variables that go along with a command.
const OURS: &str = "MOTHER_";

/// A command that is to run elsewhere; its three streams come with it.
#[derive(Debug, Serialize, Deserialize)]
struct Errand {
    /// What stands behind `mother`.
    words: Vec<OsString>,
    /// Where it runs.
    folder: PathBuf,
    /// What it shall know besides.
    variables: Vec<(OsString, OsString)>,
}

/// How it ended, or why it did not begin.
#[derive(Debug, Serialize, Deserialize)]
enum Came {
    Ended(u8),
    Not(String),
}

/// The socket of who starts commands for this process, if there is one.
pub fn starter() -> Option<PathBuf> {
    let path = env::var_os(STARTER).filter(|path| !path.is_empty())?;
    Some(PathBuf::from(path))
}

/// Has this very command be done by who listens at `socket`, with this process's streams; its exit status.
///
/// # Errors
/// If nobody listens there, or the command could not be started, or nothing came back.
pub fn elsewhere(socket: &Path) -> io::Result<u8> {
    let errand = Errand {
        words: env::args_os().skip(1).collect(),
        folder: env::current_dir()?,
        variables: env::vars_os()
            .filter(|(name, _)| name.to_string_lossy().starts_with(OURS) && name != STARTER)
            .collect(),
    };
    let streams = [
        io::stdin().as_fd().try_clone_to_owned()?,
        io::stdout().as_fd().try_clone_to_owned()?,
        io::stderr().as_fd().try_clone_to_owned()?,
    ];
    hand_over(socket, &errand, &streams)
}

fn hand_over(path: &Path, errand: &Errand, streams: &[OwnedFd; 3]) -> io::Result<u8> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let channel = Channel::of(socket).ok_or(ErrorKind::InvalidInput)?;
    let streams: Vec<_> = streams.iter().map(AsFd::as_fd).collect();
    channel.send(errand, &streams)?;
    match channel.receive::<Came>()? {
        Some((Came::Ended(status), _)) => Ok(status),
        Some((Came::Not(why), _)) => Err(io::Error::other(why)),
        None => Err(io::Error::new(
            ErrorKind::UnexpectedEof,
            "who was to start it has gone",
        )),
    }
}

/// Does what comes over `channel`; the exit status.
pub(crate) fn perform(channel: &Channel) -> u8 {
    let came = match channel.receive::<Errand>() {
        Ok(Some((errand, streams))) => carry_out(channel, &errand, streams),
        // Who connected wanted nothing.
        Ok(None) => return 0,
        Err(error) => Err(error),
    };
    let (came, status) = match came {
        Ok(status) => (Came::Ended(status), 0),
        Err(error) => (Came::Not(error.to_string()), OUR_FAULT),
    };
    // Who asked may have gone meanwhile.
    let _ = channel.send(&came, &[]);
    status
}

/// Runs the command to its end, or until who asked for it goes.
fn carry_out(channel: &Channel, errand: &Errand, streams: Vec<OwnedFd>) -> io::Result<u8> {
    let streams = <[OwnedFd; 3]>::try_from(streams)
        .map_err(|_| io::Error::new(ErrorKind::InvalidData, "a command has three streams"))?;
    let [input, output, errors] = streams.map(Stdio::from);
    let mut command = Command::new("/proc/self/exe");
    command
        .args(&errand.words)
        .current_dir(&errand.folder)
        .env_remove(STARTER)
        .stdin(input)
        .stdout(output)
        .stderr(errors);
    let ours = |name: &OsString| name.to_string_lossy().starts_with(OURS) && name != STARTER;
    for (name, value) in errand.variables.iter().filter(|(name, _)| ours(name)) {
        command.env(name, value);
    }
    let mut child = command.spawn()?;
    // A number might be another's by the time a signal is sent; this is the command or nobody.
    let process = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let process = process.ok_or(ErrorKind::NotFound)?;
    let process = pidfd_open(process, PidfdFlags::empty())?;
    thread::scope(|scope| {
        let asked = channel.as_fd().try_clone_to_owned()?;
        scope.spawn(move || {
            let gone = Channel::of(asked).map(|channel| channel.receive::<Came>());
            if !matches!(gone, Some(Ok(Some(_)))) {
                // It has ended already when we hung up ourselves.
                let _ = pidfd_send_signal(&process, Signal::TERM);
            }
        });
        let ended = child.wait();
        // Ends the thread's waiting, and nothing that is still to be said to the other side.
        let _ = rustix::net::shutdown(channel.as_fd(), rustix::net::Shutdown::Read);
        ended.map(status_of)
    })
}

/// As a shell says it.
fn status_of(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code();
    let code = code.or(status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(OUR_FAULT)
}
