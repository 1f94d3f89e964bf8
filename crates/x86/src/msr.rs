//! Numbers of the model-specific registers we know (APM vol. 2, appendix A; SDM vol. 4).
#![allow(missing_docs, reason = "each constant is the manual's own name")]

pub const TSC: u32 = 0x10;
pub const APIC_BASE: u32 = 0x1b;
pub const TSC_ADJUST: u32 = 0x3b;
pub const SPEC_CTRL: u32 = 0x48;
pub const PRED_CMD: u32 = 0x49;
pub const BIOS_SIGN_ID: u32 = 0x8b;
pub const MTRR_CAP: u32 = 0xfe;
pub const ARCH_CAPABILITIES: u32 = 0x10a;
pub const FLUSH_CMD: u32 = 0x10b;
pub const SYSENTER_CS: u32 = 0x174;
pub const SYSENTER_ESP: u32 = 0x175;
pub const SYSENTER_EIP: u32 = 0x176;
pub const MCG_CAP: u32 = 0x179;
pub const MCG_STATUS: u32 = 0x17a;
pub const MCG_CTL: u32 = 0x17b;
pub const MISC_ENABLE: u32 = 0x1a0;
pub const DEBUGCTL: u32 = 0x1d9;
/// First of 8 base/mask pairs.
pub const MTRR_PHYS_BASE0: u32 = 0x200;
pub const MTRR_FIX_64K_00000: u32 = 0x250;
pub const MTRR_FIX_16K_80000: u32 = 0x258;
pub const MTRR_FIX_16K_A0000: u32 = 0x259;
/// First of 8 registers up to 0x26f.
pub const MTRR_FIX_4K_C0000: u32 = 0x268;
pub const PAT: u32 = 0x277;
pub const MTRR_DEF_TYPE: u32 = 0x2ff;
pub const TSC_DEADLINE: u32 = 0x6e0;
/// First x2APIC register; `0x800 + (xAPIC offset / 16)`.
pub const X2APIC_BASE: u32 = 0x800;
/// Last x2APIC register.
pub const X2APIC_LAST: u32 = 0x8ff;
pub const X2APIC_TPR: u32 = 0x808;
pub const XSS: u32 = 0xda0;
pub const EFER: u32 = 0xc000_0080;
pub const STAR: u32 = 0xc000_0081;
pub const LSTAR: u32 = 0xc000_0082;
pub const CSTAR: u32 = 0xc000_0083;
pub const SYSCALL_MASK: u32 = 0xc000_0084;
pub const FS_BASE: u32 = 0xc000_0100;
pub const GS_BASE: u32 = 0xc000_0101;
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
pub const TSC_AUX: u32 = 0xc000_0103;
pub const AMD_SYSCFG: u32 = 0xc001_0010;
pub const AMD_HWCR: u32 = 0xc001_0015;
pub const AMD_TOP_MEM: u32 = 0xc001_001a;
pub const AMD_TOP_MEM2: u32 = 0xc001_001d;
pub const AMD_INT_PENDING: u32 = 0xc001_0055;
pub const AMD_VIRT_SPEC_CTRL: u32 = 0xc001_011f;
pub const AMD_LS_CFG: u32 = 0xc001_1020;
pub const AMD_DE_CFG: u32 = 0xc001_1029;
/// KVM's paravirtual wall clock (Linux Documentation/virt/kvm/x86/msr.rst).
pub const KVM_WALL_CLOCK: u32 = 0x4b56_4d00;
/// KVM's paravirtual system time.
pub const KVM_SYSTEM_TIME: u32 = 0x4b56_4d01;
