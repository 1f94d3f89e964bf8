//! Whether a guest's kernel takes note of being copied, which who writes a snapshot wants to know.
//!
//! Who writes copies memory and follows nothing in it; this alone is read of the guest's kernel, so it is read in a jail, and
//! the exit status is what comes out: what it would print goes nowhere.

use api::{JailWish, VmName};
use fleet::Inventory;
use runner::{Observer, ObserverEnd};

use super::broker::{Broker, Vms};
use super::requests::{About, NO, Work, YES};
use super::{failed, profiles_of_user};
use crate::failure::Failure;

/// Whether the guest of this VM makes its random numbers anew when it is brought back; no where that cannot be seen.
///
/// # Errors
/// If there is no process for it.
pub fn reseeds(inventory: &Inventory, name: &VmName) -> Result<bool, Failure> {
    let profiles = profiles_of_user();
    let about = About {
        folder: inventory.folder().to_owned(),
        profiles: profiles.clone(),
        ..About::of_work(Work::Clones(name.clone()))
    };
    let observer = Observer::start_mute(about.to_text(), JailWish::Auto).map_err(failed)?;
    let vms = Vms::Named([name.clone()].into());
    let broker = Broker::new(Inventory::at(inventory.folder()), vms, profiles);
    let end = observer.serve(|asked, files| broker.answer(asked, files));
    let end = end.map_err(failed)?;
    if !matches!(end, ObserverEnd::Status(YES | NO)) {
        tracing::warn!("what looks for the guest's kernel: {}", end.words());
    }
    Ok(end == ObserverEnd::Status(YES))
}
