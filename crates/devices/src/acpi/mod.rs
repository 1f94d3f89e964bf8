//! ACPI tables that describe the board (ACPI 6.5, chapter 5).
//!
//! Pure functions: a plan in, bytes and where they go out. The machine copies them into guest memory before the
//! guest starts and tells the guest where the first one, the RSDP, is.
//!
//! ```text
//! RSDP -> XSDT -> FADT -> FACS, DSDT    power management registers; devices
//!              -> MADT                  local APICs, IOAPIC, how IRQs are wired
//!              -> MCFG                  memory-mapped PCI configuration space
//! ```

mod dsdt;
mod fadt;
mod madt;

use acpi_tables::facs::FACS;
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use x86::Gpa;

use crate::layout;

/// Who made the tables.
const OEM: [u8; 6] = *b"MOTHER";
/// Which board they describe.
const OEM_TABLE: [u8; 8] = *b"MOTHERVM";
/// Which edition of it.
const OEM_REVISION: u32 = 1;

/// What of the tables depends on the VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AcpiPlan {
    /// How many vCPUs there are, 1 to 255.
    pub vcpu_count: u32,
}

/// A table and its place in guest physical memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcpiTable {
    /// Its signature.
    pub name: &'static str,
    /// Where it has to lie: tables point at each other.
    pub gpa: Gpa,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// Hands out places one after the other.
struct Placer {
    next: u64,
    tables: Vec<AcpiTable>,
}

impl Placer {
    /// Places a table at the next multiple of 64, which is what the FACS needs and others do not mind.
    fn place(&mut self, name: &'static str, bytes: Vec<u8>) -> u32 {
        let start = self.next.next_multiple_of(64);
        self.next = start + bytes.len() as u64;
        assert!(
            self.next <= layout::SMBIOS_START.0,
            "tables for 255 vCPUs fit below what lies above them"
        );
        self.tables.push(AcpiTable {
            name,
            gpa: Gpa(start),
            bytes,
        });
        start as u32
    }
}

/// The tables for a board, the RSDP first, at [`layout::ACPI_START`].
pub fn build(plan: &AcpiPlan) -> Vec<AcpiTable> {
    let rsdp_bytes = Rsdp::len() as u64;
    let mut placer = Placer {
        next: layout::ACPI_START.0 + rsdp_bytes,
        tables: Vec::new(),
    };
    let facs = placer.place("FACS", bytes_of(&FACS::new()));
    let dsdt = placer.place("DSDT", dsdt::build());
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(layout::ECAM.0, 0, 0, 0);
    let pointed_at = [
        placer.place("FACP", fadt::build(facs, dsdt)),
        placer.place("APIC", madt::build(plan.vcpu_count)),
        placer.place("MCFG", bytes_of(&mcfg)),
    ];
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    pointed_at
        .iter()
        .for_each(|&gpa| xsdt.add_entry(u64::from(gpa)));
    let xsdt = placer.place("XSDT", bytes_of(&xsdt));
    let rsdp = bytes_of(&Rsdp::new(OEM, u64::from(xsdt)));
    let mut tables = vec![AcpiTable {
        name: "RSD PTR ",
        gpa: layout::ACPI_START,
        bytes: rsdp,
    }];
    tables.append(&mut placer.tables);
    tables
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// Bytes that are AML already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(vcpu_count: u32) -> Vec<AcpiTable> {
        build(&AcpiPlan { vcpu_count })
    }

    fn named<'a>(tables: &'a [AcpiTable], name: &str) -> &'a AcpiTable {
        tables.iter().find(|table| table.name == name).unwrap()
    }

    fn word(bytes: &[u8], at: usize) -> u64 {
        u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()))
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_is_whole() {
        for vcpu_count in [1, 2, 255] {
            let tables = tables(vcpu_count);
            for table in &tables[1..] {
                let AcpiTable { name, bytes, .. } = table;
                assert_eq!(&bytes[0..4], name.as_bytes(), "{name}: signature");
                assert_eq!(word(bytes, 4), bytes.len() as u64, "{name}: length");
                assert!(*name == "FACS" || sum(bytes) == 0, "{name}: checksum");
            }
            let rsdp = &tables[0];
            assert_eq!((sum(&rsdp.bytes[..20]), sum(&rsdp.bytes)), (0, 0));
            assert_eq!(rsdp.gpa, layout::ACPI_START);
        }
    }

    #[test]
    fn tables_point_at_each_other_and_do_not_overlap() {
        let tables = tables(4);
        let at = |name: &str| named(&tables, name).gpa.0;
        assert_eq!(word(&tables[0].bytes, 24), at("XSDT"));
        let xsdt = &named(&tables, "XSDT").bytes;
        assert_eq!(
            [word(xsdt, 36), word(xsdt, 44), word(xsdt, 52)],
            [at("FACP"), at("APIC"), at("MCFG")]
        );
        let fadt = &named(&tables, "FACP").bytes;
        assert_eq!(
            (word(fadt, 36), word(fadt, 40), word(fadt, 140)),
            (at("FACS"), at("DSDT"), at("DSDT"))
        );
        assert!(at("FACS").is_multiple_of(64));
        for pair in tables.windows(2) {
            assert!(
                pair[0].gpa.0 + pair[0].bytes.len() as u64 <= pair[1].gpa.0,
                "{}",
                pair[1].name
            );
        }
        let last = tables.last().unwrap();
        assert!(last.gpa.0 + last.bytes.len() as u64 <= layout::SMBIOS_START.0);
    }

    #[test]
    fn every_vcpu_is_listed() {
        let madt = |vcpu_count| named(&tables(vcpu_count), "APIC").bytes.clone();
        assert_eq!(madt(3).len() - madt(1).len(), 2 * 8);
        assert_eq!(&madt(2)[52..60], &[0, 8, 1, 1, 1, 0, 0, 0]);
    }
}
