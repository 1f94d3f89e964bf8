//! `mother ps`: every VM with what it takes from the host.

use api::{Metric, VmState};
use clap::Args;
use fleet::{Client, Inventory, Vm};
use insight::amounts::{size, time};

use crate::answers::{self, Given, ListedVm};
use crate::failure::Failure;
use crate::observed::Observation;
use crate::output::say;
use crate::users;
use crate::vm::described;
use crate::vm::foreign::list::all_kinds;
use crate::vm::foreign::{self, MemoryArguments, Target};
use crate::vm::processes::processes;
use crate::vm::words::columns;

/// `mother ps`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
UPTIME counts pauses, CPU is the time of the whole process, GIVEN is the memory that
the guest believes to have, RESIDENT what the host holds of it. PORTS of this host
lead into the guest.

Examples:
  mother ps -a
  mother ps web                   what runs inside of it
  mother ps --memory vmcore       what ran when somebody wrote this dump
  sudo mother ps --all-users      everybody's, for who answers for the host
  mother ps --all                 QEMU's, libvirt's, Firecracker's, containers, ...
  mother ps --json | jq -r '.[] | select(.state == \"paused\") | .name'")]
pub struct PsArguments {
    /// Show the processes in this VM's guest, read from outside; the guest is not asked and need not answer
    #[arg(value_name = "NAME", conflicts_with_all = ["ended", "quiet", "all_users"])]
    name: Option<String>,
    #[command(flatten)]
    memory: MemoryArguments,
    /// Also those that have ended
    #[arg(short = 'a', long)]
    ended: bool,
    /// Those of every user, as far as this one may see them; root sees all
    #[arg(long, conflicts_with = "quiet")]
    all_users: bool,
    /// VMs and containers of every kind that run on this host, whoever runs them, as far as this user may see them
    #[arg(long, conflicts_with_all = ["quiet", "ended", "all_users", "name", "memory"])]
    all: bool,
    /// Only names, a line each
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
    /// As JSON: an array of objects
    #[arg(long)]
    json: bool,
}

impl PsArguments {
    /// The guest whose memory this reads.
    pub fn looks_into(&self) -> Result<Option<Observation>, Failure> {
        foreign::looks_into(self.name.as_deref(), &self.memory)
    }
}

/// Prints the list; the exit status.
pub fn ps(arguments: &PsArguments) -> Result<u8, Failure> {
    if let Some(target) = Target::of(arguments.name.as_deref(), &arguments.memory) {
        return foreign::processes(&target, arguments.json);
    }
    if let Some(name) = &arguments.name {
        return processes(name, arguments.json);
    }
    if arguments.all {
        return all_kinds(arguments.json);
    }
    if arguments.all_users {
        return all_users(arguments);
    }
    let inventory = Inventory::of_user()?;
    let mut vms = inventory.list()?;
    vms.retain(|vm| arguments.ended || !has_ended(vm));
    vms.iter_mut().for_each(described::show_limits_in_force);
    if arguments.json {
        let list: Vec<_> = vms
            .iter()
            .map(|vm| listed(vm, metrics_of(&inventory, vm)))
            .collect();
        say(&answers::text(&list))?;
    } else if arguments.quiet {
        say(&vms
            .iter()
            .map(|vm| format!("{}\n", vm.name))
            .collect::<String>())?;
    } else {
        say(&table(&vms))?;
    }
    Ok(0)
}

/// Everybody's VMs, user by user.
fn all_users(arguments: &PsArguments) -> Result<u8, Failure> {
    let mut rows = Vec::new();
    let mut found = Vec::new();
    for place in fleet::of_everybody() {
        let inventory = Inventory::foreign(&place.folder);
        // A folder that goes meanwhile, or in which nothing was ever started, has none.
        let Ok(mut vms) = inventory.list() else {
            continue;
        };
        vms.retain(|vm| arguments.ended || !has_ended(vm));
        let user = users::name(place.user);
        for vm in vms {
            if arguments.json {
                let metrics = metrics_of(&inventory, &vm);
                found.push((
                    vm,
                    metrics,
                    user.clone(),
                    place.folder.display().to_string(),
                ));
            } else {
                rows.push(with_user(user.clone(), row(&vm)));
            }
        }
    }
    if arguments.json {
        let list = found.iter().map(|(vm, metrics, user, folder)| {
            let mut listed = listed(vm, metrics.clone());
            listed.user = Some(user.clone());
            listed.given.folder = Some(folder.clone());
            listed
        });
        say(&answers::text(&list.collect::<Vec<_>>()))?;
    } else {
        say(&columns(&with_user("USER", HEADS), &rows))?;
    }
    Ok(0)
}

/// One more column in front.
fn with_user<T>(user: T, [a, b, c, d, e, f, g, h]: [T; 8]) -> [T; 9] {
    [user, a, b, c, d, e, f, g, h]
}

fn has_ended(vm: &Vm) -> bool {
    matches!(vm.state, VmState::Ended | VmState::Died)
}

const HEADS: [&str; 8] = [
    "NAME", "ENGINE", "STATE", "UPTIME", "CPU", "GIVEN", "RESIDENT", "PORTS",
];

fn table(vms: &[Vm]) -> String {
    columns(&HEADS, &vms.iter().map(row).collect::<Vec<_>>())
}

fn row(vm: &Vm) -> [String; 8] {
    let unknown = || "-".to_owned();
    let info = vm.info.as_ref();
    let status = vm.status.as_ref();
    let end = vm.end.as_ref();
    let uptime = status
        .map(|status| status.uptime_seconds)
        .or(end.and_then(|end| end.uptime_seconds));
    let cpu = status
        .map(|status| status.cpu_seconds)
        .or(end.and_then(|end| end.cpu_seconds));
    let state = match end {
        Some(end) if vm.state == VmState::Ended => format!("ended ({})", end.exit_status),
        _ => vm.state.as_str().to_owned(),
    };
    [
        vm.name.to_string(),
        info.map_or_else(unknown, |info| info.engine.clone()),
        state,
        uptime.map_or_else(unknown, time),
        cpu.map_or_else(unknown, time),
        info.map_or_else(unknown, |info| size(info.memory_given_bytes)),
        status
            .and_then(|status| status.memory_resident_bytes)
            .map_or_else(unknown, size),
        // Where nothing runs, nothing leads.
        described::ports(vm.origin.as_ref().filter(|_| !has_ended(vm))),
    ]
}

/// Every number of a VM that runs.
fn metrics_of(inventory: &Inventory, vm: &Vm) -> Option<Vec<Metric>> {
    vm.status.as_ref()?;
    // A VM that ends meanwhile, or a process of an older Mother, has none.
    Client::connect(&inventory.record(&vm.name))
        .and_then(|mut client| client.metrics())
        .ok()
}

/// A VM for programs, with every field.
fn listed(vm: &Vm, metrics: Option<Vec<Metric>>) -> ListedVm<'_> {
    let info = vm.info.as_ref();
    let status = vm.status.as_ref();
    let end = vm.end.as_ref();
    let uptime = status
        .map(|status| status.uptime_seconds)
        .or(end.and_then(|end| end.uptime_seconds));
    let cpu = status
        .map(|status| status.cpu_seconds)
        .or(end.and_then(|end| end.cpu_seconds));
    ListedVm {
        name: &vm.name,
        state: vm.state,
        engine: info.map(|info| info.engine.as_str()),
        pid: info.filter(|_| !has_ended(vm)).map(|info| info.pid),
        mother: info.map(|info| info.mother.as_str()),
        jail: info.and_then(|info| info.jail.as_ref()),
        vcpus: info.map(|info| info.vcpus),
        detached: info.map(|info| info.detached),
        program: info.map(|info| info.program),
        started_at: info.map(|info| info.started_at),
        uptime_seconds: uptime,
        cpu_seconds: cpu,
        memory_given_bytes: info.map(|info| info.memory_given_bytes),
        memory_resident_bytes: status.and_then(|status| status.memory_resident_bytes),
        reboots: status.map(|status| status.reboots),
        consoles: status.map(|status| status.consoles),
        devices: status.map(|status| &status.devices[..]),
        metrics,
        end,
        given: Given::of(vm.origin.as_ref(), described::address(vm)),
        user: None,
    }
}

#[cfg(test)]
mod tests {
    use api::{EndKind, VmEnd, VmInfo, VmName, VmStatus};
    use serde_json::{Value, json};

    use super::*;
    use crate::answers::keys;

    fn vm(name: &str, state: VmState) -> Vm {
        let name = VmName::new(name).unwrap();
        let info = VmInfo {
            name: name.clone(),
            pid: 4242,
            mother: "0.1.0".to_owned(),
            engine: "soft".to_owned(),
            vcpus: 1,
            memory_given_bytes: 512 << 20,
            started_at: 1.5,
            detached: true,
            program: false,
            jail: None,
            network: None,
        };
        Vm {
            name,
            state,
            info: Some(info),
            status: None,
            end: None,
            origin: None,
        }
    }

    fn running() -> Vm {
        let vm = vm("web", VmState::Running);
        let status = VmStatus {
            info: vm.info.clone().unwrap(),
            state: VmState::Running,
            uptime_seconds: 75.0,
            cpu_seconds: 3.12,
            memory_resident_bytes: Some(87_300_000),
            reboots: 0,
            consoles: 1,
            devices: Vec::new(),
            limits: None,
        };
        let given = api::VmSpec {
            forwards: vec!["8080:80".parse().unwrap()],
            ..api::VmSpec::default()
        };
        let origin = api::VmOrigin {
            words: Vec::new(),
            folder: "/".into(),
            asked: api::VmSpec::default(),
            given,
            boot: None,
        };
        Vm {
            status: Some(status),
            origin: Some(origin),
            ..vm
        }
    }

    fn ended() -> Vm {
        let end = VmEnd {
            kind: EndKind::Crashed,
            message: "the guest crashed".to_owned(),
            detail: None,
            exit_status: 3,
            ended_at: Some(9.0),
            uptime_seconds: Some(7.5),
            cpu_seconds: Some(7.25),
        };
        Vm {
            end: Some(end),
            ..vm("a-longer-name", VmState::Ended)
        }
    }

    #[test]
    fn the_table_has_a_line_for_each() {
        let expected = "\
NAME           ENGINE  STATE      UPTIME  CPU   GIVEN  RESIDENT  PORTS
web            soft    running    1m15s   3.1s  512M   83.3M     8080->80
a-longer-name  soft    ended (3)  7.5s    7.2s  512M   -         -
new            -       starting   -       -     -      -         -
";
        let new = Vm {
            info: None,
            ..vm("new", VmState::Starting)
        };
        assert_eq!(table(&[running(), ended(), new]), expected);
    }

    #[test]
    fn programs_find_every_field_in_every_object() {
        let value = |vm: &Vm| serde_json::to_value(listed(vm, None)).unwrap();
        let running = value(&running());
        let ended = value(&ended());
        assert_eq!(keys(&running), keys(&ended));
        assert_eq!(
            (&running["state"], &running["pid"], &running["end"]),
            (&json!("running"), &json!(4242), &Value::Null)
        );
        assert_eq!(
            (&ended["state"], &ended["pid"]),
            (&json!("ended"), &Value::Null)
        );
        assert_eq!(ended["end"]["kind"], "crashed");
        assert_eq!(running["ports"], json!(["8080:80"]));
    }
}
