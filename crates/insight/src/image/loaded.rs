//! What is known of the kernel that a VMM loaded, from the file it loaded.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{ImageError, KernelImage, MAX_FILE};
use crate::cache;
use crate::profile::Profile;

/// The kernel that was loaded before the guest's first instruction. The guest has no word in it.
#[derive(Clone, Debug)]
pub struct Loaded {
    digest: [u8; 32],
    profile: Arc<Profile>,
    is_from_cache: bool,
}

impl Loaded {
    /// From the kernel file whose SHA-256 is `digest`, or from what `cache` kept of it.
    ///
    /// # Errors
    /// [`ImageError`]: the file is another by now, or has no Linux kernel with symbols that prove themselves.
    pub fn open(file: &File, digest: [u8; 32], cache: Option<&Path>) -> Result<Loaded, ImageError> {
        if let Some(profile) = cache.and_then(|folder| cache::load(folder, &digest)) {
            return Ok(Loaded {
                digest,
                profile: Arc::new(profile),
                is_from_cache: true,
            });
        }
        let image = read(file, &digest)?;
        let (profile, _) = Profile::decode(image.as_image()).ok_or_else(|| {
            ImageError::unknown("has a kernel without symbol tables that prove themselves")
        })?;
        if let Some(folder) = cache {
            // A cache that cannot be written costs time at the next attach, nothing else.
            let _ = cache::store(folder, &digest, &profile);
        }
        Ok(Loaded {
            digest,
            profile: Arc::new(profile),
            is_from_cache: false,
        })
    }

    /// SHA-256 of the file.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The build.
    pub fn profile(&self) -> &Arc<Profile> {
        &self.profile
    }

    /// Whether the file needed not be read.
    pub fn is_from_cache(&self) -> bool {
        self.is_from_cache
    }
}

/// The file, if it is what was loaded.
fn read(file: &File, digest: &[u8; 32]) -> Result<KernelImage, ImageError> {
    let unreadable = |error: std::io::Error| ImageError::Unreadable(error.to_string());
    let len = file.metadata().map_err(unreadable)?.len();
    if len > MAX_FILE {
        return Err(ImageError::unknown(format!(
            "has {len} bytes, which is more than is read here"
        )));
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0).map_err(unreadable)?;
    if Sha256::digest(&bytes).as_slice() != digest {
        return Err(ImageError::Changed);
    }
    KernelImage::decode(&bytes)
}
