//! Where a file has bytes, and where it has holes (lseek(2), `SEEK_DATA`).
#![allow(
    unsafe_code,
    reason = "the standard library does not ask a file for its holes"
)]

use std::fs::File;
use std::os::fd::AsRawFd;

/// `SEEK_DATA`, `SEEK_HOLE`.
const DATA: i32 = 3;
const HOLE: i32 = 4;

/// `ENXIO`: there is none from there on.
const NO_MORE: i32 = 6;

unsafe extern "C" {
    fn lseek(fd: i32, offset: i64, whence: i32) -> i64;
}

/// The next part with bytes at or after `from`, within `len`: where it begins and ends. A file system that does not know has one part.
pub(super) fn next_part(file: &File, from: u64, len: u64) -> Option<(u64, u64)> {
    if from >= len {
        return None;
    }
    let begin = match seek(file, from, DATA) {
        Ok(begin) => begin,
        Err(NO_MORE) => return None,
        Err(_) => return Some((from, len)),
    };
    let end = seek(file, begin, HOLE).unwrap_or(len);
    (begin < len).then_some((begin, end.clamp(begin + 1, len)))
}

fn seek(file: &File, offset: u64, whence: i32) -> Result<u64, i32> {
    // SAFETY: it takes numbers and touches no memory.
    let at = unsafe { lseek(file.as_raw_fd(), offset.cast_signed(), whence) };
    u64::try_from(at).map_err(|_| {
        let error = std::io::Error::last_os_error();
        error.raw_os_error().unwrap_or_default()
    })
}
