//! What a VM's process has left behind when it is gone.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitOptions, getpid};

/// How long the launcher stays for children that the VM's process left behind.
const REAP_TIME: Duration = Duration::from_secs(2);

/// Waits for what the VM's process left behind: a passt whose socket is closed ends by itself. `carriers` live on.
pub(super) fn reap(carriers: &[Pid]) {
    let give_up = Instant::now() + REAP_TIME;
    // An error means that there is no child left.
    while let Ok(reaped) = rustix::process::wait(WaitOptions::NOHANG) {
        if reaped.is_none() {
            let is_alone = !carriers.is_empty() && children().all(|it| carriers.contains(&it));
            if is_alone || Instant::now() > give_up {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The children of this process.
fn children() -> impl Iterator<Item = Pid> {
    let us = getpid();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    // The fourth field, of which the second is a name in parentheses (proc_pid_stat(5)).
    let parent = |pid: &Pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, fields) = stat.rsplit_once(") ")?;
        Pid::from_raw(fields.split(' ').nth(1)?.parse().ok()?)
    };
    pids.filter(move |pid| parent(pid) == Some(us))
}
