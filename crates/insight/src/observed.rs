//! Values with the evidence that they stand on, and the word for not knowing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::blind::Blind;

/// On what a value stands, strongest first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    /// Registers of a vCPU: a fact of the machine.
    Registers,
    /// Symbols, and layouts if it has any, out of the kernel file that was loaded before the guest's first instruction.
    Image,
    /// Symbols and layouts out of this guest's own memory, and the kernel's VMCOREINFO agrees with them.
    Profile,
    /// Symbols and layouts out of this guest's own memory, found by content; nothing independent agrees, or something
    /// disagrees.
    Content,
    /// Symbols only, out of this guest's own memory: no layouts are known.
    Symbols,
    /// Registers lead to an image that calls itself a kernel, and nothing in it proves itself.
    Banner,
}

impl Rung {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Rung::Registers => "registers",
            Rung::Image => "kallsyms+BTF of the kernel file that was loaded",
            Rung::Profile => "kallsyms+BTF in its own memory, VMCOREINFO agrees",
            Rung::Content => "kallsyms+BTF in its own memory, by content",
            Rung::Symbols => "kallsyms only, in its own memory",
            Rung::Banner => "its banner only",
        }
    }
}

/// A value, or why there is none. Never a guess.
#[derive(Clone, Debug, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Observed<T> {
    /// It was found.
    Seen {
        /// What was found.
        value: T,
        /// On what evidence.
        rung: Rung,
    },
    /// Cannot be known.
    NotObservable {
        /// The reason, as half a sentence.
        why: String,
    },
}

impl<T> Observed<T> {
    /// From a reader's result.
    pub fn new(result: Result<T, Blind>, rung: Rung) -> Observed<T> {
        match result {
            Ok(value) => Observed::Seen { value, rung },
            Err(blind) => Observed::NotObservable {
                why: blind.to_string(),
            },
        }
    }

    /// The value, if there is one.
    pub fn value(&self) -> Option<&T> {
        match self {
            Observed::Seen { value, .. } => Some(value),
            Observed::NotObservable { .. } => None,
        }
    }

    /// The value, if there is one.
    pub fn into_value(self) -> Option<T> {
        match self {
            Observed::Seen { value, .. } => Some(value),
            Observed::NotObservable { .. } => None,
        }
    }

    /// Why there is none.
    pub fn why_not(&self) -> Option<&str> {
        match self {
            Observed::Seen { .. } => None,
            Observed::NotObservable { why } => Some(why),
        }
    }

    /// The same evidence for what `f` makes of the value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Observed<U> {
        match self {
            Observed::Seen { value, rung } => Observed::Seen {
                value: f(value),
                rung,
            },
            Observed::NotObservable { why } => Observed::NotObservable { why },
        }
    }
}
