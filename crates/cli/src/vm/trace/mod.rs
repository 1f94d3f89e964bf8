//! `mother trace`: what a guest does, told as it does it.

mod otlp;
pub(super) mod words;

use std::time::{Duration, Instant};

use api::VmName;
use clap::{Args, ValueEnum};
use fleet::{ClientError, Inventory};
use insight::timestamp;
use insight::trace::{Event, EventKind, Reach, Wanted};
use watch::{Listener, Tracer};

use super::observe::{cache, failed};
use super::orders::{check_alive, time};
use super::words::find;
use crate::answers::{self, TraceBegins, TraceLost, Traced, TracedKind};
use crate::failure::Failure;
use crate::observed::{Guests, Observation};
use crate::output::say;

/// The verb.
const ACT: &str = "trace";

/// How events are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    /// A line for people
    Text,
    /// An object on a line
    Json,
    /// OpenTelemetry: a request of logs on a line, as collectors read it from files
    Otlp,
}

/// Kinds that are not told unless they are asked for: one comes with every process, the other needs to be told of what.
const NOT_USUAL: [EventKind; 2] = [EventKind::Fork, EventKind::Open];

/// `mother trace`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Events: exec, fork, exit, credentials, module, connect, bind, accept, open, mount, ptrace,
bpf, log, panic. Without --events all but fork and open. On the software CPU every one of
them is told, on KVM every one of four kinds (exec, exit, credentials and module first) and
of the others what is still there when it is looked for; how far each is told is said first. Nothing runs in the guest for this, and nothing in it is changed.

Examples:
  mother trace web
  mother trace --events exec,exit,connect --for 10s web
  mother trace --file /etc/shadow --file /root/.ssh/authorized_keys web
  mother trace --json web | jq -r 'select(.event == \"exec\") | .arguments | join(\" \")'")]
pub struct TraceArguments {
    /// Which VM
    #[arg(value_name = "NAME")]
    name: String,
    /// Kinds of events, or `all`
    #[arg(long, value_name = "KIND,...", value_delimiter = ',', value_parser = kinds)]
    events: Vec<Kinds>,
    /// Tell when this file of the guest's is opened; may be given again
    #[arg(long = "file", value_name = "PATH", value_parser = file)]
    files: Vec<String>,
    /// For so long: seconds, or with s, m or h [default: until Ctrl-C or the end of the VM]
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    limit: Option<Duration>,
    /// Only look four times a second for what has changed: the guest pays nothing, and what is short is missed
    #[arg(long)]
    sample: bool,
    /// How to write events
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// As JSON: an object on a line for each event
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

impl TraceArguments {
    /// The guests whose memory this reads.
    pub fn looks_into(&self) -> Option<Observation> {
        Guests::named(&self.name).map(Observation::to_see)
    }
}

/// One kind, or all.
#[derive(Clone, Debug)]
struct Kinds(Vec<EventKind>);

fn kinds(word: &str) -> Result<Kinds, String> {
    if word == "all" {
        return Ok(Kinds(EventKind::ALL.to_vec()));
    }
    EventKind::of(word)
        .map(|kind| Kinds(vec![kind]))
        .ok_or_else(|| {
            let words = EventKind::ALL.map(EventKind::word).join(", ");
            format!("there are {words}, and all")
        })
}

fn file(path: &str) -> Result<String, String> {
    let is_name = path.starts_with('/')
        && path.len() > 1
        && path
            .split('/')
            .skip(1)
            .all(|name| !["", ".", ".."].contains(&name) && name.len() <= 255);
    match is_name {
        true => Ok(path.to_owned()),
        false => Err(
            "write the path from the guest's root, without links, `.` and `..`, such as /etc/shadow"
                .to_owned(),
        ),
    }
}

impl TraceArguments {
    fn wanted(&self) -> Wanted {
        let usual = EventKind::ALL
            .into_iter()
            .filter(|kind| !NOT_USUAL.contains(kind));
        let mut kinds: Vec<EventKind> = match self.events.as_slice() {
            [] => usual.collect(),
            asked => asked.iter().flat_map(|kinds| kinds.0.clone()).collect(),
        };
        if !self.files.is_empty() {
            kinds.push(EventKind::Open);
        }
        kinds.sort_unstable();
        kinds.dedup();
        Wanted {
            kinds,
            files: self.files.clone(),
        }
    }
}

/// Prints events as they come; the exit status.
pub fn trace(arguments: &TraceArguments) -> Result<u8, Failure> {
    let inventory = Inventory::of_user()?;
    let vm = find(&inventory, &arguments.name)?;
    check_alive(&vm, ACT)?;
    let name = vm.name;
    let tracer = Tracer::connect(inventory.record(&name), cache(), arguments.wanted());
    let mut tracer = tracer.map_err(failed(&name))?;
    if arguments.sample {
        tracer = tracer.only_looking();
    }
    let mut printer = Printer {
        name: &name,
        format: if arguments.json {
            Format::Json
        } else {
            arguments.format
        },
        end: arguments.limit.map(|limit| Instant::now() + limit),
        failure: None,
    };
    match tracer.run(&mut printer) {
        // The VM has ended: so does this.
        Ok(()) | Err(ClientError::Connection(_)) => {}
        Err(error) => return Err(failed(&name)(error)),
    }
    printer.failure.map_or(Ok(0), Err)
}

/// Writes events to standard output.
struct Printer<'a> {
    name: &'a VmName,
    format: Format,
    end: Option<Instant>,
    /// Why nothing more can be written.
    failure: Option<Failure>,
}

impl Printer<'_> {
    /// Whether more is wanted after this was written.
    fn write(&mut self, text: &str) -> bool {
        self.failure = say(text).err();
        self.failure.is_none() && !self.is_over()
    }

    fn is_over(&self) -> bool {
        self.end.is_some_and(|end| Instant::now() >= end)
    }
}

impl Listener for Printer<'_> {
    fn begins(&mut self, life: u64, reaches: &[(EventKind, Reach)]) {
        match self.format {
            Format::Text | Format::Otlp => {
                for line in words::reaches(self.name, reaches) {
                    eprintln!("mother: {line}");
                }
            }
            Format::Json => {
                let kind = |(kind, reach): &(EventKind, Reach)| TracedKind {
                    kind: *kind,
                    reach: reach.clone(),
                };
                self.write(&answers::short(&TraceBegins {
                    name: self.name,
                    event: "begins",
                    life,
                    kinds: reaches.iter().map(kind).collect(),
                }));
            }
        }
    }

    fn event(&mut self, event: &Event) -> bool {
        if self.is_over() {
            return false;
        }
        let text = match self.format {
            Format::Text => words::line(event),
            Format::Json => answers::short(&Traced {
                name: self.name,
                at: timestamp(event.at_ns),
                what: event,
            }),
            Format::Otlp => answers::short(&otlp::request(self.name, event)),
        };
        self.write(&text)
    }

    fn lost(&mut self, count: u64) {
        match self.format {
            Format::Text | Format::Otlp => {
                eprintln!(
                    "mother: {count} passes of the guest's kernel were not told: they came faster than they were read"
                );
            }
            Format::Json => {
                self.write(&answers::short(&TraceLost {
                    name: self.name,
                    event: "lost",
                    count,
                }));
            }
        }
    }

    fn quiet(&mut self) -> bool {
        self.failure.is_none() && !self.is_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_paths_from_the_root() {
        let check = |path: &str, is_right| assert_eq!(file(path).is_ok(), is_right, "{path}");
        check("/etc/shadow", true);
        check("/a", true);
        check("etc/shadow", false);
        check("/", false);
        check("/etc/", false);
        check("/etc//shadow", false);
        check("/etc/../shadow", false);
        check(&format!("/{}", "x".repeat(256)), false);
    }

    #[test]
    fn what_is_named_is_told_and_the_rest_is_usual() {
        use clap::Parser;
        #[derive(Parser)]
        struct Typed {
            #[command(flatten)]
            trace: TraceArguments,
        }
        let check = |typed: &[&str], expected: &[EventKind]| {
            let words = ["trace", "web"].iter().chain(typed);
            let wanted = Typed::parse_from(words).trace.wanted();
            assert_eq!(wanted.kinds, expected, "{typed:?}");
        };
        check(
            &["--events", "exit,exec,exit"],
            &[EventKind::Exec, EventKind::Exit],
        );
        check(
            &["--events", "exec", "--file", "/etc/shadow"],
            &[EventKind::Exec, EventKind::Open],
        );
        check(&["--events", "all"], &EventKind::ALL);
        let usual = EventKind::ALL
            .into_iter()
            .filter(|kind| !NOT_USUAL.contains(kind));
        check(&[], &usual.collect::<Vec<_>>());
    }
}
