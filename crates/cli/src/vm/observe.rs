//! Looking into a guest by its VM's name, and what is said when that does not work.

use std::path::PathBuf;

use api::VmName;
use fleet::{ClientError, Inventory};
use images::Cache;
use insight::{Look, Observed};
use watch::{Snapshot, Watcher};

use super::orders::check_alive;
use super::words::find;
use crate::failure::Failure;
use crate::observed::{self, profiles};

/// The verb of all that is done here.
const ACT: &str = "look into";

/// Where what is learned about kernels is kept; nowhere where there is no cache.
pub(in crate::vm) fn cache() -> Option<PathBuf> {
    match observed::about() {
        Some(about) => about.profiles.clone(),
        None => Cache::of_user().ok().map(|cache| profiles(&cache)),
    }
}

/// Somebody who watches the VM of this name.
pub(super) fn watch(typed: &str) -> Result<(VmName, Watcher), Failure> {
    let inventory = Inventory::of_user()?;
    let vm = find(&inventory, typed)?;
    check_alive(&vm, ACT)?;
    let watcher =
        Watcher::connect(inventory.record(&vm.name), cache()).map_err(failed(&vm.name))?;
    Ok((vm.name, watcher))
}

/// What is said when a VM does not answer.
pub(super) fn failed(name: &VmName) -> impl Fn(ClientError) -> Failure {
    let name = name.clone();
    move |source| Failure::Vm {
        act: ACT,
        name: name.clone(),
        source,
    }
}

/// Looks through the guest's kernel once.
pub(super) fn look<T>(
    name: &VmName,
    watcher: &mut Watcher,
    see: impl FnOnce(&Snapshot<'_>, &Look<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let snapshot = watcher.observer().observe().map_err(failed(name))?;
    match snapshot.kernel {
        Ok(kernel) => {
            let account = kernel.account();
            see(&snapshot, &kernel.look(&account, &snapshot.registers))
        }
        Err(not) => Err(blind(name, not.to_string())),
    }
}

/// What was seen, or why it was not.
pub(super) fn seen<T>(name: &VmName, observed: Observed<T>) -> Result<T, Failure> {
    match observed {
        Observed::Seen { value, .. } => Ok(value),
        Observed::NotObservable { why } => Err(blind(name, why)),
    }
}

pub(super) fn blind(name: &VmName, why: String) -> Failure {
    let help = "a guest that boots is known when its kernel runs; `mother truth` says what the host knows without it";
    Failure::NotNow {
        act: ACT,
        name: name.clone(),
        why,
        help,
    }
}
