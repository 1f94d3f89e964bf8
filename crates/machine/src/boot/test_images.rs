//! Small kernel images for tests, and what loading one gives.

use mem::GuestMemory;
use vcpu::VcpuState;
use x86::Gpa;

use super::image::image_of;
use super::layout::slots;
use super::memory_map::{Range, RangeKind, memory_map};
use super::{Handover, ImageError, Module, load};

/// A bzImage that needs 64 MiB less a page to unpack itself and starts with HLT.
pub(crate) fn bzimage() -> Vec<u8> {
    let mut bytes = vec![0; 1024 + 0x1000];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0x1f1, &[1]);
    put(0x1f4, &0x100_u32.to_le_bytes());
    put(0x201, &[0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x20f_u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x236, &1_u16.to_le_bytes());
    put(0x238, &100_u32.to_le_bytes());
    put(0x258, &0x100_0000_u64.to_le_bytes());
    put(0x260, &0x200_0000_u32.to_le_bytes());
    put(1024 + 0x200, &[0xf4, 0x0f]);
    bytes
}

/// A 64-bit ELF file with one loaded segment and one of notes.
pub(super) fn elf64(gpa: u64, code: &[u8], notes: &[u8]) -> Vec<u8> {
    let header_bytes = 64 + 2 * 56;
    let notes_at = header_bytes + code.len() as u64;
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for value in [gpa, 64, 0] {
        bytes.extend(u64::to_le_bytes(value));
    }
    bytes.extend([0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    let code_bytes = code.len() as u64;
    for (kind, offset, gpa, file_bytes) in [
        (1_u64, header_bytes, gpa, code_bytes),
        (4, notes_at, 0, notes.len() as u64),
    ] {
        for value in [kind, offset, gpa, gpa, file_bytes, file_bytes, 4] {
            bytes.extend(u64::to_le_bytes(value));
        }
    }
    bytes.extend(code);
    bytes.extend(notes);
    bytes
}

/// A 32-bit ELF file with one loaded segment, entered at its start.
pub(crate) fn elf32(gpa: u32, code: &[u8]) -> Vec<u8> {
    elf32_linked(gpa, gpa, gpa, code)
}

/// A 32-bit ELF file with one segment, linked at `gva` and loaded at `gpa`.
pub(super) fn elf32_linked(entry: u32, gva: u32, gpa: u32, code: &[u8]) -> Vec<u8> {
    let header_bytes = 52 + 32;
    let mut bytes = b"\x7fELF\x01\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend([2, 0, 3, 0, 1, 0, 0, 0]);
    for value in [entry, 52, 0, 0] {
        bytes.extend(u32::to_le_bytes(value));
    }
    bytes.extend([52, 0, 32, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    let len_bytes = code.len() as u32;
    for value in [1, header_bytes, gva, gpa, len_bytes, len_bytes, 7, 4] {
        bytes.extend(u32::to_le_bytes(value));
    }
    bytes.extend(code);
    bytes
}

/// Loads `kernel` with these modules into a guest with 64 MiB whose ACPI root pointer is at 0xf0000.
pub(super) fn handed_over(
    kernel: &[u8],
    cmdline: &str,
    modules: &[(&[u8], &str)],
) -> Result<(GuestMemory, VcpuState), ImageError> {
    let slots = slots(64 << 20);
    let board = [
        Range::new(0x9_fc00, 0xa_0000, RangeKind::Reserved),
        Range::new(0xa_0000, 0x10_0000, RangeKind::Reserved),
        Range::new(0xfec0_0000, 0xfec0_1000, RangeKind::Reserved),
    ];
    let map = memory_map(&slots, &board);
    let memory = GuestMemory::new(slots).unwrap();
    let module = |&(bytes, string): &(&[u8], &str)| Module {
        image: image_of(bytes),
        string: string.to_owned(),
    };
    let modules: Vec<Module> = modules.iter().map(module).collect();
    let state = load(&Handover {
        memory: &memory,
        map: &map,
        rsdp: Gpa(0xf_0000),
        kernel: &image_of(kernel),
        kernel_name: "kernel",
        cmdline,
        modules: &modules,
    })?;
    Ok((memory, state))
}

/// The text that ends with a NUL at `gpa`.
pub(super) fn text_at(memory: &GuestMemory, gpa: u64) -> String {
    let bytes = (gpa..)
        .map(|at| memory.read_value(Gpa(at), 1).unwrap() as u8)
        .take_while(|&byte| byte != 0);
    String::from_utf8(bytes.collect()).unwrap()
}
