//! Multiboot version 1 (Multiboot Specification 0.6.96): 32-bit protected mode, EAX with the magic, EBX pointing
//! at the information structure.

use super::elf::Elf;
use super::image::{Fields, Image, ImageError};
use super::{Inspected, Protocol};

/// The header lies in the first 8 KiB (section 3.1).
const SEARCH_BYTES: u64 = 8192;
/// Section 3.1.2.
const MAGIC: u32 = 0x1bad_b002;
/// Modules on page boundaries (always so here), memory information (always given), video mode (there is none, and
/// kernels that ask do without: the flag in the information structure stays clear).
const FLAGS_KNOWN: u32 = 1 << 0 | 1 << 1 | 1 << 2;
/// Load addresses stand in the header itself (the "a.out kludge").
const FLAG_ADDRESSES: u32 = 1 << 16;
/// Flags 0 to 15 must be understood or the kernel refused; the rest may be ignored.
const FLAGS_REQUIRED: u32 = 0xffff;

/// A multiboot header and where to find the kernel by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    /// The address fields, if the flags say that they hold.
    pub(super) addresses: Option<Addresses>,
}

/// Where the header says that the file goes (section 3.1.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Addresses {
    /// Where in the file the loaded part starts.
    pub(super) offset: u64,
    /// Bytes loaded from the file.
    pub(super) file_bytes: u64,
    /// Where they go.
    pub(super) load: u64,
    /// First address behind the kernel and its zeros.
    pub(super) end: u64,
    pub(super) entry: u32,
}

impl Header {
    /// The header, or `None` if the file has none.
    pub(super) fn find(image: &Image) -> Result<Option<Header>, ImageError> {
        let head = image.head(0, SEARCH_BYTES)?;
        let fields = Fields(&head);
        let is_header = |&at: &usize| {
            fields.u32(at) == MAGIC
                && MAGIC.wrapping_add(fields.u32(at + 4)).wrapping_add(fields.u32(at + 8)) == 0
        };
        let Some(at) = (0..head.len().saturating_sub(11)).step_by(4).find(is_header) else { return Ok(None) };
        let flags = fields.u32(at + 4);
        let unknown = flags & FLAGS_REQUIRED & !FLAGS_KNOWN;
        if unknown != 0 {
            return Err(ImageError::MultibootFlags { flags: unknown });
        }
        if flags & FLAG_ADDRESSES == 0 {
            return Ok(Some(Header { addresses: None }));
        }
        image.check("multiboot header", at as u64, 32)?;
        let addresses =
            addresses(image, at as u64, &Fields(&image.read("multiboot header", at as u64, 32)?))?;
        Ok(Some(Header { addresses: Some(addresses) }))
    }
}

fn addresses(image: &Image, at: u64, fields: &Fields<'_>) -> Result<Addresses, ImageError> {
    let word = |at| u64::from(fields.u32(at));
    let (header, load, load_end, bss_end) = (word(12), word(16), word(20), word(24));
    let nonsense = || ImageError::Nonsense { what: "multiboot header (load addresses)" };
    let before_header = match header.checked_sub(load) {
        Some(before) if before <= at => before,
        _ => return Err(nonsense()),
    };
    let offset = at - before_header;
    // Zero means up to the end of the file.
    let file_bytes = if load_end == 0 {
        image.len_bytes() - offset
    } else {
        load_end.checked_sub(load).ok_or_else(nonsense)?
    };
    image.check("multiboot kernel", offset, file_bytes)?;
    let loaded_end = load + file_bytes;
    let end = if bss_end == 0 { loaded_end } else { bss_end.max(loaded_end) };
    Ok(Addresses { offset, file_bytes, load, end, entry: fields.u32(28) })
}

/// The ELF executable behind a header without addresses.
pub(super) fn elf(image: &Image) -> Result<Elf, ImageError> {
    Elf::find(image)?
        .ok_or(ImageError::Nonsense { what: "multiboot header (no addresses, and the file is no ELF)" })
}

pub(super) fn inspected(image: &Image, header: &Header) -> Result<Inspected, ImageError> {
    let kernel_end = match header.addresses {
        Some(addresses) => addresses.end,
        None => elf(image)?.end(),
    };
    Ok(Inspected { protocol: Protocol::Multiboot, cmdline_bytes: None, kernel_end, initrd_last: None })
}
