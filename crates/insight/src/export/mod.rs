//! What is known of a guest's kernel, as other people's tools want to have it.
//!
//! **Problem.** Tools for memory and for running kernels need to know the kernel: where its symbols are, and what its structures
//! look like. They take that from debug symbols that a distribution may or may not offer for download, hundreds of
//! megabytes for each build. A kernel that is recognised has all that is needed in its own memory.
//!
//! **Plan.** Each form is a value that writes itself, made from a [`Look`](crate::Look) of one moment:
//!
//! ```text
//! isf        Volatility 3's Intermediate Symbol File: types from BTF, symbols as they were linked, the banner
//! kallsyms   what /proc/kallsyms says to root: symbols where they are, those of modules too
//! (BTF       is Look::type_information, byte by byte)
//! ```
//!
//! **What BTF does not know** are the types of variables, but for per-CPU ones. Volatility needs those of some dozens; C's
//! source says them, and they have not changed in years: [`variables`] has the list. A type that this kernel does not have
//! leaves its symbol without one.
//!
//! **Invariants.** What is written belongs to this guest alone: types and the banner come from its memory, whose owner may
//! have changed them, so nothing of it is kept for another. Numbers of the guest are checked as everywhere else; names
//! that are no UTF-8 are left out.

pub mod isf;
pub mod kallsyms;
mod variables;
