//! Exceptions and interrupts on their way through the IDT in long mode: which one, with what error code, on which stack.

use vcpu::{Exit, Injection, Reply, TripleFault, Vcpu, VcpuState, gpr};
use x86::{Rflags, Segment};

use crate::machine::{DRIVER, Machine, Met, NX, P, U, W, WINDOW};

const USER_CODE: u64 = WINDOW;
const USER_DATA: u64 = WINDOW + 0x1000;
const READ_ONLY: u64 = WINDOW + 0x2000;
const SUPERVISOR: u64 = WINDOW + 0x3000;
const NOTHING: u64 = WINDOW + 0x4000;
const RING0_STACK: u64 = 0x9000;

/// A machine whose vCPU starts `code` in ring 3 at [`USER_CODE`], with RBX as given.
fn user(code: &[u8], rbx: u64) -> (Machine, VcpuState) {
    let mut machine = Machine::new(1);
    machine.map(USER_CODE, 0x40_0000, P | U);
    machine.map(USER_DATA, 0x40_1000, P | W | U | NX);
    machine.map(READ_ONLY, 0x40_2000, P | U | NX);
    machine.map(SUPERVISOR, 0x40_3000, P | W | NX);
    machine.map(NOTHING, 0, 0);
    machine.write(0x40_0000, code);
    let mut state = machine.start(b"");
    state.cs = Segment {
        base: 0,
        ..Segment::from_descriptor(0x33, 0x00af_fb00_0000_ffff)
    };
    state.ss = Segment::from_descriptor(0x2b, 0x00cf_f300_0000_ffff);
    state.rip = USER_CODE;
    state.gprs[gpr::RSP] = USER_DATA + 0x800;
    state.gprs[gpr::RBX] = rbx;
    (machine, state)
}

fn met(machine: &mut Machine, state: &VcpuState) -> Met {
    machine.vcpus[0].set_state(state).unwrap();
    machine.run(0)
}

/// No address at all: not canonical.
const FAR: u64 = 0x8000_0000_0000;

const fn fault(vector: u8, code: u32) -> Met {
    Met::Vector(vector, code, USER_CODE, 0)
}

const fn page(code: u32, address: u64) -> Met {
    Met::Vector(14, code, USER_CODE, address)
}

/// Instructions of ring 3, RBX, and the exception with its error code, its RIP and CR2.
const FAULTS: &[(&str, &[u8], u64, Met)] = &[
    (
        "div by zero",
        b"\x31\xc9\xf7\xf1",
        0,
        Met::Vector(0, 0, USER_CODE + 2, 0),
    ),
    ("ud2", b"\x0f\x0b", 0, fault(6, 0)),
    ("hlt", b"\xf4", 0, fault(13, 0)),
    ("cli", b"\xfa", 0, fault(13, 0)),
    ("in al, dx", b"\xec", 0, fault(13, 0)),
    ("mov rax, cr0", b"\x0f\x20\xc0", 0, fault(13, 0)),
    ("rdmsr", b"\x0f\x32", 0, fault(13, 0)),
    ("lgdt", b"\x0f\x01\x13", USER_DATA, fault(13, 0)),
    ("read of nothing", b"\x8b\x03", NOTHING, page(4, NOTHING)),
    (
        "write to nothing",
        b"\x89\x03",
        NOTHING + 5,
        page(6, NOTHING + 5),
    ),
    (
        "write to read-only",
        b"\x89\x03",
        READ_ONLY,
        page(7, READ_ONLY),
    ),
    (
        "xadd to read-only",
        b"\x0f\xc1\x03",
        READ_ONLY,
        page(7, READ_ONLY),
    ),
    (
        "read of the supervisor's",
        b"\x8b\x03",
        SUPERVISOR,
        page(5, SUPERVISOR),
    ),
    (
        "read into nothing",
        b"\x48\x8b\x03",
        NOTHING - 4,
        page(5, NOTHING - 4),
    ),
    (
        "read over an end",
        b"\x48\x8b\x03",
        READ_ONLY + 0xffc,
        page(5, SUPERVISOR),
    ),
    (
        "write over an end",
        b"\x48\x89\x03",
        USER_DATA + 0xffc,
        page(7, READ_ONLY),
    ),
    (
        "jump to data",
        b"\xff\xe3",
        USER_DATA,
        Met::Vector(14, 0x15, USER_DATA, USER_DATA),
    ),
    (
        "jump to nothing",
        b"\xff\xe3",
        NOTHING,
        Met::Vector(14, 0x14, NOTHING, NOTHING),
    ),
    ("jump nowhere", b"\xff\xe3", FAR, fault(13, 0)),
    ("read of no address", b"\x8b\x03", FAR, fault(13, 0)),
    (
        "push below the first address that is none",
        b"\x48\x89\xdc\x50",
        FAR,
        Met::Vector(14, 6, USER_CODE + 3, FAR - 8),
    ),
    ("int3", b"\xcc", 0, Met::Vector(3, 0, USER_CODE + 1, 0)),
    (
        "int 0x21",
        b"\xcd\x21",
        0,
        Met::Vector(0x21, 0, USER_CODE + 2, 0),
    ),
    (
        "mov ds of no descriptor",
        b"\x8e\xdb",
        0x98,
        fault(13, 0x98),
    ),
    ("mov ds of ring 0", b"\x8e\xdb", 0x18, fault(13, 0x18)),
    (
        "mov ss, null",
        b"\x31\xdb\x8e\xd3",
        0,
        Met::Vector(13, 0, USER_CODE + 2, 0),
    ),
    ("syscall that is off", b"\x0f\x05", 0, fault(6, 0)),
];

#[test]
fn faults_of_ring_3_say_what_was_wrong() {
    for &(name, code, rbx, expected) in FAULTS {
        let (mut machine, state) = user(code, rbx);
        assert_eq!(met(&mut machine, &state), expected, "{name}");
    }
}

/// What lies on the stack: error code if there is one, RIP, CS, RFLAGS, RSP, SS.
#[test]
fn an_exception_of_ring_3_comes_on_the_stack_of_the_tss_with_a_whole_frame() {
    let (mut machine, mut state) = user(b"\x0f\x0b", 0);
    state.rflags |= Rflags::DF | Rflags::CF;
    assert_eq!(met(&mut machine, &state), Met::Vector(6, 0, USER_CODE, 0));
    let after = machine.vcpus[0].state().unwrap();
    let rsp = after.gprs[gpr::RSP];
    assert_eq!(rsp, RING0_STACK - 40);
    let frame: Vec<u64> = (0..5).map(|word| machine.word(rsp + word * 8)).collect();
    let flags = state.rflags.bits() | 1 << 16;
    let expected = [USER_CODE, 0x33, flags, USER_DATA + 0x800, 0x2b];
    assert_eq!(frame, expected);
    assert_eq!((after.cs.selector, after.ss.selector), (0x10, 0));
    assert!(
        after.rflags.contains(Rflags::DF | Rflags::CF),
        "flags are kept"
    );
    assert!(
        !after
            .rflags
            .intersects(Rflags::IF | Rflags::TF | Rflags::RF)
    );
}

#[test]
fn an_exception_of_ring_0_stays_on_its_stack_unless_the_gate_has_one() {
    // The stack is aligned first.
    for (ist, top) in [(0, (0x20_0000 - 3) & !0xf), (1, 0x8800)] {
        let mut machine = Machine::new(1);
        let mut state = machine.start(b"\x0f\x0b");
        state.gprs[gpr::RSP] = 0x20_0000 - 3;
        let gate = machine.word(state.idtr.base + 6 * 16);
        machine.put(state.idtr.base + 6 * 16, gate | ist << 32);
        machine.put(state.tr.base + 0x24, 0x8800);
        assert_eq!(met(&mut machine, &state), Met::Vector(6, 0, DRIVER, 0));
        let rsp = machine.vcpus[0].state().unwrap().gprs[gpr::RSP];
        assert_eq!(rsp, top - 40, "stack table {ist}");
    }
}

/// What becomes of an exception whose delivery fails: gates are taken away one after the other.
#[test]
fn a_fault_of_a_delivery_becomes_a_double_fault_and_then_the_end() {
    // Vectors without a gate, and what the guest meets; the program reads what is not mapped, or is undefined.
    let reads: &[u8] = b"\x8b\x03";
    let undefined: &[u8] = b"\x0f\x0b";
    for (name, code, missing, expected) in [
        ("a page fault", reads, &[][..], Some(14)),
        ("#PF without a gate is #DF", reads, &[14], Some(8)),
        ("#UD without a gate is #GP", undefined, &[6], Some(13)),
        ("#UD, #GP without gates: #DF", undefined, &[6, 13], Some(8)),
        ("nothing left", reads, &[14, 8], None),
        ("#GP while #DF is delivered", undefined, &[6, 13, 8], None),
    ] {
        let (mut machine, state) = user(code, NOTHING);
        for vector in missing {
            machine.put(state.idtr.base + vector * 16, 0);
        }
        let vcpu = &mut machine.vcpus[0];
        vcpu.set_state(&state).unwrap();
        match expected {
            Some(vector) => {
                let Met::Vector(met, ..) = machine.run(0) else {
                    panic!("{name}");
                };
                assert_eq!(met, vector, "{name}");
            }
            None => {
                let first_vector = Some(if code == reads { 14 } else { 6 });
                let rip = USER_CODE;
                let fault = TripleFault { first_vector, rip };
                assert_eq!(
                    vcpu.run(Reply::Done).unwrap(),
                    Exit::TripleFault(fault),
                    "{name}"
                );
            }
        }
    }
}

/// Gates, and what a software interrupt and an exception from ring 3 make of them.
#[test]
fn gates_are_judged_before_they_are_used() {
    let gate = |kind: u64, dpl: u64, present: bool, selector: u64| {
        0x6210 | selector << 16 | (kind << 8 | dpl << 13 | u64::from(present) << 15) << 32
    };
    let error = |ext: u32| 0x21 << 3 | 2 | ext;
    for (name, low, expected) in [
        (
            "an interrupt gate",
            gate(0xe, 3, true, 0x10),
            Met::Vector(0x21, 0, USER_CODE + 2, 0),
        ),
        (
            "a trap gate",
            gate(0xf, 3, true, 0x10),
            Met::Vector(0x21, 0, USER_CODE + 2, 0),
        ),
        (
            "of ring 0",
            gate(0xe, 0, true, 0x10),
            Met::Vector(13, error(0), USER_CODE, 0),
        ),
        (
            "not present",
            gate(0xe, 3, false, 0x10),
            Met::Vector(11, error(0), USER_CODE, 0),
        ),
        (
            "no gate at all",
            gate(0xc, 3, true, 0x10),
            Met::Vector(13, error(0), USER_CODE, 0),
        ),
        (
            "to no code",
            gate(0xe, 3, true, 0x18),
            Met::Vector(13, 0x18, USER_CODE, 0),
        ),
        (
            "to 32-bit code",
            gate(0xe, 3, true, 0x08),
            Met::Vector(13, 0x08, USER_CODE, 0),
        ),
        (
            "to the null selector",
            gate(0xe, 3, true, 0),
            Met::Vector(13, 0, USER_CODE, 0),
        ),
    ] {
        let (mut machine, state) = user(b"\xcd\x21", 0);
        machine.put(state.idtr.base + 0x21 * 16, low);
        assert_eq!(met(&mut machine, &state), expected, "{name}");
    }
}

#[test]
fn a_trap_gate_leaves_interrupts_on_and_an_interrupt_gate_does_not() {
    for (kind, stays_on) in [(0xe_u64, false), (0xf, true)] {
        let (mut machine, mut state) = user(b"\xcc", 0);
        state.rflags |= Rflags::IF;
        let gate = machine.word(state.idtr.base + 3 * 16);
        machine.put(state.idtr.base + 3 * 16, gate & !(0xf << 40) | kind << 40);
        assert_eq!(
            met(&mut machine, &state),
            Met::Vector(3, 0, USER_CODE + 1, 0)
        );
        let flags = machine.vcpus[0].state().unwrap().rflags;
        assert_eq!(flags.contains(Rflags::IF), stays_on);
    }
}

/// Interrupts wait for IF, and for the instruction behind STI and MOV SS.
#[test]
fn an_interrupt_comes_where_it_may() {
    for (name, code, at) in [
        ("at once", &b"\x90\x90\xf4"[..], 0),
        ("behind STI's shadow", b"\xfa\xfb\x90\x90\xf4", 3),
    ] {
        let mut machine = Machine::new(1);
        let mut state = machine.start(code);
        state.rflags.set(Rflags::IF, at == 0);
        let vcpu = &mut machine.vcpus[0];
        vcpu.set_state(&state).unwrap();
        assert_eq!(vcpu.can_inject(), at == 0, "{name}");
        if at != 0 {
            vcpu.set_interrupt_window(true);
            assert_eq!(vcpu.run(Reply::Done).unwrap(), Exit::InterruptWindow);
            vcpu.set_interrupt_window(false);
        }
        vcpu.inject(Injection::Interrupt(0x40));
        assert_eq!(
            machine.run(0),
            Met::Vector(0x40, 0, DRIVER + at, 0),
            "{name}"
        );
    }
}
