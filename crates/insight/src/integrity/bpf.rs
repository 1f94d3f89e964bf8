//! Code that BPF made: programs, the trampolines that call them, dispatchers.
//!
//! The kernel keeps a list of such code by name (`bpf_kallsyms`, kernel/bpf/core.c), and whoever adds to it could have any
//! code called a program. So an entry counts only as part of what it should be part of: a program that points back to it and
//! that the table of programs has, a trampoline that is in use, a dispatcher of the kernel's own.

use std::collections::HashSet;
use std::ops::Range;

use x86::Gva;

use crate::blind::Blind;
use crate::look::Look;

/// Most elements of one list.
const MAX_LIST: usize = 1 << 16;
/// Deepest table of programs.
const MAX_DEPTH: u32 = 6;
/// Most functions of one program (`BPF_MAX_SUBPROGS` is 256).
const MAX_FUNCTIONS: u64 = 4096;

/// Code of BPF.
#[derive(Debug, Default)]
pub(crate) struct BpfCode {
    /// What a branch may lead to: programs of the table, trampolines in use, dispatchers.
    pub in_use: Vec<Range<u64>>,
    /// What is described as it should be; also what is on its way in or out.
    pub described: Vec<Range<u64>>,
}

impl Look<'_> {
    /// Code of BPF, as far as its descriptions fit together.
    pub(crate) fn code_of_bpf(&self) -> Result<BpfCode, Blind> {
        let link = self.offset("bpf_ksym", "lnode")?;
        let symbols = self.steady_list(self.symbol("bpf_kallsyms")?, link)?;
        let mut code = BpfCode::default();
        if symbols.is_empty() {
            return Ok(code);
        }
        let programs = self.programs()?;
        let trampolines = self.trampolines()?;
        for symbol in symbols {
            let object = self.object("bpf_ksym", symbol)?;
            let range = object.number("start")?..object.number("end")?;
            let is_program = object.has("prog") && object.number("prog")? & 1 != 0;
            let (is_described, is_used) = if is_program {
                self.program_of(symbol, &range, &programs)?
            } else {
                self.image_of(symbol, &range, trampolines.as_ref())?
            };
            if is_used {
                code.in_use.push(range.clone());
            }
            if is_described {
                code.described.push(range);
            }
        }
        Ok(code)
    }

    /// Whether a symbol is that of a program, and of one that the table has.
    fn program_of(
        &self,
        symbol: Gva,
        range: &Range<u64>,
        programs: &HashSet<u64>,
    ) -> Result<(bool, bool), Blind> {
        let aux = symbol.0.wrapping_sub(self.offset("bpf_prog_aux", "ksym")?);
        let program = self.member("bpf_prog_aux", Gva(aux), "prog")?;
        let points_back = self.member("bpf_prog", Gva(program), "aux") == Ok(aux);
        let entry = self.member("bpf_prog", Gva(program), "bpf_func");
        let is_described = points_back && entry.is_ok_and(|entry| range.contains(&entry));
        Ok((is_described, is_described && programs.contains(&program)))
    }

    /// Whether a symbol is that of a trampoline or dispatcher, and of one in use.
    fn image_of(
        &self,
        symbol: Gva,
        range: &Range<u64>,
        trampolines: Option<&HashSet<u64>>,
    ) -> Result<(bool, bool), Blind> {
        let container = |of: &str| {
            let offset = self.offset(of, "ksym").ok()?;
            let container = symbol.0.wrapping_sub(offset);
            let image = self.member(of, Gva(container), "image");
            (image == Ok(range.start)).then_some(container)
        };
        let Some(trampolines) = trampolines else {
            // A kernel that does not say which trampolines it uses (before 5.12): its word has to do.
            return Ok((true, true));
        };
        if let Some(image) = container("bpf_tramp_image") {
            return Ok((true, trampolines.contains(&image)));
        }
        // Dispatchers are variables of the kernel's own.
        let is_dispatcher = container("bpf_dispatcher")
            .is_some_and(|dispatcher| self.kernel().describe(Gva(dispatcher)).is_some());
        Ok((is_dispatcher, is_dispatcher))
    }

    /// Every program of the table by number, and the functions that each is made of.
    fn programs(&self) -> Result<HashSet<u64>, Blind> {
        let head = self.offset("idr", "idr_rt.xa_head")?;
        let table = Gva(self.symbol("prog_idr")?.0.wrapping_add(head));
        let mut main = Vec::new();
        self.xarray(table, MAX_DEPTH, &mut |_, program| main.push(program))?;
        let mut programs: HashSet<u64> = main.iter().map(|program| program.0).collect();
        for program in main {
            let functions = self
                .member("bpf_prog", program, "aux")
                .and_then(|aux| self.functions(Gva(aux)));
            match functions {
                Ok(functions) => programs.extend(functions),
                Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
                // On its way out.
                Err(_) => self.space().torn(),
            }
        }
        Ok(programs)
    }

    /// Programs that are functions of another one.
    fn functions(&self, aux: Gva) -> Result<Vec<u64>, Blind> {
        let object = self.object("bpf_prog_aux", aux)?;
        let count = object.first(&["real_func_cnt", "func_cnt"])?;
        let table = object.pointer("func")?;
        if table.0 == 0 || count == 0 || count > MAX_FUNCTIONS {
            return Ok(Vec::new());
        }
        let bytes = self.space().bytes(table, count as usize * 8)?;
        let (words, _) = bytes.as_chunks::<8>();
        Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }

    /// The images that trampolines use now; none if the kernel's structures do not say.
    fn trampolines(&self) -> Result<Option<HashSet<u64>>, Blind> {
        let known = self
            .symbol("trampoline_table")
            .and_then(|table| Ok((table, self.offset("bpf_trampoline", "cur_image")?)))
            .and_then(|(table, image)| Ok((table, image, self.offset("bpf_trampoline", "hlist")?)));
        let Ok((table, image, link)) = known else {
            return Ok(None);
        };
        let heads = self.space().bytes(table, self.room(table) as usize)?;
        let mut images = HashSet::new();
        for head in heads.as_chunks::<8>().0 {
            let mut node = u64::from_le_bytes(*head);
            for _ in 0..MAX_LIST {
                if node == 0 {
                    break;
                }
                let trampoline = node.wrapping_sub(link);
                images.insert(self.space().u64(Gva(trampoline.wrapping_add(image)))?);
                node = self.space().u64(Gva(node))?;
            }
        }
        Ok(Some(images))
    }
}
