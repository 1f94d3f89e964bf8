//! `mother dmesg`: the log of a guest's kernel.

use clap::Args;

use super::observe::{look, seen, watch};
use super::words::printable;
use crate::answers;
use crate::failure::Failure;
use crate::output::say;

/// `mother dmesg`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The log is read out of the guest's memory, so it is there also when nothing in the
guest answers any more. TIME is the guest's, in seconds since its kernel started.

Examples:
  mother dmesg web | tail
  mother dmesg --json web | jq -r '.[] | select(.level <= 3) | .text'")]
pub struct DmesgArguments {
    /// Which VM
    #[arg(value_name = "NAME")]
    name: String,
    /// As JSON: an array of objects
    #[arg(long)]
    json: bool,
}

/// Prints the log; the exit status.
pub fn dmesg(arguments: &DmesgArguments) -> Result<u8, Failure> {
    let (name, mut watcher) = watch(&arguments.name)?;
    let log = look(&name, &mut watcher, |_, look| {
        seen(&name, look.kernel_log())
    })?;
    if arguments.json {
        say(&answers::text(&log))?;
        return Ok(0);
    }
    let mut text = String::new();
    for record in &log {
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
