//! What really goes on in a Linux guest, read from its memory and its vCPUs' registers alone: no agent, no symbols, no
//! configuration, no pause.
//!
//! # How it is used
//!
//! ```text
//! Loaded::open(file, sha256, cache)    -> Loaded       the kernel file that the VMM loaded; once for each file
//! attach(memory, registers, loaded)    -> Kernel       which kernel, where; once for each life of a guest
//! attach_told(memory, vmcoreinfo)      -> Kernel       the same where somebody brought what the kernel says of itself
//! kernel.look(&account, registers)     -> Look         one moment; a new one for every refresh
//! look.processes(), look.modules(), .. -> values       what `serde` can write; each wrapped in `Observed`
//! look.cost()                          -> Cost         bytes, reads, torn reads, time
//! ```
//!
//! `memory` is whatever implements [`Memory`]: a live VM's memory file, or a dump ([`FileMemory`]). `registers` may be
//! none: then VMCOREINFO is looked for in all of memory, which takes longer, and what needs them is not observable.
//! `loaded` may be none: then everything is taken from the guest's own memory, believed for this guest alone, and not kept.
//!
//! # What is believed
//!
//! Nothing. Every byte of a guest may be made by somebody who wants to mislead or to crash the reader: loops, sizes,
//! depths and time are bounded ([`Limits`]), pointers are followed through tables that are walked here, and a value
//! that cannot be right is an error ([`Blind`]), never a guess. Every value says on what evidence it stands ([`Rung`]).
//!
//! The parser reads and never writes, and is meant to run in the observer's process, not in the VM's.
//!
//! # Map
//!
//! [`export`]: the same for other people's tools. [`memory`], [`registers`]: what is given. `anchor`, `vmcoreinfo`, [`kallsyms`], [`btf`]: how a kernel is found and
//! understood; [`image`]: the kernel in its file; [`profile`] and `cache`: what is kept of that. [`kernel`] puts it together, [`look`] reads structures, and
//! every other module reads one kind of thing.
#![forbid(unsafe_code)]

pub mod account;
pub mod amounts;
mod anchor;
pub mod blind;
pub mod btf;
mod busy;
mod cache;
mod counters;
pub mod cpu;
pub mod export;
pub mod hidden;
pub mod hooks;
pub mod image;
pub mod integrity;
pub mod kallsyms;
pub mod kept;
pub mod kernel;
pub mod layout;
pub mod log;
pub mod look;
pub mod meminfo;
pub mod memory;
pub mod modules;
pub mod mounts;
pub mod observed;
mod panic;
mod paths;
pub mod profile;
mod ram_map;
mod reader;
pub mod registers;
pub mod sockets;
mod space;
pub mod symbols;
pub mod system;
pub mod tasks;
pub mod trace;
pub mod verdict;
pub mod vmcoreinfo;
mod when;

pub use account::{Account, Cost, Limits};
pub use blind::Blind;
pub use busy::DeafCpu;
pub use image::{ImageError, KernelImage, Loaded};
pub use kernel::{Kernel, NotRecognised, Placement, attach, attach_told, attach_within};
pub use look::Look;
pub use memory::{Extent, FileMemory, FileSlot, Memory, Unreadable};
pub use observed::{Observed, Rung};
pub use registers::Registers;
pub use when::timestamp;
