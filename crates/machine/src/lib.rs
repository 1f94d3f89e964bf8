//! One VM, from what the user wrote to what is known when it has ended.
//!
//! ```text
//! api::VmSpec   --plan-->   VmPlan   --build-->   Machine   --run-->   Report
//! ```
//!
//! [`plan()`] checks every field and collects every complaint; it looks at files but keeps none. [`build()`] is the only
//! code that opens what runs: kernel, initrd, guest memory, the engine. [`Machine::run`] drives the vCPU until the
//! guest ends, is stopped, or the time is up, and tells what Mother saw.
//!
//! Invariants: an engine never calls a device, it returns an `Exit` and gets a `Reply` (`run`); a device never
//! sees a vCPU; guest mistakes become what hardware does, are counted, and never stop the VMM.
#![forbid(unsafe_code)]

mod accounts;
mod alarm;
mod attach;
mod attendant;
mod bell;
pub mod boot;
mod build;
mod claims;
mod console;
mod control;
mod crash;
mod device_status;
mod device_threads;
mod engine;
mod exchange;
mod footprint;
mod gate;
#[cfg(test)]
mod guest_tests;
mod life;
mod mailbox;
mod msr;
mod observe;
mod output;
mod paging;
mod passt;
mod patience;
mod plan;
mod recent;
mod report;
#[cfg(test)]
mod run_tests;
#[cfg(test)]
mod scripted;
mod server;
mod sums;
mod switch;
mod time;
mod vcpu_thread;

pub use ::paging::Books as PagingBooks;
pub use attach::AttachError;
pub use build::{BuildError, Machine, MachineError, build};
pub use console::{Closed, Console, ConsoleInput};
pub use control::{MachineControl, PauseError, Phase, StopCause};
pub use crash::{Crash, CrashCause};
pub use devices::virtio::balloon::BalloonReading;
pub use engine::{EngineChoice, EngineFinding, EngineKind, findings};
pub use host::tsc::{Stability as TscStability, stability as tsc_stability};
pub use paging::paging_finding;
pub use plan::{
    BasePlan, Complaint, ConsoleKind, DiskPlan, Forward, ImagePlan, NetBackend, NetPlan, OnReset,
    PagingPlan, SpecErrors, Transport, UserNetwork, VmPlan, plan,
};
pub use report::{Ending, ExitCounts, Marker, MemoryReport, Report, Sample, Unmapped, VmmMemory};
pub use server::ControlServer;
pub use switch::SwitchError;
