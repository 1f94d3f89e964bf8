//! Exceptions, interrupts, steps, probes and other modes on both sides of a system call.

use super::*;

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
