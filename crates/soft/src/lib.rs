//! Engine two: the software CPU, an x86-64 system processor in host user space.
//!
//! Guest and host speak the same instruction set, so guest code is translated by copying: most instructions run as
//! they are, on the host's own silicon, with their memory operands led through a software TLB. What a guest must not
//! do itself (address memory, jump, touch system state) is rebuilt or interpreted. The parts, bottom up:
//!
//! - `block`: what translated code shares with Rust; `emit`, `code_cache`: host code and its one entrance.
//! - `bank`: software TLBs (`tlb`) and jump caches (`jumps`), of a bounded number of address spaces, privileges and modes.
//!   `large`: of which large pages they have pieces.
//! - `translate`: guest code into translation blocks. `translations`: all blocks of a VM, and how they go stale;
//!   `sites`: where they may fault or miss. `moved`: copies of them for other addresses.
//! - `door`, `enter`: into translated code and out, and how vCPUs are called out or kept out of it.
//! - `cpu`, `access`, `exceptions`, `interpret`: the system half of the processor. `bounce`, `locked`: instructions whose
//!   operand translated code cannot reach; `beside`: those of them that need not leave it for long.
//! - `budget`: how much of the host's memory translations take, and may. `limit`: how it is shared with `bank`.
//! - `probes`: instructions of the kernel that somebody wants to hear of.
//! - `soft`: what all vCPUs of a VM share. `run`: the loop that binds them, and the engine contract.
//!
//! Several vCPUs run in parallel, a thread each. They share guest memory, where the silicon keeps the order, and the
//! translations, which are changed under one lock; TLBs and jump caches are each vCPU's own. Three things must hold:
//!
//! 1. Stale code is never left standing. A page's bytes are read for translation only after every vCPU that may have
//!    the page in its write TLB has given that up (`door`), and a store to the page, by whomever, drops the blocks it
//!    touches before it is over. A dropped block's head leads away by one atomic store; nobody is stopped for that.
//! 2. Nobody runs what is gone. Blocks stay where they are until the whole cache is cleared, and that happens while all
//!    vCPUs are out of it; whoever comes back finds a new generation and starts over from RIP (`enter`).
//! 3. The slow way is as atomic as the fast one. Interpreted accesses are whole loads and stores, locked ones are
//!    exchanged into memory or done while everybody else is kept out (`locked`).
//!
//! Invariants: the only unsafe module is `code_cache`; translated code reaches host memory only through the vCPU
//! block and through TLB entries, which only ever point into guest memory; every guest mistake ends as the exception
//! a processor would raise.
#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests are in no jail")
)]

mod access;
mod allowance;
mod bank;
mod beside;
mod block;
mod bounce;
mod budget;
mod code_cache;
mod cpu;
mod decoded;
mod door;
mod emit;
#[cfg(test)]
mod emit_tests;
mod enter;
mod exceptions;
mod features;
mod fetch;
mod held_anchors;
mod index_set;
mod interpret;
mod jumps;
mod large;
mod limit;
mod locked;
mod mode;
mod moved;
mod passages;
mod probes;
mod run;
mod sites;
mod soft;
mod state;
mod thunks;
mod tlb;
mod translate;
mod translations;

pub use crate::cpu::SoftVcpu;
pub use crate::limit::least_bytes;
pub use crate::soft::{Config, Soft};
