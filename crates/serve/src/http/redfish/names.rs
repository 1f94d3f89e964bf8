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
