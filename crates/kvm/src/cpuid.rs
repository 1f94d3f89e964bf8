//! CPUID leaves in KVM's form and in ours.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use x86::{CpuidLeaf, CpuidTable};

/// Ours to KVM's; `None` if there are more leaves than KVM takes.
pub(crate) fn to_kvm(table: &CpuidTable) -> Option<CpuId> {
    let entries: Vec<kvm_cpuid_entry2> = table
        .leaves()
        .iter()
        .map(|leaf| kvm_cpuid_entry2 {
            function: leaf.function,
            index: leaf.index,
            flags: if leaf.has_index {
                KVM_CPUID_FLAG_SIGNIFCANT_INDEX
            } else {
                0
            },
            eax: leaf.eax,
            ebx: leaf.ebx,
            ecx: leaf.ecx,
            edx: leaf.edx,
            ..kvm_cpuid_entry2::default()
        })
        .collect();
    CpuId::from_entries(&entries).ok()
}

/// KVM's to ours.
pub(crate) fn of_kvm(cpuid: &CpuId) -> CpuidTable {
    let leaf = |entry: &kvm_cpuid_entry2| CpuidLeaf {
        function: entry.function,
        index: entry.index,
        has_index: entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0,
        eax: entry.eax,
        ebx: entry.ebx,
        ecx: entry.ecx,
        edx: entry.edx,
    };
    CpuidTable::new(cpuid.as_slice().iter().map(leaf).collect())
}
