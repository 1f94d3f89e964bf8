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
    let what = if !found.is_dir() {
        "it is not a folder"
    } else if found.uid() != user {
        "it belongs to another user"
    } else if found.mode() & OTHERS != 0 {
        "other users may enter it (`chmod 700` it if you trust what is in it, or remove it)"
    } else {
        return Ok(path.to_owned());
    };
    Err(PlaceError::Unsafe {
        path: path.to_owned(),
        what,
    })
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
    fn the_runtime_folder_of_the_session_is_taken() {
        let runtime = tempfile::tempdir().unwrap();
        let found = find(Some(runtime.path().to_owned())).unwrap();
        assert_eq!(found, runtime.path().join("mother"));
        let missing = find(Some(runtime.path().join("not/there")));
        assert!(matches!(missing, Err(PlaceError::Folder { .. })));
    }
}
