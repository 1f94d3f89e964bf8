//! `mother upgrade`: VMs that run go on in processes of this very program.

use clap::Args;
use fleet::Inventory;
use runner::Upgraded;

use super::orders::{NamesArguments, check_alive, status_of};
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
    let mut answers = Vec::new();
    let mut failures = Vec::new();
    for name in names {
        let upgraded = upgrade_one(&inventory, name);
        match &upgraded {
            Ok(upgraded) if !*json => tell(name, upgraded)?,
            Ok(_) => {}
            Err(failure) => failure.print(false),
        }
        answers.push(answer(name, &upgraded));
        failures.extend(upgraded.err());
    }
    if *json {
        say(&answers::text(&answers))?;
    }
    Ok(status_of(&failures))
}

fn upgrade_one(inventory: &Inventory, name: &str) -> Result<Upgraded, Failure> {
    let vm = find(inventory, name)?;
    check_alive(&vm, "upgrade")?;
    Ok(runner::upgrade(&vm.name, &inventory.record(&vm.name))?)
}

fn answer(name: &str, upgraded: &Result<Upgraded, Failure>) -> UpgradedVm {
    let done = upgraded.as_ref().ok();
    UpgradedVm {
        name: name.to_owned(),
        done: done.is_some(),
        error: upgraded.as_ref().err().map(Failure::problem),
        from: done.map(|it| it.from.clone()),
        to: done.map(|it| it.to.clone()),
        pid: done.map(|it| it.pid),
        pause_seconds: done.map(|it| it.pause_seconds),
    }
}

fn tell(name: &str, upgraded: &Upgraded) -> Result<(), Failure> {
    let Upgraded {
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
