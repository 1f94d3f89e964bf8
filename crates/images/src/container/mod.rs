//! Container images: an OCI image layout folder (image-spec, image-layout.md), or an archive of one, what
//! `docker save` writes, or a folder that skopeo's `dir:` wrote.
//!
//! Layers go through memory onto a disk image; nothing is unpacked to the host's file system. Everything that names
//! itself by a digest is checked against it.

mod choice;
mod config;
mod digest;
mod manifest;
mod source;
mod users;

#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::debian_image::{now, uuid};
use crate::ext4::{self, Ext4Error, Ext4Options, GROUP_BYTES};
use crate::file::{FileError, create_folder, error};
use crate::progress::{Amount, OnProgress, Progress, Unit};
use crate::store::{Image, ImageKind, Store, StoreError};
use crate::tree::{Spool, Tree, UnpackError, Unpacker};
use config::Config;
use digest::Digesting;
use manifest::Manifest;
use source::Source;

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
                | ContainerError::File(_)
                | ContainerError::Store(_)
        )
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

/// A container image of which everything but the layers has been read.
pub(crate) struct Opened {
    source: Source,
    manifest: Manifest,
    config: Config,
    /// The SHA-256 that stands for all of it.
    digest: String,
}

/// Reads what the image says about itself; `wanted` is the name of one of several.
///
/// # Errors
/// If it is none, is damaged, or for other machines.
pub(crate) fn open(path: &Path, wanted: Option<&str>) -> Result<Opened, ContainerError> {
    let source = Source::open(path)?;
    let manifest = Manifest::read(&source, path, wanted)?;
    let config = Config::read(&source, &manifest)?;
    let digest = content(&source, &manifest, &config)?;
    Ok(Opened {
        source,
        manifest,
        config,
        digest,
    })
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
    /// What it is called among images: its content decides, and what we make of that (images of before lack groups,
    /// volumes and signals).
    pub(crate) fn folder_name(&self) -> String {
        format!("container-2-{}", &self.digest[..16])
    }

    /// Makes the disk in `work`, which is empty, and gives it its place.
    ///
    /// # Errors
    /// If a layer is damaged or hostile, or a disk is full.
    pub(crate) fn make(
        self,
        store: &Store,
        work: &Path,
        on_progress: OnProgress,
    ) -> Result<Image, ContainerError> {
        let folder = work.join("image");
        create_folder(&folder)?;
        let spool_path = work.join("spool");
        let mut spool = Spool::new(&spool_path).map_err(error("create", &spool_path))?;
        let mut tree = Tree::new();
        let count = self.manifest.layers.len();
        for index in 0..count {
            on_progress(Progress::Layers(Amount::new(index, count, Unit::Layers)));
            self.layer(index, (&mut tree, &mut spool), work)?;
        }
        self.config.put_volumes(&mut tree);
        let command = self.config.command(&tree)?;
        on_progress(Progress::WritingDisk);
        let disk = folder.join("disk.raw");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&disk);
        let file = file.map_err(error("create", &disk))?;
        let len_bytes = (2 * spool.len())
            .next_multiple_of(GROUP_BYTES)
            .max(DISK_BYTES_MIN);
        let options = Ext4Options {
            len_bytes,
            label: "mother-image",
            uuid: uuid(),
            made: now(),
        };
        ext4::write(&tree, &options, &file)
            .map_err(|source| ContainerError::Disk { path: disk, source })?;
        let what = format!(
            "container image, {count} layers, {}",
            command.arguments.join(" ")
        );
        let name = (
            self.manifest.name.as_str(),
            what.as_str(),
            ImageKind::Container,
        );
        let image = store.add(&folder, &self.folder_name(), name, Some(&command))?;
        // The spool has no name any more; what is left of the folder goes with the work.
        let _ = fs::remove_dir(&folder);
        Ok(image)
    }

    /// Puts one layer over the others.
    fn layer(
        &self,
        index: usize,
        (tree, spool): (&mut Tree, &mut Spool),
        work: &Path,
    ) -> Result<(), ContainerError> {
        let layer = &self.manifest.layers[index];
        let failed = |source| ContainerError::Layer {
            number: index + 1,
            source,
        };
        let blob = self.source.reader(&layer.path).map_err(failed)?;
        spool.expect_layer(blob.limit());
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
                    folder: work.to_owned(),
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
