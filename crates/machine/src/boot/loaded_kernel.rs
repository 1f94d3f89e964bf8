//! The kernel file that every life is loaded from, for observers: what was in the guest before its first instruction, which no
//! guest can change.
//!
//! The file stays open as long as the VM lasts. Its fingerprint is made when an observer asks for the first time, not when
//! the guest starts, so that a start costs no more; in between the file must not have been changed, which its inode tells.

use host::at::FileAt;
use std::fs::File;
use std::io;

use host::lock::Lock;
use sha2::{Digest, Sha256};

use super::Image;

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// The kernel file of a VM.
#[derive(Debug)]
pub(crate) struct LoadedKernel {
    image: Image,
    /// SHA-256 of the file, once it was asked for.
    digest: Lock<Option<[u8; 32]>>,
}

impl LoadedKernel {
    /// `image` will be loaded.
    pub(crate) fn new(image: Image) -> LoadedKernel {
        LoadedKernel {
            image,
            digest: Lock::default(),
        }
    }

    /// What is loaded.
    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    /// The file and the SHA-256 of what was loaded from it. `None` if it was changed before anybody asked; one that is
    /// changed later has another SHA-256, as whoever reads it finds out.
    pub(crate) fn file(&self) -> Option<(&File, [u8; 32])> {
        let mut known = self.digest.lock();
        if known.is_none() {
            let digest = digest(self.image.file(), self.image.len_bytes()).ok()?;
            // Behind the reading: it may have been changed meanwhile.
            *known = self.image.is_unchanged().then_some(digest);
        }
        Some((self.image.file(), (*known)?))
    }
}

fn digest(file: &File, len_bytes: u64) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = 0;
    while at < len_bytes {
        let len = CHUNK_BYTES.min((len_bytes - at) as usize);
        file.read_exact_at(&mut chunk[..len], at)?;
        hasher.update(&chunk[..len]);
        at += len as u64;
    }
    Ok(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_kernel_file_is_given_while_it_is_what_was_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vmlinuz");
        let check = |name: &str, change: &dyn Fn(), asks_before: bool, expected: bool| {
            fs::write(&path, "a kernel").unwrap();
            let kernel = LoadedKernel::new(Image::open(&path).unwrap());
            if asks_before {
                let (_, digest) = kernel.file().unwrap();
                assert_eq!(digest.as_slice(), Sha256::digest("a kernel").as_slice());
            }
            // The clock of files ticks a few hundred times a second.
            std::thread::sleep(std::time::Duration::from_millis(20));
            change();
            assert_eq!(kernel.file().is_some(), expected, "{name}");
        };
        let other = folder.path().join("new");
        let replace = || {
            fs::write(&other, "another").unwrap();
            fs::rename(&other, &path).unwrap();
        };
        check("nothing happens", &|| (), true, true);
        check(
            "written over",
            &|| fs::write(&path, "a xernel").unwrap(),
            false,
            false,
        );
        check(
            "written over, asked before",
            &|| fs::write(&path, "a xernel").unwrap(),
            true,
            true,
        );
        check("replaced", &replace, false, true);
    }
}
