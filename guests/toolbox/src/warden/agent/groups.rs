//! Control groups (version 2): where the agent is, and where what it starts goes. A group that is held still must not have
//! the agent in it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The agent's place among the groups; nothing where the guest has no such file system.
#[derive(Debug)]
pub(super) struct Groups {
    /// Where the groups are mounted, and the agent's own below that.
    pub(super) own: Option<(PathBuf, PathBuf)>,
    /// What a process writes `0` to, to be among the programs. Opened at once: the root may become another one.
    programs: Option<File>,
}

impl Groups {
    /// Goes to the group `own`; what is started goes to `programs`.
    pub(super) fn enter(own: &str, programs: &str) -> Groups {
        let Some(mount) = mount() else {
            return Groups {
                own: None,
                programs: None,
            };
        };
        if own != "-" {
            // Where it must not, it stays where it is, and says so when it is to hold the guest still.
            let _ = fs::write(below(&mount, own).join("cgroup.procs"), "0");
        }
        let own = own_group().unwrap_or_default();
        let programs = match programs {
            "-" => mount.join(&own).join("programs"),
            path => below(&mount, path),
        };
        // It may be there.
        let _ = fs::create_dir(&programs);
        let door = File::options()
            .write(true)
            .open(programs.join("cgroup.procs"));
        Groups {
            own: Some((mount, own)),
            programs: door.ok(),
        }
    }

    /// The programs' group, for one more.
    pub(super) fn door(&self) -> Option<File> {
        self.programs.as_ref()?.try_clone().ok()
    }
}

fn below(mount: &Path, group: &str) -> PathBuf {
    mount.join(group.trim_start_matches('/'))
}

/// Where the kernel's groups are mounted: the first place, which is the whole tree.
fn mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut places = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let place = words.next()?;
        (words.next()? == "cgroup2").then(|| PathBuf::from(place))
    });
    places.next()
}

/// The group that this process is in, as it is written below the mount.
fn own_group() -> io::Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("0::/"));
    Ok(line.unwrap_or_default().into())
}
