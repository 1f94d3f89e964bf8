//! The words on the wire: what a user, the command line and the host's side say to a VM and hear from it.
//!
//! Plain values only: nothing here opens or runs anything. A [`VmSpec`] is what a user asked for, in types that cannot
//! hold what no VM could have; `machine::plan` compares it with the host. What goes over a control socket is [`Request`]
//! and [`Reply`].
#![forbid(unsafe_code)]

pub mod agent;
mod control;
mod entry;
pub mod host_path;
mod metrics;
pub mod object;
mod observe;
mod origin;
mod spec;
mod status;

pub use control::{
    Command, LINE_BYTES_MAX, Outcome, PROTOCOL_VERSION, REPLY_BYTES_MAX, RefusalCode, Reply,
    Request, STORED_PAGES_MAX, WRITTEN_PAGES_MAX,
};
pub use entry::{BadName, Entry, EntryKind};
pub use metrics::{Metric, MetricKind, MetricUnit, Metrics, Sample};
pub use observe::{
    BalloonBook, CLAIMS_PORT, CLAIMS_PORT_NAME, ClaimBook, ClockBook, EngineMemoryBook, Estimate,
    GuestClaim, HostBooks, HostCostBook, MemoryBook, MemoryView, PagingBook, SelectorsView,
    SlotView, TableView, VcpuBook, VcpuView,
};
pub use origin::{BootChoice, VmOrigin};
pub use spec::{
    AgentWish, BadText, ByteRate, ByteSize, Complaint, ConsoleKind, CountRate, CpuLimit, CpuWeight,
    DiskFormat, DiskSerial, DiskSpec, EgressPlace, EgressRule, EgressSpec, EngineWish, FolderSpec,
    Forward, HostName, JailWish, Label, LimitsSaid, Mac, Marker, MemoryLimit, MemorySize,
    ModuleSpec, NameError, NetSpec, PartialSpec, Rates, ResidentLimit, SpecErrors, StoreSize, Text,
    Timeout, Transport, VcpuCount, VmName, VmSpec, nearest, schema,
};
pub use status::{
    Counter, DeviceStatus, EndKind, Jail, OnNetwork, VmEnd, VmInfo, VmState, VmStatus,
};
