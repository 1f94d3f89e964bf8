//! Processes of a guest as ps(1) would show them.

use insight::amounts::{size, time};
use insight::tasks::Process;

use super::words::{columns, printable};
use crate::answers;
use crate::failure::Failure;
use crate::output::say;

/// Prints processes as they are wanted.
pub(super) fn print(processes: &[Process], is_json: bool) -> Result<u8, Failure> {
    say(&if is_json {
        answers::text(&processes)
    } else {
        table(processes)
    })?;
    Ok(0)
}

const HEADS: [&str; 8] = [
    "PID",
    "PPID",
    "UID",
    "S",
    "CPU",
    "RESIDENT",
    "CONTAINER",
    "COMMAND",
];

/// A line for each process.
pub(super) fn table(processes: &[Process]) -> String {
    columns(&HEADS, &processes.iter().map(row).collect::<Vec<_>>())
}

/// What ps(1) would show.
pub(super) fn row(process: &Process) -> [String; 8] {
    let container = process
        .container
        .as_ref()
        .map_or("-".to_owned(), |container| {
            let short: String = container.id.chars().take(12).collect();
            printable(
                &container
                    .runtime
                    .as_ref()
                    .map_or(short.clone(), |runtime| format!("{runtime}:{short}")),
            )
        });
    [
        process.pid.to_string(),
        process.parent_pid.to_string(),
        process.uid.to_string(),
        process.state.letter().to_string(),
        time(process.cpu_time_ns as f64 / 1e9),
        size(process.resident_bytes),
        container,
        command(process),
    ]
}

/// The command line, or the name in brackets where there is none.
fn command(process: &Process) -> String {
    let words = process
        .command_line
        .value()
        .filter(|words| !words.is_empty());
    let name = process.full_name.as_ref().unwrap_or(&process.comm);
    printable(&words.map_or_else(|| format!("[{name}]"), |words| words.join(" ")))
}
