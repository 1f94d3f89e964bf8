//! SYSCALL and SYSRET between a program and its kernel: whatever either does, translated code does what the interpreter does.
//!
//! Each pair runs twice: as it is, and with a breakpoint that is never met, which makes the vCPU careful, so that each SYSCALL
//! and SYSRET is the interpreter's. Where it ends, what it met, all registers and the frame on the handler's stack are the same.
//! Every program goes round five times: the first SYSCALL is always the interpreter's, and opens the ways for the others.

use vcpu::{Vcpu, VcpuState, gpr};
use x86::{Cr0, Cr4, Efer, Rflags, Segment};

use crate::machine::{DRIVER, Machine, Met, NX, P, U, W, WINDOW};

const USER_CODE: u64 = WINDOW;
const USER_DATA: u64 = WINDOW + 0x1000;
const KERNEL_DATA: u64 = WINDOW + 0x2000;
/// Another handler: it adds one to R9 and goes back.
const OTHER: u64 = DRIVER + 0x800;
const OTHER_CODE: &[u8] = b"\x49\xff\xc1\x48\x0f\x07";

const SYSCALL: &[u8] = b"\x0f\x05";
const SYSRET: &[u8] = b"\x48\x0f\x07";
const STAC: &[u8] = b"\x0f\x01\xcb";
const CLAC: &[u8] = b"\x0f\x01\xca";
/// rol r8, 7; xor r8, r11; xor r8, rcx
const NOTE_BOTH: &[u8] = b"\x49\xc1\xc0\x07\x4d\x31\xd8\x49\x31\xc8";
/// mov r13, rsp; mov esp, 0x200000
const OWN_STACK: &[u8] = b"\x49\x89\xe5\xbc\0\0\x20\0";
/// mov rsp, r13
const THEIR_STACK: &[u8] = b"\x4c\x89\xec";
/// rol r8, 7; pushfq; pop r14; xor r8, r14
const NOTE_FLAGS: &[u8] = b"\x49\xc1\xc0\x07\x9c\x41\x5e\x4d\x31\xf0";
/// mov esi, cs; shl esi, 16; xor r8, rsi; mov esi, ss; xor r8, rsi
const NOTE_SEGMENTS: &[u8] = b"\x8c\xce\xc1\xe6\x10\x49\x31\xf0\x8c\xd6\x49\x31\xf0";
/// xor r8, [rbx]
const READ_USER: &[u8] = b"\x4c\x33\x03";
/// add [rbx + 8], r15
const WRITE_USER: &[u8] = b"\x4c\x01\x7b\x08";
/// xor r8, [r12]
const READ_KERNEL: &[u8] = b"\x4d\x33\x04\x24";
/// add [r12 + 8], r15
const WRITE_KERNEL: &[u8] = b"\x4d\x01\x7c\x24\x08";
const SWAPGS: &[u8] = b"\x0f\x01\xf8";
/// xor r8, gs:[0]
const READ_GS: &[u8] = b"\x65\x4c\x33\x04\x25\0\0\0\0";
const UD2: &[u8] = b"\x0f\x0b";

/// Where a pair ended.
#[derive(PartialEq, Debug)]
struct Ended {
    met: Met,
    gprs: [u64; 16],
    frame: [u64; 6],
    cr2: u64,
    selectors: [u16; 2],
    data: [u64; 4],
}

/// Code before the SYSCALL, the handler's before its SYSRET, and code behind.
type Parts<'a> = [&'a [&'a [u8]]; 3];

/// Runs it; where it ended, and how many instructions the interpreter executed.
fn run(parts: Parts<'_>, begin: &dyn Fn(&mut VcpuState), is_careful: bool) -> (Ended, u64) {
    let [before, handler, behind] = parts.map(<[&[u8]]>::concat);
    let mut program = b"\x41\xbf\x05\0\0\0".to_vec();
    program.extend([&before, SYSCALL, &behind].concat());
    let back = -i32::try_from(program.len() - 6 + 9).unwrap();
    // dec r15d; jnz; hlt
    program.extend(b"\x41\xff\xcf\x0f\x85");
    program.extend(back.to_le_bytes());
    program.extend(b"\xf4");
    let mut machine = Machine::new(1);
    machine.map(USER_CODE, 0x40_0000, P | U);
    machine.map(USER_DATA, 0x40_1000, P | W | U | NX);
    machine.map(KERNEL_DATA, 0x40_2000, P | W | NX);
    machine.write(0x40_0000, &program);
    for (n, gpa) in (1..).zip([0x40_1000, 0x40_1008, 0x40_2000, 0x40_2008]) {
        machine.put(gpa, 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(n));
    }
    let mut state = machine.start(&[&handler, SYSRET].concat());
    machine.write(OTHER, OTHER_CODE);
    state.cs = Segment {
        base: 0,
        ..Segment::from_descriptor(0x33, 0x00af_fb00_0000_ffff)
    };
    state.ss = Segment::from_descriptor(0x2b, 0x00cf_f300_0000_ffff);
    state.rip = USER_CODE;
    state.rflags |= Rflags::IF;
    state.cr0 |= Cr0::WP;
    state.cr4 |= Cr4::SMAP;
    state.efer |= Efer::SCE;
    state.msrs.star = 0x20 << 48 | 0x10 << 32;
    state.msrs.lstar = DRIVER;
    let mask = Rflags::IF | Rflags::TF | Rflags::DF | Rflags::AC | Rflags::NT;
    state.msrs.syscall_mask = mask.bits();
    state.msrs.kernel_gs_base = KERNEL_DATA;
    state.gs.base = USER_DATA;
    state.gprs[gpr::RSP] = USER_DATA + 0x800;
    state.gprs[gpr::RBX] = USER_DATA;
    state.gprs[12] = KERNEL_DATA;
    begin(&mut state);
    if is_careful {
        state.debug.address[0] = 0x70_0000;
        state.debug.dr7 |= 2;
    }
    let vcpu = &mut machine.vcpus[0];
    vcpu.set_state(&state).unwrap();
    let met = machine.run(0);
    let vcpu = &mut machine.vcpus[0];
    let state = vcpu.state().unwrap();
    let stack = state.gprs[gpr::RSP];
    // The stacks of handlers lie where they say; a program's does not matter.
    let frame = std::array::from_fn(|n| match stack {
        0..0x100_0000 => machine.word((stack + n as u64 * 8).min(0xff_fff8)),
        _ => 0,
    });
    let ended = Ended {
        met,
        gprs: state.gprs,
        frame,
        cr2: state.cr2,
        selectors: [state.cs.selector, state.ss.selector],
        data: [0x40_1000, 0x40_1008, 0x40_2000, 0x40_2008].map(|gpa| machine.word(gpa)),
    };
    let statistics = machine.vcpus[0].statistics();
    (ended, statistics.get("interpreted instructions").unwrap())
}

/// Both ways end in `expected`, a vector with its error code; how many instructions were interpreted less than with care.
#[track_caller]
fn check(
    name: &str,
    parts: Parts<'_>,
    begin: &dyn Fn(&mut VcpuState),
    (vector, code): (u8, u32),
) -> u64 {
    let (careful, by_hand) = run(parts, begin, true);
    let (ended, interpreted) = run(parts, begin, false);
    assert_eq!(ended, careful, "{name}");
    let is_expected = matches!(ended.met, Met::Vector(v, c, ..) if (v, c) == (vector, code));
    assert!(is_expected, "{name}: {:x?}", ended);
    by_hand.saturating_sub(interpreted)
}

/// The HLT at a program's end.
const END: (u8, u32) = (13, 0);

fn nothing(_: &mut VcpuState) {}

#[test]
fn after_the_first_no_system_call_is_interpreted() {
    let spared = check(
        "a bare one",
        [&[], &[NOTE_BOTH], &[NOTE_BOTH]],
        &nothing,
        END,
    );
    assert!(spared >= 8, "four calls and four returns: {spared}");
}

#[test]
fn a_handler_finds_what_a_program_left_and_a_program_what_the_handler_made_of_it() {
    let stacked: &[&[u8]] = &[OWN_STACK, NOTE_BOTH, NOTE_FLAGS, NOTE_SEGMENTS, THEIR_STACK];
    let pairs: &[(&str, Parts<'_>)] = &[
        ("flags and segments", [&[], stacked, &[NOTE_BOTH]]),
        ("carry: stc", [&[b"\xf9"], stacked, &[NOTE_FLAGS]]),
        (
            "zero and parity: xor eax, eax",
            [&[b"\x31\xc0"], stacked, &[NOTE_FLAGS]],
        ),
        (
            "sign and overflow: mov eax, 1 << 31; dec eax; add eax, 1",
            [
                &[b"\xb8\0\0\0\x80\xff\xc8\x83\xc0\x01"],
                stacked,
                &[NOTE_FLAGS],
            ],
        ),
        (
            "direction: std",
            [&[b"\xfd"], stacked, &[NOTE_FLAGS, b"\xfc"]],
        ),
        (
            "flags of the handler's do not come out: stc",
            [&[b"\x31\xc0"], &[b"\xf9"], &[NOTE_FLAGS]],
        ),
        (
            "the handler changes what it returns to: xor r11, 0x8d5",
            [
                &[],
                &[b"\x49\x81\xf3\xd5\x08\0\0"],
                &[NOTE_BOTH, NOTE_FLAGS],
            ],
        ),
        (
            "direction: or r11, 0x400",
            [&[], &[b"\x49\x81\xcb\0\x04\0\0"], &[NOTE_FLAGS, b"\xfc"]],
        ),
        (
            "AC: or r11, 0x40000",
            [&[], &[b"\x49\x81\xcb\0\0\x04\0"], &[NOTE_FLAGS]],
        ),
        (
            "ID and NT: or r11, 0x204000",
            [&[], &[b"\x49\x81\xcb\0\x40\x20\0"], &[NOTE_FLAGS]],
        ),
        (
            "RF and VM are cleared: or r11, 0x30000",
            [&[], &[b"\x49\x81\xcb\0\0\x03\0"], &[NOTE_FLAGS]],
        ),
        (
            "IOPL: or r11, 0x3000",
            [&[], &[b"\x49\x81\xcb\0\x30\0\0"], &[NOTE_FLAGS]],
        ),
        (
            "interrupts off: and r11, ~0x200",
            [&[], &[b"\x49\x81\xe3\xff\xfd\xff\xff"], &[NOTE_FLAGS]],
        ),
        (
            "another place: add rcx, 3, over a nop of three bytes",
            [&[], &[b"\x48\x83\xc1\x03"], &[b"\x0f\x1f\0", NOTE_BOTH]],
        ),
        (
            "two calls in a row",
            [&[SYSCALL], stacked, &[SYSCALL, NOTE_BOTH]],
        ),
    ];
    for (name, parts) in pairs {
        check(name, *parts, &nothing, END);
    }
}

#[test]
fn memory_is_reached_as_whoever_is_there_may() {
    let away = |state: &mut VcpuState| state.cr4.remove(Cr4::SMAP);
    check(
        "both sides read and write their own",
        [
            &[READ_USER, WRITE_USER],
            &[READ_KERNEL, WRITE_KERNEL],
            &[READ_USER, WRITE_USER],
        ],
        &nothing,
        END,
    );
    check(
        "the handler reaches the program's between STAC and CLAC",
        [
            &[READ_USER],
            &[STAC, READ_USER, WRITE_USER, CLAC, READ_KERNEL],
            &[WRITE_USER],
        ],
        &nothing,
        END,
    );
    check(
        "STAC without CLAC: the program and the next call are none the wiser",
        [&[READ_USER], &[STAC, READ_USER], &[READ_USER, WRITE_USER]],
        &nothing,
        END,
    );
    check(
        "without STAC it does not: in the last round, when r15d is 1, there is one no more",
        [
            &[READ_USER],
            &[
                OWN_STACK,
                b"\x41\x83\xff\x01\x74\x03",
                STAC,
                READ_USER,
                CLAC,
                THEIR_STACK,
            ],
            &[],
        ],
        &nothing,
        (14, 1),
    );
    check(
        "without SMAP it does",
        [&[READ_USER], &[READ_USER, WRITE_USER], &[WRITE_USER]],
        &away,
        END,
    );
    check(
        "a program does not reach the handler's, at the first time",
        [&[], &[READ_KERNEL], &[READ_KERNEL]],
        &nothing,
        (14, 5),
    );
    check(
        "nor at the last",
        [
            &[],
            &[READ_KERNEL],
            &[b"\x41\x83\xff\x01\x75\x04", READ_KERNEL],
        ],
        &nothing,
        (14, 5),
    );
    check(
        "each side has its GS",
        [&[READ_GS], &[SWAPGS, READ_GS, SWAPGS], &[READ_GS]],
        &nothing,
        END,
    );
}

#[test]
fn what_decides_where_they_lead_may_change_in_the_middle() {
    // mov r14, rcx; mov r10, r11; cmp r15d, 3; jne over what follows, and back again behind it
    let in_third = |code: &[u8]| {
        let over = u8::try_from(code.len()).unwrap();
        [
            b"\x49\x89\xce\x4d\x89\xda\x41\x83\xff\x03\x75",
            &[over][..],
            code,
            b"\x4c\x89\xf1\x4d\x89\xd3",
        ]
        .concat()
    };
    // mov ecx, msr; mov eax, low; mov edx, high; wrmsr
    let write = |msr: u32, value: u64| {
        let [low, high] = [value as u32, (value >> 32) as u32].map(u32::to_le_bytes);
        [
            b"\xb9",
            &msr.to_le_bytes()[..],
            b"\xb8",
            &low,
            b"\xba",
            &high,
            b"\x0f\x30",
        ]
        .concat()
    };
    let changes: &[(&str, Vec<u8>, (u8, u32))] = &[
        ("LSTAR: another handler", write(0xc000_0082, OTHER), END),
        ("SFMASK: nothing is cleared", write(0xc000_0084, 0), END),
        (
            "STAR: other selectors for the handler",
            write(0xc000_0081, 0x20 << 48 | 0x18 << 32),
            END,
        ),
        (
            "CR4.TSD: mov rax, cr4; or eax, 4; mov cr4, rax",
            b"\x0f\x20\xe0\x83\xc8\x04\x0f\x22\xe0".to_vec(),
            (13, 0),
        ),
        (
            "CR4.SMAP: mov rax, cr4; btr rax, 21; mov cr4, rax",
            b"\x0f\x20\xe0\x48\x0f\xba\xf0\x15\x0f\x22\xe0".to_vec(),
            END,
        ),
        (
            "the tables are loaded again: mov rax, cr3; mov cr3, rax",
            b"\x0f\x20\xd8\x0f\x22\xd8".to_vec(),
            END,
        ),
    ];
    for (name, code, end) in changes {
        let handler = in_third(code);
        // With RDTSC in the program, whose numbers are no one's business: rdtsc; xor eax, eax; xor edx, edx
        let timed = b"\x0f\x31\x31\xc0\x31\xd2";
        check(
            name,
            [
                &[READ_USER],
                &[&handler, READ_KERNEL, STAC, READ_USER, CLAC],
                &[timed, NOTE_FLAGS, WRITE_USER],
            ],
            &nothing,
            *end,
        );
    }
    // No SYSRET either, so its exception needs a stack of the handler's.
    let handler = in_third(&write(0xc000_0080, 0xd00));
    check(
        "EFER: there is no SYSCALL",
        [&[READ_USER], &[OWN_STACK, &handler], &[WRITE_USER]],
        &nothing,
        (6, 0),
    );
}

#[test]
fn exceptions_of_either_side_are_told_of_that_side() {
    // cmp r15d, 2; jne over ud2
    let in_fourth: &[u8] = b"\x41\x83\xff\x02\x75\x02";
    check(
        "the handler's",
        [&[], &[OWN_STACK, in_fourth, UD2, THEIR_STACK], &[]],
        &nothing,
        (6, 0),
    );
    check(
        "the program's, behind",
        [&[], &[NOTE_BOTH], &[in_fourth, UD2]],
        &nothing,
        (6, 0),
    );
    check(
        "the program's, before",
        [&[in_fourth, UD2], &[NOTE_BOTH], &[]],
        &nothing,
        (6, 0),
    );
    check(
        "no address to return to: btc rcx, 63",
        [
            &[],
            &[
                OWN_STACK,
                b"\x41\x83\xff\x02\x75\x05",
                b"\x48\x0f\xba\xf9\x3f",
            ],
            &[],
        ],
        &nothing,
        (13, 0),
    );
    check(
        "a program that is stepped: or r11, TF",
        [&[], &[b"\x49\x81\xcb\0\x01\0\0"], &[NOTE_BOTH]],
        &nothing,
        (1, 0),
    );
    check(
        "a program that sets TF itself: pushfq; or [rsp], TF; popfq",
        [&[b"\x9c\x81\x0c\x24\0\x01\0\0\x9d"], &[NOTE_BOTH], &[]],
        &nothing,
        (1, 0),
    );
}
