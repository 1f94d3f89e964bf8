//! Which snapshots somebody has gone on from: the second time it is a clone.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use snapshot::{Manifest, Shelf};

/// The file that says so; hidden, as it is no snapshot.
fn file(shelf: &Shelf) -> PathBuf {
    shelf.path().join(".restored")
}

/// Whether somebody has gone on from it.
pub(super) fn was(shelf: &Shelf, manifest: &Manifest) -> bool {
    let known = fs::read_to_string(file(shelf)).unwrap_or_default();
    known.lines().any(|id| id == manifest.id)
}

/// Somebody goes on from it.
pub(super) fn note(shelf: &Shelf, manifest: &Manifest) {
    let opened = OpenOptions::new()
        .create(true)
        .append(true)
        .open(file(shelf));
    let noted = opened.and_then(|mut file| writeln!(file, "{}", manifest.id));
    if let Err(error) = noted {
        tracing::warn!("a second VM from this snapshot will not be told to be a clone: {error}");
    }
}
