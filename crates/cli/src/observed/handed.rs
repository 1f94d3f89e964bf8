//! Files that an observer hands over, which it may change at any time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use insight::kept::KEPT_BYTES_MAX;
use rustix::io::Errno;

/// What is in a file that somebody handed over, who may change it at any time.
pub(super) fn contents(file: &File) -> io::Result<Vec<u8>> {
    let metadata = file.metadata()?;
    // What is no file may make whoever reads it wait.
    if !metadata.is_file() {
        return Err(Errno::PERM.into());
    }
    if metadata.len() > KEPT_BYTES_MAX {
        return Err(Errno::FBIG.into());
    }
    let mut bytes = vec![0; usize::try_from(metadata.len()).map_err(|_| Errno::FBIG)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}
