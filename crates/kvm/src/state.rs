//! Between KVM's many structures and the plain [`VcpuState`] of the contract.
//!
//! The order in which KVM wants to be told matters and is here: first what decides which mode the processor is in,
//! then the TSC, then the APIC, whose timer counts by it, and last what waits to be delivered.

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_UNINITIALIZED, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET,
    KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW, KVM_X86_SHADOW_INT_STI, Msrs,
    kvm_debugregs, kvm_device_attr, kvm_dtable, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_segment,
    kvm_sregs, kvm_vcpu_events, kvm_xcr, kvm_xcrs, kvm_xsave,
};
use vcpu::{DebugRegisters, EngineError, VcpuState, XSAVE_BYTES, gpr};
use vmm_sys_util::ioctl::ioctl_with_ref;
use x86::{Cr0, Cr4, DescriptorTable, Efer, Exception, Rflags, Segment, msr};

use crate::apic;
use crate::error::host;
use crate::vcpu_fd::KvmVcpu;

vmm_sys_util::ioctl_iow_nr!(
    KVM_SET_DEVICE_ATTR,
    kvm_bindings::KVMIO,
    0xe1,
    kvm_device_attr
);
vmm_sys_util::ioctl_iow_nr!(
    KVM_GET_DEVICE_ATTR,
    kvm_bindings::KVMIO,
    0xe2,
    kvm_device_attr
);

/// The MSRs of [`vcpu::Msrs`] that KVM keeps as MSRs, in the order of [`own_msrs`].
const OWN: [u32; 14] = [
    msr::STAR,
    msr::LSTAR,
    msr::CSTAR,
    msr::SYSCALL_MASK,
    msr::KERNEL_GS_BASE,
    msr::SYSENTER_CS,
    msr::SYSENTER_ESP,
    msr::SYSENTER_EIP,
    msr::PAT,
    msr::TSC_AUX,
    msr::TSC_ADJUST,
    msr::MISC_ENABLE,
    msr::XSS,
    msr::MTRR_DEF_TYPE,
];

fn own_msrs(msrs: &mut vcpu::Msrs) -> [&mut u64; OWN.len()] {
    [
        &mut msrs.star,
        &mut msrs.lstar,
        &mut msrs.cstar,
        &mut msrs.syscall_mask,
        &mut msrs.kernel_gs_base,
        &mut msrs.sysenter_cs,
        &mut msrs.sysenter_esp,
        &mut msrs.sysenter_eip,
        &mut msrs.pat,
        &mut msrs.tsc_aux,
        &mut msrs.tsc_adjust,
        &mut msrs.misc_enable,
        &mut msrs.xss,
        &mut msrs.mtrr_def_type,
    ]
}

fn segment_of(segment: &kvm_segment) -> Segment {
    let bit = |value: u8, at: u32| u16::from(value & 1) << at;
    let attributes = u16::from(segment.type_ & 0xf)
        | bit(segment.s, 4)
        | u16::from(segment.dpl & 3) << 5
        | bit(segment.present & !segment.unusable, 7)
        | bit(segment.avl, 12)
        | bit(segment.l, 13)
        | bit(segment.db, 14)
        | bit(segment.g, 15);
    Segment {
        selector: segment.selector,
        base: segment.base,
        limit: segment.limit,
        attributes,
    }
}

fn segment_to(segment: &Segment) -> kvm_segment {
    let bit = |at: u32| (segment.attributes >> at & 1) as u8;
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: segment.kind(),
        present: bit(7),
        dpl: segment.dpl(),
        db: bit(14),
        s: bit(4),
        l: bit(13),
        g: bit(15),
        avl: bit(12),
        unusable: u8::from(!segment.is_present()),
        padding: 0,
    }
}

fn table_to(table: DescriptorTable) -> kvm_dtable {
    kvm_dtable {
        base: table.base,
        limit: table.limit,
        ..kvm_dtable::default()
    }
}

fn table_of(table: kvm_dtable) -> DescriptorTable {
    DescriptorTable {
        base: table.base,
        limit: table.limit,
    }
}

pub(crate) fn regs_to(state: &VcpuState) -> kvm_regs {
    let at = state.gprs;
    let rip = state.rip;
    let rflags = (state.rflags | Rflags::ONE).bits();
    kvm_regs {
        rax: at[gpr::RAX],
        rcx: at[gpr::RCX],
        rdx: at[gpr::RDX],
        rbx: at[gpr::RBX],
        rsp: at[gpr::RSP],
        rbp: at[gpr::RBP],
        rsi: at[gpr::RSI],
        rdi: at[gpr::RDI],
        r8: at[gpr::R8],
        r9: at[9],
        r10: at[10],
        r11: at[11],
        r12: at[12],
        r13: at[13],
        r14: at[14],
        r15: at[gpr::R15],
        rip,
        rflags,
    }
}

pub(crate) fn gprs_of(regs: &kvm_regs) -> [u64; 16] {
    [
        regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8,
        regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ]
}

impl KvmVcpu {
    fn tsc_offset_attribute(value: &mut u64) -> kvm_device_attr {
        kvm_device_attr {
            flags: 0,
            group: KVM_VCPU_TSC_CTRL,
            attr: u64::from(KVM_VCPU_TSC_OFFSET),
            addr: std::ptr::from_mut(value) as u64,
        }
    }

    /// Sets the TSC's distance from the host's; the APIC's deadline is one by the new TSC from now on.
    pub(crate) fn set_tsc_offset(&self, mut offset: u64) -> Result<(), EngineError> {
        let deadline = self.msr(msr::TSC_DEADLINE)?.unwrap_or(0);
        let attribute = KvmVcpu::tsc_offset_attribute(&mut offset);
        // SAFETY: the descriptor is our vCPU; KVM reads eight bytes from `offset`, which lives through the call.
        if unsafe { ioctl_with_ref(&self.fd, KVM_SET_DEVICE_ATTR(), &attribute) } != 0 {
            return Err(host("cannot set the TSC offset")(kvm_ioctls::Error::last()));
        }
        if deadline != 0 {
            self.set_msr(msr::TSC_DEADLINE, deadline)
        } else {
            Ok(())
        }
    }

    pub(crate) fn tsc_offset(&self) -> Result<u64, EngineError> {
        let mut offset = 0;
        let attribute = KvmVcpu::tsc_offset_attribute(&mut offset);
        // SAFETY: the descriptor is our vCPU; KVM writes eight bytes to `offset`, which lives through the call.
        let done = unsafe { ioctl_with_ref(&self.fd, KVM_GET_DEVICE_ATTR(), &attribute) };
        if done == 0 {
            Ok(offset)
        } else {
            Err(host("cannot read the TSC offset")(kvm_ioctls::Error::last()))
        }
    }

    pub(crate) fn save_state(&mut self) -> Result<VcpuState, EngineError> {
        let cannot = || host("cannot read the state of a vCPU");
        // Asked first: KVM takes pending startup requests while it answers.
        let mp = self.fd.get_mp_state().map_err(cannot())?.mp_state;
        let regs = self.fd.get_regs().map_err(cannot())?;
        let sregs = self.fd.get_sregs().map_err(cannot())?;
        let events = self.fd.get_vcpu_events().map_err(cannot())?;
        let debug = self.fd.get_debug_regs().map_err(cannot())?;
        let xcrs = self.fd.get_xcrs().map_err(cannot())?;
        let xsave = self.fd.get_xsave().map_err(cannot())?;
        let page = self.fd.get_lapic().map_err(cannot())?;
        let mut msrs = vcpu::Msrs::default();
        for (number, value) in OWN.into_iter().zip(own_msrs(&mut msrs)) {
            *value = self.msr(number)?.unwrap_or(0);
        }
        msrs.tsc_offset = self.tsc_offset()?;
        let deadline = self.msr(msr::TSC_DEADLINE)?.unwrap_or(0);
        let exception = events.exception;
        let has_exception = exception.injected != 0 || exception.pending != 0;
        let exception_pending = if has_exception {
            Exception::of_vector(exception.nr, exception.error_code, sregs.cr2, debug.dr6)
        } else {
            None
        };
        let interrupt = events.interrupt;
        Ok(VcpuState {
            gprs: gprs_of(&regs),
            rip: regs.rip,
            rflags: Rflags::from_bits_retain(regs.rflags),
            cs: segment_of(&sregs.cs),
            ds: segment_of(&sregs.ds),
            es: segment_of(&sregs.es),
            fs: segment_of(&sregs.fs),
            gs: segment_of(&sregs.gs),
            ss: segment_of(&sregs.ss),
            ldtr: segment_of(&sregs.ldt),
            tr: segment_of(&sregs.tr),
            gdtr: table_of(sregs.gdt),
            idtr: table_of(sregs.idt),
            cr0: Cr0::from_bits_retain(sregs.cr0),
            cr2: sregs.cr2,
            cr3: sregs.cr3,
            cr4: Cr4::from_bits_retain(sregs.cr4),
            efer: Efer::from_bits_retain(sregs.efer),
            debug: DebugRegisters {
                address: debug.db,
                dr6: debug.dr6,
                dr7: debug.dr7,
            },
            msrs,
            xcr0: xcrs.xcrs[0].value,
            xsave: xsave_of(&xsave),
            interrupt_shadow: interrupt.shadow != 0,
            nmi_blocked: events.nmi.masked != 0,
            nmi_pending: events.nmi.pending != 0 || events.nmi.injected != 0,
            interrupt_pending: (interrupt.injected != 0 && interrupt.soft == 0)
                .then_some(interrupt.nr),
            exception_pending,
            halted: mp == KVM_MP_STATE_HALTED,
            waits_for_sipi: mp == KVM_MP_STATE_UNINITIALIZED || mp == KVM_MP_STATE_INIT_RECEIVED,
            local_apic: Some(apic::of_kvm(&page, sregs.apic_base, deadline)),
        })
    }

    /// One MSR; `None` if this vCPU has none of that number.
    fn msr(&self, number: u32) -> Result<Option<u64>, EngineError> {
        let entry = kvm_msr_entry {
            index: number,
            ..kvm_msr_entry::default()
        };
        let mut list = Msrs::from_entries(&[entry])
            .map_err(|_| EngineError::State("one MSR is not too many"))?;
        let count = self
            .fd
            .get_msrs(&mut list)
            .map_err(host("cannot read an MSR"))?;
        Ok((count == 1).then(|| list.as_slice()[0].data))
    }

    fn set_msr(&self, number: u32, value: u64) -> Result<(), EngineError> {
        let entry = kvm_msr_entry {
            index: number,
            data: value,
            ..kvm_msr_entry::default()
        };
        let list = Msrs::from_entries(&[entry])
            .map_err(|_| EngineError::State("one MSR is not too many"))?;
        let count = self
            .fd
            .set_msrs(&list)
            .map_err(host("cannot write an MSR"))?;
        // Features that the guest was not offered have no MSR either: nothing is lost if nothing was in it.
        if count == 1 || value == 0 {
            Ok(())
        } else {
            Err(EngineError::State("KVM refuses an MSR's value"))
        }
    }

    pub(crate) fn load_state(&mut self, state: &VcpuState) -> Result<(), EngineError> {
        let cannot = || host("cannot set the state of a vCPU");
        let old = self.fd.get_sregs().map_err(cannot())?;
        self.fd
            .set_sregs(&sregs_to(state, old.apic_base))
            .map_err(cannot())?;
        self.fd.set_regs(&regs_to(state)).map_err(cannot())?;
        let xcr0 = kvm_xcr {
            xcr: 0,
            value: state.xcr0,
            ..kvm_xcr::default()
        };
        let mut xcrs = kvm_xcrs {
            nr_xcrs: 1,
            ..kvm_xcrs::default()
        };
        xcrs.xcrs[0] = xcr0;
        self.fd.set_xcrs(&xcrs).map_err(cannot())?;
        // SAFETY: the area is complete up to AVX-512, which is all that KVM was asked to give guests; no state
        // component beyond the fixed 4096 bytes was enabled for this process.
        unsafe { self.fd.set_xsave(&xsave_to(&state.xsave)) }.map_err(cannot())?;
        let mut msrs = state.msrs;
        for (number, value) in OWN.into_iter().zip(own_msrs(&mut msrs)) {
            self.set_msr(number, *value)?;
        }
        self.set_tsc_offset(state.msrs.tsc_offset)?;
        if let Some(apic) = &state.local_apic {
            self.fd.set_lapic(&apic::to_kvm(apic)).map_err(cannot())?;
            self.set_msr(msr::TSC_DEADLINE, apic.tsc_deadline)?;
        }
        let DebugRegisters { address, dr6, dr7 } = state.debug;
        let debug = kvm_debugregs {
            db: address,
            dr6,
            dr7,
            ..kvm_debugregs::default()
        };
        self.fd.set_debug_regs(&debug).map_err(cannot())?;
        let mp_state = match (state.waits_for_sipi, state.halted) {
            (true, _) => KVM_MP_STATE_UNINITIALIZED,
            (false, true) => KVM_MP_STATE_HALTED,
            (false, false) => KVM_MP_STATE_RUNNABLE,
        };
        self.fd
            .set_mp_state(kvm_mp_state { mp_state })
            .map_err(cannot())?;
        self.fd.set_vcpu_events(&events_to(state)).map_err(cannot())
    }
}

pub(crate) fn sregs_to(state: &VcpuState, old_base: u64) -> kvm_sregs {
    kvm_sregs {
        cs: segment_to(&state.cs),
        ds: segment_to(&state.ds),
        es: segment_to(&state.es),
        fs: segment_to(&state.fs),
        gs: segment_to(&state.gs),
        ss: segment_to(&state.ss),
        tr: segment_to(&state.tr),
        ldt: segment_to(&state.ldtr),
        gdt: table_to(state.gdtr),
        idt: table_to(state.idtr),
        cr0: state.cr0.bits(),
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4.bits(),
        cr8: 0,
        efer: state.efer.bits(),
        apic_base: state.local_apic.as_ref().map_or(old_base, |apic| apic.base),
        interrupt_bitmap: [0; 4],
    }
}

fn events_to(state: &VcpuState) -> kvm_vcpu_events {
    let flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    let mut events = kvm_vcpu_events {
        flags,
        ..kvm_vcpu_events::default()
    };
    if let Some(exception) = state.exception_pending {
        events.exception.injected = 1;
        events.exception.nr = exception.vector();
        events.exception.has_error_code = u8::from(exception.error_code().is_some());
        events.exception.error_code = exception.error_code().unwrap_or(0);
    }
    if let Some(vector) = state.interrupt_pending {
        events.interrupt.injected = 1;
        events.interrupt.nr = vector;
    }
    events.interrupt.shadow = if state.interrupt_shadow {
        KVM_X86_SHADOW_INT_STI as u8
    } else {
        0
    };
    events.nmi.pending = u8::from(state.nmi_pending);
    events.nmi.masked = u8::from(state.nmi_blocked);
    events
}

fn xsave_of(xsave: &kvm_xsave) -> Box<[u8; XSAVE_BYTES]> {
    let mut bytes = Box::new([0; XSAVE_BYTES]);
    for (to, word) in bytes.chunks_exact_mut(4).zip(xsave.region) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn xsave_to(bytes: &[u8; XSAVE_BYTES]) -> kvm_xsave {
    let mut xsave = kvm_xsave::default();
    for (word, from) in xsave.region.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes([from[0], from[1], from[2], from[3]]);
    }
    xsave
}
