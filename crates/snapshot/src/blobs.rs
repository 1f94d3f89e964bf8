//! Kernels and modules, kept once: a hundred snapshots of guests that were booted alike have them as links to one file.
//!
//! Hard links, not names in the manifest: a snapshot's folder is complete, can be copied and carried elsewhere as it is, and
//! whether a blob is needed is what its file system counts anyway, so no list of who needs what can be wrong.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::digest::sha256_of_file;
use crate::error::{SnapshotError, error};
use crate::folder::make;
use crate::locks::lock_shelf;
use crate::manifest::Part;

const BLOBS: &str = ".blobs";

/// Puts the bytes of `source` at `path`, which is in a draft, as a link to what is kept already, or for others to link to.
pub(crate) fn keep(shelf: &Path, path: &Path, source: &File) -> Result<Part, SnapshotError> {
    let read = |error_of| error("read an image for", path)(error_of);
    let (bytes, digest) = sha256_of_file(source, |_, _| Ok(())).map_err(read)?;
    let blob = shelf.join(BLOBS).join(&digest);
    {
        let _lock = lock_shelf(shelf)?;
        // What lies there may have been changed since; then it is left to those who have it.
        if is_whole(&blob, bytes, &digest) && fs::hard_link(&blob, path).is_ok() {
            return Ok(part(bytes, digest));
        }
    }
    // It may be another one by now: what is written counts.
    let (bytes, digest) = copy(source, path).map_err(error("write", path))?;
    offer(shelf, path, &digest)?;
    Ok(part(bytes, digest))
}

fn part(bytes: u64, digest: String) -> Part {
    Part {
        bytes,
        sha256: Some(digest),
    }
}

/// Lets others link to a file. Where that cannot be, it is this snapshot's alone.
fn offer(shelf: &Path, path: &Path, digest: &str) -> Result<(), SnapshotError> {
    let folder = shelf.join(BLOBS);
    make(&folder)?;
    let blob = folder.join(digest);
    let _lock = lock_shelf(shelf)?;
    let _ = fs::remove_file(&blob);
    let _ = fs::hard_link(path, &blob);
    Ok(())
}

fn is_whole(blob: &Path, bytes: u64, digest: &str) -> bool {
    let file = match File::open(blob) {
        Ok(file) if file.metadata().is_ok_and(|it| it.len() == bytes) => file,
        _ => return false,
    };
    sha256_of_file(&file, |_, _| Ok(())).is_ok_and(|(_, found)| found == digest)
}

fn copy(source: &File, path: &Path) -> io::Result<(u64, String)> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o600);
    let file = options.open(path)?;
    sha256_of_file(source, |at, piece| file.write_all_at(piece, at))
}

/// Removes blobs that no snapshot has any more; to be called with the shelf's lock. How many bytes that gave back.
pub(crate) fn sweep(shelf: &Path) -> u64 {
    let mut freed = 0;
    let entries = fs::read_dir(shelf.join(BLOBS)).into_iter().flatten();
    let paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    for path in paths {
        let Ok(found) = fs::symlink_metadata(&path) else {
            continue;
        };
        if found.is_file() && found.nlink() == 1 && fs::remove_file(&path).is_ok() {
            freed += found.blocks() * 512;
        }
    }
    freed
}
