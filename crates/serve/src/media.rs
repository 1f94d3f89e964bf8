//! What lies in drives of declared VMs: files that were fetched, in a folder of the daemon, and the disk that becomes of one.
//!
//! A file that is being fetched has no name, so a daemon that dies leaves nothing of it behind; one that has a name and that
//! nobody's declaration knows, because the daemon died between the two, goes when the daemon starts. What is in a file is not
//! looked at here: whoever starts the VM does that, what reads boot entries in its jail.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};

use api::{DiskSerial, DiskSpec, VmSpec};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat, statvfs};

use crate::orders::problem;
use crate::words::{BootTarget, Declared, Medium, Problem};

/// Largest file that is fetched.
pub(crate) const MEDIUM_BYTES_MAX: u64 = 64 << 30;
/// What is left free on the file system that it lands on.
const SPARED_BYTES: u64 = 256 << 20;
/// What the guest sees as the drive's serial number.
const SERIAL: &str = "cd";

/// The folder of fetched files.
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// The folder in the daemon's own; what is in it and belongs to none of these goes.
    pub(crate) fn open(state: &Path, declared: &[Declared]) -> io::Result<Folder> {
        let path = state.join("media");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)?;
        let media = declared.iter().filter_map(|one| one.medium.as_ref());
        let kept: BTreeSet<&str> = media
            .filter(|medium| medium.is_own)
            .map(|medium| medium.file.as_str())
            .collect();
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            if !entry
                .file_name()
                .to_str()
                .is_some_and(|name| kept.contains(name))
            {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Folder(path))
    }

    /// The file of a medium.
    pub(crate) fn path(&self, medium: &Medium) -> PathBuf {
        if medium.is_own {
            self.0.join(&medium.file)
        } else {
            PathBuf::from(&medium.file)
        }
    }

    /// Removes the file of a medium that lies in no drive any more, if it is ours; a guest that has it still has it until it
    /// ends.
    pub(crate) fn remove(&self, medium: &Medium) {
        if medium.is_own
            && let Err(error) = fs::remove_file(self.path(medium))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!("{}: {error}", medium.file);
        }
    }

    /// Bytes that may still be fetched.
    pub(crate) fn room_bytes(&self) -> io::Result<u64> {
        let system = statvfs(&self.0)?;
        let free = system.f_bavail.saturating_mul(system.f_frsize);
        Ok(free.saturating_sub(SPARED_BYTES))
    }

    /// A new file, without a name where the file system has such files.
    pub(crate) fn begin(&self) -> io::Result<Unnamed> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match openat(CWD, &self.0, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Ok(Unnamed {
                file: file.into(),
                path: None,
            }),
            Err(_) => {
                let path = self.0.join(format!("{}.new", crate::doors::random()?));
                let file = File::options()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(&path)?;
                Ok(Unnamed {
                    file,
                    path: Some(path),
                })
            }
        }
    }

    /// Gives a file that is whole a name, on the disk.
    pub(crate) fn finish(&self, mut unnamed: Unnamed, digest: &str) -> io::Result<String> {
        unnamed.file.sync_all()?;
        let random = crate::doors::random()?;
        let name = format!("{}-{}", &digest[..16], &random[..8]);
        let to = self.0.join(&name);
        match unnamed.path.take() {
            Some(path) => fs::rename(path, &to)?,
            None => {
                let open = format!("/proc/self/fd/{}", unnamed.file.as_raw_fd());
                linkat(CWD, open, CWD, &to, AtFlags::SYMLINK_FOLLOW)?;
            }
        }
        File::open(&self.0)?.sync_all()?;
        Ok(name)
    }
}

/// A file that is being fetched; nothing of it is left if it is not finished.
pub(crate) struct Unnamed {
    pub(crate) file: File,
    path: Option<PathBuf>,
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

/// A file of the host as a medium, which stays where it is.
///
/// # Errors
/// If it is none that the daemon's user may read.
pub(crate) fn of_host(image: &str) -> Result<Medium, Box<Problem>> {
    let path = image.strip_prefix("file://").unwrap_or(image);
    let refused = |why: String| {
        let refused = problem(
            "bad-input",
            format!("cannot take {}: {why}", path.escape_debug()),
        );
        Problem {
            help: Some(
                "name a file that the daemon's user may read, by its whole path, or an http:// or https:// address".to_owned(),
            ),
            ..refused
        }
    };
    if !path.starts_with('/') {
        return Err(refused("it is no whole path and no address".to_owned()).into());
    }
    let metadata = fs::metadata(path).map_err(|error| refused(error.to_string()))?;
    if !metadata.is_file() && !metadata.file_type().is_block_device() {
        return Err(refused("it is no file and no block device".to_owned()).into());
    }
    File::open(path).map_err(|error| refused(error.to_string()))?;
    Ok(Medium {
        image: image.to_owned(),
        file: path.to_owned(),
        is_own: false,
        len_bytes: metadata.len(),
        sha256: None,
        user: None,
    })
}

/// What a VM is at its next start: as it was declared, with what lies in its drive, and started from where an override says.
///
/// # Errors
/// If it is to start from what is not there.
pub(crate) fn next_spec(declared: &Declared, folder: &Folder) -> Result<VmSpec, Box<Problem>> {
    let mut spec = declared.what.spec.clone();
    let target = declared.boot.next();
    let missing = |what: &str, help: &str| Problem {
        help: Some(help.to_owned()),
        ..problem("refused", what)
    };
    match target {
        BootTarget::None => {}
        BootTarget::Hdd if spec.image.is_some() => {}
        BootTarget::Hdd => {
            let Some(first) = spec.disks.first_mut() else {
                let what = "it is to start from its first disk, and has none";
                return Err(
                    missing(what, "declare it with `--disk`, or reset the override").into(),
                );
            };
            first.boot = true;
            leave_own_start(&mut spec);
        }
        BootTarget::Cd if declared.medium.is_none() => {
            let what = "it is to start from its drive, and nothing lies in there";
            return Err(missing(what, "insert a medium, or reset the override").into());
        }
        BootTarget::Cd => {
            spec.disks.iter_mut().for_each(|disk| disk.boot = false);
            leave_own_start(&mut spec);
        }
    }
    if let Some(medium) = &declared.medium {
        spec.disks.push(DiskSpec {
            path: folder.path(medium),
            read_only: true,
            serial: SERIAL.parse::<DiskSerial>().ok(),
            boot: target == BootTarget::Cd,
            ..DiskSpec::default()
        });
    }
    Ok(spec)
}

/// What says how a VM starts by itself is not said where it starts otherwise.
fn leave_own_start(spec: &mut VmSpec) {
    spec.app = None;
    spec.include.clear();
    spec.environment.clear();
    spec.workdir = None;
    spec.words.clear();
    spec.kernel = None;
    spec.initrd = None;
    spec.modules.clear();
    spec.cmdline = None;
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use serde_json::{Value, json};

    use super::*;
    use crate::words::{BootOverride, Declaration, Lasting};

    fn declared(spec: Value, medium: Option<Medium>, target: BootTarget) -> Declared {
        let what: Declaration =
            serde_json::from_value(json!({ "name": "web", "spec": spec })).unwrap();
        Declared {
            what,
            version: 1,
            wanted: 1,
            served: 0,
            medium,
            boot: BootOverride {
                target,
                lasting: Lasting::Once,
            },
        }
    }

    fn medium(file: &str) -> Medium {
        Medium {
            image: "http://192.0.2.1/a.iso".to_owned(),
            file: file.to_owned(),
            is_own: true,
            len_bytes: 1,
            sha256: None,
            user: None,
        }
    }

    #[test]
    fn a_vm_starts_from_where_its_override_says() {
        let state = tempfile::tempdir().unwrap();
        let folder = Folder::open(state.path(), &[]).unwrap();
        let path = folder.0.join("a").display().to_string();
        let check = |spec: Value, has_medium: bool, target, expected: Result<Value, &str>| {
            let declared = declared(spec, has_medium.then(|| medium("a")), target);
            let found = next_spec(&declared, &folder);
            let found = found.map(|spec| Value::Object(spec.said()));
            let found = found.map_err(|problem| problem.message);
            assert_eq!(found, expected.map_err(str::to_owned));
        };
        let own = json!({ "kernel": "/k", "cmdline": "a", "disk": ["/d"] });
        check(
            own.clone(),
            false,
            BootTarget::None,
            Ok(json!({ "kernel": "/k", "cmdline": "a", "disk": [{ "path": "/d" }] })),
        );
        check(
            own.clone(),
            true,
            BootTarget::None,
            Ok(json!({ "kernel": "/k", "cmdline": "a", "disk": [
            { "path": "/d" }, { "path": path, "readonly": true, "serial": "cd" }
        ] })),
        );
        check(
            own.clone(),
            true,
            BootTarget::Cd,
            Ok(json!({ "disk": [
            { "path": "/d" }, { "path": path, "readonly": true, "serial": "cd", "boot": true }
        ] })),
        );
        check(
            own.clone(),
            true,
            BootTarget::Hdd,
            Ok(json!({ "disk": [
            { "path": "/d", "boot": true }, { "path": path, "readonly": true, "serial": "cd" }
        ] })),
        );
        check(
            json!({ "image": "/d.raw" }),
            false,
            BootTarget::Hdd,
            Ok(json!({ "image": "/d.raw" })),
        );
        check(
            own,
            false,
            BootTarget::Cd,
            Err("it is to start from its drive, and nothing lies in there"),
        );
        check(
            json!({}),
            true,
            BootTarget::Hdd,
            Err("it is to start from its first disk, and has none"),
        );
    }

    #[test]
    fn what_holds_once_is_used_up_by_a_start() {
        let check = |lasting, next: BootTarget, then: BootTarget| {
            let boot = BootOverride {
                target: BootTarget::Cd,
                lasting,
            };
            assert_eq!((boot.next(), boot.used().next()), (next, then));
        };
        check(Lasting::Disabled, BootTarget::None, BootTarget::None);
        check(Lasting::Once, BootTarget::Cd, BootTarget::None);
        check(Lasting::Continuous, BootTarget::Cd, BootTarget::Cd);
    }

    #[test]
    fn only_whole_files_of_somebodys_are_left() {
        let state = tempfile::tempdir().unwrap();
        let folder = Folder::open(state.path(), &[]).unwrap();
        let there = || fs::read_dir(&folder.0).unwrap().count();
        let unfinished = folder.begin().unwrap();
        (&unfinished.file).write_all(b"half").unwrap();
        drop(unfinished);
        assert_eq!(there(), 0);
        let whole = folder.begin().unwrap();
        whole.file.write_all_at(b"whole", 0).unwrap();
        let name = folder.finish(whole, "0123456789abcdef0123").unwrap();
        assert_eq!(fs::read(folder.0.join(&name)).unwrap(), b"whole");
        let kept = declared(json!({}), Some(medium(&name)), BootTarget::None);
        Folder::open(state.path(), std::slice::from_ref(&kept)).unwrap();
        assert_eq!(there(), 1);
        // The daemon died before anybody's declaration knew of it.
        Folder::open(state.path(), &[]).unwrap();
        assert_eq!(there(), 0);
    }

    #[test]
    fn a_file_of_the_host_is_one_that_can_be_read() {
        let check = |image: &str, expected: Option<&str>| {
            let found = of_host(image).err().map(|problem| problem.message);
            let is_so = match (&found, expected) {
                (Some(found), Some(expected)) => found.contains(expected),
                (found, expected) => found.is_none() && expected.is_none(),
            };
            assert!(is_so, "{image}: {found:?}");
        };
        check("/proc/self/exe", None);
        check("file:///proc/self/exe", None);
        check("relative.iso", Some("no whole path"));
        check("ftp://192.0.2.1/a", Some("no whole path"));
        check("/nowhere/a.iso", Some("No such file"));
        check("/dev/null", Some("no file"));
        check("/", Some("no file"));
    }
}
