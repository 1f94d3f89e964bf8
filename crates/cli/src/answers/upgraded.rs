//! What programs read of VMs whose process was exchanged.

use schemars::JsonSchema;
use serde::Serialize;

/// A VM that runs in a process of another program.
#[derive(Serialize, JsonSchema)]
pub struct UpgradedVm {
    /// What it is called.
    pub name: String,
    /// The version of Mother that ran it before.
    pub from: String,
    /// And the one that runs it now.
    pub to: String,
    /// Its process now.
    pub pid: u32,
    /// How long its guest stood still.
    pub pause_seconds: f64,
}
