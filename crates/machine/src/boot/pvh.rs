//! ELF kernels with a PVH note: a 32-bit entry without paging, EBX pointing at `hvm_start_info`
//! (Xen docs/misc/pvh.pandoc and xen/include/public/arch-x86/hvm/start_info.h).

use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vcpu::{VcpuState, gpr};
use vm_memory::ByteValued;
use x86::Gpa;

use super::elf::Elf;
use super::entry::{self, CMDLINE, GDT, LOW_AREA_END, MEMMAP, START_INFO};
use super::image::{Fields, Image, ImageError};
use super::memory_map::place_high;
use super::{Handover, Inspected, Protocol};

/// XEN_ELFNOTE_PHYS32_ENTRY (xen/include/public/elfnote.h).
const PHYS32_ENTRY: u32 = 18;

/// Modules that fit between the start information and the memory map.
const MODULES_MAX: usize = 32;
/// XEN_HVM_START_MAGIC_VALUE.
const START_MAGIC: u32 = 0x336e_c578;
/// Version 1 of the structure has the memory map.
const START_VERSION: u32 = 1;

/// The physical address of the 32-bit entry.
fn entry_point(image: &Image, elf: &Elf) -> Result<u32, ImageError> {
    let note = elf
        .note(image, b"Xen\0", PHYS32_ENTRY)?
        .ok_or(ImageError::NoPvhNote)?;
    // Linux writes four bytes or, as a 64-bit kernel, eight.
    let entry = match note.len() {
        4 => u64::from(Fields(&note).u32(0)),
        8 => Fields(&note).u64(0),
        _ => return Err(ImageError::Nonsense { what: "PVH note" }),
    };
    let inside = elf
        .loads()
        .any(|segment| entry >= segment.gpa && entry - segment.gpa < segment.memory_bytes);
    match u32::try_from(entry) {
        Ok(entry) if inside => Ok(entry),
        _ => Err(ImageError::Nonsense {
            what: "PVH note (entry outside the kernel)",
        }),
    }
}

pub(super) fn inspected(image: &Image, elf: &Elf) -> Result<Inspected, ImageError> {
    entry_point(image, elf)?;
    Ok(Inspected {
        protocol: Protocol::Pvh,
        cmdline_bytes: None,
        kernel_end: elf.end(),
        initrd_last: None,
    })
}

/// Loads the kernel and describes the machine to it.
pub(super) fn load(handover: &Handover<'_>, elf: &Elf) -> Result<VcpuState, ImageError> {
    let Handover {
        memory,
        map,
        kernel,
        ..
    } = *handover;
    let entry_point = entry_point(kernel, elf)?;
    if let Some(low) = elf.loads().find(|segment| segment.gpa < LOW_AREA_END) {
        return Err(ImageError::NoMemory {
            what: "segment below 1 MiB",
            gpa: Gpa(low.gpa),
            len_bytes: low.memory_bytes,
        });
    }
    elf.load(kernel, memory, map)?;
    let modules = load_modules(handover, elf.end())?;
    let modules_at = START_INFO.0 + size_of::<hvm_start_info>() as u64;
    let memmap: Vec<u8> = map
        .iter()
        .map(|range| hvm_memmap_table_entry {
            addr: range.start,
            size: range.len_bytes,
            type_: range.kind as u32,
            reserved: 0,
        })
        .flat_map(|entry| entry.as_slice().to_vec())
        .collect();
    let info = hvm_start_info {
        magic: START_MAGIC,
        version: START_VERSION,
        flags: 0,
        nr_modules: modules.len() as u32,
        modlist_paddr: if modules.is_empty() { 0 } else { modules_at },
        cmdline_paddr: CMDLINE.0,
        rsdp_paddr: handover.rsdp.0,
        memmap_paddr: MEMMAP.0,
        memmap_entries: map.len() as u32,
        reserved: 0,
    };
    entry::put(memory, START_INFO, info.as_slice());
    let modules: Vec<u8> = modules
        .iter()
        .flat_map(|module| module.as_slice().to_vec())
        .collect();
    entry::put(memory, Gpa(modules_at), &modules);
    entry::put(memory, MEMMAP, &memmap);
    entry::put_cmdline(memory, handover.cmdline)?;
    let mut state = VcpuState::protected_mode();
    entry::set_gdt(memory, &mut state, GDT);
    state.rip = entry_point.into();
    state.gprs[gpr::RBX] = START_INFO.0;
    Ok(state)
}

/// Puts the modules into memory, the first one highest.
fn load_modules(
    handover: &Handover<'_>,
    kernel_end: u64,
) -> Result<Vec<hvm_modlist_entry>, ImageError> {
    if handover.modules.len() > MODULES_MAX {
        return Err(ImageError::TooManyModules {
            count: handover.modules.len(),
            limit: MODULES_MAX,
        });
    }
    let mut end = 1 << 32;
    let mut list = Vec::new();
    for module in handover.modules {
        let len_bytes = module.image.len_bytes();
        let gpa =
            place_high(handover.map, len_bytes, kernel_end, end).ok_or(ImageError::NoMemory {
                what: "initrd",
                gpa: Gpa(kernel_end),
                len_bytes,
            })?;
        module
            .image
            .load(handover.memory, "initrd", 0, gpa, len_bytes)?;
        list.push(hvm_modlist_entry {
            paddr: gpa.0,
            size: len_bytes,
            cmdline_paddr: 0,
            reserved: 0,
        });
        end = gpa.0;
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::super::test_images::{elf64, handed_over, text_at};
    use super::*;

    #[test]
    fn a_pvh_kernel_finds_its_start_information() {
        let note = [
            4_u32.to_le_bytes(),
            4_u32.to_le_bytes(),
            18_u32.to_le_bytes(),
            *b"Xen\0",
            0x10_0010_u32.to_le_bytes(),
        ];
        let image = elf64(0x10_0000, &[0x90; 0x40], &note.concat());
        let (memory, state) = handed_over(&image, "root=/dev/ram", &[(&[7; 0x1800], "")]).unwrap();
        assert_eq!(
            (state.rip, state.gprs[gpr::RBX], state.cs.is_big()),
            (0x10_0010, 0x6000, true)
        );
        let word = |at| memory.read_value(Gpa(at), 4).unwrap();
        let long = |at| memory.read_value(Gpa(at), 8).unwrap();
        assert_eq!(
            (word(0x6000), word(0x6004), word(0x600c)),
            (0x336e_c578, 1, 1)
        );
        assert_eq!(text_at(&memory, long(0x6018)), "root=/dev/ram");
        assert_eq!(long(0x6020), 0xf_0000);
        let module = long(0x6010);
        let memmap = long(0x6028);
        assert_eq!((long(module), long(module + 8)), (0x3ff_e000, 0x1800));
        assert_eq!(memory.read_value(Gpa(0x3ff_f7ff), 2).unwrap(), 7);
        assert_eq!(
            (long(memmap), long(memmap + 8), word(memmap + 16)),
            (0, 0x9_fc00, 1)
        );
        assert_eq!(memory.read_value(Gpa(0x10_003f), 2).unwrap(), 0x90);
    }

    #[test]
    fn an_elf_file_without_a_usable_note_is_refused() {
        let check = |entry: &[u8], expected: &str| {
            let note = [
                &4_u32.to_le_bytes(),
                &(entry.len() as u32).to_le_bytes()[..],
                &18_u32.to_le_bytes(),
                b"Xen\0",
                entry,
            ];
            let image = elf64(0x10_0000, &[0x90; 0x40], &note.concat());
            assert_eq!(
                handed_over(&image, "", &[]).unwrap_err().to_string(),
                expected
            );
        };
        check(&[0, 0], "its PVH note makes no sense");
        check(
            &0x20_0000_u32.to_le_bytes(),
            "its PVH note (entry outside the kernel) makes no sense",
        );
        let none = handed_over(&elf64(0x10_0000, &[0x90], &[1, 2, 3]), "", &[])
            .unwrap_err()
            .to_string();
        assert_eq!(
            none,
            "it is an ELF file without a PVH note (CONFIG_PVH) and without a multiboot header"
        );
        let far = handed_over(&elf64(1 << 40, &[0x90], &[]), "", &[])
            .unwrap_err()
            .to_string();
        assert_eq!(
            far,
            "it is an ELF file without a PVH note (CONFIG_PVH) and without a multiboot header"
        );
    }
}
