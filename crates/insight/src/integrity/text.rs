//! Code, page by page, against the baseline.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use x86::{Gpa, Gva, PAGE_SIZE};

use super::baseline::{Baseline, PAGE, Region, Scope, Watched, fingerprint};
use super::patches::{Ground, Legal, judge};
use super::sites::{LONGEST, Sites};
use super::{Finding, FindingKind, Integrity, Patch, hex};
use crate::blind::Blind;
use crate::look::Look;
use crate::modules::Module;

/// Pages read at once.
const AT_ONCE: usize = 64;
/// Changed bytes with no more unchanged ones between them are one finding.
const GAP: u64 = 8;
/// Bytes that a finding shows.
const SHOWN: usize = 32;
/// Findings of one kind of memory, at most: somebody who changes more has made the point.
const MAX_FINDINGS: usize = 256;
/// Changed bytes that are told apart in one region, at most.
const MAX_STRANGE: usize = 1 << 16;
/// How often what tables do not explain is asked of newer ones.
const FRESH_TABLES: u32 = 3;
/// Legal changes that are named, at most: tracing everything changes every function.
const MAX_PATCHES: usize = 256;
/// A changed page.
struct Changed {
    start: u64,
    before: Option<Vec<u8>>,
    now: Vec<u8>,
}

impl Look<'_> {
    pub(super) fn compare_text(
        &self,
        baseline: &mut Baseline,
        scope: Scope<'_>,
        result: &mut Integrity,
    ) -> Result<(), Blind> {
        let modules = self.read_modules()?;
        if baseline.is_empty() {
            self.watch_kernel(baseline, &modules)?;
        }
        result
            .not_checked
            .extend(baseline.remarked().map(str::to_owned));
        self.follow_modules(baseline, &modules, result)?;
        result.watched_bytes = baseline
            .regions()
            .iter()
            .map(|region| region.stretch.len_bytes)
            .sum();
        let (mut from, mut left) = match scope {
            Scope::Part(bytes) => {
                let pages = (bytes / PAGE as u64).max(1);
                (baseline.advance(pages), pages)
            }
            _ => (0, u64::MAX),
        };
        let written = match scope {
            Scope::Written(ask) => self.written_pages(baseline, ask)?,
            _ => None,
        };
        let mut sites = None;
        for region in baseline.regions().to_vec() {
            let pages = region.pages.len() as u64;
            let skip = from.min(pages);
            let count = (pages - skip).min(left);
            (from, left) = (from - skip, left - count);
            let numbers = skip as usize..(skip + count) as usize;
            let mut changed =
                match self.changed_pages(baseline, &region, &numbers, written.as_ref(), result) {
                    Ok(changed) => changed,
                    Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
                    Err(blind) => {
                        result
                            .not_checked
                            .push(format!("{}: {blind}", self.title(&region)));
                        continue;
                    }
                };
            if changed.is_empty() {
                continue;
            }
            changed.sort_by_key(|page| page.start);
            if sites.is_none() {
                sites = Some(self.patch_sites(&modules)?);
            }
            if let Some(sites) = &sites {
                self.explain(&region, &changed, (sites, &modules), result)?;
            }
        }
        if let Some(sites) = sites {
            result.not_checked.extend(sites.missing);
        }
        Ok(())
    }

    fn title(&self, region: &Region) -> String {
        match &region.what {
            Watched::Kernel => "the kernel's code".to_owned(),
            Watched::Module { name, .. } => format!("code of module {name}"),
            Watched::ModuleConstants { name, .. } => format!("constants of module {name}"),
            Watched::Table(name) | Watched::Constants(name) | Watched::ForPrograms(name) => {
                name.clone()
            }
        }
    }

    /// Frames of watched pages that were written; none if everything has to be compared.
    fn written_pages(
        &self,
        baseline: &mut Baseline,
        ask: &dyn Fn(&[Gpa]) -> Vec<bool>,
    ) -> Result<Option<HashSet<u64>>, Blind> {
        let is_missed = baseline.ask()?;
        let frames: BTreeSet<u64> = baseline
            .regions()
            .iter()
            .flat_map(|region| self.frames_of(region))
            .flatten()
            .collect();
        let pages: Vec<Gpa> = frames.iter().map(|frame| Gpa(frame * PAGE_SIZE)).collect();
        let written = ask(&pages);
        let written = frames
            .into_iter()
            .zip(written)
            .filter_map(|(frame, written)| written.then_some(frame));
        Ok((!is_missed).then(|| written.collect()))
    }

    /// The frames behind the pages of a region; none for what is not mapped.
    fn frames_of<'r>(&'r self, region: &'r Region) -> impl Iterator<Item = Option<u64>> + 'r {
        // A region need not begin where a page does.
        let first = region.stretch.start;
        let last = region
            .stretch
            .start
            .saturating_add(region.stretch.len_bytes.max(1) - 1);
        let pages = (first & !(PAGE_SIZE - 1)..=last).step_by(PAGE_SIZE as usize);
        pages.map(|page| Some(self.space().translate(Gva(page)).ok()?.0 / PAGE_SIZE))
    }

    /// Whether one of the frames of a page was written, or cannot be told.
    fn may_be_written(&self, written: &HashSet<u64>, start: u64, end: u64) -> bool {
        [start, end - 1]
            .into_iter()
            .any(|at| match self.space().translate(Gva(at)) {
                Ok(gpa) => written.contains(&(gpa.0 / PAGE_SIZE)),
                Err(_) => true,
            })
    }

    /// Pages that are not what they were.
    fn changed_pages(
        &self,
        baseline: &mut Baseline,
        region: &Region,
        numbers: &Range<usize>,
        written: Option<&HashSet<u64>>,
        result: &mut Integrity,
    ) -> Result<Vec<Changed>, Blind> {
        let mut changed = Vec::new();
        let place = |number: usize| region.stretch.start + (number * PAGE) as u64;
        // What changed once is looked at every time.
        let others = (0..region.pages.len())
            .filter(|number| baseline.is_suspect(place(*number)) && !numbers.contains(number));
        let others: Vec<usize> = others.collect();
        for number in others {
            self.compare_pages(baseline, region, number..number + 1, result, &mut changed)?;
        }
        let mut first = numbers.start;
        while first < numbers.end {
            let mut count = AT_ONCE.min(numbers.end - first);
            if let Some(written) = written {
                let is_asked = |number: usize| {
                    let end = (place(number) + PAGE as u64)
                        .min(region.stretch.start + region.stretch.len_bytes);
                    baseline.is_suspect(place(number))
                        || self.may_be_written(written, place(number), end)
                };
                if !is_asked(first) {
                    first += 1;
                    continue;
                }
                // Who begins is told of all, which are read in large pieces.
                if !(first..first + count).all(is_asked) {
                    count = 1;
                }
            }
            let before = changed.len();
            self.compare_pages(baseline, region, first..first + count, result, &mut changed)?;
            let is_as_it_was = changed.len() == before;
            let is_one = written.is_some() && count == 1;
            if is_one && is_as_it_was && matches!(region.what, Watched::Kernel) {
                result.rewritten.push(place(first));
            }
            first += count;
        }
        Ok(changed)
    }

    fn compare_pages(
        &self,
        baseline: &mut Baseline,
        region: &Region,
        numbers: Range<usize>,
        result: &mut Integrity,
        changed: &mut Vec<Changed>,
    ) -> Result<(), Blind> {
        let place = |number: usize| region.stretch.start + (number * PAGE) as u64;
        let end = place(numbers.end).min(region.stretch.start + region.stretch.len_bytes);
        let bytes = self.space().bytes(
            Gva(place(numbers.start)),
            (end - place(numbers.start)) as usize,
        )?;
        result.compared_bytes += bytes.len() as u64;
        for (now, number) in bytes.chunks(PAGE).zip(numbers) {
            let is_changed = region.pages.get(number) != Some(&fingerprint(now));
            baseline.suspect(place(number), is_changed);
            if is_changed {
                let before = baseline.page(region, number, now.len());
                changed.push(Changed {
                    start: place(number),
                    before,
                    now: now.to_vec(),
                });
            }
        }
        Ok(())
    }

    /// A guest that traces all of its functions on and off rewrites tens of thousands of places while its tables are read:
    /// what they do not explain is asked again of newer ones.
    fn explain_again(
        &self,
        end: u64,
        strange: &mut Vec<u64>,
        modules: &[Module],
    ) -> Result<(), Blind> {
        for _ in 0..FRESH_TABLES {
            if strange.is_empty() {
                break;
            }
            let sites = self.patch_sites(modules)?;
            strange.retain(|address| self.legal(end, *address, &sites).is_none());
        }
        Ok(())
    }

    /// Tells legal changes from others.
    fn explain(
        &self,
        region: &Region,
        changed: &[Changed],
        (sites, modules): (&Sites, &[Module]),
        result: &mut Integrity,
    ) -> Result<(), Blind> {
        let kind = kind_of(&region.what);
        let end = region.stretch.start + region.stretch.len_bytes;
        let mut legal_ends = 0;
        let mut strange: Vec<u64> = Vec::new();
        for page in changed {
            let Some(before) = &page.before else {
                let what = "changed, and what it was is not known any more";
                let subject = self.named(region, page.start);
                result
                    .findings
                    .push(without_bytes(kind, subject, what, page.start));
                continue;
            };
            let differs = before
                .iter()
                .zip(&page.now)
                .zip(page.start..)
                .filter(|((a, b), _)| a != b);
            for address in differs.map(|(_, address)| address) {
                if address < legal_ends {
                    continue;
                }
                let legal = match region.what {
                    Watched::Kernel | Watched::Module { .. } => self.legal(end, address, sites),
                    _ => None,
                };
                match legal {
                    Some((start, legal)) => {
                        legal_ends = start + legal.len as u64;
                        result.patch_count += 1;
                        if result.patches.len() >= MAX_PATCHES {
                            continue;
                        }
                        result.patches.push(Patch {
                            kind: legal.kind,
                            subject: self.named(region, start),
                            target: legal.target.map(|target| self.target(target, sites)),
                        });
                    }
                    None => strange.push(address),
                }
            }
        }
        if matches!(region.what, Watched::Kernel | Watched::Module { .. }) {
            self.explain_again(end, &mut strange, modules)?;
        }
        if strange.len() > MAX_STRANGE {
            self.give_up(region, kind, result);
            return Ok(());
        }
        let groups = strange.chunk_by(|a, b| b - a <= GAP);
        let ranges = groups.filter_map(|group| Some(*group.first()?..*group.last()? + 1));
        let findings = ranges.map(|range| self.finding(region, changed, kind, range));
        result.findings.extend(findings.take(MAX_FINDINGS));
        Ok(())
    }

    /// Somebody changed more than can be told apart.
    fn give_up(&self, region: &Region, kind: FindingKind, result: &mut Integrity) {
        let what = format!("more than {MAX_STRANGE} bytes changed");
        let title = self.title(region);
        let start = region.stretch.start;
        result
            .findings
            .push(without_bytes(kind, title, &what, start));
    }

    /// Where a legal branch leads, for people.
    fn target(&self, target: u64, sites: &Sites) -> String {
        if self.kernel().describe(Gva(target)).is_some() {
            return self.whereabouts(target);
        }
        let what = match self.ground(target, sites) {
            Ground::Tracer => "a tracer's own code",
            Ground::Bpf => "BPF code",
            Ground::Module | Ground::Traced => "a module",
            Ground::Function | Ground::Probe | Ground::Nowhere => "other code",
        };
        format!("{what} at {target:#x}")
    }

    /// The legal place that explains the byte at `address`, in code that ends at `end`.
    pub(super) fn legal(&self, end: u64, address: u64, sites: &Sites) -> Option<(u64, Legal)> {
        sites.covering(address).find_map(|(start, site)| {
            let len = LONGEST.min(end.checked_sub(start)?);
            let now = self.space().bytes(Gva(start), len as usize).ok()?;
            let legal = judge(site, start, &now, &|target| self.ground(target, sites))?;
            (address < start + legal.len as u64).then_some((start, legal))
        })
    }

    pub(super) fn ground(&self, target: u64, sites: &Sites) -> Ground {
        let is_in = |ranges: &[Range<u64>]| ranges.iter().any(|range| range.contains(&target));
        let name = if self.is_text(target) {
            self.kernel().describe(Gva(target))
        } else {
            None
        };
        match name {
            Some((name, 0)) if ["ftrace_caller", "ftrace_regs_caller"].contains(&name.as_str()) => {
                Ground::Tracer
            }
            // Behind a landing instruction for indirect branches; before a function, where the compiler left room.
            Some((_, 0 | 4)) => Ground::Function,
            Some((name, _)) if name.starts_with("__pfx_") => Ground::Function,
            _ if is_in(&sites.tracers) => Ground::Tracer,
            _ if is_in(&sites.bpf) => Ground::Bpf,
            _ if is_in(&sites.probes) => Ground::Probe,
            _ if is_in(&sites.modules) && sites.tracer_functions.contains(&target) => {
                Ground::Traced
            }
            _ if is_in(&sites.modules) => Ground::Module,
            _ => Ground::Nowhere,
        }
    }

    /// A place by its name.
    fn named(&self, region: &Region, address: u64) -> String {
        match &region.what {
            Watched::Module { name, .. }
            | Watched::ModuleConstants { name, .. }
            | Watched::ForPrograms(name)
            | Watched::Table(name) => format!("{name}+{:#x}", address - region.stretch.start),
            Watched::Kernel | Watched::Constants(_) => match self.kernel().describe(Gva(address)) {
                Some((name, offset)) => format!("{name}+{offset:#x}"),
                None => format!("{address:#x}"),
            },
        }
    }

    fn finding(
        &self,
        region: &Region,
        changed: &[Changed],
        kind: FindingKind,
        range: Range<u64>,
    ) -> Finding {
        let bytes = |of: fn(&Changed) -> &[u8]| {
            // Thousands of pages may have changed, and this is asked for every finding.
            let has_part =
                |page: &&Changed| page.start < range.end && range.start < page.start + PAGE as u64;
            let pages = changed
                .iter()
                .filter(has_part)
                .map(|page| (page.start, of(page)));
            let bytes = pages.flat_map(|(start, bytes)| bytes.iter().copied().zip(start..));
            bytes
                .filter(|(_, at)| range.contains(at))
                .map(|(byte, _)| byte)
                .take(SHOWN)
                .collect::<Vec<u8>>()
        };
        let before = bytes(|page| page.before.as_deref().unwrap_or_default());
        let now = bytes(|page| &page.now);
        let count = range.end - range.start;
        let mut what = format!("{count} byte{} changed", if count == 1 { "" } else { "s" });
        if matches!(kind, FindingKind::KernelText | FindingKind::ModuleText)
            && let Some(target) = self.branch_at(region, range.start)
        {
            what = format!("{what}: it now leads to {}", self.whereabouts(target));
        }
        if kind == FindingKind::Constants
            && let Some(target) = self.pointer_at(range.start)
        {
            what = format!("{what}: it now points to {}", self.whereabouts(target));
        }
        Finding {
            kind,
            subject: self.named(region, range.start),
            what,
            address: Some(range.start),
            before: Some(hex(&before)),
            after: Some(hex(&now)),
        }
    }

    /// The kernel's address that a changed byte belongs to, if it is one.
    fn pointer_at(&self, address: u64) -> Option<u64> {
        /// Where kernels and modules are.
        const CODE: u64 = 0xffff_ffff_8000_0000;
        let pointer = self.space().u64(Gva(address & !7)).ok()?;
        (pointer >= CODE).then_some(pointer)
    }

    /// Where the branch leads that a changed byte belongs to; it may begin a byte or two before.
    fn branch_at(&self, region: &Region, address: u64) -> Option<u64> {
        let start = [0, 1, 2].into_iter().find(|back| {
            let code = self
                .space()
                .bytes(Gva(address - back), 1)
                .unwrap_or_default();
            address - back >= region.stretch.start && matches!(code.first(), Some(0xe8 | 0xe9))
        })?;
        let bytes = self.space().bytes(Gva(address - start + 1), 4).ok()?;
        let distance = i32::from_le_bytes(bytes.try_into().ok()?);
        Some((address - start + 5).wrapping_add(i64::from(distance) as u64))
    }
}

/// What a change in a stretch is.
fn kind_of(what: &Watched) -> FindingKind {
    match what {
        Watched::Kernel => FindingKind::KernelText,
        Watched::Module { .. } => FindingKind::ModuleText,
        Watched::Table(name) if name == "sys_call_table" => FindingKind::SyscallTable,
        Watched::Table(_) => FindingKind::PatchTable,
        Watched::Constants(_) | Watched::ModuleConstants { .. } => FindingKind::Constants,
        Watched::ForPrograms(_) => FindingKind::ProgramText,
    }
}

fn without_bytes(kind: FindingKind, subject: String, what: &str, address: u64) -> Finding {
    Finding {
        kind,
        subject,
        what: what.to_owned(),
        address: Some(address),
        before: None,
        after: None,
    }
}
