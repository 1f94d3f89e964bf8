//! ELF kernels with a PVH note: a 32-bit entry without paging, EBX pointing at `hvm_start_info`
//! (Xen docs/misc/pvh.pandoc and xen/include/public/arch-x86/hvm/start_info.h).

use super::elf::Elf;
use super::image::{Fields, Image, ImageError};
use super::{Inspected, Protocol};

/// XEN_ELFNOTE_PHYS32_ENTRY (xen/include/public/elfnote.h).
const PHYS32_ENTRY: u32 = 18;

/// The physical address of the 32-bit entry.
pub(super) fn entry(image: &Image, elf: &Elf) -> Result<u32, ImageError> {
    let note = elf.note(image, b"Xen\0", PHYS32_ENTRY)?.ok_or(ImageError::NoPvhNote)?;
    // Linux writes four bytes or, as a 64-bit kernel, eight.
    let entry = match note.len() {
        4 => u64::from(Fields(&note).u32(0)),
        8 => Fields(&note).u64(0),
        _ => return Err(ImageError::Nonsense { what: "PVH note" }),
    };
    let inside =
        elf.loads().any(|segment| entry >= segment.gpa && entry - segment.gpa < segment.memory_bytes);
    match u32::try_from(entry) {
        Ok(entry) if inside => Ok(entry),
        _ => Err(ImageError::Nonsense { what: "PVH note (entry outside the kernel)" }),
    }
}

pub(super) fn inspected(image: &Image, elf: &Elf) -> Result<Inspected, ImageError> {
    entry(image, elf)?;
    Ok(Inspected { protocol: Protocol::Pvh, cmdline_bytes: None, kernel_end: elf.end(), initrd_last: None })
}
