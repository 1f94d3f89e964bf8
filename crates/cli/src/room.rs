//! What to do about a cache that has no room or cannot be written: which folder, how much is left, which variable.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use images::Cache;

/// What an image of Debian takes while it is made: its packages, what they unpack to, and the disk.
const DEBIAN_MIB: u64 = 1200;

/// The way on for a failure about a file of ours that has such a cause.
pub fn help(error: &(dyn Error + 'static), is_debian: bool) -> Option<String> {
    let kind = kind(error)?;
    let folder = Cache::of_user().ok()?.folder().to_owned();
    let free = free_mib(&folder);
    about(kind, &folder, free, is_debian.then_some(DEBIAN_MIB))
}

fn about(
    kind: io::ErrorKind,
    folder: &Path,
    free_mib: Option<u64>,
    needed_mib: Option<u64>,
) -> Option<String> {
    let place = folder.display();
    let left = free_mib.map_or(String::new(), |free| format!(", where {free} MiB are left"));
    let needed = needed_mib.map_or(String::new(), |mib| format!(" ({mib} MiB are needed)"));
    Some(match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => format!(
            "make room for {place}{left}{needed}; `mother images prune --all` gives back what images take; or set \
             XDG_CACHE_HOME to a folder on a disk that has room"
        ),
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => format!(
            "{place} cannot be written: fill it once where it can (`mother run`), or set XDG_CACHE_HOME to a folder of \
             your own"
        ),
        _ => return None,
    })
}

/// What the host said, if it was the host.
fn kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    None
}

/// What is left where a folder is, or will be.
fn free_mib(folder: &Path) -> Option<u64> {
    let mut place: PathBuf = folder.to_owned();
    while !place.exists() {
        place = place.parent()?.to_owned();
    }
    let found = rustix::fs::statvfs(&place).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_with_folder_room_and_variable() {
        let check = |kind, needed, expected: Option<&str>| {
            let told = about(kind, Path::new("/c/mother"), Some(7), needed);
            assert_eq!(told.as_deref(), expected);
        };
        check(
            io::ErrorKind::StorageFull,
            Some(1200),
            Some(
                "make room for /c/mother, where 7 MiB are left (1200 MiB are needed); `mother images prune --all` gives \
                 back what images take; or set XDG_CACHE_HOME to a folder on a disk that has room",
            ),
        );
        check(
            io::ErrorKind::ReadOnlyFilesystem,
            None,
            Some(
                "/c/mother cannot be written: fill it once where it can (`mother run`), or set XDG_CACHE_HOME to a \
                 folder of your own",
            ),
        );
        check(io::ErrorKind::NotFound, None, None);
    }

    #[test]
    fn the_cause_is_found_below_what_was_tried() {
        let full = images::FileError {
            act: "write",
            path: "/c/x".into(),
            source: io::ErrorKind::StorageFull.into(),
        };
        let failure = images::CacheError::File(full);
        assert_eq!(kind(&failure), Some(io::ErrorKind::StorageFull));
        assert_eq!(kind(&images::CacheError::NoFolder), None);
    }
}
