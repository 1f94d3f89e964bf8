//! Dumps: a guest's memory and registers in the files that other tools open.
//!
//! **Problem.** People have tools for the memory of a Linux machine (crash, drgn, makedumpfile, Volatility), and each takes a
//! file that some other tool wrote. A dump should be opened by them as if that tool had written it: all memory, the registers
//! of each vCPU, and what the kernel says of itself to crash dumps (VMCOREINFO), without which none of them finds
//! anything.
//!
//! **Plan.** A [`Guest`] is what is dumped: memory to read, registers, and what is known of the kernel. Each format is one
//! function from a [`Guest`] to an [`Output`], written from its published layout, and does nothing else: no file is opened here,
//! nothing is paused, nobody is asked.
//!
//! ```text
//! elf     what /proc/vmcore is        notes, a program header for each stretch of memory, the memory
//! kdump   what makedumpfile writes    header, notes, bitmaps, where each page is, pages compressed with zlib
//! lime    what LiME writes            for each stretch a header and the memory
//! raw     memory from address 0 on, and nothing where there is none
//! ```
//!
//! [`pages`] is how all of them read: in ascending order, each page once, and pages of zeros told apart, so that they stay holes
//! (elf, lime, raw) or are left out (kdump). A page that the guest was never given is not even read.
//!
//! **Invariants.** Memory is read only, through [`insight::Memory`]: a page that a pager has is asked for and stays where it is.
//! What cannot be read ends the dump with an error: a dump with a hole that nobody knows of is worse than none. A dump of
//! a guest that runs says so in the formats that have a place for it (elf, kdump): a note of ours beside the kernel's.
//!
//! This is here and not in `insight`, as a dump is what an observer takes with it, whatever the guest runs; what a kernel
//! knows is all that `insight` adds to it.

mod elf;
mod kdump;
mod lime;
mod notes;
mod output;
mod pages;
mod raw;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, Seek};
use std::time::Duration;

use api::VcpuView;
use insight::{Memory, Placement, Unreadable};
use thiserror::Error;
use x86::Gva;

pub use output::{HoleFile, Output, Pipe};

/// What kind of file a dump is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DumpFormat {
    /// ELF, as /proc/vmcore: for crash, drgn, gdb, makedumpfile, Volatility.
    Elf,
    /// What makedumpfile writes, compressed: for crash, drgn, makedumpfile.
    Kdump,
    /// LiME: for Volatility.
    Lime,
    /// Memory from address 0 on: for everything else.
    Raw,
}

impl DumpFormat {
    /// Its name, as options have it.
    pub fn as_str(self) -> &'static str {
        match self {
            DumpFormat::Elf => "elf",
            DumpFormat::Kdump => "kdump",
            DumpFormat::Lime => "lime",
            DumpFormat::Raw => "raw",
        }
    }

    /// Whether it can be written from front to back.
    pub fn is_for_pipes(self) -> bool {
        self != DumpFormat::Kdump
    }

    /// Whether registers and VMCOREINFO have a place in it.
    pub fn has_notes(self) -> bool {
        matches!(self, DumpFormat::Elf | DumpFormat::Kdump)
    }
}

impl fmt::Display for DumpFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is known of the kernel beyond its memory.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct DumpedKernel {
    /// Its release, as `uname -r` says.
    pub release: String,
    /// Which build of it, as `uname -v` says.
    pub version: String,
    /// The name that the guest gave itself.
    pub hostname: Option<String>,
    /// Its VMCOREINFO, as it wrote it.
    pub vmcoreinfo: Option<String>,
    /// Where its image is mapped.
    pub image: Option<Placement>,
    /// Where it has all memory mapped.
    pub direct_map: Option<Gva>,
    /// Where an image that is not moved would begin; wrapping.
    pub phys_base: u64,
}

/// What is dumped.
#[derive(Clone)]
pub struct Guest<'a> {
    /// Its memory.
    pub memory: &'a dyn Memory,
    /// Its vCPUs' registers.
    pub vcpus: &'a [VcpuView],
    /// Its kernel, if that is known.
    pub kernel: Option<&'a DumpedKernel>,
    /// The name of its VM.
    pub name: &'a str,
    /// Since 1970-01-01 UTC, when the dump began.
    pub taken_at: Duration,
    /// Whether it ran on meanwhile: what was read first and what was read last are not of one moment.
    pub is_torn: bool,
}

/// How much was written.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Dumped {
    /// Memory that the guest has.
    pub memory_bytes: u64,
    /// Memory of it that is not zero.
    pub data_bytes: u64,
}

/// Why there is no dump.
#[derive(Debug, Error)]
pub enum DumpError {
    /// Memory could not be read.
    #[error("guest memory cannot be read")]
    Read(#[from] Unreadable),
    /// The file could not be written.
    #[error("the dump cannot be written")]
    Write(#[from] io::Error),
}

/// Writes a dump that is read from front to back. `progress` hears how much of the guest's memory is done, in bytes.
///
/// # Errors
/// [`DumpError`]; what is written until then is no dump.
///
/// # Panics
/// If the format cannot be written so; see [`DumpFormat::is_for_pipes`].
pub fn write_in_order(
    guest: &Guest<'_>,
    format: DumpFormat,
    to: &mut dyn Output,
    progress: &mut dyn FnMut(u64),
) -> Result<Dumped, DumpError> {
    match format {
        DumpFormat::Elf => elf::write(guest, to, progress),
        DumpFormat::Lime => lime::write(guest, to, progress),
        DumpFormat::Raw => raw::write(guest, to, progress),
        DumpFormat::Kdump => panic!("a compressed dump is written with `write`"),
    }
}

/// Writes a dump.
///
/// # Errors
/// As [`write_in_order`].
pub fn write<W: Output + Seek>(
    guest: &Guest<'_>,
    format: DumpFormat,
    to: &mut W,
    progress: &mut dyn FnMut(u64),
) -> Result<Dumped, DumpError> {
    match format {
        DumpFormat::Kdump => kdump::write(guest, to, progress),
        other => write_in_order(guest, other, to, progress),
    }
}
