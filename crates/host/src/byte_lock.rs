//! Locks on single bytes of a file that belong to the opened file, not to the process (`F_OFD_SETLK`, fcntl(2), "Open
//! file description locks").
//!
//! Such a lock is shared by every duplicate of the descriptor, wherever it was sent, and goes when the last of them is
//! closed, whatever way the processes end. Two openings of one file are two holders, also within one process.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// A `struct flock` about `file`'s byte at `offset`.
fn about(offset: u64, kind: libc::c_int) -> io::Result<libc::flock> {
    let start =
        libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    Ok(libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: 1,
        // What the kernel asks for with locks of this kind.
        l_pid: 0,
    })
}

fn control(file: &File, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: the descriptor is open, and both commands read and write one `struct flock`, which is ours.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(lock)) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Locks the byte at `offset` for this opened file, as a reader: any number of holders share it. Does not wait.
///
/// # Errors
/// What `fcntl` says: `EAGAIN` where another holder has it for itself, `ENOLCK` or `EOPNOTSUPP` where the file system
/// has no locks.
pub fn share(file: &File, offset: u64) -> io::Result<()> {
    control(file, libc::F_OFD_SETLK, &mut about(offset, libc::F_RDLCK)?)
}

/// Whether another opened file holds a lock on the byte at `offset`, of whichever kind.
///
/// # Errors
/// What `fcntl` says.
pub fn is_held_elsewhere(file: &File, offset: u64) -> io::Result<bool> {
    let mut lock = about(offset, libc::F_WRLCK)?;
    control(file, libc::F_OFD_GETLK, &mut lock)?;
    Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_lives_with_the_opened_file() {
        let first = crate::MemFd::new(c"locks", 4096).unwrap();
        let path = format!("/proc/self/fd/{}", first.file().as_raw_fd());
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let one = open();
        let other = open();
        let check = |file: &File, byte, expected| {
            assert_eq!(is_held_elsewhere(file, byte).unwrap(), expected, "{byte}");
        };
        share(&one, 100).unwrap();
        check(&one, 100, false);
        check(&other, 100, true);
        check(&other, 101, false);
        // Readers share, and see each other.
        share(&other, 100).unwrap();
        check(&one, 100, true);
        drop(other);
        check(&one, 100, false);
        // A duplicate keeps what its original locked.
        let duplicate = one.try_clone().unwrap();
        drop(one);
        let other = open();
        check(&other, 100, true);
        drop(duplicate);
        check(&other, 100, false);
    }
}
