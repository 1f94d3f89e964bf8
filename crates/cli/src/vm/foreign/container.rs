//! Containers: `mother truth`, `ps` and `inspect` of one.

use fleet::foreign::Foreign;
use insight::amounts::size;
use insight::verdict::{standing, worst};
use watch::foreign::{ContainerProcess, ContainerTruth};

use super::Target;
use super::open::refused;
use crate::answers::{self, TruthContainer};
use crate::failure::Failure;
use crate::observed;
use crate::output::say;
use crate::vm::verdicts::{rows, status, summary};
use crate::vm::words::{columns, printable};

fn seen(target: &Target) -> Result<(Foreign, ContainerTruth), Failure> {
    let texts = observed::container().map_err(|error| refused(target, &error))?;
    Ok((texts.found().clone(), texts.judge()))
}

/// What it believes, what it may have, and what comes of it; the exit status.
pub(super) fn truth(target: &Target, is_json: bool) -> Result<u8, Failure> {
    let (found, seen) = seen(target)?;
    let name = target.what();
    say(&if is_json {
        answers::text(&TruthContainer {
            name: &name,
            container: &found,
            worst: worst(&seen.rows),
            standing: standing(&seen.rows),
            rows: &seen.rows,
            cgroup: seen.cgroup,
            processes: &seen.processes,
            missing: &seen.missing,
        })
    } else {
        text(&name, &found, &seen)
    })?;
    Ok(status(standing(&seen.rows)))
}

/// Its processes; the exit status.
pub(in crate::vm) fn processes(target: &Target, is_json: bool) -> Result<u8, Failure> {
    let (_, seen) = seen(target)?;
    say(&if is_json {
        answers::text(&seen.processes)
    } else {
        table(&seen.processes)
    })?;
    Ok(0)
}

fn table(processes: &[ContainerProcess]) -> String {
    let heads = ["PID", "INNER", "UID", "RESIDENT", "SHOWN", "COMMAND"];
    let row = |process: &ContainerProcess| {
        let nothing = || "-".to_owned();
        [
            process.pid.to_string(),
            process
                .inner_pid
                .map_or_else(nothing, |pid| pid.to_string()),
            process.uid.to_string(),
            process.resident_bytes.map_or_else(nothing, size),
            match (process.is_shown, process.is_in_cgroup) {
                (false, _) => "HIDDEN",
                (_, false) => "outside",
                _ => "yes",
            }
            .to_owned(),
            printable(&process.command),
        ]
    };
    columns(&heads, &processes.iter().map(row).collect::<Vec<_>>())
}

fn text(name: &str, found: &Foreign, seen: &ContainerTruth) -> String {
    let runtime = found.runtime.as_deref().unwrap_or("unknown");
    let frozen = match seen.cgroup.is_frozen {
        Some(true) => ", frozen",
        _ => "",
    };
    let mut text = format!(
        "{}: {runtime} container, process {}{frozen}, control group {}\n\n{}\n{}",
        printable(name),
        found.pid,
        printable(found.cgroup.as_deref().unwrap_or("-")),
        rows(&seen.rows),
        summary(&seen.rows)
    );
    for missing in &seen.missing {
        text.push_str(&format!("not observable: {missing}\n"));
    }
    text + "\n" + &table(&seen.processes)
}
