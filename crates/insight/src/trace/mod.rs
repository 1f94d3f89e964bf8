//! Events: what a guest's kernel does, told as it does it.
//!
//! An event is a pass of the kernel through one of its own functions: a program has been started when `finalize_exec` is
//! called, with the new address space in place; a group of threads is at its end when `taskstats_exit` is called with its
//! last thread. Which functions these are, and what lies in their arguments, is here; where they are in this guest comes from
//! its [`Kernel`]. A [`Plan`] is made of both: points for whoever can watch addresses (`probe`), and how to read what is taken
//! down there.
//!
//! ```text
//! Plan::new(&kernel, wanted) ──points──> VM's process ──hits──> plan.event(&hit, ..) -> Event
//! ```
//!
//! # Choice of functions
//!
//! A function must not be inlined (it is called from another unit, through a pointer, or is marked so), must be called exactly
//! once for each event, with what matters in its first arguments, in every kernel from 5.10 on. The hooks for security
//! modules (`security_*`) are best where they fit: what they stand in front of is what an auditor asks about. They come
//! *before* the deed, so connect, bind, mount, ptrace and bpf tell what was asked for. A kernel without one of them, or without
//! type information, has that kind of event not observable, with the reason; nothing is guessed.
//!
//! # What a guest can do against it
//!
//! A program can do nothing: it has no say in which way its kernel takes. Whoever runs code in the kernel can avoid these
//! functions and write into structures directly, and can put into a structure what it likes before it calls one. Such a
//! guest's events are that much worth; what it changed is looked for by `integrity` and `hidden`.

mod address;
mod event;
mod recipe;
mod recipes;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use probe::{Hit, Point};
use x86::Gva;

use crate::kernel::Kernel;
use crate::look::Look;
use crate::tasks::Namespaces;

pub use address::SocketAddress;
pub use event::{Actor, Ancestor, Event, EventKind, Identity, Path, What};

use event::{Facts, Mount};
use recipe::{Recipe, Values};

/// How far a kind of event can be told.
#[derive(
    Clone, PartialEq, Eq, Debug, schemars::JsonSchema, serde::Serialize, serde::Deserialize,
)]
#[serde(tag = "reach", rename_all = "kebab-case")]
pub enum Reach {
    /// Every one of them.
    Exact,
    /// Those that are still to be seen when it is looked for, again and again.
    Sampled {
        /// What is missed.
        missed: String,
    },
    /// None.
    NotObservable {
        /// The reason, as half a sentence.
        why: String,
    },
}

/// What is wanted of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Kinds of events.
    pub kinds: Vec<EventKind>,
    /// Files of which it is told when they are opened: absolute paths.
    pub files: Vec<String>,
}

/// Kinds in the order in which addresses are given to them where there are few: what is gone a moment later and tells most
/// about a guest comes first, what can be looked for comes last.
const FIRST: [EventKind; 14] = [
    EventKind::Exec,
    EventKind::Exit,
    EventKind::Credentials,
    EventKind::Module,
    EventKind::Ptrace,
    EventKind::Bpf,
    EventKind::Mount,
    EventKind::Connect,
    EventKind::Accept,
    EventKind::Bind,
    EventKind::Open,
    EventKind::Panic,
    EventKind::Fork,
    EventKind::Log,
];

/// Points in a kernel, and what hits there mean.
pub struct Plan {
    recipes: Vec<(EventKind, Recipe)>,
    reaches: Vec<(EventKind, Reach)>,
    files: Vec<String>,
    /// Namespaces of the guest's first process.
    host: Option<Namespaces>,
}

impl Plan {
    /// For this kernel, as it is now.
    pub fn new(kernel: &Kernel, wanted: &Wanted) -> Plan {
        let account = kernel.account();
        let look = kernel.look(&account, &[]);
        let mut plan = Plan {
            recipes: Vec::new(),
            reaches: Vec::new(),
            files: wanted.files.clone(),
            host: look.host_namespaces().ok(),
        };
        for &kind in &wanted.kinds {
            let made = recipes::recipes(&look, kind, &wanted.files);
            let reach = match made {
                Ok(recipes) => {
                    plan.recipes
                        .extend(recipes.into_iter().map(|recipe| (kind, recipe)));
                    Reach::Exact
                }
                Err(blind) => Reach::NotObservable {
                    why: blind.to_string(),
                },
            };
            plan.reaches.push((kind, reach));
        }
        plan
    }

    /// As [`Plan::new`], of those kinds alone for which so many addresses are enough; what these are in the order of
    /// [`Plan::reaches`] says.
    pub fn within(kernel: &Kernel, wanted: &Wanted, addresses: usize) -> Plan {
        let mut plan = Plan::new(kernel, wanted);
        let places: Vec<(EventKind, u64)> = plan
            .recipes
            .iter()
            .map(|(kind, recipe)| (*kind, recipe.point().address))
            .collect();
        let kinds = fitting(&places, addresses);
        plan.recipes.retain(|(kind, _)| kinds.contains(kind));
        plan.reaches.retain(|(kind, _)| kinds.contains(kind));
        plan
    }

    /// How far each kind can be told where every pass is.
    pub fn reaches(&self) -> &[(EventKind, Reach)] {
        &self.reaches
    }

    /// Where to look and what to take down; a hit names its point by its position here.
    pub fn points(&self) -> Vec<Point> {
        self.recipes
            .iter()
            .map(|(_, recipe)| recipe.point())
            .collect()
    }

    /// What a hit means: [`Told::Nothing`] for one that is no event after all (a thread that is no process, credentials that
    /// are what they were, a file of the same name elsewhere). `kernel` is asked where file
    /// systems are mounted that lie deeper in others than is taken down, or whose names are too long for that.
    pub fn event(&self, kernel: &Kernel, hit: &Hit) -> Told {
        let Some((kind, recipe)) = self.recipes.get(usize::from(hit.point)) else {
            return Told::Nothing;
        };
        let account = kernel.account();
        let look = kernel.look(&account, &[]);
        let facts = Facts {
            mounted_at: &|mount| mounted_at(&look, mount),
            values: Values::new(recipe, &hit.values),
            files: &self.files,
            host: self.host.as_ref(),
        };
        if *kind == EventKind::Log {
            return Told::LogGrew;
        }
        match facts.what(*kind) {
            Some(what) => Told::Event(Box::new(Event {
                at_ns: hit.at_ns,
                vcpu: Some(hit.vcpu_id),
                reach: Reach::Exact,
                process: facts.actor(),
                what,
            })),
            None => Told::Nothing,
        }
    }
}

/// The kinds that are told at no more than so many of these addresses, by [`FIRST`].
fn fitting(places: &[(EventKind, u64)], most: usize) -> Vec<EventKind> {
    let mut taken = BTreeSet::new();
    let mut kinds = Vec::new();
    for kind in FIRST {
        let own = places.iter().filter(|(other, _)| *other == kind);
        let own: BTreeSet<u64> = own.map(|(_, address)| *address).collect();
        let both: BTreeSet<u64> = taken.union(&own).copied().collect();
        if !own.is_empty() && both.len() <= most {
            taken = both;
            kinds.push(kind);
        }
    }
    kinds
}

fn mounted_at(look: &Look<'_>, mount: Mount) -> Option<(String, String)> {
    let mount = match mount {
        Mount::Shown(address) => Gva(address),
        Mount::Whole(address) => Gva(address.wrapping_add(look.offset("mount", "mnt").ok()?)),
    };
    let root = Gva(look.member("vfsmount", mount, "mnt_root").ok()?);
    let seen = look.path(mount, root).ok()?;
    Some((seen, look.path_in_file_system(root).ok()?))
}

/// What a hit tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// An event.
    Event(Box<Event>),
    /// The kernel's log has more lines, or will have within a moment.
    LogGrew,
    /// Nothing.
    Nothing,
}
