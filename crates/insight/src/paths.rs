//! Paths of files: names of directory entries up to the root, across mount points.

use x86::Gva;

use crate::blind::Blind;
use crate::look::Look;

/// Longest path, in names.
const MAX_DEPTH: usize = 512;
/// Longest path, in bytes.
const MAX_BYTES: usize = 4096 * 2;
/// Longest name, NAME_MAX.
const MAX_NAME: u64 = 255;

impl Look<'_> {
    /// The path of a directory entry in a mount (`struct path`), seen from the root of its mount namespace.
    pub(crate) fn path(&self, vfsmount: Gva, dentry: Gva) -> Result<String, Blind> {
        let mount_offset = self.offset("mount", "mnt")?;
        let mut mount = Gva(vfsmount.0.wrapping_sub(mount_offset));
        let mut dentry = dentry;
        let mut names: Vec<String> = Vec::new();
        let mut len = 0;
        for _ in 0..MAX_DEPTH {
            let root = self.member("mount", mount, "mnt.mnt_root")?;
            if dentry.0 == root {
                let parent = self.member("mount", mount, "mnt_parent")?;
                if parent == mount.0 || parent == 0 {
                    return Ok(join(&names));
                }
                dentry = Gva(self.member("mount", mount, "mnt_mountpoint")?);
                mount = Gva(parent);
                continue;
            }
            let (name, parent) = self.dentry(dentry)?;
            if parent == dentry {
                // A root that nothing is mounted on: a pipe, a socket, or what was unmounted.
                return Ok(join(&names));
            }
            len += name.len() + 1;
            if len > MAX_BYTES {
                return Err(Blind::nonsense("path is longer than any can be"));
            }
            names.push(name);
            dentry = parent;
        }
        Err(Blind::nonsense("path does not end"))
    }

    /// The path of a directory entry from the root of its file system.
    pub(crate) fn path_in_file_system(&self, dentry: Gva) -> Result<String, Blind> {
        let mut names: Vec<String> = Vec::new();
        let mut dentry = dentry;
        let mut len = 0;
        for _ in 0..MAX_DEPTH {
            let (name, parent) = self.dentry(dentry)?;
            len += name.len() + 1;
            if parent == dentry {
                return Ok(join(&names));
            }
            if len > MAX_BYTES {
                break;
            }
            names.push(name);
            dentry = parent;
        }
        Err(Blind::nonsense("path does not end"))
    }

    /// Whether a directory entry is another one, or lies somewhere below it in the same file system.
    pub(crate) fn is_below(&self, upper: Gva, mut dentry: Gva) -> Result<bool, Blind> {
        for _ in 0..MAX_DEPTH {
            if dentry == upper {
                return Ok(true);
            }
            let parent = Gva(self.member("dentry", dentry, "d_parent")?);
            if parent == dentry {
                return Ok(false);
            }
            dentry = parent;
        }
        Err(Blind::nonsense("path does not end"))
    }

    /// Name and parent of a directory entry.
    pub(crate) fn dentry(&self, dentry: Gva) -> Result<(String, Gva), Blind> {
        let object = self.object("dentry", dentry)?;
        let len = object.number("d_name.len")?;
        if len > MAX_NAME {
            return Err(Blind::nonsense("name of a file is longer than any can be"));
        }
        let name = self
            .space()
            .bytes(object.pointer("d_name.name")?, len as usize)?;
        Ok((
            String::from_utf8_lossy(&name).into_owned(),
            object.pointer("d_parent")?,
        ))
    }

    /// The path of an open file as `/proc/PID/exe` shows it: what was deleted is marked, and what never was in a folder (a
    /// memfd) has its own name (`d_path` and `simple_dname`, fs/d_path.c).
    pub(crate) fn marked_path(&self, file: Gva) -> Result<String, Blind> {
        let object = self.object("file", file)?;
        let entry = object.pointer("f_path.dentry")?;
        let (name, parent) = self.dentry(entry)?;
        if parent == entry && !name.is_empty() && name != "/" {
            return Ok(format!("/{name} (deleted)"));
        }
        let path = self.path(object.pointer("f_path.mnt")?, entry)?;
        let is_hashed = self.member("dentry", entry, "d_hash.pprev")? != 0;
        Ok(match is_hashed || parent == entry {
            true => path,
            false => format!("{path} (deleted)"),
        })
    }

    /// The path of a node of a kernel file system (cgroups).
    pub(crate) fn kernfs_path(&self, node: Gva) -> Result<String, Blind> {
        let mut names = Vec::new();
        let mut node = node;
        for _ in 0..MAX_DEPTH {
            let object = self.object("kernfs_node", node)?;
            let parent = object.first(&["parent", "__parent"])?;
            if parent == 0 {
                return Ok(join(&names));
            }
            names.push(
                self.space()
                    .text(object.pointer("name")?, MAX_NAME as usize)?,
            );
            node = Gva(parent);
        }
        Err(Blind::nonsense("path of a cgroup does not end"))
    }
}

/// Names from the innermost outwards as a path.
fn join(names: &[String]) -> String {
    if names.is_empty() {
        return "/".to_owned();
    }
    names.iter().rev().flat_map(|name| ["/", name]).collect()
}
