//! Whether the kernel still is what it was: where system calls and interrupts enter, what a system call runs, and the
//! code itself, page by page.
//!
//! [`entries`] checks registers and the interrupt descriptor table: facts of the machine, which no guest can forge.
//! [`syscalls`] follows a system call from its entry to the functions that serve it. [`text`] compares code with a
//! [`baseline`]: the kernel's own with its file ([`original`]), so that no first look needs to be a clean one, and modules,
//! or a kernel without a file, with what they were when they were first seen. A kernel rewrites its own code all the time and legally: [`sites`] knows the
//! places where it may, [`patches`] what may stand there. Everything else is a finding, named by symbol, offset and bytes. [`twins`] compares two guests that
//! run the same build, without a baseline.
//!
//! What this cannot see: a change in the kernel's data; of modules, and of a kernel without a file, one that was there before
//! the first look and leads nowhere strange. The tables of places are compared too, so that no place can be added to those of the kernel's own code.
//!
//! A change counts only when it is still there in further looks: code that is just being rewritten looks like neither.

mod baseline;
mod bpf;
mod entries;
mod finding;
mod original;
mod owners;
mod pages;
mod passing;
mod patches;
mod sites;
mod spaces;
mod syscalls;
mod text;
mod twins;
mod waiting;
mod watched;

use std::path::Path;
use std::thread;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::blind::Blind;
use crate::look::Look;
use crate::observed::Observed;

pub use baseline::Scope;
pub use entries::EntryPoint;
pub use finding::{Finding, FindingKind};
pub use owners::{CodePages, UnknownCode};
pub use patches::PatchKind;
pub use spaces::PrivateKernel;
pub use waiting::GracePeriods;

use baseline::Baseline;
use finding::hex;

/// How often a finding is looked at again before it is one, and the pause before each time.
const AGAIN: u32 = 2;
const PAUSE: Duration = Duration::from_millis(250);

/// Places where the kernel rewrote its own code, legally.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Patch {
    /// By what.
    pub kind: PatchKind,
    /// What was changed: a symbol, a slot of a table, a register.
    pub subject: String,
    /// Where that leads now, if it leads somewhere.
    pub target: Option<String>,
}

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Integrity {
    /// Whether the baseline was taken now: what needs one could not be checked.
    pub is_first: bool,
    /// Whether the kernel's own code and tables are compared with its file: then a first look is as good as any.
    pub is_by_file: bool,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
    /// In how many places code differs from the baseline and may.
    pub patch_count: u64,
    /// The first of them.
    pub patches: Vec<Patch>,
    /// Bytes of code and tables that are watched.
    pub watched_bytes: u64,
    /// Bytes of them that were compared this time.
    pub compared_bytes: u64,
    /// Pages of the kernel's code that were written since the last check, and are what they were.
    pub rewritten: Vec<u64>,
    /// What could not be checked, and why.
    pub not_checked: Vec<String>,
}

impl Look<'_> {
    /// Checks the kernel against the baseline in `folder`, which is taken if there is none for this `life` of the guest:
    /// any text that is another one after a reset.
    pub fn integrity(&self, folder: &Path, life: &str, scope: Scope<'_>) -> Observed<Integrity> {
        self.observed(self.check_integrity(folder, life, scope))
    }

    fn check_integrity(
        &self,
        folder: &Path,
        life: &str,
        scope: Scope<'_>,
    ) -> Result<Integrity, Blind> {
        self.require_booted()?;
        let mut baseline = Baseline::open(folder, life)?;
        let mut result = self.compare(&mut baseline, scope)?;
        for _ in 0..AGAIN {
            if result.findings.is_empty() {
                break;
            }
            thread::sleep(PAUSE);
            // Anew: what was mapped may be gone.
            let look = self.kernel().look(self.space().account(), self.registers());
            let again = look.compare(&mut baseline, scope)?;
            let is_still = |finding: &Finding| again.findings.contains(finding);
            result.findings.retain(is_still);
        }
        result.findings.extend(baseline.passed().iter().cloned());
        baseline.save()?;
        Ok(result)
    }

    /// A kernel that boots rewrites itself everywhere.
    pub(super) fn require_booted(&self) -> Result<(), Blind> {
        let state = self.space().u32(self.symbol("system_state")?)?;
        let running = self
            .layouts()?
            .enumerator("system_states", "SYSTEM_RUNNING")?;
        if i64::from(state) < running {
            return Err(Blind::NotGiven("the guest is still booting"));
        }
        Ok(())
    }

    fn compare(&self, baseline: &mut Baseline, scope: Scope<'_>) -> Result<Integrity, Blind> {
        let mut result = Integrity {
            is_first: baseline.is_empty(),
            ..Integrity::default()
        };
        result.findings.extend(self.is_same_kernel(baseline));
        let mut part = |what: &str, found: Result<Vec<Finding>, Blind>| match found {
            Ok(findings) => {
                result.findings.extend(findings);
                Ok(())
            }
            Err(Blind::OverBudget(what)) => Err(Blind::OverBudget(what)),
            Err(blind) => {
                result.not_checked.push(format!("{what}: {blind}"));
                Ok(())
            }
        };
        part("registers", self.check_registers(baseline))?;
        part(
            "interrupt descriptor table",
            self.check_interrupt_table(baseline),
        )?;
        part("table of system calls", self.check_syscall_table())?;
        part("path of system calls", self.check_syscall_path())?;
        self.compare_text(baseline, scope, &mut result)?;
        result.is_by_file = self.kernel().loaded().is_some() && baseline.remarked().is_none();
        result
            .findings
            .sort_by(|a, b| (a.kind, a.address, &a.subject).cmp(&(b.kind, b.address, &b.subject)));
        result.findings.dedup();
        Ok(result)
    }

    fn is_same_kernel(&self, baseline: &mut Baseline) -> Option<Finding> {
        let now = format!(
            "{} at {}",
            self.kernel().banner(),
            self.symbol("_stext").ok()?
        );
        let before = baseline.kernel(&now)?;
        Some(Finding {
            kind: FindingKind::KernelReplaced,
            subject: "kernel".to_owned(),
            what: format!(
                "became {}, without a reset (kexec?): {before}; {now}",
                self.kernel().release()
            ),
            address: None,
            before: None,
            after: None,
        })
    }

    /// Whether an address lies in the kernel's code.
    pub(crate) fn is_text(&self, address: u64) -> bool {
        self.lies_between("_stext", "_etext", address)
    }

    pub(super) fn lies_between(&self, start: &str, end: &str, address: u64) -> bool {
        self.symbol(start).is_ok_and(|start| start.0 <= address)
            && self.symbol(end).is_ok_and(|end| address < end.0)
    }

    /// Where an address lies, for people.
    pub(crate) fn whereabouts(&self, address: u64) -> String {
        if let Some((name, offset)) = self.kernel().describe(x86::Gva(address)) {
            let place = if offset == 0 {
                name
            } else {
                format!("{name}+{offset:#x}")
            };
            return if self.is_text(address) {
                place
            } else {
                format!("{place}, which is no code")
            };
        }
        let modules = self.read_modules().unwrap_or_default();
        match modules
            .iter()
            .find(|module| module.memory.iter().any(|part| part.contains(address)))
        {
            Some(module) => format!(
                "module {}+{:#x}",
                module.name,
                address.wrapping_sub(module.text.start)
            ),
            None => format!("{address:#x}, which is no code of the kernel or of a listed module"),
        }
    }
}
