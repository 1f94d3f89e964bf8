//! The folder below which every VM of a user has its own, and whether it can be trusted.
//!
//! Whoever can write there can be asked instead of a VM or see what guests print. So the folder must be a real one,
//! ours, and closed to others; we never repair one that is not, because somebody may already be inside.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use thiserror::Error;

/// Permissions of others in a mode.
const OTHERS: u32 = 0o077;

/// Why there is no place for VMs.
#[derive(Debug, Error)]
pub enum PlaceError {
    /// The folder could not be made or looked at.
    #[error("cannot use the folder {} for running VMs", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// Somebody else could be in there.
    #[error("the folder {} is not safe for running VMs: {what}", .path.display())]
    Unsafe {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// Where `environment` and the host say that this user's VMs are: below `$XDG_RUNTIME_DIR`, or where that is not set
/// below `/run/user/UID`, or where that is not there in `/tmp/mother-UID`.
pub(crate) fn find(runtime: Option<PathBuf>) -> Result<PathBuf, PlaceError> {
    let user = geteuid().as_raw();
    let of_login = PathBuf::from(format!("/run/user/{user}"));
    // The XDG specification has relative paths ignored.
    let parent = runtime
        .filter(|path| path.is_absolute())
        .or_else(|| of_login.is_dir().then_some(of_login));
    match parent {
        Some(parent) => make(&parent.join("mother"), user),
        None => make(&PathBuf::from(format!("/tmp/mother-{user}")), user),
    }
}

/// A folder with VMs of some user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsersPlace {
    /// Whose they are.
    pub user: u32,
    /// Where they are.
    pub folder: PathBuf,
}

/// Every user's folders of VMs, as far as this user may see: those in their usual places, and those that processes of
/// VMs have open. Nothing is made, and what is not safe for its user is left out.
pub fn of_everybody() -> Vec<UsersPlace> {
    let mut folders: Vec<PathBuf> = Vec::new();
    let logins = below(Path::new("/run/user"));
    folders.extend(logins.into_iter().map(|login| login.join("mother")));
    let is_usual = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let user = name.strip_prefix("mother-");
        user.is_some_and(|user| user.bytes().all(|byte| byte.is_ascii_digit()))
    };
    folders.extend(below(Path::new("/tmp")).into_iter().filter(is_usual));
    folders.extend(below(Path::new("/proc")).iter().flat_map(|it| held_by(it)));
    folders.sort();
    folders.dedup();
    let found = folders.into_iter().filter_map(|folder| {
        let found = fs::symlink_metadata(&folder).ok()?;
        let user = found.uid();
        check(&found, user)
            .is_none()
            .then_some(UsersPlace { user, folder })
    });
    found.collect()
}

/// The folders of VMs in which a process of a VM holds the lock that says it lives.
fn held_by(process: &Path) -> Vec<PathBuf> {
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    if !name.starts_with("mother:") {
        return Vec::new();
    }
    let opened = below(&process.join("fd"));
    let opened = opened.iter().filter_map(|link| fs::read_link(link).ok());
    // A VM's own folder is below the user's.
    opened
        .filter(|path| path.file_name().is_some_and(|name| name == "alive"))
        .filter_map(|path| Some(path.parent()?.parent()?.to_owned()))
        .collect()
}

/// What is in a folder, if it can be read.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Makes `path` if it is not there, and checks it.
fn make(path: &Path, user: u32) -> Result<PathBuf, PlaceError> {
    let failed = |source| PlaceError::Folder {
        path: path.to_owned(),
        source,
    };
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    // Not following a link: somebody else may have put one into /tmp.
    let found = fs::symlink_metadata(path).map_err(failed)?;
    match check(&found, user) {
        None => Ok(path.to_owned()),
        Some(what) => Err(PlaceError::Unsafe {
            path: path.to_owned(),
            what,
        }),
    }
}

/// What is wrong with a folder of this user's.
fn check(found: &fs::Metadata, user: u32) -> Option<&'static str> {
    if !found.is_dir() {
        Some("it is not a folder")
    } else if found.uid() != user {
        Some("it belongs to another user")
    } else if found.mode() & OTHERS != 0 {
        Some("other users may enter it (`chmod 700` it if you trust what is in it, or remove it)")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let user = geteuid().as_raw();
        let check = |name: &str, user: u32, expected: Option<&str>| {
            let found = make(&parent.path().join(name), user);
            let what = match &found {
                Ok(_) => None,
                Err(PlaceError::Unsafe { what, .. }) => Some(*what),
                Err(other) => panic!("{other}"),
            };
            assert_eq!(
                what.map(|what| what.split(" (").next().unwrap()),
                expected,
                "{name}"
            );
        };
        check("new", user, None);
        let mode = fs::metadata(parent.path().join("new")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
        check("new", user, None);
        check("new", user + 1, Some("it belongs to another user"));
        fs::write(parent.path().join("file"), "").unwrap();
        check("file", user, Some("it is not a folder"));
        symlink(parent.path().join("new"), parent.path().join("link")).unwrap();
        check("link", user, Some("it is not a folder"));
        fs::create_dir(parent.path().join("open")).unwrap();
        fs::set_permissions(
            parent.path().join("open"),
            fs::Permissions::from_mode(0o750),
        )
        .unwrap();
        check("open", user, Some("other users may enter it"));
    }

    #[test]
    fn a_vm_is_found_by_the_lock_that_its_process_holds() {
        let folder = tempfile::tempdir().unwrap();
        let process = folder.path().join("77");
        fs::create_dir_all(process.join("fd")).unwrap();
        symlink("/home/eve/run/mother/web/alive", process.join("fd/5")).unwrap();
        symlink("/home/eve/disk.img", process.join("fd/6")).unwrap();
        fs::write(process.join("comm"), "mother: web\n").unwrap();
        assert_eq!(held_by(&process), [PathBuf::from("/home/eve/run/mother")]);
        fs::write(process.join("comm"), "editor\n").unwrap();
        assert!(held_by(&process).is_empty());
    }

    #[test]
    fn the_runtime_folder_of_the_session_is_taken() {
        let runtime = tempfile::tempdir().unwrap();
        let found = find(Some(runtime.path().to_owned())).unwrap();
        assert_eq!(found, runtime.path().join("mother"));
        let missing = find(Some(runtime.path().join("not/there")));
        assert!(matches!(missing, Err(PlaceError::Folder { .. })));
    }
}
