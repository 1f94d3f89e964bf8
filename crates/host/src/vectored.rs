//! Reads and writes of files that scatter to and gather from many places of this process in one system call.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

/// Places that one call takes (`UIO_MAXIOV`, `uio.h`); a longer list is used up to here.
const PLACES_MAX: usize = 1024;

/// A stretch of this process's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its address.
    pub address: usize,
    /// Its length.
    pub len_bytes: usize,
}

fn vectors(places: &[Place]) -> Vec<libc::iovec> {
    let vector = |place: &Place| libc::iovec {
        iov_base: place.address as *mut libc::c_void,
        iov_len: place.len_bytes,
    };
    places.iter().take(PLACES_MAX).map(vector).collect()
}

fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn moved_bytes(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Reads from `file` at `offset` into `places`, one after the other; how many bytes came, 0 at the end of the file.
///
/// # Safety
/// Every place is writable memory that stays mapped for the call and that no Rust reference covers.
///
/// # Errors
/// What `preadv` says.
pub unsafe fn read_at(file: &File, places: &[Place], offset: u64) -> io::Result<usize> {
    let vectors = vectors(places);
    let offset = file_offset(offset)?;
    // SAFETY: the caller keeps the places writable and free of references; the list itself is ours, and its length
    // is at most 1024.
    let result = unsafe {
        libc::preadv(
            file.as_raw_fd(),
            vectors.as_ptr(),
            vectors.len() as libc::c_int,
            offset,
        )
    };
    moved_bytes(result)
}

/// Writes `places`, one after the other, to `file` at `offset`; how many bytes went.
///
/// # Safety
/// Every place is readable memory that stays mapped for the call.
///
/// # Errors
/// What `pwritev` says.
pub unsafe fn write_at(file: &File, places: &[Place], offset: u64) -> io::Result<usize> {
    let vectors = vectors(places);
    let offset = file_offset(offset)?;
    // SAFETY: the caller keeps the places readable; the list itself is ours, and its length is at most 1024.
    let result = unsafe {
        libc::pwritev(
            file.as_raw_fd(),
            vectors.as_ptr(),
            vectors.len() as libc::c_int,
            offset,
        )
    };
    moved_bytes(result)
}

/// Whether a call failed at a place of its caller's memory, which a page was missing of that the kernel could not wait for.
pub fn met_missing_page(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EFAULT)
}

/// Copies `bytes` into `places`, one after the other, as far as either goes. Where a page is missing this thread waits for
/// it, as with any store.
///
/// # Safety
/// As for [`read_at`].
pub unsafe fn scatter(mut bytes: &[u8], places: &[Place]) {
    for place in places {
        let (now, rest) = bytes.split_at(place.len_bytes.min(bytes.len()));
        // SAFETY: the caller keeps the place writable and free of references, so it does not overlap the slice either.
        unsafe { ptr::copy_nonoverlapping(now.as_ptr(), place.address as *mut u8, now.len()) };
        bytes = rest;
    }
}

/// The reverse: fills `bytes` from `places`.
///
/// # Safety
/// As for [`write_at`], and no Rust reference covers the places.
pub unsafe fn gather(places: &[Place], mut bytes: &mut [u8]) {
    for place in places {
        let (now, rest) = bytes.split_at_mut(place.len_bytes.min(bytes.len()));
        // SAFETY: the caller keeps the place readable and free of references, so it does not overlap the slice either.
        unsafe {
            ptr::copy_nonoverlapping(place.address as *const u8, now.as_mut_ptr(), now.len())
        };
        bytes = rest;
    }
}
