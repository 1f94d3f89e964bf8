//! Locks that die with their process: flock(2) on files, never a note of who has what.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::error::{SnapshotError, error};

/// What the file in a draft is called that is locked as long as the draft's process lives.
pub(crate) const LOCK: &str = "lock";

/// What the file beside the snapshots is called that is locked by who gives names or takes them.
const SHELF_LOCK: &str = ".lock";

/// The kernel's list of locks.
const LOCKS: &str = "/proc/locks";

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

/// Processes that locked a file, as far as the kernel lets them be seen.
pub(crate) fn holders(file: &File) -> Vec<u32> {
    let Ok(metadata) = file.metadata() else {
        return Vec::new();
    };
    let list = std::fs::read_to_string(LOCKS).unwrap_or_default();
    holders_in(&list, metadata.dev(), metadata.ino())
}

/// Processes in the kernel's list (proc(5)): `1: FLOCK ADVISORY READ 977 fe:01:1234 0 EOF`.
fn holders_in(list: &str, device: u64, inode: u64) -> Vec<u32> {
    let major = rustix::fs::major(device);
    let minor = rustix::fs::minor(device);
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    let mut holders = Vec::new();
    for line in list.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [_, "FLOCK", _, _, process, place, ..] = words[..]
            && place == file
            && let Ok(process) = process.parse()
        {
            holders.push(process);
        }
    }
    holders.sort_unstable();
    holders.dedup();
    holders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_names_who_holds_a_file_and_not_who_waits() {
        let list = "1: FLOCK  ADVISORY  READ 977 fe:01:1234 0 EOF\n\
                    2: POSIX  ADVISORY  WRITE 978 fe:01:1234 0 EOF\n\
                    3: FLOCK  ADVISORY  READ 12 fe:01:1234 0 EOF\n\
                    3: -> FLOCK  ADVISORY  WRITE 13 fe:01:1234 0 EOF\n\
                    4: FLOCK  ADVISORY  READ 979 fe:01:12345 0 EOF\n";
        let check = |inode, expected: &[u32]| {
            let device = rustix::fs::makedev(0xfe, 1);
            assert_eq!(holders_in(list, device, inode), expected);
        };
        check(1234, &[12, 977]);
        check(12345, &[979]);
        check(1, &[]);
    }

    #[test]
    fn who_shares_a_file_is_seen_and_in_the_way() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let held = file.reopen().unwrap();
        share(&held).unwrap();
        assert!(!seize(file.as_file()).unwrap());
        assert_eq!(holders(file.as_file()), [std::process::id()]);
        drop(held);
        assert!(seize(file.as_file()).unwrap());
    }
}
