//! What bounds a VM.

use api::VmSpec;
use schemars::JsonSchema;
use serde::Serialize;

/// What bounds a VM, as options have it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct GivenLimits {
    /// `--resident-limit`.
    pub resident: Option<api::ResidentLimit>,
    /// `--page-memory`.
    pub page_memory: Option<api::StoreSize>,
    /// `--engine-memory`.
    pub engine_memory: Option<api::MemoryLimit>,
    /// `--host-limit`.
    pub host: Option<api::MemoryLimit>,
    /// `--page-file`.
    pub page_file: Option<String>,
    /// `--page-file-size`.
    pub page_file_size: Option<api::StoreSize>,
    /// `--timeout`.
    pub timeout: Option<api::Timeout>,
    /// What it may use per second.
    #[serde(flatten)]
    pub rates: api::Rates,
}

impl GivenLimits {
    /// Of what a VM was given.
    pub fn of(given: &VmSpec) -> GivenLimits {
        GivenLimits {
            resident: given.resident_limit,
            page_memory: given.page_memory,
            engine_memory: given.engine_memory,
            host: given.host_limit,
            page_file: given
                .page_file
                .as_ref()
                .map(|folder| folder.display().to_string()),
            page_file_size: given.page_file_size,
            timeout: given.timeout,
            rates: given.rates(),
        }
    }
}
