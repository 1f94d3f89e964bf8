//! `mother create`, `edit`, `delete` and `events`.

use std::fs;
use std::io::Write;
use std::process::Command;

use api::{SpecErrors, VmName};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::through::{ask_daemon, follow_daemon};
use crate::failure::Failure;
use crate::output::{say, say_done};
use crate::spec_arguments::SpecArguments;

/// What follows when a VM ends by itself.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Restart {
    Never,
    OnFailure,
    Always,
}

impl Restart {
    fn word(self) -> &'static str {
        match self {
            Restart::Never => "never",
            Restart::OnFailure => "on-failure",
            Restart::Always => "always",
        }
    }
}

/// `mother create`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The daemon (`mother serve`) keeps what is declared, starts it, and sees that it stays as it
is wanted to be. The other options are those of `mother run`.

Examples:
  mother create web debian --memory 1G --restart always --boot
  mother create batch ./image.tar --restart on-failure --stopped")]
pub struct CreateArguments {
    /// What it is called
    #[arg(value_name = "NAME", id = "vm")]
    name: String,
    /// What it is
    #[command(flatten)]
    written: SpecArguments,
    /// What follows when it ends by itself: never, on-failure or always
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "never",
        hide_possible_values = true
    )]
    restart: Restart,
    /// Start it when the daemon starts for the first time after the host did
    #[arg(long)]
    boot: bool,
    /// Lower ones are started earlier
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    order: i32,
    /// Do not start it now
    #[arg(long)]
    stopped: bool,
    /// Say what was done as JSON: an array with an object
    #[arg(long)]
    json: bool,
}

/// `mother edit`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Opens the declaration in $VISUAL or $EDITOR as TOML. What is written there holds when the VM is
started the next time; if somebody else changed it meanwhile, nothing is done.")]
pub struct EditArguments {
    /// Which VM
    #[arg(value_name = "NAME")]
    name: String,
}

/// `mother delete`.
#[derive(Clone, Debug, Args)]
pub struct DeleteArguments {
    /// Which VMs
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// End their guests at once
    #[arg(long)]
    kill: bool,
    /// Say what was done as JSON: an array with an object for each VM
    #[arg(long)]
    json: bool,
}

/// `mother events`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  mother events
  mother events --follow --json | jq 'select(.severity == \"critical\")'")]
pub struct EventsArguments {
    /// Go on with what happens
    #[arg(short, long)]
    follow: bool,
    /// Only those behind this number
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
    /// Only those of this VM
    #[arg(long, value_name = "NAME")]
    vm: Option<String>,
    /// An object on a line for each
    #[arg(long)]
    json: bool,
}

pub(super) fn name(typed: &str) -> Result<VmName, Failure> {
    VmName::new(typed).map_err(|source| Failure::Name {
        name: typed.to_owned(),
        source,
    })
}

/// Declares a VM; the exit status.
pub fn create(arguments: &CreateArguments) -> Result<u8, Failure> {
    let name = name(&arguments.name)?;
    let written = &arguments.written.0;
    if !written.complaints.is_empty() {
        return Err(SpecErrors {
            name: name.to_string(),
            complaints: written.complaints.clone(),
        }
        .into());
    }
    let declaration = json!({
        "name": name.as_str(),
        "spec": written.spec.said(),
        "desired": if arguments.stopped { "stopped" } else { "running" },
        "restart": arguments.restart.word(),
        "boot": arguments.boot,
        "order": arguments.order,
        "folder": std::env::current_dir().unwrap_or_default(),
    });
    ask_daemon("POST", "/v1/vms", Some(&declaration), None)?;
    say_done(&name, arguments.json)?;
    Ok(0)
}

/// Forgets VMs; the exit status.
pub fn delete(arguments: &DeleteArguments) -> Result<u8, Failure> {
    let names = arguments.names.iter().map(|typed| name(typed));
    for name in names.collect::<Result<Vec<_>, _>>()? {
        let path = format!("/v1/vms/{name}?wait=300&kill={}", arguments.kill);
        ask_daemon("DELETE", &path, None, None)?;
        say_done(&name, arguments.json)?;
    }
    Ok(0)
}

/// Has a declaration changed in an editor; the exit status.
pub fn edit(arguments: &EditArguments) -> Result<u8, Failure> {
    let name = name(&arguments.name)?;
    let path = format!("/v1/vms/{name}");
    let vm = ask_daemon("GET", &path, None, None)?;
    let Value::Object(mut declared) = vm.body["declared"].clone() else {
        return Err(Failure::NotNow {
            act: "edit",
            name,
            why: "it is not declared".to_owned(),
            help: "`mother create` declares a VM, `mother update` changes one that was started with `mother run`",
        });
    };
    declared.remove("version");
    let before =
        toml::to_string_pretty(&declared).map_err(|error| Failure::Edit(error.to_string()))?;
    let Some(after) = edited(&before)? else {
        eprintln!("mother: nothing was changed");
        return Ok(0);
    };
    let mut changed: Map<String, Value> =
        toml::from_str(&after).map_err(|error| Failure::Edit(error.to_string()))?;
    changed.insert("name".to_owned(), json!(name.as_str()));
    ask_daemon("PUT", &path, Some(&Value::Object(changed)), vm.version)?;
    say_done(&name, false)?;
    Ok(0)
}

/// What a person makes of a text; none if it stays as it is.
fn edited(text: &str) -> Result<Option<String>, Failure> {
    let failed = |error: std::io::Error| Failure::Edit(error.to_string());
    let mut file = tempfile::Builder::new()
        .suffix(".toml")
        .tempfile()
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    let editor = std::env::var("VISUAL")
        .or_else(|_| std::env::var("EDITOR"))
        .unwrap_or_else(|_| "vi".to_owned());
    // With arguments of its own, as people have it in EDITOR.
    let status = Command::new("sh")
        .args(["-c", &format!("{editor} \"$1\""), "sh"])
        .arg(file.path())
        .status()
        .map_err(failed)?;
    if !status.success() {
        return Err(Failure::Edit(format!("{editor} ended with {status}")));
    }
    let after = fs::read_to_string(file.path()).map_err(failed)?;
    Ok((after != text).then_some(after))
}

/// Prints what happened; the exit status.
pub fn events(arguments: &EventsArguments) -> Result<u8, Failure> {
    let mut failure = None;
    let mut show = |event: &Value| {
        if arguments.vm.as_deref().is_some_and(|vm| event["vm"] != vm) {
            return true;
        }
        let line = if arguments.json {
            format!("{event}\n")
        } else {
            line(event)
        };
        match say(&line) {
            Ok(()) => true,
            Err(error) => {
                failure = Some(error);
                false
            }
        }
    };
    let mut path = format!("/v1/events?after={}", arguments.after.unwrap_or(0));
    let mut last = arguments.after.unwrap_or(0);
    loop {
        let answer = ask_daemon("GET", &path, None, None)?;
        let events = answer.body["events"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        for event in &events {
            last = event["id"].as_u64().unwrap_or(last);
            if !show(event) {
                break;
            }
        }
        if events.is_empty() {
            break;
        }
        path = format!("/v1/events?after={last}");
    }
    if arguments.follow {
        follow_daemon(&format!("/v1/events/stream?after={last}"), |text| {
            let Some(data) = text.strip_prefix("data: ").or(text.strip_prefix("data:")) else {
                return true;
            };
            match serde_json::from_str::<Value>(data) {
                Ok(event) if event["id"].is_u64() => show(&event),
                _ => true,
            }
        })?;
    }
    failure.map_or(Ok(0), Err)
}

fn line(event: &Value) -> String {
    let text = |key: &str| event[key].as_str().unwrap_or("-").to_owned();
    let seconds = event["at"].as_f64().unwrap_or(0.0);
    let at = insight::timestamp((seconds * 1e9) as u64);
    let said: String = text("text")
        .chars()
        .map(|it| if it.is_control() { '\u{fffd}' } else { it })
        .collect();
    format!(
        "{:>5}  {at}  {:<8}  {}  {}: {said}\n",
        event["id"].as_u64().unwrap_or(0),
        text("severity"),
        text("vm"),
        text("kind"),
    )
}
