//! Hardware task switches in 32-bit protected mode: calls, jumps, returns, task gates, and what a TSS can have wrong.

use vcpu::{Exit, Reply, Vcpu, VcpuState, gpr};
use x86::{Cr0, DescriptorTable, Rflags, Segment};

use crate::machine::{DRIVER, Machine};

pub(crate) const GDT: u64 = 0x4000;
pub(crate) const IDT: u64 = 0x5000;
pub(crate) const TASK: u64 = DRIVER + 0x800;
pub(crate) const OLD_TSS: u64 = 0x7000;
pub(crate) const NEW_TSS: u64 = 0x7800;
const NEW_STACK: u64 = 0x18_0000;

pub(crate) const CODE: u16 = 0x08;
pub(crate) const DATA: u16 = 0x10;
const OLD: u16 = 0x18;
pub(crate) const NEW: u16 = 0x20;
const GATE: u16 = 0x28;

const AVAILABLE: u64 = 9;
const BUSY: u64 = 0xb;

/// A machine in protected mode whose TR names one TSS, with another one that starts at [`TASK`].
pub(crate) struct Tasks {
    pub(crate) machine: Machine,
    pub(crate) state: VcpuState,
}

fn tss_descriptor(base: u64, kind: u64, limit: u64) -> u64 {
    limit | (base & 0xff_ffff) << 16 | (0x80 | kind) << 40
}

impl Tasks {
    pub(crate) fn new(code: &[u8], task: &[u8]) -> Tasks {
        let mut machine = Machine::new(1);
        machine.start(code);
        machine.write(TASK, task);
        for (at, value) in [
            (0, 0),
            (CODE, 0x00cf_9b00_0000_ffff),
            (DATA, 0x00cf_9300_0000_ffff),
            (OLD, tss_descriptor(OLD_TSS, BUSY, 0x67)),
            (NEW, tss_descriptor(NEW_TSS, AVAILABLE, 0x67)),
            (GATE, u64::from(NEW) << 16 | 0x8500 << 32),
        ] {
            machine.put(GDT + u64::from(at), value);
        }
        let put = |at: u64, value: u32| machine.write(NEW_TSS + at, &value.to_le_bytes());
        (0..0x68).step_by(4).for_each(|at| put(at, 0));
        put(0x20, TASK as u32);
        put(0x24, 2);
        put(0x38, NEW_STACK as u32);
        for at in [0x48, 0x50, 0x54, 0x58, 0x5c] {
            put(at, u32::from(DATA));
        }
        put(0x4c, u32::from(CODE));
        put(0x64, 0x68_0000);
        for vector in 0..256 {
            machine.put(IDT + vector * 8, 0);
        }
        let mut state = VcpuState::protected_mode();
        let data = Segment::from_descriptor(DATA, 0x00cf_9300_0000_ffff);
        state.cs = Segment::from_descriptor(CODE, 0x00cf_9b00_0000_ffff);
        (state.ds, state.es, state.ss) = (data, data, data);
        (state.fs, state.gs) = (data, data);
        state.gdtr = DescriptorTable {
            base: GDT,
            limit: 0x7f,
        };
        state.idtr = DescriptorTable {
            base: IDT,
            limit: 0x7ff,
        };
        state.tr = Segment {
            selector: OLD,
            base: OLD_TSS,
            limit: 0x67,
            attributes: 0x8b,
        };
        state.rip = DRIVER;
        state.gprs[gpr::RSP] = 0x20_0000;
        state.gprs[gpr::RBX] = 0x1234_5678;
        Tasks { machine, state }
    }

    fn kind(&self, selector: u16) -> u64 {
        self.machine.word(GDT + u64::from(selector)) >> 40 & 0xf
    }

    /// Runs to the next exit.
    pub(crate) fn run(&mut self) -> Exit {
        self.machine.vcpus[0].run(Reply::Done).unwrap()
    }

    pub(crate) fn begin(&mut self) -> Exit {
        self.machine.vcpus[0].set_state(&self.state).unwrap();
        self.run()
    }

    pub(crate) fn now(&mut self) -> VcpuState {
        self.machine.vcpus[0].state().unwrap()
    }
}

pub(crate) fn out(value: u32) -> Exit {
    Exit::PioWrite {
        port: 0x80,
        size: 4,
        value,
    }
}

/// call (or jmp) SELECTOR:0; out 0x80, eax; hlt
pub(crate) fn far(opcode: u8, selector: u16) -> Vec<u8> {
    let mut code = vec![opcode, 0, 0, 0, 0];
    code.extend_from_slice(&selector.to_le_bytes());
    code.extend_from_slice(b"\xe7\x80\xf4");
    code
}

pub(crate) const CALL: u8 = 0x9a;
const JMP: u8 = 0xea;
/// mov eax, 42; out 0x80, eax; iretd
const COMES_BACK: &[u8] = b"\xb8\x2a\0\0\0\xe7\x80\xcf";

#[test]
fn a_called_task_comes_back_by_iret() {
    for selector in [NEW, GATE] {
        let mut tasks = Tasks::new(&far(CALL, selector), COMES_BACK);
        tasks.state.gprs[gpr::RAX] = 7;
        assert_eq!(tasks.begin(), out(42));
        let inside = tasks.now();
        assert_eq!((inside.tr.selector, inside.tr.base), (NEW, NEW_TSS));
        assert!(inside.rflags.contains(Rflags::NT) && inside.cr0.contains(Cr0::TS));
        assert_eq!(inside.gprs[gpr::RSP], NEW_STACK);
        assert_eq!((tasks.kind(OLD), tasks.kind(NEW)), (BUSY, BUSY));
        assert_eq!(tasks.machine.word(NEW_TSS) & 0xffff, u64::from(OLD));
        // Registers of the old task lie in its TSS, and come back with it.
        assert_eq!(tasks.run(), out(7));
        let after = tasks.now();
        assert_eq!((after.tr.selector, after.rip), (OLD, DRIVER + 9));
        assert_eq!(after.gprs[gpr::RBX], 0x1234_5678);
        assert_eq!(after.gprs[gpr::RSP], 0x20_0000);
        assert!(!after.rflags.contains(Rflags::NT));
        assert_eq!((tasks.kind(OLD), tasks.kind(NEW)), (BUSY, AVAILABLE));
        // The task that came back goes on behind its IRET next time.
        assert_eq!(tasks.machine.word(NEW_TSS + 0x20) & 0xffff_ffff, TASK + 8);
        assert_eq!(tasks.machine.word(NEW_TSS + 0x24) & Rflags::NT.bits(), 0);
    }
}

#[test]
fn a_task_that_is_jumped_to_leaves_the_old_one_available() {
    // ... and jumps back
    let task = [&b"\xb8\x2a\0\0\0\xe7\x80"[..], &far(JMP, OLD)].concat();
    let mut tasks = Tasks::new(&far(JMP, NEW), &task);
    tasks.state.gprs[gpr::RAX] = 7;
    assert_eq!(tasks.begin(), out(42));
    assert!(!tasks.now().rflags.contains(Rflags::NT));
    assert_eq!((tasks.kind(OLD), tasks.kind(NEW)), (AVAILABLE, BUSY));
    assert_eq!(tasks.run(), out(7));
    assert_eq!((tasks.kind(OLD), tasks.kind(NEW)), (BUSY, AVAILABLE));
}

/// A task gate in the IDT: the handler has a stack of its own, with the error code if there is one.
#[test]
fn an_exception_through_a_task_gate_has_its_own_stack() {
    for (name, code, vector, error_code, rip) in [
        ("ud2", &b"\x0f\x0b"[..], 6, None, DRIVER),
        ("int 0x40", b"\xcd\x40", 0x40, None, DRIVER + 2),
        (
            "mov ds, 0x70",
            b"\xb8\x70\0\0\0\x8e\xd8",
            13,
            Some(0x70),
            DRIVER + 5,
        ),
        // #UD without a gate is #GP without a gate: the double fault.
        ("double fault", b"\x0f\x0b", 8, Some(0), DRIVER),
    ] {
        // out 0x80, eax
        let mut tasks = Tasks::new(code, b"\xe7\x80");
        let gate = u64::from(NEW) << 16 | 0xe500 << 32;
        tasks.machine.put(IDT + vector * 8, gate);
        assert_eq!(tasks.begin(), out(0), "{name}");
        let state = tasks.now();
        let pushed = if error_code.is_some() { 4 } else { 0 };
        assert_eq!(state.gprs[gpr::RSP], NEW_STACK - pushed, "{name}");
        if let Some(code) = error_code {
            assert_eq!(
                tasks.machine.word(NEW_STACK - 4) & 0xffff_ffff,
                code,
                "{name}"
            );
        }
        assert_eq!(
            tasks.machine.word(OLD_TSS + 0x20) & 0xffff_ffff,
            rip,
            "{name}"
        );
        assert_eq!(
            tasks.machine.word(NEW_TSS) & 0xffff,
            u64::from(OLD),
            "{name}"
        );
    }
}

#[test]
fn an_80286_tss_has_its_own_layout() {
    let mut tasks = Tasks::new(&far(CALL, NEW), COMES_BACK);
    let machine = &tasks.machine;
    machine.put(GDT + u64::from(NEW), tss_descriptor(NEW_TSS, 1, 0x2b));
    let put = |at: u64, value: u16| machine.write(NEW_TSS + at, &value.to_le_bytes());
    // The task's code lies below 64 KiB.
    machine.write(0xc000, b"\xe7\x80");
    put(0x0e, 0xc000);
    put(0x10, 2);
    put(0x12, 0x55aa);
    put(0x1a, 0x9000);
    for (at, selector) in [
        (0x22, DATA),
        (0x24, CODE),
        (0x26, DATA),
        (0x28, DATA),
        (0x2a, 0),
    ] {
        put(at, selector);
    }
    tasks.state.gprs[gpr::RAX] = 0x7777_1111;
    assert_eq!(tasks.begin(), out(0x7777_55aa));
    let state = tasks.now();
    assert_eq!((state.fs.selector, state.gs.selector), (0, 0));
    assert_eq!(state.gprs[gpr::RSP] & 0xffff, 0x9000);
}

impl Tasks {
    /// Has a vector handled by a task of its own, which stands on firm ground and shows the error code. Its TSS's address.
    fn handle_in_a_task(&mut self, vector: u8) -> u64 {
        let handler = 0x7c00;
        let machine = &self.machine;
        // mov eax, [esp]; out 0x80, eax
        machine.write(TASK + 0x100, b"\x8b\x04\x24\xe7\x80");
        machine.put(GDT + 0x30, tss_descriptor(handler, AVAILABLE, 0x67));
        let put = |at: u64, value: u32| machine.write(handler + at, &value.to_le_bytes());
        (0..0x68).step_by(4).for_each(|at| put(at, 0));
        put(0x20, TASK as u32 + 0x100);
        put(0x24, 2);
        put(0x38, 0x19_0000);
        for at in [0x48, 0x50, 0x54] {
            put(at, u32::from(DATA));
        }
        put(0x4c, u32::from(CODE));
        machine.put(IDT + u64::from(vector) * 8, 0x30 << 16 | 0x8500 << 32);
        handler
    }
}

type Spoil = fn(&Machine);

/// What is wrong, what the call names, the exception with its error code, and the task in which it comes.
const WRONG: &[(&str, u16, Spoil, u8, u32, u16)] = &[
    (
        "busy",
        NEW,
        |m| m.put(GDT + 0x20, tss_descriptor(NEW_TSS, BUSY, 0x67)),
        13,
        0x20,
        OLD,
    ),
    (
        "too short",
        NEW,
        |m| m.put(GDT + 0x20, tss_descriptor(NEW_TSS, 9, 0x66)),
        10,
        0x20,
        OLD,
    ),
    (
        "not present",
        NEW,
        |m| m.put(GDT + 0x20, tss_descriptor(NEW_TSS, 9, 0x67) & !(1 << 47)),
        11,
        0x20,
        OLD,
    ),
    (
        "a gate to code",
        GATE,
        |m| m.put(GDT + 0x28, 0x8500 << 32 | 8 << 16),
        13,
        8,
        OLD,
    ),
    (
        "a gate to nothing",
        GATE,
        |m| m.put(GDT + 0x28, 0x8500 << 32),
        13,
        0,
        OLD,
    ),
    (
        "code that is data",
        NEW,
        |m| m.write(NEW_TSS + 0x4c, &[0x10]),
        10,
        0x10,
        NEW,
    ),
    (
        "a null stack",
        NEW,
        |m| m.write(NEW_TSS + 0x50, &[0]),
        10,
        0,
        NEW,
    ),
    (
        "a stack that is code",
        NEW,
        |m| m.write(NEW_TSS + 0x50, &[8]),
        10,
        8,
        NEW,
    ),
    (
        "data that is a TSS",
        NEW,
        |m| m.write(NEW_TSS + 0x54, &[0x18]),
        10,
        0x18,
        NEW,
    ),
    (
        "a local table that is code",
        NEW,
        |m| m.write(NEW_TSS + 0x60, &[8]),
        10,
        8,
        NEW,
    ),
];

#[test]
fn what_a_task_has_wrong_is_a_fault_of_the_old_or_the_new_task() {
    for &(name, selector, spoil, vector, error_code, whose) in WRONG {
        let mut tasks = Tasks::new(&far(CALL, selector), COMES_BACK);
        spoil(&tasks.machine);
        let handler = tasks.handle_in_a_task(vector);
        assert_eq!(tasks.begin(), out(error_code), "{name}");
        assert_eq!(
            tasks.machine.word(handler) & 0xffff,
            u64::from(whose),
            "{name}: in which task"
        );
    }
}

#[test]
fn the_trap_bit_of_a_tss_is_a_debug_exception_before_the_first_instruction() {
    let mut tasks = Tasks::new(&far(CALL, NEW), COMES_BACK);
    tasks.machine.write(NEW_TSS + 0x64, &[1]);
    // An interrupt gate to a HLT.
    tasks.machine.write(TASK + 0x200, b"\xf4");
    let at = TASK + 0x200;
    let gate = at & 0xffff | u64::from(CODE) << 16 | 0x8e00 << 32 | (at >> 16) << 48;
    tasks.machine.put(IDT + 8, gate);
    assert_eq!(tasks.begin(), Exit::Halt);
    let state = tasks.now();
    assert_eq!(state.debug.dr6 >> 15 & 1, 1);
    let stack = state.gprs[gpr::RSP];
    assert_eq!(tasks.machine.word(stack) & 0xffff_ffff, TASK);
}
