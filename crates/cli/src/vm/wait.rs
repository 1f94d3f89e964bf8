//! `mother wait`: until VMs have ended.

use api::{Command, EndKind, Outcome, VmEnd, VmName};
use fleet::{Client, Inventory};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::say;
use crate::vm::orders::{NamesArguments, is_alive};
use crate::vm::words::{buried, names};

/// Waits for all; the exit status is that of the first, in the order of the names, that is not zero.
pub fn wait(arguments: &NamesArguments) -> Result<u8, Failure> {
    let inventory = Inventory::of_user()?;
    let names = names(&arguments.names)?;
    // All are there before anything is waited for.
    let ended: Vec<Option<VmEnd>> = names
        .iter()
        .map(|name| {
            Ok(Some(inventory.find(name)?)
                .filter(|vm| !is_alive(vm))
                .and_then(|vm| vm.end))
        })
        .collect::<Result<_, Failure>>()?;
    let mut ends = Vec::new();
    for (name, ended) in names.iter().zip(ended) {
        ends.push(match ended {
            Some(end) => end,
            None => end_of(&inventory, name)?,
        });
    }
    if arguments.json {
        let objects = names
            .iter()
            .zip(&ends)
            .map(|(name, end)| json!({ "name": name, "end": end }));
        say(&format!("{:#}\n", objects.collect::<Value>()))?;
    } else {
        for (name, end) in names.iter().zip(&ends) {
            say(&format!("{name}: {}\n", end.message))?;
        }
    }
    Ok(ends
        .iter()
        .map(|end| end.exit_status)
        .find(|status| *status != 0)
        .unwrap_or(0))
}

/// Waits for a VM that runs; how it ended.
pub(super) fn end_of(inventory: &Inventory, name: &VmName) -> Result<VmEnd, Failure> {
    let told =
        Client::connect(&inventory.record(name)).and_then(|mut client| client.ask(Command::Wait));
    let left = buried(inventory, name)?;
    match (told, left) {
        (Ok(Outcome::Ended { end }), _) | (_, Some(end)) => Ok(end),
        _ => Ok(unknown()),
    }
}

/// Neither did it say how it ended, nor did it leave anything.
fn unknown() -> VmEnd {
    VmEnd {
        kind: EndKind::Died,
        message: "it has ended, and nothing is known about how".to_owned(),
        detail: None,
        exit_status: 1,
        ended_at: None,
        uptime_seconds: None,
        cpu_seconds: None,
    }
}
