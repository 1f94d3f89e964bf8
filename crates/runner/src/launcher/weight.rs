//! How much of the CPU a VM's processes get when others want it too.
//!
//! The kernel shares a core between groups of tasks by their weights, and within a group between threads. What groups there are
//! is the host's matter, so there are three means, and the first that this host has is taken:
//!
//! ```text
//! means     what the kernel weighs                         how finely    who may raise it again
//! -----     ----------------------                         ---------     ----------------------
//! cgroup    the VM against its neighbours in the cgroup    1 in 10000    who may lower it
//!           that Mother stands in, or in the one above
//! session   the VM against every other session             steps of      up to 100: anybody; above: root
//!           (sched(7), autogroups)                         a quarter
//! threads   each thread of the VM against each other       steps of      root: for others a thread only
//!           thread of its cgroup                           a quarter     ever gets nicer
//! ```
//!
//! A cgroup can be had by root, and by a user to whom one was delegated (`systemd-run --user --scope -p Delegate=yes`). Each
//! launcher leads a session of its own, so where sessions are weighed ([`Means::Session`]) VMs are equals whatever number of
//! threads they have, also when nobody names a weight.
//!
//! The VM's own process is weighed, passt, and what stands between the two. The launcher is not put into the cgroup: it makes
//! the folder and takes it away when the VM has ended.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use api::CpuWeight;
use rustix::io::Errno;
use rustix::process::{Pid, getpid, setpriority_process};

/// What the next step of niceness takes of a weight (sched(7)).
const STEP: f64 = 1.25;

/// How long a session may be busy with another change: the kernel takes ten a second from all users together.
const SESSION_TRIES: u32 = 30;
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// How long a folder may still have processes that were ended.
const LEAVE_TRIES: u32 = 20;
const BETWEEN_LEAVES: Duration = Duration::from_millis(10);

/// What a weight is kept by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Means {
    /// A cgroup of the VM's own.
    Cgroup,
    /// The VM's session.
    Session,
    /// Its threads.
    Threads,
}

impl Means {
    /// In a word, as it is written in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Means::Cgroup => "cgroup",
            Means::Session => "session",
            Means::Threads => "threads",
        }
    }

    /// What this host has for a VM that this process starts. It makes a cgroup for that, and takes it away again.
    pub fn here() -> Means {
        match make_group(&format!("mother-trial-{}", getpid())) {
            Some(folder) => {
                leave(&folder);
                Means::Cgroup
            }
            None if are_sessions_weighed() => Means::Session,
            None => Means::Threads,
        }
    }
}

/// The weight of one VM, for the launcher that leads its session.
#[derive(Debug)]
pub(super) struct Weight {
    name: String,
    /// Its cgroup, once it has one.
    folder: Option<PathBuf>,
    /// Its threads have this niceness.
    nice: i32,
}

impl Weight {
    /// Of the VM of this name, which has the weight that others have.
    pub(super) fn new(name: &str) -> Weight {
        Weight {
            name: format!("mother-{name}"),
            folder: None,
            nice: 0,
        }
    }

    /// This one from now on.
    pub(super) fn set(&mut self, weight: CpuWeight) -> io::Result<()> {
        if self.folder.is_none() {
            self.folder = make_group(&self.name);
        }
        if let Some(folder) = &self.folder {
            fs::write(folder.join("cpu.weight"), weight.to_string())?;
            move_into(folder)
        } else if are_sessions_weighed() {
            weigh_session(nice(weight))
        } else {
            self.nice = nice(weight);
            weigh_threads(getpid(), self.nice)
        }
    }

    /// Processes of the VM were started since.
    pub(super) fn take_in(&self) {
        let taken = match &self.folder {
            Some(folder) => move_into(folder),
            None if self.nice != 0 => weigh_threads(getpid(), self.nice),
            None => Ok(()),
        };
        if let Err(error) = taken {
            tracing::warn!("what was started for the VM has not its weight: {error}");
        }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            leave(folder);
        }
    }
}

/// The niceness that comes nearest.
fn nice(weight: CpuWeight) -> i32 {
    let steps = (f64::from(CpuWeight::DEFAULT) / f64::from(weight.get())).ln() / STEP.ln();
    (steps.round() as i32).clamp(-20, 19)
}

/// The processes of the session that `leader` leads, but that one.
fn members(leader: Pid) -> io::Result<Vec<Pid>> {
    let is_member = |pid: &Pid| {
        // One that has ended meanwhile is nobody's.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        *pid != leader && session_of(&stat) == Some(leader)
    };
    let pids = fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    Ok(pids.filter(is_member).collect())
}

/// The session of a process, of its `stat` (proc_pid_stat(5), the sixth field; the second is a name in parentheses). Threads of
/// the kernel are in none.
fn session_of(stat: &str) -> Option<Pid> {
    let (_, fields) = stat.rsplit_once(") ")?;
    Pid::from_raw(fields.split(' ').nth(3)?.parse().ok()?)
}

/// Does it to something of a process, which may end meanwhile.
fn unless_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(()),
        other => other,
    }
}

fn move_into(folder: &Path) -> io::Result<()> {
    for pid in members(getpid())? {
        let moved = fs::write(folder.join("cgroup.procs"), pid.to_string());
        unless_gone(moved)?;
    }
    Ok(())
}

fn weigh_session(nice: i32) -> io::Result<()> {
    for _ in 0..SESSION_TRIES {
        match fs::write("/proc/self/autogroup", nice.to_string()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(BETWEEN_TRIES),
            done => return done,
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

fn weigh_threads(leader: Pid, nice: i32) -> io::Result<()> {
    for pid in members(leader)? {
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
            continue;
        };
        for entry in threads.flatten() {
            let number = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            if let Some(thread) = number.and_then(Pid::from_raw) {
                unless_gone(setpriority_process(Some(thread), nice).map_err(io::Error::from))?;
            }
        }
    }
    Ok(())
}

/// Where the hierarchy of cgroups v2 is, and which one of them this process is in.
fn own_group() -> Option<(PathBuf, String)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    own_group_of(&mounts, &groups)
}

/// The same of what proc_pid_mountinfo(5) and cgroups(7) describe.
fn own_group_of(mounts: &str, groups: &str) -> Option<(PathBuf, String)> {
    let mount = mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let root = place.next()?;
        let point = place.next()?;
        (kind.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(point))
    })?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // What is above of what this process sees is not to be had.
    (!own.starts_with("..")).then(|| (mount, own.to_owned()))
}

/// Makes a cgroup whose CPU time has a weight, if there is a place for one: in this process's own, or beside that.
fn make_group(name: &str) -> Option<PathBuf> {
    let (mount, own) = own_group()?;
    let own_folder = mount.join(&own);
    // Allowed where no process is, and in the topmost one.
    let _ = fs::write(own_folder.join("cgroup.subtree_control"), "+cpu");
    let above = (!own.is_empty()).then(|| own_folder.parent().map(Path::to_owned));
    let places = [Some(own_folder), above.flatten()];
    places.into_iter().flatten().find_map(|place| {
        let folder = place.join(name);
        match fs::create_dir(&folder) {
            // One that a launcher left which was ended by force.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return None,
            _ => {}
        }
        let is_weighed = folder.join("cpu.weight").exists();
        if !is_weighed {
            let _ = fs::remove_dir(&folder);
        }
        is_weighed.then_some(folder)
    })
}

/// Takes a cgroup away whose processes have ended.
fn leave(folder: &Path) {
    for _ in 0..LEAVE_TRIES {
        match fs::remove_dir(folder) {
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                thread::sleep(BETWEEN_LEAVES);
            }
            // Where it cannot be removed now, the next VM of this name takes it.
            _ => return,
        }
    }
}

/// Whether the kernel weighs sessions, and this one among them: those whose tasks are in no cgroup that has CPU time of its own.
fn are_sessions_weighed() -> bool {
    let is_on = fs::read_to_string("/proc/sys/kernel/sched_autogroup_enabled");
    is_on.is_ok_and(|is_on| is_on.trim() == "1") && is_in_no_group()
}

/// Whether this process is in the topmost cgroup as far as CPU time goes. What a namespace shows as the topmost one may be none.
fn is_in_no_group() -> bool {
    let Ok(groups) = fs::read_to_string("/proc/self/cgroup") else {
        // A kernel without cgroups.
        return true;
    };
    let of_version_1 = groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|it| it == "cpu").then_some(path)
    });
    match of_version_1 {
        // Only the topmost one has this file.
        Some(path) => {
            path == "/"
                && ["cpu", "cpu,cpuacct", "cpuacct,cpu"].iter().any(|it| {
                    Path::new("/sys/fs/cgroup")
                        .join(it)
                        .join("release_agent")
                        .exists()
                })
        }
        // Every other one has this file.
        None => own_group()
            .is_none_or(|(mount, own)| own.is_empty() && !mount.join("cgroup.type").exists()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_becomes_the_niceness_that_comes_nearest() {
        let check = |weight: &str, expected| {
            assert_eq!(nice(weight.parse().unwrap()), expected, "{weight}");
        };
        check("100", 0);
        check("90", 0);
        check("80", 1);
        check("50", 3);
        check("200", -3);
        check("1", 19);
        check("10000", -20);
    }

    #[test]
    fn a_session_is_read_behind_whatever_a_process_is_called() {
        let check = |stat, expected| {
            assert_eq!(
                session_of(stat).map(|it| it.as_raw_nonzero().get()),
                expected,
                "{stat}"
            );
        };
        check("7 (a (b) c) S 1 5 6 0 -1\n", Some(6));
        check("2 (kthreadd) S 0 0 0 0 -1\n", None);
        check("", None);
    }

    #[test]
    fn all_threads_of_a_session_get_nicer_but_its_leader_s() {
        use std::io::BufRead;
        use std::process::{Command, Stdio};

        let script = "sleep 60 >/dev/null & echo $$; echo $!; exec 1>&-; wait";
        let mut leader = Command::new("setsid")
            .args(["sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = io::BufReader::new(leader.stdout.take().unwrap());
        let pids: Vec<Pid> = said
            .lines()
            .map(|line| Pid::from_raw(line.unwrap().parse().unwrap()).unwrap())
            .collect();
        let [shell, sleeper] = pids[..] else {
            panic!("{pids:?}");
        };
        let nice_of = |pid| rustix::process::getpriority_process(Some(pid)).unwrap();
        let before = nice_of(shell);
        let nicer = (before + 3).min(19);
        weigh_threads(shell, nicer).unwrap();
        assert_eq!((nice_of(shell), nice_of(sleeper)), (before, nicer));
        rustix::process::kill_process(sleeper, rustix::process::Signal::KILL).unwrap();
        leader.wait().unwrap();
    }

    #[test]
    fn the_own_cgroup_is_found_among_whatever_is_mounted() {
        let version_1 =
            "33 32 0:28 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu\n";
        let version_2 =
            "25 22 0:22 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        let part = "25 22 0:22 /a /mnt rw - cgroup2 cgroup2 rw\n";
        let check = |mounts: &[&str], groups, expected: Option<(&str, &str)>| {
            let expected = expected.map(|(mount, own)| (PathBuf::from(mount), own.to_owned()));
            assert_eq!(own_group_of(&mounts.concat(), groups), expected, "{groups}");
        };
        let root = "/sys/fs/cgroup";
        check(&[version_1], "1:cpu:/\n0::/\n", None);
        check(&[version_1, version_2], "1:cpu:/\n0::/\n", Some((root, "")));
        check(
            &[part, version_2],
            "0::/user.slice/a.scope\n",
            Some((root, "user.slice/a.scope")),
        );
        check(&[version_2], "0::/../a\n", None);
        check(&[part], "0::/\n", None);
        check(&[version_2], "1:cpu:/\n", None);
    }
}
