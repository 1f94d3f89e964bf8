//! This very program, started again as one of a VM's processes.

use std::env;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{self, Command, Stdio};

use host::jail::{Apart, Child, Program};

use crate::wire::Channel;

/// What every process that has a role is called first.
pub(crate) const CALLED: &str = "mother: ";

/// Where this program is, whatever became of its file since.
const OURSELVES: &CStr = c"/proc/self/exe";

/// The only variable that a VM's process may have: whoever looks for a mistake of ours sets it, and nobody else.
const BACKTRACE: &str = "RUST_BACKTRACE";

/// Starts this very program again as `mother: NAME`, with the other end of the channel that is returned.
pub(crate) fn start(name: &str) -> io::Result<(process::Child, Channel)> {
    // What this process was given beside its standard streams is not for one that lives on.
    host::inherit::keep_to_ourselves()?;
    let (ours, theirs) = Channel::pair()?;
    let nowhere = host::inherit::nothing()?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0(format!("{CALLED}{name}"));
    command
        .stdin(Stdio::from(theirs.into_socket()))
        .stdout(Stdio::from(nowhere));
    let child = command.spawn()?;
    Ok((child, ours))
}

/// The same for the process that is to be jailed: without environment, and in namespaces of its own if the host gives any;
/// whether it did.
pub(crate) fn start_apart(name: &str, wanted: Apart) -> io::Result<(Child, Channel, Apart)> {
    start_program(OURSELVES, name, wanted)
}

/// The same for another program, which is one of Mother's.
pub(crate) fn start_other(
    program: BorrowedFd<'_>,
    name: &str,
    wanted: Apart,
) -> io::Result<(Child, Channel, Apart)> {
    let path = format!("/proc/self/fd/{}", program.as_raw_fd());
    start_program(&CString::new(path)?, name, wanted)
}

fn start_program(path: &CStr, name: &str, wanted: Apart) -> io::Result<(Child, Channel, Apart)> {
    host::inherit::keep_to_ourselves()?;
    let (ours, theirs) = Channel::pair()?;
    let words = [CString::new(format!("{CALLED}{name}"))?];
    let backtrace = env::var_os(BACKTRACE).and_then(|value| {
        let variable = [BACKTRACE.as_bytes(), b"=", value.as_bytes()].concat();
        CString::new(variable).ok()
    });
    let environment: Vec<CString> = backtrace.into_iter().collect();
    let program = Program {
        path,
        words: &words,
        environment: &environment,
        input: theirs.as_fd(),
    };
    if wanted == Apart::Namespaces {
        match host::jail::spawn(&program, Apart::Namespaces) {
            Ok(child) => return Ok((child, ours, Apart::Namespaces)),
            Err(error) => tracing::info!("the host gives the VM no namespaces: {error}"),
        }
    }
    let child = host::jail::spawn(&program, Apart::No)?;
    Ok((child, ours, Apart::No))
}

/// Has administrators find this process: in top, pgrep, journald, and what the kernel says when memory runs out. The kernel
/// shows 15 bytes of the name, and would show `exe` otherwise. To be called on the process's first thread.
pub(crate) fn name_process(name: &str) {
    if let Ok(name) = CString::new(name) {
        // What it is called else is no reason not to run.
        let _ = rustix::thread::set_name(&name);
    }
}
