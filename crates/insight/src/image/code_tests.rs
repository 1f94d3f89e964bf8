//! A kernel with every table that says where it writes over its own code, made by hand.

use super::*;
use crate::btf::Types;
use crate::btf::tests::Writer;
use crate::image::elf::Segments;
use crate::kallsyms::Symbol;
use crate::layout::Layouts;
use crate::symbols::Symbols;

const TEXT: u64 = 0xffff_ffff_8100_0000;
/// Tables lie here, from `_text`, each in a piece of its own.
const TABLES_AT: u64 = 0x1000;
const PIECE: u64 = 0x40;

/// A kernel in the making.
struct Kernel {
    bytes: Vec<u8>,
    symbols: Vec<(String, u64)>,
    next: u64,
    types: Writer,
}

impl Kernel {
    fn new() -> Kernel {
        let mut kernel = Kernel {
            bytes: vec![0x90; 0x2000],
            symbols: Vec::new(),
            next: TABLES_AT,
            types: Writer::new(),
        };
        for (name, at) in [("_text", 0), ("_stext", 0), ("_etext", 0x800)] {
            kernel.symbols.push((name.to_owned(), at));
        }
        kernel
    }

    /// A table between two symbols, of what `entry` writes for each place and where it writes it.
    fn table(&mut self, bounds: (&str, &str), places: &[u64], entry: impl Fn(u64, u64) -> Vec<u8>) {
        let start = self.next;
        let mut at = start;
        for place in places {
            let bytes = entry(at, *place);
            self.bytes[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
            at += bytes.len() as u64;
        }
        self.symbols.push((bounds.0.to_owned(), start));
        self.symbols.push((bounds.1.to_owned(), at));
        self.next += PIECE;
    }

    /// A table of distances.
    fn distances(&mut self, first: &str, last: &str, places: &[u64]) {
        self.table((first, last), places, |at, place| {
            distance(at, place).to_vec()
        });
    }

    fn profile(&self) -> Profile {
        let symbol = |(name, at): &(String, u64)| Symbol {
            address: TEXT + at,
            is_relative: true,
            kind: b'T',
            name: name.as_bytes().to_vec(),
        };
        let symbols: Vec<Symbol> = self.symbols.iter().map(symbol).collect();
        let types = self.types.bytes();
        Profile {
            banner: String::new(),
            build_id: None,
            form: String::new(),
            symbols: Symbols::new(&symbols, TEXT),
            layouts: Types::parse(&types).map(|types| Layouts::collect(&types)),
        }
    }

    fn code(&self) -> Option<Code> {
        let image = KernelImage {
            start: Gva(TEXT),
            bytes: self.bytes.clone(),
            relocations: Some(Relocations::of([
                vec![],
                vec![],
                vec![(TEXT + 0x10) as u32, (TEXT + 0x1f00) as u32],
            ])),
            segments: Segments::default(),
        };
        Code::take(&image, &self.profile(), Gva(TEXT))
    }
}

fn distance(at: u64, place: u64) -> [u8; 4] {
    (place.wrapping_sub(at) as u32).to_le_bytes()
}

/// `struct alt_instr` as of some kernel: whether it has a byte for padding, or words for flags.
fn alternatives(kernel: &mut Kernel, size: u32, len_at: u32) {
    let types = &mut kernel.types;
    let word = types.int("int", 4);
    let byte = types.int("char", 1);
    let members = [
        ("instr_offset", word, 0),
        ("repl_offset", word, 32),
        ("instrlen", byte, len_at * 8),
    ];
    types.structure("alt_instr", size, &members);
    let bounds = ("__alt_instructions", "__alt_instructions_end");
    kernel.table(bounds, &[0x100, 0x180], |at, place| {
        let mut entry = vec![0; size as usize];
        entry[..4].copy_from_slice(&distance(at, place));
        entry[len_at as usize] = 9;
        entry
    });
}

fn places(kernel: &Kernel) -> Vec<(u32, u8, Content)> {
    let code = kernel.code().unwrap();
    let places = code.boot_places().iter();
    places
        .map(|place| (place.offset, place.len, place.content))
        .collect()
}

#[test]
fn every_table_of_places_is_read() {
    use Content::{Branch, Instructions, Value};
    let mut kernel = Kernel::new();
    assert_eq!(places(&kernel), [], "a kernel that rewrites nothing");
    // call, with a prefix; jmp; ret of its own.
    kernel.bytes[0x200..0x206].copy_from_slice(&[0x2e, 0xe8, 1, 0, 0, 0]);
    kernel.bytes[0x210..0x215].copy_from_slice(&[0xe9, 1, 0, 0, 0]);
    kernel.bytes[0x220..0x226].copy_from_slice(&[0x0f, 0x84, 1, 0, 0, 0]);
    kernel.distances("__retpoline_sites", "__retpoline_sites_end", &[0x200]);
    kernel.distances("__return_sites", "__return_sites_end", &[0x210, 0x220]);
    kernel.distances("__smp_locks", "__smp_locks_end", &[0x300]);
    kernel.distances("__ibt_endbr_seal", "__ibt_endbr_seal_end", &[0x310]);
    kernel.distances(
        "__start_runtime_ptr_d_hash",
        "__stop_runtime_ptr_d_hash",
        &[0x320],
    );
    kernel.distances(
        "__start_runtime_shift_d_hash",
        "__stop_runtime_shift_d_hash",
        &[0x330],
    );
    let expected = [
        (0x200, 6, Branch),
        (0x210, 5, Instructions),
        (0x220, 6, Instructions),
        (0x300, 1, Instructions),
        (0x310, 4, Instructions),
        (0x320, 8, Value),
        (0x330, 1, Value),
    ];
    assert_eq!(places(&kernel), expected);
}

#[test]
fn alternatives_are_read_in_the_form_that_the_kernel_itself_tells() {
    // 5.10, 5.13, 6.3.
    for (size, len_at) in [(13, 10), (12, 10), (14, 12)] {
        let mut kernel = Kernel::new();
        alternatives(&mut kernel, size, len_at);
        let expected = [
            (0x100, 9, Content::Instructions),
            (0x180, 9, Content::Instructions),
        ];
        assert_eq!(places(&kernel), expected, "{size}");
    }
    // One that does not tell cannot be compared with its file at all.
    let mut kernel = Kernel::new();
    kernel.distances("__alt_instructions", "__alt_instructions_end", &[0x100]);
    assert!(kernel.code().is_none());
}

#[test]
fn places_of_paravirtual_operations_are_addresses() {
    let mut kernel = Kernel::new();
    let types = &mut kernel.types;
    let long = types.int("long", 8);
    let byte = types.int("char", 1);
    let members = [("instr", long, 0), ("type", byte, 64), ("len", byte, 72)];
    types.structure("paravirt_patch_site", 16, &members);
    let bounds = ("__parainstructions", "__parainstructions_end");
    kernel.table(bounds, &[0x400, 0x410], |_, place| {
        let mut entry = (TEXT + place).to_le_bytes().to_vec();
        entry.extend([0, 7, 0, 0, 0, 0, 0, 0]);
        entry
    });
    let expected = [
        (0x400, 7, Content::Instructions),
        (0x410, 7, Content::Instructions),
    ];
    assert_eq!(places(&kernel), expected);
    // The assembler does not fill up the last one (arch/x86/include/asm/paravirt.h, `_PVSITE`).
    let end = kernel.symbols.iter_mut().find(|(name, _)| name == bounds.1);
    end.unwrap().1 -= 4;
    assert_eq!(places(&kernel), expected);
}

#[test]
fn what_is_kept_is_code_and_tables_with_their_own_addresses() {
    let mut kernel = Kernel::new();
    alternatives(&mut kernel, 14, 12);
    kernel.symbols.push(("sys_call_table".to_owned(), 0x1f00));
    kernel.symbols.push(("behind".to_owned(), 0x1f08));
    let code = kernel.code().unwrap();
    assert_eq!(code.linked_text(), TEXT);
    assert_eq!(code.moved(0, 0x800, 0), Some(vec![0x90; 0x800]));
    assert_eq!(code.moved(0, 0x801, 0), None, "more than the code");
    assert_eq!(code.moved(0x1000, 1, 0), None, "no table that is compared");
    let mut moved = [0x90; 0x20];
    moved[0x10..0x14].copy_from_slice(&0xaa90_9090_u32.to_le_bytes());
    assert_eq!(code.moved(0, 0x20, 0x1a00_0000), Some(moved.to_vec()));
    assert_eq!(
        code.moved(0x1f00, 8, 0x1a00_0000).as_deref(),
        Some(&[0x90, 0x90, 0x90, 0xaa, 0x90, 0x90, 0x90, 0x90][..])
    );
    let bytes = code.to_bytes();
    assert_eq!(Code::from_bytes(&bytes), Some(code));
    for len in (0..bytes.len()).step_by(7) {
        assert_eq!(Code::from_bytes(&bytes[..len]), None, "{len} bytes");
    }
    assert_eq!(Code::from_bytes(&[&bytes[..], b"x"].concat()), None);
}

#[test]
fn tables_that_lead_nowhere_are_no_tables() {
    let mut kernel = Kernel::new();
    // Before the kernel, and so far behind it that no instruction is there: neither is a place in the code.
    kernel.distances(
        "__smp_locks",
        "__smp_locks_end",
        &[0_u64.wrapping_sub(0x1000), 0x30],
    );
    kernel.distances("__return_sites", "__return_sites_end", &[0x10_0000]);
    assert_eq!(places(&kernel), [(0x30, 1, Content::Instructions)]);
    // One that ends before it begins.
    kernel.symbols.push(("__call_sites".to_owned(), 0x1100));
    kernel.symbols.push(("__call_sites_end".to_owned(), 0x10f0));
    assert!(kernel.code().is_none());
}
