//! Whether guest code runs at the speed of the silicon: a program of a few instructions, in long mode on KVM and then
//! on the bare processor.
//!
//! A `/dev/kvm` that opens proves nothing: there are backends behind it that interpret. The program does what those
//! are bad at, indirect calls, returns and memory, and the same instructions are timed outside of a guest beside it.

use std::arch::asm;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use mem::GuestMemory;
use vcpu::{EngineError, Kick, VcpuState, gpr};
use x86::Gpa;

use crate::breakpoints;
use crate::error::host;
use crate::kick::Kicker;
use crate::slots::set_slots;

/// Rounds of the loop: about a millisecond of silicon.
const ROUNDS: u64 = 400_000;
/// After this the program is taken out of the guest, finished or not.
const LIMIT: Duration = Duration::from_millis(20);
/// Going in and coming out, and the first faults of the guest's pages.
const SLACK: Duration = Duration::from_millis(2);

/// Where things lie in the probe's guest.
const TABLES: u64 = 0x1000;
const CODE: u64 = 0x4000;
const DATA: u64 = 0x5000;
const MEMORY_BYTES: u64 = 0x8000;

/// `1: call rax; dec rcx; jnz 1b; hlt` and, at `FUNCTION`, `add [rbx], rcx; ret`.
const PROGRAM: [u8; 12] = [
    0xff, 0xd0, 0x48, 0xff, 0xc9, 0x75, 0xf9, 0xf4, 0x48, 0x01, 0x0b, 0xc3,
];
const FUNCTION: u64 = CODE + 8;
/// Its last instruction.
const HLT: u64 = CODE + 7;

/// How long the program took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Speed {
    /// On KVM; `None` if it had to be taken out.
    pub guest: Option<Duration>,
    /// On the bare processor.
    pub native: Duration,
}

impl Speed {
    /// Whether that is the speed of silicon.
    pub fn is_native(&self) -> bool {
        self.guest
            .is_some_and(|guest| guest <= self.native * 2 + SLACK)
    }
}

/// Runs the program in both places.
///
/// # Errors
/// If KVM refuses something on the way.
pub fn measure() -> Result<Speed, EngineError> {
    // The best of three each: a busy machine makes things slower, never faster.
    let mut native = native();
    let mut guest = None;
    for _ in 0..3 {
        let Some(time) = in_guest()? else { break };
        guest = Some(guest.map_or(time, |best: Duration| best.min(time)));
        native = native.min(self::native());
    }
    Ok(Speed { guest, native })
}

fn native() -> Duration {
    let mut sum = 0_u64;
    let start = Instant::now();
    // SAFETY: the loop calls the function behind it, which adds to `sum` and returns; it touches no other memory but
    // the stack, which the compiler knows of, and only the registers named.
    unsafe {
        asm!(
            "lea {function}, [rip + 3f]",
            "2: call {function}",
            "dec {rounds}",
            "jnz 2b",
            "jmp 4f",
            "3: add [{sum}], {rounds}",
            "ret",
            "4:",
            function = out(reg) _,
            rounds = inout(reg) ROUNDS => _,
            sum = in(reg) &raw mut sum,
        );
    }
    let time = start.elapsed();
    std::hint::black_box(sum);
    time
}

/// Whether a guest stops at a breakpoint of the processor's: so it is on the bare one, and where a hypervisor is below, a
/// guest of one instruction tries.
pub(crate) fn stops(kvm: &Kvm) -> Result<bool, EngineError> {
    let is_guest = ::host::cpu::cpuid(1, 0)[2] & 1 << 31 != 0;
    if !is_guest {
        return Ok(true);
    }
    let memory = program_in_memory()?;
    let mut vcpu = vcpu(kvm, &memory)?;
    let mut regs = vcpu
        .get_regs()
        .map_err(host("cannot read a vCPU's state"))?;
    regs.rip = HLT;
    vcpu.set_regs(&regs)
        .map_err(host("cannot set a vCPU's state"))?;
    breakpoints::stops(&mut vcpu, HLT)
}

fn in_guest() -> Result<Option<Duration>, EngineError> {
    let memory = program_in_memory()?;
    let kvm = Kvm::new().map_err(host("cannot open /dev/kvm"))?;
    let page_bytes = kvm
        .get_vcpu_mmap_size()
        .map_err(host("cannot ask KVM for the size of its page"))?;
    let mut vcpu = vcpu(&kvm, &memory)?;
    let kicker = Kicker::new(std::os::fd::AsRawFd::as_raw_fd(&vcpu), page_bytes);
    let kicker = Arc::new(kicker.map_err(|source| EngineError::Host {
        what: "cannot map a vCPU's page",
        source,
    })?);
    run_bounded(&mut vcpu, &kicker)
}

/// The vCPU of a VM with this memory, where the program begins. It keeps its VM.
fn vcpu(kvm: &Kvm, memory: &GuestMemory) -> Result<VcpuFd, EngineError> {
    let vm = kvm.create_vm().map_err(host("cannot make a VM on KVM"))?;
    set_slots(&vm, memory).map_err(|source| EngineError::Host {
        what: "cannot give KVM the guest's memory",
        source,
    })?;
    let vcpu = vm
        .create_vcpu(0)
        .map_err(host("cannot make a vCPU on KVM"))?;
    set_start(kvm, &vcpu)?;
    Ok(vcpu)
}

/// A guest's memory with the program and page tables for it: one 2 MiB page, present and writable.
fn program_in_memory() -> Result<GuestMemory, EngineError> {
    let memory = GuestMemory::flat(MEMORY_BYTES)
        .map_err(|error| EngineError::Internal(error.to_string()))?;
    let write = |gpa: u64, bytes: &[u8]| {
        memory
            .write(Gpa(gpa), bytes)
            .map_err(|error| EngineError::Internal(error.to_string()))
    };
    for (table, entry) in [
        (TABLES, (TABLES + 0x1000) | 3),
        (TABLES + 0x1000, (TABLES + 0x2000) | 3),
        (TABLES + 0x2000, 0x83),
    ] {
        write(table, &entry.to_le_bytes())?;
    }
    write(CODE, &PROGRAM)?;
    Ok(memory)
}

/// Puts the vCPU where the program begins, in long mode.
fn set_start(kvm: &Kvm, vcpu: &VcpuFd) -> Result<(), EngineError> {
    let cpuid = kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES);
    let cpuid = cpuid.map_err(host("cannot ask KVM for its CPUID"))?;
    vcpu.set_cpuid2(&cpuid)
        .map_err(host("cannot set a vCPU's CPUID"))?;
    let mut state = VcpuState {
        rip: CODE,
        ..VcpuState::long_mode(TABLES)
    };
    state.gprs[gpr::RAX] = FUNCTION;
    state.gprs[gpr::RCX] = ROUNDS;
    state.gprs[gpr::RBX] = DATA;
    state.gprs[gpr::RSP] = MEMORY_BYTES;
    let old = vcpu
        .get_sregs()
        .map_err(host("cannot read a vCPU's state"))?;
    vcpu.set_sregs(&crate::state::sregs_to(&state, old.apic_base))
        .map_err(host("cannot set a vCPU's state"))?;
    vcpu.set_regs(&crate::state::regs_to(&state))
        .map_err(host("cannot set a vCPU's state"))?;
    Ok(())
}

/// How long the program takes; nothing if it had to be taken out.
fn run_bounded(vcpu: &mut VcpuFd, kicker: &Arc<Kicker>) -> Result<Option<Duration>, EngineError> {
    let (done, is_done) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let watched = Arc::clone(kicker);
        scope.spawn(move || {
            let mut wait = LIMIT;
            while is_done.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                watched.kick();
                wait = Duration::from_millis(1);
            }
        });
        let start = Instant::now();
        kicker.entering();
        let halted = matches!(vcpu.run(), Ok(VcpuExit::Hlt));
        kicker.left();
        let time = start.elapsed();
        drop(done);
        Ok(halted.then_some(time))
    })
}
