//! Call gates and virtual-8086 mode, in 32-bit protected mode.

use vcpu::{Exit, gpr};
use x86::{Rflags, Segment};

use crate::machine::DRIVER;
use crate::tasks::{CALL, CODE, DATA, GDT, IDT, NEW, NEW_TSS, OLD_TSS, TASK, Tasks, far, out};

const CODE3: u16 = 0x38 | 3;
const DATA3: u16 = 0x40 | 3;
const GATE: u16 = 0x48;
const HANDLER: u64 = TASK + 0x200;
const STACK0: u64 = 0x17_0000;
const STACK3: u64 = 0x16_0000;
/// Where code of virtual-8086 mode lies: a selector, and the address.
const V86: (u16, u64) = (0xc00, 0xc000);

fn call_gate(kind: u64, dpl: u64, parameters: u64, selector: u16, offset: u64) -> u64 {
    offset & 0xffff
        | u64::from(selector) << 16
        | parameters << 32
        | (0x80 | dpl << 5 | kind) << 40
        | (offset >> 16) << 48
}

/// Code at [`DRIVER`], and at [`TASK`] what a gate leads to. Exceptions end in a HLT.
fn machine(code: &[u8], behind: &[u8], gate: u64) -> Tasks {
    let mut tasks = Tasks::new(code, behind);
    let machine = &mut tasks.machine;
    machine.put(GDT + 0x38, 0x00cf_fb00_0000_ffff);
    machine.put(GDT + 0x40, 0x00cf_f300_0000_ffff);
    machine.put(GDT + u64::from(GATE), gate);
    machine.put(OLD_TSS + 4, STACK0 | u64::from(DATA) << 32);
    machine.write(HANDLER, b"\xf4");
    for vector in 0..256 {
        let gate = call_gate(0xe, 3, 0, CODE, HANDLER);
        machine.put(IDT + vector * 8, gate);
    }
    tasks
}

fn in_ring_3(tasks: &mut Tasks) {
    let data = Segment::from_descriptor(DATA3, 0x00cf_f300_0000_ffff);
    let state = &mut tasks.state;
    state.cs = Segment::from_descriptor(CODE3, 0x00cf_fb00_0000_ffff);
    (state.ss, state.ds, state.es) = (data, data, data);
    (state.fs, state.gs) = (data, data);
    state.gprs[gpr::RSP] = STACK3;
}

/// Words of 32 bits from an address on.
fn words<const N: usize>(tasks: &Tasks, at: u64) -> [u32; N] {
    std::array::from_fn(|n| tasks.machine.word(at + n as u64 * 4) as u32)
}

#[test]
fn a_gate_to_the_same_privilege_leaves_the_way_back_on_the_stack() {
    // mov eax, 42; out 0x80, eax; retf
    for (kind, retf) in [(0xc, &b"\xb8\x2a\0\0\0\xe7\x80\xcb"[..]), (4, b"\xf4")] {
        let offset = if kind == 4 { 0x9800 } else { TASK };
        let mut tasks = machine(&far(CALL, GATE), retf, call_gate(kind, 0, 0, CODE, offset));
        tasks
            .machine
            .write(0x9800, b"\xb8\x2a\0\0\0\xe7\x80\x66\xcb");
        tasks.state.gprs[gpr::RAX] = 7;
        // The 16-bit gate leaves 16-bit words: a return address above 64 KiB is cut.
        assert_eq!(tasks.begin(), out(42), "type {kind}");
        let stack = tasks.now().gprs[gpr::RSP];
        let pushed = if kind == 4 { 4 } else { 8 };
        assert_eq!(stack, 0x20_0000 - pushed, "type {kind}");
        let [first, second] = words(&tasks, stack);
        if kind == 4 {
            assert_eq!(first, (DRIVER as u32 + 7) & 0xffff | u32::from(CODE) << 16);
            continue;
        }
        assert_eq!([first, second], [DRIVER as u32 + 7, u32::from(CODE)]);
        assert_eq!(tasks.run(), out(42));
        assert_eq!(tasks.now().gprs[gpr::RSP], 0x20_0000);
    }
}

#[test]
fn a_gate_to_more_privilege_changes_stacks_and_carries_parameters() {
    // push 0x11; push 0x22; call GATE:0; ud2
    let mut code = b"\x6a\x11\x6a\x22".to_vec();
    code.extend_from_slice(&far(CALL, GATE)[..7]);
    code.extend_from_slice(b"\x0f\x0b");
    // mov eax, [esp+8]; out 0x80, eax; mov eax, [esp+12]; out 0x80, eax; retf 8
    let behind = b"\x8b\x44\x24\x08\xe7\x80\x8b\x44\x24\x0c\xe7\x80\xca\x08\0";
    let mut tasks = machine(&code, behind, call_gate(0xc, 3, 2, CODE, TASK));
    in_ring_3(&mut tasks);
    assert_eq!(tasks.begin(), out(0x22));
    let inside = tasks.now();
    assert_eq!((inside.cs.selector, inside.ss.selector), (CODE, DATA));
    assert_eq!(inside.gprs[gpr::RSP], STACK0 - 24);
    let frame: [u32; 6] = words(&tasks, STACK0 - 24);
    let [eip, cs] = [DRIVER as u32 + 11, u32::from(CODE3)];
    let [esp, ss] = [STACK3 as u32 - 8, u32::from(DATA3)];
    assert_eq!(frame, [eip, cs, 0x22, 0x11, esp, ss]);
    assert_eq!(tasks.run(), out(0x11));
    // Back outside the parameters are gone from the caller's stack too: the frame of UD2 says where it is.
    assert_eq!(tasks.run(), Exit::Halt);
    let frame: [u32; 5] = words(&tasks, STACK0 - 20);
    assert_eq!([frame[0], frame[1]], [eip, cs]);
    assert_eq!([frame[3], frame[4]], [STACK3 as u32, ss]);
}

/// What is wrong with a gate, or who uses it, and the error code of the fault with its vector.
#[test]
fn what_a_gate_has_wrong_is_a_fault_of_the_caller() {
    let good = call_gate(0xc, 3, 0, CODE, TASK);
    for (name, gate, vector, error) in [
        ("too privileged", good & !(3 << 45), 13, GATE),
        ("not present", good & !(1 << 47), 11, GATE),
        ("to nothing", good & !(0xffff << 16), 13, 0),
        ("to data", call_gate(0xc, 3, 0, DATA, TASK), 13, DATA),
        ("to a TSS", call_gate(0xc, 3, 0, NEW, TASK), 13, NEW),
        (
            "an interrupt gate",
            call_gate(0xe, 3, 0, CODE, TASK),
            13,
            GATE,
        ),
    ] {
        let mut tasks = machine(&far(CALL, GATE), b"\xf4", gate);
        in_ring_3(&mut tasks);
        let other = call_gate(0xe, 3, 0, CODE, HANDLER + 1);
        tasks.machine.write(HANDLER + 1, b"\xf4");
        tasks.machine.put(IDT + vector * 8, other);
        assert_eq!(tasks.begin(), Exit::Halt, "{name}");
        let after = tasks.now();
        assert_eq!(after.rip, HANDLER + 2, "{name}: vector {vector}");
        let frame: [u32; 2] = words(&tasks, after.gprs[gpr::RSP]);
        assert_eq!(frame, [u32::from(error), DRIVER as u32], "{name}");
    }
}

/// Pushes what IRET to virtual-8086 mode wants, and goes.
fn iret_to_v86(flags: u32) -> Vec<u8> {
    let words = [
        0x6000,
        0x5000,
        0x4000,
        0x3000,
        0x1000,
        0xfff0,
        flags,
        u32::from(V86.0),
        0,
    ];
    let mut code = vec![];
    for word in words {
        code.push(0x68);
        code.extend_from_slice(&word.to_le_bytes());
    }
    code.push(0xcf);
    code
}

#[test]
fn an_event_in_virtual_8086_mode_comes_with_all_segments() {
    let vm = Rflags::VM.bits() as u32 | 2;
    // mov ax, ds; int 0x40
    for (name, flags, eip, error) in [
        ("INT n without IOPL faults", vm, 2, Some(0)),
        ("INT n with IOPL 3", vm | 0x3000, 4, None),
    ] {
        let mut tasks = machine(&iret_to_v86(flags), b"", 0);
        tasks.machine.write(V86.1, b"\x8c\xd8\xcd\x40");
        assert_eq!(tasks.begin(), Exit::Halt, "{name}");
        let after = tasks.now();
        assert!(!after.rflags.contains(Rflags::VM), "{name}");
        assert_eq!(after.gprs[gpr::RAX] & 0xffff, 0x4000, "{name}");
        let nulls = [after.ds, after.es, after.fs, after.gs].map(|segment| segment.selector);
        assert_eq!(nulls, [0; 4], "{name}");
        let mut at = after.gprs[gpr::RSP];
        if let Some(error) = error {
            assert_eq!(words(&tasks, at), [error], "{name}");
            at += 4;
        }
        assert_eq!(at, STACK0 - 36, "{name}");
        let frame: [u32; 9] = words(&tasks, at);
        assert_eq!(frame[..2], [eip, u32::from(V86.0)], "{name}");
        assert_eq!(frame[2] & vm, vm, "{name}");
        let segments = [0xfff0, 0x1000, 0x3000, 0x4000, 0x5000, 0x6000];
        assert_eq!(frame[3..], segments, "{name}");
    }
}

#[test]
fn a_handler_returns_to_virtual_8086_mode() {
    let flags = Rflags::VM.bits() as u32 | 0x3002;
    let mut tasks = machine(&iret_to_v86(flags), b"", 0);
    // int 0x40; mov bx, ax; hlt: the last is privileged.
    tasks.machine.write(V86.1, b"\xcd\x40\x89\xc3\xf4");
    // mov ax, 0x77; iretd
    tasks.machine.write(HANDLER + 8, b"\x66\xb8\x77\0\xcf");
    let gate = call_gate(0xe, 3, 0, CODE, HANDLER + 8);
    tasks.machine.put(IDT + 0x40 * 8, gate);
    tasks.state.gprs[gpr::RBX] = 0;
    assert_eq!(tasks.begin(), Exit::Halt);
    let after = tasks.now();
    assert_eq!(after.gprs[gpr::RBX], 0x77);
    let frame: [u32; 3] = words(&tasks, after.gprs[gpr::RSP]);
    assert_eq!(frame[..2], [0, 4]);
}

#[test]
fn a_task_may_be_one_of_virtual_8086_mode() {
    let mut tasks = machine(&far(CALL, NEW), b"", 0);
    // mov ax, ds; hlt: privileged
    tasks.machine.write(V86.1, b"\x8c\xd8\xf4");
    let put = |at: u64, value: u32| tasks.machine.write(NEW_TSS + at, &value.to_le_bytes());
    put(4, STACK0 as u32);
    put(8, u32::from(DATA));
    put(0x20, 0);
    put(0x24, Rflags::VM.bits() as u32 | 2);
    put(0x4c, u32::from(V86.0));
    put(0x54, 0x1234);
    assert_eq!(tasks.begin(), Exit::Halt);
    let after = tasks.now();
    assert_eq!(after.gprs[gpr::RAX] & 0xffff, 0x1234);
    assert_eq!(after.tr.selector, NEW);
    let frame: [u32; 3] = words(&tasks, after.gprs[gpr::RSP]);
    assert_eq!(frame, [0, 2, u32::from(V86.0)]);
}
