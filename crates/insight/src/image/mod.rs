//! A kernel file, laid out as the kernel is linked: what a guest's kernel was before its first instruction.
//!
//! A bzImage is a setup header, a decompressor and, behind `payload_offset`, the compressed kernel (Linux
//! Documentation/arch/x86/boot.rst): an ELF file, and behind that the places of addresses that change when the kernel is
//! moved. A kernel may also be given as the ELF file itself. [`unpack`] takes the payload apart, [`elf`] finds the
//! segments, [`relocations`] the places.
//!
//! The file is the user's and the tables in it may be anybody's: every length is bounded, every place checked, and what
//! does not fit is an [`ImageError`].

mod code;
mod elf;
mod loaded;
mod relocations;
#[cfg(test)]
pub(crate) mod tests;
mod unpack;

use std::ops::Range;

use thiserror::Error;
use x86::Gva;

use crate::kallsyms::Image;

pub(crate) use code::{Code, Content};
use elf::Segments;
pub use loaded::Loaded;
use relocations::Relocations;

/// Largest file that is read.
pub const MAX_FILE: u64 = 1 << 30;
/// Largest kernel, unpacked; Debian's have 60 MiB.
const MAX_KERNEL: usize = 256 << 20;

/// Why nothing can be learned from a kernel file.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ImageError {
    /// It could not be read.
    #[error("the kernel file cannot be read: {0}")]
    Unreadable(String),
    /// It is another file than the one that was loaded.
    #[error("the kernel file has been changed since it was loaded")]
    Changed,
    /// It has no Linux kernel in it that could be taken out.
    #[error("the kernel file {0}")]
    Unknown(String),
}

impl ImageError {
    fn unknown(what: impl Into<String>) -> ImageError {
        ImageError::Unknown(what.into())
    }
}

/// A kernel as it is linked.
#[derive(Debug, PartialEq, Eq)]
pub struct KernelImage {
    /// Where the first byte is linked.
    start: Gva,
    /// From the lowest to the highest byte that the file has; what it leaves out is zero.
    bytes: Vec<u8>,
    /// Places of addresses in it; none if the kernel cannot be moved, or does not say.
    relocations: Option<Relocations>,
    /// Where the bytes come from.
    segments: Segments,
}

impl KernelImage {
    /// Takes the kernel out of the bytes of a file.
    ///
    /// # Errors
    /// [`ImageError::Unknown`].
    pub fn decode(file: &[u8]) -> Result<KernelImage, ImageError> {
        let unpacked = match unpack::payload(file)? {
            Some(payload) => Some(unpack::unpack(payload)?),
            None => None,
        };
        let kernel = unpacked.as_deref().unwrap_or(file);
        let segments = elf::segments(kernel)?;
        let relocations = unpacked
            .as_deref()
            .and_then(|kernel| Relocations::behind(kernel, segments.end));
        let (start, bytes) = segments.laid_out(kernel)?;
        Ok(KernelImage {
            start,
            bytes,
            relocations,
            segments,
        })
    }

    /// For decoders: bytes with their addresses.
    pub fn as_image(&self) -> Image<'_> {
        Image {
            bytes: &self.bytes,
            start: Some(self.start),
        }
    }

    /// Bytes at linked addresses, as they are when the kernel has been moved up by `slide`; `None` if the file has none
    /// there, or the kernel cannot be moved.
    pub fn moved(&self, range: Range<u64>, slide: u64) -> Option<Vec<u8>> {
        let at = usize::try_from(range.start.checked_sub(self.start.0)?).ok()?;
        let len = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
        let mut bytes = self.bytes.get(at..at.checked_add(len)?)?.to_vec();
        if slide != 0 {
            self.relocations
                .as_ref()?
                .apply(&mut bytes, range.start, slide);
        }
        Some(bytes)
    }
}
