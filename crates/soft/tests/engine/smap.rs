//! STAC and CLAC in ring 0: what a supervisor may do with user pages before, between and behind them, also where one
//! check would do for several accesses, and what becomes of the flags.
//!
//! Every program goes round three times, so that what was chained and looked up the first time is used too.

use vcpu::{Vcpu, VcpuState, gpr};
use x86::{Cr0, Cr4, Rflags};

use crate::machine::{DRIVER, Machine, Met, P, U, W, WINDOW};

const USER: u64 = WINDOW;
const KERNEL: u64 = WINDOW + 0x2000;
const RDI: u64 = 0x1234_5678;
const STAC: &[u8] = b"\x0f\x01\xcb";
const CLAC: &[u8] = b"\x0f\x01\xca";
/// mov rax, [rbx]
const READ: &[u8] = b"\x48\x8b\x03";
/// mov rcx, [rbx + 8]
const READ_NEXT: &[u8] = b"\x48\x8b\x4b\x08";
/// mov rdx, [rbx + 16]
const READ_THIRD: &[u8] = b"\x48\x8b\x53\x10";
/// mov [rbx + 16], rdi
const WRITE_THIRD: &[u8] = b"\x48\x89\x7b\x10";
/// mov rdx, [rbx + 0xffc]
const READ_ACROSS: &[u8] = b"\x48\x8b\x93\xfc\x0f\0\0";
/// mov rsi, rbx; mov rdi, r12; mov ecx, 8
const AIM: &[u8] = b"\x48\x89\xde\x4c\x89\xe7\xb9\x08\0\0\0";
/// rep movsb
const COPY: &[u8] = b"\xf3\xa4";
/// pushfq; pop rax
const FLAGS: &[u8] = b"\x9c\x58";
/// pushfq; pop rcx
const FLAGS_NEXT: &[u8] = b"\x9c\x59";

fn word(at: u64) -> u64 {
    at.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// What is true of registers and memory.
type Holds = fn(&[u64; 16], &Machine) -> bool;

/// What the programs meet that are made of `parts`: an end, or the vector, the code and the part of an exception.
#[track_caller]
fn check(
    name: &str,
    parts: &[&[u8]],
    begin: impl Fn(&mut VcpuState),
    expected: Result<Holds, (u8, u32, usize, u64)>,
) {
    let mut code = b"\x41\xbf\x03\0\0\0".to_vec();
    let mut starts = Vec::new();
    for part in parts {
        starts.push(DRIVER + code.len() as u64);
        code.extend_from_slice(part);
    }
    let back = -(code.len() as i64 - 6 + 5) as i8;
    code.extend_from_slice(&[0x41, 0xff, 0xcf, 0x75, back as u8, 0xf4]);
    let mut machine = Machine::new(1);
    for (gva, gpa, flags) in [
        (USER, 0x40_0000, P | W | U),
        (USER + 0x1000, 0x60_0000, P | W | U),
        (KERNEL, 0x80_0000, P | W),
    ] {
        machine.map(gva, gpa, flags);
        for at in (0..0x1000).step_by(8) {
            machine.put(gpa + at, word(gva + at));
        }
    }
    let mut state = machine.start(&code);
    state.cr0 |= Cr0::WP;
    state.cr4 |= Cr4::SMAP;
    state.gprs[gpr::RBX] = USER;
    state.gprs[gpr::RDI] = RDI;
    state.gprs[12] = KERNEL;
    begin(&mut state);
    machine.vcpus[0].set_state(&state).unwrap();
    let met = machine.run(0);
    match expected {
        Ok(holds) => {
            assert_eq!(met, Met::Halt, "{name}");
            let gprs = machine.vcpus[0].state().unwrap().gprs;
            assert!(holds(&gprs, &machine), "{name}: {gprs:x?}");
        }
        Err((vector, error, part, address)) => {
            let expected = Met::Vector(vector, error, starts[part], address);
            assert_eq!(met, expected, "{name}");
        }
    }
}

#[test]
fn what_is_allowed_between_them_is_not_allowed_behind_them() {
    let nothing = |_: &mut VcpuState| {};
    check(
        "reads and a write between them",
        &[STAC, READ, READ_NEXT, WRITE_THIRD, CLAC],
        nothing,
        Ok(|gprs, machine| {
            gprs[gpr::RAX] == word(USER)
                && gprs[gpr::RCX] == word(USER + 8)
                && machine.word(0x40_0010) == RDI
        }),
    );
    for (name, parts, code, at) in [
        (
            "a read behind CLAC",
            [STAC, READ, READ_NEXT, CLAC, READ_THIRD],
            1,
            16,
        ),
        (
            "a write behind CLAC",
            [STAC, WRITE_THIRD, READ, CLAC, WRITE_THIRD],
            3,
            16,
        ),
        (
            "a read across pages behind CLAC",
            [STAC, READ_ACROSS, READ, CLAC, READ_ACROSS],
            1,
            0xffc,
        ),
    ] {
        check(name, &parts, nothing, Err((14, code, 4, USER + at)));
    }
    check(
        "a read before STAC",
        &[READ, STAC, CLAC],
        nothing,
        Err((14, 1, 0, USER)),
    );
    check(
        "a copy between them",
        &[AIM, STAC, COPY, CLAC],
        nothing,
        Ok(|_, machine| machine.word(0x80_0000) == word(USER)),
    );
    check(
        "a copy behind CLAC",
        &[AIM, STAC, COPY, CLAC, AIM, COPY],
        nothing,
        Err((14, 1, 5, USER)),
    );
    check(
        "two that follow each other",
        &[
            STAC, CLAC, STAC, READ, CLAC, CLAC, STAC, STAC, READ_NEXT, CLAC,
        ],
        nothing,
        Ok(|gprs, _| gprs[gpr::RAX] == word(USER) && gprs[gpr::RCX] == word(USER + 8)),
    );
}

#[test]
fn pages_of_the_supervisors_are_reached_on_both_sides() {
    check(
        "a supervisor's page",
        &[READ, STAC, READ_NEXT, CLAC, READ_THIRD],
        |state| state.gprs[gpr::RBX] = KERNEL,
        Ok(|gprs, _| {
            let read = [gprs[gpr::RAX], gprs[gpr::RCX], gprs[gpr::RDX]];
            read == [KERNEL, KERNEL + 8, KERNEL + 16].map(word)
        }),
    );
}

#[test]
fn without_smap_they_change_the_flag_alone() {
    check(
        "reads on both sides",
        &[READ, STAC, READ_NEXT, FLAGS, CLAC, READ_THIRD],
        |state| state.cr4.remove(Cr4::SMAP),
        Ok(|gprs, _| {
            gprs[gpr::RAX] & Rflags::AC.bits() != 0
                && [gprs[gpr::RCX], gprs[gpr::RDX]] == [USER + 8, USER + 16].map(word)
        }),
    );
}

#[test]
fn a_flag_that_is_set_from_the_start_holds_until_clac() {
    let set = |state: &mut VcpuState| state.rflags |= Rflags::AC;
    check(
        "reads",
        &[READ, READ_NEXT],
        set,
        Ok(|gprs, _| [gprs[gpr::RAX], gprs[gpr::RCX]] == [USER, USER + 8].map(word)),
    );
    check(
        "and behind CLAC",
        &[READ, CLAC, READ_NEXT],
        set,
        Err((14, 1, 2, USER + 8)),
    );
}

#[test]
fn other_flags_and_registers_stay_and_ac_is_seen() {
    let nothing = |_: &mut VcpuState| {};
    check(
        "PUSHFQ",
        &[STAC, FLAGS, CLAC, FLAGS_NEXT],
        nothing,
        Ok(|gprs, _| {
            let ac = Rflags::AC.bits();
            gprs[gpr::RAX] & ac != 0
                && gprs[gpr::RCX] & ac == 0
                && (gprs[gpr::RAX] ^ gprs[gpr::RCX]) == ac
        }),
    );
    check(
        "status flags: cmp edi, edi; stac; sete al; clac; setc cl; with reads before and behind",
        &[
            STAC,
            READ,
            b"\x31\xc0\x31\xc9\x39\xff",
            STAC,
            READ_THIRD,
            b"\x0f\x94\xc0",
            CLAC,
            b"\x0f\x92\xc1",
        ],
        nothing,
        Ok(|gprs, _| gprs[gpr::RAX] == 1 && gprs[gpr::RCX] == 0 && gprs[gpr::RDI] == RDI),
    );
    check(
        "an exception between them",
        &[STAC, b"\x0f\x0b"],
        nothing,
        Err((6, 0, 1, 0)),
    );
    let all: Vec<u8> = (0..16)
        .filter(|&number| ![4, 15].contains(&number))
        .flat_map(|number: u8| [0x48 | number >> 3, 0xff, 0xc0 | number & 7])
        .collect();
    check(
        "all registers in use around them: each counts to six",
        &[&all, STAC, &all, CLAC],
        |state| {
            state.gprs = std::array::from_fn(|number| if number == 4 { state.gprs[4] } else { 0 })
        },
        Ok(|gprs, _| (0..15).all(|number| number == 4 || gprs[number] == 6)),
    );
}

#[test]
fn one_instruction_at_a_time_they_do_the_same() {
    // A breakpoint that is never met.
    let careful = |state: &mut VcpuState| {
        state.debug.address[0] = 0x70_0000;
        state.debug.dr7 |= 2;
    };
    check(
        "a read behind CLAC",
        &[STAC, READ, CLAC, READ_NEXT],
        careful,
        Err((14, 1, 3, USER + 8)),
    );
    check(
        "reads between them",
        &[STAC, READ, READ_NEXT, CLAC],
        careful,
        Ok(|gprs, _| [gprs[gpr::RAX], gprs[gpr::RCX]] == [USER, USER + 8].map(word)),
    );
}
