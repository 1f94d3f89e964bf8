//! The one folder in which things are made before they get their place.

use std::fs;
use std::path::{Path, PathBuf};

use crate::file::{FileError, create_folder, error};

/// An empty folder that is gone afterwards. Whoever has the lock may empty it: a cancelled process left the rest.
#[derive(Debug)]
pub(crate) struct Work(PathBuf);

impl Work {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn new(folder: PathBuf) -> Result<Work, FileError> {
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(error("empty", &folder))?;
        }
        create_folder(&folder)?;
        Ok(Work(folder))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Whoever takes the lock next empties it anyway.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_a_cancelled_download_go_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("work");
        fs::create_dir_all(path.join("state/lists")).unwrap();
        let work = Work::new(path.clone()).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        drop(work);
        assert!(!path.exists());
    }
}
