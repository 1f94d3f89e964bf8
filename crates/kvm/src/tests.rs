//! vCPUs on the real KVM. Where there is none, or software behind it, these say so and are skipped; the nested machine of
//! `cargo xtask test-kvm` runs them too.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use mem::GuestMemory;
use vcpu::{Exit, Reply, Vcpu, VcpuState, gpr};
use x86::Gpa;

use crate::{Device, Kvm, Node, look, measure};

/// Where things lie in the tests' guests.
const TABLES: u64 = 0x1000;
const CODE: u64 = 0x4000;
const DATA: u64 = 0x5000;
const MEMORY_BYTES: u64 = 1 << 20;
/// A guest that has not come out by then hangs.
const LIMIT: Duration = Duration::from_secs(10);

/// A VM with the program and one vCPU that stands before it in long mode; `None` where KVM is not real.
fn vm(program: &[u8]) -> Option<(Kvm, Box<dyn Vcpu>, VcpuState)> {
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
    let kvm = Kvm::new(&device, memory).unwrap();
    let mut engine = kvm.engine(&[device.supported_cpuid().unwrap()]).unwrap();
    let mut vcpu = engine.vcpus.remove(0);
    let mut state = VcpuState {
        rip: CODE,
        ..VcpuState::long_mode(TABLES)
    };
    state.gprs[gpr::RBX] = DATA;
    vcpu.set_state(&state).unwrap();
    Some((kvm, vcpu, state))
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

/// Shuts all signals out of this thread, as one that runs translated code does.
fn shut_signals_out() {
    // SAFETY: an all-zero sigset is valid for sigfillset to overwrite.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `all` is a valid sigset.
    unsafe { libc::sigfillset(&mut all) };
    // SAFETY: `all` is a valid sigset; the old mask is not wanted.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut()) };
}

#[test]
fn a_spinning_guest_comes_out_when_it_is_kicked_also_from_a_thread_that_shut_signals_out() {
    // jmp to itself
    let Some((_kvm, mut vcpu, _)) = vm(&[0xeb, 0xfe]) else {
        return;
    };
    let kicker = vcpu.kicker();
    let (tell, told) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        shut_signals_out();
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
