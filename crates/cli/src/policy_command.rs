//! `mother policy`: looks at policies before they are followed.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use api::VmName;
use clap::{Args, Subcommand};
use policy::{Engine, Seen, preset};
use serde_json::Value;

use crate::answers::{self, CheckedPolicy};
use crate::failure::Failure;
use crate::output::say;
use crate::read_policy::read_policy;
use crate::vm::decision_words;

/// Longest line of a record.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// `mother policy`.
#[derive(Clone, Debug, Args)]
pub struct PolicyArguments {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum PolicyCommand {
    /// Say whether a policy can be followed, and what is wrong with it
    Check(CheckArguments),
    /// Say what a policy would have decided on events that were recorded with `mother trace --json`
    Test(TestArguments),
    /// Print a preset, to begin a policy of one's own with
    Show(ShowArguments),
}

/// `mother policy check`.
#[derive(Clone, Debug, Args)]
struct CheckArguments {
    /// A file, or a preset: observe, guarded, locked
    #[arg(value_name = "FILE|PRESET")]
    policy: String,
    /// As JSON: an object
    #[arg(long)]
    json: bool,
}

/// `mother policy test`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Nothing is done. Times are those of the record, so budgets, cool-downs and exceptions come
to what they would have.

Examples:
  mother trace --json --for 10m web > day.jsonl
  mother policy test site.toml --events day.jsonl")]
struct TestArguments {
    /// A file, or a preset: observe, guarded, locked
    #[arg(value_name = "FILE|PRESET")]
    policy: String,
    /// What `mother trace --json` wrote; - for standard input
    #[arg(long, value_name = "FILE")]
    events: PathBuf,
    /// As JSON: an object on a line for each decision
    #[arg(long)]
    json: bool,
}

/// `mother policy show`.
#[derive(Clone, Debug, Args)]
struct ShowArguments {
    /// observe, guarded, or locked
    #[arg(value_name = "PRESET", value_parser = ["observe", "guarded", "locked"])]
    preset: String,
}

/// Does what was asked; the exit status.
pub fn run(arguments: &PolicyArguments) -> Result<u8, Failure> {
    match &arguments.command {
        PolicyCommand::Check(arguments) => check(arguments),
        PolicyCommand::Test(arguments) => test(arguments),
        PolicyCommand::Show(arguments) => {
            say(preset(&arguments.preset).unwrap_or_default())?;
            Ok(0)
        }
    }
}

fn check(arguments: &CheckArguments) -> Result<u8, Failure> {
    let policy = read_policy(&arguments.policy)?;
    let checked = CheckedPolicy {
        rules: policy.rules.iter().map(|rule| rule.name.clone()).collect(),
        exceptions: policy.exceptions.len(),
        events: policy.event_kinds(),
        dry_run: policy.dry_run,
    };
    if arguments.json {
        say(&answers::text(&checked))?;
        return Ok(0);
    }
    let kinds: Vec<&str> = checked.events.iter().map(|kind| kind.word()).collect();
    let mut text = format!(
        "{} rules, {} exceptions; events: {}\n",
        checked.rules.len(),
        checked.exceptions,
        if kinds.is_empty() {
            "none".to_owned()
        } else {
            kinds.join(", ")
        }
    );
    if checked.dry_run {
        text.push_str("dry run: nothing will be done\n");
    }
    say(&text)?;
    Ok(0)
}

fn test(arguments: &TestArguments) -> Result<u8, Failure> {
    let mut engine = Engine::new(read_policy(&arguments.policy)?);
    let failed = |source| Failure::PolicyFile {
        path: arguments.events.clone(),
        source,
    };
    let mut reader: Box<dyn BufRead> = if arguments.events.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(BufReader::new(
            fs::File::open(&arguments.events).map_err(failed)?,
        ))
    };
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let mut limited = (&mut reader).take(LINE_BYTES_MAX);
        if limited.read_until(b'\n', &mut line).map_err(failed)? == 0 {
            break;
        }
        let wrong = |why: String| Failure::Record {
            path: arguments.events.clone(),
            line: number,
            why,
        };
        if line.trim_ascii().is_empty() {
            continue;
        }
        let event: Value =
            serde_json::from_slice(&line).map_err(|error| wrong(error.to_string()))?;
        // How far events are told, and how many were not, is no event.
        if matches!(
            event.get("event").and_then(Value::as_str),
            Some("begins" | "lost")
        ) {
            continue;
        }
        let name = event.get("name").and_then(Value::as_str);
        let name = name.and_then(|name| VmName::new(name).ok());
        let at = event.get("at_ns").and_then(Value::as_u64);
        let (Some(name), Some(at)) = (name, at) else {
            let why =
                "not an event as `mother trace --json` writes it: it has no `name` or no `at_ns`";
            return Err(wrong(why.to_owned()));
        };
        for decision in engine.see(&name, at, &Seen::Recorded(&event)) {
            say(&if arguments.json {
                answers::short(&decision)
            } else {
                decision_words(&decision)
            })?;
        }
    }
    Ok(0)
}
