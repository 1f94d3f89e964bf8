//! The kernel in each process's own page tables. All address spaces share the kernel's half of the kernel's tables, entry by
//! entry of the top one; a process with an entry of its own there can run another kernel than everybody else.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x86::paging::P;
use x86::{Gpa, Gva, PAGE_SIZE};

use super::pages::{KERNEL_HALF, entries, top_address};
use crate::blind::Blind;
use crate::look::Look;
use crate::observed::Observed;
use crate::space::Root;

/// What a CPU writes into an entry by itself: accessed, dirty.
const OWN_BITS: u64 = 0x60;
/// Where a process that asked for one has its own local descriptor table, with page-table isolation only (`LDT_PGD_ENTRY`,
/// arch/x86/include/asm/pgtable_64_types.h).
const LDT: usize = 512 - 240;
/// Most findings.
const MAX_TOLD: usize = 64;

/// An address space whose kernel half is not the kernel's.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct PrivateKernel {
    /// The process.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Where the stretch begins that is mapped by tables of its own.
    pub address: u64,
    /// The first code of the kernel that lies elsewhere in it, by symbol.
    pub code: Option<String>,
}

impl Look<'_> {
    /// Processes whose page tables have another kernel half than the kernel's own.
    pub fn private_kernels(&self) -> Observed<Vec<PrivateKernel>> {
        self.observed(self.read_private_kernels())
    }

    fn read_private_kernels(&self) -> Result<Vec<PrivateKernel>, Blind> {
        let own = self
            .space()
            .root()
            .ok_or(Blind::NotGiven("the kernel's page tables are not known"))?;
        let expected = entries(self, own.gpa.0)?;
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        for task in self.listed_tasks()? {
            match self.private_kernel(task, own, &expected, &mut seen) {
                Ok(private) => found.extend(private),
                Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
                // Gone while it was read.
                Err(_) => self.space().torn(),
            }
            if found.len() >= MAX_TOLD {
                break;
            }
        }
        Ok(found)
    }

    fn private_kernel(
        &self,
        task: Gva,
        own: Root,
        expected: &[u64],
        seen: &mut HashSet<u64>,
    ) -> Result<Option<PrivateKernel>, Blind> {
        let tables = || {
            let mm = self.member("task_struct", task, "mm")?;
            let pgd = match mm {
                0 => 0,
                mm => self.member("mm_struct", Gva(mm), "pgd")?,
            };
            Ok::<_, Blind>((mm, pgd))
        };
        let (mm, pgd) = tables()?;
        if mm == 0 || !seen.insert(pgd) {
            return Ok(None);
        }
        let gpa = self.space().translate(Gva(pgd))?;
        let mut half = vec![0; PAGE_SIZE as usize / 2];
        self.space()
            .read_physical(Gpa(gpa.0 + PAGE_SIZE / 2), &mut half)?;
        let differs = half.as_chunks::<8>().0.iter().zip(KERNEL_HALF..);
        let differs: Vec<usize> = differs
            .filter_map(|(entry, index)| {
                let entry = u64::from_le_bytes(*entry);
                // One that is not there yet is taken over when it is needed, by older kernels.
                let is_other = (entry ^ expected.get(index)?) & !OWN_BITS != 0;
                (entry & P != 0 && is_other).then_some(index)
            })
            .collect();
        // A process that ended meanwhile has given its tables back.
        if differs.is_empty() || tables()? != (mm, pgd) {
            return Ok(None);
        }
        let root = Root { gpa, ..own };
        let is_strange = |index: &&usize| {
            **index != LDT
                || !self
                    .pages_below(root, LDT..LDT + 1, 0..0, 0..0)
                    .is_ok_and(|pages| pages.executable.is_empty())
        };
        let Some(index) = differs.iter().find(is_strange) else {
            return Ok(None);
        };
        Ok(Some(PrivateKernel {
            pid: self.member("task_struct", task, "tgid")? as i32,
            comm: self.object("task_struct", task)?.text("comm")?,
            address: top_address(own.levels, *index),
            code: self.first_other_code(root)?,
        }))
    }

    /// The first page of the kernel's code that lies elsewhere in other tables.
    fn first_other_code(&self, root: Root) -> Result<Option<String>, Blind> {
        let other = self.space().through(root);
        let mut at = self.symbol("_stext")?.0 & !(PAGE_SIZE - 1);
        let end = self.symbol("_etext")?.0;
        while at < end {
            let ours = self.space().walk(Gva(at))?;
            let page_size = match other.walk(Gva(at)) {
                Ok(theirs) if theirs.gpa == ours.gpa => theirs.page_size.min(ours.page_size),
                _ => return Ok(Some(self.whereabouts(at))),
            };
            at = (at & !(page_size - 1)).saturating_add(page_size);
        }
        Ok(None)
    }
}
