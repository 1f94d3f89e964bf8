//! What programs read of VMs whose process was to be exchanged.

use schemars::JsonSchema;
use serde::Serialize;

use super::Problem;

/// What came of it for one VM.
#[derive(Serialize, JsonSchema)]
pub struct UpgradedVm {
    /// What it is called.
    pub name: String,
    /// Whether it runs in a process of this program.
    pub done: bool,
    /// Why not; it runs on as it did.
    pub error: Option<Problem>,
    /// The version of Mother that ran it before.
    pub from: Option<String>,
    /// And the one that runs it now.
    pub to: Option<String>,
    /// Its process now.
    pub pid: Option<u32>,
    /// How long its guest stood still.
    pub pause_seconds: Option<f64>,
}
