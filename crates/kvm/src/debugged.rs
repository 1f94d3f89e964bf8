//! A vCPU whose guest was stopped by a debug exception: `breakpoints` has the plan, this is what is done on the vCPU.

use std::sync::Arc;

use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_INJECT_DB, kvm_debug_exit_arch, kvm_debugregs, kvm_regs,
    kvm_sregs,
};
use mem::GuestMemory;
use vcpu::{EngineError, Pass, Probes};
use x86::debug::{DR6_BS, DR6_IDLE, DR6_MET, DR7_GD, DR7_USED, dr6_after};
use x86::paging::{self, Access, Paging};
use x86::{Cr0, Cr4, Efer, Gva, Rflags};

use crate::breakpoints::{Cause, Step, is_int1_ahead, is_intel};
use crate::error::host;
use crate::vcpu_fd::KvmVcpu;

/// How addresses become physical ones, of what KVM says of a vCPU.
fn paging_of(sregs: &kvm_sregs) -> Paging {
    Paging {
        cr0: Cr0::from_bits_retain(sregs.cr0),
        cr3: sregs.cr3,
        cr4: Cr4::from_bits_retain(sregs.cr4),
        efer: Efer::from_bits_retain(sregs.efer),
    }
}

/// The byte of code at an address.
fn code_at(memory: &GuestMemory, paging: &Paging, address: u64) -> Option<u8> {
    let access = Access {
        write: false,
        fetch: false,
        user: false,
        smap_override: true,
    };
    let read = |entry, size| memory.read_value(entry, size).unwrap_or(0);
    let walk = paging::walk(paging, Gva(address), access, read).ok()?;
    let mut byte = [0];
    memory.read(walk.gpa, &mut byte).ok()?;
    Some(byte[0])
}

impl KvmVcpu {
    /// Takes these probes instead of those before; whether every pass of them will be told.
    pub(crate) fn take_probes(&mut self, probes: &Arc<Probes>) -> Result<bool, EngineError> {
        if probes.addresses().is_empty() && !self.breakpoints.is_armed() {
            return Ok(true);
        }
        let fits = probes.addresses().len() <= self.breakpoints.most;
        let fits = fits && (probes.addresses().is_empty() || !self.guest_uses_registers()?);
        self.breakpoints.probes = match fits {
            true => Arc::clone(probes),
            false => Probes::none(),
        };
        // What a step was for is seen to with the next instruction that touches a register.
        self.breakpoints.step = None;
        self.put_breakpoints(0)?;
        Ok(fits)
    }

    /// The vCPU has another state now, maybe with debug registers in use.
    pub(crate) fn renew_breakpoints(&mut self) -> Result<(), EngineError> {
        self.breakpoints.step = None;
        match self.breakpoints.is_armed() {
            true if self.guest_uses_registers()? => self.yield_breakpoints(),
            true => self.put_breakpoints(0),
            false => Ok(()),
        }
    }

    /// After an exit that has nothing to do with it: whether the guest has come to use its registers unseen.
    pub(crate) fn check_breakpoints(&mut self) -> Result<(), EngineError> {
        if !self.breakpoints.is_armed() {
            return Ok(());
        }
        if let Some(step) = self.breakpoints.step {
            // Events are held back meanwhile: not for longer, should the instruction have faulted instead.
            return match self.registers()?.rip == step.rip {
                true => Ok(()),
                false => self.end_step(),
            };
        }
        match self.guest_uses_registers()? {
            true => self.yield_breakpoints(),
            false => Ok(()),
        }
    }

    /// `KVM_RUN` came back with this.
    pub(crate) fn debugged(&mut self, exit: &kvm_debug_exit_arch) -> Result<(), EngineError> {
        match self.breakpoints.cause(exit) {
            Cause::Probe => {
                self.tell_pass(exit.pc)?;
                // Some processors clear GD with what they tell, others leave it.
                match exit.dr7 & DR7_GD {
                    0 => self.put_breakpoints(0),
                    _ => Ok(()),
                }
            }
            Cause::Touch => self.touched(exit.dr6),
            Cause::Stepped => self.stepped(),
            Cause::Guest => self.give_to_guest(exit.dr6),
        }
    }

    fn put_breakpoints(&mut self, more: u32) -> Result<(), EngineError> {
        let mut wanted = self.breakpoints.wanted();
        wanted.control |= more;
        self.fd
            .set_guest_debug(&wanted)
            .map_err(host("cannot set a vCPU's breakpoints"))
    }

    /// Whether the guest has a breakpoint of its own in use.
    fn guest_uses_registers(&self) -> Result<bool, EngineError> {
        Ok(self.debug_registers()?.dr7 & DR7_USED != 0)
    }

    /// The guest's own, whatever is in the processor's.
    fn debug_registers(&self) -> Result<kvm_debugregs, EngineError> {
        self.fd
            .get_debug_regs()
            .map_err(host("cannot read a vCPU's debug registers"))
    }

    /// Leaves the guest its registers, and tells those who looked on.
    fn yield_breakpoints(&mut self) -> Result<(), EngineError> {
        let probes = std::mem::replace(&mut self.breakpoints.probes, Probes::none());
        self.breakpoints.step = None;
        let yielded = self.put_breakpoints(0);
        probes.end();
        yielded
    }

    fn tell_pass(&mut self, address: u64) -> Result<(), EngineError> {
        let cannot = || host("cannot read the registers of a vCPU at a probe");
        let mut regs = self.fd.get_regs().map_err(cannot())?;
        let sregs = self.fd.get_sregs().map_err(cannot())?;
        self.breakpoints.probes.tell(&Pass {
            vcpu_id: self.id,
            address,
            gprs: &crate::state::gprs_of(&regs),
            gs_base: sregs.gs.base,
            paging: paging_of(&sregs),
        });
        regs.rflags |= Rflags::RF.bits();
        self.fd
            .set_regs(&regs)
            .map_err(host("cannot have a vCPU go on behind a probe"))
    }

    /// The next instruction touches a debug register: it is executed by itself, unless the guest forbids it too.
    fn touched(&mut self, told: u64) -> Result<(), EngineError> {
        if self.debug_registers()?.dr7 & DR7_GD != 0 {
            return self.give_to_guest(told);
        }
        let regs = self.registers()?;
        self.breakpoints.step = Some(Step {
            rip: regs.rip,
            is_guests_too: Rflags::from_bits_retain(regs.rflags).contains(Rflags::TF),
        });
        self.put_breakpoints(0)
    }

    /// The instruction that touched a debug register is done, and the guest may use them now.
    fn end_step(&mut self) -> Result<(), EngineError> {
        self.breakpoints.step = None;
        match self.guest_uses_registers()? {
            true => self.yield_breakpoints(),
            false => self.put_breakpoints(0),
        }
    }

    fn registers(&self) -> Result<kvm_regs, EngineError> {
        self.fd
            .get_regs()
            .map_err(host("cannot read the registers of a vCPU"))
    }

    fn stepped(&mut self) -> Result<(), EngineError> {
        let step = self.breakpoints.step;
        self.end_step()?;
        if !step.is_some_and(|step| step.is_guests_too) {
            return Ok(());
        }
        // With its own step KVM took the guest's flag away.
        let cannot = || host("cannot have a vCPU step on");
        let mut regs = self.fd.get_regs().map_err(cannot())?;
        regs.rflags |= Rflags::TF.bits();
        self.fd.set_regs(&regs).map_err(cannot())?;
        self.give_to_guest(DR6_IDLE | DR6_BS)
    }

    /// A #DB of the guest's own, as it would have come.
    fn give_to_guest(&mut self, told: u64) -> Result<(), EngineError> {
        let cannot = || host("cannot give a vCPU its debug exception");
        let sregs = self.fd.get_sregs().map_err(cannot())?;
        let mut regs = self.fd.get_regs().map_err(cannot())?;
        let code = code_at(
            &self.memory,
            &paging_of(&sregs),
            sregs.cs.base.wrapping_add(regs.rip),
        );
        if is_int1_ahead(told, is_intel(), code) {
            regs.rip += 1;
            self.fd.set_regs(&regs).map_err(cannot())?;
        }
        let mut registers = self.debug_registers()?;
        // What was met is ours: the guest has no breakpoint in use.
        registers.dr6 = dr6_after(registers.dr6, told & !DR6_MET);
        registers.dr7 &= !DR7_GD;
        self.fd.set_debug_regs(&registers).map_err(cannot())?;
        self.put_breakpoints(KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_ENABLE)?;
        // Without ours, nothing but the exception was asked for.
        match self.breakpoints.is_armed() {
            true => Ok(()),
            false => self.put_breakpoints(0),
        }
    }
}
