//! Loaded modules, as the kernel's list has them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x86::Gva;

use crate::blind::Blind;
use crate::look::{Look, Object};
use crate::observed::Observed;

/// Most bytes that all of a module's memory can have.
const MAX_SIZE: u64 = 1 << 30;

/// A stretch of a module's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Stretch {
    /// Where it starts.
    pub start: u64,
    /// How long it is.
    pub len_bytes: u64,
}

impl Stretch {
    /// Whether an address lies in it.
    pub fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.start) < self.len_bytes
    }
}

/// A module.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// `live`, `coming`, `going` or `unformed`.
    pub state: String,
    /// Bytes of memory, as lsmod(8) shows them.
    pub size_bytes: u64,
    /// Who uses it: modules and others. Absent while it is not live.
    pub references: Option<i64>,
    /// Its code.
    pub text: Stretch,
    /// What it does not write any more once it is loaded, if it has such memory.
    pub constants: Option<Stretch>,
    /// All its memory, its code too.
    pub memory: Vec<Stretch>,
    /// Where its `struct module` is.
    pub address: u64,
}

impl Look<'_> {
    /// Every module in the kernel's list, the newest first.
    pub fn modules(&self) -> Observed<Vec<Module>> {
        self.observed(self.read_modules())
    }

    pub(crate) fn read_modules(&self) -> Result<Vec<Module>, Blind> {
        let head = self.symbol("modules")?;
        let mut modules = Vec::new();
        for address in self.steady_list(head, self.offset("module", "list")?)? {
            match self.module(address) {
                Ok(module) => modules.push(module),
                Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
                Err(Blind::Unmapped(_) | Blind::Unreadable(_) | Blind::Nonsense(_)) => {
                    self.space().torn()
                }
                Err(blind) => return Err(blind),
            }
        }
        Ok(modules)
    }

    pub(crate) fn module(&self, address: Gva) -> Result<Module, Blind> {
        let module = self.object("module", address)?;
        let name = module.text("name")?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Blind::nonsense(format!(
                "module at {address} has no proper name"
            )));
        }
        let state = match module.number("state")? {
            0 => "live",
            1 => "coming",
            2 => "going",
            _ => "unformed",
        };
        let (text, constants, memory) = if module.has("mem") {
            self.parts(&module)?
        } else {
            layouts(&module)?
        };
        let size_bytes = memory.iter().map(|stretch| stretch.len_bytes).sum();
        if size_bytes > MAX_SIZE {
            return Err(Blind::nonsense(format!(
                "module {name} is longer than any can be"
            )));
        }
        let references = module
            .i32("refcnt.counter")
            .ok()
            .map(|count| i64::from(count) - 1);
        Ok(Module {
            name,
            state: state.to_owned(),
            size_bytes,
            references: references.filter(|count| *count >= 0),
            text,
            constants: constants.filter(|stretch| stretch.start != 0 && stretch.len_bytes != 0),
            memory,
            address: address.0,
        })
    }

    /// Memory by kind, since 6.4.
    fn parts(&self, module: &Object<'_>) -> Result<Parts, Blind> {
        let layouts = self.layouts()?;
        let element = layouts.size("module_memory")?;
        let base = layouts.place("module_memory", "base")?;
        let size = layouts.place("module_memory", "size")?;
        let text_index = layouts.enumerator("mod_mem_type", "MOD_TEXT")?;
        let constants_index = layouts.enumerator("mod_mem_type", "MOD_RODATA").ok();
        let mut text = None;
        let mut constants = None;
        let mut memory = Vec::new();
        for (index, part) in module
            .bytes("mem")?
            .chunks_exact(element.max(1))
            .enumerate()
        {
            let number = |place: crate::layout::Place| {
                let bytes = part.get(place.offset..place.offset + place.size)?;
                Some(
                    bytes
                        .iter()
                        .rev()
                        .fold(0, |number, &byte| number << 8 | u64::from(byte)),
                )
            };
            let stretch = Stretch {
                start: number(base).unwrap_or(0),
                len_bytes: number(size).unwrap_or(0),
            };
            if index as i64 == text_index {
                text = Some(stretch);
            }
            if Some(index as i64) == constants_index {
                constants = Some(stretch);
            }
            if stretch.start != 0 && stretch.len_bytes != 0 {
                memory.push(stretch);
            }
        }
        let text = text.ok_or_else(|| Blind::NoType("module.mem[MOD_TEXT]".to_owned()))?;
        Ok((text, constants, memory))
    }
}

/// Code, constants and all memory of a module.
type Parts = (Stretch, Option<Stretch>, Vec<Stretch>);

/// Memory in two stretches, until 6.3; code comes first in each, constants come next.
fn layouts(module: &Object<'_>) -> Result<Parts, Blind> {
    let stretch = |layout: &str, size: &str| -> Result<Stretch, Blind> {
        Ok(Stretch {
            start: module.number(&format!("{layout}.base"))?,
            len_bytes: module.number(&format!("{layout}.{size}"))?,
        })
    };
    let memory = [
        stretch("core_layout", "size")?,
        stretch("init_layout", "size")?,
    ];
    let memory = memory
        .into_iter()
        .filter(|stretch| stretch.start != 0 && stretch.len_bytes != 0);
    let text = stretch("core_layout", "text_size")?;
    let end = stretch("core_layout", "ro_size")?.len_bytes;
    let constants = end.checked_sub(text.len_bytes).map(|len_bytes| Stretch {
        start: text.start.wrapping_add(text.len_bytes),
        len_bytes,
    });
    Ok((text, constants, memory.collect()))
}
