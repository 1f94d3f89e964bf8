//! 32-bit code as operating systems run it: every segment flat but FS and GS, which are null, short, or a thread's data.

use vcpu::{Vcpu, VcpuState, gpr};
use x86::{DescriptorTable, Segment};

use crate::machine::{DRIVER, Machine, Met};

const DATA: u64 = 0x30_0000;
/// GDT, IDT and code segment of the machine.
const GDT: u64 = 0x4000;
const IDT: u64 = 0x4800;
const HANDLERS: u64 = 0x6000;

/// A machine in flat 32-bit mode that starts `code`, with this segment in FS and in GS.
fn start(code: &[u8], segment: Segment) -> (Machine, VcpuState) {
    let mut machine = Machine::new(1);
    machine.start(code);
    for vector in 0..32 {
        let handler = HANDLERS + vector * 16;
        machine.put(IDT + vector * 8, handler | 0x08 << 16 | 0x8e00 << 32);
    }
    let mut state = VcpuState::protected_mode();
    let data = Segment::from_descriptor(0x18, 0x00cf_9300_0000_ffff);
    state.cs = Segment::from_descriptor(0x08, 0x00cf_9b00_0000_ffff);
    (state.ds, state.es, state.ss) = (data, data, data);
    (state.fs, state.gs) = (segment, segment);
    state.gdtr = DescriptorTable {
        base: GDT,
        limit: 0x7f,
    };
    state.idtr = DescriptorTable {
        base: IDT,
        limit: 0xff,
    };
    state.rip = DRIVER;
    state.gprs[gpr::RSP] = 0x20_0000;
    (machine, state)
}

fn thread_data(base: u64, limit: u32) -> Segment {
    Segment {
        selector: 0x33,
        base,
        limit,
        attributes: 0xc0f3,
    }
}

/// Calls and stack accesses of a program with a null FS run as translated code: nothing but the end is interpreted.
#[test]
fn a_null_fs_costs_nothing_where_it_is_not_used() {
    // mov ecx, 10000; l: call f; dec ecx; jnz l; hlt; f: push ebx; pop ebx; inc eax; ret
    let code = b"\xb9\x10\x27\0\0\xe8\x04\0\0\0\x49\x75\xf8\xf4\x53\x5b\x40\xc3";
    for segment in [Segment::default(), thread_data(DATA, u32::MAX)] {
        let (mut machine, state) = start(code, segment);
        machine.vcpus[0].set_state(&state).unwrap();
        assert_eq!(machine.run(0), Met::Halt);
        let vcpu = &mut machine.vcpus[0];
        assert_eq!(vcpu.state().unwrap().gprs[gpr::RAX], 10_000);
        let count = |name| vcpu.statistics().get(name).unwrap();
        assert!(count("interpreted instructions") < 10);
        assert!(count("block look-ups") < 100);
    }
}

/// Accesses through FS and GS: the segment, EBX, and what comes of `mov eax, fs:[ebx]` and its like.
#[test]
fn fs_and_gs_have_their_base_and_their_limit() {
    let wide = thread_data(DATA, u32::MAX);
    let short = thread_data(DATA, 0xff);
    let read_only = Segment {
        attributes: 0xc0f1,
        ..wide
    };
    let refused = Met::Vector(13, 0, DRIVER, 0);
    let load: &[u8] = b"\x64\x8b\x03\xe7\x80";
    let load_gs: &[u8] = b"\x65\x8b\x03\xe7\x80";
    let store: &[u8] = b"\x65\x89\x0b\x65\x8b\x03\xe7\x80";
    let bit_test: &[u8] = b"\x64\x0f\xab\x13\x64\x8b\x03\xe7\x80";
    for (name, code, segment, ebx, expected) in [
        ("load", load, wide, 0x10_u64, Met::Out(0x1111_0010)),
        (
            "load behind zero",
            load,
            wide,
            0xffff_fff0,
            Met::Out(0x1111_fff0),
        ),
        ("load, null", load, Segment::default(), 0x10, refused),
        ("load, last word", load, short, 0xfc, Met::Out(0x1111_00fc)),
        ("load, one byte too far", load, short, 0xfd, refused),
        ("load of GS", load_gs, wide, 0x20, Met::Out(0x1111_0020)),
        ("store", store, wide, 0x30, Met::Out(7)),
        ("store, too far", store, short, 0x100, refused),
        ("store, read-only", store, read_only, 0x30, refused),
        (
            "load, read-only",
            load,
            read_only,
            0x30,
            Met::Out(0x1111_0030),
        ),
        ("bit test", bit_test, wide, 0x40, Met::Out(0x1111_0041)),
        (
            "bit test, null",
            bit_test,
            Segment::default(),
            0x40,
            refused,
        ),
    ] {
        let (mut machine, mut state) = start(code, segment);
        for offset in (0..0x200).step_by(4) {
            let word = 0x1111_0000_u32 + offset as u32;
            machine.write(DATA + offset, &word.to_le_bytes());
        }
        machine.write(DATA - 0x10, &0x1111_fff0_u32.to_le_bytes());
        state.gprs[gpr::RBX] = ebx;
        state.gprs[gpr::RCX] = 7;
        machine.vcpus[0].set_state(&state).unwrap();
        let met = machine.run(0);
        let same = match (met, expected) {
            // The frame has words of 32 bits: the error code, then EIP.
            (Met::Vector(13, 0, _, _), Met::Vector(13, ..)) => {
                let stack = machine.vcpus[0].state().unwrap().gprs[gpr::RSP];
                machine.word(stack) == DRIVER << 32
            }
            (met, expected) => met == expected,
        };
        assert!(same, "{name}: {met:?}");
    }
}
