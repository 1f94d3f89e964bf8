//! `mother logs`: what a VM printed, and how it ended.

use std::io::Write;
use std::thread;
use std::time::Duration;

use api::VmState;
use clap::Args;
use fleet::{Inventory, Tail, Vm, follow};

use crate::answers::{self, Log};
use crate::failure::Failure;
use crate::output::{say, standard_output};
use crate::vm::orders::is_alive;
use crate::vm::words::find;

/// How often a log is looked at for more.
const PAUSE: Duration = Duration::from_millis(100);
/// Lines of the log that are shown with a death.
const LAST_MESSAGES: usize = 20;

/// `mother logs`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The console's bytes go to standard output as the guest sent them, the last 2 to 4 MiB
of them. How an ended VM ended is said on standard error.

Examples:
  mother logs --tail 50 web
  mother logs -f web | grep --line-buffered error")]
pub struct LogsArguments {
    /// Which VM
    #[arg(value_name = "NAME")]
    name: String,
    /// Go on with what it prints until it ends
    #[arg(short, long)]
    follow: bool,
    /// Only the last N lines [default: all that is kept]
    #[arg(short = 'n', long, value_name = "N")]
    tail: Option<usize>,
    /// As JSON: an object with what it printed, what its processes said, and how it ended
    #[arg(long, conflicts_with = "follow")]
    json: bool,
}

/// Prints the log; the exit status.
pub fn logs(arguments: &LogsArguments) -> Result<u8, Failure> {
    let inventory = Inventory::of_user()?;
    let vm = find(&inventory, &arguments.name)?;
    let record = inventory.record(&vm.name);
    let failed = |source| Failure::Log {
        name: vm.name.clone(),
        source,
    };
    let tail = arguments.tail.map_or(Tail::All, Tail::Lines);
    let (bytes, mut rest) = follow(&record, tail).map_err(failed)?;
    if arguments.json {
        return say_all(&inventory, &vm, &bytes);
    }
    let mut output = standard_output().map_err(Failure::Output)?;
    output.write_all(&bytes).map_err(Failure::Output)?;
    let mut is_alive_now = is_alive(&vm);
    while arguments.follow && is_alive_now {
        thread::sleep(PAUSE);
        // Asked first, so that nothing comes after the last look.
        is_alive_now = inventory.is_running(&vm.name)?;
        let more = rest.more().map_err(failed)?;
        output.write_all(&more).map_err(Failure::Output)?;
    }
    if !is_alive_now {
        say_end(&inventory, &vm);
    }
    Ok(0)
}

/// All of it for programs.
fn say_all(inventory: &Inventory, vm: &Vm, console: &[u8]) -> Result<u8, Failure> {
    say(&answers::text(&Log {
        name: &vm.name,
        state: vm.state,
        console: String::from_utf8_lossy(console).into_owned(),
        messages: messages(inventory, vm),
        end: vm.end.as_ref(),
    }))?;
    Ok(0)
}

/// What the VM's processes said of themselves.
fn messages(inventory: &Inventory, vm: &Vm) -> String {
    let messages = std::fs::read(inventory.record(&vm.name).messages()).unwrap_or_default();
    String::from_utf8_lossy(&messages).into_owned()
}

fn say_end(inventory: &Inventory, vm: &Vm) {
    let Ok(Vm {
        state,
        end: Some(end),
        ..
    }) = inventory.find(&vm.name)
    else {
        return;
    };
    eprintln!("mother: VM \"{}\" has ended: {}", vm.name, end.message);
    for line in end.detail.iter().flat_map(|detail| detail.lines()) {
        eprintln!("  {line}");
    }
    if state == VmState::Died || end.kind == api::EndKind::Failed {
        let messages = messages(inventory, vm);
        let lines: Vec<&str> = messages.lines().collect();
        for line in &lines[lines.len().saturating_sub(LAST_MESSAGES)..] {
            eprintln!("  {}", line.escape_debug());
        }
    }
}
