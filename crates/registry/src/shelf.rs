//! What was pulled, in the cache.
//!
//! ```text
//! $XDG_CACHE_HOME/mother/registry/
//!   lock                 held by who pulls or removes
//!   blobs/DIGEST         a part, complete and checked: indexes, manifests, configurations, layers
//!   parts/DIGEST         what there is of one that is not complete; the next try goes on with it
//!   names/SHA256.json    a name, which this is the SHA-256 of: what it led to when it was pulled last
//! ```
//!
//! A reader of container images is shown one image of it as an OCI image layout ([`Shelf::input`]).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use images::fetch::{create_folder, error, rename};
use images::{Cache, FileError, Freed, Image, Input, Parts, Store, StoreError};
use rustix::fs::{FlockOperation, MemfdFlags};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::digest::Digest;
use crate::manifest::Part;
use crate::reference::Reference;

/// The longest record of a name.
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// See the module.
const FOLDERS: [&str; 3] = ["blobs", "parts", "names"];

/// What one name led to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pulled {
    /// The name, in full.
    pub name: String,
    /// What the registry has under it: the digest of an index, or of a manifest.
    pub digest: Digest,
    /// What all its parts take as they were pulled.
    pub size_bytes: u64,
    /// When that was.
    pub when: SystemTime,
    /// The folder of the image that was made of it, among images.
    pub made: Option<String>,
    /// The manifest, and what it takes.
    manifest: Part,
    /// Everything else: indexes, configuration, layers.
    parts: Vec<Part>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    name: String,
    digest: String,
    manifest: (String, u64),
    parts: Vec<(String, u64)>,
    pulled: u64,
    made: Option<String>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Shelf {
    folder: PathBuf,
    store: Store,
}

impl Pulled {
    pub(crate) fn new(
        reference: &Reference,
        digest: Digest,
        manifest: Part,
        parts: Vec<Part>,
    ) -> Pulled {
        Pulled {
            name: reference.to_string(),
            digest,
            size_bytes: manifest.size_bytes + parts.iter().map(|part| part.size_bytes).sum::<u64>(),
            when: SystemTime::now(),
            made: None,
            manifest,
            parts,
        }
    }

    /// Whether another name, or this one before, leads to the same image.
    pub(crate) fn is_same_image(&self, other: &Pulled) -> bool {
        self.manifest == other.manifest
    }

    fn all_parts(&self) -> impl Iterator<Item = &Part> {
        std::iter::once(&self.manifest).chain(&self.parts)
    }

    fn of(record: Record) -> Option<Pulled> {
        let part = |(digest, size_bytes): (String, u64)| {
            Some(Part {
                digest: Digest::parse(&digest)?,
                size_bytes,
            })
        };
        let manifest = part(record.manifest)?;
        let parts = record
            .parts
            .into_iter()
            .map(part)
            .collect::<Option<Vec<Part>>>()?;
        let reference = Reference::parse(&record.name).ok()?;
        let digest = Digest::parse(&record.digest)?;
        let mut pulled = Pulled::new(&reference, digest, manifest, parts);
        pulled.when = UNIX_EPOCH + Duration::from_secs(record.pulled);
        pulled.made = record.made;
        Some(pulled)
    }

    fn record(&self) -> Record {
        let part = |part: &Part| (part.digest.to_string(), part.size_bytes);
        let since = self.when.duration_since(UNIX_EPOCH).unwrap_or_default();
        Record {
            name: self.name.clone(),
            digest: self.digest.to_string(),
            manifest: part(&self.manifest),
            parts: self.parts.iter().map(part).collect(),
            pulled: since.as_secs(),
            made: self.made.clone(),
        }
    }
}

impl Shelf {
    /// The one in this cache.
    pub fn of(cache: &Cache) -> Shelf {
        Shelf {
            folder: cache.folder().join("registry"),
            store: cache.store(),
        }
    }

    /// What a name led to when it was pulled last, if all of it is still here.
    pub fn find(&self, reference: &Reference) -> Option<Pulled> {
        let pulled = read(&self.place(&reference.to_string()))?;
        let is_whole =
            self.image(&pulled).is_some() || pulled.all_parts().all(|part| self.has(part));
        is_whole.then_some(pulled)
    }

    /// The image that was made of it, held so that nobody removes it.
    pub fn image(&self, pulled: &Pulled) -> Option<Image> {
        self.store.find_made(pulled.made.as_deref()?).ok().flatten()
    }

    /// Everything that was pulled, by name.
    pub fn list(&self) -> Vec<Pulled> {
        let entries = fs::read_dir(self.folder.join("names"));
        let paths = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        let mut all: Vec<Pulled> = paths.filter_map(|path| read(&path)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The image for who reads it.
    pub fn input(&self, pulled: &Pulled) -> Input {
        // Names of ours alone lead to files, and a part's is its digest.
        let blobs = self.folder.join("blobs");
        let manifest = &pulled.manifest;
        let index = json!({ "schemaVersion": 2,
            "manifests": [{ "digest": manifest.digest.to_string(), "size": manifest.size_bytes }] });
        let open = move |part: &str| match part.strip_prefix("blobs/sha256/") {
            Some(digits) => {
                let digest = Digest::parse(&format!("sha256:{digits}"));
                let digest = digest.ok_or(io::ErrorKind::NotFound)?;
                File::open(blobs.join(digest.digits()))
            }
            None if part == "index.json" => in_memory(index.to_string().as_bytes()),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        Input {
            parts: Parts::Folder(Box::new(open)),
            name: pulled.name.clone(),
            wanted: None,
        }
    }

    /// Notes which image was made of it.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn note_made(&self, pulled: &Pulled, image: &Image) -> Result<(), FileError> {
        let mut noted = pulled.clone();
        noted.made = Some(image.folder_name());
        self.keep(&noted)
    }

    /// Removes what a name led to: the image that was made of it, and the parts that nothing else needs.
    ///
    /// # Errors
    /// If a guest runs on it, something is kept over it, or somebody pulls.
    pub fn remove(&self, reference: &Reference) -> Result<Option<Freed>, StoreError> {
        let Some(pulled) = read(&self.place(&reference.to_string())) else {
            return Ok(None);
        };
        let in_use = || StoreError::InUse(pulled.name.clone());
        let _lock = self.lock_at_once()?.ok_or_else(in_use)?;
        let is_shared = |made: &String| {
            let mut others = self
                .list()
                .into_iter()
                .filter(|other| other.name != pulled.name);
            others.any(|other| other.made.as_ref() == Some(made))
        };
        let mut freed = Freed::default();
        if let Some(made) = pulled.made.as_ref().filter(|made| !is_shared(made)) {
            freed.bytes += self.store.remove_made(made)?;
        }
        let path = self.place(&pulled.name);
        fs::remove_file(&path).map_err(error("remove", &path))?;
        freed.bytes += self.sweep();
        freed.names.push(pulled.name);
        Ok(Some(freed))
    }

    /// Removes parts that no name needs and what broke off; with `all` every name too, but for those that a guest runs on and
    /// those that something is kept over.
    pub fn prune(&self, all: bool) -> Freed {
        let mut freed = Freed::default();
        for pulled in self.list().into_iter().filter(|_| all) {
            let removed = Reference::parse(&pulled.name)
                .ok()
                .map(|name| self.remove(&name));
            // In use is in use: it stays.
            if let Some(Ok(Some(removed))) = removed {
                freed.names.extend(removed.names);
                freed.bytes += removed.bytes;
            }
        }
        if let Ok(Some(_lock)) = self.lock_at_once() {
            freed.bytes += self.sweep();
        }
        freed
    }

    /// Removes parts that no name needs; what that gave back. Who calls has the lock.
    fn sweep(&self) -> u64 {
        let needed: Vec<Pulled> = self.list();
        let is_needed = |name: &str| {
            let mut parts = needed.iter().flat_map(Pulled::all_parts);
            parts.any(|part| part.digest.digits() == name)
        };
        let mut bytes = 0;
        let is_kept = |folder: &str, name: &str| match folder {
            "blobs" => is_needed(name),
            // Beside records there may be one that a killed process was about to write.
            "names" => name.ends_with(".json"),
            _ => false,
        };
        for folder in FOLDERS {
            let entries = fs::read_dir(self.folder.join(folder));
            for entry in entries.into_iter().flatten().flatten() {
                let name = entry.file_name();
                let is_kept = name.to_str().is_some_and(|name| is_kept(folder, name));
                let len = entry.metadata().map_or(0, |it| it.len());
                if !is_kept && fs::remove_file(entry.path()).is_ok() {
                    bytes += len;
                }
            }
        }
        bytes
    }

    /// Whether a part is here; what has its name is whole.
    pub(crate) fn has(&self, part: &Part) -> bool {
        fs::metadata(self.blob(&part.digest)).is_ok_and(|it| it.len() == part.size_bytes)
    }

    /// Where a part is, when it is complete.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs").join(digest.digits())
    }

    /// Where there is what there is of a part.
    pub(crate) fn partial(&self, digest: &Digest) -> PathBuf {
        self.folder.join("parts").join(digest.digits())
    }

    /// Gives a part that was checked its name.
    pub(crate) fn finish(&self, digest: &Digest) -> Result<(), FileError> {
        rename(&self.partial(digest), &self.blob(digest))
    }

    /// Keeps a small part that was checked.
    pub(crate) fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), FileError> {
        let path = self.partial(digest);
        write_durably(&path, bytes)?;
        self.finish(digest)
    }

    /// Notes what a name led to.
    pub(crate) fn keep(&self, pulled: &Pulled) -> Result<(), FileError> {
        let path = self.place(&pulled.name);
        let text = serde_json::to_vec_pretty(&pulled.record()).unwrap_or_default();
        let new = self
            .folder
            .join("names")
            .join(format!("new-{}", std::process::id()));
        write_durably(&new, &text)?;
        rename(&new, &path)
    }

    /// How much there is left for parts, in bytes.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        let found = rustix::fs::statvfs(&self.folder).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes its folders, and waits until nobody else pulls or removes; `on_wait` is told if somebody does.
    pub(crate) fn lock(&self, on_wait: impl FnOnce()) -> Result<File, FileError> {
        for name in FOLDERS {
            create_folder(&self.folder.join(name))?;
        }
        let (path, file) = self.lock_file()?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            on_wait();
            let locked = rustix::fs::flock(&file, FlockOperation::LockExclusive);
            locked.map_err(|errno| error("lock", &path)(errno.into()))?;
        }
        Ok(file)
    }

    fn lock_at_once(&self) -> Result<Option<File>, FileError> {
        if !self.folder.is_dir() {
            return Ok(None);
        }
        let (_, file) = self.lock_file()?;
        let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        Ok(locked.is_ok().then_some(file))
    }

    fn lock_file(&self) -> Result<(PathBuf, File), FileError> {
        let path = self.folder.join("lock");
        let mut options = File::options();
        let opened = options.create(true).truncate(false).write(true).open(&path);
        let file = opened.map_err(error("open", &path))?;
        Ok((path, file))
    }

    fn place(&self, name: &str) -> PathBuf {
        let digest = Digest::of(name.as_bytes());
        self.folder
            .join("names")
            .join(format!("{}.json", digest.digits()))
    }
}

fn read(path: &Path) -> Option<Pulled> {
    if fs::metadata(path).ok()?.len() > RECORD_BYTES_MAX || path.extension()? != "json" {
        return None;
    }
    Pulled::of(serde_json::from_slice(&fs::read(path).ok()?).ok()?)
}

/// A file that is on the disk before it gets its name: a name that a loss of power leaves is that of a whole file.
fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut file = File::create(path).map_err(error("create", path))?;
    file.write_all(bytes).map_err(error("write", path))?;
    file.sync_all().map_err(error("write", path))
}

/// A file that is nowhere.
fn in_memory(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("index.json", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    io::Seek::rewind(&mut file)?;
    Ok(file)
}
