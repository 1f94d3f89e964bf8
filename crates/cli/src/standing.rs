//! What VMs stand on that is not in their description: passt, and the folder of their run.

use api::{NetSpec, VmSpec};
use images::RunFolder;
use runner::Held;

use crate::failure::Failure;
use crate::progress;

/// What goes with the VM and not with this process.
pub fn held(run: RunFolder) -> Held {
    let (folder, lock) = run.hand_over();
    Held {
        locks: lock.into_iter().map(Into::into).collect(),
        folders: vec![folder],
    }
}

/// Has passt here if the guest's network needs it: the host's, or Debian's, downloaded once.
pub fn bring_passt(spec: &mut VmSpec) -> Result<(), Failure> {
    if is_on_user_network(spec) && spec.passt.is_none() {
        spec.passt = Some(progress::passt().map_err(Failure::Passt)?);
    }
    Ok(())
}

/// Whether somebody on the guest's network has an address for it: then our own guests ask at once.
pub fn gets_address(spec: &VmSpec) -> bool {
    matches!(spec.net, Some(NetSpec::User { .. } | NetSpec::Named(_)))
}

/// Whether the guest's network is passt's.
fn is_on_user_network(spec: &VmSpec) -> bool {
    matches!(spec.net, Some(NetSpec::User { .. }))
}
