//! A process in `/proc` (proc(5)): what it was started with, and what it costs.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The longest of these files that is read: a command line may be as long as its process wants.
const FILE_MAX: u64 = 1 << 20;
/// Words of a command line that are looked at.
const WORDS_MAX: usize = 4096;
/// Ticks of a second in `/proc/PID/stat` (`USER_HZ`, which is 100 on x86-64 whatever the kernel's own is).
const TICKS: f64 = 100.0;

/// Numbers of all processes that can be seen.
pub fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    names.collect()
}

/// What a process costs.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ProcessBooks {
    /// Since it started.
    pub uptime_seconds: Option<f64>,
    /// In programs and in the kernel, all of its threads.
    pub cpu_seconds: Option<f64>,
    /// Memory of it that is there.
    pub resident_bytes: Option<u64>,
    /// Memory of it that is in swap.
    pub swapped_bytes: Option<u64>,
}

impl ProcessBooks {
    /// Of the process of this number.
    pub fn of(pid: u32) -> ProcessBooks {
        let folder = folder(pid);
        let stat = read(&folder.join("stat")).unwrap_or_default();
        let status = read(&folder.join("status")).unwrap_or_default();
        let fields = fields(&stat);
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let cpu = number(11).zip(number(12));
        ProcessBooks {
            uptime_seconds: number(19).and_then(|start| {
                let up = read(Path::new("/proc/uptime"))?;
                let up: f64 = up.split(' ').next()?.parse().ok()?;
                Some((up - start as f64 / TICKS).max(0.0))
            }),
            cpu_seconds: cpu.map(|(user, kernel)| (user + kernel) as f64 / TICKS),
            resident_bytes: kilobytes(&status, "VmRSS:"),
            swapped_bytes: kilobytes(&status, "VmSwap:"),
        }
    }
}

/// Fields of `stat` from the third on: a name in parentheses is before them, and may have any sign in it.
fn fields(stat: &str) -> Vec<&str> {
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    after.split_whitespace().collect()
}

/// A line of `status` or `meminfo` in bytes.
pub(super) fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let number: u64 = line.split_whitespace().next()?.parse().ok()?;
    number.checked_mul(1024)
}

/// A text of `/proc` or of a control group, as far as it is read.
pub(super) fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(FILE_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

pub(super) fn folder(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

/// What tells of a process what it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Process {
    pub pid: u32,
    pub uid: u32,
    /// The name of its program, up to 15 bytes of it.
    pub comm: String,
    /// Its control groups, as `/proc/PID/cgroup` has them.
    pub cgroup: String,
}

impl Process {
    /// None if it is gone.
    pub(super) fn read(pid: u32) -> Option<Process> {
        use std::os::unix::fs::MetadataExt;
        let folder = folder(pid);
        Some(Process {
            pid,
            uid: fs::metadata(&folder).ok()?.uid(),
            comm: read(&folder.join("comm"))?.trim_end().to_owned(),
            cgroup: read(&folder.join("cgroup")).unwrap_or_default(),
        })
    }

    /// Its command line.
    pub(super) fn words(&self) -> Vec<String> {
        let text = read(&folder(self.pid).join("cmdline")).unwrap_or_default();
        let words = text.split_terminator('\0').map(str::to_owned);
        words.take(WORDS_MAX).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_move_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 12345 0 0";
        let found = fields(stat);
        assert_eq!(
            (found[0], found[11], found[12], found[19]),
            ("S", "150", "50", "12345")
        );
    }

    #[test]
    fn this_process_is_found_and_counted() {
        let own = std::process::id();
        assert!(pids().contains(&own));
        let books = ProcessBooks::of(own);
        assert!(books.resident_bytes.unwrap() > 100_000);
        assert!(books.uptime_seconds.unwrap() < 3600.0);
        assert!(Process::read(own).unwrap().words()[0].contains("fleet"));
    }
}
