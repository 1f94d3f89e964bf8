//! What is watched: the kernel's code, its tables and its constants, and modules that come and go.

use std::collections::HashSet;

use x86::Gva;

use super::baseline::{Baseline, PAGE, Region, Watched, fingerprint};
use super::{Finding, FindingKind, Integrity};
use crate::blind::Blind;
use crate::image::{Code, Loaded};
use crate::look::Look;
use crate::modules::{Module, Stretch};

/// Most code of the kernel, and of one module.
const MAX_TEXT: u64 = 128 << 20;
/// Tables that say where code may be rewritten, where system calls go, and what structures look like: written when the kernel
/// boots, never after.
const TABLES: [(&str, &str); 4] = [
    ("__start___jump_table", "__stop___jump_table"),
    ("__start_static_call_sites", "__stop_static_call_sites"),
    ("sys_call_table", ""),
    ("__start_BTF", "__stop_BTF"),
];
/// What a kernel never writes, and what it writes only until it has booted (include/asm-generic/vmlinux.lds.h).
const CONSTANTS: &str = "constants";
const AFTER_BOOT: &str = "constants since boot";
/// Functions that a guest's kernel calls instead of privileged instructions: written until it has booted.
const OPERATIONS: &str = "pv_ops";
/// Images of the virtual dynamic shared object (arch/x86/include/asm/vdso.h).
const FOR_PROGRAMS: [&str; 3] = ["vdso_image_64", "vdso_image_32", "vdso_image_x32"];
/// Longest of them.
const MAX_IMAGE: u64 = 1 << 20;

/// What is left of a stretch without others.
fn without(whole: Stretch, others: &[Stretch]) -> Vec<Stretch> {
    let end = whole.start.saturating_add(whole.len_bytes);
    let mut others: Vec<(u64, u64)> = others
        .iter()
        .map(|other| (other.start, other.start.saturating_add(other.len_bytes)))
        .filter(|(from, to)| *from < end && whole.start < *to)
        .collect();
    others.sort_unstable();
    let mut at = whole.start;
    let mut left = Vec::new();
    for (from, to) in others.into_iter().chain([(end, end)]) {
        if at < from {
            left.push(Stretch {
                start: at,
                len_bytes: from - at,
            });
        }
        at = at.max(to);
    }
    left
}

impl Look<'_> {
    /// Watches the kernel's code and tables, as they are in its file. Where there is no file, or it has not what is asked, as
    /// they are now.
    pub(super) fn watch_kernel(
        &self,
        baseline: &mut Baseline,
        modules: &[Module],
    ) -> Result<(), Blind> {
        let mut unlike = Vec::new();
        let start = self.symbol("_stext")?.0;
        let end = self.symbol("_etext")?.0;
        let stretch = Stretch {
            start,
            len_bytes: end.wrapping_sub(start),
        };
        if stretch.len_bytes > MAX_TEXT {
            return Err(Blind::nonsense("kernel has more code than any can have"));
        }
        let code = self.kernel().loaded().map(Loaded::code);
        let sites = match &code {
            Some(_) => Some(self.patch_sites(modules)?),
            None => None,
        };
        let mut add = |what: Watched, stretch: Stretch| {
            let now = self.bytes_of(stretch)?;
            let (Some(Some(code)), Some(sites)) = (&code, &sites) else {
                return baseline.add(what, stretch, &now);
            };
            let original = match what {
                Watched::Kernel | Watched::Table(_) if !self.is_written_at_boot(stretch) => {
                    self.original(stretch, &now, code, sites)
                }
                _ => Ok(self.original_constants(&what, stretch, &now, code)),
            };
            match original {
                Ok(Some(expected)) => baseline.add(what, stretch, &expected),
                Ok(None) => baseline.add(what, stretch, &now),
                Err(Blind::OverBudget(what)) => Err(Blind::OverBudget(what)),
                Err(blind) => {
                    unlike.push(blind.to_string());
                    baseline.add(what, stretch, &now)
                }
            }
        };
        add(Watched::Kernel, stretch)?;
        let tables = self.own_tables();
        for (name, stretch) in &tables {
            add(Watched::Table((*name).to_owned()), *stretch)?;
        }
        let mut apart: Vec<Stretch> = tables.into_iter().map(|(_, stretch)| stretch).collect();
        for (name, stretch) in self.code_for_programs() {
            add(Watched::ForPrograms(name), stretch)?;
            apart.push(stretch);
        }
        for (name, stretch) in self.constants(&apart) {
            add(Watched::Constants(name.to_owned()), stretch)?;
        }
        if matches!(code, Some(None)) {
            unlike.push("the tables of its file are not understood".to_owned());
        }
        if !unlike.is_empty() {
            let what = unlike.join("; ");
            baseline.remark(format!("the kernel's code against its file: {what}"));
        }
        Ok(())
    }

    fn bytes_of(&self, stretch: Stretch) -> Result<Vec<u8>, Blind> {
        self.space()
            .bytes(Gva(stretch.start), stretch.len_bytes as usize)
    }

    /// Modules that came are watched from now on; those that went are not, if their code went too.
    pub(super) fn follow_modules(
        &self,
        baseline: &mut Baseline,
        modules: &[Module],
        result: &mut Integrity,
    ) -> Result<(), Blind> {
        let is_listed = |region: &Region| match &region.what {
            Watched::Module { name, address } => modules.iter().any(|module| {
                module.name == *name && module.address == *address && module.text == region.stretch
            }),
            Watched::ModuleConstants { name, address } => modules.iter().any(|module| {
                module.name == *name
                    && module.address == *address
                    && module.constants == Some(region.stretch)
            }),
            _ => true,
        };
        let mut hidden = HashSet::new();
        for region in baseline
            .regions()
            .iter()
            .filter(|region| !is_listed(region))
        {
            let Watched::Module { name, .. } = &region.what else {
                continue;
            };
            // What took its place is somebody else's.
            let is_taken = modules
                .iter()
                .any(|module| module.text.contains(region.stretch.start));
            let is_there = !is_taken && self.is_unchanged(region);
            if is_there {
                hidden.insert(region.stretch.start);
                result.findings.push(Finding {
                    kind: FindingKind::HiddenModule,
                    subject: format!("module {name}"),
                    what: "is not in the list of modules any more, and its code is still there"
                        .to_owned(),
                    address: Some(region.stretch.start),
                    before: None,
                    after: None,
                });
            }
        }
        baseline.retain(|region| is_listed(region) || hidden.contains(&region.stretch.start));
        for module in modules.iter().filter(|module| module.state == "live") {
            let name = || module.name.clone();
            let address = module.address;
            let code = Watched::Module {
                name: name(),
                address,
            };
            self.follow(baseline, code, module.text)?;
            if let Some(stretch) = module.constants {
                let constants = Watched::ModuleConstants {
                    name: name(),
                    address,
                };
                self.follow(baseline, constants, stretch)?;
            }
        }
        Ok(())
    }

    /// Watches a stretch of a module's from now on.
    fn follow(
        &self,
        baseline: &mut Baseline,
        what: Watched,
        stretch: Stretch,
    ) -> Result<(), Blind> {
        let is_known = baseline
            .regions()
            .iter()
            .any(|region| region.what == what && region.stretch == stretch);
        let has_end = stretch.start.checked_add(stretch.len_bytes).is_some();
        if is_known || !has_end || stretch.len_bytes == 0 || stretch.len_bytes > MAX_TEXT {
            return Ok(());
        }
        match self.bytes_of(stretch) {
            Ok(bytes) => baseline.add(what, stretch, &bytes)?,
            Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
            // On its way out.
            Err(_) => self.space().torn(),
        }
        Ok(())
    }

    /// Whether the first pages of a module's code are what they were and can be run.
    fn is_unchanged(&self, region: &Region) -> bool {
        let first = region.pages.iter().zip(0u64..).take(4);
        let mut is_same = false;
        for (page, number) in first {
            let start = region.stretch.start + number * PAGE as u64;
            let len = (region.stretch.len_bytes - number * PAGE as u64).min(PAGE as u64);
            let is_executable = self
                .space()
                .walk(Gva(start))
                .is_ok_and(|mapped| mapped.is_executable);
            let bytes = self.space().bytes(Gva(start), len as usize);
            is_same |= is_executable && bytes.is_ok_and(|bytes| fingerprint(&bytes) == *page);
        }
        is_same
    }

    fn between(&self, first: &str, last: &str) -> Option<Stretch> {
        let start = self.symbol(first).ok()?;
        let len_bytes = match self.symbol(last) {
            Ok(end) => end.0.checked_sub(start.0)?,
            Err(_) => self.room(start),
        };
        let is_possible = len_bytes > 0 && len_bytes <= MAX_TEXT;
        is_possible.then_some(Stretch {
            start: start.0,
            len_bytes,
        })
    }

    fn own_tables(&self) -> Vec<(&'static str, Stretch)> {
        let known = TABLES.into_iter();
        known
            .filter_map(|(first, last)| Some((first, self.between(first, last)?)))
            .collect()
    }

    /// What the kernel maps into every program.
    fn code_for_programs(&self) -> Vec<(String, Stretch)> {
        let image = |name: &&str| {
            let image = self.symbol(name).ok()?;
            let stretch = Stretch {
                start: self.member("vdso_image", image, "data").ok()?,
                len_bytes: self.member("vdso_image", image, "size").ok()?,
            };
            let is_possible = self.kernel().describe(Gva(stretch.start)).is_some()
                && (1..=MAX_IMAGE).contains(&stretch.len_bytes);
            is_possible.then(|| ((*name).to_owned(), stretch))
        };
        FOR_PROGRAMS.iter().filter_map(image).collect()
    }

    /// What the kernel does not write any more, without what is watched by itself.
    fn constants(&self, apart: &[Stretch]) -> Vec<(&'static str, Stretch)> {
        let whole = self.between("__start_rodata", "__end_rodata");
        let boot = match self.symbol("__end_ro_after_init") {
            Ok(_) => self.between("__start_ro_after_init", "__end_ro_after_init"),
            Err(_) => None,
        };
        let operations = self.between(OPERATIONS, "");
        let mut found = Vec::new();
        let mut apart = apart.to_vec();
        for (name, stretch) in [
            (OPERATIONS, operations),
            (AFTER_BOOT, boot),
            (CONSTANTS, whole),
        ] {
            let Some(stretch) = stretch else { continue };
            found.extend(
                without(stretch, &apart)
                    .into_iter()
                    .map(|part| (name, part)),
            );
            apart.push(stretch);
        }
        found
    }

    /// Whether a stretch is written until the kernel has booted.
    fn is_written_at_boot(&self, stretch: Stretch) -> bool {
        self.lies_between(
            "__start_ro_after_init",
            "__end_ro_after_init",
            stretch.start,
        )
    }

    /// Constants as the kernel's file has them, as far as it does; none for what is written while it boots.
    fn original_constants(
        &self,
        what: &Watched,
        stretch: Stretch,
        now: &[u8],
        code: &Code,
    ) -> Option<Vec<u8>> {
        if !matches!(what, Watched::Constants(name) if name == CONSTANTS) {
            return None;
        }
        let text = self.symbol("_text").ok()?.0;
        let slide = text.wrapping_sub(code.linked_text());
        let offset = stretch.start.wrapping_sub(text) as i64;
        let mut original = code.moved_as_kept(offset, stretch.len_bytes, slide)?;
        original.extend(now.get(original.len()..)?);
        Some(original)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_by_itself_is_not_watched_twice() {
        let stretch = |(start, end): &(u64, u64)| Stretch {
            start: *start,
            len_bytes: end - start,
        };
        let check = |whole, others: &[(u64, u64)], expected: &[(u64, u64)]| {
            let others: Vec<Stretch> = others.iter().map(stretch).collect();
            let expected: Vec<Stretch> = expected.iter().map(stretch).collect();
            assert_eq!(without(stretch(&whole), &others), expected);
        };
        check((10, 20), &[], &[(10, 20)]);
        check((10, 20), &[(12, 14)], &[(10, 12), (14, 20)]);
        check(
            (10, 20),
            &[(16, 30), (0, 11), (12, 13)],
            &[(11, 12), (13, 16)],
        );
        check((10, 20), &[(0, 40)], &[]);
        check((10, 20), &[(12, 18), (13, 14)], &[(10, 12), (18, 20)]);
        check((10, 20), &[(20, 30), (0, 10)], &[(10, 20)]);
    }
}
