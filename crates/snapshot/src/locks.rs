//! Locks that die with their process: flock(2) on files, never a note of who has what.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::error::{SnapshotError, error};

/// What the file in a draft is called that is locked as long as the draft's process lives.
pub(crate) const LOCK: &str = "lock";

/// What the file beside the snapshots is called that is locked by who gives names or takes them.
const SHELF_LOCK: &str = ".lock";

/// Opens a lock's file, which is made if it is not there.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)
}

/// Waits until nobody else gives names below `shelf` or takes them; nobody does so for long.
pub(crate) fn lock_shelf(shelf: &Path) -> Result<File, SnapshotError> {
    let path = shelf.join(SHELF_LOCK);
    let file = open(&path).map_err(error("open", &path))?;
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(error("lock", &path)(errno.into())),
        }
    }
}

/// Makes and locks the lock of a draft.
pub(crate) fn lock_draft(draft: &Path) -> Result<File, SnapshotError> {
    let path = draft.join(LOCK);
    let file = open(&path).map_err(error("create", &path))?;
    let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
    locked.map_err(|errno| error("lock", &path)(errno.into()))?;
    Ok(file)
}

/// Whether the process of a draft is dead, and its lock is given up. To be asked by who has the shelf's lock: a draft gets
/// its own under that.
pub(crate) fn is_dead(draft: &Path) -> bool {
    match File::open(draft.join(LOCK)) {
        Ok(file) => flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Locks a file, shared with others who do; waits for who removes it.
pub(crate) fn share(file: &File) -> io::Result<()> {
    loop {
        match flock(file, FlockOperation::LockShared) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Locks a file for nobody else, if nobody else has.
pub(crate) fn seize(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Other processes that have a file open, as far as they let themselves be seen.
///
/// The kernel's own list (`/proc/locks`) leaves a lock out when the process that took it has ended, also when another one
/// that was given the descriptor holds it still.
pub(crate) fn holders(file: &File) -> Vec<u32> {
    let Ok(wanted) = file.metadata() else {
        return Vec::new();
    };
    let is_it = |path: PathBuf| {
        let found = fs::metadata(path);
        found.is_ok_and(|found| found.dev() == wanted.dev() && found.ino() == wanted.ino())
    };
    let names = below(Path::new("/proc"));
    let processes = names.filter_map(|path| path.file_name()?.to_str()?.parse().ok());
    let others = processes.filter(|process: &u32| *process != std::process::id());
    let mut holders: Vec<u32> = others
        .filter(|process| below(Path::new(&format!("/proc/{process}/fd"))).any(is_it))
        .collect();
    holders.sort_unstable();
    holders
}

/// What is in a folder, if it can be read.
fn below(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shares_a_file_is_seen_and_in_the_way() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let held = file.reopen().unwrap();
        share(&held).unwrap();
        assert!(!seize(file.as_file()).unwrap());
        assert_eq!(holders(file.as_file()), [0; 0], "nobody else");
        drop(held);
        assert!(seize(file.as_file()).unwrap());
    }
}
