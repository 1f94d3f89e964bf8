//! Several accesses through one register, which translated code checks together: at ends of pages, where pages are
//! missing or may not be written, with misses and moves of the register in between.
//!
//! Every program goes round three times, so that what was chained the first time is run too.

use vcpu::{Vcpu, VcpuState, gpr};
use x86::Cr0;

use crate::machine::{DRIVER, Machine, Met, P, W, WINDOW};

/// Where pages are mapped to: the second lies elsewhere than behind the first.
const PAGES: [(u64, u64, u64); 3] = [
    (WINDOW, 0x40_0000, P | W),
    (WINDOW + 0x1000, 0x60_0000, P | W),
    (WINDOW + 0x3000, 0x80_0000, P),
];
/// The page behind [`PAGES`]`[1]`, which is not there.
const HOLE: u64 = WINDOW + 0x2000;
const READ_ONLY: u64 = WINDOW + 0x3000;
const RDI: u64 = WINDOW + 0x1100;
const RSI: u64 = 0x51;

/// What a program does through RBX, with RDI and RSI at hand.
struct Program {
    name: &'static str,
    code: &'static [u8],
    /// Offset of the `n`th access of the program, its length in bytes, and whether it writes.
    accesses: &'static [(u64, i64, bool)],
    /// RAX, RCX and RDX at the end, from what lies at RBX.
    results: fn(u64) -> [u64; 3],
}

const PROGRAMS: &[Program] = &[
    // mov rax, [rbx]; mov rcx, [rbx+8]; mov rdx, [rbx+16]
    Program {
        name: "reads",
        code: b"\x41\xbf\x03\x00\x00\x00\x48\x8b\x03\x48\x8b\x4b\x08\x48\x8b\x53\x10\x41\xff\xcf\x75\xf0\xf4",
        accesses: &[(6, 0, false), (9, 8, false), (13, 16, false)],
        results: |at| [word(at), word(at + 8), word(at + 16)],
    },
    // mov [rbx], rdi; mov rax, [rbx]; mov [rbx+8], rsi; mov rcx, [rbx+8]; and behind the loop mov rdx, [rbx]
    Program {
        name: "writes, then reads",
        code: b"\x41\xbf\x03\x00\x00\x00\x48\x89\x3b\x48\x8b\x03\x48\x89\x73\x08\x48\x8b\x4b\x08\x41\xff\xcf\x75\xed\x48\x8b\x13\xf4",
        accesses: &[(6, 0, true), (12, 8, true)],
        results: |_| [RDI, RSI, RDI],
    },
    // mov rax, [rbx]; mov rcx, [rbx+8]; mov [rbx+16], rdi; mov rdx, [rbx+16]
    Program {
        name: "reads, then writes",
        code: b"\x41\xbf\x03\x00\x00\x00\x48\x8b\x03\x48\x8b\x4b\x08\x48\x89\x7b\x10\x48\x8b\x53\x10\x41\xff\xcf\x75\xec\xf4",
        accesses: &[(6, 0, false), (9, 8, false), (13, 16, true)],
        results: |at| [word(at), word(at + 8), RDI],
    },
    // mov rax, [rbx]; mov [rdi], rax; mov rcx, [rbx+8]; mov rdx, [rdi]
    Program {
        name: "a miss in between",
        code: b"\x41\xbf\x03\x00\x00\x00\x48\x8b\x03\x48\x89\x07\x48\x8b\x4b\x08\x48\x8b\x17\x41\xff\xcf\x75\xee\xf4",
        accesses: &[(6, 0, false), (12, 8, false)],
        results: |at| [word(at), word(at + 8), word(at)],
    },
    // mov rax, [rbx]; add rbx, 8; mov rcx, [rbx]; lea rbx, [rbx+8]; mov rdx, [rbx]; sub rbx, 16
    Program {
        name: "the register moves",
        code: b"\x41\xbf\x03\x00\x00\x00\x48\x8b\x03\x48\x83\xc3\x08\x48\x8b\x0b\x48\x8d\x5b\x08\x48\x8b\x13\x48\x83\xeb\x10\x41\xff\xcf\x75\xe6\xf4",
        accesses: &[(6, 0, false), (13, 8, false), (20, 16, false)],
        results: |at| [word(at), word(at + 8), word(at + 16)],
    },
    // mov r14, rbx; then mov rbx, r14; mov rax, [rbx]; mov rbx, rdi; mov rcx, [rbx+8]; mov rdx, [rbx+16]
    Program {
        name: "the register becomes another",
        code: b"\x41\xbf\x03\x00\x00\x00\x49\x89\xde\x4c\x89\xf3\x48\x8b\x03\x48\x89\xfb\x48\x8b\x4b\x08\x48\x8b\x53\x10\x41\xff\xcf\x75\xea\xf4",
        accesses: &[(12, 0, false)],
        results: |at| [word(at), word(RDI + 8), word(RDI + 16)],
    },
    // mov rax, [rbx]; movups xmm0, [rbx+8]; movq rcx, xmm0; mov rdx, [rbx+16]
    Program {
        name: "vector registers",
        code: b"\x41\xbf\x03\x00\x00\x00\x48\x8b\x03\x0f\x10\x43\x08\x66\x48\x0f\x7e\xc1\x48\x8b\x53\x10\x41\xff\xcf\x75\xeb\xf4",
        accesses: &[(6, 0, false), (9, 8, false), (9, 16, false)],
        results: |at| [word(at), word(at + 8), word(at + 16)],
    },
    // mov rax, [rbx]; cmp r15d, 2; mov rcx, [rbx+8]; sete dl; movzx edx, dl; mov rsi, [rbx+16]
    Program {
        name: "flags in between",
        code: b"\x41\xbf\x03\x00\x00\x00\x48\x8b\x03\x41\x83\xff\x02\x48\x8b\x4b\x08\x0f\x94\xc2\x0f\xb6\xd2\x48\x8b\x73\x10\x41\xff\xcf\x75\xe6\xf4",
        accesses: &[(6, 0, false), (13, 8, false), (23, 16, false)],
        results: |at| [word(at), word(at + 8), 0],
    },
    // mov rsp, rbx; push 1; push rdi; push 3; pop rax; pop rcx; pop rdx; and RSP comes back in the end
    Program {
        name: "the stack",
        code: b"\x41\xbf\x03\x00\x00\x00\x49\x89\xe6\x48\x89\xdc\x6a\x01\x57\x6a\x03\x58\x59\x5a\x41\xff\xcf\x75\xf0\x4c\x89\xf4\xf4",
        accesses: &[(12, -8, true), (14, -16, true), (15, -24, true)],
        results: |_| [3, RDI, 1],
    },
];

/// What lies at an address at first: the address, byte by byte, so that a word may begin anywhere.
fn word(at: u64) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|byte| content(at + byte as u64)))
}

fn content(at: u64) -> u8 {
    (at ^ at >> 8 ^ at >> 11) as u8
}

fn machine(program: &Program, rbx: u64) -> (Machine, VcpuState) {
    let mut machine = Machine::new(1);
    for (gva, gpa, flags) in PAGES {
        machine.map(gva, gpa, flags);
        let bytes: Vec<u8> = (gva..gva + 0x1000).map(content).collect();
        machine.write(gpa, &bytes);
    }
    let mut state = machine.start(program.code);
    state.cr0 |= Cr0::WP;
    state.gprs[gpr::RBX] = rbx;
    state.gprs[gpr::RDI] = RDI;
    state.gprs[gpr::RSI] = RSI;
    (machine, state)
}

/// The page fault that a program meets first with this RBX, and what RBX is then.
fn fault(program: &Program, rbx: u64) -> Option<(Met, u64)> {
    program
        .accesses
        .iter()
        .find_map(|&(offset, distance, write)| {
            let at = rbx.wrapping_add(distance as u64);
            let wrong = [at, at + 7]
                .into_iter()
                .find_map(|byte| match byte & !0xfff {
                    HOLE => Some((0, byte)),
                    READ_ONLY if write => Some((1, byte)),
                    _ => None,
                });
            let (present, byte) = wrong?;
            // What crosses into a page faults at the page's first byte.
            let address = if byte == at { at } else { byte & !0xfff };
            let code = present | u32::from(write) << 1;
            let moves = program.name == "the register moves";
            let rbx = if moves { at } else { rbx };
            Some((Met::Vector(14, code, DRIVER + offset, address), rbx))
        })
}

fn check(program: &Program, rbx: u64) {
    let name = format!("{} at {rbx:#x}", program.name);
    let (mut machine, state) = machine(program, rbx);
    machine.vcpus[0].set_state(&state).unwrap();
    let met = machine.run(0);
    let after = machine.vcpus[0].state().unwrap();
    if let Some(fault) = fault(program, rbx) {
        assert_eq!((met, after.gprs[gpr::RBX]), fault, "{name}");
        return;
    }
    assert_eq!(met, Met::Halt, "{name}");
    let found = [gpr::RAX, gpr::RCX, gpr::RDX].map(|number| after.gprs[number]);
    assert_eq!(found, (program.results)(rbx), "{name}");
    let expected = [(gpr::RSP, state.gprs[gpr::RSP]), (gpr::RDI, RDI)];
    for (number, value) in expected {
        assert_eq!(after.gprs[number], value, "{name}");
    }
}

#[test]
fn accesses_through_one_register_are_each_what_they_are_alone() {
    for program in PROGRAMS {
        // All around the end of the first page, byte by byte; in a page; at the hole and in what is read-only.
        let around = (WINDOW + 0xfd0)..(WINDOW + 0x1020);
        around.for_each(|rbx| check(program, rbx));
        check(program, WINDOW + 0x800);
        if program.name == "the stack" {
            continue;
        }
        for rbx in (HOLE - 0x20..HOLE + 8).chain([READ_ONLY, READ_ONLY + 0x800]) {
            check(program, rbx);
        }
    }
}

/// The same code in pages and across them in turn: the way without shared checks is taken, left and taken again.
#[test]
fn the_same_code_goes_both_ways() {
    let program = &PROGRAMS[0];
    let (mut machine, mut state) = machine(program, 0);
    for turn in 0..20 {
        let rbx = WINDOW + if turn % 3 == 1 { 0xff4 } else { 0x10 * turn };
        state.gprs[gpr::RBX] = rbx;
        machine.vcpus[0].set_state(&state).unwrap();
        assert_eq!(machine.run(0), Met::Halt);
        let after = machine.vcpus[0].state().unwrap();
        let found = [gpr::RAX, gpr::RCX, gpr::RDX].map(|number| after.gprs[number]);
        assert_eq!(found, (program.results)(rbx), "turn {turn} at {rbx:#x}");
    }
}
