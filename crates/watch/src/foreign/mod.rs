//! Guests that Mother does not run: memory in files, and memory of other people's processes.
//!
//! **Problem.** Insight needs a guest's memory and little else, and a data centre has guests of many hypervisors, and files
//! that somebody wrote when one of them crashed. Nobody helps: there are no registers, no socket that answers, no word
//! about where in the guest's address space the bytes of a file or a mapping lie.
//!
//! **Plan.** Whatever has memory becomes an [`insight::Memory`]; where its layout is not told, it becomes several
//! ([`Candidate`]), one for each way in which hypervisors are known to lay memory out ([`layout`]), and the guest's own
//! kernel decides ([`recognise()`]): it is found from memory alone, and the memory map that it got must be the candidate's.
//!
//! ```text
//! file ──image::of_*──> Candidates ──┐
//!                                    ├─recognise─> Guest (kernel, memory) ──> Look ──> commands
//! process ──process::open──> Candidates ──┘
//! ```
//!
//! **Invariants.** Nothing is written, stopped, traced or allocated: a page that its process never touched is not read through
//! it, one in the host's swap is left there. No number of a file or a process is believed: lengths are compared with the
//! file's, tables have an upper bound, and what is kept of them is bounded by constants, not by what they say.
//! What opens files and processes is apart from what reads them ([`ProcessReach`]; [`Candidate`] holds descriptors alone), so
//! that the reading is done in a jail.

mod container;
pub mod image;
pub mod layout;
mod process;
mod recognise;
mod watcher;

pub use container::{ContainerProcess, ContainerTexts, ContainerTruth};
pub use image::{ImageError, ImageFormat, MemoryImage};
pub use process::{
    ForeignProcess, HostProcess, Mapping, ProcessGuestBooks, ProcessReach, ProcessText, Qmp,
    QmpCommand, QmpError, QmpLink, QmpSocket, ThreadText, VcpuThread,
};
pub use recognise::{Candidate, ForeignGuest, recognise};
pub use watcher::{ForeignAssessment, ForeignWatcher};
