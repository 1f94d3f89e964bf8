//! Where a kernel may rewrite its code: what its own tables say.
//!
//! Read only when code has changed: a kernel has tens of thousands of such places.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use x86::Gva;

use crate::blind::Blind;
use crate::look::Look;
use crate::modules::Module;

/// Most places that are read of one table.
const MAX_SITES: u64 = 1 << 20;
/// Most elements of one list.
const MAX_LIST: usize = 1 << 16;
/// Lists in the kernel's table of probes (`KPROBE_TABLE_SIZE`).
const PROBE_LISTS: u64 = 64;
/// A probe that was made a jump (`KPROBE_FLAG_OPTIMIZED`).
const OPTIMIZED: u64 = 4;
/// Longest thing that is rewritten in one piece.
pub(super) const LONGEST: u64 = 6;
/// Places in the tracers' own entry code where what they call is written.
const TRACER_CALLS: [&str; 4] = [
    "ftrace_call",
    "ftrace_regs_call",
    "ftrace_graph_call",
    "ftrace_regs_caller_op_ptr",
];

/// A place where code may be rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Site {
    /// A jump that is on or off.
    JumpLabel {
        /// Where it goes when it is on.
        target: u64,
    },
    /// A call whose target changes; or the stub for callers that cannot be rewritten.
    StaticCall {
        /// Whether it may lead into a module.
        may_enter_modules: bool,
    },
    /// The beginning of a function, where tracers come in.
    Tracing,
    /// Where the tracers' entry calls them.
    TracerCall,
    /// A probe.
    Probe {
        /// Whether it is a jump, not a breakpoint.
        is_optimized: bool,
    },
    /// The stub from which BPF programs of one kind are called.
    Dispatcher,
}

/// Every such place, and what may be led to from there.
#[derive(Debug, Default)]
pub(super) struct Sites {
    sites: BTreeMap<u64, Vec<Site>>,
    /// Code that tracers had made for themselves.
    pub tracers: Vec<Range<u64>>,
    /// What tracers have called.
    pub tracer_functions: HashSet<u64>,
    /// Code of BPF: programs, trampolines, dispatchers.
    pub bpf: Vec<Range<u64>>,
    /// Pages with the code that optimized probes jump to.
    pub probes: Vec<Range<u64>>,
    /// Code of modules.
    pub modules: Vec<Range<u64>>,
    /// What could not be read, and why.
    pub missing: Vec<String>,
}

impl Sites {
    /// Whether the kernel may rewrite the byte at `address`, whatever it writes there.
    pub(super) fn may_rewrite(&self, address: u64) -> bool {
        let len = |site| match site {
            Site::StaticCall { .. } => LONGEST,
            _ => LONGEST - 1,
        };
        self.covering(address)
            .any(|(start, site)| address - start < len(site))
    }

    /// Places that begin close enough to cover `address`, the nearest last.
    pub(super) fn covering(&self, address: u64) -> impl Iterator<Item = (u64, Site)> + '_ {
        let first = address.saturating_sub(LONGEST - 1);
        self.sites
            .range(first..=address)
            .flat_map(|(start, sites)| sites.iter().map(|site| (*start, *site)))
    }

    /// Whether a probe is anywhere in `range`.
    pub(super) fn has_probe(&self, range: Range<u64>) -> bool {
        self.sites
            .range(range)
            .any(|(_, sites)| sites.iter().any(|site| matches!(site, Site::Probe { .. })))
    }

    fn add(&mut self, start: u64, site: Site) {
        self.sites.entry(start).or_default().push(site);
    }
}

/// The module whose a table is; none for the kernel's own.
type Owner<'m> = Option<&'m Module>;

/// Whether a static call of the kernel's is one that modules are called by: tracepoints, and questions to a hypervisor about
/// its guests (kernel/tracepoint.c, kernel/events/core.c). All others lead to functions of the kernel.
fn may_enter_modules(name: &str) -> bool {
    name.starts_with("tp_func_") || name.starts_with("perf_guest_")
}

impl Look<'_> {
    /// Reads the tables.
    pub(super) fn patch_sites(&self, modules: &[Module]) -> Result<Sites, Blind> {
        let mut sites = Sites::default();
        let range = |start: u64, len: u64| start..start.saturating_add(len);
        sites.modules = modules
            .iter()
            .map(|module| range(module.text.start, module.text.len_bytes))
            .collect();
        type Reader<'k> = fn(&Look<'k>, &mut Sites, &[Module]) -> Result<(), Blind>;
        let tables: [(&str, Reader<'_>); 8] = [
            ("jump labels", Look::jump_labels),
            ("static calls", Look::static_calls),
            ("stubs of static calls", Look::stubs),
            ("traced functions", Look::traced),
            ("tracers", Look::tracers),
            ("probes", Look::probes),
            ("jumps of probes", Look::probe_jumps),
            ("BPF", Look::bpf_code),
        ];
        for (what, read) in tables {
            match read(self, &mut sites, modules) {
                Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
                // A kernel without such a table has no such places.
                Err(Blind::NoSymbol(_)) | Ok(()) => {}
                Err(blind) => sites.missing.push(format!("{what}: {blind}")),
            }
        }
        Ok(sites)
    }

    /// Entries of 32-bit distances, each from where itself stands.
    fn distances(&self, start: u64, count: u64, stride: u64) -> Result<Vec<(u64, u64)>, Blind> {
        if count > MAX_SITES {
            return Err(Blind::nonsense(
                "table of places to rewrite is longer than any can be",
            ));
        }
        let bytes = self.space().bytes(Gva(start), (count * stride) as usize)?;
        let entries = bytes
            .chunks_exact(stride as usize)
            .enumerate()
            .map(|(number, entry)| {
                let at = start.wrapping_add(number as u64 * stride);
                let distance = |offset: usize| {
                    let bytes = entry
                        .get(offset..offset + 4)
                        .and_then(|bytes| bytes.try_into().ok())
                        .unwrap_or_default();
                    at.wrapping_add(offset as u64)
                        .wrapping_add(i64::from(i32::from_le_bytes(bytes)) as u64)
                };
                (distance(0), distance(4))
            });
        Ok(entries.collect())
    }

    /// The kernel's own table between two symbols, and those of modules: what each says is told with whose it is.
    fn tables<'m>(
        &self,
        bounds: [&str; 2],
        stride: u64,
        modules: &'m [Module],
        members: [&str; 2],
    ) -> Result<Vec<(Owner<'m>, u64, u64)>, Blind> {
        let [start, end] = [self.symbol(bounds[0])?.0, self.symbol(bounds[1])?.0];
        let mut tables = vec![(None, start, end.wrapping_sub(start) / stride)];
        for module in modules {
            let object = self.object("module", Gva(module.address))?;
            if object.has(members[0]) {
                let start = object.number(members[0])?;
                let count = object.number(members[1])?;
                tables.push((Some(module), start, count));
            }
        }
        tables.retain(|(_, start, count)| *start != 0 && *count != 0);
        Ok(tables)
    }

    /// Whether a table may speak for a place: each speaks for the code of whose it is, and for nothing else.
    fn is_own(&self, owner: Owner<'_>, address: u64) -> bool {
        match owner {
            Some(module) => module.memory.iter().any(|part| part.contains(address)),
            None => self.kernel().describe(Gva(address)).is_some(),
        }
    }

    fn jump_labels(&self, sites: &mut Sites, modules: &[Module]) -> Result<(), Blind> {
        const STRIDE: u64 = 16;
        let bounds = ["__start___jump_table", "__stop___jump_table"];
        for (owner, start, count) in self.tables(
            bounds,
            STRIDE,
            modules,
            ["jump_entries", "num_jump_entries"],
        )? {
            for (site, target) in self.distances(start, count, STRIDE)? {
                if self.is_own(owner, site) && self.is_own(owner, target) {
                    sites.add(site, Site::JumpLabel { target });
                }
            }
        }
        Ok(())
    }

    fn static_calls(&self, sites: &mut Sites, modules: &[Module]) -> Result<(), Blind> {
        const STRIDE: u64 = 8;
        /// Low bits of where the key lies say how the call is made (`STATIC_CALL_SITE_FLAGS`).
        const FLAGS: u64 = 3;
        let bounds = ["__start_static_call_sites", "__stop_static_call_sites"];
        for (owner, start, count) in self.tables(
            bounds,
            STRIDE,
            modules,
            ["static_call_sites", "num_static_call_sites"],
        )? {
            for (site, key) in self.distances(start, count, STRIDE)? {
                let key = self.kernel().describe(Gva(key & !FLAGS));
                let of_modules = |(name, _): (String, u64)| {
                    name.strip_prefix("__SCK__").is_some_and(may_enter_modules)
                };
                // A key that is no variable of the kernel's is a module's.
                let may_enter_modules = owner.is_some() || key.is_some_and(of_modules);
                if self.is_own(owner, site) {
                    sites.add(site, Site::StaticCall { may_enter_modules });
                }
            }
        }
        Ok(())
    }

    /// Stubs are known by their names; so are those of BPF's dispatchers.
    fn stubs(&self, sites: &mut Sites, _: &[Module]) -> Result<(), Blind> {
        for (address, _, name) in self.kernel().symbols() {
            if let Some(of) = name.strip_prefix(b"__SCT__") {
                let may_enter_modules = std::str::from_utf8(of).is_ok_and(may_enter_modules);
                sites.add(address.0, Site::StaticCall { may_enter_modules });
            } else if name.starts_with(b"bpf_dispatcher_") && name.ends_with(b"_func") {
                sites.add(address.0, Site::Dispatcher);
                sites.add(address.0.wrapping_add(4), Site::Dispatcher);
            }
        }
        Ok(())
    }

    /// Functions that can be traced, the kernel's and modules'.
    fn traced(&self, sites: &mut Sites, _: &[Module]) -> Result<(), Blind> {
        let record = self.layouts()?.size("dyn_ftrace")?;
        let ip = self.offset("dyn_ftrace", "ip")? as usize;
        let mut group = self.space().u64(self.symbol("ftrace_pages_start")?)?;
        let mut left = MAX_SITES;
        for _ in 0..MAX_LIST {
            if group == 0 {
                break;
            }
            let page = self.object("ftrace_page", Gva(group))?;
            let count = page.number("index")?;
            left = left
                .checked_sub(count)
                .ok_or_else(|| Blind::nonsense("list of traced functions does not end"))?;
            let bytes = self
                .space()
                .bytes(page.pointer("records")?, count as usize * record)?;
            for record in bytes.chunks_exact(record.max(1)) {
                let ip = record
                    .get(ip..ip + 8)
                    .and_then(|ip| ip.try_into().ok())
                    .unwrap_or_default();
                sites.add(u64::from_le_bytes(ip), Site::Tracing);
            }
            group = page.number("next")?;
        }
        for name in TRACER_CALLS {
            if let Ok(place) = self.symbol(name) {
                sites.add(place.0, Site::TracerCall);
            }
        }
        Ok(())
    }

    /// Tracers whose entry is code of their own.
    fn tracers(&self, sites: &mut Sites, _: &[Module]) -> Result<(), Blind> {
        let end = self.symbol("ftrace_list_end")?;
        let mut tracer = self.space().u64(self.symbol("ftrace_ops_list")?)?;
        for _ in 0..MAX_LIST {
            if tracer == 0 || tracer == end.0 {
                break;
            }
            let object = self.object("ftrace_ops", Gva(tracer))?;
            let start = object.number("trampoline")?;
            if start != 0 {
                sites
                    .tracers
                    .push(start..start.saturating_add(object.number("trampoline_size")?));
            }
            for member in ["func", "saved_func"] {
                sites
                    .tracer_functions
                    .insert(object.number(member).unwrap_or(0));
            }
            tracer = object.number("next")?;
        }
        // Those that are on their way out, and may still be called.
        if let Ok(code) = self.tracers_code() {
            sites.tracers.extend(code);
        }
        Ok(())
    }

    fn probes(&self, sites: &mut Sites, _: &[Module]) -> Result<(), Blind> {
        let table = self.symbol("kprobe_table")?;
        let link = self.offset("kprobe", "hlist")?;
        for list in 0..PROBE_LISTS {
            let mut node = self.space().u64(Gva(table.0.wrapping_add(8 * list)))?;
            for _ in 0..MAX_LIST {
                if node == 0 {
                    break;
                }
                let probe = self.object("kprobe", Gva(node.wrapping_sub(link)))?;
                let is_optimized = probe.number("flags")? & OPTIMIZED != 0;
                sites.add(probe.number("addr")?, Site::Probe { is_optimized });
                node = probe.number("hlist.next")?;
            }
        }
        Ok(())
    }

    fn probe_jumps(&self, sites: &mut Sites, _: &[Module]) -> Result<(), Blind> {
        sites.probes = self.probe_pages("kprobe_optinsn_slots")?;
        Ok(())
    }

    /// Pages with code that probes had made.
    pub(super) fn probe_pages(&self, cache: &str) -> Result<Vec<Range<u64>>, Blind> {
        const PAGE: u64 = 4096;
        let pages = Gva(self
            .symbol(cache)?
            .0
            .wrapping_add(self.offset("kprobe_insn_cache", "pages")?));
        let list = self.steady_list(pages, self.offset("kprobe_insn_page", "list")?)?;
        let page = |page| {
            let start = self.member("kprobe_insn_page", page, "insns")?;
            Ok(start..start.saturating_add(PAGE))
        };
        list.into_iter().map(page).collect()
    }

    fn bpf_code(&self, sites: &mut Sites, _: &[Module]) -> Result<(), Blind> {
        sites.bpf = self.code_of_bpf()?.in_use;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_covers_the_bytes_behind_its_start() {
        let mut sites = Sites::default();
        sites.add(100, Site::Tracing);
        sites.add(
            103,
            Site::StaticCall {
                may_enter_modules: false,
            },
        );
        let check = |address, expected: &[u64]| {
            assert_eq!(
                sites
                    .covering(address)
                    .map(|(start, _)| start)
                    .collect::<Vec<_>>(),
                expected
            );
        };
        check(99, &[]);
        check(100, &[100]);
        check(105, &[100, 103]);
        check(106, &[103]);
        check(109, &[]);
        check(0, &[]);
        // A traced function's place has 5 bytes, a static call's may have 6.
        let may = [99, 100, 104, 105, 108, 109].map(|address| sites.may_rewrite(address));
        assert_eq!(may, [false, true, true, true, true, false]);
        let mut traced = Sites::default();
        traced.add(100, Site::Tracing);
        assert_eq!(
            [104, 105].map(|address| traced.may_rewrite(address)),
            [true, false]
        );
    }

    #[test]
    fn few_static_calls_lead_into_modules() {
        let check = |name, expected| assert_eq!(may_enter_modules(name), expected, "{name}");
        check("tp_func_sched_switch", true);
        check("perf_guest_state", true);
        check("cond_resched", false);
        check("x86_idle", false);
    }
}
