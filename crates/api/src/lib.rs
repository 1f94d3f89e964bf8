//! The words on the wire: what a user, the command line and the host's side say to a VM and hear from it.
//!
//! Plain values only: nothing here opens or runs anything. A [`VmSpec`] is text as somebody typed it; `machine::plan`
//! turns it into numbers and says what is wrong with it. What goes over a control socket is [`Request`] and [`Reply`].
#![forbid(unsafe_code)]

mod control;
pub mod host_path;
mod name;
mod observe;
mod spec;
mod status;

pub use control::{
    Command, LINE_BYTES_MAX, Outcome, PROTOCOL_VERSION, RefusalCode, Reply, Request,
    STORED_PAGES_MAX, WRITTEN_PAGES_MAX,
};
pub use name::{NameError, VmName};
pub use observe::{
    BalloonBook, CLAIMS_PORT, CLAIMS_PORT_NAME, ClaimBook, ClockBook, Estimate, GuestClaim,
    HostBooks, MemoryBook, MemoryView, PagingBook, SlotView, TableView, VcpuBook, VcpuView,
};
pub use spec::{DiskSpec, VmSpec};
pub use status::{Counter, DeviceStatus, EndKind, VmEnd, VmInfo, VmState, VmStatus};
