//! Whose each page is that the kernel can run: the kernel's own code, modules, BPF, tracers, probes, and the few that a
//! machine needs. What nobody owns is code that somebody hides: to be run at all it must be mapped so that it can be.

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x86::{Gpa, Gva, PAGE_SIZE};

use super::pages::KernelPages;
use crate::blind::Blind;
use crate::look::Look;
use crate::modules::Module;
use crate::observed::Observed;

/// Where kernels map memory for themselves, and its end, if they do not move that (Documentation/arch/x86/x86_64/mm.rst).
const PIECES: Range<u64> = 0xffff_c900_0000_0000..0xffff_e900_0000_0000;
/// Where modules are mapped, and code that is like them.
const MODULES: Range<u64> = 0xffff_ffff_a000_0000..0xffff_ffff_ff00_0000;
/// Pages with no code: what kernels fill them with is a breakpoint.
const FILLING: u8 = 0xcc;
/// Most stretches that are told.
const MAX_TOLD: usize = 64;
/// Most pages of one array of pages.
const MAX_PAGES: u64 = 4096;
/// The part of memory that a CPU is started in.
const LOW: u64 = 1 << 20;

/// Pages that can be run and that nobody owns.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct UnknownCode {
    /// Where they begin.
    pub start: u64,
    /// How long they are.
    pub len_bytes: u64,
    /// Threads of the kernel that started there: number and name.
    pub threads: Vec<String>,
}

/// What a walk through the kernel's own page tables found.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct CodePages {
    /// Bytes that can be run.
    pub executable_bytes: u64,
    /// What nobody owns.
    pub unknown: Vec<UnknownCode>,
    /// Pages of the kernel's image that lie elsewhere than the rest of it: addresses.
    pub displaced: Vec<u64>,
}

/// Stretches of addresses, in ascending order and apart.
struct Ranges(Vec<Range<u64>>);

impl Ranges {
    fn new(mut ranges: Vec<Range<u64>>) -> Ranges {
        ranges.retain(|range| range.start < range.end);
        ranges.sort_by_key(|range| range.start);
        let mut joined: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            match joined.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        Ranges(joined)
    }

    /// Whether any byte of `range` is in one of them.
    fn touch(&self, range: Range<u64>) -> bool {
        let behind = self.0.partition_point(|own| own.end <= range.start);
        self.0.get(behind).is_some_and(|own| own.start < range.end)
    }
}

impl Look<'_> {
    /// All memory that the kernel can run, and what of it nobody owns, in this one look: what is just being made or given
    /// back may be among it.
    pub fn code_pages(&self) -> Observed<CodePages> {
        self.observed(self.read_code_pages())
    }

    fn read_code_pages(&self) -> Result<CodePages, Blind> {
        self.require_booted()?;
        let pages = self.kernel_pages(self.pieces())?;
        let owned = Ranges::new(self.owned(&pages)?);
        let mut unknown: Vec<UnknownCode> = Vec::new();
        for stretch in &pages.executable {
            for at in (0..stretch.len_bytes).step_by(PAGE_SIZE as usize) {
                let start = stretch.start + at;
                if owned.touch(start..start.saturating_add(PAGE_SIZE))
                    || self.is_filling(Gpa(stretch.gpa.0 + at))?
                {
                    continue;
                }
                match unknown.last_mut() {
                    Some(last) if last.start + last.len_bytes == start => {
                        last.len_bytes += PAGE_SIZE;
                    }
                    _ => unknown.push(UnknownCode {
                        start,
                        len_bytes: PAGE_SIZE,
                        threads: Vec::new(),
                    }),
                }
                if unknown.len() > MAX_TOLD {
                    return Err(Blind::nonsense(
                        "kernel can run more memory of unknown owners than can be told apart",
                    ));
                }
            }
        }
        if !unknown.is_empty() {
            self.name_threads(&mut unknown)?;
        }
        let sum = pages.executable.iter().map(|stretch| stretch.len_bytes);
        Ok(CodePages {
            executable_bytes: sum.sum(),
            unknown,
            displaced: pages.displaced.iter().map(|page| page.start).collect(),
        })
    }

    /// Where the kernel maps memory for itself.
    fn pieces(&self) -> Range<u64> {
        let read = |name| {
            self.symbol(name)
                .and_then(|symbol| self.space().u64(symbol))
        };
        match (read("vmalloc_base"), read("vmemmap_base")) {
            (Ok(start), Ok(end)) if start >> 63 != 0 && start < end => start..end,
            _ => PIECES,
        }
    }

    fn is_filling(&self, gpa: Gpa) -> Result<bool, Blind> {
        let mut page = vec![0; PAGE_SIZE as usize];
        self.space().read_physical(gpa, &mut page)?;
        Ok(page.iter().all(|byte| *byte == FILLING))
    }

    /// Everything that somebody owns. A kernel without one of these kinds of code has no such code.
    fn owned(&self, pages: &KernelPages) -> Result<Vec<Range<u64>>, Blind> {
        let modules = self.read_modules()?;
        let mut owned = vec![self.own_code()?];
        let parts = modules.iter().flat_map(|module| &module.memory);
        owned.extend(parts.map(|part| part.start..part.start.saturating_add(part.len_bytes)));
        type Reader<'k> = fn(&Look<'k>, &KernelPages) -> Result<Vec<Range<u64>>, Blind>;
        let readers: [Reader<'_>; 6] = [
            |look, _| Ok(look.code_of_bpf()?.described),
            Look::programs_in_memory,
            |look, _| look.tracers_code(),
            |look, _| look.slots_of_probes(),
            |look, _| look.starter(),
            |look, _| look.next_kernel(),
        ];
        for read in readers {
            match read(self, pages) {
                Ok(ranges) => owned.extend(ranges),
                Err(Blind::NoSymbol(_) | Blind::NoType(_)) => {}
                Err(blind) => return Err(blind),
            }
        }
        owned.extend(self.thunks(&modules)?);
        Ok(owned)
    }

    /// The kernel's own, up to the end of its last page.
    fn own_code(&self) -> Result<Range<u64>, Blind> {
        let end = self.symbol("_etext")?.0.next_multiple_of(PAGE_SIZE);
        Ok(self.symbol("_text")?.0..end)
    }

    /// Programs of BPF that are in no list: filters of sockets and system calls in their classic form, and what is on its
    /// way in or out. Each has a description at the beginning of a piece of memory of its own (`bpf_prog_alloc`,
    /// kernel/bpf/core.c), which leads to another that leads back.
    fn programs_in_memory(&self, pages: &KernelPages) -> Result<Vec<Range<u64>>, Blind> {
        let entry = self.offset("bpf_prog", "bpf_func")?;
        let mut programs = Vec::new();
        for start in &pages.begins {
            let Ok(code) = self.space().u64(Gva(start.wrapping_add(entry))) else {
                continue;
            };
            if !MODULES.contains(&code) {
                continue;
            }
            let Ok(program) = self.object("bpf_prog", Gva(*start)) else {
                continue;
            };
            let aux = program.pointer("aux")?;
            let leads_back = self.member("bpf_prog_aux", aux, "prog") == Ok(*start);
            if program.number("jited")? != 0 && leads_back {
                let len = program.number("jited_len")?;
                programs.push(code..code.saturating_add(len));
            }
        }
        Ok(programs)
    }

    /// Code that tracers had made for themselves, also while it is given back.
    pub(super) fn tracers_code(&self) -> Result<Vec<Range<u64>>, Blind> {
        let link = self.offset("ftrace_ops", "list")?;
        let list = self.steady_list(self.symbol("ftrace_ops_trampoline_list")?, link)?;
        let code = list.into_iter().map(|tracer| {
            let object = self.object("ftrace_ops", tracer)?;
            let start = object.number("trampoline")?;
            Ok(start..start.saturating_add(object.number("trampoline_size")?))
        });
        code.collect()
    }

    /// Pages with instructions that probes took the place of, and with what optimized probes jump to.
    fn slots_of_probes(&self) -> Result<Vec<Range<u64>>, Blind> {
        let mut slots = Vec::new();
        for name in ["kprobe_insn_slots", "kprobe_optinsn_slots"] {
            match self.probe_pages(name) {
                Ok(pages) => slots.extend(pages),
                Err(Blind::NoSymbol(_)) => {}
                Err(blind) => return Err(blind),
            }
        }
        Ok(slots)
    }

    /// What other CPUs are started with (`real_mode_header`, arch/x86/realmode/init.c).
    fn starter(&self) -> Result<Vec<Range<u64>>, Blind> {
        let memory = self.space().u64(self.symbol("page_offset_base")?)?;
        let header = self.space().u64(self.symbol("real_mode_header")?)?;
        let header = self.object("real_mode_header", Gva(header))?;
        let start = header.number("text_start")?;
        let end = header.number("ro_end")?.next_multiple_of(PAGE_SIZE);
        let is_low = start < end && end <= LOW;
        let range = memory.wrapping_add(start)..memory.wrapping_add(end);
        Ok(is_low.then_some(range).into_iter().collect())
    }

    /// What the kernel leaves itself with, if another one was loaded to take its place (kexec).
    fn next_kernel(&self) -> Result<Vec<Range<u64>>, Blind> {
        let memory = self.space().u64(self.symbol("page_offset_base")?)?;
        let notes = self.space().u64(self.symbol("vmemmap_base")?)?;
        let size = self.layouts()?.size("page")?.max(1) as u64;
        let mut pages = Vec::new();
        for name in ["kexec_image", "kexec_crash_image"] {
            let Ok(image) = self.symbol(name).and_then(|image| self.space().u64(image)) else {
                continue;
            };
            if image == 0 {
                continue;
            }
            let page = self.member("kimage", Gva(image), "control_code_page")?;
            let frame = page.wrapping_sub(notes) / size;
            let start = memory.wrapping_add(frame.wrapping_mul(PAGE_SIZE));
            // Two pages (`KEXEC_CONTROL_PAGE_SIZE`, arch/x86/include/asm/kexec.h).
            pages.push(start..start.saturating_add(2 * PAGE_SIZE));
        }
        Ok(pages)
    }

    /// Pages with the thunks that indirect branches go through on some processors, the kernel's and modules'.
    fn thunks(&self, modules: &[Module]) -> Result<Vec<Range<u64>>, Blind> {
        let page = |start: u64| start..start.saturating_add(PAGE_SIZE);
        let mut thunks = Vec::new();
        if let Ok(own) = self.symbol("its_page") {
            thunks.push(page(self.space().u64(own)?));
        }
        let layouts = self.layouts()?;
        let members = [
            ("its_page_array", "its_num_pages"),
            ("arch.its_pages.pages", "arch.its_pages.num"),
        ];
        let known = members
            .iter()
            .find(|(pages, count)| layouts.has("module", pages) && layouts.has("module", count));
        let Some((pages, count)) = known else {
            return Ok(thunks);
        };
        for module in modules {
            let module = self.object("module", Gva(module.address))?;
            let array = module.pointer(pages)?;
            let count = module.number(count)?.min(MAX_PAGES);
            if array.0 == 0 || count == 0 {
                continue;
            }
            let bytes = self.space().bytes(array, count as usize * 8)?;
            let words = bytes.as_chunks::<8>().0.iter();
            thunks.extend(words.map(|word| page(u64::from_le_bytes(*word))));
        }
        Ok(thunks)
    }

    /// Finds the threads of the kernel that started in code that nobody owns.
    fn name_threads(&self, unknown: &mut [UnknownCode]) -> Result<(), Blind> {
        for thread in self.kernel_threads()? {
            let place = unknown
                .iter_mut()
                .find(|code| thread.start.wrapping_sub(code.start) < code.len_bytes);
            if let Some(code) = place {
                code.threads
                    .push(format!("{} ({})", thread.pid, thread.comm));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_owned_if_any_byte_of_it_is() {
        let ranges = Ranges::new(vec![0x3000..0x3010, 0x1000..0x2000, 0x1800..0x2800, 5..5]);
        assert_eq!(ranges.0, [0x1000..0x2800, 0x3000..0x3010]);
        let check = |page: u64, expected| {
            assert_eq!(ranges.touch(page..page + 0x1000), expected, "{page:#x}");
        };
        check(0, false);
        check(0x1000, true);
        check(0x2000, true);
        check(0x3000, true);
        check(0x4000, false);
        assert!(!Ranges::new(Vec::new()).touch(0..u64::MAX));
    }
}
