//! A VM on KVM: memory, local APICs, the line between KVM's MSRs and the machine's, and its vCPUs.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use kvm_bindings::{
    KVM_CAP_DISABLE_QUIRKS2, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X86_USER_SPACE_MSR,
    KVM_MAX_CPUID_ENTRIES, KVM_X86_QUIRK_CD_NW_CLEARED, KVM_X86_QUIRK_LINT0_REENABLED,
    KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS, kvm_enable_cap,
};
use kvm_ioctls::{
    Cap, MsrExitReason, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd,
};
use mem::GuestMemory;
use vcpu::{Engine, EngineError, LocalApics, Vcpu, Wires};
use x86::{CpuidTable, msr};

use crate::apic::KernelApics;
use crate::breakpoints::Breakpoints;
use crate::cpuid;
use crate::error::host;
use crate::probe;
use crate::slots::set_slots;
use crate::vcpu_fd::KvmVcpu;
use crate::wires::KernelWires;

/// Pins of the board's IOAPIC.
const IOAPIC_PINS: u64 = 24;
/// Four pages that KVM needs on old Intel processors, in the hole below the reset vector where nothing of the board is.
const TSS_ADDRESS: usize = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

/// MSRs that are the processor's own, first and last of each stretch: KVM answers them, as the software CPU answers
/// the same ones. x2APIC registers need no entry: KVM does not let them be filtered. All others come out as exits.
const OWN_MSRS: [(u32, u32); 11] = [
    (msr::TSC, msr::TSC),
    (msr::APIC_BASE, msr::APIC_BASE),
    (msr::TSC_ADJUST, msr::TSC_ADJUST),
    (msr::SYSENTER_CS, msr::SYSENTER_EIP),
    (msr::MISC_ENABLE, msr::MISC_ENABLE),
    (msr::PAT, msr::PAT),
    (msr::MTRR_DEF_TYPE, msr::MTRR_DEF_TYPE),
    (msr::TSC_DEADLINE, msr::TSC_DEADLINE),
    (msr::XSS, msr::XSS),
    (msr::EFER, msr::SYSCALL_MASK),
    (msr::FS_BASE, msr::TSC_AUX),
];

/// One VM.
pub struct Kvm {
    vm: Arc<VmFd>,
    memory: Arc<GuestMemory>,
    apics: Arc<KernelApics>,
    page_bytes: usize,
    /// Whether guests stop at the processor's breakpoints.
    stops: bool,
}

/// The opened `/dev/kvm`, on which any number of VMs are made without opening anything more.
pub struct Device(kvm_ioctls::Kvm);

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").finish_non_exhaustive()
    }
}

impl Device {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// What the host says.
    pub fn open() -> io::Result<Device> {
        kvm_ioctls::Kvm::new().map(Device).map_err(io::Error::from)
    }

    /// The device behind a descriptor that another process has opened. What is none shows itself as soon as it is asked.
    pub fn of_fd(fd: OwnedFd) -> Device {
        // SAFETY: the descriptor is open, and nobody else owns it.
        Device(unsafe { kvm_ioctls::Kvm::from_raw_fd(fd.into_raw_fd()) })
    }

    /// A descriptor of it, for another process.
    ///
    /// # Errors
    /// What the host says.
    pub fn fd(&self) -> io::Result<OwnedFd> {
        // SAFETY: the device is open for as long as it is borrowed.
        let fd = unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) };
        fd.try_clone_to_owned()
    }

    /// The CPUID leaves that this host's KVM can give a guest.
    ///
    /// # Errors
    /// If KVM does not say.
    pub fn supported_cpuid(&self) -> Result<CpuidTable, EngineError> {
        let supported = self
            .0
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(host("cannot ask KVM for its CPUID"))?;
        let mut table = cpuid::of_kvm(&supported);
        // This one has a capability of its own instead of its bit.
        if self.0.check_extension(Cap::TscDeadlineTimer) {
            for leaf in table
                .leaves_mut()
                .iter_mut()
                .filter(|leaf| leaf.function == 1)
            {
                leaf.ecx |= x86::cpu_model::TSC_DEADLINE;
            }
        }
        Ok(table)
    }
}

impl Kvm {
    /// A VM with this memory and no vCPU.
    ///
    /// # Errors
    /// If the host refuses something.
    pub fn new(device: &Device, memory: Arc<GuestMemory>) -> Result<Kvm, EngineError> {
        let kvm = &device.0;
        let page_bytes = kvm
            .get_vcpu_mmap_size()
            .map_err(host("cannot ask KVM for the size of its page"))?;
        let vm = Arc::new(kvm.create_vm().map_err(host("cannot make a VM on KVM"))?);
        vm.set_identity_map_address(IDENTITY_MAP_ADDRESS)
            .map_err(host("cannot place KVM's identity map"))?;
        vm.set_tss_address(TSS_ADDRESS)
            .map_err(host("cannot place KVM's TSS"))?;
        enable(&vm, KVM_CAP_SPLIT_IRQCHIP, IOAPIC_PINS)
            .map_err(host("cannot have local APICs in the kernel"))?;
        let out = MsrExitReason::Unknown | MsrExitReason::Inval | MsrExitReason::Filter;
        enable(&vm, KVM_CAP_X86_USER_SPACE_MSR, out.bits().into())
            .map_err(host("cannot take MSRs to user space"))?;
        filter_msrs(&vm).map_err(host("cannot divide the MSRs"))?;
        // Old habits of KVM that no processor has. Kernels before 5.18 keep them, and nothing of ours minds.
        let quirks = KVM_X86_QUIRK_LINT0_REENABLED
            | KVM_X86_QUIRK_CD_NW_CLEARED
            | KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS;
        let known = vm.check_extension_raw(KVM_CAP_DISABLE_QUIRKS2.into());
        let _ = enable(
            &vm,
            KVM_CAP_DISABLE_QUIRKS2,
            u64::from(quirks & known as u32),
        );
        set_slots(&vm, &memory).map_err(|source| EngineError::Host {
            what: "cannot give KVM the guest's memory",
            source,
        })?;
        let apics = Arc::new(KernelApics::new(Arc::clone(&vm)));
        Ok(Kvm {
            vm,
            memory,
            apics,
            page_bytes,
            // What could not be tried is not relied on.
            stops: probe::stops(kvm).unwrap_or(false),
        })
    }

    /// The engine: a vCPU for each table, in the state after RESET.
    ///
    /// # Errors
    /// If the host refuses something.
    pub fn engine(&self, tables: &[CpuidTable]) -> Result<Engine, EngineError> {
        let make = |(id, table)| {
            self.vcpu(id, table)
                .map(|vcpu| Box::new(vcpu) as Box<dyn Vcpu>)
        };
        let vcpus = (0..).zip(tables).map(make).collect::<Result<_, _>>()?;
        let local_apics = Some(Arc::clone(&self.apics) as Arc<dyn LocalApics>);
        let wires = Some(Arc::new(KernelWires::new(Arc::clone(&self.vm))) as Arc<dyn Wires>);
        // What KVM holds for a guest lies in the host's kernel.
        Ok(Engine {
            memory: None,
            vcpus,
            local_apics,
            wires,
        })
    }

    pub(crate) fn vcpu(&self, id: u64, table: &CpuidTable) -> Result<KvmVcpu, EngineError> {
        let fd = self
            .vm
            .create_vcpu(id)
            .map_err(host("cannot make a vCPU on KVM"))?;
        let cpuid =
            cpuid::to_kvm(table).ok_or(EngineError::State("more CPUID leaves than KVM takes"))?;
        fd.set_cpuid2(&cpuid)
            .map_err(host("cannot set a vCPU's CPUID"))?;
        KvmVcpu::new(
            (id as u32, fd),
            self.page_bytes,
            Arc::clone(&self.vm),
            Arc::clone(&self.memory),
            Breakpoints::new(self.stops),
        )
    }
}

fn enable(vm: &VmFd, capability: u32, argument: u64) -> Result<(), kvm_ioctls::Error> {
    vm.enable_cap(&kvm_enable_cap {
        cap: capability,
        args: [argument, 0, 0, 0],
        ..kvm_enable_cap::default()
    })
}

fn filter_msrs(vm: &VmFd) -> Result<(), kvm_ioctls::Error> {
    let allowed = [0xff];
    let ranges = OWN_MSRS.map(|(first, last)| MsrFilterRange {
        flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
        base: first,
        msr_count: last - first + 1,
        bitmap: &allowed,
    });
    vm.set_msr_filter(MsrFilterDefaultAction::DENY, &ranges)
}
