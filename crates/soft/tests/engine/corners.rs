//! Corners of the architecture that a kernel meets once a year: flags that are never pushed, frames of far calls, the
//! bits that vector instructions obey, NMIs that come in pairs.

use vcpu::{Exit, Injection, Reply, Vcpu, VcpuState, gpr};
use x86::{Cr0, Cr4, Efer, Rflags, msr};

use crate::machine::{DRIVER, Machine, Met, P, U, W, WINDOW};

const DATA: u64 = 0x30_0000;
const RF: u64 = 1 << 16;

/// Runs `code` in ring 0 from a state that `prepare` may change.
fn run(code: &[u8], prepare: impl FnOnce(&mut VcpuState)) -> (Machine, Met) {
    let mut machine = Machine::new(1);
    let mut state = machine.start(code);
    prepare(&mut state);
    machine.vcpus[0].set_state(&state).unwrap();
    let met = machine.run(0);
    (machine, met)
}

/// What code that starts with RF set, as IRET leaves it after a fault, finds in the flags it pushes.
#[test]
fn rf_is_gone_with_the_instruction_it_was_for() {
    let pushed = |code: &[u8], met: Met, at: u64| {
        let (mut machine, found) = run(code, |state| state.rflags |= Rflags::RF);
        assert_eq!(found, met);
        let rsp = machine.vcpus[0].state().unwrap().gprs[gpr::RSP];
        machine.word(rsp + at)
    };
    // pushfq; hlt
    assert_eq!(pushed(b"\x9c\xf4", Met::Halt, 0) & RF, 0);
    // nop; pushfq; hlt
    assert_eq!(pushed(b"\x90\x9c\xf4", Met::Halt, 0) & RF, 0);
    // nop; int3: a trap
    let trap = Met::Vector(3, 0, DRIVER + 2, 0);
    assert_eq!(pushed(b"\x90\xcc", trap, 16) & RF, 0);
    // ud2: a fault sets RF in what it pushes
    let fault = Met::Vector(6, 0, DRIVER, 0);
    assert_eq!(pushed(b"\x0f\x0b", fault, 16) & RF, RF);
}

/// An execution breakpoint at RIP, with and without RF: it is held off for that one instruction.
#[test]
fn rf_holds_a_breakpoint_off_for_one_instruction() {
    // l: inc eax; jmp l
    let breakpoint = |rf: bool| {
        let (mut machine, met) = run(b"\xff\xc0\xeb\xfc", |state| {
            state.debug.address[0] = DRIVER;
            state.debug.dr7 |= 1;
            state.rflags.set(Rflags::RF, rf);
        });
        assert_eq!(met, Met::Vector(1, 0, DRIVER, 0));
        machine.vcpus[0].state().unwrap().gprs[gpr::RAX]
    };
    assert_eq!((breakpoint(false), breakpoint(true)), (0, 1));
}

#[test]
fn avx_and_legacy_sse_each_obey_their_own_bits() {
    let addps: &[u8] = b"\x0f\x58\xc1\xf4";
    // vzeroall; vaddps ymm3, ymm2, ymm1; hlt
    let avx: &[u8] = b"\xc5\xfc\x77\xc5\xec\x58\xd9\xf4";
    let undefined = Met::Vector(6, 0, DRIVER, 0);
    let no_device = Met::Vector(7, 0, DRIVER, 0);
    for (name, code, cr0, cr4, expected) in [
        ("SSE", addps, Cr0::empty(), Cr4::OSFXSR, Met::Halt),
        (
            "SSE without OSFXSR",
            addps,
            Cr0::empty(),
            Cr4::OSXSAVE,
            undefined,
        ),
        ("SSE with EM", addps, Cr0::EM, Cr4::OSFXSR, undefined),
        ("SSE with TS", addps, Cr0::TS, Cr4::OSFXSR, no_device),
        (
            "AVX",
            avx,
            Cr0::empty(),
            Cr4::OSFXSR | Cr4::OSXSAVE,
            Met::Halt,
        ),
        (
            "AVX without OSFXSR",
            avx,
            Cr0::empty(),
            Cr4::OSXSAVE,
            Met::Halt,
        ),
        (
            "AVX without OSXSAVE",
            avx,
            Cr0::empty(),
            Cr4::OSFXSR,
            undefined,
        ),
        ("AVX with TS", avx, Cr0::TS, Cr4::OSXSAVE, no_device),
        ("AVX with EM", avx, Cr0::EM, Cr4::OSXSAVE, Met::Halt),
    ] {
        let (_, met) = run(code, |state| {
            state.cr0 |= cr0;
            state.cr4 -= Cr4::OSFXSR;
            state.cr4 |= cr4;
            state.xcr0 = 7;
        });
        assert_eq!(met, expected, "{name}");
    }
}

#[test]
fn hints_read_nothing_even_where_nothing_is() {
    // 0F 18 /6, 0F 18 /7, 0F 1C /0, 0F 0D /2, 0F 1A /1 of [rbx]; hlt
    let code = b"\x0f\x18\x33\x0f\x18\x3b\x0f\x1c\x03\x0f\x0d\x13\x0f\x1a\x0b\xf4";
    let (_, met) = run(code, |state| state.gprs[gpr::RBX] = 0xffff_8000_0000_0000);
    assert_eq!(met, Met::Halt);
    // prefetch without memory
    let (_, met) = run(b"\x0f\x0d\xc0", |_| ());
    assert_eq!(met, Met::Vector(6, 0, DRIVER, 0));
}

/// SYSRET loads TF and the next instruction is not executed; POPF and IRET let one through.
#[test]
fn sysret_with_tf_traps_before_the_first_instruction() {
    for (tf, expected) in [
        (true, Met::Vector(1, 0, WINDOW, 0)),
        (false, Met::Vector(3, 0, WINDOW + 2, 0)),
    ] {
        let mut machine = Machine::new(1);
        machine.map(WINDOW, DATA, P | W | U);
        // nop; int3
        machine.write(DATA, b"\x90\xcc");
        let mut state = machine.start(b"\x48\x0f\x07");
        state.efer |= Efer::SCE;
        state.msrs.star = 0x23 << 48 | 0x10 << 32;
        state.gprs[gpr::RCX] = WINDOW;
        state.gprs[11] = 2 | u64::from(tf) << 8;
        machine.vcpus[0].set_state(&state).unwrap();
        assert_eq!(machine.run(0), expected, "TF {tf}");
    }
}

#[test]
fn a_wide_far_call_pushes_words_of_64_bits() {
    for (name, code, bytes) in [
        ("call far [rbx]", &b"\xff\x1b"[..], 8),
        ("rex.w call far [rbx]", b"\x48\xff\x1b", 16),
        ("rex.w call far fs:[rbx]", b"\x64\x48\xff\x1b", 16),
        // A REX prefix that is not the last one counts for nothing.
        ("rex.w fs call far [rbx]", b"\x48\x64\xff\x1b", 8),
    ] {
        let target = (DRIVER + 0x40) as u32;
        let mut machine = Machine::new(1);
        machine.write(DATA, &target.to_le_bytes());
        machine.write(DATA + 4, &0x10_u16.to_le_bytes());
        let mut state = machine.start(code);
        machine.write(u64::from(target), b"\xf4");
        state.gprs[gpr::RBX] = DATA;
        machine.vcpus[0].set_state(&state).unwrap();
        let before = state.gprs[gpr::RSP];
        assert_eq!(machine.run(0), Met::Halt, "{name}");
        let rsp = machine.vcpus[0].state().unwrap().gprs[gpr::RSP];
        assert_eq!(before - rsp, bytes, "{name}");
        let back = machine.word(rsp) & if bytes == 8 { 0xffff_ffff } else { u64::MAX };
        assert_eq!(back, DRIVER + code.len() as u64, "{name}");
    }
}

/// Descriptors of 16 bytes and what LTR and LLDT say to them: #GP with the selector, or nothing.
#[test]
fn system_descriptors_have_a_canonical_base_and_no_type_above() {
    let ltr: &[u8] = b"\x0f\x00\xd8\xf4";
    let lldt: &[u8] = b"\x0f\x00\xd0\xf4";
    let refused = Met::Vector(13, 0x48, DRIVER, 0);
    for (name, code, kind, upper, expected) in [
        ("LTR", ltr, 9, 0xffff_8000, Met::Halt),
        ("LTR, base not canonical", ltr, 9, 0x8000, refused),
        ("LTR, a type above", ltr, 9, 0x0000_0900_ffff_8000, refused),
        ("LLDT", lldt, 2, 0x7fff, Met::Halt),
        ("LLDT, base not canonical", lldt, 2, 0x1234_0000, refused),
        ("LLDT of a TSS", lldt, 9, 0, refused),
    ] {
        let mut machine = Machine::new(1);
        let mut state = machine.start(code);
        let at = state.gdtr.base + 0x48;
        machine.put(at, 0x0000_8000_0000_0067 | kind << 40);
        machine.put(at + 8, upper);
        state.gprs[gpr::RAX] = 0x48;
        machine.vcpus[0].set_state(&state).unwrap();
        assert_eq!(machine.run(0), expected, "{name}");
    }
}

/// NMIs injected before the guest runs and while it handles one, and how often it handles them.
#[test]
fn an_nmi_is_latched_behind_the_one_that_is_handled() {
    for (before, within, handled) in [(1, 0, 1), (2, 0, 2), (3, 0, 2), (1, 1, 2), (1, 3, 2)] {
        let mut machine = Machine::new(1);
        // The handler: out 0x80, al; iretq. The program: hlt.
        let mut state = machine.start(b"\xf4");
        machine.write(DRIVER + 0x100, b"\xe6\x80\x48\xcf");
        machine.put(
            state.idtr.base + 0x20,
            (DRIVER + 0x100) & 0xffff | 0x10 << 16 | 0x8e00 << 32 | (DRIVER >> 16) << 48,
        );
        state.gprs[gpr::RAX] = 7;
        let vcpu = &mut machine.vcpus[0];
        vcpu.set_state(&state).unwrap();
        (0..before).for_each(|_| vcpu.inject(Injection::Nmi));
        let mut count = 0;
        while machine.run(0) == Met::Out(7) {
            count += 1;
            if count == 1 {
                (0..within).for_each(|_| machine.vcpus[0].inject(Injection::Nmi));
            }
        }
        assert_eq!(count, handled, "{before} before, {within} within");
    }
}

#[test]
fn cr8_is_not_an_msr() {
    // mov rax, cr8; mov cr8, rbx; mov ecx, 0x808; rdmsr
    let mut machine = Machine::new(1);
    let mut state = machine.start(b"\x44\x0f\x20\xc0\x44\x0f\x22\xc3\xb9\x08\x08\0\0\x0f\x32");
    state.gprs[gpr::RBX] = 9;
    let vcpu = &mut machine.vcpus[0];
    vcpu.set_state(&state).unwrap();
    assert_eq!(vcpu.run(Reply::Done).unwrap(), Exit::TaskPriorityRead);
    assert_eq!(
        vcpu.run(Reply::Value(5)).unwrap(),
        Exit::TaskPriorityWrite { value: 9 }
    );
    let read = Exit::MsrRead {
        msr: msr::X2APIC_TPR,
    };
    assert_eq!(vcpu.run(Reply::Done).unwrap(), read);
    assert_eq!(vcpu.state().unwrap().gprs[gpr::RAX], 5);
    assert_eq!(vcpu.run(Reply::Fault).unwrap(), Exit::Halt, "#GP");
    assert_eq!(vcpu.state().unwrap().rip - 1, 0x6000 + 13 * 16);
}

/// Values of IA32_APIC_BASE, whether the board takes them, and bit 9 of CPUID's leaves 1 and 80000001.
#[test]
fn cpuid_shows_whether_the_local_apic_is_on() {
    for (base, reply, is_on) in [
        (0xfee0_0900_u64, Reply::Done, true),
        (0xfee0_0100, Reply::Done, false),
        (0xfee0_0100, Reply::Fault, true),
    ] {
        // wrmsr; cpuid; mov esi, edx; mov eax, 0x80000001; cpuid; hlt
        let mut machine = Machine::new(1);
        let mut state =
            machine.start(b"\x0f\x30\xb8\x01\0\0\0\x0f\xa2\x89\xd6\xb8\x01\0\0\x80\x0f\xa2\xf4");
        state.gprs[gpr::RCX] = u64::from(msr::APIC_BASE);
        state.gprs[gpr::RAX] = base;
        let vcpu = &mut machine.vcpus[0];
        vcpu.set_state(&state).unwrap();
        assert!(matches!(
            vcpu.run(Reply::Done).unwrap(),
            Exit::MsrWrite { .. }
        ));
        assert_eq!(vcpu.run(reply).unwrap(), Exit::Halt);
        if reply == Reply::Fault {
            // Ends in #GP; look at CPUID without the write.
            state.rip += 2;
            vcpu.set_state(&state).unwrap();
            assert_eq!(vcpu.run(Reply::Done).unwrap(), Exit::Halt);
        }
        let state = vcpu.state().unwrap();
        let bits = [gpr::RSI, gpr::RDX].map(|register| state.gprs[register] >> 9 & 1 != 0);
        assert_eq!(bits, [is_on; 2], "{base:#x} {reply:?}");
    }
}

/// Locked operands across cache lines, which are not left to the silicon, with one vCPU and with two.
#[test]
fn a_lock_across_cache_lines_does_what_it_does_within_one() {
    let check = |name: &str, locked: &[u8], expected: (u64, u64, u64)| {
        for vcpus in [1, 2] {
            // mov [rdi], rax; ...; hlt
            let code = [b"\x48\x89\x07", locked, b"\xf4"].concat();
            let mut machine = Machine::new(vcpus);
            let mut state = machine.start(&code);
            state.gprs[gpr::RDI] = DATA + 61;
            state.gprs[gpr::RAX] = 5;
            state.gprs[gpr::RCX] = 7;
            machine.vcpus[0].set_state(&state).unwrap();
            assert_eq!(machine.run(0), Met::Halt, "{name}");
            let state = machine.vcpus[0].state().unwrap();
            let zero = state.rflags.bits() >> 6 & 1;
            let found = (machine.word(DATA + 61), state.gprs[gpr::RCX], zero);
            assert_eq!(found, expected, "{name}, {vcpus} vCPUs");
        }
    };
    check("lock xadd [rdi], rcx", b"\xf0\x48\x0f\xc1\x0f", (12, 5, 0));
    check(
        "lock cmpxchg [rdi], rcx",
        b"\xf0\x48\x0f\xb1\x0f",
        (7, 7, 1),
    );
    check(
        "lock sub qword [rdi], 5",
        b"\xf0\x48\x83\x2f\x05",
        (0, 7, 1),
    );
    check("xchg [rdi], rcx", b"\x48\x87\x0f", (7, 5, 0));
    // The bit offset leads into the next word: 64 + 7 is bit 7 of the second one.
    let code = b"\x48\x83\xc1\x40\xf0\x48\x0f\xab\x0f\x48\x8b\x4f\x08";
    check(
        "add rcx, 64; lock bts [rdi], rcx; mov rcx, [rdi+8]",
        code,
        (5, 128, 0),
    );
}

/// SWAPGS, what is read through GS behind it, and where both bases are when something comes between.
#[test]
fn swapgs_swaps_the_bases_and_nothing_else() {
    const SWAPGS: &[u8] = b"\x0f\x01\xf8";
    const READ_TO_RAX: &[u8] = b"\x65\x48\x8b\x04\x25\0\0\0\0";
    const READ_TO_RBX: &[u8] = b"\x65\x48\x8b\x1c\x25\0\0\0\0";
    const OTHER: u64 = DATA + 0x100;
    // mov rcx, [rbp]: RBP leads nowhere; rdgsbase rcx; mov cr3, rdi
    const FAULT: &[u8] = b"\x48\x8b\x4d\0";
    const READ_BASE: &[u8] = b"\xf3\x48\x0f\xae\xc9";
    const LOAD_SPACE: &[u8] = b"\x0f\x22\xdf";
    let halt: &[u8] = b"\xf4";
    for (name, code, swaps, rax, rbx, rcx) in [
        ("once", vec![SWAPGS, READ_TO_RAX, halt], 1, 2, 3, 1),
        (
            "to and fro",
            vec![SWAPGS, READ_TO_RAX, SWAPGS, READ_TO_RBX, halt],
            2,
            2,
            1,
            1,
        ),
        (
            "twice in a row",
            vec![SWAPGS, SWAPGS, READ_TO_RAX, halt],
            2,
            1,
            3,
            1,
        ),
        ("before a fault", vec![SWAPGS, FAULT], 1, 0, 3, 1),
        (
            "before a look at the base",
            vec![SWAPGS, READ_BASE, halt],
            1,
            0,
            3,
            OTHER,
        ),
        (
            "with the interpreter between",
            vec![SWAPGS, LOAD_SPACE, READ_TO_RAX, SWAPGS, READ_BASE, halt],
            2,
            2,
            3,
            DATA,
        ),
    ] {
        let mut machine = Machine::new(1);
        let mut state = machine.start(&code.concat());
        machine.put(DATA, 1);
        machine.put(OTHER, 2);
        state.cr4 |= Cr4::FSGSBASE;
        state.gs.base = DATA;
        state.msrs.kernel_gs_base = OTHER;
        let rsp = state.gprs[gpr::RSP];
        state.gprs = std::array::from_fn(|number| number as u64);
        state.gprs[gpr::RSP] = rsp;
        state.gprs[gpr::RBP] = WINDOW;
        state.gprs[gpr::RDI] = state.cr3;
        machine.vcpus[0].set_state(&state).unwrap();
        machine.run(0);
        let after = machine.vcpus[0].state().unwrap();
        let expected = if swaps % 2 == 1 {
            (OTHER, DATA)
        } else {
            (DATA, OTHER)
        };
        assert_eq!(
            (after.gs.base, after.msrs.kernel_gs_base),
            expected,
            "{name}"
        );
        let mut gprs = state.gprs;
        (gprs[gpr::RAX], gprs[gpr::RBX], gprs[gpr::RCX]) = (rax, rbx, rcx);
        gprs[gpr::RSP] = after.gprs[gpr::RSP];
        assert_eq!(after.gprs, gprs, "{name}");
    }
}

/// In rings 1 and 2: what ring 0 alone may do faults, and interrupts are enabled by IOPL alone.
#[test]
fn the_middle_rings_may_do_what_iopl_says_and_no_more() {
    let refused = Met::Vector(13, 0, DRIVER, 0);
    // HLT is for ring 0, and says how far the code came.
    let went_on = Met::Vector(13, 0, DRIVER + 1, 0);
    for (name, code, ring, iopl, expected) in [
        ("cli", &b"\xfa\xf4"[..], 1, 0, refused),
        ("sti", b"\xfb\xf4", 2, 1, refused),
        ("cli", b"\xfa\xf4", 1, 1, went_on),
        ("sti", b"\xfb\xf4", 2, 2, went_on),
        ("swapgs", b"\x0f\x01\xf8\xf4", 1, 3, refused),
        ("swapgs", b"\x0f\x01\xf8\xf4", 2, 3, refused),
    ] {
        let (_, met) = run(code, |state| {
            state.cs.attributes |= ring << 5;
            state.ss.attributes |= ring << 5;
            state.cs.selector |= ring;
            state.ss.selector |= ring;
            state.rflags |= Rflags::from_bits_retain(iopl << 12);
        });
        assert_eq!(met, expected, "{name} in ring {ring} with IOPL {iopl}");
    }
}
