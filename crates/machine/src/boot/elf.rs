//! Just enough of ELF to load a kernel (System V ABI, chapters 4 and 5), 32 and 64 bits.

use mem::GuestMemory;
use x86::Gpa;

use super::image::{Fields, Image, ImageError};
use super::memory_map::{Range, is_ram};

const MAGIC: &[u8] = b"\x7fELF";
/// EI_CLASS.
const CLASS_32: u8 = 1;
const CLASS_64: u8 = 2;
/// e_machine.
const MACHINE_386: u16 = 3;
const MACHINE_X86_64: u16 = 62;
/// p_type.
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Program headers that a kernel may have; Linux has five.
const SEGMENTS_MAX: u64 = 64;
/// Longest note segment that is read.
const NOTES_BYTES_MAX: u64 = 1 << 20;

/// A part of the file that goes to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Segment {
    pub(super) kind: u32,
    pub(super) offset: u64,
    pub(super) file_bytes: u64,
    /// Virtual address.
    gva: u64,
    /// Physical address.
    pub(super) gpa: u64,
    /// In memory; what the file does not fill is zeros.
    pub(super) memory_bytes: u64,
    align: u64,
}

/// A parsed executable.
#[derive(Clone, Debug)]
pub(super) struct Elf {
    /// Entry address as the header has it: virtual.
    pub(super) entry: u64,
    pub(super) segments: Vec<Segment>,
}

impl Elf {
    /// The executable, or `None` if the file is no ELF at all.
    pub(super) fn find(image: &Image) -> Result<Option<Elf>, ImageError> {
        let head = image.head(0, 64)?;
        if !head.starts_with(MAGIC) {
            return Ok(None);
        }
        image.check("ELF header", 0, 52)?;
        let fields = Fields(&head);
        let class = fields.u8(4);
        let machine = fields.u16(18);
        let is_64 = match (class, machine) {
            (CLASS_64, MACHINE_X86_64) => true,
            (CLASS_32, MACHINE_386 | MACHINE_X86_64) => false,
            _ => return Err(ImageError::ForeignElf { class, machine }),
        };
        if is_64 {
            image.check("ELF header", 0, 64)?;
        }
        let (entry, table, size_at, expected) = if is_64 {
            (fields.u64(24), fields.u64(32), 54, 56)
        } else {
            (fields.u32(24).into(), fields.u32(28).into(), 42, 32)
        };
        let size = fields.u16(size_at);
        let count = u64::from(fields.u16(size_at + 2));
        if size != expected || count == 0 || count > SEGMENTS_MAX {
            return Err(ImageError::Nonsense {
                what: "ELF header (program header table)",
            });
        }
        let bytes = image.read("program header table", table, count * u64::from(size))?;
        let segments = bytes
            .chunks_exact(usize::from(size))
            .map(|entry| segment(&Fields(entry), is_64))
            .collect();
        let elf = Elf { entry, segments };
        elf.check(image)?;
        Ok(Some(elf))
    }

    fn check(&self, image: &Image) -> Result<(), ImageError> {
        for segment in &self.segments {
            image.check("segment", segment.offset, segment.file_bytes)?;
            let end = segment.gpa.checked_add(segment.memory_bytes);
            if segment.kind == PT_LOAD
                && (segment.file_bytes > segment.memory_bytes || end.is_none())
            {
                return Err(ImageError::Nonsense {
                    what: "program header table (segment sizes)",
                });
            }
        }
        Ok(())
    }

    /// The segments that go to memory.
    pub(super) fn loads(&self) -> impl Iterator<Item = &Segment> {
        self.segments
            .iter()
            .filter(|segment| segment.kind == PT_LOAD && segment.memory_bytes > 0)
    }

    /// Where the entry lies physically: a kernel that starts without paging may be linked elsewhere than it is loaded.
    /// An entry that lies in no segment's virtual addresses is taken for a physical one.
    pub(super) fn physical_entry(&self) -> u64 {
        let holds = |segment: &&Segment| {
            self.entry
                .checked_sub(segment.gva)
                .is_some_and(|distance| distance < segment.memory_bytes)
        };
        self.loads().find(holds).map_or(self.entry, |segment| {
            segment.gpa + (self.entry - segment.gva)
        })
    }

    /// First address behind the loaded segments.
    pub(super) fn end(&self) -> u64 {
        self.loads()
            .map(|segment| segment.gpa + segment.memory_bytes)
            .max()
            .unwrap_or(0)
    }

    /// Copies the segments to memory; what the file does not fill is zeros there already.
    pub(super) fn load(
        &self,
        image: &Image,
        memory: &GuestMemory,
        map: &[Range],
    ) -> Result<(), ImageError> {
        for segment in self.loads() {
            let gpa = Gpa(segment.gpa);
            if !is_ram(map, segment.gpa, segment.memory_bytes) {
                return Err(ImageError::NoMemory {
                    what: "segment",
                    gpa,
                    len_bytes: segment.memory_bytes,
                });
            }
            image.load(memory, "segment", segment.offset, gpa, segment.file_bytes)?;
        }
        Ok(())
    }

    /// Contents of the note with this owner and type.
    pub(super) fn note(
        &self,
        image: &Image,
        owner: &[u8],
        kind: u32,
    ) -> Result<Option<Vec<u8>>, ImageError> {
        for segment in self
            .segments
            .iter()
            .filter(|segment| segment.kind == PT_NOTE)
        {
            let bytes = image.head(segment.offset, segment.file_bytes.min(NOTES_BYTES_MAX))?;
            let align = if segment.align == 8 { 8 } else { 4 };
            if let Some(found) = find_note(&bytes, align, owner, kind) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

fn segment(fields: &Fields<'_>, is_64: bool) -> Segment {
    if is_64 {
        let offset = fields.u64(8);
        let gva = fields.u64(16);
        let gpa = fields.u64(24);
        let file_bytes = fields.u64(32);
        let memory_bytes = fields.u64(40);
        let align = fields.u64(48);
        Segment {
            kind: fields.u32(0),
            offset,
            gva,
            gpa,
            file_bytes,
            memory_bytes,
            align,
        }
    } else {
        let word = |at| u64::from(fields.u32(at));
        let offset = word(4);
        let gva = word(8);
        let gpa = word(12);
        let file_bytes = word(16);
        let memory_bytes = word(20);
        let align = word(28);
        Segment {
            kind: fields.u32(0),
            offset,
            gva,
            gpa,
            file_bytes,
            memory_bytes,
            align,
        }
    }
}

fn find_note(mut bytes: &[u8], align: usize, owner: &[u8], kind: u32) -> Option<Vec<u8>> {
    while bytes.len() >= 12 {
        let fields = Fields(bytes);
        let name_bytes = fields.u32(0) as usize;
        let content_bytes = fields.u32(4) as usize;
        let content_at = 12_usize
            .checked_add(name_bytes)?
            .checked_next_multiple_of(align)?;
        let content_end = content_at.checked_add(content_bytes)?;
        let name = bytes.get(12..12 + name_bytes)?;
        let content = bytes.get(content_at..content_end)?;
        if fields.u32(8) == kind && name == owner {
            return Some(content.to_vec());
        }
        bytes = bytes.get(content_end.checked_next_multiple_of(align)?..)?;
    }
    None
}
