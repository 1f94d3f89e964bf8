//! An opened disk image of either format, as requests use it. Offsets and lengths have been checked against its size.

use std::fs::File;
use std::io;

use mem::{Buffer, GuestMemory, TransferError};

use super::error::ImageError;
use super::formats::{Head, ImageFormat};
use super::qcow2::Qcow2Image;
use super::raw::RawImage;

/// An opened image. All of it may be used by several threads at once.
#[derive(Debug)]
pub enum Image {
    /// Byte for byte.
    Raw(RawImage),
    /// Clusters that are there when written.
    Qcow2(Box<Qcow2Image>),
}

impl Image {
    /// An image in `file`, over `base` if it is given. What the image itself says of other files is not followed:
    /// the base is the file that is handed in, and it is only read.
    ///
    /// # Errors
    /// [`ImageError`], also for an overlay without its base.
    pub fn open(
        file: File,
        format: ImageFormat,
        base: Option<(File, ImageFormat)>,
        is_writable: bool,
    ) -> Result<Image, ImageError> {
        let head = Head::read(&file, Some(format))?;
        match (format, base) {
            (ImageFormat::Raw, None) => Ok(Image::Raw(RawImage::new(file, head.size_bytes))),
            (ImageFormat::Raw, Some(_)) => Err(ImageError::TakesNoBase(format)),
            (ImageFormat::Qcow2, base) => {
                if let (None, Some(name)) = (&base, head.backing) {
                    return Err(ImageError::NeedsBase(name));
                }
                Qcow2Image::open(file, base, is_writable).map(|image| Image::Qcow2(Box::new(image)))
            }
        }
    }

    /// Looks whether an image would open, as far as that can be said without its base: nothing is written.
    ///
    /// # Errors
    /// As [`Image::open`] has them.
    pub fn probe(file: File, format: ImageFormat) -> Result<(), ImageError> {
        match format {
            ImageFormat::Raw => Ok(()),
            ImageFormat::Qcow2 => Qcow2Image::open(file, None, false).map(drop),
        }
    }

    /// Size of the disk.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Image::Raw(image) => image.size_bytes(),
            Image::Qcow2(image) => image.size_bytes(),
        }
    }

    /// Fills `buffers` with the disk's bytes at `offset`.
    pub(super) fn read(
        &self,
        memory: &GuestMemory,
        buffers: &[Buffer],
        offset: u64,
    ) -> Result<(), TransferError> {
        match self {
            Image::Raw(image) => image.read(memory, buffers, offset),
            Image::Qcow2(image) => image.read(memory, buffers, offset),
        }
    }

    /// Writes the bytes of `buffers` to the disk at `offset`.
    pub(super) fn write(
        &self,
        memory: &GuestMemory,
        buffers: &[Buffer],
        offset: u64,
    ) -> Result<(), TransferError> {
        match self {
            Image::Raw(image) => image.write(memory, buffers, offset),
            Image::Qcow2(image) => image.write(memory, buffers, offset),
        }
    }

    /// Fills `bytes` with the disk's own at `offset`, for who looks at a disk without a guest.
    ///
    /// # Errors
    /// What the host or the format's library says; [`io::ErrorKind::UnexpectedEof`] behind the disk's end.
    pub fn read_bytes(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.size_bytes()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match self {
            Image::Raw(image) => image.read_bytes(bytes, offset),
            Image::Qcow2(image) => image.read_bytes(bytes, offset),
        }
    }

    /// Writes bytes of ours.
    pub(super) fn write_bytes(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self {
            Image::Raw(image) => image.write_bytes(bytes, offset),
            Image::Qcow2(image) => image.write_bytes(bytes, offset),
        }
    }

    /// Comes back when all that was written survives the host's power cut.
    pub(super) fn flush(&self) -> io::Result<()> {
        match self {
            Image::Raw(image) => image.flush(),
            Image::Qcow2(image) => image.flush(),
        }
    }

    /// Comes back when all that was written is in the file, for whoever opens that.
    pub(super) fn write_out(&self) -> io::Result<()> {
        match self {
            // Nothing of it is held here.
            Image::Raw(_) => Ok(()),
            Image::Qcow2(image) => image.write_out(),
        }
    }

    /// The guest does not need these bytes any more. Advice: a host that cannot give them back keeps them.
    pub(super) fn discard(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        match self {
            Image::Raw(image) => image.discard(offset, len_bytes),
            Image::Qcow2(image) => image.discard(offset, len_bytes),
        }
    }

    /// These bytes read as zeros from now on; with `may_unmap` they need not take space.
    pub(super) fn write_zeroes(
        &self,
        offset: u64,
        len_bytes: u64,
        may_unmap: bool,
    ) -> io::Result<()> {
        match self {
            Image::Raw(image) => image.write_zeroes(offset, len_bytes, may_unmap),
            Image::Qcow2(image) => image.write_zeroes(offset, len_bytes, may_unmap),
        }
    }
}
