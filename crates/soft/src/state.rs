//! Between the engine's own state and the plain [`VcpuState`] of the contract.

use vcpu::{EngineError, VcpuState};
use x86::{Cr0, Cr4, Efer, Rflags, cpu_model};

use crate::block::seg;
use crate::cpu::{Pending, SoftVcpu};

/// Bytes of the XSAVE header's XSTATE_BV.
const XSTATE_BV: std::ops::Range<usize> = 512..520;

impl SoftVcpu {
    pub(crate) fn save_state(&mut self) -> VcpuState {
        self.clean_fp_pointers();
        self.keep_mxcsr();
        let mut msrs = self.msrs;
        msrs.tsc_offset = self.block.tsc_offset;
        VcpuState {
            gprs: self.block.gprs,
            rip: self.block.rip,
            rflags: self.rflags(),
            cs: self.segments[seg::CS],
            ds: self.segments[seg::DS],
            es: self.segments[seg::ES],
            fs: self.segments[seg::FS],
            gs: self.segments[seg::GS],
            ss: self.segments[seg::SS],
            ldtr: self.ldtr,
            tr: self.tr,
            gdtr: self.gdtr,
            idtr: self.idtr,
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: self.cr4,
            efer: self.efer,
            debug: self.debug,
            msrs,
            xcr0: self.xcr0,
            xsave: Box::new(self.block.xsave.0),
            interrupt_shadow: self.pending.shadow,
            nmi_blocked: self.pending.nmi_blocked,
            nmi_pending: self.pending.nmis > 0,
            interrupt_pending: self.pending.interrupt,
            // The software CPU delivers an exception in the instruction that raises it, and has no APIC.
            exception_pending: None,
            halted: self.pending.halted,
            waits_for_sipi: false,
            local_apic: None,
        }
    }

    /// Refuses what no processor can be in and what translated code could not survive.
    pub(crate) fn check_state(state: &VcpuState) -> Result<(), EngineError> {
        let has = |condition: bool, what| {
            if condition {
                Err(EngineError::State(what))
            } else {
                Ok(())
            }
        };
        has(
            state.cr0.contains(Cr0::PG) && !state.cr0.contains(Cr0::PE),
            "paging without protected mode",
        )?;
        let lma = state.efer.contains(Efer::LMA);
        let is_long = state.cr0.contains(Cr0::PG) && state.efer.contains(Efer::LME);
        has(
            lma != is_long,
            "EFER.LMA does not follow from CR0.PG and EFER.LME",
        )?;
        has(
            lma && !state.cr4.contains(Cr4::PAE),
            "long mode without PAE",
        )?;
        has(
            state.cr4.contains(Cr4::LA57),
            "5-level paging is not offered",
        )?;
        let xstate_bv = u64::from_le_bytes(state.xsave[XSTATE_BV].try_into().expect("eight bytes"));
        has(
            xstate_bv & !cpu_model::XCR0_MASK != 0,
            "FP state components that are not offered",
        )?;
        has(
            state.xsave[520..576].iter().any(|&byte| byte != 0),
            "reserved bytes of the XSAVE header",
        )?;
        let mxcsr = u32::from_le_bytes(state.xsave[24..28].try_into().expect("four bytes"));
        has(mxcsr & !0x2_ffff != 0, "reserved bits of MXCSR")
    }

    pub(crate) fn load_state(&mut self, state: &VcpuState) {
        self.block.gprs = state.gprs;
        self.block.rip = state.rip;
        self.segments = [state.es, state.cs, state.ss, state.ds, state.fs, state.gs];
        self.ldtr = state.ldtr;
        self.tr = state.tr;
        self.gdtr = state.gdtr;
        self.idtr = state.idtr;
        self.cr0 = state.cr0;
        self.cr2 = state.cr2;
        self.cr3 = state.cr3;
        self.cr4 = state.cr4;
        self.efer = state.efer;
        self.debug = state.debug;
        self.msrs = state.msrs;
        self.block.tsc_offset = state.msrs.tsc_offset;
        self.block.tsc_aux = state.msrs.tsc_aux;
        self.block.kernel_gs_base = state.msrs.kernel_gs_base;
        self.xcr0 = state.xcr0;
        self.block.xsave.0 = *state.xsave;
        self.block.fp_loaded = 0;
        self.block.system_flags = 0;
        self.set_rflags(state.rflags | Rflags::ONE);
        self.pending = Pending {
            interrupt: state.interrupt_pending,
            nmis: u8::from(state.nmi_pending),
            nmi_blocked: state.nmi_blocked,
            shadow: state.interrupt_shadow,
            halted: state.halted,
            delivered: false,
            resumes: false,
            steps_already: false,
            breakpoints: 0,
        };
        self.show_waiting();
        self.answers.clear();
        self.asking = None;
        self.answers_used = 0;
        self.posted.clear();
        self.in_shutdown = false;
        self.banks.flush_all();
        self.update_context();
    }
}
