//! `mother truth`: claim, kernel's book and truth side by side, and what comes of it.

use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use fleet::ClientError;
use insight::verdict::{standing, worst};
use watch::{Assessment, Watcher};

use super::all_watched::watch_all;
use super::everybody::everybody;
use super::foreign::{self, Target};
use super::given;
use super::observe::{failed, watch};
use super::verdicts::{rows, settled, status, summary};
use super::words::printable;
use crate::answers::{self, Truth};
use crate::failure::Failure;
use crate::observed::{Guests, Observation};
use crate::output::{is_shown, say};
use api::VmName;

/// Time between tables with `--watch`.
const EVERY: Duration = Duration::from_secs(1);
/// Home, and clear to the end.
const CLEAR: &str = "\x1b[H\x1b[J";

/// `mother truth`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
CLAIM is what programs and drivers in the guest say, KERNEL what the guest's kernel has
in its own books, TRUTH what the host counted. `agrees`; `costs`: no book is wrong, and
somebody pays for the difference; `differs`: may be skew, was not there often enough yet;
`CONTRADICTS`: two that must agree do not, again and again.

Exit status:
  0 everything could be compared and nothing contradicts, 1 something contradicts,
  4 blind: nothing contradicts, and something could not be compared (the kernel is
  not recognised, memory cannot be read, a check cannot be made)

Examples:
  mother truth
  mother truth web
  mother truth --watch web
  mother truth qemu:web           a VM that somebody else runs; `mother ps --all` lists them
  mother truth container:4f5e6d7c what a container believes, and what it may have
  mother truth --json web | jq '.rows[] | select(.verdict == \"contradicts\")'")]
pub struct TruthArguments {
    /// Which VM; without a name all of them, a line each, and what they believe beside what the host has
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// A new table every second, until Ctrl-C or the end of the VM
    #[arg(short, long)]
    watch: bool,
    /// As JSON: an object; with --watch one on a line every second, or of all VMs one for each when something is new
    #[arg(long)]
    json: bool,
}

impl TruthArguments {
    /// The guests whose memory this reads.
    pub fn looks_into(&self) -> Result<Option<Observation>, Failure> {
        match &self.name {
            Some(name) => foreign::looks_into_named(name),
            None => Ok(Some(Observation::to_see(Guests::All))),
        }
    }
}

/// Prints the table; the exit status.
pub fn truth(arguments: &TruthArguments) -> Result<u8, Failure> {
    let Some(name) = &arguments.name else {
        return if arguments.watch {
            watch_all(arguments.json)
        } else {
            everybody(arguments.json)
        };
    };
    if let Some(target) = Target::named(name) {
        return foreign::truth(&target, arguments.watch, arguments.json);
    }
    let (name, mut watcher) = watch(name)?;
    if arguments.watch {
        return watch_on(&name, &mut watcher.for_long(), arguments.json);
    }
    let assessment = settled(&mut watcher).map_err(failed(&name))?;
    let text = if arguments.json {
        answers::text(&answer(&name, &assessment))
    } else {
        table(&name, &assessment)
    };
    say(&text)?;
    Ok(status(standing(&assessment.rows)))
}

fn watch_on(name: &VmName, watcher: &mut Watcher, is_json: bool) -> Result<u8, Failure> {
    let clear = if is_shown() { CLEAR } else { "" };
    let mut last = 0;
    loop {
        let start = Instant::now();
        let assessment = match watcher.assess() {
            Ok(assessment) => assessment,
            // The VM has ended: so does this.
            Err(ClientError::Connection(_)) => return Ok(last),
            // It starts again just now.
            Err(ClientError::Refused { .. }) => {
                thread::sleep(EVERY);
                continue;
            }
            Err(error) => return Err(failed(name)(error)),
        };
        last = status(standing(&assessment.rows));
        say(&if is_json {
            answers::short(&answer(name, &assessment))
        } else {
            format!("{clear}{}", table(name, &assessment))
        })?;
        watcher.wait(EVERY.saturating_sub(start.elapsed()));
    }
}

fn answer<'a>(name: &'a VmName, assessment: &'a Assessment) -> Truth<'a> {
    Truth {
        name,
        worst: worst(&assessment.rows),
        standing: standing(&assessment.rows),
        kernel: &assessment.kernel,
        rows: &assessment.rows,
        memory: &assessment.books.memory,
        working_set: assessment.books.working_set,
        cost: &assessment.cost,
    }
}

/// The table, and below it every difference in words.
pub(super) fn table(name: &VmName, assessment: &Assessment) -> String {
    let given = given::lines(&assessment.books.memory, assessment.books.working_set)
        .unwrap_or_default()
        + &given::cost_lines(assessment.books.host_cost.as_ref());
    format!(
        "{}\n{given}\n{}\n{}",
        headline(name, assessment),
        rows(&assessment.rows),
        summary(&assessment.rows)
    )
}

/// What the table stands on.
fn headline(name: &VmName, assessment: &Assessment) -> String {
    let kernel = &assessment.kernel;
    let release = kernel.release.as_ref().map(|release| {
        let rung = kernel.rung.map_or("", insight::Rung::words);
        let disputed = if kernel.disputes.is_empty() {
            ""
        } else {
            ", profile DISPUTED"
        };
        format!("Linux {} ({rung}{disputed})", printable(release))
    });
    let why = kernel.why_not.as_ref().map(|why| printable(why));
    [Some(format!("VM {name}")), release, why]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(": ")
}
