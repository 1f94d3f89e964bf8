//! `mother stop`, `kill`, `pause`, `resume` and `rm`: something is done to each VM that is named, at the same time.

use std::thread;
use std::time::Duration;

use api::{Command, Rates, VmName, VmState};
use clap::{ArgGroup, Args};
use fleet::{Client, ClientError, Inventory, InventoryError, Vm};
use rustix::process::{Pid, Signal, kill_process};

use super::foreign::{self, Target};
use crate::answers::{self, Done};
use crate::daemon::declared_by_daemon;
use crate::exit_status::BAD_INPUT;
use crate::failure::{ANSWER_IS_NO, Failure};
use crate::output::say;
use crate::vm::words::{buried, names};

/// VMs by name.
#[derive(Clone, Debug, Args)]
pub struct NamesArguments {
    /// Which VMs
    #[arg(required = true, value_name = "NAME")]
    pub(super) names: Vec<String>,
    /// Say what was done as JSON: an array with an object for each VM
    #[arg(long)]
    pub(super) json: bool,
}

/// `mother stop`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The guest sees its power button pressed, as ACPI has it, and shuts itself down if it
listens. A paused VM goes on first. When this returns, the VM has ended.

Examples:
  mother stop web db
  mother stop --grace 2m db")]
pub struct StopArguments {
    #[command(flatten)]
    who: NamesArguments,
    /// How long the guests may take: seconds, or with s, m or h; 0 ends them at once
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    grace: Duration,
}

impl StopArguments {
    /// Which VMs.
    pub(super) fn names(&self) -> &NamesArguments {
        &self.who
    }

    /// How long each may take.
    pub(super) fn grace_ms(&self) -> u64 {
        u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX)
    }
}

/// `mother switch`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The guest goes on where it was: same memory, same devices, same connections. It notices
no more than a pause, and a paused VM stays paused. When it cannot be moved it goes on
where it is.

Examples:
  mother switch --engine kvm web
  mother switch --engine soft web db")]
pub struct SwitchArguments {
    #[command(flatten)]
    who: NamesArguments,
    /// What executes the guest from now on
    #[arg(long, value_name = "ENGINE", value_parser = ["kvm", "soft"])]
    engine: String,
}

/// `mother link`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The guest sees its card lose the link, and packets both ways are lost. It stays so when the
guest starts again, until the cable is plugged in or the VM ends.

Examples:
  mother link down web
  mother link up web db")]
pub struct LinkArguments {
    /// Whether the cable is in
    #[arg(value_name = "up|down", value_parser = ["up", "down"])]
    state: String,
    #[command(flatten)]
    who: NamesArguments,
}

/// `mother limit`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The guest is not told. What is not named stays as it is. Memory that the host may not
hold is compressed, or put into the page file. When this returns, the limit is kept.

Examples:
  mother limit web --resident 10%
  mother limit web db --resident 200M
  mother limit web --resident none
  mother limit web --cpu-limit 50% --disk-rate 20M --net-rate 5M
  mother limit web --host-limit 120M
  mother limit web --cpu-limit none --cpu-weight 50")]
#[command(group = ArgGroup::new("limits").required(true).multiple(true).args(LIMITS))]
pub struct LimitArguments {
    #[command(flatten)]
    who: NamesArguments,
    #[command(flatten)]
    memory: MemoryLimits,
    #[command(flatten)]
    rates: Rates,
}

/// How much of its memory the host may hold.
#[derive(Clone, Debug, Args)]
struct MemoryLimits {
    /// How much of its memory the host may hold: a size such as 100M, a share such as 10%, or none for no limit
    #[arg(long, value_name = "SIZE|SHARE")]
    resident: Option<String>,
    /// Memory that compressed pages may take
    #[arg(long, value_name = "SIZE")]
    page_memory: Option<String>,
    /// What the software CPU may hold beside the guest's pages: a size such as 40M, or none
    #[arg(long, value_name = "SIZE")]
    engine_memory: Option<String>,
    /// What the VM may cost the host in all, guest memory, compressed pages, engine and Mother's own: a size such as 90M, or none
    #[arg(long, value_name = "SIZE")]
    host_limit: Option<String>,
}

/// What can be limited, of which at least one has to be.
const LIMITS: [&str; 11] = [
    "resident",
    "page_memory",
    "engine_memory",
    "host_limit",
    "cpu_limit",
    "cpu_weight",
    "disk_rate",
    "disk_ops",
    "net_rate",
    "net_packets",
    "console_rate",
];

/// `mother rm`.
#[derive(Clone, Debug, Args)]
pub struct RemoveArguments {
    /// Which VMs
    #[arg(required_unless_present = "all", value_name = "NAME")]
    names: Vec<String>,
    /// All that have ended
    #[arg(short, long, conflicts_with = "names")]
    all: bool,
    /// Kill those that run
    #[arg(short, long)]
    force: bool,
    /// Say what was done as JSON: an array with an object for each VM
    #[arg(long)]
    json: bool,
}

/// Longest time that can be waited for: a day.
const TIME_SECONDS_MAX: u64 = 24 * 3600;

/// A time of at most a day.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(['s', 'm', 'h']);
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => 0,
    };
    match digits
        .parse::<u64>()
        .ok()
        .filter(|_| unit > 0)
        .and_then(|number| number.checked_mul(unit))
    {
        Some(seconds) if seconds <= TIME_SECONDS_MAX => Ok(Duration::from_secs(seconds)),
        Some(_) => Err("more than a day".to_owned()),
        None => {
            Err("write seconds, or a number with s, m or h behind it, such as 30s or 2m".to_owned())
        }
    }
}

/// Stops VMs.
pub fn stop(arguments: &StopArguments) -> Result<u8, Failure> {
    let grace = Some(arguments.grace.as_secs());
    each_or_daemon(&arguments.who, ("stop", grace), |inventory, vm| {
        stop_one(inventory, vm, arguments.grace_ms())
    })
}

/// Stops one, and waits until it has ended.
pub(super) fn stop_one(inventory: &Inventory, vm: &Vm, grace_ms: u64) -> Result<(), Failure> {
    match order(inventory, vm, "stop", Command::Stop { grace_ms }) {
        // A guest that is quick is gone before its process has answered.
        Err(Failure::Vm {
            source: ClientError::Connection(_),
            ..
        }) if buried(inventory, &vm.name).is_ok() && !inventory.is_running(&vm.name)? => Ok(()),
        Err(failure) => Err(failure),
        Ok(()) => wait_for_end(inventory, &vm.name, "stop"),
    }
}

/// Kills VMs.
pub fn kill(arguments: &NamesArguments) -> Result<u8, Failure> {
    each(arguments, kill_one)
}

/// The one that is named and that Mother does not run. Such a one stands alone: what is done about it is done by another
/// way.
fn other(arguments: &NamesArguments) -> Result<Option<Target>, Failure> {
    let mut targets = arguments
        .names
        .iter()
        .filter_map(|name| Target::named(name));
    let first = targets.next();
    match (&first, arguments.names.len()) {
        (Some(target), 2..) => Err(target.failed(
            "it is named beside others".to_owned(),
            Some("what Mother does not run is paused and resumed one at a time"),
            true,
        )),
        _ => Ok(first),
    }
}

/// Pauses VMs.
pub fn pause(arguments: &NamesArguments) -> Result<u8, Failure> {
    if let Some(target) = other(arguments)? {
        return foreign::order(&target, foreign::Order::Pause, arguments.json);
    }
    each(arguments, |inventory, vm| {
        order(inventory, vm, "pause", Command::Pause)
    })
}

/// Lets VMs go on.
pub fn resume(arguments: &NamesArguments) -> Result<u8, Failure> {
    if let Some(target) = other(arguments)? {
        return foreign::order(&target, foreign::Order::Resume, arguments.json);
    }
    each(arguments, |inventory, vm| {
        order(inventory, vm, "resume", Command::Resume)
    })
}

/// Sends guests an NMI.
pub fn nmi(arguments: &NamesArguments) -> Result<u8, Failure> {
    each(arguments, |inventory, vm| {
        order(inventory, vm, "nmi", Command::Nmi)
    })
}

/// Moves VMs to another engine.
pub fn switch(arguments: &SwitchArguments) -> Result<u8, Failure> {
    let command = Command::Switch {
        engine: arguments.engine.clone(),
    };
    each(&arguments.who, |inventory, vm| {
        order(inventory, vm, "switch", command.clone())
    })
}

/// Plugs cables in or pulls them.
pub fn link(arguments: &LinkArguments) -> Result<u8, Failure> {
    let up = arguments.state == "up";
    each(&arguments.who, |inventory, vm| {
        order(inventory, vm, "link", Command::Link { up })
    })
}

/// Sets limits.
pub fn limit(arguments: &LimitArguments) -> Result<u8, Failure> {
    let LimitArguments { who, memory, rates } = arguments;
    let command = Command::Limit {
        resident: memory.resident.clone(),
        page_memory: memory.page_memory.clone(),
        engine_memory: memory.engine_memory.clone(),
        host_limit: memory.host_limit.clone(),
        rates: *rates,
    };
    each(who, |inventory, vm| {
        order(inventory, vm, "limit", command.clone())
    })
}

/// Removes what VMs left.
pub fn remove(arguments: &RemoveArguments) -> Result<u8, Failure> {
    let inventory = Inventory::of_user()?;
    let names = if arguments.all {
        let has_ended =
            |vm: &Vm| arguments.force || matches!(vm.state, VmState::Ended | VmState::Died);
        inventory
            .list()?
            .into_iter()
            .filter(has_ended)
            .map(|vm| vm.name)
            .collect()
    } else {
        names(&arguments.names)?
    };
    perform(&inventory, names, arguments.json, |inventory, vm| {
        if arguments.force && is_alive(vm) {
            kill_one(inventory, vm)?;
        }
        match inventory.remove(&vm.name) {
            // A run at a terminal takes everything along when it is killed.
            Err(InventoryError::NoSuchVm(_)) if arguments.force => Ok(()),
            removed => Ok(removed?),
        }
    })
}

/// Does `act` to every VM that is named.
pub(super) fn each(
    arguments: &NamesArguments,
    act: impl Fn(&Inventory, &Vm) -> Result<(), Failure> + Sync,
) -> Result<u8, Failure> {
    let names = names(&arguments.names)?;
    perform(&Inventory::of_user()?, names, arguments.json, act)
}

/// The same for what the daemon has to know of a VM that is declared to it: then it does it, or has it done again.
pub(super) fn each_or_daemon(
    arguments: &NamesArguments,
    (action, grace_seconds): (&str, Option<u64>),
    act: impl Fn(&Inventory, &Vm) -> Result<(), Failure> + Sync,
) -> Result<u8, Failure> {
    let names = names(&arguments.names)?;
    let act = |inventory: &Inventory, name: &VmName| match declared_by_daemon(name) {
        Some(declared) => declared.order(name, action, grace_seconds),
        None => act(inventory, &inventory.find(name)?),
    };
    perform_by_name(&Inventory::of_user()?, names, arguments.json, act)
}

/// Does `act` to every VM at the same time and says what came of it.
fn perform(
    inventory: &Inventory,
    names: Vec<VmName>,
    is_json: bool,
    act: impl Fn(&Inventory, &Vm) -> Result<(), Failure> + Sync,
) -> Result<u8, Failure> {
    let act = |inventory: &Inventory, name: &VmName| act(inventory, &inventory.find(name)?);
    perform_by_name(inventory, names, is_json, act)
}

fn perform_by_name(
    inventory: &Inventory,
    names: Vec<VmName>,
    is_json: bool,
    act: impl Fn(&Inventory, &VmName) -> Result<(), Failure> + Sync,
) -> Result<u8, Failure> {
    let act = |name: &VmName| act(inventory, name);
    let results: Vec<(&VmName, Result<(), Failure>)> = thread::scope(|scope| {
        let threads: Vec<_> = names
            .iter()
            .map(|name| (name, scope.spawn(|| act(name))))
            .collect();
        let join = |panic| std::panic::resume_unwind(panic);
        threads
            .into_iter()
            .map(|(name, thread)| (name, thread.join().unwrap_or_else(join)))
            .collect()
    });
    if is_json {
        let done = results.iter().map(|(name, result)| Done {
            name: name.to_string(),
            done: result.is_ok(),
            error: result.as_ref().err().map(Failure::problem),
        });
        say(&answers::text(&done.collect::<Vec<_>>()))?;
    }
    for (name, result) in &results {
        match result {
            Ok(()) if !is_json => say(&format!("{name}\n"))?,
            Ok(()) => {}
            Err(failure) => failure.print(false),
        }
    }
    let failures = results
        .iter()
        .filter_map(|(_, result)| result.as_ref().err());
    Ok(status_of(failures))
}

/// The exit status of an order to several VMs: what makes no sense for any of those that refuse it is what was asked.
pub(super) fn status_of<'a>(failures: impl IntoIterator<Item = &'a Failure>) -> u8 {
    let statuses: Vec<u8> = failures.into_iter().map(Failure::status).collect();
    match statuses.iter().all(|status| *status == BAD_INPUT) {
        _ if statuses.is_empty() => 0,
        true => BAD_INPUT,
        false => ANSWER_IS_NO,
    }
}

pub(super) fn is_alive(vm: &Vm) -> bool {
    !matches!(vm.state, VmState::Ended | VmState::Died)
}

/// A VM that runs is not started.
pub(super) fn check_ended(vm: &Vm, act: &'static str) -> Result<(), Failure> {
    if !is_alive(vm) {
        return Ok(());
    }
    Err(Failure::NotNow {
        act,
        name: vm.name.clone(),
        why: "it runs".to_owned(),
        help: "`mother restart` stops it first",
    })
}

/// A VM that has ended takes no orders.
pub(super) fn check_alive(vm: &Vm, act: &'static str) -> Result<(), Failure> {
    if is_alive(vm) {
        return Ok(());
    }
    let why = "it has ended".to_owned();
    Err(Failure::NotNow {
        act,
        name: vm.name.clone(),
        why,
        help: "`mother ps` lists those that run, `mother start` starts it again",
    })
}

/// Has a VM that runs do something.
pub(super) fn order(
    inventory: &Inventory,
    vm: &Vm,
    act: &'static str,
    command: Command,
) -> Result<(), Failure> {
    check_alive(vm, act)?;
    let client = Client::connect(&inventory.record(&vm.name));
    client
        .and_then(|mut client| client.order(command))
        .map_err(|source| Failure::Vm {
            act,
            name: vm.name.clone(),
            source,
        })
}

fn wait_for_end(inventory: &Inventory, name: &VmName, act: &'static str) -> Result<(), Failure> {
    // A connection that fails is one whose VM has ended meanwhile.
    let _ =
        Client::connect(&inventory.record(name)).and_then(|mut client| client.ask(Command::Wait));
    buried(inventory, name)?;
    if !inventory.is_running(name)? {
        return Ok(());
    }
    let why = "its process does not end".to_owned();
    Err(Failure::NotNow {
        act,
        name: name.clone(),
        why,
        help: "`mother kill` ends it at once",
    })
}

pub(super) fn kill_one(inventory: &Inventory, vm: &Vm) -> Result<(), Failure> {
    check_alive(vm, "kill")?;
    let record = inventory.record(&vm.name);
    if Client::connect(&record)
        .and_then(|mut client| client.order(Command::Kill))
        .is_ok()
    {
        buried(inventory, &vm.name)?;
    }
    if !inventory.is_running(&vm.name)? {
        return Ok(());
    }
    // It does not answer or does not end. Its process holds the name, so the number is still its own.
    let pid = record
        .info()
        .and_then(|info| Pid::from_raw(i32::try_from(info.pid).ok()?));
    if let Some(pid) = pid {
        let killed = kill_process(pid, Signal::KILL);
        killed.map_err(|error| Failure::Vm {
            act: "kill",
            name: vm.name.clone(),
            source: ClientError::Connection(error.into()),
        })?;
    }
    wait_for_end(inventory, &vm.name, "kill")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_understood_or_explained() {
        let check = |text, expected: Option<u64>| {
            assert_eq!(
                time(text).ok().map(|time| time.as_secs()),
                expected,
                "{text:?}"
            );
        };
        check("30", Some(30));
        check("0", Some(0));
        check("5s", Some(5));
        check("2m", Some(120));
        check("24h", Some(86400));
        check("25h", None);
        check("99999999999999999999h", None);
        check("soon", None);
        check("", None);
        check("1sm", None);
        check("-1", None);
    }
}
