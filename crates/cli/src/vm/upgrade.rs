//! `mother upgrade`: VMs that run go on in processes of this very program.

use clap::Args;
use fleet::Inventory;

use super::orders::{NamesArguments, check_alive};
use super::words::find;
use crate::answers::{self, UpgradedVm};
use crate::failure::Failure;
use crate::output::say;

/// `mother upgrade`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The VM's process is exchanged for one of the program that is called here, under the guest,
which notices no more than a short pause: same memory, same disks, same connections over
its network. When that cannot be, the reason is said and the VM runs on as it did. `mother
inspect` shows which version runs a VM. What stays behind: streams of `mother exec`, `cp` and
attached consoles end, and the launcher beside the VM is the one that started it.

Examples:
  mother upgrade web
  mother ps -q | xargs mother upgrade")]
pub struct UpgradeArguments {
    #[command(flatten)]
    who: NamesArguments,
}

/// Exchanges the processes of VMs, one after the other; the exit status.
pub fn upgrade(arguments: &UpgradeArguments) -> Result<u8, Failure> {
    let NamesArguments { names, json } = &arguments.who;
    let inventory = Inventory::of_user()?;
    let mut done = Vec::new();
    let mut failures = Vec::new();
    for name in names {
        match upgrade_one(&inventory, name) {
            Ok(upgraded) if *json => done.push(upgraded),
            Ok(upgraded) => tell(&upgraded)?,
            Err(failure) => failures.push(failure),
        }
    }
    if *json && !done.is_empty() {
        say(&answers::text(&done))?;
    }
    let mut failures = failures.into_iter();
    let last = failures.next_back();
    failures.for_each(|failure| failure.print(*json));
    last.map_or(Ok(0), Err)
}

fn upgrade_one(inventory: &Inventory, name: &str) -> Result<UpgradedVm, Failure> {
    let vm = find(inventory, name)?;
    check_alive(&vm, "upgrade")?;
    let upgraded = runner::upgrade(&vm.name, &inventory.record(&vm.name))?;
    Ok(UpgradedVm {
        name: vm.name.to_string(),
        from: upgraded.from,
        to: upgraded.to,
        pid: upgraded.pid,
        pause_seconds: upgraded.pause_seconds,
    })
}

fn tell(upgraded: &UpgradedVm) -> Result<(), Failure> {
    let UpgradedVm {
        name,
        from,
        to,
        pause_seconds,
        ..
    } = upgraded;
    let millis = pause_seconds * 1000.0;
    say(&format!(
        "{name}: Mother {to} runs it, and Mother {from} did; the guest stood still for {millis:.0} ms\n"
    ))
}
