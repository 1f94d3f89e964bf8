//! Why something in a guest could not be seen.

use thiserror::Error;
use x86::Gva;

use crate::memory::Unreadable;

/// What stood in the way. Every reader ends in a value or in one of these.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum Blind {
    /// The kernel's page tables map nothing there.
    #[error("{0} is not mapped in the guest")]
    Unmapped(Gva),
    /// The memory could not be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The limit of bytes, steps or time for one look was reached.
    #[error("the limit of one look was reached ({0})")]
    OverBudget(&'static str),
    /// The kernel's symbols have no such name.
    #[error("the kernel has no symbol `{0}`")]
    NoSymbol(String),
    /// The kernel's type information has no such structure, member or enumerator.
    #[error("the kernel's type information has no `{0}`")]
    NoType(String),
    /// Nothing is known of the kernel's structures.
    #[error("the kernel carries no type information (BTF)")]
    NoLayouts,
    /// The guest's structures cannot be what they should be.
    #[error("the guest's {0}")]
    Nonsense(String),
    /// What an earlier look left could not be used.
    #[error("the baseline in {0} cannot be used: {1}")]
    Baseline(String, String),
    /// Needs something that was not given.
    #[error("{0}")]
    NotGiven(&'static str),
}

impl Blind {
    /// A structure that cannot be right.
    pub fn nonsense(what: impl Into<String>) -> Blind {
        Blind::Nonsense(what.into())
    }
}
