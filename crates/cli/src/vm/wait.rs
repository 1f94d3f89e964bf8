//! `mother wait`: until VMs have ended, or are as far as one wants them.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use api::{Command, EndKind, Outcome, VmEnd, VmName};
use clap::Args;
use fleet::{Client, ClientError, Inventory, Tail, Vm, follow};

use crate::answers::{self, Ended, Reached};
use crate::failure::Failure;
use crate::output::say;
use crate::vm::goal::{self, Goal, Screen};
use crate::vm::orders::{is_alive, time};
use crate::vm::words::{buried, names};

/// How often a VM is looked at.
const PAUSE: Duration = Duration::from_millis(100);

/// `mother wait`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
`login` is a login or a prompt on the console; `port=N` a server at TCP port N of the
guest, to which a port of this host leads (`run -p`). Who waits for one of them, and
the VM ends or the time is over, gets an error and exit status 1.

Examples:
  mother wait web                 until it has ended, with its exit status
  mother run -d --name web -p 8080:80 debian && mother wait web --for login
  mother wait web --for port=80 --timeout 60s && curl http://127.0.0.1:8080")]
pub struct WaitArguments {
    /// Which VMs
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// What to wait for: exit, running, login, or port=N
    #[arg(long = "for", value_name = "WHAT", default_value = "exit", value_parser = Goal::parse)]
    goal: Goal,
    /// How long at most: seconds, or with s, m or h [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = time)]
    timeout: Option<Duration>,
    /// Say it as JSON: an array with an object for each VM
    #[arg(long)]
    json: bool,
}

/// Waits for all; the exit status.
pub fn wait(arguments: &WaitArguments) -> Result<u8, Failure> {
    let deadline = arguments.timeout.map(|limit| Instant::now() + limit);
    match arguments.goal {
        Goal::Exit => wait_for_end(arguments, deadline),
        goal => wait_for_goal(arguments, goal, deadline),
    }
}

fn wait_for_goal(
    arguments: &WaitArguments,
    goal: Goal,
    deadline: Option<Instant>,
) -> Result<u8, Failure> {
    let inventory = Inventory::of_user()?;
    let names = names(&arguments.names)?;
    // All are there, and can get there, before anything is waited for.
    let ways: Vec<Option<SocketAddr>> = names
        .iter()
        .map(|name| way(&inventory.find(name)?, goal))
        .collect::<Result<_, Failure>>()?;
    for (name, way) in names.iter().zip(ways) {
        let mut watch = Watch {
            inventory: &inventory,
            name,
            goal,
            way,
            console: None,
        };
        while !watch.is_reached()? {
            pause(name, goal, deadline)?;
        }
    }
    if arguments.json {
        let reached = names.iter().map(|name| Reached {
            name,
            reached: true,
        });
        say(&answers::text(&reached.collect::<Vec<_>>()))?;
    } else {
        say(&names
            .iter()
            .map(|name| format!("{name}\n"))
            .collect::<String>())?;
    }
    Ok(0)
}

/// The address of the host that leads to the port, where one is waited for.
fn way(vm: &Vm, goal: Goal) -> Result<Option<SocketAddr>, Failure> {
    let not_now = |why: String, help| Failure::NotNow {
        act: "wait for",
        name: vm.name.clone(),
        why,
        help,
    };
    let is_program = vm.info.as_ref().is_some_and(|info| info.program);
    match goal {
        Goal::Login if is_program => Err(not_now(
            "its guest is one program, which has no login".to_owned(),
            "wait for `running`, for `port=N`, or for its end",
        )),
        Goal::Port(port) => match goal::way_to(port, vm.origin.as_ref()) {
            Some(way) => Ok(Some(way)),
            None => Err(not_now(
                format!("no port of this host leads to TCP port {port} of its guest"),
                "start it with `-p HOST:GUEST`; `mother ps` lists the ports that it has",
            )),
        },
        _ => Ok(None),
    }
}

/// Sleeps until the next look, if there is time for one.
fn pause(name: &VmName, goal: Goal, deadline: Option<Instant>) -> Result<(), Failure> {
    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
        return Err(Failure::NotNow {
            act: "wait any longer for",
            name: name.clone(),
            why: format!("the time is over, and {}", goal.words()),
            help: "`mother logs` shows how far it is",
        });
    }
    thread::sleep(PAUSE);
    Ok(())
}

/// A VM on its way.
struct Watch<'a> {
    inventory: &'a Inventory,
    name: &'a VmName,
    goal: Goal,
    way: Option<SocketAddr>,
    console: Option<(fleet::Follow, Screen)>,
}

impl Watch<'_> {
    fn is_reached(&mut self) -> Result<bool, Failure> {
        let vm = self.inventory.find(self.name)?;
        if !is_alive(&vm) {
            let end = vm.end.unwrap_or_else(unknown).message;
            return Err(Failure::NotNow {
                act: "wait for",
                name: self.name.clone(),
                why: format!("it has ended, and {}: {end}", self.goal.words()),
                help: "`mother logs` shows what it printed",
            });
        }
        match (self.goal, self.way) {
            (Goal::Login, _) => self.has_login(),
            (_, Some(way)) => Ok(goal::answers(way)),
            _ => Ok(goal::runs(vm.state)),
        }
    }

    fn has_login(&mut self) -> Result<bool, Failure> {
        let failed = |source| Failure::Log {
            name: self.name.clone(),
            source,
        };
        let (bytes, screen) = match &mut self.console {
            Some((rest, screen)) => (rest.more().map_err(failed)?, screen),
            none => {
                let record = self.inventory.record(self.name);
                let (bytes, rest) = follow(&record, Tail::All).map_err(failed)?;
                (bytes, &mut none.insert((rest, Screen::default())).1)
            }
        };
        Ok(screen.see(&bytes))
    }
}

/// Waits for all to end; the exit status is that of the first, in the order of the names, that is not zero.
fn wait_for_end(arguments: &WaitArguments, deadline: Option<Instant>) -> Result<u8, Failure> {
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
            None => end_within(&inventory, name, deadline)?,
        });
    }
    if arguments.json {
        let ended = names
            .iter()
            .zip(&ends)
            .map(|(name, end)| Ended { name, end });
        say(&answers::text(&ended.collect::<Vec<_>>()))?;
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

/// As [`end_of`], until the deadline.
fn end_within(
    inventory: &Inventory,
    name: &VmName,
    deadline: Option<Instant>,
) -> Result<VmEnd, Failure> {
    while deadline.is_some() && inventory.is_running(name)? {
        pause(name, Goal::Exit, deadline)?;
    }
    end_of(inventory, name)
}

/// Waits for a VM that runs; how it ended.
pub(super) fn end_of(inventory: &Inventory, name: &VmName) -> Result<VmEnd, Failure> {
    loop {
        let client = Client::connect(&inventory.record(name));
        let was_there = client.is_ok();
        let told = client.and_then(|mut client| client.ask(Command::Wait));
        // A VM that goes on in another process (`mother upgrade`) can be asked again.
        let is_cut = matches!(told, Err(ClientError::Connection(_)));
        if was_there && is_cut && Client::connect(&inventory.record(name)).is_ok() {
            continue;
        }
        let left = buried(inventory, name)?;
        return match (told, left) {
            (Ok(Outcome::Ended { end }), _) | (_, Some(end)) => Ok(end),
            _ => Ok(unknown()),
        };
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
