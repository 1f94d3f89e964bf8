//! SYSCALL and SYSRET: a program and its kernel, in translated code and one instruction at a time by the interpreter, which must
//! come to the same.
//!
//! Every program goes round [`ROUNDS`] times. The first SYSCALL is the interpreter's, which opens the passages; what is
//! rare happens in the last round, when they have been used.

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

#[test]
fn exceptions_on_both_sides_have_the_frame_of_their_side() {
    let bad = in_the_last(UD2);
    let case = Case {
        program: &[SYSCALL, &bad],
        ..PLAIN
    };
    let seen = case.check("ud2 of the program", (6, 0, At::InProgram(1, 6), 0));
    // RIP, CS, RFLAGS with RF and what CMP left, RSP, SS: the uppermost of the first stack.
    let expected = [PROGRAM + 8, 0x33, 0x1_0246, DATA + 0x800, 0x2b];
    assert_eq!(seen.stacks[27..32], expected);
    let case = Case {
        handler: &[&on_stack(&bad), SYSRET],
        ..PLAIN
    };
    let at = DRIVER + take_stack().len() as u64 + 6;
    let seen = case.check("ud2 of the handler", (6, 0, At::There(at), 0));
    let expected = [at, 0x10, 0x1_0046, u64::from(KERNEL_STACK), 0x18];
    assert_eq!(seen.stacks[27..32], expected);
    // An interrupt gate that returns: the program goes on, and calls again.
    let case = Case {
        program: &[SYSCALL, b"\xcd\x21", SYSCALL],
        begin: &|_, machine| machine.write(0x6000 + 0x21 * 16, b"\x48\xcf"),
        ..PLAIN
    };
    case.check("INT and IRETQ between", end(case.program));
    let leave = joined(&[&take_stack(), IRETQ]);
    let case = Case {
        handler: &[&in_round(2, &leave), SYSRET],
        ..PLAIN
    };
    case.check("IRETQ in place of SYSRET", end(case.program));
}

#[test]
fn swapgs_on_the_way_over_leads_to_the_kernels_data_and_back() {
    // mov rax, gs:[0x10]; mov rdx, gs:[0x18]
    let read: &[u8] = b"\x65\x48\x8b\x04\x25\x10\0\0\0";
    let read_next: &[u8] = b"\x65\x48\x8b\x14\x25\x18\0\0\0";
    let case = Case {
        program: &[SYSCALL, read_next],
        handler: &[SWAPGS, read, SWAPGS, SYSRET],
        ..PLAIN
    };
    let seen = case.check("both ways", end(case.program));
    assert_eq!(seen.gprs[gpr::RAX], 0x1111_0000_2010);
    assert_eq!(seen.gprs[gpr::RDX], 0x1111_0000_1018);
    let swap = in_the_last(SWAPGS);
    let case = Case {
        program: &[SYSCALL, read_next],
        handler: &[&swap, SYSRET],
        ..PLAIN
    };
    case.check("one way", (14, 5, At::Program(1), KERNEL + 0x18));
}

#[test]
fn breakpoints_and_single_steps_work_across() {
    let program_behind = (PROGRAM + 2) as u32;
    let set = |number: u8, address: u32, dr7: u32| {
        // mov eax, ADDRESS; mov drN, rax; mov eax, DR7; mov dr7, rax
        in_round(
            2,
            &joined(&[
                b"\xb8",
                &address.to_le_bytes(),
                &[0x0f, 0x23, 0xc0 | number << 3],
                b"\xb8",
                &dr7.to_le_bytes(),
                b"\x0f\x23\xf8",
            ]),
        )
    };
    let execution = set(0, program_behind, 0x402);
    let case = Case {
        handler: &[&execution, SYSRET],
        ..PLAIN
    };
    case.check("a breakpoint of the program", (1, 0, At::Program(1), 0));
    let execution = set(0, DRIVER as u32, 0x402);
    let case = Case {
        handler: &[b"\x90", &execution, SYSRET],
        ..PLAIN
    };
    case.check("a breakpoint at the handler", (1, 0, At::Handler(0), 0));
    let data = set(1, DATA as u32, 0x0030_0408);
    let case = Case {
        program: &[SYSCALL, READ_DATA],
        handler: &[&data, SYSRET],
        ..PLAIN
    };
    case.check("a breakpoint at data", (1, 0, At::Program(2), 0));
    let step = in_the_last(b"\x49\x81\xcb\0\x01\0\0");
    let case = Case {
        handler: &[&step, SYSRET],
        ..PLAIN
    };
    case.check("TF in R11", (1, 0, At::Program(1), 0));
    // pushfq; or dword [rsp], 0x100; popfq
    let step = in_the_last(b"\x9c\x81\x0c\x24\0\x01\0\0\x9d");
    let case = Case {
        program: &[&step, SYSCALL],
        ..PLAIN
    };
    case.check("TF before the call", (1, 0, At::Program(2), 0));
    let step = in_the_last(&on_stack(b"\x9c\x81\x0c\x24\0\x01\0\0\x9d"));
    let case = Case {
        handler: &[&step, b"\x90", SYSRET],
        ..PLAIN
    };
    case.check("TF in the handler", (1, 0, At::Handler(1), 0));
}

/// Code of 32 bits: `dec r15d` is `inc ecx; dec edi` there.
#[test]
fn compatibility_mode_has_its_own_way_in_and_out() {
    let narrow = in_the_last(SYSRET_32);
    let is_32 = |state: &mut VcpuState, _: &Machine| {
        state.gprs[13] = 0;
        state.gprs[gpr::RDI] = 3;
    };
    for (name, other, calls) in [
        ("back to 32 bits", SYSRET_32, 2),
        ("back to 64 bits", SYSRET, 1),
    ] {
        // inc r13
        let other = joined(&[b"\x49\xff\xc5", other]);
        let case = Case {
            program: &[SYSCALL, SELECTORS],
            handler: &[&narrow, SYSRET],
            other: &other,
            begin: &is_32,
        };
        let seen = case.check(name, end(case.program));
        assert_eq!(seen.gprs[13], calls, "{name}");
        let is_narrow = calls == 2;
        assert_eq!(
            seen.gprs[gpr::RAX],
            if is_narrow { 0x23 } else { 0x33 },
            "{name}"
        );
    }
}

/// A program that is checked for alignment is one step away from one that is not: the same page in another mode.
#[test]
fn a_program_with_ac_is_checked_and_one_without_is_not() {
    let set = in_the_last(b"\x49\x81\xcb\0\0\x04\0");
    // mov rax, [rbx + 1]
    let case = Case {
        program: &[SYSCALL, b"\x48\x8b\x43\x01"],
        handler: &[&set, SYSRET],
        begin: &|state, _| state.cr0 |= Cr0::AM,
        ..PLAIN
    };
    case.check("AC of the last round", (17, 0, At::Program(1), 0));
    let clear = in_round(2, b"\x49\x81\xe3\xff\xff\xfb\xff");
    let case = Case {
        program: &[SYSCALL, READ_DATA],
        handler: &[&clear, SYSRET],
        begin: &|state, _| {
            state.cr0 |= Cr0::AM;
            state.rflags |= Rflags::AC;
        },
        ..PLAIN
    };
    case.check("AC until the handler takes it", end(case.program));
}

#[test]
fn an_interrupt_that_waits_comes_at_once_behind_sysret() {
    // out 0x80, eax
    let ask = in_round(2, b"\xe7\x80");
    let case = Case {
        handler: &[&ask, SYSRET],
        ..PLAIN
    };
    for is_careful in [false, true] {
        let mut machine = case.machine(is_careful);
        assert!(matches!(machine.run(0), Met::Out(_)));
        let vcpu = &mut machine.vcpus[0];
        assert!(!vcpu.can_inject());
        vcpu.set_interrupt_window(true);
        assert_eq!(vcpu.run(Reply::Done).unwrap(), Exit::InterruptWindow);
        vcpu.set_interrupt_window(false);
        vcpu.inject(Injection::Interrupt(0x40));
        assert_eq!(machine.run(0), Met::Vector(0x40, 0, PROGRAM + 2, 0));
    }
}

/// An interrupt that was taken on waits behind an NMI. What the NMI's handler does, and where the interrupt comes.
#[test]
fn an_interrupt_behind_an_nmi_comes_as_soon_as_it_may() {
    let ask = in_round(2, b"\xe7\x80");
    // mov rcx, [rsp]; mov r11, [rsp + 0x10]; mov rsp, [rsp + 0x18]
    let leave = joined(&[
        b"\x48\x8b\x0c\x24\x4c\x8b\x5c\x24\x10\x48\x8b\x64\x24\x18",
        SYSRET,
    ]);
    for (name, other, at) in [
        ("sysret", &leave[..], PROGRAM + 2),
        ("sti; nop; ud2", b"\xfb\x90\x0f\x0b", OTHER + 2),
    ] {
        let case = Case {
            program: &[SYSCALL, b"\x90"],
            handler: &[&ask, SYSRET],
            other,
            begin: &|_, machine| {
                // jmp OTHER
                let distance = (OTHER - (STUB_OF_NMI + 5)) as u32;
                machine.write(STUB_OF_NMI, &joined(&[b"\xe9", &distance.to_le_bytes()]));
            },
        };
        for is_careful in [false, true] {
            let mut machine = case.machine(is_careful);
            assert!(matches!(machine.run(0), Met::Out(_)));
            let vcpu = &mut machine.vcpus[0];
            vcpu.set_interrupt_window(true);
            assert_eq!(vcpu.run(Reply::Done).unwrap(), Exit::InterruptWindow);
            vcpu.set_interrupt_window(false);
            vcpu.inject(Injection::Interrupt(0x40));
            vcpu.inject(Injection::Nmi);
            let waiting = vcpu.state().unwrap();
            let expected = Met::Vector(0x40, 0, at, 0);
            assert_eq!(machine.run(0), expected, "{name}, careful: {is_careful}");
            machine.vcpus[0].set_state(&waiting).unwrap();
            assert_eq!(machine.run(0), expected, "{name}, restored");
        }
    }
}

#[test]
fn a_kick_ends_a_program_that_does_nothing_but_call() {
    // jmp to the SYSCALL
    let case = Case {
        program: &[SYSCALL, b"\xeb\xfc"],
        ..PLAIN
    };
    let mut machine = case.machine(false);
    let mut vcpu = machine.vcpus.pop().unwrap();
    let kicker = vcpu.kicker();
    std::thread::scope(|scope| {
        let running = scope.spawn(move || vcpu.run(Reply::Done).unwrap());
        std::thread::sleep(Duration::from_millis(20));
        kicker.kick();
        assert_eq!(running.join().unwrap(), Exit::Kicked);
    });
}

#[derive(Default)]
struct Heard(Mutex<Vec<u64>>);

impl ProbeSink for Heard {
    fn passed(&self, pass: &Pass<'_>) {
        self.0.lock().unwrap().push(pass.address);
    }
}

#[test]
fn a_probe_at_the_handler_hears_of_every_call() {
    let case = Case {
        handler: &[b"\x90", SYSRET],
        ..PLAIN
    };
    let mut machine = case.machine(false);
    let heard = Arc::new(Heard::default());
    let addresses = vec![DRIVER, DRIVER + 1, PROGRAM];
    let probes = Probes::new(addresses, Arc::clone(&heard) as Arc<dyn ProbeSink>);
    assert!(machine.vcpus[0].set_probes(&probes));
    assert!(matches!(machine.run(0), Met::Vector(13, ..)));
    let expected = [DRIVER, DRIVER + 1].repeat(usize::from(ROUNDS));
    assert_eq!(*heard.0.lock().unwrap(), expected);
}

/// Whoever samples the vCPU while it runs the program behind a SYSRET of translated code does not take it for the kernel, also
/// where the passages have just been opened anew, and the program has been translated long since.
#[test]
fn a_profile_knows_that_a_program_may_run_behind_a_call() {
    let shut = in_round(3, &write_msr(0xc000_0082, DRIVER));
    // mov r8d, -1
    let long = in_round(2, b"\x41\xb8\xff\xff\xff\xff");
    let case = Case {
        // mov ecx, r8d; l: dec ecx; jnz l
        program: &[SYSCALL, b"\x44\x89\xc1\xff\xc9\x75\xfc"],
        handler: &[&shut, &long, SYSRET],
        begin: &|state, _| state.gprs[gpr::R8] = 10,
        ..PLAIN
    };
    let mut machine = case.machine(false);
    let mut vcpu = machine.vcpus.pop().unwrap();
    let spot = Arc::new(Spot::counting());
    assert!(vcpu.tell_where(&spot).is_some());
    let kicker = vcpu.kicker();
    std::thread::scope(|scope| {
        let running = scope.spawn(move || {
            let exit = vcpu.run(Reply::Done).unwrap();
            (exit, vcpu.state().unwrap())
        });
        std::thread::sleep(Duration::from_millis(50));
        let seen = Spot::of_words(spot.words());
        kicker.kick();
        let (exit, state) = running.join().unwrap();
        assert_eq!((exit, state.gprs[gpr::R15]), (Exit::Kicked, 2));
        assert_eq!(seen.space & 1, 1, "{seen:?}");
    });
}

/// There are two jump caches. Code of 32 bits takes one away that a passage leads to; the handler that it calls goes on in 64 bits at
/// a place that it has been at, where the same bytes mean something else (`inc rsi`, or `dec eax` and `inc esi`).
#[test]
fn under_the_least_memory_passages_do_not_outlive_their_tables() {
    let narrow = in_round(3, SYSRET_32);
    // inc r13; dec r15, so that 32 bits come once; sub rcx, 5
    let other = joined(&[b"\x49\xff\xc5\x49\xff\xcf\x48\x83\xe9\x05", SYSRET]);
    let case = Case {
        program: &[SYSCALL, b"\x48\xff\xc6", SYSCALL],
        handler: &[READ_KERNEL, WRITE_KERNEL, &narrow, SYSRET],
        other: &other,
        begin: &|state, _| state.gprs[13] = 0,
    };
    let mut machine = case.machine(false);
    machine.engine.set_limit(Some(soft::least_bytes(1)));
    machine.vcpus[0].keep_memory_limit();
    let met = machine.run(0);
    assert_eq!(met, Met::Vector(13, 0, case.place(At::Program(4)), 0));
    let mut careful = case.machine(true);
    let expected = careful.run(0);
    assert_eq!(look(&mut machine, met), look(&mut careful, expected));
    assert!(
        machine.vcpus[0].state().unwrap().gprs[13] > 0,
        "calls of 32-bit code"
    );
}

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % end
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    /// Bits of RFLAGS; TF is rare.
    fn flags(&mut self) -> u32 {
        let usual = 0x24_4cd5 & (self.below(1 << 32) as u32);
        usual | if self.below(30) == 0 { 0x100 } else { 0 }
    }

    /// `code` in a round that is not the first.
    fn later(&mut self, code: &[u8]) -> Vec<u8> {
        let round = self.one_of(&[1, 1, 2, 3]);
        in_round(round, code)
    }

    /// What both sides do: arithmetic on registers that mean nothing.
    fn arithmetic(&mut self) -> Vec<u8> {
        // RAX, RDX, RSI, RDI, R8, R9, R10, R13
        let registers = [0_u8, 2, 6, 7, 8, 9, 10, 13];
        let [to, from] = [self.one_of(&registers), self.one_of(&registers)];
        // add, or, adc, sbb, and, sub, xor, cmp, mov
        let opcode = self.one_of(&[0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31, 0x39, 0x89]);
        let rex = 0x48 | (from >> 3) << 2 | to >> 3;
        vec![rex, opcode, 0xc0 | (from & 7) << 3 | to & 7]
    }

    /// A load or store of RAX or RDX at [RBX] or [R12], aligned but for some.
    fn access(&mut self, kernel: bool) -> Vec<u8> {
        let offset = self.one_of(&[0, 8, 0x10, 0x78, 0x7c, 1]);
        let opcode = self.one_of(&[0x8b, 0x89]);
        let register = self.one_of(&[0_u8, 2]);
        if kernel {
            vec![0x49, opcode, 0x44 | register << 3, 0x24, offset]
        } else {
            vec![0x48, opcode, 0x43 | register << 3, offset]
        }
    }

    fn popf(&mut self) -> Vec<u8> {
        joined(&[b"\x68", &self.flags().to_le_bytes(), b"\x9d"])
    }

    fn of_program(&mut self) -> Vec<u8> {
        match self.below(14) {
            0..4 => self.arithmetic(),
            4..6 => self.access(false),
            6..9 => SYSCALL.to_vec(),
            9 => FLAGS.to_vec(),
            10 => self.popf(),
            11 => SELECTORS.to_vec(),
            // mov rsi, gs:[0x10]; std; stc
            12 => self
                .one_of(&[&b"\x65\x48\x8b\x34\x25\x10\0\0\0"[..], b"\xfd", b"\xf9"])
                .to_vec(),
            _ => {
                let access = self.access(true);
                let bad = self.one_of(&[&access[..], UD2, STAC, b"\xb8\0\0\x10\0\xff\xe0"]);
                self.later(bad)
            }
        }
    }

    fn of_handler(&mut self) -> Vec<u8> {
        match self.below(21) {
            0..4 => self.arithmetic(),
            4..6 => self.access(true),
            6..8 => joined(&[STAC, &self.access(false), CLAC]),
            8 => self.one_of(&[STAC, CLAC]).to_vec(),
            9 => on_stack(FLAGS),
            10 => on_stack(&self.popf()),
            11 => LOOK.to_vec(),
            12 => joined(&[SWAPGS, b"\x65\x48\x8b\x04\x25\x10\0\0\0", SWAPGS]),
            13 => {
                // xor r11d, FLAGS
                let flags = (self.flags() | 0x200 * self.below(2) as u32).to_le_bytes();
                self.later(&joined(&[b"\x41\x81\xf3", &flags]))
            }
            14 => {
                let mask = MASK ^ u64::from(self.flags());
                self.later(&write_msr(0xc000_0084, mask))
            }
            15 => {
                let lstar = self.one_of(&[DRIVER, OTHER]);
                self.later(&write_msr(0xc000_0082, lstar))
            }
            16 => {
                let star = self.one_of(&[STAR, 0x60 << 32 | 0x40 << 48]);
                self.later(&write_msr(0xc000_0081, star))
            }
            17 => {
                let (on, off) = self.one_of(&[
                    (Cr4::SMAP, Cr4::empty()),
                    (Cr4::empty(), Cr4::SMAP),
                    (Cr4::TSD, Cr4::SMEP),
                ]);
                self.later(&change_cr4(on, off))
            }
            18 => self
                .one_of(&[&b"\x0f\x20\xd8\x0f\x22\xd8"[..], b"\x0f\x01\x3b"])
                .to_vec(),
            19 => self.later(&joined(&[&take_stack(), IRETQ])),
            _ => {
                let access = self.access(false);
                // No SYSRET to 32 bits, where a program of chance need not come to an end.
                let bad = self.one_of(&[&access[..], UD2, b"\xff\xe1", SWAPGS]);
                self.later(bad)
            }
        }
    }

    fn several(&mut self, one: fn(&mut Numbers) -> Vec<u8>) -> Vec<u8> {
        let count = 2 + self.below(6);
        (0..count).flat_map(|_| one(self)).collect()
    }
}

#[test]
fn programs_of_chance_come_to_the_same_as_by_the_interpreter() {
    let mut numbers = Numbers(0x5ca1_ab1e);
    let (mut few, mut many, mut ends) = (0, 0, 0);
    for number in 0..400 {
        let program = numbers.several(Numbers::of_program);
        let handler = numbers.several(Numbers::of_handler);
        let other = numbers.several(Numbers::of_handler);
        let other = joined(&[&other, SYSRET]);
        let checks = numbers.below(4) == 0;
        let case = Case {
            program: &[&program, SYSCALL],
            handler: &[&handler, SYSRET],
            other: &other,
            begin: &|state, _| state.cr0.set(Cr0::AM, checks),
        };
        let mut machine = case.machine(false);
        let mut careful = case.machine(true);
        let [seen, expected] = [&mut machine, &mut careful].map(|machine| {
            let met = machine.run(0);
            look(machine, met)
        });
        assert_eq!(
            seen, expected,
            "program {number}: {program:02x?}, handler {handler:02x?}, other {other:02x?}"
        );
        few += interpreted(&machine);
        many += interpreted(&careful);
        let end = Met::Vector(13, 0, case.place(At::Program(3)), 0);
        ends += u64::from(seen.met == end);
    }
    assert!(few < many, "{few} and {many} were interpreted");
    assert!(ends > 100, "{ends} programs came to their end");
}
