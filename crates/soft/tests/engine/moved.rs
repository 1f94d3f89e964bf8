//! One page of a user program, run at many addresses: what was translated for one is copied for the others, and everything
//! that depends on the address must come out as if it had been translated for it.
//!
//! The program adds up, over a loop, a value that lies in the next page, where a call returns to, and constants, and
//! writes the sum to a port in two halves. What it must be, the test computes from the address and the bytes.

use soft::Config;
use vcpu::{Vcpu, gpr};
use x86::{Rflags, Segment};

use crate::machine::{Machine, Met, NX, P, U, W};

/// At 0x100 of its page; the data are one page further, a function called from here two.
///
/// ```text
/// 100 start: lea rbx, [rip+data]; mov ecx, 3; xor eax, eax; test edi, edi; jnz other
/// 112 again: add rax, [rip+data]; call f
/// 11e        dec ecx; jnz again; call far; out 0x10, eax; shr rax, 32; out 0x10, eax; jmp start
/// 131 f:     mov rsi, [rsp]; add rax, rsi; add rax, CONSTANT; ret
/// 13d other: inc rax; jmp again
/// far:       add rax, rbx; ret
/// ```
const CODE: &[u8] = b"\x48\x8d\x1d\xf9\x0e\0\0\xb9\x03\0\0\0\x31\xc0\x85\xff\x75\x2b\
    \x48\x03\x05\xe7\x0e\0\0\xe8\x13\0\0\0\
    \xff\xc9\x75\xf0\xe8\xd9\x1e\0\0\xe7\x10\x48\xc1\xe8\x20\xe7\x10\xeb\xcf\
    \x48\x8b\x34\x24\x48\x01\xf0\x48\x83\xc0\x11\xc3\
    \x48\xff\xc0\xeb\xd0";
const FAR: &[u8] = b"\x48\x01\xd8\xc3";
const START: u64 = 0x100;
const CONSTANT_AT: u64 = 0x13b;
const RETURNS_TO: u64 = 0x11e;
const DATA: u64 = 0x1_2345_6789;

/// Two physical copies of the program, three pages each, and the constants in them.
const PROGRAMS: [u64; 2] = [0x40_0000, 0x41_0000];
const CONSTANTS: [u8; 2] = [0x11, 0x22];
const STACK: u64 = 0x50_0000;
const STACK_AT: u64 = 0x7ffd_0000_0000;

/// Addresses: of programs that are not position-independent, and of those that are.
const LOW: u64 = 0x4000_0000;
const FIRST: u64 = 0x5555_5555_5000;
const SECOND: u64 = 0x7f12_fffe_f000;

/// A step of a test.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// One of the programs appears at an address.
    Map(u64, usize),
    /// It may not be executed there any more.
    Forbid(u64),
    /// A device writes the constant of a program, with what the page has as a code page.
    Write(usize, u8),
    /// The program at the address runs, by the one way or the other, and has this constant.
    Runs(u64, bool, u8),
    /// It does not: page fault with this error code.
    Faults(u64, u32),
}

use Step::{Faults, Forbid, Map, Runs, Write};

fn machine(code_cache_bytes: usize) -> Machine {
    let mut machine = Machine::with(1, Config { code_cache_bytes });
    for (program, constant) in PROGRAMS.into_iter().zip(CONSTANTS) {
        machine.write(program + START, CODE);
        machine.write(program + CONSTANT_AT, &[constant]);
        machine.put(program + 0x1000, DATA);
        machine.write(program + 0x2000, FAR);
    }
    machine.map(STACK_AT, STACK, P | W | U | NX);
    machine
}

fn map(machine: &mut Machine, at: u64, program: usize, flags: u64) {
    for page in [0, 0x1000, 0x2000] {
        machine.map(at + page, PROGRAMS[program] + page, P | U | flags);
    }
}

/// Starts the program at an address in ring 3, with everything flushed.
fn start(machine: &mut Machine, at: u64, other: bool) {
    let mut state = machine.start(b"\xf4");
    state.rip = at + START;
    state.cs = Segment {
        selector: 0x33,
        ..Segment::from_descriptor(0x33, 0x00af_fb00_0000_ffff)
    };
    state.ss = Segment::from_descriptor(0x2b, 0x00cf_f300_0000_ffff);
    // IOPL 3: the program may write to ports.
    state.rflags = Rflags::from_bits_retain(0x3002);
    state.gprs[gpr::RSP] = STACK_AT + 0x800;
    state.gprs[gpr::RDI] = u64::from(other);
    machine.vcpus[0].set_state(&state).unwrap();
}

fn check(machine: &mut Machine, at: u64, other: bool, constant: u8, what: &str) {
    start(machine, at, other);
    let turn = DATA + at + RETURNS_TO + u64::from(constant);
    let sum = 3 * turn + at + 0x1000 + u64::from(other);
    // Twice: the second time goes through chained jumps and the jump cache.
    for time in 0..2 {
        for half in [sum as u32, (sum >> 32) as u32] {
            let met = machine.run(0);
            assert_eq!(met, Met::Out(half), "{what}: at {at:#x}, time {time}");
        }
    }
}

fn statistic(machine: &Machine, name: &str) -> u64 {
    machine.vcpus[0].statistics().get(name).unwrap()
}

#[test]
fn a_page_of_code_does_the_right_thing_wherever_it_is_mapped() {
    let both = [Map(FIRST, 0), Map(SECOND, 0), Map(LOW, 0)];
    let runs = [Runs(FIRST, false, 0x11), Runs(SECOND, false, 0x11)];
    for (what, steps) in [
        ("two addresses", vec![Runs(FIRST, false, 0x11)]),
        (
            "one is low",
            vec![
                Runs(LOW, false, 0x11),
                Runs(FIRST, true, 0x11),
                Runs(LOW, true, 0x11),
            ],
        ),
        (
            "a way that was not run before",
            vec![Runs(SECOND, true, 0x11), Runs(FIRST, true, 0x11)],
        ),
        (
            "a device writes",
            vec![
                Write(0, 0x55),
                Runs(SECOND, false, 0x55),
                Runs(FIRST, true, 0x55),
            ],
        ),
        (
            "a device writes twice",
            vec![
                Write(0, 0x55),
                Runs(SECOND, false, 0x55),
                Write(0, 0x66),
                Runs(SECOND, false, 0x66),
                Runs(FIRST, false, 0x66),
                Runs(SECOND, true, 0x66),
            ],
        ),
        (
            "other bytes at one address",
            vec![
                Map(SECOND, 1),
                Runs(SECOND, false, 0x22),
                Runs(FIRST, false, 0x11),
                Runs(SECOND, true, 0x22),
            ],
        ),
        (
            "no execution at one address",
            vec![
                Forbid(SECOND),
                Faults(SECOND, 0x15),
                Runs(FIRST, true, 0x11),
                Map(SECOND, 0),
                Runs(SECOND, true, 0x11),
            ],
        ),
        (
            "the first address is gone",
            vec![
                Forbid(FIRST),
                Runs(SECOND, true, 0x11),
                Faults(FIRST, 0x15),
                Write(0, 0x77),
                Runs(SECOND, false, 0x77),
            ],
        ),
    ] {
        let mut machine = machine(Config::default().code_cache_bytes);
        for step in both.into_iter().chain(runs).chain(steps) {
            take(&mut machine, step, what);
        }
        assert!(statistic(&machine, "moved blocks") > 2, "{what}");
    }
}

fn take(machine: &mut Machine, step: Step, what: &str) {
    match step {
        Map(at, program) => map(machine, at, program, 0),
        Forbid(at) => map(machine, at, 0, NX),
        Write(program, constant) => machine.write(PROGRAMS[program] + CONSTANT_AT, &[constant]),
        Runs(at, other, constant) => check(machine, at, other, constant, what),
        Faults(at, code) => {
            start(machine, at, false);
            let fault = Met::Vector(14, code, at + START, at + START);
            assert_eq!(machine.run(0), fault, "{what}");
        }
    }
}

/// Many addresses, in a code cache that holds few: copies are cleared again and again, and the program that was there
/// first is never the wrong one. Some ways are run for the first time in the middle, so that what is translated then leads
/// to copies.
#[test]
fn copies_that_were_cleared_are_made_again() {
    let mut machine = machine(2 << 20);
    map(&mut machine, FIRST, 0, 0);
    check(&mut machine, FIRST, false, 0x11, "first");
    for turn in 1..=400_u64 {
        let at = SECOND.wrapping_sub(turn * 0x3000);
        map(&mut machine, at, 0, 0);
        check(&mut machine, at, turn > 20 && turn % 3 == 0, 0x11, "copy");
        if turn % 7 == 0 {
            check(&mut machine, FIRST, turn % 2 == 0, 0x11, "first");
            // An address of before, whose copies may be gone.
            check(&mut machine, at + 0x3000 * 5, turn % 2 == 1, 0x11, "again");
        }
        if turn % 50 == 0 {
            let constant = CONSTANTS[0];
            machine.write(PROGRAMS[0] + CONSTANT_AT, &[constant]);
        }
    }
    assert!(statistic(&machine, "clears of moved blocks") > 2);
    assert_eq!(statistic(&machine, "code cache clears"), 0);
}
