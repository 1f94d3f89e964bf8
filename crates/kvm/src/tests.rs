//! vCPUs on the real KVM. Where there is none, or software behind it, these say so and are skipped; the nested machine of
//! `cargo xtask test-kvm` runs them too.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use mem::GuestMemory;
use vcpu::{Exit, Pass, ProbeSink, Probes, Reply, Vcpu, VcpuState, gpr};
use x86::Gpa;

use crate::{Device, Kvm, Node, look, measure};

/// Where things lie in the tests' guests.
const TABLES: u64 = 0x1000;
const CODE: u64 = 0x4000;
const DATA: u64 = 0x5000;
const MEMORY_BYTES: u64 = 1 << 20;
/// A guest that has not come out by then hangs.
const LIMIT: Duration = Duration::from_secs(10);

/// A VM, its vCPU and the state that this was given.
type Made = (Kvm, Box<dyn Vcpu>, VcpuState);

/// A VM with the program and one vCPU that stands before it in long mode; `None` where KVM is not real.
fn vm(program: &[u8]) -> Option<Made> {
    vm_with_memory(program).map(|(_, made)| made)
}

/// As [`vm`], with the guest's memory.
fn vm_with_memory(program: &[u8]) -> Option<(Arc<GuestMemory>, Made)> {
    let has_extension = {
        let leaf = |function| std::arch::x86_64::__cpuid(function).ecx;
        leaf(1) & 1 << 5 != 0 || leaf(0x8000_0001) & 1 << 2 != 0
    };
    let found = look(true);
    let opens = found.node == Node::Opens && found.missing.is_none();
    if !opens || !has_extension && !measure().is_ok_and(|speed| speed.is_native()) {
        // Written, not printed: the test harness would keep what is printed to itself.
        let _ = writeln!(
            std::io::stderr(),
            "skipped: this host's /dev/kvm is not there or not real: {found:?}"
        );
        return None;
    }
    let memory = Arc::new(GuestMemory::flat(MEMORY_BYTES).unwrap());
    // One 2 MiB page, present and writable.
    for (table, entry) in [
        (TABLES, (TABLES + 0x1000) | 3),
        (TABLES + 0x1000, (TABLES + 0x2000) | 3),
        (TABLES + 0x2000, 0x83),
    ] {
        memory.write(Gpa(table), &entry.to_le_bytes()).unwrap();
    }
    memory.write(Gpa(CODE), program).unwrap();
    let device = Device::open().unwrap();
    let kvm = Kvm::new(&device, Arc::clone(&memory)).unwrap();
    let mut engine = kvm.engine(&[device.supported_cpuid().unwrap()]).unwrap();
    let mut vcpu = engine.vcpus.remove(0);
    let mut state = VcpuState {
        rip: CODE,
        ..VcpuState::long_mode(TABLES)
    };
    state.gprs[gpr::RBX] = DATA;
    vcpu.set_state(&state).unwrap();
    Some((memory, (kvm, vcpu, state)))
}

/// Runs on; the kick by which a state is taken over is not shown.
fn run(vcpu: &mut dyn Vcpu) -> Exit {
    loop {
        match vcpu.run(Reply::Done).unwrap() {
            Exit::Kicked | Exit::InterruptWindow => {}
            exit => return exit,
        }
    }
}

#[test]
fn a_spinning_guest_comes_out_when_it_is_kicked_also_from_a_thread_that_runs_translated_code() {
    // jmp to itself
    let Some((_kvm, mut vcpu, _)) = vm(&[0xeb, 0xfe]) else {
        return;
    };
    let kicker = vcpu.kicker();
    let (tell, told) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        host::fault::use_alternate_stack().unwrap();
        // The first two are those of the new state and of a run that had not looked yet.
        for _ in 0..5 {
            assert_eq!(vcpu.run(Reply::Done).unwrap(), Exit::Kicked);
            tell.send(Instant::now()).unwrap();
        }
        vcpu
    });
    told.recv_timeout(LIMIT).unwrap();
    for _ in 0..4 {
        // It is deep in the guest by then.
        std::thread::sleep(Duration::from_millis(50));
        kicker.kick();
        told.recv_timeout(LIMIT)
            .expect("the guest comes out when it is kicked");
    }
    let mut vcpu = thread.join().unwrap();
    assert_eq!(vcpu.state().unwrap().rip, CODE);
}

#[test]
fn a_state_that_no_processor_enters_is_an_exit_and_stays_one() {
    // out 0x80, al
    let Some((_kvm, mut vcpu, state)) = vm(&[0xe6, 0x80]) else {
        return;
    };
    // Long mode with a code segment that is 64 and 32 bits wide at once (APM vol. 2, 15.5.1).
    let mut impossible = state.clone();
    impossible.cs.attributes |= 1 << 13 | 1 << 14;
    let Ok(()) = vcpu.set_state(&impossible) else {
        return;
    };
    for _ in 0..3 {
        let Exit::Unrunnable(what) = run(&mut *vcpu) else {
            panic!("the processor entered it")
        };
        assert!(what.what.contains("refuses to enter"), "{}", what.what);
    }
    // Registers for a report can be had. Not which: QEMU's software CPU loses some where a processor keeps all.
    vcpu.state().unwrap();
    // It was the state, not the vCPU.
    vcpu.set_state(&state).unwrap();
    assert!(matches!(run(&mut *vcpu), Exit::PioWrite { port: 0x80, .. }));
}

#[test]
fn a_triple_fault_is_an_exit_and_stays_one() {
    // ud2, without an IDT
    let Some((_kvm, mut vcpu, mut state)) = vm(&[0x0f, 0x0b]) else {
        return;
    };
    state.idtr.limit = 0;
    vcpu.set_state(&state).unwrap();
    for _ in 0..3 {
        assert!(matches!(run(&mut *vcpu), Exit::TripleFault(_)));
    }
}

#[test]
fn an_instruction_that_kvm_cannot_emulate_is_an_exit_with_its_place() {
    // fld qword [rax], where no memory is
    let Some((_kvm, mut vcpu, mut state)) = vm(&[0xdd, 0x00]) else {
        return;
    };
    state.gprs[gpr::RAX] = MEMORY_BYTES + 0x1000;
    vcpu.set_state(&state).unwrap();
    match run(&mut *vcpu) {
        Exit::Unrunnable(what) => {
            assert!(what.what.contains("cannot emulate"), "{}", what.what);
            assert_eq!(what.rip, CODE);
        }
        // A KVM that learned it asks for the bytes.
        exit => assert!(matches!(exit, Exit::MmioRead { .. }), "{exit:?}"),
    }
}

#[test]
fn what_was_set_is_what_is_read() {
    let Some((_kvm, mut vcpu, mut state)) = vm(&[0xf4]) else {
        return;
    };
    let mut now = vcpu.state().unwrap();
    // Every register has a value of its own; the XSAVE area has x87 and SSE in use.
    for (number, register) in (0_u64..).zip(&mut now.gprs) {
        *register = 0x1111_0000_2222_0000 | number << 4;
    }
    for (number, byte) in now.xsave[160..416].iter_mut().enumerate() {
        *byte = number as u8 ^ 0x5a;
    }
    now.xsave[512] = 3;
    now.cr2 = 0xdead_b000;
    now.msrs.star = 0x0023_0010_0000_0000;
    now.msrs.lstar = 0xffff_8000_0000_1000;
    now.msrs.kernel_gs_base = 0x7000;
    now.msrs.tsc_aux = 7;
    now.debug.address[0] = 0x1234_5000;
    now.interrupt_shadow = true;
    now.nmi_blocked = true;
    vcpu.set_state(&now).unwrap();
    let read = vcpu.state().unwrap();
    assert_eq!(read, now);
    state.halted = true;
    vcpu.set_state(&state).unwrap();
    assert!(vcpu.state().unwrap().halted);
}

/// What an observer heard: RCX at each pass, and how often it was told that there will be none.
#[derive(Default)]
struct Heard {
    passes: Mutex<Vec<u64>>,
    ends: Mutex<u32>,
}

impl ProbeSink for Heard {
    fn passed(&self, pass: &Pass<'_>) {
        self.passes.lock().unwrap().push(pass.gprs[gpr::RCX]);
    }

    fn ended(&self) {
        *self.ends.lock().unwrap() += 1;
    }
}

impl Heard {
    fn passes(&self) -> Vec<u64> {
        self.passes.lock().unwrap().clone()
    }

    fn ends(&self) -> u32 {
        *self.ends.lock().unwrap()
    }
}

/// Probes for a vCPU; `None`, with a loud word, where the processor does not stop.
fn probe(vcpu: &mut dyn Vcpu, addresses: &[u64]) -> Option<Arc<Heard>> {
    if vcpu.probes_max() == 0 {
        let _ = writeln!(
            std::io::stderr(),
            "not here: the processor below does not stop at breakpoints of a nested guest"
        );
        return None;
    }
    let heard = Arc::new(Heard::default());
    let sink = Arc::clone(&heard) as Arc<dyn ProbeSink>;
    assert!(vcpu.set_probes(&Probes::new(addresses.to_vec(), sink)));
    Some(heard)
}

#[test]
fn a_guest_passes_four_probes_and_each_pass_is_told_once_before_the_instruction() {
    // mov ecx, 5; 1: nop; dec ecx; nop; jnz 1b; out 0x80, al
    let program = [
        0xb9, 5, 0, 0, 0, 0x90, 0xff, 0xc9, 0x90, 0x75, 0xfa, 0xe6, 0x80,
    ];
    let Some((_kvm, mut vcpu, state)) = vm(&program) else {
        return;
    };
    let places = [CODE, CODE + 5, CODE + 8, CODE + 11];
    let Some(heard) = probe(&mut *vcpu, &places) else {
        return;
    };
    assert!(matches!(run(&mut *vcpu), Exit::PioWrite { port: 0x80, .. }));
    let mut expected = vec![state.gprs[gpr::RCX]];
    expected.extend((1..=5).rev().flat_map(|count| [count, count - 1]));
    expected.push(0);
    assert_eq!((heard.passes(), heard.ends()), (expected, 0));
    // The guest finds its own registers as it left them.
    let mut state = vcpu.state().unwrap();
    assert_eq!((state.debug.dr7 & 0xff, state.debug.address), (0, [0; 4]));
    // OUT is passed by once more: it was told.
    state.rflags.remove(x86::Rflags::RF);
    // With a state that is put into it the vCPU still stops; with no probes it does not.
    state.rip = CODE;
    vcpu.set_state(&state).unwrap();
    assert!(matches!(run(&mut *vcpu), Exit::PioWrite { port: 0x80, .. }));
    assert_eq!(heard.passes().len(), 24);
    assert!(vcpu.set_probes(&Probes::none()));
    vcpu.set_state(&state).unwrap();
    assert!(matches!(run(&mut *vcpu), Exit::PioWrite { port: 0x80, .. }));
    assert_eq!(heard.passes().len(), 24);
    // More than the processor has are none.
    let five = Probes::new((0..5).map(|at| CODE + at).collect(), heard);
    assert!(!vcpu.set_probes(&five));
}

#[test]
fn a_guest_that_arms_its_own_breakpoints_has_them_and_observers_are_told() {
    // nop; mov dr0, rbx; mov dr7, rax; out 0x80, al; nop; out 0x81, al
    let program = [
        0x90, 0x0f, 0x23, 0xc3, 0x0f, 0x23, 0xf8, 0xe6, 0x80, 0x90, 0xe6, 0x81,
    ];
    let Some((_kvm, mut vcpu, mut state)) = vm(&program) else {
        return;
    };
    state.gprs[gpr::RBX] = CODE + 9;
    // Breakpoint 0, before the instruction there is executed.
    state.gprs[gpr::RAX] = 0x402;
    state.idtr.limit = 0;
    vcpu.set_state(&state).unwrap();
    let Some(heard) = probe(&mut *vcpu, &[CODE, CODE + 9]) else {
        return;
    };
    assert!(matches!(run(&mut *vcpu), Exit::PioWrite { port: 0x80, .. }));
    assert_eq!((heard.passes().len(), heard.ends()), (1, 1));
    // Its #DB has nowhere to go.
    assert!(matches!(run(&mut *vcpu), Exit::TripleFault(_)));
    assert_eq!((heard.passes().len(), heard.ends()), (1, 1));
    let sink = Arc::clone(&heard) as Arc<dyn ProbeSink>;
    let probes = Probes::new(vec![CODE], sink);
    state.debug.dr7 = 0x402;
    vcpu.set_state(&state).unwrap();
    assert!(!vcpu.set_probes(&probes), "the guest has them in use");
    state.debug.dr7 = 0x400;
    vcpu.set_state(&state).unwrap();
    assert!(vcpu.set_probes(&probes), "it has left them");
}

#[test]
fn a_guest_that_steps_through_its_code_gets_its_own_exceptions_beside_probes() {
    const GDT: u64 = 0x6000;
    const IDT: u64 = 0x6100;
    const HANDLER: u64 = CODE + 0x40;
    // pushf; or dword [rsp], 0x100; popf; nop; nop; out 0x80, al
    let mut program = vec![0x9c, 0x81, 0x0c, 0x24, 0, 1, 0, 0, 0x9d];
    program.extend([0x90, 0x90, 0xe6, 0x80]);
    program.resize(0x40, 0xf4);
    // inc dword [rbx]; mov rax, dr6; mov [rbx+8], rax; iretq
    program.extend([
        0xff, 0x03, 0x0f, 0x21, 0xf0, 0x48, 0x89, 0x43, 8, 0x48, 0xcf,
    ]);
    let Some((memory, (_kvm, mut vcpu, mut state))) = vm_with_memory(&program) else {
        return;
    };
    let code_segment = 0x00af_9b00_0000_ffff_u64;
    memory
        .write(Gpa(GDT + 8), &code_segment.to_le_bytes())
        .unwrap();
    let gate = HANDLER & 0xffff | 8 << 16 | 0x8e00 << 32;
    memory.write(Gpa(IDT + 16), &gate.to_le_bytes()).unwrap();
    (state.gdtr.base, state.gdtr.limit) = (GDT, 15);
    (state.idtr.base, state.idtr.limit) = (IDT, 31);
    state.cs.selector = 8;
    state.ss.selector = 0;
    state.gprs[gpr::RSP] = 0x8000;
    vcpu.set_state(&state).unwrap();
    let Some(heard) = probe(&mut *vcpu, &[CODE, CODE + 10]) else {
        return;
    };
    assert!(matches!(run(&mut *vcpu), Exit::PioWrite { port: 0x80, .. }));
    let number = |at| memory.read_value(Gpa(DATA + at), 8).unwrap();
    let steps = number(0);
    assert_eq!((steps, heard.passes().len(), heard.ends()), (2, 2, 0));
    assert_eq!(number(8), x86::debug::DR6_IDLE | x86::debug::DR6_BS);
}
