//! Linux bzImage through its 64-bit entry (Linux Documentation/arch/x86/boot.rst).
//!
//! The file is a real-mode part that we never run, whose header tells about the rest, and the protected-mode part
//! that decompresses itself. Offsets below are those of the header's description, from the start of the file.

use super::image::{Fields, Image, ImageError};
use super::{Inspected, Protocol};

/// Real-mode head that is read at once: the header ends below.
const HEAD_BYTES: u64 = 0x280;
/// Where the header begins.
pub(super) const HEADER: usize = 0x1f1;
/// "HdrS".
const MAGIC: u32 = 0x5372_6448;
/// Protocol 2.12 brought `xloadflags`.
const VERSION_64: u16 = 0x20c;
/// The kernel has a 64-bit entry at 0x200 of the protected-mode part.
const XLF_KERNEL_64: u16 = 1 << 0;
/// The protected-mode part belongs at 1 MiB.
const LOADED_HIGH: u8 = 1 << 0;

/// The header of a bzImage that can be started.
#[derive(Clone, Debug)]
pub(super) struct Header {
    /// The header's own bytes from 0x1f1 to its end, for the zero page.
    pub(super) bytes: Vec<u8>,
    /// Where the protected-mode part starts in the file.
    pub(super) offset: u64,
    /// Its length.
    pub(super) len_bytes: u64,
    cmdline_bytes: u32,
    initrd_addr_max: u32,
    pref_address: u64,
    init_size: u32,
}

impl Header {
    /// The header, or `None` if the file has none.
    pub(super) fn find(image: &Image) -> Result<Option<Header>, ImageError> {
        let head = image.head(0, HEAD_BYTES)?;
        if head.len() < 0x206 || Fields(&head).u32(0x202) != MAGIC {
            return Ok(None);
        }
        image.check("setup header", 0, HEAD_BYTES)?;
        let fields = Fields(&head);
        let version = fields.u16(0x206);
        if version < VERSION_64 {
            return Err(ImageError::OldProtocol { version });
        }
        if fields.u16(0x236) & XLF_KERNEL_64 == 0 {
            return Err(ImageError::Only32Bit);
        }
        if fields.u8(0x211) & LOADED_HIGH == 0 {
            return Err(ImageError::Nonsense { what: "setup header (64-bit entry, but not loaded high)" });
        }
        let setup_sectors = match fields.u8(HEADER) {
            0 => 4,
            count => u64::from(count),
        };
        let offset = (setup_sectors + 1) * 512;
        let len_bytes = u64::from(fields.u32(0x1f4)) * 16;
        if len_bytes <= 0x200 {
            return Err(ImageError::Nonsense { what: "setup header (no kernel behind it)" });
        }
        check_length(image, offset, len_bytes)?;
        // The byte at 0x201 is the jump over the header, so it says where the header ends.
        let end = (0x202 + usize::from(fields.u8(0x201))).min(HEAD_BYTES as usize);
        Ok(Some(Header {
            bytes: head[HEADER..end].to_vec(),
            offset,
            len_bytes: len_bytes.min(image.len_bytes() - offset),
            cmdline_bytes: fields.u32(0x238),
            initrd_addr_max: fields.u32(0x22c),
            pref_address: fields.u64(0x258),
            init_size: fields.u32(0x260),
        }))
    }

    pub(super) fn inspected(&self) -> Inspected {
        Inspected {
            protocol: Protocol::Linux64,
            cmdline_bytes: Some(self.cmdline_bytes as usize),
            kernel_end: self.pref_address.saturating_add(u64::from(self.init_size)),
            initrd_last: Some(u64::from(self.initrd_addr_max)),
        }
    }
}

/// `syssize` counts paragraphs, so a whole file may be up to 15 bytes shorter than it says.
fn check_length(image: &Image, offset: u64, len_bytes: u64) -> Result<(), ImageError> {
    match image.check("protected-mode kernel", offset, len_bytes) {
        Err(ImageError::Truncated { needed, len_bytes, .. }) if needed - len_bytes < 16 => Ok(()),
        other => other,
    }
}
