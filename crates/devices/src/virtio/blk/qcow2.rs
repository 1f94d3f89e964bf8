//! A qcow2 image through `imago`, alone or over a base that the user named.
//!
//! The library follows no name that stands in an image: the base is handed to it opened, and a gate that denies
//! everything keeps it from opening more. Bytes pass through a buffer of ours, because the library borrows what it
//! reads into, and guest memory is never borrowed.
//!
//! Discards change which cluster belongs to what, so they are alone with the image; everything else shares it.

use std::fs::File;
use std::io;
use std::sync::RwLockReadGuard;

use host::lock::SharedLock;
use imago::file::File as ImageFile;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder};
use mem::{Buffer, GuestMemory, TransferError};
use thiserror::Error;

use super::error::ImageError;
use super::formats::{Head, HeadError, ImageFormat};
use super::raw::write_zeros;

/// Bytes that pass through our buffer at once.
const PIECE_BYTES: usize = 1 << 20;

/// Why an overlay could not be made.
#[derive(Debug, Error)]
pub enum OverlayError {
    /// The base cannot be one.
    #[error("cannot use the base")]
    Base(#[from] HeadError),
    /// The base is an overlay itself.
    #[error("the base is an overlay itself, over \"{0}\"")]
    DeepBase(String),
    /// The new disk would be smaller than its base.
    #[error("a disk of {size_bytes} bytes cannot lie over a base of {base_bytes}")]
    TooSmall {
        /// Asked for.
        size_bytes: u64,
        /// What the base has.
        base_bytes: u64,
    },
    /// The host or the library said no.
    #[error("cannot write the overlay")]
    Write(#[source] io::Error),
}

/// An opened qcow2 image.
#[derive(Debug)]
pub struct Qcow2Image {
    access: SharedLock<FormatAccess<ImageFile>>,
    /// The same file, to have the host write down what it took: the library would ask for its times too (fsync(2)).
    file: File,
    size_bytes: u64,
}

impl Qcow2Image {
    /// Opens `file`, over `base` if there is one.
    pub(super) fn open(
        file: File,
        base: Option<(File, ImageFormat)>,
        is_writable: bool,
    ) -> Result<Qcow2Image, ImageError> {
        let explain = |source| ImageError::Open {
            format: ImageFormat::Qcow2,
            source,
        };
        let base = base
            .map(|(file, format)| open_base(file, format))
            .transpose()?;
        let kept = file.try_clone().map_err(explain)?;
        let storage = ImageFile::try_from(file).map_err(explain)?;
        let builder = Qcow2::builder(storage).write(is_writable).backing(base);
        let access = builder
            .open(DenyImplicitOpenGate::default())
            .map(FormatAccess::new)
            .map_err(explain)?;
        let size_bytes = access.size();
        Ok(Qcow2Image {
            access: SharedLock::new(access),
            file: kept,
            size_bytes,
        })
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn shared(&self) -> RwLockReadGuard<'_, FormatAccess<ImageFile>> {
        self.access.read()
    }

    pub(super) fn read(
        &self,
        memory: &GuestMemory,
        buffers: &[Buffer],
        offset: u64,
    ) -> Result<(), TransferError> {
        let access = self.shared();
        in_pieces(buffers, |piece, at, bytes| {
            access.read(&mut *bytes, offset + at)?;
            let mut rest = &*bytes;
            for buffer in piece {
                let (now, later) = rest.split_at(buffer.len_bytes as usize);
                memory.write(buffer.gpa, now)?;
                rest = later;
            }
            Ok(())
        })
    }

    pub(super) fn write(
        &self,
        memory: &GuestMemory,
        buffers: &[Buffer],
        offset: u64,
    ) -> Result<(), TransferError> {
        let access = self.shared();
        in_pieces(buffers, |piece, at, bytes| {
            let mut rest = &mut *bytes;
            for buffer in piece {
                let (now, later) = rest.split_at_mut(buffer.len_bytes as usize);
                memory.read(buffer.gpa, now)?;
                rest = later;
            }
            Ok(access.write(&*bytes, offset + at)?)
        })
    }

    pub(super) fn read_bytes(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.shared().read(bytes, offset)
    }

    pub(super) fn write_bytes(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.shared().write(bytes, offset)
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        self.write_out()?;
        self.file.sync_data()
    }

    /// Tables too, which are held here until they are flushed.
    pub(super) fn write_out(&self) -> io::Result<()> {
        self.shared().flush()
    }

    pub(super) fn discard(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        let mut access = self.access.write();
        match access.discard_to_any(offset, len_bytes) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            done => done,
        }
    }

    pub(super) fn write_zeroes(
        &self,
        offset: u64,
        len_bytes: u64,
        may_unmap: bool,
    ) -> io::Result<()> {
        let done = if may_unmap {
            let mut access = self.access.write();
            access.discard_to_zero(offset, len_bytes)
        } else {
            self.shared().write_zeroes(offset, len_bytes)
        };
        match done {
            // Images of version 2 have no clusters of zeros.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                self.write_zeros_out(offset, len_bytes)
            }
            done => done,
        }
    }

    fn write_zeros_out(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        write_zeros(offset, len_bytes, |zeros, at| self.write_bytes(zeros, at))
    }
}

/// Hands out `buffers` in pieces that fit into one buffer of ours: the piece, how many bytes came before, and room
/// for exactly its bytes.
fn in_pieces(
    buffers: &[Buffer],
    mut act: impl FnMut(&[Buffer], u64, &mut [u8]) -> Result<(), TransferError>,
) -> Result<(), TransferError> {
    let total: u64 = buffers.iter().map(|buffer| buffer.len_bytes).sum();
    let mut bytes = vec![0; PIECE_BYTES.min(total as usize)];
    let mut piece = Vec::new();
    let mut filled = 0;
    let mut before = 0;
    for buffer in buffers {
        let mut gpa = buffer.gpa;
        let mut left = buffer.len_bytes;
        while left > 0 {
            let now = left.min((bytes.len() - filled) as u64);
            piece.push(Buffer {
                gpa,
                len_bytes: now,
            });
            filled += now as usize;
            // Within the slot, or the act will find that this is not memory.
            gpa = x86::Gpa(gpa.0.saturating_add(now));
            left -= now;
            if filled == bytes.len() {
                act(&piece, before, &mut bytes)?;
                before += filled as u64;
                filled = 0;
                piece.clear();
            }
        }
    }
    if filled > 0 {
        act(&piece, before, &mut bytes[..filled])?;
    }
    Ok(())
}

fn open_base(file: File, format: ImageFormat) -> Result<FormatAccess<ImageFile>, ImageError> {
    if let Some(name) = Head::read(&file, Some(format))?.backing {
        return Err(ImageError::DeepBase(name));
    }
    let explain = |source| ImageError::Open { format, source };
    let storage = ImageFile::try_from(file).map_err(explain)?;
    let gate = DenyImplicitOpenGate::default();
    match format {
        ImageFormat::Raw => Raw::builder(storage).open(gate).map(FormatAccess::new),
        ImageFormat::Qcow2 => Qcow2::<ImageFile>::builder(storage)
            .backing(None)
            .open(gate)
            .map(FormatAccess::new),
    }
    .map_err(explain)
}

/// Makes an empty qcow2 overlay in `file` (new, empty, readable and writable) for a disk that starts as `base` is.
///
/// `base_name` and the base's format are written into the header for other programs; Mother herself opens an overlay
/// over the base that she is given and never over what a header says. Without `size_bytes` the disk is as large as
/// its base. A base that ends inside a sector is read as if zeros followed.
///
/// # Errors
/// [`OverlayError`]; the file is useless then.
pub fn create_overlay(
    file: File,
    base: &File,
    base_name: &str,
    base_format: ImageFormat,
    size_bytes: Option<u64>,
) -> Result<(), OverlayError> {
    let head = Head::read(base, Some(base_format))?;
    if let Some(name) = head.backing {
        return Err(OverlayError::DeepBase(name));
    }
    let base_bytes = head.size_bytes.next_multiple_of(super::SECTOR_BYTES);
    let size_bytes = size_bytes
        .unwrap_or(base_bytes)
        .next_multiple_of(super::SECTOR_BYTES);
    if size_bytes < base_bytes {
        return Err(OverlayError::TooSmall {
            size_bytes,
            base_bytes,
        });
    }
    let storage = ImageFile::try_from(file).map_err(OverlayError::Write)?;
    let builder: imago::qcow2::Qcow2CreateBuilder<ImageFile> = Qcow2::create_builder(storage);
    builder
        .size(size_bytes)
        .backing(base_name.to_owned(), base_format.to_string())
        .create()
        .map_err(OverlayError::Write)
}
