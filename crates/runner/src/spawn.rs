//! This very program, started again as one of a VM's processes.

use std::env;
use std::ffi::CString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::own_log;
use crate::wire::Channel;

/// What every process that has a role is called first.
pub(crate) const CALLED: &str = "mother: ";

/// How much of the environment a process gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Environment {
    /// All of it.
    Same,
    /// What its own log needs.
    Log,
}

/// Starts this very program again as `mother: NAME`, with the other end of the channel that is returned.
pub(crate) fn start(name: &str, environment: Environment) -> io::Result<(Child, Channel)> {
    // What this process was given beside its standard streams is not for one that lives on.
    host::inherit::keep_to_ourselves()?;
    let (ours, theirs) = Channel::pair()?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0(format!("{CALLED}{name}"));
    if environment == Environment::Log {
        let kept = [own_log::LEVEL, "NO_COLOR", "RUST_BACKTRACE"];
        let kept = kept.map(|name| (name, env::var_os(name)));
        command.env_clear();
        command.envs(
            kept.into_iter()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    }
    command
        .stdin(Stdio::from(theirs.into_socket()))
        .stdout(Stdio::null());
    let child = command.spawn()?;
    Ok((child, ours))
}

/// Has administrators find this process: in top, pgrep, journald, and what the kernel says when memory runs out. The kernel
/// shows 15 bytes of the name, and would show `exe` otherwise. To be called on the process's first thread.
pub(crate) fn name_process(name: &str) {
    if let Ok(name) = CString::new(name) {
        // What it is called else is no reason not to run.
        let _ = rustix::thread::set_name(&name);
    }
}
