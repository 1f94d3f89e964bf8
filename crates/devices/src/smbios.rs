//! SMBIOS tables: what a guest's `dmidecode`, `/sys/class/dmi/id` and `systemd-detect-virt` read (DMTF DSP0134, 3.2).
//!
//! The same bytes for every VM: names of the board, nothing of the host's, and no number of the VM's own. A UUID of zeros and
//! texts that are not there mean "not present" (7.2.1, 6.1.3), which is what Linux makes of them: it has no such file then.

use x86::Gpa;

use crate::layout;

/// Bytes of the entry point (5.2.2).
const ENTRY_BYTES: usize = 24;
/// Who made firmware, system and chassis.
const MAKER: &str = "Mother";
/// What was made.
const PRODUCT: &str = "Mother Virtual Machine";
/// The firmware's date, month first. Linux has rules for boards by its year: they are off from 2008 on, and others begin with 2015
/// (ACPI wakes by the CMOS clock), 2021 and 2023 (how PCI windows are read). In between it does what it does where there are no tables.
const FIRMWARE_DATE: &str = "01/01/2014";
/// Types of structures (table 3).
mod kind {
    pub(super) const FIRMWARE: u8 = 0;
    pub(super) const SYSTEM: u8 = 1;
    pub(super) const CHASSIS: u8 = 3;
    pub(super) const BOOT: u8 = 32;
    pub(super) const END: u8 = 127;
}

/// Bytes and where they go in guest physical memory: the entry point, which is searched for in steps of 16 from
/// [`layout::SMBIOS_START`], and the structures.
pub fn build() -> [(Gpa, Vec<u8>); 2] {
    let structures = structures();
    let at = layout::SMBIOS_START.0 + (ENTRY_BYTES as u64).next_multiple_of(16);
    assert!(
        at + structures.len() as u64 <= layout::VMCLOCK.0,
        "a few hundred bytes fit below the pages that follow"
    );
    let entry = entry(Gpa(at), structures.len() as u32);
    [(layout::SMBIOS_START, entry), (Gpa(at), structures)]
}

/// The 64-bit entry point (5.2.2), revision 1 of it, for version 3.2.0.
fn entry(structures: Gpa, len_bytes: u32) -> Vec<u8> {
    let mut bytes = b"_SM3_\0".to_vec();
    bytes.extend([ENTRY_BYTES as u8, 3, 2, 0, 1, 0]);
    bytes.extend(len_bytes.to_le_bytes());
    bytes.extend(structures.0.to_le_bytes());
    let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    bytes[5] = sum.wrapping_neg();
    bytes
}

fn structures() -> Vec<u8> {
    let mut all = Vec::new();
    // 7.1. "Characteristics are not supported" (bit 3), and of their second extension byte "this is a virtual machine" (bit 4).
    let mut firmware = vec![1, 2, 0, 0, 3, 0];
    firmware.extend((1u64 << 3).to_le_bytes());
    firmware.extend([0, 1 << 4]);
    // Releases of firmware and embedded controller: not known. 64 KiB of ROM, said in the byte above.
    firmware.extend([0xff; 4]);
    firmware.extend([0, 0]);
    put(
        &mut all,
        kind::FIRMWARE,
        &firmware,
        &[MAKER, "1", FIRMWARE_DATE],
    );
    // 7.2. No version, serial number or UUID; switched on by its power button (6); no SKU, no family.
    let mut system = vec![1, 2, 0, 0];
    system.extend([0; 16]);
    system.extend([6, 0, 0]);
    put(&mut all, kind::SYSTEM, &system, &[MAKER, PRODUCT]);
    // 7.4. A chassis of another kind (1), all of it safe (3), its security unknown (2), with nothing in it.
    let mut chassis = vec![1, 1, 0, 0, 0, 3, 3, 3, 2];
    chassis.extend([0; 4 + 5]);
    put(&mut all, kind::CHASSIS, &chassis, &[MAKER]);
    // 7.33. Six reserved bytes; no error at the last start.
    put(&mut all, kind::BOOT, &[0; 7], &[]);
    put(&mut all, kind::END, &[], &[]);
    all
}

/// One structure (6.1.2): head, values, then its texts, which values name by their number from 1. Each has the number of its
/// type as its handle, as there is one of each.
fn put(all: &mut Vec<u8>, kind: u8, values: &[u8], texts: &[&str]) {
    all.extend([kind, 4 + values.len() as u8, kind, 0]);
    all.extend(values);
    for text in texts {
        all.extend(text.as_bytes());
        all.push(0);
    }
    if texts.is_empty() {
        all.push(0);
    }
    all.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads structures as DSP0134 has them read: kind, values with their head, texts.
    fn read(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>, Vec<String>)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at(usize::from(bytes[1]));
            let end = rest.windows(2).position(|pair| pair == [0, 0]).unwrap();
            let texts = String::from_utf8(rest[..end].to_vec()).unwrap();
            let texts = texts.split('\0').map(str::to_owned).collect();
            found.push((head[0], head.to_vec(), texts));
            bytes = &rest[end + 2..];
        }
        found
    }

    #[test]
    fn the_entry_point_is_whole_and_leads_to_the_structures() {
        let [(at, entry), (table, structures)] = build();
        assert_eq!(at.0 % 16, 0);
        assert!(
            (0xf_0000..0x10_0000).contains(&at.0),
            "Linux searches there"
        );
        assert_eq!((&entry[..5], entry.len()), (&b"_SM3_"[..], ENTRY_BYTES));
        assert_eq!(usize::from(entry[6]), ENTRY_BYTES);
        let sum = entry.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!(sum, 0);
        assert_eq!(entry[12..16], (structures.len() as u32).to_le_bytes());
        assert_eq!(entry[16..24], table.0.to_le_bytes());
        assert!(at.0 + entry.len() as u64 <= table.0);
    }

    #[test]
    fn structures_have_the_lengths_of_the_standard_and_end() {
        let [_, (_, structures)] = build();
        let found = read(&structures);
        let lengths: Vec<(u8, usize)> = found.iter().map(|one| (one.0, one.1.len())).collect();
        let standard = [(0, 0x1a), (1, 0x1b), (3, 0x16), (32, 0x0b), (127, 4)];
        assert_eq!(lengths, standard);
        assert_eq!(
            found[0].1[0x13], 0x10,
            "a virtual machine, and nothing else"
        );
        assert_eq!(found[1].1[8..24], [0; 16], "no UUID");
        for (kind, values, texts) in &found[..3] {
            let at = if *kind == 3 { &[4][..] } else { &[4, 5] };
            for (number, at) in at.iter().enumerate() {
                assert_eq!(usize::from(values[*at]), number + 1, "{kind}: {texts:?}");
            }
        }
        assert_eq!(found[0].2[usize::from(found[0].1[8]) - 1], FIRMWARE_DATE);
    }
}
