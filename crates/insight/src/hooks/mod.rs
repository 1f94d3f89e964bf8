//! Where a kernel calls code because somebody asked it to: tracers, probes, BPF, netfilter, chains of notifiers.
//!
//! All of these are legal; a kernel without modules has dozens. What counts is whose code is called, so each is told with its
//! owner, and code of nobody's is told as that. What is no list of a kernel's own, such as a pointer that was exchanged, is for
//! [`crate::integrity`].

mod lists;
mod probes;

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::blind::Blind;
use crate::look::Look;
use crate::modules::Module;
use crate::observed::Observed;

/// Most hooks that are told.
const MAX_HOOKS: usize = 4096;

/// How code is hooked in.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum HookKind {
    /// A tracer of functions (kernel documentation, trace/ftrace-uses).
    Ftrace,
    /// A probe (trace/kprobes).
    Kprobe,
    /// A program of BPF that is loaded.
    Bpf,
    /// A filter of packets (`nf_register_net_hook`).
    Netfilter,
    /// A member of a chain of notifiers (`notifier_chain_register`).
    Notifier,
}

/// Code that is called because somebody asked for it.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Hook {
    /// How it is hooked in.
    pub kind: HookKind,
    /// Where: functions, an instruction, what a program is attached to, a chain.
    pub at: String,
    /// What is called, by symbol where there is one.
    pub calls: String,
    /// Where that is.
    pub address: u64,
    /// Whose code it is: `kernel`, a module's name, `bpf`; absent if nobody owns it.
    pub owner: Option<String>,
}

/// Every hook of these kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Hooks {
    /// By kind.
    pub hooks: Vec<Hook>,
    /// What could not be read, and why.
    pub missing: Vec<String>,
}

/// The owner of the kernel's own code.
pub const KERNEL: &str = "kernel";

/// Whose code is whose.
struct Owners {
    modules: Vec<Module>,
    bpf: Vec<Range<u64>>,
}

impl Look<'_> {
    /// Every hook of the kinds that are known.
    pub fn hooks(&self) -> Observed<Hooks> {
        self.observed(self.read_hooks())
    }

    fn read_hooks(&self) -> Result<Hooks, Blind> {
        let owners = Owners {
            modules: self.read_modules()?,
            bpf: self
                .code_of_bpf()
                .map(|code| code.in_use)
                .unwrap_or_default(),
        };
        let mut found = Hooks::default();
        type Reader<'k> = fn(&Look<'k>, &mut Vec<Called>) -> Result<(), Blind>;
        let kinds: [(HookKind, &str, Reader<'_>); 5] = [
            (HookKind::Ftrace, "tracers", Look::hooked_functions),
            (HookKind::Kprobe, "probes", Look::hooked_instructions),
            (HookKind::Bpf, "programs of BPF", Look::loaded_programs),
            (
                HookKind::Netfilter,
                "filters of packets",
                Look::packet_filters,
            ),
            (HookKind::Notifier, "chains of notifiers", Look::notifiers),
        ];
        for (kind, what, read) in kinds {
            let mut called = Vec::new();
            match read(self, &mut called) {
                Ok(()) => {}
                Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
                // A kernel that was built without has none.
                Err(Blind::NoSymbol(_)) => {}
                Err(blind) => found.missing.push(format!("{what}: {blind}")),
            }
            for Called { at, address, calls } in called {
                if found.hooks.len() >= MAX_HOOKS {
                    return Err(Blind::OverBudget("hooks"));
                }
                let owner = self.owner_of(address, &owners);
                let calls = calls.unwrap_or_else(|| self.whereabouts(address));
                found.hooks.push(Hook {
                    kind,
                    at,
                    calls,
                    address,
                    owner,
                });
            }
        }
        Ok(found)
    }

    fn owner_of(&self, address: u64, owners: &Owners) -> Option<String> {
        let Owners { modules, bpf } = owners;
        if self.is_text(address) {
            return Some(KERNEL.to_owned());
        }
        let has = |module: &&Module| module.memory.iter().any(|part| part.contains(address));
        if let Some(module) = modules.iter().find(has) {
            return Some(module.name.clone());
        }
        let is_bpf = bpf.iter().any(|range| range.contains(&address));
        is_bpf.then(|| "bpf".to_owned())
    }
}

/// What is called, before anybody asked whose it is.
struct Called {
    at: String,
    address: u64,
    /// What it is called, if that is not what lies there.
    calls: Option<String>,
}
