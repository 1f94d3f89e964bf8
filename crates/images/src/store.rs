//! Root file systems that are kept: made once, never written again, and named.
//!
//! ```text
//! $XDG_CACHE_HOME/mother/images/TITLE-HASH/
//!   image.json   name, what it is, what it runs       disk.raw   its file system
//!   vmlinuz, modules/, busybox                        (an image of a container uses the default guest's)
//!   lock         held, shared, by whoever runs it     used       touched by every run
//! $XDG_DATA_HOME/mother/kept/NAME/
//!   kept.json    which image it lies over             overlay.qcow2, lock
//! ```
//!
//! A folder bears the hash of what it was made of, so a newer image of the same name does not touch the one that a
//! kept overlay lies over.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::FlockOperation;
use serde_json::{Value, json};
use thiserror::Error;

use crate::contents::contents;
use crate::file::{FileError, create_folder, error, is_unwritable};
use crate::guest_config::{GuestCommand, TERMINATE};
use crate::runs;

/// What an image's description is called.
const DESCRIPTION: &str = "image.json";
/// What a description says of a system.
const SYSTEM: &str = "system";

/// What a kept overlay's description is called.
const KEPT_DESCRIPTION: &str = "kept.json";

/// Why something is not done with an image.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A file of ours.
    #[error(transparent)]
    File(#[from] FileError),
    /// Nothing is called so.
    #[error("there is no image and nothing kept that is called {0:?}")]
    Unknown(String),
    /// A guest runs on it.
    #[error("{0} is in use by a guest that runs")]
    InUse(String),
    /// A kept overlay needs it.
    #[error("{name} is what the kept {kept} lies over")]
    Kept {
        /// The image.
        name: String,
        /// The overlay.
        kept: String,
    },
    /// A description that we did not write.
    #[error("{} is damaged", .0.display())]
    Damaged(PathBuf),
    /// A kept overlay whose image is gone, or is another one by now.
    #[error(
        "{kept} holds what was written over the image {name}, and that image is gone{}: what was written cannot be \
         read without it. `mother images rm {kept}` removes it",
        if *is_another { " (another one was made in its place)" } else { "" }
    )]
    BaseGone {
        /// The overlay.
        kept: String,
        /// The image.
        name: String,
        /// Whether an image of other content is in its place.
        is_another: bool,
    },
    /// A name that cannot be a folder's.
    #[error(
        "{0:?} cannot be a name: use letters, digits, dots, dashes and underscores, and begin with a letter"
    )]
    BadName(String),
}

/// What an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageKind {
    /// A system with its own kernel and init.
    System,
    /// A container image: one command.
    Container,
}

/// An image, which cannot be removed as long as this lives.
#[derive(Debug)]
pub struct Image {
    /// What it is called.
    pub name: String,
    /// What it is.
    pub kind: ImageKind,
    /// What it runs, if it is a container's.
    pub command: Option<GuestCommand>,
    /// What is on its disk ([`contents`]); none for an image that was made before this was written down.
    contents: Option<String>,
    folder: PathBuf,
    lock: File,
}

impl Image {
    /// The lock that keeps it from being removed, for another process to hold.
    pub fn into_lock(self) -> File {
        self.lock
    }

    /// Its disk, which nobody may write.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk.raw")
    }

    /// Its kernel, if it brings one.
    pub fn kernel(&self) -> Option<PathBuf> {
        Some(self.folder.join("vmlinuz")).filter(|path| path.is_file())
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What its folder is called, which its content decides.
    pub fn folder_name(&self) -> String {
        let name = self.folder.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

/// A kept overlay, which nobody else can run as long as this lives.
#[derive(Debug)]
pub struct Kept {
    /// The image that it lies over.
    pub image: Image,
    /// The overlay. It is not there if it is new.
    pub overlay: PathBuf,
    lock: File,
}

impl Kept {
    /// The locks on the image and on the overlay, for another process to hold.
    pub fn into_locks(self) -> [File; 2] {
        [self.image.into_lock(), self.lock]
    }
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What it is called.
    pub name: String,
    /// What its folder is called.
    pub folder: String,
    /// What it is, in words.
    pub what: String,
    /// What it takes on the disk.
    pub size_bytes: u64,
    /// When it was last run, or made.
    pub used: SystemTime,
    /// Whether a guest runs on it now.
    pub in_use: bool,
}

/// What was given back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Names of what is gone.
    pub names: Vec<String>,
    /// How much that was.
    pub bytes: u64,
}

/// Images and kept overlays of one user.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) images: PathBuf,
    pub(crate) kept: PathBuf,
    pub(crate) runs: PathBuf,
}

impl Store {
    /// The image of this name that was made last.
    ///
    /// # Errors
    /// If its description is damaged.
    pub fn find(&self, name: &str) -> Result<Option<Image>, StoreError> {
        self.newest(|text| text["name"] == name)
    }

    /// The newest system of this name. A container image says itself what it is called, and may call itself as a system is.
    ///
    /// # Errors
    /// If its description is damaged.
    pub fn find_system(&self, name: &str) -> Result<Option<Image>, StoreError> {
        self.newest(|text| text["name"] == name && text["kind"] == SYSTEM)
    }

    fn newest(&self, is_meant: impl Fn(&Value) -> bool) -> Result<Option<Image>, StoreError> {
        let mut found: Vec<PathBuf> = Vec::new();
        for folder in folders(&self.images) {
            if description(&folder.join(DESCRIPTION)).is_ok_and(|text| is_meant(&text)) {
                found.push(folder);
            }
        }
        found.sort_by_key(|folder| modified(&folder.join(DESCRIPTION)));
        found.pop().map(|folder| open_image(&folder)).transpose()
    }

    /// The image in the folder of this name ([`Image::folder_name`]), if it is there and complete.
    ///
    /// # Errors
    /// If its description is damaged.
    pub fn find_made(&self, folder: &str) -> Result<Option<Image>, StoreError> {
        if is_plain_name(folder) {
            self.find_folder(folder)
        } else {
            Ok(None)
        }
    }

    /// Removes the image in the folder of this name; what that gave back.
    ///
    /// # Errors
    /// If it is in use, or something is kept over it.
    pub fn remove_made(&self, folder: &str) -> Result<u64, StoreError> {
        let mut freed = Freed::default();
        if let Some(image) = self.find_made(folder)? {
            let name = image.name.clone();
            let folder = image.folder.clone();
            // It is held as long as it is known.
            drop(image);
            if let Some(kept) = self.kept_over(&folder) {
                return Err(StoreError::Kept { name, kept });
            }
            remove(&folder, &name, &mut freed)?;
        }
        Ok(freed.bytes)
    }

    /// The image in this folder, if it is complete.
    pub(crate) fn find_folder(&self, folder: &str) -> Result<Option<Image>, StoreError> {
        let path = self.images.join(folder);
        path.join(DESCRIPTION)
            .is_file()
            .then(|| open_image(&path))
            .transpose()
    }

    /// Gives a complete folder its final place; it gets its description here.
    pub(crate) fn add(
        &self,
        made: &Path,
        folder: &str,
        (name, what, kind): (&str, &str, ImageKind),
        command: Option<&GuestCommand>,
    ) -> Result<Image, StoreError> {
        let kind = if kind == ImageKind::System {
            SYSTEM
        } else {
            "container"
        };
        let command = command.map(|command| {
            json!({ "arguments": command.arguments, "environment": command.environment, "folder": command.folder,
                    "uid": command.uid, "gid": command.gid, "groups": command.groups,
                    "stop_signal": command.stop_signal, "entrypoint_count": command.entrypoint_count })
        });
        let disk = made.join("disk.raw");
        let contents = contents(&disk).map_err(error("read", &disk))?;
        let text = json!({ "name": name, "what": what, "kind": kind, "command": command, "contents": contents });
        let path = made.join(DESCRIPTION);
        fs::write(&path, format!("{text:#}\n")).map_err(error("write", &path))?;
        create_folder(&self.images)?;
        let place = self.images.join(folder);
        if place.exists() {
            fs::remove_dir_all(&place).map_err(error("remove", &place))?;
        }
        crate::file::rename(made, &place)?;
        open_image(&place)
    }

    /// The kept overlay of this name; a new one lies over `image`.
    ///
    /// # Errors
    /// If the name is none, somebody runs it, or it is new and no image is given.
    pub fn keep(&self, name: &str, image: Option<Image>) -> Result<Kept, StoreError> {
        if !is_plain_name(name) {
            return Err(StoreError::BadName(name.to_owned()));
        }
        let folder = self.kept.join(name);
        let path = folder.join(KEPT_DESCRIPTION);
        let image = if path.is_file() {
            self.base(name, &path)?
        } else {
            let image = image.ok_or_else(|| StoreError::Unknown(name.to_owned()))?;
            create_folder(&folder)?;
            let base = image
                .folder
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let text = json!({ "image": base, "over": image.name, "contents": image.contents });
            fs::write(&path, format!("{text:#}\n")).map_err(error("write", &path))?;
            image
        };
        let lock = lock(&folder, FlockOperation::NonBlockingLockExclusive)?;
        let lock = lock.ok_or_else(|| StoreError::InUse(name.to_owned()))?;
        Ok(Kept {
            image,
            overlay: folder.join("overlay.qcow2"),
            lock,
        })
    }

    /// The image that something kept lies over. Its folder's name says what it was made of, and made again of the same
    /// packages its files lie elsewhere on the disk: under an overlay that would be a file system in pieces.
    fn base(&self, kept: &str, description_of: &Path) -> Result<Image, StoreError> {
        let text = description(description_of)?;
        let base = text["image"]
            .as_str()
            .ok_or_else(|| StoreError::Damaged(description_of.to_owned()))?;
        let gone = |is_another| StoreError::BaseGone {
            kept: kept.to_owned(),
            name: text["over"].as_str().unwrap_or(base).to_owned(),
            is_another,
        };
        let image = self.find_folder(base)?.ok_or_else(|| gone(false))?;
        match (text["contents"].as_str(), &image.contents) {
            (Some(wanted), Some(found)) if wanted != found => Err(gone(true)),
            _ => Ok(image),
        }
    }

    /// Whether something is kept under this name.
    pub fn is_kept(&self, name: &str) -> bool {
        is_plain_name(name) && self.kept.join(name).join(KEPT_DESCRIPTION).is_file()
    }

    /// The name of what something kept lies over.
    ///
    /// # Errors
    /// If nothing is kept under this name.
    pub fn over(&self, name: &str) -> Result<String, StoreError> {
        let path = self.kept.join(name).join(KEPT_DESCRIPTION);
        Ok(description(&path)?["over"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    }

    /// Everything there is, by name.
    pub fn list(&self) -> Vec<Listed> {
        let mut list = Vec::new();
        for folder in folders(&self.images) {
            let Ok(text) = description(&folder.join(DESCRIPTION)) else {
                continue;
            };
            let what = text["what"].as_str().unwrap_or_default().to_owned();
            list.push(listed(
                &folder,
                text["name"].as_str().unwrap_or_default().to_owned(),
                what,
                "used",
            ));
        }
        for folder in folders(&self.kept) {
            let Ok(text) = description(&folder.join(KEPT_DESCRIPTION)) else {
                continue;
            };
            let name = folder
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let what = format!("kept, over {}", text["over"].as_str().unwrap_or("?"));
            list.push(listed(&folder, name, what, "overlay.qcow2"));
        }
        list.sort_by(|a, b| a.name.cmp(&b.name).then(b.used.cmp(&a.used)));
        list
    }

    /// Removes an image (all that are called so), or a kept overlay.
    ///
    /// # Errors
    /// If it is not there, in use, or something is kept over it.
    pub fn remove(&self, name: &str) -> Result<Freed, StoreError> {
        let mut freed = Freed::default();
        if self.is_kept(name) {
            remove(&self.kept.join(name), name, &mut freed)?;
            return Ok(freed);
        }
        let is_called = |folder: &PathBuf| {
            description(&folder.join(DESCRIPTION)).is_ok_and(|text| text["name"] == name)
        };
        let folders: Vec<PathBuf> = folders(&self.images)
            .into_iter()
            .filter(is_called)
            .collect();
        if folders.is_empty() {
            return Err(StoreError::Unknown(name.to_owned()));
        }
        for folder in &folders {
            if let Some(kept) = self.kept_over(folder) {
                return Err(StoreError::Kept {
                    name: name.to_owned(),
                    kept,
                });
            }
        }
        for folder in folders {
            remove(&folder, name, &mut freed)?;
        }
        Ok(freed)
    }

    /// Removes what no run needs any more: folders of dead runs and cancelled builds, images that a newer one of their name has replaced,
    /// and with `all` every image. What runs, is kept, or something is kept over stays.
    pub fn prune(&self, all: bool) -> Freed {
        let bytes = runs::sweep(&self.runs) + self.sweep_work();
        let mut freed = Freed {
            names: Vec::new(),
            bytes,
        };
        for folder in folders(&self.images) {
            let Ok(text) = description(&folder.join(DESCRIPTION)) else {
                // Nothing complete is without a description.
                let _ = remove(&folder, "an incomplete image", &mut freed);
                continue;
            };
            let name = text["name"].as_str().unwrap_or_default().to_owned();
            let is_alike =
                |other: &Value| other["name"] == text["name"] && other["kind"] == text["kind"];
            let newest = self.newest(is_alike).ok().flatten();
            let is_newest = newest.is_some_and(|image| image.folder == folder);
            if (all || !is_newest) && self.kept_over(&folder).is_none() {
                // In use is in use: it stays.
                let _ = remove(&folder, &name, &mut freed);
            }
        }
        freed
    }

    /// Removes what a cancelled download or build left, if nobody makes anything now; its bytes.
    fn sweep_work(&self) -> u64 {
        let Some(cache) = self.images.parent() else {
            return 0;
        };
        let work = cache.join("work");
        let Ok(Some(_lock)) = lock(cache, FlockOperation::NonBlockingLockExclusive) else {
            return 0;
        };
        let bytes = runs::allocated_bytes(&work);
        if fs::remove_dir_all(&work).is_ok() {
            bytes
        } else {
            0
        }
    }

    /// What is kept over the image in this folder.
    fn kept_over(&self, image: &Path) -> Option<String> {
        let base = image.file_name()?.to_str()?;
        let lies_over = |folder: &PathBuf| {
            description(&folder.join(KEPT_DESCRIPTION)).is_ok_and(|text| text["image"] == base)
        };
        let folder = folders(&self.kept).into_iter().find(lies_over)?;
        Some(folder.file_name()?.to_string_lossy().into_owned())
    }
}

fn open_image(folder: &Path) -> Result<Image, StoreError> {
    let path = folder.join(DESCRIPTION);
    let text = description(&path)?;
    let damaged = || StoreError::Damaged(path.clone());
    let name = text["name"].as_str().ok_or_else(damaged)?.to_owned();
    let kind = match text["kind"].as_str() {
        Some(SYSTEM) => ImageKind::System,
        Some("container") => ImageKind::Container,
        _ => return Err(damaged()),
    };
    let command = (kind == ImageKind::Container).then(|| command(&text["command"]));
    let lock = lock(folder, FlockOperation::NonBlockingLockShared)?;
    let lock = lock.ok_or_else(|| StoreError::InUse(name.clone()))?;
    // When it was used is of interest to a list only.
    let _ = fs::write(folder.join("used"), "");
    Ok(Image {
        name,
        kind,
        command,
        contents: text["contents"].as_str().map(str::to_owned),
        folder: folder.to_owned(),
        lock,
    })
}

fn command(text: &Value) -> GuestCommand {
    let words = |key: &str| -> Vec<String> {
        let list = text[key].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let number = |key: &str| {
        text[key]
            .as_u64()
            .and_then(|number| u32::try_from(number).ok())
            .unwrap_or(0)
    };
    GuestCommand {
        terminal: None,
        arguments: words("arguments"),
        environment: words("environment"),
        folder: text["folder"].as_str().unwrap_or("/").to_owned(),
        uid: number("uid"),
        gid: number("gid"),
        groups: numbers(&text["groups"]),
        stop_signal: text["stop_signal"]
            .as_u64()
            .and_then(|number| u32::try_from(number).ok())
            .unwrap_or(TERMINATE),
        root: Some("/root".to_owned()),
        entrypoint_count: number("entrypoint_count") as usize,
    }
}

fn numbers(list: &Value) -> Vec<u32> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .filter_map(|number| u32::try_from(number.as_u64()?).ok())
        .collect()
}

fn description(path: &Path) -> Result<Value, StoreError> {
    let bytes = fs::read(path).map_err(error("read", path))?;
    serde_json::from_slice(&bytes).map_err(|_| StoreError::Damaged(path.to_owned()))
}

/// The lock of a folder, if nobody holds it in another way. What may only be read can be locked all the same.
fn lock(folder: &Path, how: FlockOperation) -> Result<Option<File>, FileError> {
    let path = folder.join("lock");
    let open = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let open = match open {
        Err(error) if is_unwritable(&error) => File::open(&path),
        opened => opened,
    };
    let file = open.map_err(error("open", &path))?;
    Ok(rustix::fs::flock(&file, how).is_ok().then_some(file))
}

fn remove(folder: &Path, name: &str, freed: &mut Freed) -> Result<(), StoreError> {
    let lock = lock(folder, FlockOperation::NonBlockingLockExclusive)?;
    let _lock = lock.ok_or_else(|| StoreError::InUse(name.to_owned()))?;
    let bytes = runs::allocated_bytes(folder);
    // Without its description it is nothing, whatever happens next.
    for description in [DESCRIPTION, KEPT_DESCRIPTION] {
        let _ = fs::remove_file(folder.join(description));
    }
    fs::remove_dir_all(folder).map_err(error("remove", folder))?;
    freed.names.push(name.to_owned());
    freed.bytes += bytes;
    Ok(())
}

fn listed(folder: &Path, name: String, what: String, used: &str) -> Listed {
    let is_free =
        lock(folder, FlockOperation::NonBlockingLockExclusive).is_ok_and(|lock| lock.is_some());
    let used = modified(&folder.join(used)).max(modified(&folder.join(DESCRIPTION)));
    let folder_name = folder.file_name().unwrap_or_default();
    Listed {
        name,
        folder: folder_name.to_string_lossy().into_owned(),
        what,
        size_bytes: runs::allocated_bytes(folder),
        used,
        in_use: !is_free,
    }
}

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders
}

/// Whether a name can be a folder's, on a command line and in a message.
fn is_plain_name(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(folder: &Path) -> Store {
        let at = |name: &str| folder.join(name);
        Store {
            images: at("images"),
            kept: at("kept"),
            runs: at("runs"),
        }
    }

    fn add(store: &Store, folder: &str, name: &str) -> Image {
        let made = store.images.with_file_name("made");
        fs::create_dir_all(&made).unwrap();
        fs::write(made.join("disk.raw"), [1; 10_000]).unwrap();
        let command = GuestCommand {
            arguments: vec!["/sh".into()],
            folder: "/x".into(),
            ..GuestCommand::default()
        };
        store
            .add(
                &made,
                folder,
                (name, "a test", ImageKind::Container),
                Some(&command),
            )
            .unwrap()
    }

    #[test]
    fn a_container_image_that_calls_itself_as_a_system_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        drop(add(&store, "box-1", "debian:12"));
        assert!(store.find_system("debian:12").unwrap().is_none());
        let made = store.images.with_file_name("made");
        fs::create_dir_all(&made).unwrap();
        fs::write(made.join("disk.raw"), [1; 10_000]).unwrap();
        let system = ("debian:12", "a test", ImageKind::System);
        drop(store.add(&made, "debian-12", system, None).unwrap());
        // The container image is newer now, and takes nothing from the system.
        drop(add(&store, "box-2", "debian:12"));
        let found = store.find_system("debian:12").unwrap().unwrap();
        assert!(found.folder.ends_with("debian-12"), "{:?}", found.folder);
        drop(found);
        assert_eq!(store.prune(false).names, ["debian:12"]);
        assert!(store.find_system("debian:12").unwrap().is_some());
    }

    #[test]
    fn an_image_is_found_by_name_and_says_what_it_runs() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        assert!(store.find("box").unwrap().is_none());
        drop(add(&store, "box-1", "box"));
        let image = store.find("box").unwrap().unwrap();
        let command = image.command.as_ref().unwrap();
        assert_eq!(
            (command.arguments.as_slice(), command.folder.as_str()),
            (["/sh".to_owned()].as_slice(), "/x")
        );
        assert!(image.disk().is_file() && image.kernel().is_none());
    }

    #[test]
    fn what_was_kept_is_not_read_over_an_image_that_was_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        drop(
            store
                .keep("mine", Some(add(&store, "box-1", "box")))
                .unwrap(),
        );
        let kept = |store: &Store| store.keep("mine", None).map(|_| ());
        // Made of the same with the same outcome: what was written fits.
        fs::remove_dir_all(&store.images).unwrap();
        assert!(matches!(
            kept(&store),
            Err(StoreError::BaseGone { is_another, .. }) if !is_another
        ));
        drop(add(&store, "box-1", "box"));
        kept(&store).unwrap();
        // Made of the same, and its files lie elsewhere.
        fs::remove_dir_all(&store.images).unwrap();
        let made = store.images.with_file_name("made");
        fs::create_dir_all(&made).unwrap();
        fs::write(made.join("disk.raw"), [2; 10_000]).unwrap();
        let what = ("box", "a test", ImageKind::System);
        drop(store.add(&made, "box-1", what, None).unwrap());
        assert!(matches!(
            kept(&store),
            Err(StoreError::BaseGone { is_another, .. }) if is_another
        ));
        assert_eq!(store.remove("mine").unwrap().names, ["mine"]);
    }

    #[test]
    fn what_is_in_use_or_kept_over_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let image = add(&store, "box-1", "box");
        assert!(matches!(store.remove("box"), Err(StoreError::InUse(_))));
        assert!(store.list()[0].in_use);
        let kept = store.keep("mine", Some(image)).unwrap();
        assert!(matches!(
            store.keep("mine", None),
            Err(StoreError::InUse(_))
        ));
        drop(kept);
        assert!(matches!(store.remove("box"), Err(StoreError::Kept { .. })));
        assert_eq!(store.prune(true).names, Vec::<String>::new());
        assert_eq!(store.keep("mine", None).unwrap().image.name, "box");
        assert_eq!(store.remove("mine").unwrap().names, ["mine"]);
        let freed = store.remove("box").unwrap();
        assert!(freed.bytes >= 10_000);
        assert!(matches!(store.remove("box"), Err(StoreError::Unknown(_))));
        assert!(store.list().is_empty());
    }

    #[test]
    fn pruning_takes_what_was_replaced_and_what_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        drop(add(&store, "box-1", "box"));
        std::thread::sleep(std::time::Duration::from_millis(20));
        drop(add(&store, "box-2", "box"));
        fs::create_dir_all(store.images.join("cut")).unwrap();
        assert_eq!(
            store.find("box").unwrap().unwrap().folder,
            store.images.join("box-2")
        );
        assert_eq!(store.prune(false).names, ["box", "an incomplete image"]);
        assert!(store.images.join("box-2").is_dir());
        assert_eq!(store.prune(true).names, ["box"]);
    }

    #[test]
    fn pruning_takes_what_a_cancelled_build_left_but_not_what_one_makes() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let work = folder.path().join("work");
        fs::create_dir_all(work.join("packages")).unwrap();
        fs::write(work.join("packages/half.deb"), [1; 10_000]).unwrap();
        let maker = lock(folder.path(), FlockOperation::LockExclusive).unwrap();
        assert_eq!(store.prune(true).bytes, 0, "somebody is at work");
        drop(maker);
        assert!(store.prune(false).bytes >= 10_000);
        assert!(!work.exists());
    }

    #[test]
    fn names_lead_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["", "..", "../x", "a/b", ".hidden", "1st", "a b"] {
            assert!(
                matches!(
                    store(folder.path()).keep(name, None),
                    Err(StoreError::BadName(_))
                ),
                "{name}"
            );
        }
    }
}
