//! The architectural state of a vCPU as plain data: what a pause shows, a snapshot stores, an engine change carries.

use serde::{Deserialize, Serialize};
use x86::{Cr0, Cr4, DescriptorTable, Efer, Exception, Rflags, Segment};

use crate::LocalApicState;

/// Bytes of the XSAVE area we keep: the standard (not compacted) format up to AVX-512 (APM vol. 2, 11.5.2).
pub const XSAVE_BYTES: usize = 2696;

/// Positions in [`VcpuState::gprs`], in encoding order.
pub mod gpr {
    #![allow(missing_docs, reason = "register names")]
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
    pub const R8: usize = 8;
    pub const R15: usize = 15;
}

/// Debug registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DebugRegisters {
    /// DR0 to DR3.
    pub address: [u64; 4],
    /// What the last #DB was about.
    pub dr6: u64,
    /// Which breakpoints are on, and what each waits for.
    pub dr7: u64,
}

/// MSRs that belong to the CPU itself. Segment bases live in the segments, the APIC base in the APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "each field is the manual's own name")]
pub struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub syscall_mask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub pat: u64,
    pub tsc_aux: u64,
    /// Guest TSC minus host TSC.
    pub tsc_offset: u64,
    /// By how much the guest itself has moved its TSC.
    pub tsc_adjust: u64,
    pub misc_enable: u64,
    pub xss: u64,
    /// The MTRR default type; stored for the guest, without effect.
    pub mtrr_def_type: u64,
}

/// Everything a vCPU is at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "registers carry their own names")]
pub struct VcpuState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gprs: [u64; 16],
    pub rip: u64,
    pub rflags: Rflags,
    pub cs: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ss: Segment,
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: DescriptorTable,
    pub idtr: DescriptorTable,
    pub cr0: Cr0,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: Cr4,
    pub efer: Efer,
    pub debug: DebugRegisters,
    pub msrs: Msrs,
    pub xcr0: u64,
    /// x87, SSE, AVX and AVX-512 state in the standard XSAVE format, `XSAVE_BYTES` long.
    #[serde(with = "xsave_area")]
    pub xsave: Box<[u8; XSAVE_BYTES]>,
    /// The next instruction is shadowed by STI or MOV SS: no interrupt before it is done.
    pub interrupt_shadow: bool,
    /// An NMI is being handled: the next waits for IRET.
    pub nmi_blocked: bool,
    /// An NMI waits.
    pub nmi_pending: bool,
    /// An external interrupt was injected and not yet delivered.
    pub interrupt_pending: Option<u8>,
    /// An exception that was raised and not yet delivered.
    pub exception_pending: Option<Exception>,
    /// In HLT.
    pub halted: bool,
    /// After INIT: does nothing until SIPI. Only engines with local APICs of their own know of it.
    pub waits_for_sipi: bool,
    /// The local APIC, where the engine has one of its own ([`crate::Vcpu::has_local_apic`]); otherwise `None`, and ignored.
    pub local_apic: Option<LocalApicState>,
}

/// The XSAVE area as a sequence of numbers, of exactly its length.
mod xsave_area {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::XSAVE_BYTES;

    pub(super) fn serialize<S: Serializer>(
        area: &[u8; XSAVE_BYTES],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        area.as_slice().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Box<[u8; XSAVE_BYTES]>, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?.into_boxed_slice();
        bytes
            .try_into()
            .map_err(|bytes: Box<[u8]>| Error::invalid_length(bytes.len(), &"an XSAVE area"))
    }
}

impl VcpuState {
    /// The state after RESET (APM vol. 2, table 14-1): real mode at 0xffff_fff0.
    pub fn reset() -> VcpuState {
        let data = Segment::real(0, 0x93);
        let mut xsave = Box::new([0; XSAVE_BYTES]);
        xsave[0..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        xsave[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        VcpuState {
            gprs: [0; 16],
            rip: 0xfff0,
            rflags: Rflags::ONE,
            cs: Segment {
                selector: 0xf000,
                base: 0xffff_0000,
                limit: 0xffff,
                attributes: 0x9b,
            },
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            ldtr: Segment {
                limit: 0xffff,
                attributes: 0x82,
                ..Segment::default()
            },
            tr: Segment {
                limit: 0xffff,
                attributes: 0x8b,
                ..Segment::default()
            },
            gdtr: DescriptorTable {
                base: 0,
                limit: 0xffff,
            },
            idtr: DescriptorTable {
                base: 0,
                limit: 0xffff,
            },
            cr0: Cr0::ET | Cr0::NW | Cr0::CD,
            cr2: 0,
            cr3: 0,
            cr4: Cr4::empty(),
            efer: Efer::empty(),
            debug: DebugRegisters {
                address: [0; 4],
                dr6: 0xffff_0ff0,
                dr7: 0x400,
            },
            msrs: Msrs {
                pat: 0x0007_0406_0007_0406,
                misc_enable: 1,
                ..Msrs::default()
            },
            xcr0: 1,
            xsave,
            interrupt_shadow: false,
            nmi_blocked: false,
            nmi_pending: false,
            interrupt_pending: None,
            exception_pending: None,
            halted: false,
            waits_for_sipi: false,
            local_apic: None,
        }
    }

    /// The state after RESET moved into 64-bit long mode with flat segments, paging through `cr3`: what the
    /// 64-bit entries of boot protocols and tiny guests start from. The caller brings the page tables and a GDT.
    pub fn long_mode(cr3: u64) -> VcpuState {
        let data = Segment::flat(0x18, Segment::DATA32);
        VcpuState {
            cs: Segment::flat(0x10, Segment::CODE64),
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            tr: Segment {
                selector: 0x20,
                limit: 0x67,
                attributes: 0x8b,
                base: 0,
            },
            cr0: Cr0::PE | Cr0::PG | Cr0::ET | Cr0::NE | Cr0::MP,
            cr3,
            cr4: Cr4::PAE,
            efer: Efer::LME | Efer::LMA,
            rip: 0,
            ..VcpuState::reset()
        }
    }

    /// The state after RESET moved into 32-bit protected mode without paging, flat segments: the entry of
    /// multiboot and PVH.
    pub fn protected_mode() -> VcpuState {
        let data = Segment::flat(0x18, Segment::DATA32);
        VcpuState {
            cs: Segment::flat(0x10, Segment::CODE32),
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            tr: Segment {
                selector: 0,
                limit: 0x67,
                attributes: 0x8b,
                base: 0,
            },
            cr0: Cr0::PE | Cr0::ET,
            rip: 0,
            ..VcpuState::reset()
        }
    }

    /// Whether it stays in HLT: what is to be delivered ends that, also while the engine that was told of it has not come to it
    /// (SDM vol. 2, HLT).
    pub fn stays_halted(&self) -> bool {
        let is_woken = self.interrupt_pending.is_some()
            || self.nmi_pending && !self.nmi_blocked
            || self.exception_pending.is_some();
        self.halted && !is_woken
    }

    /// Current privilege level.
    pub fn cpl(&self) -> u8 {
        self.ss.dpl()
    }
}
