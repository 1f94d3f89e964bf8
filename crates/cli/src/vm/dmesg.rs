//! `mother dmesg`: the log of a guest's kernel.

use clap::Args;
use insight::log::LogRecord;

use super::foreign::{self, MemoryArguments, Target};
use super::observe::{look, seen, watch};
use super::words::printable;
use crate::answers;
use crate::failure::Failure;
use crate::observed::Observation;
use crate::output::say;

/// `mother dmesg`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The log is read out of the guest's memory, so it is there also when nothing in the
guest answers any more. TIME is the guest's, in seconds since its kernel started.

Examples:
  mother dmesg web | tail
  mother dmesg --json web | jq -r '.[] | select(.level <= 3) | .text'
  mother dmesg --memory vmcore | tail    what the kernel in a dump said last")]
pub struct DmesgArguments {
    /// Which VM
    #[arg(value_name = "NAME", required_unless_present = "memory")]
    name: Option<String>,
    #[command(flatten)]
    memory: MemoryArguments,
    /// As JSON: an array of objects
    #[arg(long)]
    json: bool,
}

impl DmesgArguments {
    /// The guest whose memory this reads.
    pub fn looks_into(&self) -> Result<Option<Observation>, Failure> {
        foreign::looks_into(self.name.as_deref(), &self.memory)
    }
}

/// Prints the log; the exit status.
pub fn dmesg(arguments: &DmesgArguments) -> Result<u8, Failure> {
    if let Some(target) = Target::of(arguments.name.as_deref(), &arguments.memory) {
        let log = foreign::seen(&target, |look| look.kernel_log())?;
        return print(&log, arguments.json);
    }
    let (name, mut watcher) = watch(arguments.name.as_deref().unwrap_or_default())?;
    let log = look(&name, &mut watcher, |_, look| {
        seen(&name, look.kernel_log())
    })?;
    print(&log, arguments.json)
}

fn print(log: &[LogRecord], is_json: bool) -> Result<u8, Failure> {
    if is_json {
        say(&answers::text(&log))?;
        return Ok(0);
    }
    let mut text = String::new();
    for record in log {
        let at = record.time_ns / 1000;
        let seconds = at / 1_000_000;
        let micros = at % 1_000_000;
        for line in record.text.lines() {
            text.push_str(&format!("[{seconds:5}.{micros:06}] {}\n", printable(line)));
        }
    }
    say(&text)?;
    Ok(0)
}
