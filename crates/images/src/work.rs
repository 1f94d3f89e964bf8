//! Folders in which things are made before they get their place, and what becomes of them when that is cancelled.
//!
//! A process that a signal ends drops nothing, so what is not finished stands in one list that whoever takes the signal
//! can reach. What a killed process leaves is removed by the next one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::file::{FileError, create_folder, error};

/// Tries at removing a folder in which another thread still makes files.
const TRIES: u32 = 100;

/// Folders of this process that are of no use when it dies.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes that a folder is to go if this process is ended by a signal.
pub(crate) fn begun(folder: &Path) {
    unfinished().push(folder.to_owned());
}

/// Notes that a folder is gone, or that it is somebody else's now.
pub(crate) fn done(folder: &Path) {
    unfinished().retain(|other| other != folder);
}

/// Removes what this process has begun to make and not finished: for who ends it at once.
pub fn remove_unfinished() {
    unfinished().drain(..).for_each(|folder| remove(&folder));
}

fn remove(folder: &Path) {
    let is_gone = |_: &u32| {
        let _ = fs::remove_dir_all(folder);
        !folder.exists()
    };
    (0..TRIES).find(is_gone);
}

/// An empty folder that is gone afterwards. Whoever has the lock may empty it: a killed process left the rest.
#[derive(Debug)]
pub struct Work(PathBuf);

impl Work {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes it, or empties what a killed process left there.
    pub fn new(folder: PathBuf) -> Result<Work, FileError> {
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(error("empty", &folder))?;
        }
        begun(&folder);
        create_folder(&folder)?;
        Ok(Work(folder))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Whoever takes the lock next empties it anyway.
        let _ = fs::remove_dir_all(&self.0);
        done(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_a_killed_download_go_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("work");
        fs::create_dir_all(path.join("state/lists")).unwrap();
        let work = Work::new(path.clone()).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        drop(work);
        assert!(!path.exists());
        assert!(!unfinished().contains(&path));
    }

    #[test]
    fn a_process_that_dies_of_a_signal_leaves_nothing_that_it_had_begun() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("work");
        let work = Work::new(path.clone()).unwrap();
        fs::write(path.join("disk.raw"), "half of it").unwrap();
        // Others are those of tests beside this one.
        assert!(unfinished().contains(&path));
        remove(&path);
        assert!(!path.exists());
        assert!(folder.path().exists());
        drop(work);
    }
}
