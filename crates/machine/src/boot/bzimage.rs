//! Linux bzImage through its 64-bit entry (Linux Documentation/arch/x86/boot.rst).
//!
//! The file is a real-mode part that we never run, whose header tells about the rest, and the protected-mode part
//! that decompresses itself. Offsets below are those of the header's description, from the start of the file.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vcpu::{VcpuState, gpr};
use vm_memory::ByteValued;
use x86::Gpa;

use super::entry::{self, CMDLINE, GDT, ZERO_PAGE};
use super::image::{Fields, Image, ImageError};
use super::memory_map::{is_ram, place_high};
use super::{Handover, Inspected, Protocol};

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

/// Where the protected-mode part goes: it moves itself to where its header prefers to be.
const LOAD: Gpa = Gpa(0x10_0000);
/// The 64-bit entry, from the start of the protected-mode part.
const ENTRY: u64 = 0x200;
/// Loader type "unknown, told nobody".
const LOADER_UNDEFINED: u8 = 0xff;

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
            return Err(ImageError::Nonsense {
                what: "setup header (64-bit entry, but not loaded high)",
            });
        }
        let setup_sectors = match fields.u8(HEADER) {
            0 => 4,
            count => u64::from(count),
        };
        let offset = (setup_sectors + 1) * 512;
        let len_bytes = u64::from(fields.u32(0x1f4)) * 16;
        if len_bytes <= 0x200 {
            return Err(ImageError::Nonsense {
                what: "setup header (no kernel behind it)",
            });
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
            cmdline_bytes: Some(self.cmdline_bytes.min(entry::CMDLINE_BYTES as u32 - 1) as usize),
            kernel_end: self.pref_address.saturating_add(u64::from(self.init_size)),
            initrd_last: Some(u64::from(self.initrd_addr_max)),
        }
    }
}

/// `syssize` counts paragraphs, so a whole file may be up to 15 bytes shorter than it says.
fn check_length(image: &Image, offset: u64, len_bytes: u64) -> Result<(), ImageError> {
    match image.check("protected-mode kernel", offset, len_bytes) {
        Err(ImageError::Truncated {
            needed, len_bytes, ..
        }) if needed - len_bytes < 16 => Ok(()),
        other => other,
    }
}

/// Loads the kernel and its initrd and fills the zero page.
pub(super) fn load(handover: &Handover<'_>, header: &Header) -> Result<VcpuState, ImageError> {
    let Handover {
        memory,
        map,
        kernel,
        ..
    } = *handover;
    let no_memory = |what, gpa, len_bytes| ImageError::NoMemory {
        what,
        gpa: Gpa(gpa),
        len_bytes,
    };
    for (gpa, len_bytes) in [
        (LOAD.0, header.len_bytes),
        (header.pref_address, u64::from(header.init_size)),
    ] {
        if !is_ram(map, gpa, len_bytes) {
            return Err(no_memory("kernel", gpa, len_bytes));
        }
    }
    kernel.load(memory, "kernel", header.offset, LOAD, header.len_bytes)?;
    let mut params = header.zero_page()?;
    params.acpi_rsdp_addr = handover.rsdp.0;
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = CMDLINE.0 as u32;
    params.hdr.code32_start = LOAD.0 as u32;
    params.e820_entries = map.len() as u8;
    for (entry, range) in params.e820_table.iter_mut().zip(map) {
        *entry = boot_e820_entry {
            addr: range.start,
            size: range.len_bytes,
            r#type: range.kind as u32,
        };
    }
    if let Some(initrd) = handover.modules.first() {
        let len_bytes = initrd.image.len_bytes();
        let kernel_end = header.pref_address + u64::from(header.init_size);
        let end = u64::from(header.initrd_addr_max) + 1;
        let gpa = place_high(map, len_bytes, kernel_end, end)
            .ok_or(no_memory("initrd", kernel_end, len_bytes))?;
        initrd.image.load(memory, "initrd", 0, gpa, len_bytes)?;
        // Both fit: the place lies below `initrd_addr_max`, which has 32 bits.
        params.hdr.ramdisk_image = gpa.0 as u32;
        params.hdr.ramdisk_size = len_bytes as u32;
    }
    entry::put(memory, ZERO_PAGE, params.as_slice());
    entry::put_cmdline(memory, handover.cmdline)?;
    let mut state = VcpuState::long_mode(entry::identity_map(memory));
    entry::set_gdt(memory, &mut state, GDT);
    state.rip = LOAD.0 + ENTRY;
    state.gprs[gpr::RSI] = ZERO_PAGE.0;
    Ok(state)
}

impl Header {
    /// A zero page with nothing but the header in it.
    fn zero_page(&self) -> Result<boot_params, ImageError> {
        let mut page = vec![0; size_of::<boot_params>()];
        page[HEADER..HEADER + self.bytes.len()].copy_from_slice(&self.bytes);
        let params = boot_params::from_slice(&page).copied();
        params.ok_or(ImageError::Nonsense {
            what: "setup header",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_images::{bzimage, handed_over, text_at};
    use super::*;

    #[test]
    fn a_bzimage_finds_its_zero_page() {
        let (memory, state) =
            handed_over(&bzimage(), "console=ttyS0", &[(&[7; 0x1800], "")]).unwrap();
        assert_eq!(
            (state.rip, state.gprs[gpr::RSI], state.cs.is_long()),
            (0x10_0200, 0x7000, true)
        );
        let value = |at: u64, size| memory.read_value(Gpa(0x7000 + at), size).unwrap();
        assert_eq!(
            (value(0x202, 4), value(0x206, 2), value(0x210, 1)),
            (u64::from(MAGIC), 0x20f, 0xff)
        );
        assert_eq!(text_at(&memory, value(0x228, 4)), "console=ttyS0");
        assert_eq!(value(0x70, 8), 0xf_0000);
        assert_eq!((value(0x218, 4), value(0x21c, 4)), (0x3ff_e000, 0x1800));
        assert_eq!(
            (
                value(0x1e8, 1),
                value(0x2d0, 8),
                value(0x2d8, 8),
                value(0x2e0, 4)
            ),
            (5, 0, 0x9_fc00, 1)
        );
        // What the header does not have stays zero: "sentinel" decides whether the kernel trusts the page.
        assert_eq!(value(0x1ef, 1), 0);
        assert_eq!(memory.read_value(Gpa(0x10_0200), 2).unwrap(), 0x0ff4);
        assert_eq!(memory.read_value(Gpa(0x3ff_f7ff), 2).unwrap(), 7);
    }

    #[test]
    fn the_first_4_gib_are_mapped_to_themselves() {
        use x86::paging::{Access, Paging, walk};
        let (memory, state) = handed_over(&bzimage(), "", &[]).unwrap();
        let paging = Paging {
            cr0: state.cr0,
            cr3: state.cr3,
            cr4: state.cr4,
            efer: state.efer,
        };
        let access = Access {
            write: true,
            fetch: false,
            user: false,
            smap_override: false,
        };
        let check = |address: u64, expected: Option<u64>| {
            let read = |gpa, size| memory.read_value(gpa, size).unwrap_or(u64::MAX);
            let found = walk(&paging, x86::Gva(address), access, read)
                .ok()
                .filter(|found| found.writable);
            assert_eq!(found.map(|found| found.gpa.0), expected);
        };
        check(0, Some(0));
        check(0x1234_5678, Some(0x1234_5678));
        check(0xffff_ffff, Some(0xffff_ffff));
        check(1 << 32, None);
    }
}
