//! Disk images are locked as QEMU locks them, so that neither writes to what the other has.
//!
//! # Problem
//!
//! Two writers destroy a disk, and a reader beside a writer sees half of what was written. The programs that people
//! have at hand for images (QEMU, `qemu-img`, `qemu-nbd`, `qemu-io`, and what is built on them) ask each other through
//! locks; a lock of another kind, such as `flock`, keeps out none of them and is seen by none of them.
//!
//! # The protocol
//!
//! QEMU's `block/file-posix.c` gives each permission on a file a number n and two bytes of the file, which need not
//! exist: a holder of the permission locks byte 100 + n, a holder who does not let others have it locks byte 200 + n.
//! All of these are locks of readers, so they never collide by themselves: a byte only says that there is somebody. An
//! opener takes its bytes first and looks second: each permission that it does not let others have must be held by
//! none of them (100 + n), and none of them may withhold a permission that it takes (200 + n). Two openers that
//! exclude each other and come at once may both be refused; they are never both let in.
//!
//! ```text
//!                         takes                withholds
//! disk, written           read, write, resize  write, resize
//! disk, only read; base   read                 write, resize
//! ```
//!
//! The locks are those of the opened file (`F_OFD_SETLK`): they live as long as the last duplicate of the descriptor,
//! over all lives of the guest and in whichever process, and the kernel gives them back however that ends.
//!
//! # Where it ends
//!
//! `mount`, `dd`, `mkfs` and other programs that ask for no lock are not kept out. A file system without locks is
//! taken with a warning. Which process holds a lock is looked for in `/proc`, where this user may look. Where none is found it may be
//! one that is just ending, as that of the VM which had this disk until now is after it has given its name back: the kernel takes
//! its files away from it before it gives their locks back. So then it is asked again for a while.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use host::byte_lock;
use rustix::io::Errno;
use thiserror::Error;

/// Bytes that say: this permission is held (`RAW_LOCK_PERM_BASE`).
const HELD: u64 = 100;
/// Bytes that say: this permission is withheld from others (`RAW_LOCK_SHARED_BASE`).
const WITHHELD: u64 = 200;

/// Permission 0, `BLK_PERM_CONSISTENT_READ`.
const READ: u64 = 0;
/// Permission 1, `BLK_PERM_WRITE`.
const WRITE: u64 = 1;
/// Permission 3, `BLK_PERM_RESIZE`.
const RESIZE: u64 = 3;

/// What no holder lets others have.
const EXCLUSIVE: [u64; 2] = [WRITE, RESIZE];

/// Why an image could not be opened and locked.
#[derive(Debug, Error)]
pub(super) enum LockError {
    /// The host said no.
    #[error("cannot open {path}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// Another opener has it in a way that excludes this one.
    #[error("{path} is in use{holder} {conflict}")]
    Busy {
        /// Which file.
        path: PathBuf,
        /// By which process, if that can be seen; with what stands before it.
        holder: String,
        /// How that excludes this one, and what to do.
        conflict: Conflict,
    },
}

/// How two openers of an image exclude each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(super) enum Conflict {
    /// The other one writes, and so would this one.
    #[error("for writing; end that first, or give the disk read-only to both")]
    TwoWriters,
    /// The other one writes what this one would read.
    #[error("for writing; end that first")]
    WriterBefore,
    /// The other one reads, and relies on it that nothing changes.
    #[error("for reading; end that first, or give the disk read-only to both")]
    ReaderBefore,
}

/// How long a process that ends may take to give its locks back, and how often it is looked.
const BURIAL: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(20);

/// Opens an image and locks it, for a guest that may write to it or not.
pub(super) fn open_locked(path: &Path, for_writing: bool) -> Result<File, LockError> {
    let deadline = Instant::now() + BURIAL;
    loop {
        match open_once(path, for_writing) {
            // Nothing of this try is locked any more, so whoever comes meanwhile is not kept out by somebody who waits.
            Err(LockError::Busy { holder, .. })
                if holder.is_empty() && Instant::now() < deadline =>
            {
                host::rest::rest(TICK);
            }
            done => return done,
        }
    }
}

fn open_once(path: &Path, for_writing: bool) -> Result<File, LockError> {
    let open_error = |source| LockError::Open {
        path: path.to_owned(),
        source,
    };
    let file = File::options()
        .read(true)
        .write(for_writing)
        .open(path)
        .map_err(open_error)?;
    match lock(&file, for_writing) {
        Ok(None) => {}
        Ok(Some((byte, conflict))) => {
            let holder = holder(&file, byte);
            return Err(LockError::Busy {
                path: path.to_owned(),
                holder: holder
                    .map(|holder| format!(" by {holder}"))
                    .unwrap_or_default(),
                conflict,
            });
        }
        Err(error) if has_no_locks(&error) => tracing::warn!(
            "{}: its file system has no locks; see that nothing else uses it",
            path.display()
        ),
        Err(error) => return Err(open_error(error)),
    }
    Ok(file)
}

fn has_no_locks(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK)
    )
}

/// Takes the locks; if another opener is in the way, the byte that says so and how.
///
/// After a conflict the caller closes the file, and with it goes what was locked.
fn lock(file: &File, for_writing: bool) -> io::Result<Option<(u64, Conflict)>> {
    let taken: &[u64] = if for_writing {
        &[READ, WRITE, RESIZE]
    } else {
        &[READ]
    };
    let held = taken.iter().map(|permission| HELD + permission);
    for byte in held.chain(EXCLUSIVE.map(|permission| WITHHELD + permission)) {
        match byte_lock::share(file, byte) {
            // Another program has the byte for itself: none of QEMU's, but an answer all the same.
            Err(error) if is_taken(&error) => return Ok(Some((byte, conflict(byte, for_writing)))),
            done => done?,
        }
    }
    let in_the_way = EXCLUSIVE.map(|permission| HELD + permission);
    let withheld = taken.iter().map(|permission| WITHHELD + permission);
    for byte in in_the_way.into_iter().chain(withheld) {
        if byte_lock::is_held_elsewhere(file, byte)? {
            return Ok(Some((byte, conflict(byte, for_writing))));
        }
    }
    Ok(None)
}

fn is_taken(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::AGAIN | Errno::ACCESS)
    )
}

fn conflict(byte: u64, for_writing: bool) -> Conflict {
    match (byte < WITHHELD, for_writing) {
        (true, true) => Conflict::TwoWriters,
        (true, false) => Conflict::WriterBefore,
        (false, _) => Conflict::ReaderBefore,
    }
}

/// Which other opener's process holds a lock on this byte of `file`, in words.
///
/// The kernel's list of locks names no process for these, because several may share the opened file. What a process
/// has open and what is locked through that stands in its `fd` and `fdinfo`.
fn holder(file: &File, byte: u64) -> Option<String> {
    let metadata = file.metadata().ok()?;
    let id = (metadata.dev(), metadata.ino());
    let own = format!(
        "/proc/{}/fd/{}",
        host::cpu::process_number(),
        file.as_raw_fd()
    );
    let pid = std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .find(|pid| holds(*pid, id, byte, Path::new(&own)))?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("process {pid} ({})", name.trim().escape_debug()))
}

/// Whether process `pid` holds the byte through one of its descriptors other than `own`.
fn holds(pid: u32, id: (u64, u64), byte: u64, own: &Path) -> bool {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors.flatten().any(|entry| {
        let path = entry.path();
        let is_it = path != own
            && path
                .metadata()
                .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == id);
        let info = |name| {
            Path::new("/proc")
                .join(pid.to_string())
                .join("fdinfo")
                .join(name)
        };
        is_it
            && std::fs::read_to_string(info(entry.file_name()))
                .is_ok_and(|info| info.lines().any(|line| covers(line, byte)))
    })
}

/// Whether a line of `fdinfo` is a lock on `byte`: `lock:`, a tab, and as in `/proc/locks`, for example
/// `1: OFDLCK ADVISORY  READ -1 fe:00:10018878 100 101`.
fn covers(line: &str, byte: u64) -> bool {
    let Some(lock) = line.strip_prefix("lock:") else {
        return false;
    };
    // From the right: where it ends, `EOF` for never, and where it starts.
    let mut words = lock.split_whitespace().rev();
    let (Some(last), Some(first)) = (words.next(), words.next()) else {
        return false;
    };
    let last = if last == "EOF" {
        Ok(u64::MAX)
    } else {
        last.parse()
    };
    let is_range = lock.contains("OFDLCK") || lock.contains("POSIX");
    match (first.parse::<u64>(), last) {
        (Ok(first), Ok(last)) => is_range && (first..=last).contains(&byte),
        _ => false,
    }
}

#[cfg(test)]
#[path = "image_lock_tests.rs"]
mod tests;
