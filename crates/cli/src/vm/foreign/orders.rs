//! Pausing what Mother does not run, by its own way: QMP of QEMU where it is free, the freezer of a container's control group.
//! Where there is no way of its own it is refused: a process that is stopped behind its owner's back looks hung to it.

use std::io;

use fleet::foreign::{Cgroup, Foreign, Kind};
use watch::foreign::{Qmp, QmpCommand, QmpError};

use super::Target;
use super::open::found;
use crate::answers::{self, Done};
use crate::failure::Failure;
use crate::output::say;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vm) enum Order {
    /// Stop it and its time.
    Pause,
    /// Let it go on.
    Resume,
}

/// Has it done; the exit status.
pub(in crate::vm) fn order(target: &Target, order: Order, is_json: bool) -> Result<u8, Failure> {
    let found = found(target)?;
    match found.kind {
        Kind::Container => freeze(target, &found, order)?,
        Kind::Qemu => by_qmp(target, &found, order)?,
        kind => return Err(target.failed(no_way(kind), Some(OWN_TOOL), false)),
    }
    if is_json {
        say(&answers::text(&[Done {
            name: target.what(),
            done: true,
            error: None,
        }]))?;
    }
    Ok(0)
}

/// What to do where there is no way.
const OWN_TOOL: &str = "use the tool of who runs it: `virsh suspend` and `resume`, `ch-remote pause`, Firecracker's API, \
                        `crosvm suspend`";

fn no_way(kind: Kind) -> String {
    format!(
        "nothing of a {} VM is asked but by its owner's tool",
        kind.as_str()
    )
}

fn freeze(target: &Target, found: &Foreign, order: Order) -> Result<(), Failure> {
    let path = found.cgroup.as_deref().unwrap_or_default();
    let failed = |error: io::Error| {
        target.failed(
            format!("its control group cannot be frozen or thawed: {error}"),
            Some("that takes the rights of who owns the control group, which is root's mostly"),
            false,
        )
    };
    let cgroup =
        Cgroup::of(found.pid, path).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    cgroup.freeze(order == Order::Pause).map_err(failed)
}

fn by_qmp(target: &Target, found: &Foreign, order: Order) -> Result<(), Failure> {
    let Some(path) = found.qmp.first() else {
        return Err(target.failed(
            "it has no QMP socket".to_owned(),
            Some("`-qmp unix:PATH,server=on,wait=off` gives it one"),
            false,
        ));
    };
    let command = match order {
        Order::Pause => QmpCommand::Stop,
        Order::Resume => QmpCommand::Continue,
    };
    let asked = Qmp::connect(path).and_then(|mut qmp| qmp.ask(command));
    asked.map(|_| ()).map_err(|error| {
        let help = matches!(error, QmpError::Taken)
            .then_some("whoever holds the socket can do it, or give QEMU a second one");
        target.failed(error.to_string(), help, false)
    })
}
