//! A control group's books, of version 2 (kernel documentation, admin-guide/cgroup-v2) and of version 1's controllers
//! (admin-guide/cgroup-v1).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::process::{folder, read};
use insight::tasks::runtime_of;

/// Above that version 1 has no limit: the largest number of whole pages.
const NO_LIMIT: u64 = 1 << 62;
/// Most folders below a container's that are looked into: systemd in a container makes one for each service.
const FOLDERS_MAX: usize = 4096;

/// The control groups of a container: one folder of version 2, or one for each controller of version 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    unified: Option<PathBuf>,
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
    cpuacct: Option<PathBuf>,
    freezer: Option<PathBuf>,
    /// The folder that lists processes.
    processes: Option<PathBuf>,
}

/// What is in its books.
#[derive(Clone, Copy, PartialEq, Debug, Default, JsonSchema, Serialize, Deserialize)]
pub struct CgroupBooks {
    /// Memory that is charged to it.
    pub memory_bytes: Option<u64>,
    /// Of that, what can be dropped: the page cache.
    pub cache_bytes: Option<u64>,
    /// What it may have; null without a limit.
    pub memory_max_bytes: Option<u64>,
    /// From here on it is slowed down and reclaimed; version 2 alone.
    pub memory_high_bytes: Option<u64>,
    /// What is in swap.
    pub swap_bytes: Option<u64>,
    /// How often it ran into its limit.
    pub memory_limit_hits: Option<u64>,
    /// How many of its processes were killed for memory.
    pub killed: Option<u64>,
    /// How many CPUs it may use; null without a limit.
    pub cpus: Option<f64>,
    /// CPU time of all its processes that ever were.
    pub cpu_seconds: Option<f64>,
    /// How long its processes wanted a CPU and were held back by the limit.
    pub throttled_seconds: Option<f64>,
    /// Share of the last ten seconds in which some process waited for memory, in percent; version 2 alone.
    pub memory_pressure: Option<f64>,
    /// Whether it is frozen.
    pub is_frozen: Option<bool>,
}

/// A line `key value`.
fn line(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

impl Cgroup {
    /// The ones of the process `pid` that belong to the container whose path in its hierarchy is `path`; none if that is not
    /// mounted here.
    pub fn of(pid: u32, path: &str) -> Option<Cgroup> {
        let text = read(&folder(pid).join("cgroup"))?;
        let mounts = mounts(&read(Path::new("/proc/self/mountinfo"))?);
        let mut found = Cgroup::default();
        for text in text.lines() {
            let mut parts = text.splitn(3, ':').skip(1);
            let (Some(controllers), Some(own)) = (parts.next(), parts.next()) else {
                continue;
            };
            // Each hierarchy has its own path; where the container's is not in it, all of the process's is.
            let below = if own.starts_with(path) { path } else { own };
            let is_own = runtime_of(own).is_some();
            for controller in controllers.split(',').filter(|_| is_own) {
                let Some(mount) = mounts.iter().find(|mount| mount.has(controller)) else {
                    continue;
                };
                let folder = mount.point.join(below.trim_start_matches('/'));
                if !folder.is_dir() {
                    continue;
                }
                found.take(controller, folder);
            }
        }
        found.processes.is_some().then_some(found)
    }

    fn take(&mut self, controller: &str, folder: PathBuf) {
        let place = match controller {
            "" => &mut self.unified,
            "memory" => &mut self.memory,
            "cpu" => &mut self.cpu,
            "cpuacct" => &mut self.cpuacct,
            "freezer" => &mut self.freezer,
            _ => &mut None,
        };
        *place = Some(folder.clone());
        // The unified one knows all of them where it is used at all.
        if controller.is_empty() || self.processes.is_none() {
            self.processes = Some(folder);
        }
    }

    fn unified(&self, file: &str) -> Option<String> {
        read(&self.unified.as_ref()?.join(file))
    }

    /// What is in its books now.
    pub fn books(&self) -> CgroupBooks {
        let old = |folder: &Option<PathBuf>, file: &str| read(&folder.as_ref()?.join(file));
        let number = |text: Option<String>| text?.trim().parse::<u64>().ok();
        let statistics = self
            .unified("memory.stat")
            .or_else(|| old(&self.memory, "memory.stat"));
        let events = self.unified("memory.events");
        let cpu = self.unified("cpu.stat");
        let old_cpu = old(&self.cpu, "cpu.stat");
        let swap = number(old(&self.memory, "memory.memsw.usage_in_bytes"));
        let usage = number(old(&self.memory, "memory.usage_in_bytes"));
        CgroupBooks {
            memory_bytes: number(self.unified("memory.current")).or(usage),
            cache_bytes: statistics
                .as_deref()
                .and_then(|text| line(text, "file").or_else(|| line(text, "total_cache"))),
            memory_max_bytes: number(self.unified("memory.max")).or_else(|| {
                let limit = number(old(&self.memory, "memory.limit_in_bytes"));
                limit.filter(|limit| *limit < NO_LIMIT)
            }),
            memory_high_bytes: number(self.unified("memory.high")),
            swap_bytes: number(self.unified("memory.swap.current"))
                .or_else(|| Some(swap?.saturating_sub(usage?))),
            memory_limit_hits: events
                .as_deref()
                .and_then(|text| line(text, "max"))
                .or_else(|| number(old(&self.memory, "memory.failcnt"))),
            killed: events
                .as_deref()
                .and_then(|text| line(text, "oom_kill"))
                .or_else(|| line(&old(&self.memory, "memory.oom_control")?, "oom_kill")),
            cpus: self.cpus(),
            cpu_seconds: cpu
                .as_deref()
                .and_then(|text| Some(line(text, "usage_usec")? as f64 / 1e6))
                .or_else(|| Some(number(old(&self.cpuacct, "cpuacct.usage"))? as f64 / 1e9)),
            throttled_seconds: cpu
                .as_deref()
                .and_then(|text| Some(line(text, "throttled_usec")? as f64 / 1e6))
                .or_else(|| Some(line(&old_cpu?, "throttled_time")? as f64 / 1e9)),
            memory_pressure: self
                .unified("memory.pressure")
                .and_then(|text| pressure(&text)),
            is_frozen: self.is_frozen(),
        }
    }

    fn cpus(&self) -> Option<f64> {
        if let Some(text) = self.unified("cpu.max") {
            let (quota, period) = text.trim().split_once(' ')?;
            let quota: f64 = quota.parse().ok()?;
            return Some(quota / period.parse::<f64>().ok()?);
        }
        let folder = self.cpu.as_ref()?;
        let number = |file: &str| read(&folder.join(file))?.trim().parse::<f64>().ok();
        let quota = number("cpu.cfs_quota_us").filter(|quota| *quota > 0.0)?;
        Some(quota / number("cpu.cfs_period_us")?)
    }

    fn is_frozen(&self) -> Option<bool> {
        let new = self.unified("cgroup.events");
        if let Some(frozen) = new.and_then(|text| line(&text, "frozen")) {
            return Some(frozen == 1);
        }
        let old = read(&self.freezer.as_ref()?.join("freezer.state"))?;
        Some(old.trim() != "THAWED")
    }

    /// Freezes all its processes, or lets them go on.
    ///
    /// # Errors
    /// If the host does not allow it, or has nothing to freeze with.
    pub fn freeze(&self, is_on: bool) -> std::io::Result<()> {
        let new = self
            .unified
            .as_ref()
            .map(|folder| folder.join("cgroup.freeze"));
        if let Some(file) = new.filter(|file| file.exists()) {
            return fs::write(file, if is_on { "1" } else { "0" });
        }
        let old = self
            .freezer
            .as_ref()
            .map(|folder| folder.join("freezer.state"));
        match old {
            Some(file) => fs::write(file, if is_on { "FROZEN" } else { "THAWED" }),
            None => Err(std::io::ErrorKind::Unsupported.into()),
        }
    }

    /// Numbers of its processes and of those in control groups below it, as this process sees them.
    pub fn processes(&self) -> BTreeSet<u32> {
        let mut found = BTreeSet::new();
        let mut folders: Vec<PathBuf> = self.processes.iter().cloned().collect();
        let mut seen = 0;
        while let Some(folder) = folders.pop() {
            seen += 1;
            let text = read(&folder.join("cgroup.procs")).unwrap_or_default();
            // Zero is a process that is in no namespace of ours.
            let pids = text.lines().filter_map(|line| line.parse::<u32>().ok());
            found.extend(pids.filter(|pid| *pid != 0));
            let below = fs::read_dir(&folder).into_iter().flatten().flatten();
            let below = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            if seen + folders.len() < FOLDERS_MAX {
                folders.extend(below.map(|entry| entry.path()).take(FOLDERS_MAX));
            }
        }
        found
    }
}

/// `some avg10=1.23 …` (kernel documentation, accounting/psi).
fn pressure(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let field = line
        .split(' ')
        .find_map(|field| field.strip_prefix("avg10="));
    field?.parse().ok()
}

/// A hierarchy that is mounted.
struct Mount {
    point: PathBuf,
    is_unified: bool,
    /// Of version 1, its controllers among them.
    options: String,
}

impl Mount {
    fn has(&self, controller: &str) -> bool {
        match controller {
            "" => self.is_unified,
            name => !self.is_unified && self.options.split(',').any(|option| option == name),
        }
    }
}

/// Control groups in `/proc/self/mountinfo` (proc(5)): the point is the fifth field, the type the first behind the dash.
fn mounts(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (own, system) = line.split_once(" - ")?;
        let mut system = system.split(' ');
        let kind = system.next()?;
        let options = system.nth(1)?.to_owned();
        let point = PathBuf::from(own.split(' ').nth(4)?);
        kind.starts_with("cgroup").then(|| Mount {
            point,
            is_unified: kind == "cgroup2",
            options,
        })
    };
    text.lines().filter_map(mount).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn books_of_version_2_are_read() {
        let files = folder(&[
            ("memory.current", "503316480\n"),
            ("memory.max", "536870912\n"),
            ("memory.high", "max\n"),
            ("memory.swap.current", "4096\n"),
            ("memory.stat", "anon 1\nfile 8192\n"),
            ("memory.events", "low 0\nhigh 0\nmax 7\noom 1\noom_kill 2\n"),
            ("cpu.max", "50000 100000\n"),
            ("cpu.stat", "usage_usec 2500000\nthrottled_usec 500000\n"),
            (
                "memory.pressure",
                "some avg10=1.25 avg60=0 avg300=0 total=1\n",
            ),
            ("cgroup.events", "populated 1\nfrozen 0\n"),
            ("cgroup.procs", "7\n0\n12\n"),
        ]);
        let mut cgroup = Cgroup::default();
        cgroup.take("", files.path().to_owned());
        let books = cgroup.books();
        let expected = CgroupBooks {
            memory_bytes: Some(480 << 20),
            cache_bytes: Some(8192),
            memory_max_bytes: Some(512 << 20),
            memory_high_bytes: None,
            swap_bytes: Some(4096),
            memory_limit_hits: Some(7),
            killed: Some(2),
            cpus: Some(0.5),
            cpu_seconds: Some(2.5),
            throttled_seconds: Some(0.5),
            memory_pressure: Some(1.25),
            is_frozen: Some(false),
        };
        assert_eq!(books, expected);
        assert_eq!(cgroup.processes(), BTreeSet::from([7, 12]));
    }

    #[test]
    fn books_of_version_1_are_read_and_no_limit_is_none() {
        let files = folder(&[
            ("memory.usage_in_bytes", "1000\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.memsw.usage_in_bytes", "1500\n"),
            ("memory.failcnt", "3\n"),
            ("cpuacct.usage", "1500000000\n"),
            ("cpu.cfs_quota_us", "-1\n"),
            ("cpu.cfs_period_us", "100000\n"),
            ("freezer.state", "FROZEN\n"),
        ]);
        let mut cgroup = Cgroup::default();
        for controller in ["memory", "cpu", "cpuacct", "freezer"] {
            cgroup.take(controller, files.path().to_owned());
        }
        let books = cgroup.books();
        assert_eq!((books.memory_max_bytes, books.cpus), (None, None));
        assert_eq!(
            (books.memory_bytes, books.swap_bytes),
            (Some(1000), Some(500))
        );
        assert_eq!(books.memory_limit_hits, Some(3));
        assert_eq!(
            (books.cpu_seconds, books.is_frozen),
            (Some(1.5), Some(true))
        );
    }

    #[test]
    fn hierarchies_are_found_among_mounts() {
        let text = "30 25 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                    31 25 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
                    32 25 0:28 / /proc rw - proc proc rw\n";
        let found = mounts(text);
        assert_eq!(found.len(), 2);
        assert!(found[0].has("memory") && !found[0].has("cpu") && !found[0].has(""));
        assert!(found[1].has(""));
    }
}
