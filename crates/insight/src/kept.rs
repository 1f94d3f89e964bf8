//! Files in which observers keep what they know: profiles of kernel files in the user's cache, and in a VM's folder what its
//! kernel looked like.
//!
//! An observer in a jail has no names: it asks somebody who may open files ([`keep_by`]), and everything here goes that way.
//! What it may ask for is an [`Entry`] in a folder, and no other name.
//!
//! It never writes a profile: one that its guest has taken over would tell other guests' observers how to read. It hands on the
//! kernel file, and a process that has read nothing else makes the profile ([`Keeper::make`]).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// Profiles that are kept; the oldest go.
pub(crate) const MAX_FILES: usize = 32;
/// Largest file that is kept.
pub const KEPT_BYTES_MAX: u64 = 256 << 20;

/// A file that is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Entry {
    /// What is known of the kernel file with this SHA-256.
    Profile([u8; 32]),
    /// The code of the kernel in it.
    Code([u8; 32]),
    /// Fingerprints of a kernel's code, and what registers said.
    Head,
    /// The code itself.
    Text,
    /// A word that somebody has asked which pages were written.
    Asked,
}

impl Entry {
    /// How the names of profiles end.
    const PROFILE: &str = "profile";
    /// How those of the code beside them do.
    const CODE: &str = "code";

    /// Its name in its folder.
    pub fn name(&self) -> PathBuf {
        let of = |digest: &[u8; 32], extension: &str| {
            let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            PathBuf::from(name).with_extension(extension)
        };
        match self {
            Entry::Profile(digest) => of(digest, Entry::PROFILE),
            Entry::Code(digest) => of(digest, Entry::CODE),
            Entry::Head => "integrity.head".into(),
            Entry::Text => "integrity.text".into(),
            Entry::Asked => "integrity.asked".into(),
        }
    }

    /// Whether it is kept for whoever observes a guest with the same kernel; the others are of one VM.
    pub fn is_shared(&self) -> bool {
        matches!(self, Entry::Profile(_) | Entry::Code(_))
    }
}

/// Somebody who may open files.
pub trait Keeper: Send + Sync {
    /// An entry of a folder, for reading; the text for writing too: it is made, and locked for as long as it is open.
    ///
    /// # Errors
    /// What the host says, or that it is not for who asks.
    fn open(&self, folder: &Path, entry: Entry) -> io::Result<File>;

    /// Keeps an entry. Whatever has its name is complete.
    ///
    /// # Errors
    /// As [`Keeper::open`].
    fn put(&self, folder: &Path, entry: Entry, bytes: &[u8]) -> io::Result<()>;

    /// Removes an entry.
    ///
    /// # Errors
    /// As [`Keeper::open`].
    fn remove(&self, folder: &Path, entry: Entry) -> io::Result<()>;

    /// Has the profile made of a kernel file with this SHA-256, by somebody who reads nothing else.
    ///
    /// # Errors
    /// As [`Keeper::open`], or what is wrong with the file.
    fn make(&self, folder: &Path, digest: [u8; 32], kernel: &File) -> io::Result<()>;
}

static KEEPER: OnceLock<Box<dyn Keeper>> = OnceLock::new();

/// Has this process keep everything through `keeper` from now on. The first call counts.
pub fn keep_by(keeper: Box<dyn Keeper>) {
    let _ = KEEPER.set(keeper);
}

/// Through whom this process keeps things; `None` where it does it itself.
pub(crate) fn asked() -> Option<&'static dyn Keeper> {
    KEEPER.get().map(AsRef::as_ref)
}

pub(crate) fn open(folder: &Path, entry: Entry) -> io::Result<File> {
    match asked() {
        Some(keeper) => keeper.open(folder, entry),
        None => open_here(folder, entry, FlockOperation::LockExclusive),
    }
}

pub(crate) fn put(folder: &Path, entry: Entry, bytes: &[u8]) -> io::Result<()> {
    match asked() {
        Some(keeper) => keeper.put(folder, entry, bytes),
        None => put_here(folder, entry, bytes),
    }
}

pub(crate) fn remove(folder: &Path, entry: Entry) -> io::Result<()> {
    match asked() {
        Some(keeper) => keeper.remove(folder, entry),
        None => remove_here(folder, entry),
    }
}

/// [`Keeper::open`] by this process; `WouldBlock` for a text that somebody else has locked.
///
/// # Errors
/// What the host says.
pub fn open_now(folder: &Path, entry: Entry) -> io::Result<File> {
    open_here(folder, entry, FlockOperation::NonBlockingLockExclusive)
}

fn open_here(folder: &Path, entry: Entry, lock: FlockOperation) -> io::Result<File> {
    let path = folder.join(entry.name());
    if entry != Entry::Text {
        return File::open(path);
    }
    fs::create_dir_all(folder)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let text = options.open(path)?;
    flock(&text, lock)?;
    Ok(text)
}

/// [`Keeper::put`] by this process.
///
/// # Errors
/// What the host says.
pub fn put_here(folder: &Path, entry: Entry, bytes: &[u8]) -> io::Result<()> {
    let path = folder.join(entry.name());
    // Two threads of one process may keep the same at the same time, as two processes may.
    static TURN: AtomicU64 = AtomicU64::new(0);
    let turn = TURN.fetch_add(1, Ordering::Relaxed);
    let work = path.with_extension(format!("{}-{turn}.work", std::process::id()));
    fs::create_dir_all(folder)?;
    let written = fs::write(&work, bytes).and_then(|()| fs::rename(&work, &path));
    if written.is_err() {
        let _ = fs::remove_file(&work);
    }
    if let (Ok(()), Entry::Profile(_)) = (&written, entry) {
        let _ = forget_oldest(folder);
    }
    written
}

/// Whoever builds kernels all day has one of each.
fn forget_oldest(folder: &Path) -> io::Result<()> {
    let mut files: Vec<(SystemTime, PathBuf)> = fs::read_dir(folder)?
        .flatten()
        .filter(|entry| Path::new(&entry.file_name()).extension() == Some(Entry::PROFILE.as_ref()))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    files.sort();
    let surplus = files.len().saturating_sub(MAX_FILES);
    for (_, path) in files.drain(..surplus) {
        fs::remove_file(&path)?;
        let _ = fs::remove_file(path.with_extension(Entry::CODE));
    }
    Ok(())
}

/// [`Keeper::remove`] by this process.
///
/// # Errors
/// What the host says.
pub fn remove_here(folder: &Path, entry: Entry) -> io::Result<()> {
    fs::remove_file(folder.join(entry.name()))
}
