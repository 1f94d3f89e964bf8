//! VMs by their names, and where they are.

use super::errors::Wrong;
use crate::http::app::App;
use crate::words::VmView;

/// The place of a VM.
pub(super) fn place(name: &str) -> String {
    format!("/redfish/v1/Systems/{name}")
}

/// The places of all VMs.
pub(super) fn places(app: &App) -> Vec<String> {
    app.sight.all().iter().map(|vm| place(&vm.name)).collect()
}

/// A VM that there is.
pub(super) fn found(app: &App, name: &str) -> Result<VmView, Wrong> {
    app.sight
        .one(name)
        .ok_or_else(|| Wrong::missing(&place(name)))
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::words::StateView;

    /// A VM of which nothing else is known.
    pub(in super::super) fn vm(state: StateView) -> VmView {
        VmView {
            name: "web".to_owned(),
            state,
            engine: None,
            pid: None,
            vcpus: None,
            started_at: None,
            uptime_seconds: None,
            cpu_seconds: None,
            memory_given_bytes: None,
            memory_resident_bytes: None,
            reboots: None,
            consoles: None,
            labels: BTreeMap::new(),
            ports: Vec::new(),
            end: None,
            declared: None,
            trouble: None,
            insight: None,
        }
    }
}
