//! Modules in the list, in `/sys/module`, and in memory.
//!
//! A module's own description lies in its memory and points to itself; to hide that too, a module would have to break
//! what the kernel needs to run it. So the whole stretch where modules are mapped is searched for such descriptions.

use std::collections::{BTreeMap, BTreeSet};

use x86::paging::{ADDRESS, NX, P, PS};
use x86::{Gpa, Gva, PAGE_SIZE};

use super::HiddenModule;
use crate::blind::Blind;
use crate::look::Look;
use crate::observed::Observed;

/// The last GiB of addresses, which kernels that move have for modules, and the half GiB in front of it, which those
/// that do not move have.
const AREA: std::ops::Range<u64> = 0xffff_ffff_a000_0000..0xffff_ffff_ff00_0000;
/// Descriptions are aligned to cache lines.
const ALIGN: usize = 64;
/// Most bytes of modules that are read.
const MAX_BYTES: usize = 1 << 30;
/// Most modules in `/sys/module`.
const MAX_OBJECTS: usize = 65_536;

/// A stretch of pages that are mapped without a gap.
struct Run {
    start: u64,
    frames: Vec<Gpa>,
}

impl Look<'_> {
    /// Modules that the books do not agree on, in this one look.
    pub fn hidden_modules(&self) -> Observed<Vec<HiddenModule>> {
        self.observed(self.read_hidden_modules())
    }

    fn read_hidden_modules(&self) -> Result<Vec<HiddenModule>, Blind> {
        let listed = self.listed_modules()?;
        let shown = self.shown_modules()?;
        let described = self.described_modules()?;
        // Read again: what came or went meanwhile is no difference.
        let listed_again = self.listed_modules()?;
        let shown_again = self.shown_modules()?;
        let all: BTreeSet<u64> = listed
            .iter()
            .chain(&shown)
            .chain(described.keys())
            .copied()
            .collect();
        let mut hidden = Vec::new();
        for address in all {
            let in_list = listed.contains(&address) || listed_again.contains(&address);
            let in_sysfs = shown.contains(&address) || shown_again.contains(&address);
            if in_list && in_sysfs {
                continue;
            }
            let module = self.module(Gva(address)).ok();
            // Being loaded or unloaded, a module is in one book before it is in the other.
            if module.as_ref().is_some_and(|module| module.state != "live") {
                continue;
            }
            let text = module.as_ref().map(|module| module.text);
            let executable_bytes =
                text.map_or(0, |text| self.executable_bytes(text.start, text.len_bytes));
            let name = module.map(|module| module.name);
            hidden.push(HiddenModule {
                name,
                address,
                in_list,
                in_sysfs,
                executable_bytes,
                text,
            });
        }
        Ok(hidden)
    }

    fn listed_modules(&self) -> Result<BTreeSet<u64>, Blind> {
        let list = self.steady_list(self.symbol("modules")?, self.offset("module", "list")?)?;
        Ok(list.into_iter().map(|module| module.0).collect())
    }

    /// Modules that `/sys/module` has; parts of the kernel that are built in have no module there.
    fn shown_modules(&self) -> Result<BTreeSet<u64>, Blind> {
        let set = Gva(self.space().u64(self.symbol("module_kset")?)?);
        let head = Gva(set.0.wrapping_add(self.offset("kset", "list")?));
        let entry = self.offset("module_kobject", "kobj")? + self.offset("kobject", "entry")?;
        let mut shown = BTreeSet::new();
        for object in self.steady_list(head, entry)?.into_iter().take(MAX_OBJECTS) {
            let module = self.member("module_kobject", object, "mod")?;
            if module != 0 {
                shown.insert(module);
            }
        }
        Ok(shown)
    }

    /// Descriptions of modules in the memory of modules, with their names.
    fn described_modules(&self) -> Result<BTreeMap<u64, String>, Blind> {
        let itself = self.place("module", "mkobj.mod")?.offset;
        let size = self.layouts()?.size("module")?;
        let mut found = BTreeMap::new();
        let mut budget = MAX_BYTES;
        for run in self.module_pages()? {
            let len = run.frames.len() * PAGE_SIZE as usize;
            budget = budget
                .checked_sub(len)
                .ok_or(Blind::OverBudget("bytes of modules"))?;
            let mut bytes = vec![0; len];
            for (frame, page) in run
                .frames
                .iter()
                .zip(bytes.chunks_exact_mut(PAGE_SIZE as usize))
            {
                self.space().read_physical(*frame, page)?;
            }
            for at in (0..len.saturating_sub(size)).step_by(ALIGN) {
                let address = run.start + at as u64;
                let pointer = bytes.get(at + itself..at + itself + 8);
                if pointer == Some(&address.to_le_bytes())
                    && let Ok(module) = self.module(Gva(address))
                {
                    found.insert(address, module.name);
                }
            }
        }
        Ok(found)
    }

    /// Small pages that are mapped where modules are.
    fn module_pages(&self) -> Result<Vec<Run>, Blind> {
        let end = self.symbol("_end")?.0;
        let mut runs: Vec<Run> = Vec::new();
        let mut piece = AREA.start;
        while piece < AREA.end {
            // The image itself may reach into the stretch.
            if piece >= end.next_multiple_of(2 << 20) || end < AREA.start {
                for (gva, frame) in self.small_pages(piece)? {
                    match runs.last_mut() {
                        Some(run) if run.start + run.frames.len() as u64 * PAGE_SIZE == gva => {
                            run.frames.push(frame)
                        }
                        _ => runs.push(Run {
                            start: gva,
                            frames: vec![frame],
                        }),
                    }
                }
            }
            piece += 2 << 20;
        }
        Ok(runs)
    }

    /// What the table for these 2 MiB maps.
    fn small_pages(&self, piece: u64) -> Result<Vec<(u64, Gpa)>, Blind> {
        let Some(root) = self.space().root() else {
            return Ok(Vec::new());
        };
        let mut table = root.gpa.0 & ADDRESS;
        for level in (1..root.levels).rev() {
            let index = piece >> (12 + 9 * level) & 511;
            let mut entry = [0; 8];
            self.space()
                .read_physical(Gpa(table + 8 * index), &mut entry)?;
            let entry = u64::from_le_bytes(entry);
            if entry & P == 0 {
                return Ok(Vec::new());
            }
            if entry & PS != 0 {
                // A large page: code that several modules share. Descriptions are data and never in one.
                return Ok(Vec::new());
            }
            table = entry & ADDRESS;
        }
        let mut entries = vec![0; PAGE_SIZE as usize];
        self.space().read_physical(Gpa(table), &mut entries)?;
        let entries = entries.chunks_exact(8).map(|entry| {
            entry
                .iter()
                .rev()
                .fold(0, |n, &byte| n << 8 | u64::from(byte))
        });
        let pages = entries
            .zip(0..)
            .filter(|(entry, _): &(u64, u64)| entry & P != 0);
        Ok(pages
            .map(|(entry, index)| (piece + index * PAGE_SIZE, Gpa(entry & ADDRESS & !NX)))
            .collect())
    }

    fn executable_bytes(&self, start: u64, len_bytes: u64) -> u64 {
        let pages =
            (start..start.saturating_add(len_bytes.min(1 << 28))).step_by(PAGE_SIZE as usize);
        let is_executable = |page: &u64| {
            self.space()
                .walk(Gva(*page))
                .is_ok_and(|mapped| mapped.is_executable)
        };
        pages.filter(is_executable).count() as u64 * PAGE_SIZE
    }
}
