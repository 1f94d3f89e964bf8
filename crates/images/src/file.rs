//! Files and folders of ours on the host, and what the host says about them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The host refused something.
#[derive(Debug, Error)]
#[error("cannot {act} {}", .path.display())]
pub struct FileError {
    /// The verb.
    pub act: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// What the host said.
    pub source: io::Error,
}

impl FileError {
    /// Whether nobody, or not this user, may write there.
    pub fn is_unwritable(&self) -> bool {
        is_unwritable(&self.source)
    }
}

/// Whether nobody, or not this user, may write there.
pub(crate) fn is_unwritable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
    )
}

/// Says what was to be done with which file.
pub fn error(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { act, path, source }
}

/// Makes a folder and those it is in.
pub fn create_folder(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(error("create", path))
}

/// Gives something that is complete its final name.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(error("rename to", to))
}

/// A file's name without its last ending, as text: what a package calls itself, with its version.
pub fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
