//! passt, the program behind a guest's network: the host's, or Debian's in the cache.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::apt::{self, Apt};
use crate::cache::{Cache, CacheError};
use crate::file::{create_folder, error, stem};
use crate::package::{self, Wanted};
use crate::progress::{OnProgress, Progress};
use crate::work::Work;

/// Package and program have one name.
const PASST: &str = "passt";

impl Cache {
    /// Where passt is, if nothing has to be downloaded: on the PATH, else in the cache.
    pub fn installed_passt(&self) -> Option<PathBuf> {
        let cached = self.folder().join(PASST);
        apt::on_path(PASST).or_else(|| cached.is_file().then_some(cached))
    }

    /// passt; its package is downloaded if it is neither on the PATH nor in the cache.
    ///
    /// # Errors
    /// If the host has no apt, apt finds no such package, or the cache folder cannot be written.
    pub fn passt(&self, on_progress: OnProgress) -> Result<PathBuf, CacheError> {
        if let Some(passt) = self.installed_passt() {
            return Ok(passt);
        }
        let _lock = self.lock(on_progress)?;
        if let Some(passt) = self.installed_passt() {
            return Ok(passt);
        }
        let work = Work::new(self.folder().join("work"))?;
        let package = Apt::new(work.path())?.download_package(PASST, on_progress)?;
        on_progress(Progress::Unpacking);
        self.keep_passt(&work, &package)
    }

    /// Takes both programs out of the package; the one to start.
    fn keep_passt(&self, work: &Work, package: &Path) -> Result<PathBuf, CacheError> {
        let title = stem(package);
        let made = work.path().join(&title);
        create_folder(&made)?;
        take(package, Wanted::Passt, &made.join(PASST))?;
        // Packages of other architectures and newer versions have one program for all CPUs.
        match take(package, Wanted::PasstAvx2, &made.join("passt.avx2")) {
            Err(CacheError::Package(package::PackageError::Absent { .. })) | Ok(()) => {}
            Err(other) => return Err(other),
        }
        Ok(self.publish(work, &title, (PASST, &Path::new(&title).join(PASST)))?)
    }
}

/// One program out of a package, to be run.
fn take(package: &Path, wanted: Wanted, to: &Path) -> Result<(), CacheError> {
    package::extract(package, wanted, to)?;
    Ok(fs::set_permissions(to, Permissions::from_mode(0o755))
        .map_err(error("make executable", to))?)
}
