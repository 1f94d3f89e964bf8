//! Which snapshots somebody has gone on from: the second time it is a clone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};

use rustix::fs::{FlockOperation, flock};
use snapshot::{Manifest, Shelf};

/// The list, hidden among the snapshots, as it is none. Nobody else reads or writes it as long as this lives, so that of
/// two who go on from one at a time only one is the first.
pub(super) struct Restored {
    file: File,
    known: String,
}

impl Restored {
    /// That of `shelf`, as soon as nobody else has it.
    pub(super) fn of(shelf: &Shelf) -> io::Result<Restored> {
        fs::create_dir_all(shelf.path())?;
        let mut options = OpenOptions::new();
        options.create(true).read(true).append(true);
        let mut file = options.open(shelf.path().join(".restored"))?;
        flock(&file, FlockOperation::LockExclusive)?;
        let mut known = String::new();
        file.read_to_string(&mut known)?;
        Ok(Restored { file, known })
    }

    /// Whether somebody has gone on from it.
    pub(super) fn has(&self, manifest: &Manifest) -> bool {
        self.known.lines().any(|id| id == manifest.id)
    }

    /// Somebody goes on from it.
    pub(super) fn add(&mut self, manifest: &Manifest) {
        if let Err(error) = writeln!(self.file, "{}", manifest.id) {
            tracing::warn!(
                "a second VM from this snapshot will not be told to be a clone: {error}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_gone_on_from_is_known_the_next_time() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::at(folder.path().join("snapshots"));
        let sample = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../snapshot/samples/format-1/snapshot.json"
        );
        let manifest = Manifest::read(&fs::read(sample).unwrap()).unwrap();
        let mut restored = Restored::of(&shelf).unwrap();
        assert!(!restored.has(&manifest));
        restored.add(&manifest);
        drop(restored);
        assert!(Restored::of(&shelf).unwrap().has(&manifest));
    }
}
