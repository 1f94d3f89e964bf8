//! SYSCALL and SYSRET: a program and its kernel, in translated code and one instruction at a time by the interpreter, which must
//! come to the same.
//!
//! Every program goes round [`ROUNDS`] times. The first SYSCALL is the interpreter's, which opens the passages; what is
//! rare happens in the last round, when they have been used.

mod chance;
mod events;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use vcpu::{
    EngineMemory, Exit, Injection, Pass, ProbeSink, Probes, Reply, Spot, Vcpu, VcpuState, gpr,
};
use x86::{Cr0, Cr4, Efer, Rflags, Segment};

use crate::machine::{DRIVER, Machine, Met, NX, P, U, W, WINDOW};

const PROGRAM: u64 = WINDOW;
const DATA: u64 = WINDOW + 0x1000;
const KERNEL: u64 = WINDOW + 0x2000;
/// A page of the program's that has the same place in TLBs as that of the kernel's.
const BESIDE: u64 = KERNEL + 0x40_0000;
/// Where a second handler lies.
const OTHER: u64 = DRIVER + 0x2000;
const KERNEL_STACK: u32 = 0x1f_0000;
const ROUNDS: u8 = 4;
const IDT: u64 = 0x5000;
const STUB_OF_NMI: u64 = 0x6020;
const TSS: u64 = 0x7000;
/// Where exceptions come.
const RING0_STACK: u64 = 0x9000;

const STAR: u64 = 0x10 << 32 | 0x20 << 48;
const MASK: u64 = 0x4_7700;

const SYSCALL: &[u8] = b"\x0f\x05";
const SYSRET: &[u8] = b"\x48\x0f\x07";
const SYSRET_32: &[u8] = b"\x0f\x07";
const STAC: &[u8] = b"\x0f\x01\xcb";
const CLAC: &[u8] = b"\x0f\x01\xca";
const SWAPGS: &[u8] = b"\x0f\x01\xf8";
const UD2: &[u8] = b"\x0f\x0b";
/// mov rax, [rbx]: RBX leads to data of the program.
const READ_DATA: &[u8] = b"\x48\x8b\x03";
/// mov rdx, [r12]: R12 leads to data of the kernel.
const READ_KERNEL: &[u8] = b"\x49\x8b\x14\x24";
/// mov [r12], rax
const WRITE_KERNEL: &[u8] = b"\x49\x89\x04\x24";
/// mov rsi, rcx; mov rdi, r11; mov eax, cs; mov edx, ss
const LOOK: &[u8] = b"\x48\x89\xce\x4c\x89\xdf\x8c\xc8\x8c\xd2";
/// mov eax, cs; mov edx, ss
const SELECTORS: &[u8] = b"\x8c\xc8\x8c\xd2";
/// pushfq; pop r8
const FLAGS: &[u8] = b"\x9c\x41\x58";
/// push 0x2b; push r14; push r11; push 0x33; push rcx; iretq: behind [`take_stack`].
const IRETQ: &[u8] = b"\x6a\x2b\x41\x56\x41\x53\x6a\x33\x51\x48\xcf";

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// `code` where R15, which counts rounds down, is `round`; the status flags are those of that comparison.
fn in_round(round: u8, code: &[u8]) -> Vec<u8> {
    joined(&[&[0x41, 0x83, 0xff, round, 0x75, code.len() as u8], code])
}

fn in_the_last(code: &[u8]) -> Vec<u8> {
    in_round(1, code)
}

/// mov r14, rsp; mov esp, KERNEL_STACK
fn take_stack() -> Vec<u8> {
    joined(&[b"\x49\x89\xe6\xbc", &KERNEL_STACK.to_le_bytes()])
}

/// `code` on the kernel's stack; R14 is clobbered.
fn on_stack(code: &[u8]) -> Vec<u8> {
    joined(&[&take_stack(), code, b"\x4c\x89\xf4"])
}

/// mov r14, rcx; mov ecx, MSR; mov eax, LOW; mov edx, HIGH; wrmsr; mov rcx, r14
fn write_msr(msr: u32, value: u64) -> Vec<u8> {
    joined(&[
        b"\x49\x89\xce\xb9",
        &msr.to_le_bytes(),
        b"\xb8",
        &(value as u32).to_le_bytes(),
        b"\xba",
        &((value >> 32) as u32).to_le_bytes(),
        b"\x0f\x30\x4c\x89\xf1",
    ])
}

/// mov rax, cr4; and eax, !OFF; or eax, ON; mov cr4, rax
fn change_cr4(on: Cr4, off: Cr4) -> Vec<u8> {
    let bits = |cr4: Cr4| cr4.bits() as u32;
    joined(&[
        b"\x0f\x20\xe0\x25",
        &(!bits(off)).to_le_bytes(),
        b"\x0d",
        &bits(on).to_le_bytes(),
        b"\x0f\x22\xe0",
    ])
}

/// Where a test expects something to happen.
#[derive(Clone, Copy)]
enum At {
    /// Part of the program; those behind the last are DEC R15 with JNZ, and HLT.
    Program(usize),
    /// So many bytes into such a part.
    InProgram(usize, u64),
    Handler(usize),
    There(u64),
}

/// A program that goes round, and its handlers.
struct Case<'a> {
    program: &'a [&'a [u8]],
    handler: &'a [&'a [u8]],
    other: &'a [u8],
    begin: &'a dyn Fn(&mut VcpuState, &Machine),
}

const PLAIN: Case<'_> = Case {
    program: &[SYSCALL],
    handler: &[SYSRET],
    other: SYSRET,
    begin: &|_, _| {},
};

/// The end of a program that has come to its end: HLT in ring 3 is refused.
fn end(program: &[&[u8]]) -> (u8, u32, At, u64) {
    (13, 0, At::Program(program.len() + 1), 0)
}

fn starts(base: u64, parts: &[&[u8]]) -> Vec<u64> {
    let lens = parts.iter().scan(base, |at, part| {
        let start = *at;
        *at += part.len() as u64;
        Some(start)
    });
    lens.collect()
}

/// What a machine is like behind a program.
#[derive(PartialEq, Debug)]
struct Seen {
    met: Met,
    gprs: [u64; 16],
    rip: u64,
    rflags: u64,
    selectors: (u16, u16),
    segments: (Segment, Segment),
    cr2: u64,
    gs: (u64, u64),
    data: Vec<u64>,
    kernel: Vec<u64>,
    stacks: Vec<u64>,
}

impl Case<'_> {
    fn program(&self) -> Vec<u8> {
        let mut code = self.program.concat();
        let back = -(code.len() as i32 + 9);
        code.extend_from_slice(b"\x41\xff\xcf\x0f\x85");
        code.extend_from_slice(&back.to_le_bytes());
        code.push(0xf4);
        code
    }

    /// A machine that is about to run the program, one instruction at a time if it is `careful`.
    fn machine(&self, is_careful: bool) -> Machine {
        let mut machine = Machine::new(1);
        let state = self.prepare(&mut machine, is_careful);
        machine.vcpus[0].set_state(&state).unwrap();
        machine
    }

    fn prepare(&self, machine: &mut Machine, is_careful: bool) -> VcpuState {
        machine.map(PROGRAM, 0x40_0000, P | U);
        machine.map(DATA, 0x40_1000, P | W | U | NX);
        machine.map(KERNEL, 0x40_2000, P | W | NX);
        machine.map(BESIDE, 0x40_3000, P | W | U | NX);
        for at in (0..0x4000).step_by(8) {
            machine.put(0x40_0000 + at, 0x1111_0000_0000 + at);
        }
        machine.write(0x40_0000, &self.program());
        machine.write(OTHER, self.other);
        // Handlers have the program's stack, where nothing can be delivered under SMAP: gates have their own.
        machine.put(TSS + 0x24, RING0_STACK);
        for gate in (IDT..IDT + 0x1000).step_by(16) {
            machine.put(gate, machine.word(gate) | 1 << 32);
        }
        let mut state = machine.start(&self.handler.concat());
        state.cr0 |= Cr0::WP;
        state.cr4 |= Cr4::SMAP;
        state.efer |= Efer::SCE;
        state.msrs.star = STAR;
        state.msrs.lstar = DRIVER;
        state.msrs.cstar = OTHER;
        state.msrs.syscall_mask = MASK;
        state.msrs.kernel_gs_base = KERNEL;
        state.cs = Segment {
            base: 0,
            ..Segment::from_descriptor(0x33, 0x00af_fb00_0000_ffff)
        };
        state.ss = Segment::from_descriptor(0x2b, 0x00cf_f300_0000_ffff);
        state.ds = state.ss;
        state.es = state.ss;
        state.gs.base = DATA;
        state.rip = PROGRAM;
        state.rflags |= Rflags::IF;
        state.gprs = std::array::from_fn(|number| 0x0101_0101_0101 * number as u64);
        state.gprs[gpr::RSP] = DATA + 0x800;
        state.gprs[gpr::RBX] = DATA;
        state.gprs[12] = KERNEL;
        state.gprs[gpr::R15] = u64::from(ROUNDS);
        if is_careful {
            // A breakpoint that is never met.
            state.debug.address[3] = 0x70_0000;
            state.debug.dr7 |= 0x80;
        }
        (self.begin)(&mut state, machine);
        state
    }

    fn place(&self, at: At) -> u64 {
        let program = starts(PROGRAM, self.program);
        let behind = PROGRAM + self.program.concat().len() as u64;
        match at {
            At::Program(part) if part == program.len() => behind,
            At::Program(part) if part > program.len() => behind + 9,
            At::Program(part) => program[part],
            At::InProgram(part, offset) => program[part] + offset,
            At::Handler(part) => starts(DRIVER, self.handler)[part],
            At::There(there) => there,
        }
    }

    /// What is met: vector, error code, where, and CR2. Both machines must come to it, and be the same there.
    #[track_caller]
    fn check(&self, name: &str, expected: (u8, u32, At, u64)) -> Seen {
        let (seen, [few, many]) = self.compare(name, expected);
        assert!(few < many, "{name}: {few} and {many} were interpreted");
        seen
    }

    /// The same where passages may stay shut; also how many instructions were interpreted in each.
    #[track_caller]
    fn compare(&self, name: &str, expected: (u8, u32, At, u64)) -> (Seen, [u64; 2]) {
        let (vector, error, at, address) = expected;
        let expected = Met::Vector(vector, error, self.place(at), address);
        let mut machine = self.machine(false);
        let met = machine.run(0);
        assert_eq!(met, expected, "{name}");
        let seen = look(&mut machine, met);
        let mut careful = self.machine(true);
        let met = careful.run(0);
        assert_eq!(seen, look(&mut careful, met), "{name}: as the interpreter");
        (seen, [&machine, &careful].map(interpreted))
    }
}

fn interpreted(machine: &Machine) -> u64 {
    let statistics = machine.vcpus[0].statistics();
    statistics.get("interpreted instructions").unwrap()
}

fn look(machine: &mut Machine, met: Met) -> Seen {
    let state = machine.vcpus[0].state().unwrap();
    let words = |from: u64, to: u64| (from..to).step_by(8).map(|at| machine.word(at)).collect();
    Seen {
        met,
        gprs: state.gprs,
        rip: state.rip,
        rflags: state.rflags.bits(),
        selectors: (state.cs.selector, state.ss.selector),
        segments: (state.cs, state.ss),
        cr2: state.cr2,
        gs: (state.gs.base, state.msrs.kernel_gs_base),
        data: words(0x40_1000, 0x40_2000),
        kernel: words(0x40_2000, 0x40_3000),
        // Of exceptions from ring 3, and of the handlers.
        stacks: [words(0x8f00, 0x9000), words(0x1e_ff00, 0x1f_0000)].concat(),
    }
}

/// `setc`-like bits that LAHF would show, DF, and the rest that PUSHFQ shows.
const fn flags(bits: u64) -> u64 {
    bits | 2
}

#[test]
fn a_handler_sees_where_it_came_from_and_a_program_goes_on_there() {
    let case = Case {
        handler: &[LOOK, &on_stack(FLAGS), SYSRET],
        ..PLAIN
    };
    let seen = case.check("a call", end(case.program));
    assert_eq!(seen.gprs[gpr::RSI], PROGRAM + 2, "RCX");
    assert_eq!(seen.gprs[gpr::RCX], PROGRAM + 2, "RCX of the program");
    // DEC R15 from 2 leaves no flag; IF and the bit that is always set.
    assert_eq!(seen.gprs[gpr::RDI], flags(0x200), "R11");
    assert_eq!(seen.gprs[gpr::R8], flags(0), "RFLAGS of the handler");
    assert_eq!(
        (seen.gprs[gpr::RAX], seen.gprs[gpr::RDX]),
        (0x10, 0x18),
        "CS and SS"
    );
    let case = Case {
        program: &[SYSCALL, SELECTORS, FLAGS],
        ..PLAIN
    };
    let seen = case.check("the way back", end(case.program));
    assert_eq!((seen.gprs[gpr::RAX], seen.gprs[gpr::RDX]), (0x33, 0x2b));
    assert_eq!(seen.gprs[gpr::R8], flags(0x200));
}

#[test]
fn the_interpreter_has_the_first_call_and_no_other() {
    let mut machine = PLAIN.machine(false);
    machine.run(0);
    // SYSCALL, the HLT of the program, and that of the stub.
    assert_eq!(interpreted(&machine), 3);
    let mut careful = PLAIN.machine(true);
    careful.run(0);
    assert_eq!(interpreted(&careful), 2 * u64::from(ROUNDS) + 2);
}

/// What the program makes of its flags before the call, and R11 and RFLAGS in the handler.
#[test]
fn flags_are_kept_for_the_way_back_and_masked_for_the_handler() {
    for (name, set, mask, kept, handlers) in [
        ("stc", &b"\xf9"[..], MASK, 0x201, 0),
        ("stc that stays", b"\xf9", MASK, 0x201, 1),
        ("stc that is masked", b"\xf9", MASK | 0x8d5, 0x201, 0),
        ("xor ecx, ecx", b"\x31\xc9", MASK, 0x246, 0x44),
        ("or ecx, -1", b"\x83\xc9\xff", MASK, 0x286, 0x84),
        (
            "or ecx, -1, SF masked",
            b"\x83\xc9\xff",
            MASK | 0x80,
            0x286,
            4,
        ),
        (
            "mov ecx, 0x7fffffff; inc ecx",
            b"\xb9\xff\xff\xff\x7f\xff\xc1",
            MASK,
            0xa94 | 2,
            0x894,
        ),
        ("std", b"\xf9\xfd", MASK, 0x601, 1),
        (
            "everything there is, by popfq",
            b"\x68\xd5\x4c\x24\0\x9d",
            MASK,
            0x24_4ed5,
            0x20_08d5,
        ),
        (
            "everything there is, all masked",
            b"\x68\xd5\x4c\x24\0\x9d",
            0xffff_ffff,
            0x24_4ed5,
            0,
        ),
    ] {
        let handlers = if name == "stc" { 1 } else { handlers };
        let case = Case {
            program: &[set, SYSCALL, FLAGS],
            // mov r9, r8: what the handler saw
            handler: &[LOOK, &on_stack(b"\x9c\x41\x59"), SYSRET],
            begin: &|state, _| state.msrs.syscall_mask = mask,
            ..PLAIN
        };
        let seen = case.check(name, end(case.program));
        assert_eq!(seen.gprs[gpr::RDI], flags(kept), "{name}: R11");
        assert_eq!(seen.gprs[gpr::R8], flags(kept), "{name}: behind SYSRET");
        assert_eq!(seen.gprs[9], flags(handlers), "{name}: in the handler");
    }
}

/// A handler that is not always in the same mode, or whose flags are not always the same, is left to the interpreter.
#[test]
fn a_mask_that_leaves_a_flag_to_the_handler_leaves_it() {
    // push FLAGS; popfq
    let set_ac = in_round(2, b"\x68\x02\x02\x04\0\x9d");
    let clear_ac = in_round(1, b"\x68\x02\x02\0\0\x9d");
    let read = joined(&[b"\x41\x83\xff\x02\x77\x03", READ_DATA]);
    let case = Case {
        program: &[&set_ac, &clear_ac, SYSCALL],
        handler: &[&read, SYSRET],
        begin: &|state, _| state.msrs.syscall_mask = MASK & !Rflags::AC.bits(),
        ..PLAIN
    };
    let refused = (14, 1, At::There(DRIVER + 6), DATA);
    let (_, [few, many]) = case.compare("AC of the program's, then none", refused);
    assert_eq!(few, many, "the passages are shut");
    let (seen, _) = Case {
        handler: &[&on_stack(FLAGS), SYSRET],
        begin: &|state, _| state.msrs.syscall_mask = MASK & !Rflags::IF.bits(),
        ..PLAIN
    }
    .compare("IF", end(&[&[]]));
    assert_eq!(seen.gprs[gpr::R8], flags(0x200));
    let step = in_the_last(b"\x9c\x81\x0c\x24\0\x01\0\0\x9d");
    let case = Case {
        program: &[&step, SYSCALL],
        handler: &[b"\x90", SYSRET],
        begin: &|state, _| state.msrs.syscall_mask = MASK & !Rflags::TF.bits(),
        ..PLAIN
    };
    case.compare("TF", (1, 0, At::Handler(0), 0));
}

/// What STAC and CLAC put in place is that of the handler's side, whatever the program's was when Rust last looked.
#[test]
fn stac_and_clac_of_the_handler_know_nothing_of_the_program() {
    // push 0x200202 (ID); popfq, and a page that no round before has touched
    let id = b"\x68\x02\x02\x20\0\x9d";
    let case = Case {
        program: &[id, SYSCALL],
        handler: &[
            STAC,
            &on_stack(FLAGS),
            CLAC,
            &on_stack(b"\x9c\x41\x59"),
            SYSRET,
        ],
        begin: &|state, _| state.msrs.syscall_mask = 0xffff_ffff,
        ..PLAIN
    };
    let seen = case.check("flags", end(case.program));
    assert_eq!(seen.gprs[gpr::R8], flags(0x4_0000), "behind STAC");
    assert_eq!(seen.gprs[9], flags(0), "behind CLAC");
    let miss = in_round(2, READ_DATA);
    let missed_write = in_round(2, b"\x48\x89\x53\x08");
    // mov r10d, BESIDE; mov [r10], r10
    let beside = joined(&[b"\x41\xba", &(BESIDE as u32).to_le_bytes(), b"\x4d\x89\x12"]);
    let beside = in_round(2, &beside);
    for (name, miss) in [
        ("a read", &miss),
        ("a write", &missed_write),
        (
            "a write to what shares a TLB entry with the kernel's page",
            &beside,
        ),
    ] {
        let case = Case {
            program: &[miss, SYSCALL],
            handler: &[
                STAC,
                WRITE_KERNEL,
                // mov [rbx + 0x20], rax; mov rdx, [rbx + 0x20]
                b"\x48\x89\x43\x20\x48\x8b\x53\x20",
                READ_KERNEL,
                CLAC,
                SYSRET,
            ],
            ..PLAIN
        };
        let seen = case.check(name, end(case.program));
        assert_eq!(
            seen.kernel[0],
            seen.gprs[gpr::RAX],
            "{name} of the program's misses"
        );
        assert_eq!(
            seen.data[4],
            seen.gprs[gpr::RAX],
            "{name} of the program's misses"
        );
    }
}

/// The handler changes R11 before it returns, in the last round: what PUSHFQ shows in the program.
#[test]
fn a_handler_decides_on_the_programs_flags() {
    for (name, change, seen_flags) in [
        ("AC", &b"\x49\x81\xcb\0\0\x04\0"[..], 0x4_0200),
        ("ID", b"\x49\x81\xcb\0\0\x20\0", 0x20_0200),
        ("IOPL 3", b"\x49\x81\xcb\0\x30\0\0", 0x3200),
        ("NT", b"\x49\x81\xcb\0\x40\0\0", 0x4200),
        ("RF, which is ignored", b"\x49\x81\xcb\0\0\x01\0", 0x200),
        ("DF", b"\x49\x81\xcb\0\x04\0\0", 0x600),
        ("all status flags", b"\x49\x81\xcb\xd5\x08\0\0", 0xad5),
        ("no IF", b"\x49\x81\xe3\xff\xfd\xff\xff", 0),
        ("nothing at all: xor r11d, r11d", b"\x45\x31\xdb", 0),
        (
            "what no flag is: bts r11, 63; or r11d, 0x28",
            b"\x49\x0f\xba\xeb\x3f\x41\x83\xcb\x28",
            0x200,
        ),
    ] {
        let change = in_the_last(&joined(&[b"\x41\xbb\x02\x02\0\0", change]));
        let case = Case {
            program: &[SYSCALL, FLAGS],
            handler: &[&change, SYSRET],
            ..PLAIN
        };
        // What is no flag in the upper half is lost where R11 is 32 bits wide.
        let seen = case.check(name, end(case.program));
        assert_eq!(seen.gprs[gpr::R8], flags(seen_flags), "{name}");
    }
}

#[test]
fn a_return_to_no_address_is_refused_in_the_handler() {
    // bts rcx, 47
    let nowhere = in_the_last(b"\x48\x0f\xba\xe9\x2f");
    for (name, off) in [("with SMAP", Cr4::empty()), ("without SMAP", Cr4::SMAP)] {
        let case = Case {
            handler: &[&nowhere, SYSRET],
            begin: &|state, _| state.cr4 -= off,
            ..PLAIN
        };
        case.check(name, (13, 0, At::Handler(1), 0));
    }
    // bts rcx, 63; mov ecx, 0x70000000: an address where nothing is
    for (name, change, error, address) in [
        ("the upper half", &b"\x48\x83\xc9\xff"[..], 0x14, u64::MAX),
        ("a page that is none", b"\xb9\0\0\0\x70", 0x14, 0x7000_0000),
        ("a page of the kernel's", b"\xb9\0\0\x10\0", 0x15, DRIVER),
    ] {
        let change = in_the_last(change);
        let case = Case {
            handler: &[&change, SYSRET],
            ..PLAIN
        };
        case.check(name, (14, error, At::There(address), address));
    }
}

#[test]
fn each_side_reaches_its_own_pages_and_no_others() {
    let read = in_the_last(READ_DATA);
    let call_program = in_the_last(b"\xff\xe1");
    let read_kernel = in_the_last(READ_KERNEL);
    let write_kernel = in_the_last(WRITE_KERNEL);
    let jump_to_handler = in_the_last(b"\xb8\0\0\x10\0\xff\xe0");
    let touch = joined(&[READ_KERNEL, WRITE_KERNEL]);
    let with_stac = joined(&[STAC, READ_DATA, CLAC]);
    let bad = |name: &str, program: &[&[u8]], handler: &[&[u8]], expected| {
        let case = Case {
            program,
            handler,
            ..PLAIN
        };
        case.check(name, expected);
    };
    bad(
        "the handler reads data of the program's",
        &[READ_DATA, SYSCALL],
        &[&read, SYSRET],
        (14, 1, At::There(DRIVER + 6), DATA),
    );
    bad(
        "between STAC and CLAC it may, and behind them not",
        &[READ_DATA, SYSCALL],
        &[&with_stac, &read, SYSRET],
        (14, 1, At::There(DRIVER + 9 + 6), DATA),
    );
    bad(
        "between STAC and CLAC it may",
        &[READ_DATA, SYSCALL],
        &[&with_stac, SYSRET],
        end(&[&[], &[]]),
    );
    bad(
        "what STAC allows ends with the handler",
        &[READ_DATA, SYSCALL],
        &[&read, STAC, READ_DATA, SYSRET],
        (14, 1, At::There(DRIVER + 6), DATA),
    );
    bad(
        "the program reads what the handler has read",
        &[SYSCALL, &read_kernel],
        &[&touch, SYSRET],
        (14, 5, At::InProgram(1, 6), KERNEL),
    );
    bad(
        "the program writes what the handler has written",
        &[SYSCALL, &write_kernel],
        &[&touch, SYSRET],
        (14, 7, At::InProgram(1, 6), KERNEL),
    );
    bad(
        "the program reads it behind a STAC of the handler's",
        &[SYSCALL, &read_kernel],
        &[STAC, &touch, SYSRET],
        (14, 5, At::InProgram(1, 6), KERNEL),
    );
    bad(
        "the handler jumps to the program: SMEP",
        &[SYSCALL],
        &[&call_program, SYSRET],
        (14, 0x11, At::Program(1), PROGRAM + 2),
    );
    bad(
        "the program jumps to the handler",
        &[SYSCALL, &jump_to_handler],
        &[SYSRET],
        (14, 0x15, At::There(DRIVER), DRIVER),
    );
}

#[test]
fn what_the_kernel_sets_anew_holds_from_the_next_call_on() {
    const LSTAR: u32 = 0xc000_0082;
    let other = joined(&[b"\x49\xff\xc5", SYSRET]);
    let to_other = in_round(3, &write_msr(LSTAR, OTHER));
    let case = Case {
        handler: &[&to_other, SYSRET],
        other: &other,
        begin: &|state, _| state.gprs[13] = 0,
        ..PLAIN
    };
    let seen = case.check("LSTAR", end(case.program));
    assert_eq!(seen.gprs[13], 2, "calls that came to the other handler");

    // The program's selectors are 0x53 and 0x4b from then on, the kernel's 0x60 and 0x68; nothing reads their descriptors.
    let star = in_round(2, &write_msr(0xc000_0081, 0x60 << 32 | 0x40 << 48));
    let case = Case {
        program: &[SYSCALL, b"\x8c\xce\x8c\xd7"],
        handler: &[SELECTORS, &star, &in_the_last(SELECTORS), SYSRET],
        ..PLAIN
    };
    let seen = case.check("STAR", end(case.program));
    assert_eq!(
        (seen.gprs[gpr::RAX], seen.gprs[gpr::RDX]),
        (0x60, 0x68),
        "of the handler"
    );
    assert_eq!(
        (seen.gprs[gpr::RSI], seen.gprs[gpr::RDI]),
        (0x53, 0x4b),
        "of the program"
    );

    let mask = in_round(3, &write_msr(0xc000_0084, MASK | 1));
    let case = Case {
        program: &[b"\xf9", SYSCALL],
        handler: &[&on_stack(FLAGS), &mask, SYSRET],
        ..PLAIN
    };
    let seen = case.check("the mask", end(case.program));
    assert_eq!(seen.gprs[gpr::R8], flags(0), "CF is masked now");

    let efer = write_msr(0xc000_0080, (Efer::LME | Efer::LMA | Efer::NXE).bits());
    let off = in_round(2, &efer);
    let case = Case {
        handler: &[&off, SYSRET],
        ..PLAIN
    };
    case.check("EFER.SCE, and SYSRET", (6, 0, At::Handler(1), 0));
    let off = in_round(2, &joined(&[&efer, &take_stack(), IRETQ]));
    let case = Case {
        handler: &[&off, SYSRET],
        ..PLAIN
    };
    case.check("EFER.SCE, and SYSCALL", (6, 0, At::Program(0), 0));
}

#[test]
fn control_registers_change_what_the_other_side_may() {
    // rdtsc; xor eax, eax; xor edx, edx
    const TIME: &[u8] = b"\x0f\x31\x31\xc0\x31\xd2";
    let forbid = in_round(2, &change_cr4(Cr4::TSD, Cr4::empty()));
    let case = Case {
        program: &[SYSCALL, TIME],
        handler: &[&forbid, SYSRET],
        ..PLAIN
    };
    case.check("CR4.TSD", (13, 0, At::Program(1), 0));

    let off = in_round(3, &change_cr4(Cr4::empty(), Cr4::SMAP));
    let on = in_round(1, &change_cr4(Cr4::SMAP, Cr4::empty()));
    let read = in_round(2, READ_DATA);
    let read_again = in_the_last(READ_DATA);
    let case = Case {
        program: &[READ_DATA, SYSCALL],
        handler: &[&off, &read, &on, &read_again, SYSRET],
        ..PLAIN
    };
    let at = DRIVER + joined(&[&off, &read, &on]).len() as u64 + 6;
    case.check("CR4.SMAP off and on again", (14, 1, At::There(at), DATA));

    // jmp rcx: HLT of the program then halts in ring 0.
    let off = in_round(3, &change_cr4(Cr4::empty(), Cr4::SMEP));
    let on = in_round(2, &change_cr4(Cr4::SMEP, Cr4::empty()));
    let go = in_the_last(b"\xff\xe1");
    let case = Case {
        handler: &[&off, &on, &go, SYSRET],
        ..PLAIN
    };
    case.check(
        "CR4.SMEP off and on again",
        (14, 0x11, At::Program(1), PROGRAM + 2),
    );
}

/// The handler gives the program's data another page: add [r13], 0x1000 where R13 leads to the entry.
#[test]
fn a_flush_in_the_handler_is_the_programs_too() {
    for (name, flush) in [
        ("mov cr3", &b"\x0f\x20\xd8\x0f\x22\xd8"[..]),
        ("invlpg [rbx]", b"\x0f\x01\x3b"),
    ] {
        let move_data = joined(&[b"\x49\x81\x45\0\0\x10\0\0", flush]);
        let change = in_round(2, &move_data);
        let case = Case {
            program: &[SYSCALL, READ_DATA],
            handler: &[&change, SYSRET],
            begin: &|state, machine| state.gprs[13] = leaf_entry(machine, state.cr3, DATA),
            ..PLAIN
        };
        let seen = case.check(name, end(case.program));
        assert_eq!(seen.gprs[gpr::RAX], 0x1111_0000_2000, "{name}");
    }
}

fn leaf_entry(machine: &Machine, root: u64, gva: u64) -> u64 {
    let table = [39, 30, 21].into_iter().fold(root, |table, shift| {
        machine.word(table + (gva >> shift & 0x1ff) * 8) & 0xf_ffff_ffff_f000
    });
    table + (gva >> 12 & 0x1ff) * 8
}
