//! Page-table formats and the walk from a virtual to a physical address (APM vol. 2, chapter 5).
//!
//! [`walk`] is a pure function over a reader of physical memory: the software CPU, introspection and tests
//! share it. It changes nothing; whoever owns the TLB sets accessed and dirty bits from [`Walk::entries`].
//! The loop is bounded by the number of levels, whatever the tables say.

use crate::address::{Gpa, Gva};
use crate::exception::PageFaultCode;
use crate::flags::{Cr0, Cr4, Efer};

/// The entry leads somewhere.
pub const P: u64 = 1 << 0;
/// Writes are allowed.
pub const W: u64 = 1 << 1;
/// User-accessible.
pub const U: u64 = 1 << 2;
/// Accessed.
pub const A: u64 = 1 << 5;
/// The processor has written through a leaf.
pub const D: u64 = 1 << 6;
/// Large page, at the levels that know one.
pub const PS: u64 = 1 << 7;
/// A leaf's translation outlives a change of CR3.
pub const G: u64 = 1 << 8;
/// No execute.
pub const NX: u64 = 1 << 63;
/// Physical address bits that we present (CPUID 0x8000_0008).
pub const PHYSICAL_BITS: u32 = 40;
/// Address bits of an entry that points to a 4 KiB page or table.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// How the tables are laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// Paging is off.
    Off,
    /// Two levels of 32-bit entries.
    Legacy,
    /// Three levels of 64-bit entries.
    Pae,
    /// Four levels of 64-bit entries.
    Long,
}

/// Everything outside the tables that a walk depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paging {
    /// Whether there is paging, and whether supervisors heed read-only pages.
    pub cr0: Cr0,
    /// Where the tables begin.
    pub cr3: u64,
    /// PAE, large pages, SMEP and SMAP.
    pub cr4: Cr4,
    /// Long mode and no-execute.
    pub efer: Efer,
}

/// An access to be checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// Writes (or will write).
    pub write: bool,
    /// Instruction fetch.
    pub fetch: bool,
    /// From CPL 3 (and not an implicit supervisor access).
    pub user: bool,
    /// RFLAGS.AC, which lets a supervisor pass SMAP; implicit supervisor accesses never pass.
    pub smap_override: bool,
}

/// A paging-structure entry that a walk went through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// Where it lies.
    pub gpa: Gpa,
    /// What it said.
    pub value: u64,
}

/// A completed walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Walk {
    /// The physical address.
    pub gpa: Gpa,
    /// Bytes in the page that maps it.
    pub page_size: u64,
    /// All levels allow writing.
    pub writable: bool,
    /// All levels allow user access.
    pub user: bool,
    /// No level forbids execution.
    pub executable: bool,
    /// The leaf is global and CR4.PGE is on.
    pub global: bool,
    /// Entries from the root to the leaf; the first `depth` are valid.
    pub entries: [Entry; 4],
    /// How many entries were read; 0 without paging.
    pub depth: usize,
    /// Size of an entry in bytes, 4 or 8.
    pub entry_size: u8,
}

impl Paging {
    /// The layout that the control registers select.
    pub fn layout(&self) -> Layout {
        if !self.cr0.contains(Cr0::PG) {
            Layout::Off
        } else if self.efer.contains(Efer::LMA) {
            Layout::Long
        } else if self.cr4.contains(Cr4::PAE) {
            Layout::Pae
        } else {
            Layout::Legacy
        }
    }

    /// Whether `access` through `walk` is allowed; otherwise the page-fault code.
    pub fn check(&self, walk: &Walk, access: Access) -> Result<(), PageFaultCode> {
        let denied = if access.user {
            !walk.user || access.write && !walk.writable || access.fetch && !walk.executable
        } else {
            let smap =
                self.cr4.contains(Cr4::SMAP) && walk.user && !access.fetch && !access.smap_override;
            let smep = self.cr4.contains(Cr4::SMEP) && walk.user && access.fetch;
            let read_only = access.write && !walk.writable && self.cr0.contains(Cr0::WP);
            smap || smep || read_only || access.fetch && !walk.executable
        };
        if denied {
            Err(self.fault_code(access) | PageFaultCode::PRESENT)
        } else {
            Ok(())
        }
    }

    fn fault_code(&self, access: Access) -> PageFaultCode {
        let mut code = PageFaultCode::empty();
        code.set(PageFaultCode::WRITE, access.write);
        code.set(PageFaultCode::USER, access.user);
        let reports_fetch = self.efer.contains(Efer::NXE) || self.cr4.contains(Cr4::SMEP);
        code.set(PageFaultCode::FETCH, access.fetch && reports_fetch);
        code
    }
}

struct Level {
    shift: u32,
    index_bits: u32,
    may_be_leaf: bool,
}

const fn level(shift: u32, index_bits: u32, may_be_leaf: bool) -> Level {
    Level {
        shift,
        index_bits,
        may_be_leaf,
    }
}

const LONG: [Level; 4] = [
    level(39, 9, false),
    level(30, 9, true),
    level(21, 9, true),
    level(12, 9, true),
];
const PAE: [Level; 3] = [level(30, 2, false), level(21, 9, true), level(12, 9, true)];
const LEGACY: [Level; 2] = [level(22, 10, true), level(12, 10, true)];

/// Walks the tables for `gva`. `read` returns the entry at a physical address (`size` 4 or 8 bytes), all ones
/// where there is no memory.
///
/// # Errors
/// The page-fault code when an entry is not present or has a reserved bit set. Permissions are not judged here.
pub fn walk(
    paging: &Paging,
    gva: Gva,
    access: Access,
    mut read: impl FnMut(Gpa, u8) -> u64,
) -> Result<Walk, PageFaultCode> {
    let layout = paging.layout();
    let (levels, entry_size): (&[Level], u8) = match layout {
        Layout::Off => {
            let page_size = crate::PAGE_SIZE;
            let entries = [Entry::default(); 4];
            return Ok(Walk {
                gpa: Gpa(gva.0),
                page_size,
                writable: true,
                user: true,
                executable: true,
                global: false,
                entries,
                depth: 0,
                entry_size: 8,
            });
        }
        Layout::Long => (&LONG, 8),
        Layout::Pae => (&PAE, 8),
        Layout::Legacy => (&LEGACY, 4),
    };
    let mut table = match layout {
        Layout::Long => paging.cr3 & ADDRESS,
        Layout::Pae => paging.cr3 & 0xffff_ffe0,
        _ => paging.cr3 & 0xffff_f000,
    };
    let mut writable = true;
    let mut user = true;
    let mut executable = true;
    let mut entries = [Entry::default(); 4];
    for (depth, level) in levels.iter().enumerate() {
        let index = gva.0 >> level.shift & ((1 << level.index_bits) - 1);
        let gpa = Gpa(table + index * u64::from(entry_size));
        let value = read(gpa, entry_size);
        entries[depth] = Entry { gpa, value };
        if value & P == 0 {
            return Err(paging.fault_code(access));
        }
        let is_pdpte = layout == Layout::Pae && depth == 0;
        let is_leaf = level.shift == 12
            || level.may_be_leaf
                && value & PS != 0
                && (layout != Layout::Legacy || paging.cr4.contains(Cr4::PSE));
        if has_reserved_bits(paging, layout, value, level.shift, is_leaf, is_pdpte) {
            return Err(paging.fault_code(access)
                | PageFaultCode::PRESENT
                | PageFaultCode::RESERVED);
        }
        if !is_pdpte {
            writable &= value & W != 0;
            user &= value & U != 0;
            executable &= entry_size == 4 || !paging.efer.contains(Efer::NXE) || value & NX == 0;
        }
        if is_leaf {
            let page_size = 1u64 << level.shift;
            let mut frame = value & ADDRESS & !(page_size - 1);
            if layout == Layout::Legacy && level.shift == 22 {
                // PSE-36: address bits 39..32 in entry bits 20..13.
                frame = value & 0xffc0_0000 | (value >> 13 & 0xff) << 32;
            }
            return Ok(Walk {
                gpa: Gpa(frame | gva.0 & (page_size - 1)),
                page_size,
                writable,
                user,
                executable,
                global: value & G != 0 && paging.cr4.contains(Cr4::PGE),
                entries,
                depth: depth + 1,
                entry_size,
            });
        }
        table = value & ADDRESS;
    }
    unreachable!("the last level is always a leaf")
}

fn has_reserved_bits(
    paging: &Paging,
    layout: Layout,
    value: u64,
    shift: u32,
    is_leaf: bool,
    is_pdpte: bool,
) -> bool {
    if layout == Layout::Legacy {
        return is_leaf && shift == 22 && value & 1 << 21 != 0;
    }
    let mut reserved = ADDRESS & !((1 << PHYSICAL_BITS) - 1);
    if !paging.efer.contains(Efer::NXE) || is_pdpte {
        reserved |= NX;
    }
    if is_leaf && shift > 12 {
        // Bit 12 is PAT in a large page; the address bits below the page size must be zero.
        reserved |= ((1 << shift) - 1) & !0x1fff;
    } else if !is_leaf && (shift == 39 || is_pdpte) {
        reserved |= PS;
    }
    value & reserved != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const READ: Access = Access {
        write: false,
        fetch: false,
        user: false,
        smap_override: false,
    };
    const WRITE: Access = Access {
        write: true,
        ..READ
    };
    const USER: Access = Access { user: true, ..READ };

    fn long(cr4: Cr4) -> Paging {
        let cr0 = Cr0::PE | Cr0::PG | Cr0::WP;
        Paging {
            cr0,
            cr3: 0x1000,
            cr4: cr4 | Cr4::PAE,
            efer: Efer::LMA | Efer::LME | Efer::NXE,
        }
    }

    /// Tables: PML4 at 0x1000, PDPT 0x2000, PD 0x3000, PT 0x4000; `leaf` in slot 0 of the level with this shift.
    fn check(
        paging: Paging,
        shift: u32,
        leaf: u64,
        gva: u64,
        access: Access,
        expected: Result<u64, u32>,
    ) {
        let mut memory = HashMap::new();
        for (depth, level) in LONG.iter().enumerate() {
            let table = 0x1000 * (depth as u64 + 1);
            let value = if level.shift == shift {
                leaf
            } else {
                (table + 0x1000) | P | W | U
            };
            memory.insert(table, value);
        }
        let result = walk(&paging, Gva(gva), access, |gpa, _| {
            *memory.get(&gpa.0).unwrap_or(&0)
        })
        .and_then(|walk| paging.check(&walk, access).map(|()| walk.gpa.0))
        .map_err(|code| code.bits());
        assert_eq!(
            result, expected,
            "leaf {leaf:#x} at shift {shift}, {access:?}"
        );
    }

    #[test]
    fn pages_of_every_size_translate() {
        let all = long(Cr4::empty());
        check(all, 12, 0x77000 | P | W, 0x123, READ, Ok(0x77123));
        check(
            all,
            21,
            0x60_0000 | P | W | PS,
            0x1f_f123,
            READ,
            Ok(0x7f_f123),
        );
        check(
            all,
            30,
            0x4000_0000 | P | W | PS,
            0x3fff_f123,
            READ,
            Ok(0x7fff_f123),
        );
    }

    #[test]
    fn faults_carry_the_exact_code() {
        let plain = long(Cr4::empty());
        check(plain, 12, 0, 0, READ, Err(0));
        check(plain, 12, 0, 0, WRITE, Err(2));
        check(plain, 12, 0x5000 | P, 0, WRITE, Err(3));
        check(plain, 12, 0x5000 | P | W, 0, USER, Err(5));
        check(plain, 21, 0x60_2000 | P | W | PS, 0, READ, Err(9));
        check(plain, 12, 0x5000 | P | W | 1 << 45, 0, READ, Err(9));
        let fetch = Access {
            fetch: true,
            ..READ
        };
        check(plain, 12, 0x5000 | P | W | NX, 0, fetch, Err(0x11));
    }

    #[test]
    fn smap_and_smep_keep_the_kernel_off_user_pages() {
        let strict = long(Cr4::SMAP | Cr4::SMEP);
        let fetch = Access {
            fetch: true,
            ..READ
        };
        check(strict, 12, 0x5000 | P | W | U, 0, READ, Err(1));
        check(
            strict,
            12,
            0x5000 | P | W | U,
            0,
            Access {
                smap_override: true,
                ..READ
            },
            Ok(0x5000),
        );
        check(strict, 12, 0x5000 | P | W | U, 0, fetch, Err(0x11));
        check(strict, 12, 0x5000 | P | W | U, 0, USER, Ok(0x5000));
    }
}
