//! Accesses that are made beside translated code: what an instruction does to an operand in two pages, or on a page with
//! translated code, is what it does to one that lies well.

use vcpu::{Exit, Reply, Vcpu, VcpuState, gpr};
use x86::{Cr0, Gpa};

use crate::machine::{Machine, Met, P, W, WINDOW};

/// Two pages that lie apart in memory; nothing is behind them.
const FIRST: u64 = WINDOW;
const SECOND: u64 = WINDOW + 0x1000;
const HOLE: u64 = WINDOW + 0x2000;
/// A page whose code is called before each access.
const CODE: u64 = WINDOW + 0x3000;
const PLAIN: u64 = WINDOW + 0x4000;
const READ_ONLY: u64 = WINDOW + 0x5000;
const BEFORE_DEVICE: u64 = WINDOW + 0x6000;
const DEVICE: u64 = WINDOW + 0x7000;
const DEVICE_GPA: u64 = 0x3f00_0000;
const WELL: u64 = FIRST + 0x100;
const TURNS: u32 = 6;

fn machine(vcpus: u32) -> Machine {
    let mut machine = Machine::new(vcpus);
    for (gva, gpa, flags) in [
        (FIRST, gpa(FIRST), P | W),
        (SECOND, gpa(SECOND), P | W),
        (CODE, gpa(CODE), P | W),
        (PLAIN, gpa(PLAIN), P | W),
        (READ_ONLY, gpa(READ_ONLY), P),
        (BEFORE_DEVICE, gpa(BEFORE_DEVICE), P | W),
        (DEVICE, DEVICE_GPA, P | W),
    ] {
        machine.map(gva, gpa, flags);
    }
    // ret
    machine.write(gpa(CODE), b"\xc3");
    machine
}

/// A loop around the code in question, and where that begins in it.
fn looped(code: &[u8], with_vectors: bool) -> (Vec<u8>, u64) {
    let mut all = Vec::new();
    // mov ebp, TURNS; l: call r9
    all.extend([&[0xbd][..], &TURNS.to_le_bytes(), b"\x41\xff\xd1"].concat());
    if with_vectors {
        // cvtsi2sd xmm0, rax
        all.extend(b"\xf2\x48\x0f\x2a\xc0");
    }
    // stc
    all.push(0xf9);
    let start = all.len() as u64;
    all.extend(code);
    // pushfq; pop r10; rol r11, 7; xor r11, r10; xor r11, rax
    all.extend(b"\x9c\x41\x5a\x49\xc1\xc3\x07\x4d\x31\xd3\x49\x31\xc3");
    if with_vectors {
        // movq rdx, xmm0
        all.extend(b"\x66\x48\x0f\x7e\xc2");
    }
    // dec ebp; jnz l; hlt
    let back = 5_u8.wrapping_sub(all.len() as u8 + 4);
    all.extend([0xff, 0xcd, 0x75, back, 0xf4]);
    (all, start)
}

fn start(machine: &mut Machine, code: &[u8], operand: u64) -> VcpuState {
    let mut state = machine.start(code);
    state.cr0 |= Cr0::WP;
    state.gprs[gpr::RAX] = 0x8f31_2345_6789_abcd;
    state.gprs[gpr::RCX] = 0x1122_3344_5566_7705;
    state.gprs[gpr::RDX] = 3;
    state.gprs[gpr::RDI] = operand;
    state.gprs[9] = CODE;
    state
}

fn gpa(gva: u64) -> u64 {
    0x30_0000 + ((gva - WINDOW) >> 12) * 0x2_0000 + (gva & 0xfff)
}

fn bytes(machine: &Machine, gva: u64) -> [u8; 16] {
    std::array::from_fn(|byte| {
        machine
            .memory
            .read_value(Gpa(gpa(gva + byte as u64)), 1)
            .unwrap() as u8
    })
}

fn fill(machine: &Machine, gva: u64) {
    for byte in 0..16 {
        machine.write(gpa(gva + byte), &[0x71_u8.wrapping_add(13 * byte as u8)]);
    }
}

/// What is left of a run: general registers and the bytes of the operand.
fn outcome(
    name: &str,
    vcpus: u32,
    code: &[u8],
    operand: u64,
    is_beside: bool,
) -> ([u64; 16], [u8; 16]) {
    let mut machine = machine(vcpus);
    fill(&machine, operand);
    let mut state = start(&mut machine, code, operand);
    machine.vcpus[0].set_state(&state).unwrap();
    assert_eq!(machine.run(0), Met::Halt, "{name} at {operand:#x}");
    let statistics = machine.vcpus[0].statistics();
    let beside = statistics.get("accesses beside").unwrap();
    assert!(
        !is_beside || beside >= u64::from(TURNS) - 1,
        "{name} at {operand:#x}: {beside} beside"
    );
    state = machine.vcpus[0].state().unwrap();
    state.gprs[gpr::RDI] -= operand;
    (state.gprs, bytes(&machine, operand))
}

/// `size` is that of the operand in bytes.
fn check(name: &str, code: &[u8], size: u64) {
    for with_vectors in [false, true] {
        let (code, _) = looped(code, with_vectors);
        for vcpus in [1, 2] {
            let expected = outcome(name, vcpus, &code, WELL, false);
            for split in 1..size {
                let found = outcome(name, vcpus, &code, SECOND - split, true);
                assert_eq!(
                    found, expected,
                    "{name}, {split} bytes in the first page, {vcpus} vCPUs"
                );
            }
            for at in [0x800, 0x803] {
                let found = outcome(name, vcpus, &code, CODE + at, size > 1);
                assert_eq!(
                    found, expected,
                    "{name} beside code at {at:#x}, {vcpus} vCPUs"
                );
            }
        }
    }
}

#[test]
fn arithmetic_on_memory_is_what_it_is_elsewhere() {
    check("add [rdi], rax", b"\x48\x01\x07", 8);
    check("adc [rdi], rax", b"\x48\x11\x07", 8);
    check("sbb byte [rdi], 3", b"\x80\x1f\x03", 1);
    check(
        "sub dword [rdi], 0x12345678",
        b"\x81\x2f\x78\x56\x34\x12",
        4,
    );
    check("inc dword [rdi]", b"\xff\x07", 4);
    check("dec word [rdi]", b"\x66\xff\x0f", 2);
    check("neg qword [rdi]", b"\x48\xf7\x1f", 8);
    check("not qword [rdi]", b"\x48\xf7\x17", 8);
    check("shl qword [rdi], 1", b"\x48\xd1\x27", 8);
    check("rcl dword [rdi], cl", b"\xd3\x17", 4);
    check("xor [rdi], eax", b"\x31\x07", 4);
    check("setc [rdi]", b"\x0f\x92\x07", 1);
    check("xadd [rdi], rax", b"\x48\x0f\xc1\x07", 8);
    check("cmpxchg [rdi], rcx", b"\x48\x0f\xb1\x0f", 8);
    check("mov [rdi], rax", b"\x48\x89\x07", 8);
    check("mov word [rdi], 0x1234", b"\x66\xc7\x07\x34\x12", 2);
    check(
        "add [rdi], rax; add [rdi + 8], rax",
        b"\x48\x01\x07\x48\x01\x47\x08",
        8,
    );
}

#[test]
fn locked_operands_are_what_they_are_elsewhere() {
    check("lock add [rdi], rax", b"\xf0\x48\x01\x07", 8);
    check("lock inc dword [rdi]", b"\xf0\xff\x07", 4);
    check("lock xadd [rdi], rax", b"\xf0\x48\x0f\xc1\x07", 8);
    check("lock cmpxchg [rdi], rcx", b"\xf0\x48\x0f\xb1\x0f", 8);
    check("lock cmpxchg8b [rdi]", b"\xf0\x0f\xc7\x0f", 8);
    check("xchg [rdi], rax", b"\x48\x87\x07", 8);
}

#[test]
fn vectors_and_x87_operands_are_what_they_are_elsewhere() {
    check("movups [rdi], xmm0", b"\x0f\x11\x07", 16);
    check("movsd [rdi], xmm0", b"\xf2\x0f\x11\x07", 8);
    check(
        "addsd xmm0, [rdi]; movsd [rdi], xmm0",
        b"\xf2\x0f\x58\x07\xf2\x0f\x11\x07",
        8,
    );
    check(
        "fild qword [rdi]; fistp qword [rdi]",
        b"\xdf\x2f\xdf\x3f",
        8,
    );
}

/// Runs the code on a good operand, then on another one; says where it stood then, and what of the machine is left.
fn then(
    code: &[u8],
    good: u64,
    bad: u64,
    change: impl FnOnce(&mut VcpuState),
) -> (Machine, VcpuState, u64) {
    let (all, offset) = looped(code, false);
    let mut machine = machine(1);
    let mut state = start(&mut machine, &all, good);
    for gva in [good, bad] {
        let len = if gva == bad {
            SECOND - FIRST - (gva & 0xfff)
        } else {
            16
        };
        for byte in 0..len.min(16) {
            machine.write(gpa(gva + byte), &[0x41]);
        }
    }
    machine.vcpus[0].set_state(&state).unwrap();
    assert_eq!(machine.run(0), Met::Halt);
    state.gprs[gpr::RDI] = bad;
    change(&mut state);
    machine.vcpus[0].set_state(&state).unwrap();
    let at = state.rip + offset;
    (machine, state, at)
}

#[test]
fn a_fault_on_the_second_page_comes_before_any_byte_is_written() {
    let check = |name: &str, code: &[u8]| {
        for (end, error) in [(HOLE, 2), (READ_ONLY, 3)] {
            for split in [1, 4, 7] {
                let bad = end - split;
                let (mut machine, state, at) = then(code, SECOND - split, bad, |_| ());
                assert_eq!(machine.run(0), Met::Vector(14, error, at, end), "{name}");
                for byte in bad..end {
                    let left = machine.memory.read_value(Gpa(gpa(byte)), 1).unwrap();
                    assert_eq!(left, 0x41, "{name} at {byte:#x}");
                }
                let after = machine.vcpus[0].state().unwrap();
                assert_eq!(after.gprs[..4], state.gprs[..4], "{name}");
            }
        }
    };
    check("add [rdi], rax", b"\x48\x01\x07");
    check("lock xadd [rdi], rax", b"\xf0\x48\x0f\xc1\x07");
    check("mov [rdi], rax", b"\x48\x89\x07");
    check("fistp qword [rdi]", b"\xdf\x3f");
}

#[test]
fn a_division_by_an_operand_in_two_pages_faults_where_it_stands() {
    // div dword [rdi]: of the good ones the quotient always fits
    let (mut machine, _, at) = then(b"\x31\xd2\xf7\x37", SECOND - 2, PLAIN + 0xffe, |_| ());
    machine.write(gpa(PLAIN + 0xffe), &[0; 2]);
    machine.write(gpa(READ_ONLY), &[0; 2]);
    assert_eq!(machine.run(0), Met::Vector(0, 0, at + 2, 0));
}

#[test]
fn a_data_breakpoint_on_the_second_page_is_met() {
    let (mut machine, _, at) = then(b"\x48\x01\x07", SECOND - 2, SECOND - 2, |state| {
        state.debug.address[0] = SECOND;
        state.debug.dr7 |= 1 << 16 | 2;
    });
    assert_eq!(machine.run(0), Met::Vector(1, 0, at + 3, 0));
}

#[test]
fn a_device_behind_memory_is_asked_and_told() {
    let (mut machine, _, _) = then(b"\x01\x07\xf4", SECOND - 2, SECOND - 2, |_| ());
    let mut state = machine.vcpus[0].state().unwrap();
    state.gprs[gpr::RDI] = DEVICE - 2;
    machine.write(gpa(DEVICE - 2), &[1, 0]);
    state.gprs[gpr::RAX] = 0x3_0002;
    machine.vcpus[0].set_state(&state).unwrap();
    let last = gpa(DEVICE - 2);
    let gpa = Gpa(DEVICE_GPA);
    let vcpu = &mut machine.vcpus[0];
    assert_eq!(
        vcpu.run(Reply::Done).unwrap(),
        Exit::MmioRead { gpa, size: 2 }
    );
    let write = Exit::MmioWrite {
        gpa,
        size: 2,
        value: 7,
    };
    assert_eq!(vcpu.run(Reply::Value(4)).unwrap(), write);
    assert_eq!(vcpu.run(Reply::Done).unwrap(), Exit::Halt);
    assert_eq!(machine.memory.read_value(Gpa(last), 2).unwrap(), 3);
}

/// What an instruction changes is the code that comes next, in its own block.
#[test]
fn an_instruction_that_changes_the_next_one_is_seen() {
    let check = |name: &str, change: &[u8]| {
        for vcpus in [1, 2] {
            // l: ...; mov al, 0; add bl, al; dec ebp; jnz l; hlt
            let tail = b"\xb0\0\0\xc3\xff\xcd\x75";
            let back = 0_u8.wrapping_sub((change.len() + tail.len() + 1) as u8);
            let code = [b"\xbd\x05\0\0\0", change, tail, &[back, 0xf4]].concat();
            let mut machine = machine(vcpus);
            let state = start(&mut machine, &code, 0);
            machine.vcpus[0].set_state(&state).unwrap();
            assert_eq!(machine.run(0), Met::Halt);
            let state = machine.vcpus[0].state().unwrap();
            assert_eq!(state.gprs[gpr::RBX], 15, "{name}, {vcpus} vCPUs");
        }
    };
    check("add byte [rip + 1], 1", b"\x80\x05\x01\0\0\0\x01");
    check("inc byte [rip + 1]", b"\xfe\x05\x01\0\0\0");
    check("lock add byte [rip + 1], 1", b"\xf0\x80\x05\x01\0\0\0\x01");
    check("lock inc byte [rip + 1]", b"\xf0\xfe\x05\x01\0\0\0");
}

/// The operand lies in two pages, and the second of them holds the code that it changes.
#[test]
fn an_operand_that_goes_on_into_code_changes_it() {
    let check = |name: &str, change: &[u8]| {
        for vcpus in [1, 2] {
            // mov ebp, 6; l: call r9; add rbx, rax; ...; dec ebp; jnz l; hlt
            let head = b"\xbd\x06\0\0\0\x41\xff\xd1\x48\x01\xc3";
            let back = 5_u8.wrapping_sub((head.len() + change.len() + 4) as u8);
            let code = [head, change, &[0xff, 0xcd, 0x75, back, 0xf4]].concat();
            let mut machine = machine(vcpus);
            let mut state = start(&mut machine, &code, CODE - 6);
            machine.map(HOLE, gpa(HOLE), P | W);
            // mov al, 0; ret: the immediate is the highest byte of the operand
            machine.write(gpa(CODE), b"\xb0\0\xc3");
            state.gprs[gpr::RAX] = 0;
            state.gprs[gpr::RDX] = 1 << 56;
            machine.vcpus[0].set_state(&state).unwrap();
            assert_eq!(machine.run(0), Met::Halt);
            let state = machine.vcpus[0].state().unwrap();
            assert_eq!(state.gprs[gpr::RBX], 15, "{name}, {vcpus} vCPUs");
        }
    };
    check("add [rdi], rdx", b"\x48\x01\x17");
    check("lock add [rdi], rdx", b"\xf0\x48\x01\x17");
}

/// Two vCPUs count in one word, and none of their counts is lost.
#[test]
fn locked_counts_of_two_vcpus_all_count() {
    const COUNTS: u32 = 20_000;
    let check = |operand: u64| {
        let mut machine = machine(2);
        // mov ebp, COUNTS; l: call r9; lock inc qword [rdi]; dec ebp; jnz l; hlt
        let counts = COUNTS.to_le_bytes();
        let code = [
            &[0xbd][..],
            &counts,
            b"\x41\xff\xd1\xf0\x48\xff\x07\xff\xcd\x75\xf5\xf4",
        ]
        .concat();
        let mut state = start(&mut machine, &code, operand);
        for (vcpu, stack) in machine.vcpus.iter_mut().zip([0x20_0000, 0x21_0000]) {
            state.gprs[gpr::RSP] = stack;
            vcpu.set_state(&state).unwrap();
        }
        std::thread::scope(|scope| {
            for vcpu in &mut machine.vcpus {
                scope.spawn(move || assert_eq!(vcpu.run(Reply::Done).unwrap(), Exit::Halt));
            }
        });
        let counted = u64::from_le_bytes(bytes(&machine, operand)[..8].try_into().unwrap());
        assert_eq!(counted, 2 * u64::from(COUNTS), "at {operand:#x}");
    };
    // Beside code: one exchange, within a cache line, across two of them; across pages.
    [CODE + 0x800, CODE + 0x803, CODE + 0x83d, SECOND - 3]
        .into_iter()
        .for_each(check);
}
