//! One VM, from what the user wrote to what is known when it has ended.
//!
//! ```text
//! api::VmSpec  --plan-->  VmPlan  --collect-->  Descriptors  --open-->  Opened  --assemble-->  Machine  --run-->  Report
//! ```
//!
//! [`plan()`] checks every field and collects every complaint; it looks at files but keeps none. [`collect()`] is the only
//! code that opens what the plan names; [`open()`] adds what belongs to the process that runs the guest, and what is
//! assembled of that opens nothing. [`Machine::run`] drives the vCPU until the guest ends, is stopped, or the time is up,
//! and tells what Mother saw.
//!
//! Invariants: an engine never calls a device, it returns an `Exit` and gets a `Reply` (`run`); a device never
//! sees a vCPU; guest mistakes become what hardware does, are counted, and never stop the VMM.
#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests are in no jail")
)]
#![forbid(unsafe_code)]

mod attach;
pub mod boot;
mod build;
mod console;
mod control;
mod engine;
mod life;
mod limits;
mod outcome;
mod paging;
mod plan;
mod report;
mod run;
mod server;
mod shares;
#[cfg(test)]
mod tests;
mod threads;
mod upgrade;

pub use ::paging::Books as PagingBooks;
pub use api::{Complaint, ConsoleKind, Forward, SpecErrors, Transport};
pub use attach::AttachError;
pub use attach::broker::{Broker, InProcess, Request};
pub use attach::handles::Devices;
pub use attach::network::{NetworkStarter, RunningNetwork};
pub use attach::passt::GATEWAY;
pub use build::Machine;
pub use build::descriptors::{Descriptors, Kept, KvmNode, Label, collect};
pub use build::opened::{Opened, build, open, open_beside};
pub use console::{Channel, Closed, Console, ConsoleInput};
pub use control::{MachineControl, Phase, Resting};
pub use devices::virtio::balloon::BalloonReading;
pub use devices::virtio::net::MacAddress;
pub use engine::{EngineChoice, EngineFinding, EngineKind, findings, reserve_code};
pub use host::tsc::{Stability as TscStability, stability as tsc_stability};
pub use life::held::BuildError;
pub use outcome::crash::{Crash, CrashCause};
pub use outcome::ending::{Ending, StopCause};
pub use outcome::exits::{ExitCounts, ExitKind};
pub use outcome::refusal::{PauseError, SwitchError};
pub use plan::host_findings::{HostFindings, PagingFinding, paging_finding};
pub use plan::{
    AllowedName, AllowedNetwork, BasePlan, DiskPlan, EgressPlan, FolderPlan, ImagePlan, NetBackend,
    NetPlan, OnReset, PagingPlan, Served, UserNetwork, VmPlan, check, console_word, plan,
};
pub use plan::{RestorePlan, ResumeClock};
pub use report::profile;
pub use report::{Marker, MemoryReport, Report, Sample, Unmapped, VmmMemory};
pub use run::lives::MachineError;
pub use server::{Acceptor, Audit, ControlServer};
pub use upgrade::{FORMAT as HANDED_FORMAT, Giver, Handed, NotGiven};
