//! Multiboot version 1 (Multiboot Specification 0.6.96): 32-bit protected mode, EAX with the magic, EBX pointing
//! at the information structure.

use vcpu::{VcpuState, gpr};
use x86::{Gpa, PAGE_SIZE};

use super::elf::Elf;
use super::image::{Fields, Image, ImageError};
use super::memory_map::is_ram;
use super::{Handover, Inspected, Protocol, Range, RangeKind, entry};

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

/// What the kernel finds in EAX (section 3.2).
const BOOT_MAGIC: u64 = 0x2bad_b002;
/// Which fields of the information structure hold: memory sizes, command line, modules, memory map, loader name
/// (section 3.3).
const INFO_FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
/// Length of the information structure up to the VBE fields.
const INFO_BYTES: usize = 88;
/// What the loader is called.
const LOADER_NAME: &str = "mother";
/// Information and modules go above this, however low the kernel lies.
const INFO_START_MIN: u64 = 0x10_0000;

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
                && MAGIC
                    .wrapping_add(fields.u32(at + 4))
                    .wrapping_add(fields.u32(at + 8))
                    == 0
        };
        let Some(at) = (0..head.len().saturating_sub(11))
            .step_by(4)
            .find(is_header)
        else {
            return Ok(None);
        };
        let flags = fields.u32(at + 4);
        let unknown = flags & FLAGS_REQUIRED & !FLAGS_KNOWN;
        if unknown != 0 {
            return Err(ImageError::MultibootFlags { flags: unknown });
        }
        if flags & FLAG_ADDRESSES == 0 {
            return Ok(Some(Header { addresses: None }));
        }
        image.check("multiboot header", at as u64, 32)?;
        let addresses = addresses(
            image,
            at as u64,
            &Fields(&image.read("multiboot header", at as u64, 32)?),
        )?;
        Ok(Some(Header {
            addresses: Some(addresses),
        }))
    }
}

fn addresses(image: &Image, at: u64, fields: &Fields<'_>) -> Result<Addresses, ImageError> {
    let word = |at| u64::from(fields.u32(at));
    let header = word(12);
    let load = word(16);
    let load_end = word(20);
    let bss_end = word(24);
    let nonsense = || ImageError::Nonsense {
        what: "multiboot header (load addresses)",
    };
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
    let end = if bss_end == 0 {
        loaded_end
    } else {
        bss_end.max(loaded_end)
    };
    Ok(Addresses {
        offset,
        file_bytes,
        load,
        end,
        entry: fields.u32(28),
    })
}

/// The ELF executable behind a header without addresses.
pub(super) fn elf(image: &Image) -> Result<Elf, ImageError> {
    Elf::find(image)?.ok_or(ImageError::Nonsense {
        what: "multiboot header (no addresses, and the file is no ELF)",
    })
}

pub(super) fn inspected(image: &Image, header: &Header) -> Result<Inspected, ImageError> {
    let kernel_end = match header.addresses {
        Some(addresses) => addresses.end,
        None => elf(image)?.end(),
    };
    Ok(Inspected {
        protocol: Protocol::Multiboot,
        cmdline_bytes: None,
        kernel_end,
        initrd_last: None,
    })
}

/// Loads the kernel; behind it, on page boundaries, the information and the modules.
pub(super) fn load(handover: &Handover<'_>, header: &Header) -> Result<VcpuState, ImageError> {
    let Handover {
        memory,
        map,
        kernel,
        ..
    } = *handover;
    let (entry_point, kernel_end) = load_kernel(handover, header)?;
    let info_at = kernel_end.max(INFO_START_MIN).next_multiple_of(PAGE_SIZE);
    let modules_at = (info_at + information_bytes(handover)).next_multiple_of(PAGE_SIZE);
    let mut places = Vec::new();
    let mut next = modules_at;
    for module in handover.modules {
        let len_bytes = module.image.len_bytes();
        check_place(map, "module", next, len_bytes)?;
        module
            .image
            .load(memory, "module", 0, Gpa(next), len_bytes)?;
        places.push((next, next + len_bytes));
        next = (next + len_bytes).next_multiple_of(PAGE_SIZE);
    }
    check_place(map, "boot information", info_at, modules_at - info_at)?;
    let mut state = VcpuState::protected_mode();
    entry::set_gdt(memory, &mut state, Gpa(info_at));
    let information = information(handover, info_at + GDT_BYTES, &places);
    memory
        .write(Gpa(info_at + GDT_BYTES), &information)
        .map_err(|_| ImageError::NoMemory {
            what: "boot information",
            gpa: Gpa(info_at),
            len_bytes: kernel.len_bytes(),
        })?;
    state.rip = entry_point.into();
    state.gprs[gpr::RAX] = BOOT_MAGIC;
    state.gprs[gpr::RBX] = info_at + GDT_BYTES;
    Ok(state)
}

/// Room for the GDT in front of the information.
const GDT_BYTES: u64 = 64;

fn check_place(
    map: &[Range],
    what: &'static str,
    gpa: u64,
    len_bytes: u64,
) -> Result<(), ImageError> {
    // Addresses in the information structure have 32 bits.
    let is_low = gpa.checked_add(len_bytes).is_some_and(|end| end <= 1 << 32);
    if is_low && is_ram(map, gpa, len_bytes) {
        return Ok(());
    }
    Err(ImageError::NoMemory {
        what,
        gpa: Gpa(gpa),
        len_bytes,
    })
}

/// Entry and end of the kernel after it has been loaded.
fn load_kernel(handover: &Handover<'_>, header: &Header) -> Result<(u32, u64), ImageError> {
    let Handover {
        memory,
        map,
        kernel,
        ..
    } = *handover;
    if let Some(Addresses {
        offset,
        file_bytes,
        load,
        end,
        entry,
    }) = header.addresses
    {
        check_place(map, "multiboot kernel", load, end - load)?;
        kernel.load(memory, "multiboot kernel", offset, Gpa(load), file_bytes)?;
        return Ok((entry, end));
    }
    let elf = elf(kernel)?;
    elf.load(kernel, memory, map)?;
    let entry = u32::try_from(elf.physical_entry()).map_err(|_| ImageError::Nonsense {
        what: "entry above 4 GiB",
    })?;
    Ok((entry, elf.end()))
}

/// The command line starts with the kernel's name, as boot loaders have it.
fn cmdline(handover: &Handover<'_>) -> String {
    format!("{} {}", handover.kernel_name, handover.cmdline)
        .trim_end()
        .to_owned()
}

/// More than [`information`] will take.
fn information_bytes(handover: &Handover<'_>) -> u64 {
    let strings: usize = handover
        .modules
        .iter()
        .map(|module| module.string.len() + 1 + 16)
        .sum();
    let fixed = GDT_BYTES as usize + INFO_BYTES + LOADER_NAME.len() + 1;
    (fixed + strings + handover.map.len() * 24 + cmdline(handover).len() + 1) as u64
}

/// The information structure at `at`, with everything it points to behind it.
fn information(handover: &Handover<'_>, at: u64, modules: &[(u64, u64)]) -> Vec<u8> {
    // All addresses fit 32 bits: `check_place` has seen the whole area.
    let mut behind: Vec<u8> = Vec::new();
    let address = |behind: &Vec<u8>| at as u32 + (INFO_BYTES + behind.len()) as u32;
    let mmap_at = address(&behind);
    for range in handover.map {
        behind.extend(20_u32.to_le_bytes());
        behind.extend(range.start.to_le_bytes());
        behind.extend(range.len_bytes.to_le_bytes());
        behind.extend((range.kind as u32).to_le_bytes());
    }
    let mmap_bytes = behind.len() as u32;
    let mods_at = address(&behind);
    let mut string_at = mods_at + 16 * modules.len() as u32;
    for (module, &(start, end)) in handover.modules.iter().zip(modules) {
        for word in [start as u32, end as u32, string_at, 0] {
            behind.extend(word.to_le_bytes());
        }
        string_at += module.string.len() as u32 + 1;
    }
    for module in handover.modules {
        behind.extend(module.string.bytes().chain([0]));
    }
    let cmdline_at = address(&behind);
    behind.extend(cmdline(handover).bytes().chain([0]));
    let name_at = address(&behind);
    behind.extend(LOADER_NAME.bytes().chain([0]));
    let ram_end = |from: u64| {
        let mut ram = handover
            .map
            .iter()
            .filter(|range| range.kind == RangeKind::Ram);
        ram.find(|range| range.start <= from && from < range.end())
            .map_or(from, Range::end)
    };
    let mut info = vec![0; INFO_BYTES];
    let mut put = |at: usize, word: u32| info[at..at + 4].copy_from_slice(&word.to_le_bytes());
    put(0, INFO_FLAGS);
    put(4, (ram_end(0) / 1024) as u32);
    put(8, ((ram_end(0x10_0000) - 0x10_0000) / 1024) as u32);
    put(16, cmdline_at);
    put(20, modules.len() as u32);
    put(24, mods_at);
    put(44, mmap_bytes);
    put(48, mmap_at);
    put(64, name_at);
    info.extend(behind);
    info
}

#[cfg(test)]
mod tests {
    use super::super::test_images::{elf32, elf32_linked, handed_over, text_at};
    use super::*;

    fn header(flags: u32, rest: &[u32]) -> Vec<u8> {
        let checksum = 0_u32.wrapping_sub(MAGIC).wrapping_sub(flags);
        [MAGIC, flags, checksum]
            .iter()
            .chain(rest)
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }

    fn check_information(image: &[u8], entry: u64, expected_at: u64) {
        let modules: [(&[u8], &str); 2] = [(&[7; 0x1800], "one a=b"), (&[8; 16], "two")];
        let (memory, state) = handed_over(image, "x y", &modules).unwrap();
        assert_eq!(
            (state.rip, state.gprs[gpr::RAX], state.gprs[gpr::RBX]),
            (entry, BOOT_MAGIC, expected_at)
        );
        let word = |at| memory.read_value(Gpa(at), 4).unwrap();
        let info = |at| word(expected_at + at);
        assert_eq!((info(0), info(4), info(8)), (0x24d, 639, 63 * 1024));
        // The BIOS data area agrees about low memory.
        assert_eq!((word(0x413) & 0xffff, word(0x40e) & 0xffff), (639, 0x9fc0));
        assert_eq!(text_at(&memory, info(16)), "kernel x y");
        assert_eq!(text_at(&memory, info(64)), "mother");
        let mods = info(24);
        let page = expected_at & !0xfff;
        assert_eq!(
            (info(20), word(mods), word(mods + 4)),
            (2, page + 0x1000, page + 0x2800)
        );
        assert_eq!(
            (word(mods + 16), word(mods + 20)),
            (page + 0x3000, page + 0x3010)
        );
        assert_eq!(text_at(&memory, word(mods + 8)), "one a=b");
        assert_eq!(text_at(&memory, word(mods + 24)), "two");
        assert_eq!(memory.read_value(Gpa(page + 0x300f), 2).unwrap(), 8);
        let map = info(48);
        assert_eq!(
            (
                info(44),
                word(map),
                word(map + 4),
                word(map + 12),
                word(map + 20)
            ),
            (120, 20, 0, 0x9_fc00, 1)
        );
    }

    #[test]
    fn an_elf_kernel_gets_its_command_line_and_modules() {
        let mut code = vec![0x90; 16];
        code.extend(header(3, &[]));
        check_information(&elf32(0x10_0000, &code), 0x10_0000, 0x10_1040);
    }

    #[test]
    fn an_elf_kernel_starts_where_its_entry_was_loaded() {
        let mut code = vec![0x90; 16];
        code.extend(header(0, &[]));
        for (name, entry, gva, expected) in [
            ("linked where it is loaded", 0x10_0004, 0x10_0000, 0x10_0004),
            (
                "linked in the higher half",
                0xc010_0004,
                0xc010_0000,
                0x10_0004,
            ),
            (
                "linked there, with a physical entry",
                0x10_0004,
                0xc010_0000,
                0x10_0004,
            ),
            (
                "entered at the last byte",
                0xc010_001b,
                0xc010_0000,
                0x10_001b,
            ),
            (
                "an entry behind it is nobody's",
                0xc010_001c,
                0xc010_0000,
                0xc010_001c,
            ),
        ] {
            let image = elf32_linked(entry, gva, 0x10_0000, &code);
            let (_, state) = handed_over(&image, "", &[]).unwrap();
            assert_eq!(state.rip, expected, "{name}");
        }
    }

    #[test]
    fn a_flat_kernel_is_loaded_where_its_header_says() {
        // Header at 16 of the file and at 0x20_0010 in memory; loaded to the end of the file, zeros to 0x20_3000.
        let mut image = vec![0x90; 16];
        image.extend(header(
            FLAG_ADDRESSES | 1,
            &[0x20_0010, 0x20_0000, 0, 0x20_3000, 0x20_0004],
        ));
        check_information(&image, 0x20_0004, 0x20_3040);
    }

    #[test]
    fn a_kernel_that_asks_too_much_is_refused() {
        let check = |image: &[u8], expected: &str| {
            assert_eq!(
                handed_over(image, "", &[]).unwrap_err().to_string(),
                expected
            );
        };
        check(
            &header(1 << 5, &[]),
            "it is a multiboot kernel that requires features we do not have (flags 0x20)",
        );
        check(
            &header(1, &[]),
            "its multiboot header (no addresses, and the file is no ELF) makes no sense",
        );
        let addresses = |words: &[u32]| header(FLAG_ADDRESSES, words);
        check(
            &addresses(&[0x10_0000, 0x20_0000, 0, 0, 0]),
            "its multiboot header (load addresses) makes no sense",
        );
        check(
            &addresses(&[0x10_0000, 0x10_0000, 0xf_0000, 0, 0]),
            "its multiboot header (load addresses) makes no sense",
        );
        check(
            &addresses(&[0x10_0000, 0x10_0000, 0x20_0000, 0, 0]),
            "it is truncated: its multiboot kernel ends at byte 1048576, and the file has 32",
        );
        check(
            &addresses(&[0x7000_0000, 0x7000_0000, 0, 0, 0]),
            "its multiboot kernel needs memory at 0x70000000..+0x20, where this guest has none",
        );
        check(
            &addresses(&[0x10_0000]),
            "it is truncated: its multiboot header ends at byte 32, and the file has 16",
        );
    }
}
