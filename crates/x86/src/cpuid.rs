//! CPUID leaves as data (APM vol. 3, appendix E).

use serde::{Deserialize, Serialize};

/// What CPUID returns for one leaf and subleaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuidLeaf {
    /// EAX on entry.
    pub function: u32,
    /// ECX on entry, for leaves that have subleaves.
    pub index: u32,
    /// Whether `index` matters for this leaf.
    pub has_index: bool,
    /// EAX afterwards.
    pub eax: u32,
    /// EBX afterwards.
    pub ebx: u32,
    /// ECX afterwards.
    pub ecx: u32,
    /// EDX afterwards.
    pub edx: u32,
}

/// Every leaf that a virtual CPU shows; anything else reads as zeros.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CpuidTable(Vec<CpuidLeaf>);

impl CpuidTable {
    /// A table of these leaves.
    pub fn new(leaves: Vec<CpuidLeaf>) -> CpuidTable {
        CpuidTable(leaves)
    }

    /// The leaves in the order they were given.
    pub fn leaves(&self) -> &[CpuidLeaf] {
        &self.0
    }

    /// The leaves, to be adjusted.
    pub fn leaves_mut(&mut self) -> &mut Vec<CpuidLeaf> {
        &mut self.0
    }

    /// `[eax, ebx, ecx, edx]` for a leaf; zeros for one that is not there.
    pub fn get(&self, function: u32, index: u32) -> [u32; 4] {
        self.0
            .iter()
            .find(|leaf| leaf.function == function && (!leaf.has_index || leaf.index == index))
            .map_or([0; 4], |leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx])
    }
}
