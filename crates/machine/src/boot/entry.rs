//! What every protocol's first instruction finds besides registers: a GDT that matches the segments, and for the
//! 64-bit entry page tables.

use mem::GuestMemory;
use vcpu::VcpuState;
use x86::paging::{P, PS, W};
use x86::{DescriptorTable, Gpa, Segment};

use super::image::ImageError;

/// The GDT of the two protocols that promise one.
pub(super) const GDT: Gpa = Gpa(0x500);
/// PVH start information, its modules and memory map.
pub(super) const START_INFO: Gpa = Gpa(0x6000);
/// Linux' zero page.
pub(super) const ZERO_PAGE: Gpa = Gpa(0x7000);
/// Page tables: one page of level 4, one of level 3, four of level 2.
const TABLES: Gpa = Gpa(0x9000);
/// Command line.
pub(super) const CMDLINE: Gpa = Gpa(0x2_0000);
/// Longest command line with its NUL.
pub(super) const CMDLINE_BYTES: u64 = 0x1_0000;
/// Memory map of a PVH kernel.
pub(super) const MEMMAP: Gpa = Gpa(0x6800);
/// What is written below here must not overwrite the kernel: kernels of these protocols start at 1 MiB or above.
pub(super) const LOW_AREA_END: u64 = 0x10_0000;

/// The addresses above are in the first memslot, which the plan makes 32 MiB at least.
const FITS: &str = "the first 640 KiB are memory in every plan";

/// Writes what a boot protocol needs in the first 640 KiB.
pub(super) fn put(memory: &GuestMemory, gpa: Gpa, bytes: &[u8]) {
    memory.write(gpa, bytes).expect(FITS);
}

/// Writes the two words of a PC's BIOS data area that kernels read without asking a BIOS: where the extended data
/// area lies (0x40e, a segment) and how much memory is below it (0x413, in KiB).
pub(super) fn put_bios_data(memory: &GuestMemory) {
    let ebda = devices::layout::EBDA_START.0;
    put(memory, Gpa(0x40e), &((ebda >> 4) as u16).to_le_bytes());
    put(memory, Gpa(0x413), &((ebda >> 10) as u16).to_le_bytes());
}

/// Writes a GDT for the segments of `state` and points the state at it. A 64-bit TSS descriptor would take two
/// slots; the second stays zero, as the base is zero.
pub(super) fn set_gdt(memory: &GuestMemory, state: &mut VcpuState, gpa: Gpa) {
    let busy_tss = Segment {
        selector: 0x20,
        base: 0,
        limit: 0x67,
        attributes: 0x8b,
    };
    let table = [
        0,
        0,
        state.cs.to_descriptor(),
        state.ds.to_descriptor(),
        busy_tss.to_descriptor(),
        0,
    ];
    let bytes: Vec<u8> = table
        .iter()
        .flat_map(|entry: &u64| entry.to_le_bytes())
        .collect();
    state.gdtr = DescriptorTable {
        base: gpa.0,
        limit: (bytes.len() - 1) as u16,
    };
    // Multiboot puts it behind the kernel, where the caller has checked that there is memory.
    memory
        .write(gpa, &bytes)
        .expect("the caller has found memory for the GDT");
}

/// Maps the first 4 GiB to themselves with 2 MiB pages and returns the root.
pub(super) fn identity_map(memory: &GuestMemory) -> u64 {
    let page = |n: u64| TABLES.0 + n * x86::PAGE_SIZE;
    put(memory, TABLES, &(page(1) | P | W).to_le_bytes());
    let level3: Vec<u8> = (2..6)
        .flat_map(|n| (page(n) | P | W).to_le_bytes())
        .collect();
    put(memory, Gpa(page(1)), &level3);
    let level2: Vec<u8> = (0..4 * 512_u64)
        .flat_map(|n| (n << 21 | P | W | PS).to_le_bytes())
        .collect();
    put(memory, Gpa(page(2)), &level2);
    TABLES.0
}

/// Writes the command line with its NUL.
pub(super) fn put_cmdline(memory: &GuestMemory, text: &str) -> Result<(), ImageError> {
    let len_bytes = text.len() as u64 + 1;
    if len_bytes > CMDLINE_BYTES {
        return Err(ImageError::NoMemory {
            what: "command line",
            gpa: CMDLINE,
            len_bytes,
        });
    }
    put(memory, CMDLINE, &[text.as_bytes(), &[0]].concat());
    Ok(())
}
