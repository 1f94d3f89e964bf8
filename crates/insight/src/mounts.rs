//! Mounted file systems, of every mount namespace.
//!
//! A namespace keeps its mounts in a list until 6.7 and in a tree since 6.8, in the order of their numbers. What a file
//! system says of its own options is known only to that file system, and is not read.

use std::collections::{BTreeMap, HashSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x86::Gva;

use crate::blind::Blind;
use crate::look::Look;
use crate::observed::Observed;

/// Most mounts of one namespace.
const MAX_MOUNTS: usize = 1 << 17;
/// Deepest tree: it is balanced, so this many levels hold more than there can be.
const MAX_DEPTH: usize = 80;
/// Longest name of a device or a file system.
const MAX_NAME: usize = 4096;
/// A place holder of somebody who reads the list (`MNT_CURSOR`, 5.8 to 6.7).
const CURSOR: u64 = 0x1000_0000;
/// Flags of a mount (include/linux/mount.h), the same in every kernel, as mountinfo(5) says them.
const MOUNT_FLAGS: [(u64, &str); 7] = [
    (0x01, "nosuid"),
    (0x02, "nodev"),
    (0x04, "noexec"),
    (0x08, "noatime"),
    (0x10, "nodiratime"),
    (0x20, "relatime"),
    (0x80, "nosymfollow"),
];
/// A mount that is read only (`MNT_READONLY`), and a file system (`SB_RDONLY`).
const MOUNT_READ_ONLY: u64 = 0x40;
const SYSTEM_READ_ONLY: u64 = 1;

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Mount {
    /// Its number.
    pub id: i32,
    /// The number of what it is mounted on; its own for the first one.
    pub parent_id: i32,
    /// Major and minor number of its device.
    pub device: (u32, u32),
    /// Which folder of the file system is there.
    pub root: String,
    /// Where it is, seen from the root of its namespace.
    pub point: String,
    /// What was named to be mounted.
    pub source: String,
    /// The file system, `ext4`.
    pub system: String,
    /// Options of the mount, as mountinfo(5) shows them: `rw`, `nosuid`, `relatime`.
    pub options: Vec<String>,
    /// Whether nothing can be written through it: by its own flag, or by the file system's.
    pub is_read_only: bool,
    /// Whether the first process of the namespace can get there from its root, so that its mountinfo shows it; absent if
    /// its root cannot be read. What a system was started from often lies below its root.
    pub is_reachable: Option<bool>,
}

/// Numbers of processes, and where their first tasks are.
type Tasks = Vec<(i32, Gva)>;

/// A mount namespace.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct MountNamespace {
    /// Its number, as `/proc/PID/ns/mnt` shows it.
    pub number: u32,
    /// Processes in it.
    pub pids: Vec<i32>,
    /// Its mounts, by number.
    pub mounts: Vec<Mount>,
}

impl Look<'_> {
    /// Every mount namespace that a process is in, the first process's first.
    pub fn mounts(&self) -> Observed<Vec<MountNamespace>> {
        self.observed(self.read_mounts())
    }

    fn read_mounts(&self) -> Result<Vec<MountNamespace>, Blind> {
        let mut namespaces = Vec::new();
        for (at, tasks) in self.mount_namespaces()? {
            let first = tasks.iter().min_by_key(|(pid, _)| *pid);
            let root = first.and_then(|(_, task)| self.root_of(*task).ok());
            let pids = tasks.into_iter().map(|(pid, _)| pid).collect();
            let number = self.member("mnt_namespace", at, "ns.inum")? as u32;
            let mut mounts = Vec::new();
            for mount in self.mounts_in(at)? {
                match self.mount(mount, root) {
                    Ok(mount) => mounts.extend(mount),
                    Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
                    Err(Blind::NoType(what)) => return Err(Blind::NoType(what)),
                    Err(_) => self.space().torn(),
                }
            }
            mounts.sort_by_key(|mount| mount.id);
            namespaces.push(MountNamespace {
                number,
                pids,
                mounts,
            });
        }
        Ok(namespaces)
    }

    /// Namespaces of all processes, with those, in the order of their first process.
    fn mount_namespaces(&self) -> Result<Vec<(Gva, Tasks)>, Blind> {
        let mut tasks: BTreeMap<u64, Tasks> = BTreeMap::new();
        for task in self.listed_tasks()? {
            let read =
                (|| {
                    let proxy = self.member("task_struct", task, "nsproxy")?;
                    let pid = self.member("task_struct", task, "tgid")? as i32;
                    let has_ended = proxy == 0;
                    Ok((!has_ended)
                        .then_some((self.member("nsproxy", Gva(proxy), "mnt_ns").ok(), pid)))
                })();
            match read {
                Ok(Some((Some(namespace), pid))) => {
                    tasks.entry(namespace).or_default().push((pid, task))
                }
                Ok(_) => {}
                Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
                Err(Blind::NoType(what)) => return Err(Blind::NoType(what)),
                Err(_) => self.space().torn(),
            }
        }
        let mut found: Vec<_> = tasks
            .into_iter()
            .map(|(at, tasks)| (Gva(at), tasks))
            .collect();
        found.sort_by_key(|(_, tasks)| tasks.iter().map(|(pid, _)| *pid).min());
        Ok(found)
    }

    /// Where a process has its root: a mount, and a directory entry in it.
    fn root_of(&self, task: Gva) -> Result<(Gva, Gva), Blind> {
        let fs = self.object("fs_struct", Gva(self.member("task_struct", task, "fs")?))?;
        let mount = fs
            .number("root.mnt")?
            .wrapping_sub(self.offset("mount", "mnt")?);
        Ok((Gva(mount), fs.pointer("root.dentry")?))
    }

    /// Whether a path leads from a root to a mount.
    fn is_reachable(&self, (root, entry): (Gva, Gva), mount: Gva) -> Result<bool, Blind> {
        let mut at = mount;
        let mut dentry = Gva(self.member("mount", at, "mnt.mnt_root")?);
        for _ in 0..MAX_MOUNTS {
            if at == root {
                return self.is_below(entry, dentry);
            }
            let parent = Gva(self.member("mount", at, "mnt_parent")?);
            if parent == at {
                return Ok(false);
            }
            dentry = Gva(self.member("mount", at, "mnt_mountpoint")?);
            at = parent;
        }
        Err(Blind::nonsense("mounts lie on each other without an end"))
    }

    fn mounts_in(&self, namespace: Gva) -> Result<Vec<Gva>, Blind> {
        if self.layouts()?.has("mnt_namespace", "mounts.rb_node") {
            let root = self.member("mnt_namespace", namespace, "mounts.rb_node")?;
            let link = self.offset("mount", "mnt_node")?;
            let nodes = self.tree(Gva(root))?;
            return Ok(nodes
                .into_iter()
                .map(|node| Gva(node.0.wrapping_sub(link)))
                .collect());
        }
        let head = Gva(namespace
            .0
            .wrapping_add(self.offset("mnt_namespace", "list")?));
        self.steady_list(head, self.offset("mount", "mnt_list")?)
    }

    /// The nodes of a balanced tree, again if the guest changed it meanwhile.
    fn tree(&self, root: Gva) -> Result<Vec<Gva>, Blind> {
        let mut last = self.tree_once(root);
        for _ in 0..3 {
            if last.is_ok() || matches!(last, Err(Blind::OverBudget(_))) {
                break;
            }
            self.space().torn();
            last = self.tree_once(root);
        }
        last
    }

    fn tree_once(&self, root: Gva) -> Result<Vec<Gva>, Blind> {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut waiting = vec![(root.0, 0)];
        while let Some((node, depth)) = waiting.pop() {
            if node == 0 {
                continue;
            }
            if depth > MAX_DEPTH || found.len() >= MAX_MOUNTS || !seen.insert(node) {
                return Err(Blind::nonsense("tree of mounts does not end"));
            }
            found.push(Gva(node));
            for side in ["rb_left", "rb_right"] {
                waiting.push((self.member("rb_node", Gva(node), side)?, depth + 1));
            }
        }
        Ok(found)
    }

    /// One mount; `None` for a reader's place holder.
    fn mount(&self, at: Gva, seen_from: Option<(Gva, Gva)>) -> Result<Option<Mount>, Blind> {
        let mount = self.object("mount", at)?;
        let flags = mount.number("mnt.mnt_flags")?;
        if flags & CURSOR != 0 && !self.layouts()?.has("mnt_namespace", "mounts.rb_node") {
            return Ok(None);
        }
        let block = self.object("super_block", mount.pointer("mnt.mnt_sb")?)?;
        let device = block.number("s_dev")? as u32;
        let name = self.member("file_system_type", block.pointer("s_type")?, "name")?;
        let mut system = self.space().text(Gva(name), MAX_NAME)?;
        let subtype = block.number("s_subtype").unwrap_or(0);
        if subtype != 0 {
            system = format!("{system}.{}", self.space().text(Gva(subtype), MAX_NAME)?);
        }
        let source = match mount.pointer("mnt_devname")? {
            Gva(0) => "none".to_owned(),
            name => self.space().text(name, MAX_NAME)?,
        };
        let root = mount.pointer("mnt.mnt_root")?;
        let read_only = flags & MOUNT_READ_ONLY != 0;
        let named = MOUNT_FLAGS
            .iter()
            .filter(|(flag, _)| flags & flag != 0)
            .map(|(_, name)| *name);
        Ok(Some(Mount {
            id: mount.i32("mnt_id")?,
            parent_id: self.member("mount", mount.pointer("mnt_parent")?, "mnt_id")? as i32,
            device: (device >> 20, device & 0xf_ffff),
            root: self.path_in_file_system(root)?,
            point: self.path(mount.at("mnt")?, root)?,
            source,
            system,
            options: [if read_only { "ro" } else { "rw" }]
                .into_iter()
                .chain(named)
                .map(str::to_owned)
                .collect(),
            is_read_only: read_only || block.number("s_flags")? & SYSTEM_READ_ONLY != 0,
            is_reachable: seen_from.and_then(|root| self.is_reachable(root, at).ok()),
        }))
    }
}
