//! Memory that a process has and its kernel does not count. What a process's page tables map is counted when it is mapped
//! (`inc_mm_counter`, mm/memory.c), but for what is nobody's page: the page of zeros, devices, which are marked.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x86::paging::{ADDRESS, P, PS};
use x86::{Gpa, Gva, PAGE_SIZE};

use crate::blind::Blind;
use crate::look::Look;
use crate::observed::Observed;

/// Most tables that are read in one look: who has the most tables for the memory that it counts comes first.
const MAX_TABLES: u64 = 4096;
/// Marks what is no page of a process's: `_PAGE_SPECIAL`, `_PAGE_DEVMAP` (arch/x86/include/asm/pgtable_types.h).
const SPECIAL: u64 = 1 << 9 | 1 << 58;
/// Entries of the lower half of a top table: a process's own.
const USER_HALF: usize = 256;
/// Each CPU and each thread may count so many pages for itself before it adds them.
const UNADDED_PAGES: u64 = 64;
/// What is not counted must be at least this, and this part of what is there: a process maps and unmaps while it is read.
const MIN_PAGES: u64 = 4096;
const PART: u64 = 2;

/// A process that has more memory than its kernel counts.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Uncounted {
    /// The process.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// What its page tables map.
    pub mapped_bytes: u64,
    /// What its kernel counts.
    pub counted_bytes: u64,
}

impl Look<'_> {
    /// Processes whose page tables map much more than their kernel counts, among those with the most tables.
    pub fn uncounted_memory(&self) -> Observed<Vec<Uncounted>> {
        self.observed(self.read_uncounted_memory())
    }

    fn read_uncounted_memory(&self) -> Result<Vec<Uncounted>, Blind> {
        let mut all = Vec::new();
        for task in self.listed_tasks()? {
            let mm = self.member("task_struct", task, "mm")?;
            if mm == 0 {
                continue;
            }
            // Another table for each 2 MiB, at most: as many pages as that cannot be.
            let Ok(tables) = self.member("mm_struct", Gva(mm), "pgtables_bytes.counter") else {
                continue;
            };
            let tables = tables / PAGE_SIZE;
            if tables * 512 > MIN_PAGES {
                all.push((tables, task, Gva(mm)));
            }
        }
        all.sort_unstable_by_key(|(tables, task, _)| (std::cmp::Reverse(*tables), task.0));
        let mut left = MAX_TABLES;
        let mut found = Vec::new();
        for (tables, task, mm) in all {
            let Some(rest) = left.checked_sub(tables) else {
                continue;
            };
            left = rest;
            match self.uncounted(task, mm) {
                Ok(uncounted) => found.extend(uncounted),
                Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
                // Gone while it was read.
                Err(_) => self.space().torn(),
            }
        }
        Ok(found)
    }

    fn uncounted(&self, task: Gva, mm: Gva) -> Result<Option<Uncounted>, Blind> {
        let process = self.process(task, None)?;
        let table = self
            .space()
            .translate(Gva(self.member("mm_struct", mm, "pgd")?))?;
        let levels = self.space().root().map_or(4, |root| root.levels);
        let mut left = MAX_TABLES;
        let mut pages = self.pages_mapped(table.0, levels - 1, USER_HALF, &mut left)?;
        // Huge pages that were set apart are counted elsewhere.
        let apart = self.member("mm_struct", mm, "hugetlb_usage.counter");
        pages = pages.saturating_sub(apart.unwrap_or(0));
        let again = self.process(task, None)?;
        let counted = process.resident_bytes.max(again.resident_bytes) / PAGE_SIZE;
        let cpus = self.possible_cpus()?.len() as u64;
        let unadded = UNADDED_PAGES * (cpus * 3 + process.threads.len() as u64 * 3);
        let missing = pages.saturating_sub(counted + unadded);
        let is_same = self.member("task_struct", task, "mm")? == mm.0;
        Ok(
            (is_same && missing >= MIN_PAGES && missing * PART >= pages).then(|| Uncounted {
                pid: process.pid,
                comm: process.comm,
                mapped_bytes: pages * PAGE_SIZE,
                counted_bytes: counted * PAGE_SIZE,
            }),
        )
    }

    /// How many pages of a process's a table at `level` leads to.
    fn pages_mapped(
        &self,
        table: u64,
        level: u32,
        entries: usize,
        left: &mut u64,
    ) -> Result<u64, Blind> {
        *left = left.checked_sub(1).ok_or(Blind::NotGiven(
            "a process has more page tables than its kernel counts",
        ))?;
        let mut bytes = vec![0; entries * 8];
        self.space()
            .read_physical(Gpa(table & ADDRESS), &mut bytes)?;
        let mut pages = 0;
        for entry in bytes.as_chunks::<8>().0 {
            let entry = u64::from_le_bytes(*entry);
            if entry & P == 0 {
                continue;
            }
            if level == 0 || level <= 2 && entry & PS != 0 {
                pages += if entry & SPECIAL == 0 {
                    1 << (9 * level)
                } else {
                    0
                };
                continue;
            }
            pages += self.pages_mapped(entry, level - 1, 512, left)?;
        }
        Ok(pages)
    }
}
