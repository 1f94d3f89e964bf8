//! Container images: an OCI image layout folder (image-spec, image-layout.md), or an archive of one, what
//! `docker save` writes, or a folder that skopeo's `dir:` wrote.
//!
//! Layers go through memory onto a disk image; nothing is unpacked to the host's file system. Everything that names
//! itself by a digest is checked against it.

mod choice;
mod config;
mod digest;
mod input;
mod manifest;
mod reader;
mod source;
mod told;
mod users;

#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::ext4::{self, Ext4Error, Ext4Options, GROUP_BYTES};
use crate::file::{FileError, create_folder, error, stem};
use crate::progress::{Amount, OnProgress, Progress, Unit};
use crate::stamp::uuid_of;
use crate::store::{Image, ImageKind, Store, StoreError};
use crate::tree::{Spool, Tree, UnpackError, Unpacker};
use config::Config;
use digest::Digesting;
pub use input::{Input, Onto, OpenPart, Parts};
use manifest::Manifest;
pub use reader::{InThisProcess, Made, OpenedContainer, ReadContainer};
use source::Source;
pub use told::ToldError;

/// The smallest disk, which is sparse.
const DISK_BYTES_MIN: u64 = 32 * GROUP_BYTES;

/// What one layer may unpack to, so that a small archive cannot fill every disk.
const LAYER_BYTES_MAX: u64 = 64 << 30;

/// Why something is not a container image that can be run.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// None of the forms.
    #[error(
        "it is neither an OCI image layout nor a `docker save` archive nor a `dir:` folder of skopeo"
    )]
    NoImage,
    /// The first form of Docker's manifests, which have no configuration.
    #[error("its manifest has Docker's form of 2015 (schema 1), which nothing writes any more")]
    OldManifest,
    /// It has more than one image, and none was named.
    #[error("it holds several images: {}", .0.join(", "))]
    Several(Vec<String>),
    /// It has images, but none of this name.
    #[error("it has no image {wanted:?}, but {}", .all.join(", "))]
    NotAmong {
        /// What was asked for.
        wanted: String,
        /// What it has.
        all: Vec<String>,
    },
    /// It cannot be read.
    #[error("cannot read {part}")]
    Read {
        /// Which part.
        part: String,
        /// What the host said.
        source: io::Error,
    },
    /// A part contradicts what the others say.
    #[error("{part} is damaged: {what}")]
    Damaged {
        /// Which part.
        part: String,
        /// What is wrong.
        what: String,
    },
    /// It is for other machines.
    #[error("it has no image for linux on amd64, but for {0}")]
    OtherMachine(String),
    /// A layer holds something that cannot be.
    #[error("layer {number} cannot be unpacked")]
    Layer {
        /// Counted from 1.
        number: usize,
        /// What the host said.
        source: io::Error,
    },
    /// What is unpacked has no room.
    #[error(
        "cannot write what layer {number} unpacks to into {}: the image takes more than {} MiB while it is made",
        .folder.display(), .needed_bytes >> 20
    )]
    Spool {
        /// Counted from 1.
        number: usize,
        /// What all layers so far take, once unpacked and once on the disk.
        needed_bytes: u64,
        /// Where.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The user that it wants to run as.
    #[error("it wants to run as {0:?}, and has no such user")]
    NoUser(String),
    /// The signal that shall end its program.
    #[error("its StopSignal {0:?} is no signal")]
    NoSignal(String),
    /// The disk.
    #[error("cannot write the disk {}", .path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// Why.
        source: Ext4Error,
    },
    /// What reads it, in a process of its own, failed or is gone.
    #[error("what reads it failed")]
    Reader(#[source] io::Error),
    /// A file of ours.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its place.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ContainerError {
    /// Whether the image is to blame, and not the host.
    pub fn is_bad_input(&self) -> bool {
        !matches!(
            self,
            ContainerError::Disk { .. }
                | ContainerError::Spool { .. }
                | ContainerError::Reader(_)
                | ContainerError::File(_)
                | ContainerError::Store(_)
        )
    }

    /// Who reads an image knows no path of the host: these are those of its work and its disk.
    fn at(mut self, work: &Path, new_disk: &Path) -> ContainerError {
        match &mut self {
            ContainerError::Spool { folder, .. } => work.clone_into(folder),
            ContainerError::Disk { path, .. } => new_disk.clone_into(path),
            _ => {}
        }
        self
    }
}

/// A part that contradicts what the others say.
fn damaged(part: &str, what: &str) -> ContainerError {
    ContainerError::Damaged {
        part: part.to_owned(),
        what: what.to_owned(),
    }
}

/// Whether a file starts as a tar archive does, compressed or not.
///
/// # Errors
/// If it cannot be read.
pub fn is_archive(path: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    File::open(path)?.take(512).read_to_end(&mut head)?;
    let is_tar = head.get(257..262) == Some(b"ustar");
    Ok(is_tar || head.starts_with(&digest::GZIP) || digest::is_zstd(&head))
}

/// The image at `path`, a folder or an archive, for who reads it; `wanted` is the name of one of several.
///
/// # Errors
/// If it cannot be opened.
pub(crate) fn input(path: &Path, wanted: Option<&str>) -> Result<Input, ContainerError> {
    let name = stem(path);
    let parts = if path.is_dir() {
        let folder = path.to_owned();
        Parts::Folder(Box::new(move |part| File::open(folder.join(part))))
    } else {
        let file = File::open(path).map_err(|source| ContainerError::Read {
            part: path.display().to_string(),
            source,
        })?;
        Parts::Archive(file)
    };
    Ok(Input {
        parts,
        name: if name.is_empty() {
            "container".to_owned()
        } else {
            name
        },
        wanted: wanted.map(str::to_owned),
    })
}

/// What an image is called among images: its content decides, and what we make of that (images of before lack groups,
/// volumes and signals).
///
/// # Errors
/// If that is no SHA-256.
pub(crate) fn folder_name(image: &dyn OpenedContainer) -> Result<String, ContainerError> {
    let digest = image.digest();
    let is_digest = digest.len() == 64
        && digest
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !is_digest {
        let what = io::Error::new(io::ErrorKind::InvalidData, "its digest is none");
        return Err(ContainerError::Reader(what));
    }
    Ok(format!("container-2-{}", &digest[..16]))
}

/// Has the disk of an image made in `work`, which is empty, and gives it its place.
///
/// # Errors
/// If a layer is damaged or hostile, or a disk is full.
pub(crate) fn make(
    image: Box<dyn OpenedContainer>,
    store: &Store,
    work: &Path,
    on_progress: OnProgress,
) -> Result<Image, ContainerError> {
    let folder_name = folder_name(&*image)?;
    let folder = work.join("image");
    create_folder(&folder)?;
    let new = |path: &Path| {
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        options.open(path).map_err(error("create", path))
    };
    let spool_path = work.join("spool");
    let disk_path = folder.join("disk.raw");
    let onto = Onto {
        spool: new(&spool_path)?,
        disk: new(&disk_path)?,
    };
    // Whatever happens, it leaves nothing behind.
    fs::remove_file(&spool_path).map_err(error("remove", &spool_path))?;
    let made = image
        .make(onto, on_progress)
        .map_err(|error| error.at(work, &disk_path))?;
    let command = made.command;
    let layers = made.layer_count;
    let what = format!(
        "container image, {layers} layers, {}",
        command.arguments.join(" ")
    );
    let name = (made.name.as_str(), what.as_str(), ImageKind::Container);
    let image = store.add(&folder, &folder_name, name, Some(&command))?;
    // What is left of the folder goes with the work.
    let _ = fs::remove_dir(&folder);
    Ok(image)
}

/// A container image of which everything but the layers has been read.
pub(crate) struct Opened {
    source: Source,
    manifest: Manifest,
    config: Config,
    /// The SHA-256 that stands for all of it.
    digest: String,
}

/// The SHA-256 that stands for an image: that of its configuration, which has the digests of the layers. Where it has none,
/// two images may have the same one, so that it is that of configuration and layers.
fn content(
    source: &Source,
    manifest: &Manifest,
    config: &Config,
) -> Result<String, ContainerError> {
    if !config.layers.is_empty() || manifest.layers.is_empty() {
        return Ok(config.digest.clone());
    }
    let mut digests = config.digest.clone();
    for (index, layer) in manifest.layers.iter().enumerate() {
        let digest = match &layer.digest {
            Some(digest) => Ok(digest.clone()),
            None => source
                .reader(&layer.path)
                .and_then(|blob| Digesting::new(blob).finish()),
        };
        digests += &digest.map_err(|source| ContainerError::Layer {
            number: index + 1,
            source,
        })?;
    }
    Ok(digest::sha256(digests.as_bytes()))
}

impl Opened {
    /// Reads what the image says about itself.
    ///
    /// # Errors
    /// If it is none, is damaged, or for other machines.
    fn new(input: Input) -> Result<Opened, ContainerError> {
        let source = Source::new(input.parts)?;
        let manifest = Manifest::read(&source, input.name, input.wanted.as_deref())?;
        let config = Config::read(&source, &manifest)?;
        let digest = content(&source, &manifest, &config)?;
        Ok(Opened {
            source,
            manifest,
            config,
            digest,
        })
    }

    /// Puts one layer over the others.
    fn layer(
        &self,
        index: usize,
        tree: &mut Tree,
        spool: &mut Spool,
    ) -> Result<(), ContainerError> {
        let layer = &self.manifest.layers[index];
        let failed = |source| ContainerError::Layer {
            number: index + 1,
            source,
        };
        let blob = self.source.reader(&layer.path).map_err(failed)?;
        spool.expect_layer(blob.left());
        let mut blob = Digesting::new(blob);
        {
            let plain = digest::decompress(&mut blob).map_err(failed)?;
            let mut plain = Digesting::new(plain.take(LAYER_BYTES_MAX));
            let unpacked = Unpacker::of_layer(tree, spool).unpack(&mut plain);
            let needed_bytes = 2 * spool.len();
            unpacked.map_err(|error| match error {
                UnpackError::Io(source) => failed(source),
                UnpackError::Spool(source) => ContainerError::Spool {
                    number: index + 1,
                    needed_bytes,
                    folder: PathBuf::new(),
                    source,
                },
                UnpackError::Tree(error) => failed(io::Error::other(error)),
            })?;
            // What follows the archive's end belongs to the layer's digest too.
            let digest = plain.finish().map_err(failed)?;
            self.check(index, self.config.layers.get(index), &digest)?;
        }
        let digest = blob.finish().map_err(failed)?;
        self.check(index, layer.digest.as_ref(), &digest)
    }

    fn check(
        &self,
        index: usize,
        expected: Option<&String>,
        found: &str,
    ) -> Result<(), ContainerError> {
        match expected {
            Some(expected) if expected != found => Err(ContainerError::Damaged {
                part: format!("layer {}", index + 1),
                what: format!("its SHA-256 is {found}, not {expected}"),
            }),
            _ => Ok(()),
        }
    }
}

impl OpenedContainer for Opened {
    fn digest(&self) -> &str {
        &self.digest
    }

    fn make(self: Box<Self>, onto: Onto, on_progress: OnProgress) -> Result<Made, ContainerError> {
        let mut spool = Spool::of(onto.spool);
        let mut tree = Tree::new();
        let count = self.manifest.layers.len();
        for index in 0..count {
            on_progress(Progress::Layers(Amount::new(index, count, Unit::Layers)));
            self.layer(index, &mut tree, &mut spool)?;
        }
        self.config.put_volumes(&mut tree);
        let command = self.config.command(&tree)?;
        on_progress(Progress::WritingDisk);
        let len_bytes = (2 * spool.len())
            .next_multiple_of(GROUP_BYTES)
            .max(DISK_BYTES_MIN);
        let options = Ext4Options {
            len_bytes,
            label: "mother-image",
            // The same image is the same disk, byte for byte: what is kept over it outlives a cleared cache.
            uuid: uuid_of(&self.digest),
            made: 0,
        };
        ext4::write(&tree, &options, &onto.disk).map_err(|source| ContainerError::Disk {
            path: PathBuf::new(),
            source,
        })?;
        Ok(Made {
            name: self.manifest.name,
            layer_count: count,
            command,
        })
    }
}
