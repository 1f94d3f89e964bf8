//! Probes on the silicon: the processor's own breakpoints.
//!
//! **Problem.** Guest code runs by itself here: nothing of ours lies between two instructions. A breakpoint in the code
//! (`int3`) could be read by the guest, and other vCPUs run past while one steps over it. But the processor compares where
//! it is with four addresses of its own, DR0 to DR3, and KVM lends them: with `KVM_SET_GUEST_DEBUG` its values are in
//! the processor while the guest runs, and `KVM_RUN` comes back with `KVM_EXIT_DEBUG` *before* the instruction at one of
//! them, on that vCPU alone, with no byte of the guest changed.
//!
//! **Going on.** The same instruction would stop again. RFLAGS.RF is made for this: it has the processor pass one instruction
//! by, is saved and brought back by an interrupt in between, and is cleared by the instruction. So a pass is told once.
//!
//! **The guest's own use.** While ours are in, the guest's debug registers are values in KVM: it reads back what it writes,
//! and nothing stops. A guest that arms them must not be misled, so ours yield: the probes end ([`Probes::end`]), the guest
//! has its registers as the silicon has them, and whoever looked on is told. That must be seen before the guest relies on
//! it. DR7.GD, set with ours, brings KVM back when an instruction is about to touch a debug register, on Intel's by KVM's
//! own check and on AMD's because the exception comes before the intercept. That instruction alone is then executed, with
//! no event in between (`KVM_GUESTDBG_BLOCKIRQ`), and if DR7 has a breakpoint in use after it, ours have gone by the next
//! one. Should a processor below a hypervisor not heed GD, DR7 is looked at after every other exit too.
//!
//! **Exceptions of the guest.** As long as ours are in, every #DB comes to us: of a debugger in the guest that steps
//! (RFLAGS.TF), of INT1. What is not ours is given to the guest as it would have come: DR6 as the processor had put it
//! (`x86::debug::dr6_after`), DR7.GD cleared, then the exception.
//!
//! ```text
//! KVM_EXIT_DEBUG: which cause? ─┬─ a probe: told, RF set, on
//!                               ├─ touches a debug register: one step ── DR7 in use? ── ours yield
//!                               └─ the guest's own: DR6, #DB
//! ```
//!
//! **Where it cannot be relied on.** A hypervisor below ours may load DR7 without heeding it (QEMU's software CPU does in
//! VMRUN). So where this host is a guest itself, a VM of one instruction tries it first ([`stops`]); on the bare processor it
//! holds by the manuals. What a vCPU does with all this is in `debugged`.

use std::sync::Arc;

use kvm_bindings::{
    KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP,
    kvm_debug_exit_arch, kvm_guest_debug,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vcpu::{EngineError, Probes};
use x86::debug::{BREAKPOINTS, DR6_BD, DR6_BS, DR6_IDLE, DR6_MET, DR7_FIXED, DR7_GD, dr7_executes};

use crate::error::host;

/// The processor's breakpoints, as far as one vCPU has them for probes.
pub(crate) struct Breakpoints {
    /// What they stand for; without addresses the guest has its debug registers to itself.
    pub(crate) probes: Arc<Probes>,
    /// One instruction is executed that touches a debug register.
    pub(crate) step: Option<Step>,
    /// How many there may be.
    pub(crate) most: usize,
}

/// One instruction by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    /// The guest steps through its code too, so that the step's end is its own as well.
    pub(crate) is_guests_too: bool,
    /// Where it is.
    pub(crate) rip: u64,
}

/// Why `KVM_RUN` came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    /// The instruction at a probe is next.
    Probe,
    /// The next instruction touches a debug register.
    Touch,
    /// The instruction that touched one has been executed.
    Stepped,
    /// Something in the guest that is none of our doing.
    Guest,
}

impl Breakpoints {
    /// None in use; `stops` says whether the processor stops at any.
    pub(crate) fn new(stops: bool) -> Breakpoints {
        Breakpoints {
            probes: Probes::none(),
            step: None,
            most: if stops { BREAKPOINTS } else { 0 },
        }
    }

    pub(crate) fn is_armed(&self) -> bool {
        !self.probes.addresses().is_empty()
    }

    /// A step is told together with nothing of ours: a trap of the last instruction comes before what the next one would
    /// meet, which is met again when that one is executed.
    pub(crate) fn cause(&self, exit: &kvm_debug_exit_arch) -> Cause {
        let told = |bits| exit.dr6 & bits != 0;
        match () {
            () if told(DR6_BS) && self.step.is_some() => Cause::Stepped,
            () if told(DR6_BS) => Cause::Guest,
            () if told(DR6_BD) => Cause::Touch,
            () if told(DR6_MET) && self.probes.has(exit.pc) => Cause::Probe,
            () => Cause::Guest,
        }
    }

    /// What KVM is asked for.
    pub(crate) fn wanted(&self) -> kvm_guest_debug {
        let mut wanted = kvm_guest_debug::default();
        if !self.is_armed() {
            return wanted;
        }
        wanted.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
        let mut dr7 = DR7_FIXED;
        for (number, address) in self.probes.addresses().iter().enumerate() {
            wanted.arch.debugreg[number] = *address;
            dr7 |= dr7_executes(number);
        }
        if self.step.is_some() {
            wanted.control |= KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_BLOCKIRQ;
        } else {
            dr7 |= DR7_GD;
        }
        wanted.arch.debugreg[7] = dr7;
        wanted
    }
}

/// Whether a #DB that says nothing, at this byte, is INT1 with RIP still at it: an Intel processor leaves the guest before the
/// instruction (SDM vol. 3, 26.2), where one of AMD's has done it.
pub(crate) fn is_int1_ahead(told: u64, is_intel: bool, byte: Option<u8>) -> bool {
    const INT1: u8 = 0xf1;
    told == DR6_IDLE && is_intel && byte == Some(INT1)
}

pub(crate) fn is_intel() -> bool {
    let [_, b, c, d] = ::host::cpu::cpuid(0, 0);
    let name = [b, d, c].map(u32::to_le_bytes).concat();
    name == b"GenuineIntel"
}

/// Whether a guest of this vCPU, which stands before HLT at this address in a VM without local APICs, stops at a breakpoint
/// there.
pub(crate) fn stops(vcpu: &mut VcpuFd, address: u64) -> Result<bool, EngineError> {
    let mut wanted = kvm_guest_debug {
        control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP,
        ..kvm_guest_debug::default()
    };
    wanted.arch.debugreg[0] = address;
    wanted.arch.debugreg[7] = DR7_FIXED | dr7_executes(0);
    vcpu.set_guest_debug(&wanted)
        .map_err(host("cannot set a vCPU's breakpoints"))?;
    Ok(matches!(vcpu.run(), Ok(VcpuExit::Debug(exit)) if exit.pc == address))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: [u64; 4] = [
        0xffff_ffff_8100_0000,
        0xffff_ffff_8100_0040,
        0xffff_ffff_8120_0000,
        0xffff_ffff_8130_0010,
    ];

    struct Nobody;

    impl vcpu::ProbeSink for Nobody {
        fn passed(&self, _: &vcpu::Pass<'_>) {}
    }

    fn armed(addresses: &[u64]) -> Breakpoints {
        Breakpoints {
            probes: Probes::new(addresses.to_vec(), Arc::new(Nobody)),
            ..Breakpoints::new(true)
        }
    }

    fn stepping(addresses: &[u64]) -> Breakpoints {
        Breakpoints {
            step: Some(Step {
                is_guests_too: false,
                rip: 0x1000,
            }),
            ..armed(addresses)
        }
    }

    #[test]
    fn the_processor_is_given_every_address_and_guards_its_registers() {
        let check = |breakpoints: &Breakpoints, control: u32, dr7: u64, places: &[u64]| {
            let wanted = breakpoints.wanted();
            let registers = wanted.arch.debugreg;
            assert_eq!((wanted.control, registers[7]), (control, dr7));
            assert_eq!(&registers[..places.len()], places);
        };
        let ours = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
        check(&Breakpoints::new(true), 0, 0, &[0, 0, 0, 0]);
        check(
            &armed(&PLACES[..1]),
            ours,
            DR7_FIXED | DR7_GD | 2,
            &[PLACES[0], 0, 0, 0],
        );
        check(&armed(&PLACES), ours, DR7_FIXED | DR7_GD | 0xaa, &PLACES);
        // A step is one instruction, with no event before it, that may touch the registers.
        let step = KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_BLOCKIRQ;
        check(&stepping(&PLACES), ours | step, DR7_FIXED | 0xaa, &PLACES);
    }

    #[test]
    fn what_stopped_the_guest_is_told_apart() {
        let check = |breakpoints: &Breakpoints, pc, told, expected| {
            let exit = kvm_debug_exit_arch {
                exception: 1,
                pc,
                dr6: DR6_IDLE | told,
                ..kvm_debug_exit_arch::default()
            };
            assert_eq!(breakpoints.cause(&exit), expected, "{pc:#x} {told:#x}");
        };
        let ours = armed(&PLACES);
        check(&ours, PLACES[2], 1 << 2, Cause::Probe);
        check(&ours, PLACES[2] + 1, 1 << 2, Cause::Guest);
        check(&ours, PLACES[2] + 1, DR6_BD, Cause::Touch);
        // A debugger in the guest steps onto a probe: its step first, and the probe when it goes on.
        check(&ours, PLACES[0], DR6_BS, Cause::Guest);
        check(&ours, PLACES[0], DR6_BS | 1, Cause::Guest);
        // INT1 says nothing.
        check(&ours, 0x1000, 0, Cause::Guest);
        check(&ours, PLACES[0], 0, Cause::Guest);
        check(&stepping(&PLACES), 0x1000, DR6_BS, Cause::Stepped);
        check(&stepping(&PLACES), PLACES[0], 1, Cause::Probe);
        check(&Breakpoints::new(true), PLACES[0], 1, Cause::Guest);
    }

    #[test]
    fn int1_is_ahead_only_where_the_processor_leaves_before_it() {
        let check = |told, is_intel, byte, expected| {
            assert_eq!(is_int1_ahead(told, is_intel, byte), expected)
        };
        check(DR6_IDLE, true, Some(0xf1), true);
        check(DR6_IDLE, false, Some(0xf1), false);
        check(DR6_IDLE, true, Some(0x90), false);
        check(DR6_IDLE, true, None, false);
        check(DR6_IDLE | DR6_BS, true, Some(0xf1), false);
    }
}
