//! `mother run --detach`: the guest runs in a process of its own that outlives this one and its terminal.
//!
//! That process is this same command, called again. Until the guest has started it belongs to the terminal like any
//! other: its words and errors appear there, Ctrl-C ends it, and its exit status is ours. When the guest runs, it
//! leaves the session, turns its standard error to the VM's folder, and says the name on its standard output, which
//! is a pipe to us.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

use machine::Machine;
use rustix::process::setsid;
use rustix::stdio::{dup2_stderr, dup2_stdout};

use crate::arguments::RunArguments;
use crate::failure::Failure;
use crate::output::say;
use crate::registration::Served;
use crate::terminal;

/// Bytes of its own log that a detached process writes at most.
const MESSAGES_BYTES: u64 = 1 << 20;

/// Starts the process and waits until its guest runs or it has ended; the exit status.
pub fn start() -> Result<u8, Failure> {
    let failed = |act| move |source| Failure::Detach { act, source };
    let mut words = env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(program) = words.next() {
        command.arg0(program);
    }
    // Behind the command's name, before anything that is the guest's.
    command
        .args(words.next())
        .arg("--detached-child")
        .args(words);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(failed("start"))?;
    let mut name = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout
            .read_to_string(&mut name)
            .map_err(failed("hear from"))?;
    }
    if !name.is_empty() {
        say(&name)?;
        return Ok(0);
    }
    let status = child.wait().map_err(failed("wait for"))?;
    let signal = status.signal().map(|signal| 128 + signal);
    Ok(status
        .code()
        .or(signal)
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(crate::failure::OUR_FAULT))
}

/// Tells whoever waits for the start of a detached VM about it.
pub struct Start(Option<JoinHandle<()>>);

impl Start {
    /// Waits until that is told, so that the start is heard of before the end.
    pub fn wait(self) {
        if let Some(thread) = self.0 {
            let _ = thread.join();
        }
    }
}

/// In that process: leaves the terminal when the guest runs; what it says from then on goes to the VM's folder. In any
/// other nothing.
pub fn let_go_if_asked(
    arguments: &RunArguments,
    machine: &Machine,
    served: &Served,
) -> Result<Start, Failure> {
    if !arguments.detach {
        return Ok(Start(None));
    }
    let failed = |source| Failure::Detach {
        act: "let go of",
        source,
    };
    let messages = served.record().messages();
    let messages = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(messages)
        .map_err(failed)?;
    let nowhere = OpenOptions::new()
        .write(true)
        .open("/dev/null")
        .map_err(failed)?;
    let (control, name) = (machine.control(), served.name().to_string());
    let wait = move || {
        if control.wait_until_started() {
            let_go(&messages, &nowhere, &name);
        }
    };
    let thread = thread::Builder::new()
        .name("start".to_owned())
        .spawn(wait)
        .map_err(failed)?;
    Ok(Start(Some(thread)))
}

fn let_go(messages: &File, nowhere: &File, name: &str) {
    // Fails only where this process leads a group already: then nothing was to be left.
    let _ = setsid();
    terminal::limit_log(MESSAGES_BYTES);
    if let Err(error) = dup2_stderr(messages) {
        tracing::warn!(%error, "standard error stays with the terminal");
    }
    let mut stdout = io::stdout().lock();
    // Who started us may be gone; the guest runs all the same.
    let _ = writeln!(stdout, "{name}").and_then(|()| stdout.flush());
    // Closes the pipe: the other side has waited for that.
    if let Err(error) = dup2_stdout(nowhere) {
        tracing::warn!(%error, "standard output stays with who started this");
    }
}
