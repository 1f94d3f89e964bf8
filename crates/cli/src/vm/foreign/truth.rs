//! `mother truth` of a VM that Mother does not run: the same table by the same rules.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use insight::verdict::{READINGS_NEEDED, standing, worst};
use watch::foreign::{ForeignAssessment, ForeignWatcher};

use super::inspect::host;
use super::open::{refused, watch};
use super::{NOT_RECOGNISED, Target, container};
use crate::answers::{self, TruthForeign};
use crate::failure::Failure;
use crate::output::{is_shown, say};
use crate::vm::verdicts::{rows, status, summary};
use crate::vm::words::printable;

/// Time between readings when only one answer is wanted, and between tables with `--watch`.
const BETWEEN: Duration = Duration::from_millis(150);
const EVERY: Duration = Duration::from_secs(1);
/// Home, and clear to the end.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Prints the table; the exit status.
pub(in crate::vm) fn truth(target: &Target, is_on: bool, is_json: bool) -> Result<u8, Failure> {
    if target.is_container() {
        return container::truth(target, is_json);
    }
    let mut watcher = watch(target)?;
    if is_on {
        return watch_on(target, &mut watcher, is_json);
    }
    let failed = |error: io::Error| refused(target, &error);
    let mut assessment = watcher.assess().map_err(failed)?;
    for _ in 1..READINGS_NEEDED {
        thread::sleep(BETWEEN);
        assessment = watcher.assess().map_err(failed)?;
    }
    let name = target.what();
    say(&if is_json {
        answers::text(&answer(&name, &watcher, &assessment))
    } else {
        table(&name, &assessment)
    })?;
    Ok(status(standing(&assessment.rows)))
}

fn watch_on(target: &Target, watcher: &mut ForeignWatcher, is_json: bool) -> Result<u8, Failure> {
    let clear = match is_shown() {
        true => CLEAR,
        false => "",
    };
    let name = target.what();
    let mut last = 0;
    loop {
        let start = Instant::now();
        // The VM has ended: so does this.
        let Ok(assessment) = watcher.assess() else {
            return Ok(last);
        };
        last = status(standing(&assessment.rows));
        say(&if is_json {
            answers::short(&answer(&name, watcher, &assessment))
        } else {
            format!("{clear}{}", table(&name, &assessment))
        })?;
        thread::sleep(EVERY.saturating_sub(start.elapsed()));
    }
}

fn answer<'a>(
    name: &'a str,
    watcher: &'a ForeignWatcher,
    assessment: &'a ForeignAssessment,
) -> TruthForeign<'a> {
    TruthForeign {
        name,
        vm: watcher.vm(),
        worst: worst(&assessment.rows),
        standing: standing(&assessment.rows),
        kernel: &assessment.kernel,
        rows: &assessment.rows,
        books: &assessment.books,
        cost: assessment.cost,
        seconds: assessment.took.as_secs_f64(),
    }
}

fn table(name: &str, assessment: &ForeignAssessment) -> String {
    let kernel = &assessment.kernel;
    let what = match (&kernel.release, &kernel.why_not) {
        (Some(release), None) => {
            let rung = kernel.rung.map_or("", insight::Rung::words);
            let disputed = match kernel.disputes.is_empty() {
                true => "",
                false => ", profile DISPUTED",
            };
            format!("Linux {} ({rung}{disputed})", printable(release))
        }
        (_, Some(why)) => format!("{}; {NOT_RECOGNISED}", printable(why)),
        (None, None) => "nothing is known of its kernel".to_owned(),
    };
    format!(
        "{name}: {what}\n{}\n{}\n{}",
        host(&assessment.books),
        rows(&assessment.rows),
        summary(&assessment.rows)
    )
}
