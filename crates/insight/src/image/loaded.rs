//! What is known of the kernel that a VMM loaded, from the file it loaded.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use sha2::{Digest, Sha256};

use super::{Code, ImageError, KernelImage, MAX_FILE};
use crate::cache;
use crate::kept;
use crate::profile::Profile;

/// Builds of kernel files that somebody in this process holds, by the file's SHA-256: one is as large as all that is known of
/// a guest beside it, and hosts have many guests of few kernels. Nothing that a guest has said is in one.
static HELD: Mutex<BTreeMap<[u8; 32], Weak<Profile>>> = Mutex::new(BTreeMap::new());

/// The build of this file, if somebody holds it.
fn held(digest: &[u8; 32]) -> Option<Arc<Profile>> {
    HELD.lock().ok()?.get(digest)?.upgrade()
}

/// The build for whoever comes next, or the one that somebody else was faster with.
fn hold(digest: [u8; 32], profile: Profile) -> Arc<Profile> {
    let profile = Arc::new(profile);
    let Ok(mut all) = HELD.lock() else {
        return profile;
    };
    all.retain(|_, held| held.strong_count() > 0);
    if let Some(held) = all.get(&digest).and_then(Weak::upgrade) {
        return held;
    }
    all.insert(digest, Arc::downgrade(&profile));
    profile
}

/// The kernel that was loaded before the guest's first instruction. The guest has no word in it.
#[derive(Clone, Debug)]
pub struct Loaded {
    digest: [u8; 32],
    profile: Arc<Profile>,
    code: Source,
    is_from_cache: bool,
}

/// Where the code of the kernel is: looked at once in the life of a guest, and large.
#[derive(Clone, Debug)]
enum Source {
    Held(Option<Arc<Code>>),
    Kept(PathBuf),
}

impl Loaded {
    /// From the kernel file whose SHA-256 is `digest`, or from what `cache` kept of it.
    ///
    /// # Errors
    /// [`ImageError`]: the file is another by now, or has no Linux kernel with symbols that prove themselves.
    pub fn open(file: &File, digest: [u8; 32], cache: Option<&Path>) -> Result<Loaded, ImageError> {
        // What is held was read from a cache, so its code is there too.
        let kept = |folder: &Path| {
            let profile = held(&digest);
            let read = || Some(hold(digest, cache::load(folder, &digest)?));
            Some((profile.or_else(read)?, folder.to_owned()))
        };
        let found = cache.and_then(kept).or_else(|| {
            // Who has read a guest's memory makes no profile for others.
            kept::asked()?.make(cache?, digest, file).ok()?;
            kept(cache?)
        });
        if let Some((profile, folder)) = found {
            return Ok(Loaded {
                digest,
                profile,
                code: Source::Kept(folder),
                is_from_cache: true,
            });
        }
        let bytes = whole(file)?;
        if Sha256::digest(&bytes).as_slice() != digest {
            return Err(ImageError::Changed);
        }
        Loaded::decode(&bytes, digest, cache.filter(|_| kept::asked().is_none()))
    }

    fn decode(file: &[u8], digest: [u8; 32], cache: Option<&Path>) -> Result<Loaded, ImageError> {
        let image = KernelImage::decode(file)?;
        let (profile, text) = Profile::decode(image.as_image()).ok_or_else(|| {
            ImageError::unknown("has a kernel without symbol tables that prove themselves")
        })?;
        let code = Code::take(&image, &profile, text);
        if let Some(folder) = cache {
            let bytes = code.as_ref().map(Code::to_bytes).unwrap_or_default();
            // A cache that cannot be written costs time at the next attach, nothing else. The code first: whoever finds a
            // profile finds its code.
            let _ = cache::store_code(folder, &digest, &bytes)
                .and_then(|()| cache::store(folder, &digest, &profile));
        }
        Ok(Loaded {
            digest,
            profile: Arc::new(profile),
            code: Source::Held(code.map(Arc::new)),
            is_from_cache: false,
        })
    }

    /// What `cache` keeps of the kernel file whose SHA-256 is `digest`; nothing else is read, and nothing made.
    pub fn kept(digest: [u8; 32], cache: &Path) -> Option<Profile> {
        cache::load(cache, &digest)
    }

    /// The kernel's code; `None` if the tables that say where the kernel writes over it could not be understood, or what was
    /// kept is damaged.
    pub(crate) fn code(&self) -> Option<Arc<Code>> {
        match &self.code {
            Source::Held(code) => code.clone(),
            Source::Kept(folder) => {
                let bytes = cache::load_code(folder, &self.digest)?;
                Code::from_bytes(&bytes).map(Arc::new)
            }
        }
    }

    /// Keeps what a kernel file says before any guest has run it, so that the first look at one costs no more than another.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn keep(file: &File, cache: &Path) -> Result<(), ImageError> {
        let bytes = whole(file)?;
        Loaded::decode(&bytes, Sha256::digest(&bytes).into(), Some(cache)).map(drop)
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

/// All bytes of the file.
fn whole(file: &File) -> Result<Vec<u8>, ImageError> {
    let unreadable = |error: std::io::Error| ImageError::Unreadable(error.to_string());
    let len = file.metadata().map_err(unreadable)?.len();
    if len > MAX_FILE {
        return Err(ImageError::unknown(format!(
            "has {len} bytes, which is more than is read here"
        )));
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0).map_err(unreadable)?;
    Ok(bytes)
}
