//! The CPU that guests see: one named, stable model, whatever the host is.
//!
//! `mother-v1` is an AMD family 19h processor (so that kernels take the well-trodden path of a vendor they know)
//! with the features that engines handle and the host has. It shows nothing of the host's identity: no brand
//! string, serial number or cache sizes of the host. It declares itself not vulnerable to what a guest kernel would
//! otherwise work round at a cost: speculation between guest kernel and guest user code is the host's to stop.
//!
//! Leaves are from APM vol. 3 appendix E; the hypervisor leaves from Linux Documentation/virt/kvm/x86/cpuid.rst.

use crate::cpuid::{CpuidLeaf, CpuidTable};

/// The name users see.
pub const NAME: &str = "mother-v1";
/// The brand string guests see.
pub const BRAND: &str = "Mother Virtual CPU v1";

const VENDOR: &[u8; 12] = b"AuthenticAMD";
/// Family 19h, model 01h: newer models are expected to bring firmware features that this board does not have.
const SIGNATURE: u32 = 0x00a0_0f10;

/// What of the model depends on the machine.
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    /// Number of vCPUs.
    pub vcpu_count: u32,
    /// This vCPU; also its APIC id.
    pub vcpu_id: u32,
}

const fn bits(list: &[u32]) -> u32 {
    let mut value = 0;
    let mut at = 0;
    while at < list.len() {
        value |= 1 << list[at];
        at += 1;
    }
    value
}

// FPU DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFLUSH MMX FXSR SSE SSE2
const LEAF1_EDX: u32 = bits(&[
    0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26,
]);
// SSE3 PCLMULQDQ SSSE3 FMA CX16 PCID SSE4.1 SSE4.2 X2APIC MOVBE POPCNT TSC-DEADLINE AES XSAVE AVX F16C RDRAND
const LEAF1_ECX: u32 = bits(&[
    0, 1, 9, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 28, 29, 30,
]);
// Bits of LEAF1_ECX that need nothing of the host: the engines emulate them.
const LEAF1_ECX_OURS: u32 = bits(&[17, 21, 24, 26]);
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 ECX: the local APIC's timer has TSC-deadline mode.
pub const TSC_DEADLINE: u32 = 1 << 24;
// FSGSBASE TSC_ADJUST BMI1 AVX2 SMEP BMI2 ERMS INVPCID RDSEED ADX SMAP CLFLUSHOPT CLWB SHA
const LEAF7_EBX: u32 = bits(&[0, 1, 3, 5, 7, 8, 9, 10, 18, 19, 20, 23, 24, 29]);
// TSC_ADJUST tells kernels that nobody moves the TSC behind their back: they need not watch it with a worse clock.
const LEAF7_EBX_OURS: u32 = bits(&[0, 1, 7, 9, 10, 20]);
// UMIP GFNI VAES VPCLMULQDQ RDPID
const LEAF7_ECX: u32 = bits(&[2, 8, 9, 10, 22]);
const LEAF7_ECX_OURS: u32 = bits(&[2, 22]);
// FSRM
const LEAF7_EDX: u32 = bits(&[4]);
// SYSCALL NX PDPE1GB RDTSCP LM
const EXT1_EDX_ADDED: u32 = bits(&[11, 20, 26, 27, 29]);
// LAHF CR8LEGACY ABM SSE4A MISALIGNSSE 3DNOWPREFETCH
const EXT1_ECX: u32 = bits(&[0, 4, 5, 6, 7, 8]);
const EXT1_ECX_OURS: u32 = bits(&[0, 4, 8]);

// In leaf 8000_0021 EAX. Kernels that see it set EFER.AIBRSE, with which a processor without it enters no guest.
const AUTOMATIC_IBRS: u32 = 1 << 8;

// FMA AVX F16C, in leaf 1 ECX
const AVX_FEATURES: u32 = bits(&[12, 28, 29]);
// Bytes of an XSAVE area with x87 and SSE.
const AREA_WITHOUT_AVX: u32 = 576;

/// XCR0 bits that the model offers: x87, SSE, AVX.
pub const XCR0_MASK: u64 = 7;

/// The leaves of `mother-v1` for one vCPU. `host` is the host's CPUID and decides only what the silicon executes
/// for the guest; `host_xcr0` what state the host's kernel saves.
pub fn table(
    topology: Topology,
    host: impl Fn(u32, u32) -> [u32; 4],
    host_xcr0: u64,
) -> CpuidTable {
    let mut model = Model {
        topology,
        host,
        xcr0: host_xcr0 & XCR0_MASK,
        leaves: Vec::new(),
    };
    model.add_basic();
    model.add_topology();
    model.add_xsave_area();
    model.add_hypervisor();
    model.add_extended_features();
    model.add_brand();
    model.add_caches_and_sizes();
    CpuidTable::new(model.leaves)
}

/// The table while it is made.
struct Model<H> {
    topology: Topology,
    /// CPUID of the host, by leaf and subleaf.
    host: H,
    /// XSAVE states that the guest may enable.
    xcr0: u64,
    leaves: Vec<CpuidLeaf>,
}

impl<H: Fn(u32, u32) -> [u32; 4]> Model<H> {
    /// A leaf without subleaves.
    fn add(&mut self, function: u32, registers: [u32; 4]) {
        self.push(function, None, registers);
    }

    fn add_subleaf(&mut self, function: u32, index: u32, registers: [u32; 4]) {
        self.push(function, Some(index), registers);
    }

    fn push(&mut self, function: u32, index: Option<u32>, [eax, ebx, ecx, edx]: [u32; 4]) {
        self.leaves.push(CpuidLeaf {
            function,
            index: index.unwrap_or(0),
            has_index: index.is_some(),
            eax,
            ebx,
            ecx,
            edx,
        });
    }

    fn has_avx(&self) -> bool {
        self.xcr0 & 4 != 0
    }

    /// Leaves 0, 1 and 7: the vendor, and features.
    fn add_basic(&mut self) {
        let Topology {
            vcpu_count,
            vcpu_id,
        } = self.topology;
        let [vendor_b, vendor_d, vendor_c] = words(VENDOR);
        self.add(0, [0xd, vendor_b, vendor_c, vendor_d]);
        let ebx = vcpu_id << 24 | vcpu_count << 16 | 8 << 8;
        let mut ecx = LEAF1_ECX & ((self.host)(1, 0)[2] | LEAF1_ECX_OURS) | HYPERVISOR;
        if !self.has_avx() {
            ecx &= !AVX_FEATURES;
        }
        let htt = if vcpu_count > 1 { 1 << 28 } else { 0 };
        self.add(1, [SIGNATURE, ebx, ecx, LEAF1_EDX | htt]);
        let host7 = (self.host)(7, 0);
        let mut ebx = LEAF7_EBX & (host7[1] | LEAF7_EBX_OURS);
        let mut ecx = LEAF7_ECX & (host7[2] | LEAF7_ECX_OURS);
        if !self.has_avx() {
            ebx &= !(1 << 5);
            ecx &= !bits(&[9, 10]);
        }
        self.add_subleaf(7, 0, [0, ebx, ecx, LEAF7_EDX]);
    }

    /// Leaf 0xB: one package, every vCPU a core of its own.
    fn add_topology(&mut self) {
        let Topology {
            vcpu_count,
            vcpu_id,
        } = self.topology;
        self.add_subleaf(0xb, 0, [0, 1, 1 << 8, vcpu_id]);
        let shift = vcpu_count.next_power_of_two().trailing_zeros();
        self.add_subleaf(0xb, 1, [shift, vcpu_count, 2 << 8 | 1, vcpu_id]);
    }

    /// Leaf 0xD: the XSAVE area.
    fn add_xsave_area(&mut self) {
        let area_bytes = if self.has_avx() {
            832
        } else {
            AREA_WITHOUT_AVX
        };
        self.add_subleaf(0xd, 0, [self.xcr0 as u32, area_bytes, area_bytes, 0]);
        // XSAVEOPT, XSAVEC, XGETBV with ECX=1.
        self.add_subleaf(0xd, 1, [7, area_bytes, 0, 0]);
        if self.has_avx() {
            self.add_subleaf(0xd, 2, [256, 576, 0, 0]);
        }
    }

    fn add_hypervisor(&mut self) {
        let [b, c, d] = words(b"KVMKVMKVM\0\0\0");
        self.add(0x4000_0000, [0x4000_0001, b, c, d]);
        // CLOCKSOURCE2 and CLOCKSOURCE_STABLE.
        self.add(0x4000_0001, [1 << 3 | 1 << 24, 0, 0, 0]);
    }

    fn add_extended_features(&mut self) {
        let [vendor_b, vendor_d, vendor_c] = words(VENDOR);
        self.add(0x8000_0000, [0x8000_0021, vendor_b, vendor_c, vendor_d]);
        let edx = LEAF1_EDX & 0x0183_f3ff | EXT1_EDX_ADDED;
        let ecx = EXT1_ECX & ((self.host)(0x8000_0001, 0)[2] | EXT1_ECX_OURS);
        self.add(0x8000_0001, [SIGNATURE, 0, ecx, edx]);
        // No nested data breakpoints, LFENCE always serialising, null selector clears base, SRSO_NO; TSA_SQ_NO and
        // TSA_L1_NO.
        let eax = bits(&[0, 2, 6, 29]) | AUTOMATIC_IBRS;
        self.add(0x8000_0021, [eax, 0, bits(&[1, 2]), 0]);
    }

    fn add_brand(&mut self) {
        let mut brand = [0; 48];
        brand[..BRAND.len()].copy_from_slice(BRAND.as_bytes());
        for (at, chunk) in brand.chunks_exact(16).enumerate() {
            let word =
                |n: usize| u32::from_le_bytes([chunk[n], chunk[n + 1], chunk[n + 2], chunk[n + 3]]);
            let registers = [word(0), word(4), word(8), word(12)];
            self.add(0x8000_0002 + at as u32, registers);
        }
    }

    fn add_caches_and_sizes(&mut self) {
        // L1 32 KiB 8-way each, 64-byte lines; L2 512 KiB 8-way; abstract values.
        let l1 = [0xff40_ff40, 0xff40_ff40, 0x2008_0140, 0x2008_0140];
        self.add(0x8000_0005, l1);
        let l2 = [0x4800_6400, 0x6800_6400, 0x0200_6140, 0];
        self.add(0x8000_0006, l2);
        // Invariant TSC.
        self.add(0x8000_0007, [0, 0, 0, 1 << 8]);
        // Physical and linear address bits; CLZERO is not offered; XSAVEERPTR; SSB_NO.
        let sizes = 48 << 8 | crate::paging::PHYSICAL_BITS;
        let vcpus = self.topology.vcpu_count - 1;
        self.add(0x8000_0008, [sizes, 1 << 2 | 1 << 26, vcpus, 0]);
    }
}

/// Takes out of the model what another engine does not support: a guest that is shown the rest can run on both.
/// Features only; what is said about sizes, topology and the hypervisor stays.
pub fn narrow(table: &mut CpuidTable, supported: &CpuidTable) {
    // Not features of the processor's, or never in what is supported: the hypervisor's bit, threads per package,
    // and OSXSAVE, which mirrors CR4.
    const LEAF1_KEPT: [u32; 4] = [u32::MAX, u32::MAX, HYPERVISOR, 1 << 28];
    let has_xcr0 = supported.get(0xd, 0)[0];
    let lost_avx = table.get(0xd, 0)[0] & 4 != 0 && has_xcr0 & 4 == 0;
    for leaf in table.leaves_mut() {
        let has = supported.get(leaf.function, leaf.index);
        let kept = match (leaf.function, leaf.index) {
            (1, _) => LEAF1_KEPT,
            (7, 0) => [u32::MAX, 0, 0, 0],
            (0xd, 0) => [0, u32::MAX, u32::MAX, 0],
            (0xd, 1) => [0, u32::MAX, 0, 0],
            // Every processor with long mode executes PREFETCHW, and kernels know that, whatever the bit says.
            (0x8000_0001, _) => [u32::MAX, u32::MAX, 1 << 8, 0],
            // The rest says what the processor need not be protected from.
            (0x8000_0021, _) => [!AUTOMATIC_IBRS, u32::MAX, u32::MAX, u32::MAX],
            _ => continue,
        };
        leaf.eax &= has[0] | kept[0];
        leaf.ebx &= has[1] | kept[1];
        leaf.ecx &= has[2] | kept[2];
        leaf.edx &= has[3] | kept[3];
        if lost_avx {
            match (leaf.function, leaf.index) {
                (1, _) => leaf.ecx &= !AVX_FEATURES,
                (7, 0) => {
                    leaf.ebx &= !(1 << 5);
                    leaf.ecx &= !bits(&[9, 10]);
                }
                (0xd, 0) => (leaf.ebx, leaf.ecx) = (AREA_WITHOUT_AVX, AREA_WITHOUT_AVX),
                (0xd, 1) => leaf.ebx = AREA_WITHOUT_AVX,
                _ => {}
            }
        }
    }
    if lost_avx {
        table
            .leaves_mut()
            .retain(|leaf| (leaf.function, leaf.index) != (0xd, 2));
    }
}

/// Names of features, by leaf, register (EAX is 0) and bit (SDM vol. 2, CPUID; APM vol. 3, appendix E).
const NAMES: [(u32, usize, u32, &str); 28] = [
    (1, 2, 0, "SSE3"),
    (1, 2, 1, "PCLMULQDQ"),
    (1, 2, 9, "SSSE3"),
    (1, 2, 12, "FMA"),
    (1, 2, 13, "CMPXCHG16B"),
    (1, 2, 17, "PCID"),
    (1, 2, 19, "SSE4.1"),
    (1, 2, 20, "SSE4.2"),
    (1, 2, 22, "MOVBE"),
    (1, 2, 23, "POPCNT"),
    (1, 2, 25, "AES"),
    (1, 2, 26, "XSAVE"),
    (1, 2, 28, "AVX"),
    (1, 2, 29, "F16C"),
    (1, 2, 30, "RDRAND"),
    (7, 1, 3, "BMI1"),
    (7, 1, 5, "AVX2"),
    (7, 1, 8, "BMI2"),
    (7, 1, 9, "ERMS"),
    (7, 1, 18, "RDSEED"),
    (7, 1, 19, "ADX"),
    (7, 1, 29, "SHA"),
    (7, 2, 8, "GFNI"),
    (7, 2, 9, "VAES"),
    (7, 2, 10, "VPCLMULQDQ"),
    (7, 2, 22, "RDPID"),
    (7, 3, 4, "FSRM"),
    (0x8000_0001, 2, 6, "SSE4A"),
];

/// What `wanted` shows a guest and a processor of `offered` does not have, in words.
pub fn lacking(wanted: &CpuidTable, offered: &CpuidTable) -> Vec<String> {
    let mut found = wanted.clone();
    narrow(&mut found, offered);
    let mut lacking = Vec::new();
    for leaf in wanted.leaves() {
        let index = leaf.index;
        let has = found.get(leaf.function, index);
        let wants = [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx];
        for (register, (wants, has)) in wants.into_iter().zip(has).enumerate() {
            let lost = wants & !has;
            lacking.extend((0..32).filter(|bit| lost >> bit & 1 != 0).map(|bit| {
                let is_it = |name: &&(u32, usize, u32, &str)| {
                    (name.0, name.1, name.2) == (leaf.function, register, bit)
                };
                let place = ["EAX", "EBX", "ECX", "EDX"][register];
                let bit = format!("CPUID {:#x}.{index} {place} bit {bit}", leaf.function);
                match NAMES.iter().find(is_it) {
                    Some((_, _, _, name)) => format!("{name} ({bit})"),
                    None => bit,
                }
            }));
        }
    }
    lacking
}

/// Twelve bytes as three little-endian words.
fn words(text: &[u8; 12]) -> [u32; 3] {
    let word = |n: usize| u32::from_le_bytes([text[n], text[n + 1], text[n + 2], text[n + 3]]);
    [word(0), word(4), word(8)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(host_has: u32, host_xcr0: u64) -> CpuidTable {
        let topology = Topology {
            vcpu_count: 2,
            vcpu_id: 1,
        };
        table(topology, |_, _| [host_has; 4], host_xcr0)
    }

    #[test]
    fn a_host_without_avx_gives_a_guest_without_avx() {
        assert_ne!(model(u32::MAX, 7).get(1, 0)[2] & 1 << 28, 0);
        assert_eq!(model(u32::MAX, 3).get(1, 0)[2] & 1 << 28, 0);
        assert_eq!(model(u32::MAX, 3).get(7, 0)[1] & 1 << 5, 0);
    }

    #[test]
    fn what_a_guest_would_miss_is_named() {
        let full = model(u32::MAX, 7);
        assert_eq!(lacking(&full, &full), Vec::<String>::new());
        let missing = lacking(&full, &model(u32::MAX, 3));
        let has = |words: &str| missing.iter().any(|feature| feature.starts_with(words));
        assert!(
            has("AVX (CPUID 0x1.0 ECX bit 28)") && has("AVX2 ("),
            "{missing:?}"
        );
        assert_eq!(lacking(&model(u32::MAX, 3), &full), Vec::<String>::new());
    }

    #[test]
    fn the_vendor_is_the_model_s_and_not_the_host_s() {
        let [_, b, c, d] = model(0, 0).get(0, 0);
        let text: Vec<u8> = [b, d, c]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        assert_eq!(text, b"AuthenticAMD");
    }

    #[test]
    fn what_the_other_engine_lacks_is_not_shown() {
        let mut table = model(u32::MAX, 7);
        let mut supported = model(u32::MAX, 7);
        // No PCID, no INVPCID, no AVX state; KVM never says "hypervisor".
        for leaf in supported.leaves_mut() {
            match (leaf.function, leaf.index) {
                (1, _) => leaf.ecx &= !(1 << 17 | HYPERVISOR),
                (7, 0) => leaf.ebx &= !(1 << 10),
                (0xd, 0) => leaf.eax = 3,
                (0x8000_0021, _) => (leaf.eax, leaf.ecx) = (0, 0),
                _ => {}
            }
        }
        narrow(&mut table, &supported);
        let leaf1 = table.get(1, 0)[2];
        assert_eq!((leaf1 & 1 << 17, leaf1 & AVX_FEATURES), (0, 0));
        assert_ne!((leaf1 & HYPERVISOR, leaf1 & TSC_DEADLINE), (0, 0));
        assert_eq!(table.get(7, 0)[1] & (1 << 10 | 1 << 5), 0);
        let said = model(u32::MAX, 7).get(0x8000_0021, 0);
        assert_eq!(
            table.get(0x8000_0021, 0),
            [said[0] & !AUTOMATIC_IBRS, 0, said[2], 0]
        );
        assert_eq!(
            (table.get(0xd, 0), table.get(0xd, 2)),
            ([3, 576, 576, 0], [0; 4])
        );
        let whole = model(u32::MAX, 7);
        let mut same = whole.clone();
        narrow(&mut same, &whole);
        assert_eq!(same, whole);
    }

    #[test]
    fn unknown_leaves_read_as_zeros() {
        assert_eq!(model(u32::MAX, 7).get(0x1f, 0), [0; 4]);
    }
}
