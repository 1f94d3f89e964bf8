//! Segments of a kernel's ELF file (System V ABI, chapter 5; `vmlinux.lds.S` of x86-64).
//!
//! Segments are placed by their physical address: what is linked at virtual address 0 and up, the variables of each CPU of
//! kernels before 6.15, lies in the image all the same, and only its physical address says where.

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::Elf;
use goblin::elf::header::EM_X86_64;
use goblin::elf::program_header::{PT_LOAD, ProgramHeader};

use x86::Gva;

use super::{ImageError, MAX_KERNEL};
use crate::space::{IMAGE_MAX, IMAGE_VA};

/// Segments that a kernel has, at most: a handful.
const MAX_SEGMENTS: u16 = 64;

/// What is loaded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Segments {
    /// Physical address, position in the file, and bytes there.
    loads: Vec<(u64, usize, usize)>,
    /// Where the ELF file ends: what lies behind belongs to whoever put it there.
    pub end: usize,
}

/// Finds the segments.
pub(super) fn segments(file: &[u8]) -> Result<Segments, ImageError> {
    let broken = |what: &str| ImageError::unknown(format!("has a broken ELF file in it ({what})"));
    if !file.starts_with(goblin::elf::header::ELFMAG) {
        return Err(ImageError::unknown(
            "is neither a bzImage nor an ELF file, or its kernel is no ELF file",
        ));
    }
    let header = Elf::parse_header(file).map_err(|error| broken(&error.to_string()))?;
    if header.e_machine != EM_X86_64 || header.e_phnum > MAX_SEGMENTS {
        return Err(broken("not for x86-64"));
    }
    let place = |number: u64| usize::try_from(number).map_err(|_| broken("an offset"));
    let context = Ctx::new(Container::Big, Endian::Little);
    let count = usize::from(header.e_phnum);
    let headers = ProgramHeader::parse(file, place(header.e_phoff)?, count, context)
        .map_err(|error| broken(&error.to_string()))?;
    let sections = u64::from(header.e_shentsize) * u64::from(header.e_shnum);
    let mut end = header.e_shoff.saturating_add(sections);
    let mut loads = Vec::new();
    for segment in headers {
        let segment_end = segment.p_offset.saturating_add(segment.p_filesz);
        if segment_end > file.len() as u64 {
            return Err(broken("a segment ends behind the file"));
        }
        end = end.max(segment_end);
        if segment.p_type == PT_LOAD && segment.p_filesz > 0 {
            let offset = place(segment.p_offset)?;
            let len = place(segment.p_filesz)?;
            loads.push((segment.p_paddr, offset, len));
        }
    }
    Ok(Segments {
        loads,
        end: place(end)?,
    })
}

impl Segments {
    /// Where the segment ends that has the byte linked at `address`; none if no segment has it. What lies between segments is
    /// not the file's, and in memory it is whatever was there before.
    pub(super) fn end_of(&self, address: u64) -> Option<u64> {
        let physical = address.checked_sub(IMAGE_VA)?;
        let segment = self
            .loads
            .iter()
            .find(|(start, _, len)| physical.wrapping_sub(*start) < *len as u64)?;
        IMAGE_VA.checked_add(segment.0 + segment.2 as u64)
    }

    /// The kernel as it lies in memory, and where its first byte is linked.
    pub(super) fn laid_out(&self, file: &[u8]) -> Result<(Gva, Vec<u8>), ImageError> {
        let nowhere = || ImageError::unknown("has no kernel that is linked where Linux is");
        let low = self.loads.iter().map(|(address, ..)| *address).min();
        let low = low.filter(|low| *low < IMAGE_MAX).ok_or_else(nowhere)?;
        let mut bytes = Vec::new();
        for (address, offset, len) in &self.loads {
            let at = usize::try_from(address - low).map_err(|_| nowhere())?;
            let end = at.checked_add(*len).filter(|end| *end <= MAX_KERNEL);
            let end = end.ok_or_else(nowhere)?;
            let from = file.get(*offset..*offset + len).ok_or_else(nowhere)?;
            bytes.resize(bytes.len().max(end), 0);
            bytes[at..end].copy_from_slice(from);
        }
        Ok((Gva(IMAGE_VA + low), bytes))
    }
}
