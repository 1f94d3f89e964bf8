//! `mother truth`: claim, kernel's book and truth side by side, and what comes of it.

use std::io::IsTerminal;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use daemon::{Glance, Watcher};
use insight::verdict::{READINGS_NEEDED, Row, Verdict, worst};
use serde_json::json;

use super::given;
use super::observe::{failed, watch};
use super::words::{columns, printable};
use crate::failure::{ANSWER_IS_NO, Failure};
use crate::output::say;
use api::VmName;

/// Time between readings when only one answer is wanted.
const BETWEEN: Duration = Duration::from_millis(150);
/// And when something differs that more readings may settle: so long, so often.
const SETTLING: Duration = Duration::from_secs(3);
const SETTLING_BETWEEN: Duration = Duration::from_millis(400);
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

Exit status: 1 if something contradicts, 0 if not.

Examples:
  mother truth web
  mother truth --watch web
  mother truth --json web | jq '.rows[] | select(.verdict == \"contradicts\")'")]
pub struct TruthArguments {
    /// Which VM
    #[arg(value_name = "NAME")]
    name: String,
    /// A new table every second, until Ctrl-C or the end of the VM
    #[arg(short, long)]
    watch: bool,
    /// As JSON: an object; with --watch one on a line every second
    #[arg(long)]
    json: bool,
}

/// Prints the table; the exit status.
pub fn truth(arguments: &TruthArguments) -> Result<u8, Failure> {
    let (name, mut watcher) = watch(&arguments.name)?;
    if arguments.watch {
        return watch_on(&name, &mut watcher, arguments.json);
    }
    let glance = settled(&name, &mut watcher)?;
    let text = if arguments.json { format!("{:#}\n", value(&name, &glance)) } else { table(&name, &glance) };
    say(&text)?;
    Ok(status(&glance))
}

fn status(glance: &Glance) -> u8 {
    if worst(&glance.rows) == Verdict::Contradicts { ANSWER_IS_NO } else { 0 }
}

/// As many readings as it takes to tell skew from contradiction.
pub(super) fn settled(name: &VmName, watcher: &mut Watcher) -> Result<Glance, Failure> {
    let mut glance = watcher.glance().map_err(failed(name))?;
    for _ in 1..READINGS_NEEDED {
        thread::sleep(BETWEEN);
        glance = watcher.glance().map_err(failed(name))?;
    }
    let until = Instant::now() + SETTLING;
    while Instant::now() < until && glance.rows.iter().any(|row| row.verdict == Verdict::Differs) {
        thread::sleep(SETTLING_BETWEEN);
        glance = watcher.glance().map_err(failed(name))?;
    }
    Ok(glance)
}

fn watch_on(name: &VmName, watcher: &mut Watcher, is_json: bool) -> Result<u8, Failure> {
    let clear = if std::io::stdout().is_terminal() { CLEAR } else { "" };
    let mut last = 0;
    loop {
        let glance = match watcher.glance() {
            Ok(glance) => glance,
            // The VM has ended: so does this.
            Err(daemon::ClientError::Connection(_)) => return Ok(last),
            // It starts again just now.
            Err(daemon::ClientError::Refused { .. }) => {
                thread::sleep(EVERY);
                continue;
            }
            Err(error) => return Err(failed(name)(error)),
        };
        last = status(&glance);
        say(&if is_json {
            format!("{}\n", value(name, &glance))
        } else {
            format!("{clear}{}", table(name, &glance))
        })?;
        thread::sleep(EVERY);
    }
}

/// Documented in docs/insight.md.
fn value(name: &VmName, glance: &Glance) -> serde_json::Value {
    json!({
        "name": name,
        "worst": worst(&glance.rows),
        "kernel": glance.kernel,
        "rows": glance.rows,
        "memory": glance.books.memory,
        "working_set": glance.books.working_set,
        "cost": glance.cost,
    })
}

const HEADS: [&str; 5] = ["SUBJECT", "CLAIM", "KERNEL", "TRUTH", "VERDICT"];

/// The table, and below it every difference in words.
pub(super) fn table(name: &VmName, glance: &Glance) -> String {
    let given = given::lines(&glance.books.memory, glance.books.working_set).unwrap_or_default();
    format!("{}\n{given}\n{}", headline(name, glance), rows(&glance.rows))
}

/// What the table stands on.
fn headline(name: &VmName, glance: &Glance) -> String {
    let kernel = &glance.kernel;
    match (&kernel.release, &kernel.why_not) {
        (Some(release), _) => {
            let rung = kernel.rung.map_or("", insight::Rung::words);
            let disputed = if kernel.disputes.is_empty() { "" } else { ", profile DISPUTED" };
            format!("VM {name}: Linux {} ({rung}{disputed})", printable(release))
        }
        (None, Some(why)) => format!("VM {name}: {}", printable(why)),
        (None, None) => format!("VM {name}"),
    }
}

/// Rows as people read them.
pub(crate) fn rows(rows: &[Row]) -> String {
    let cell = |text: &Option<String>| text.as_deref().map_or("-".to_owned(), printable);
    let line = |row: &Row| {
        [
            printable(&row.subject),
            cell(&row.claim),
            cell(&row.kernel),
            cell(&row.truth),
            row.verdict.words().to_owned(),
        ]
    };
    let mut text = columns(&HEADS, &rows.iter().map(line).collect::<Vec<_>>());
    let told = rows.iter().filter(|row| !matches!(row.verdict, Verdict::Agrees | Verdict::NotObservable));
    for row in told {
        let by = row.difference.as_ref().map_or(String::new(), |difference| format!("{difference}: "));
        let confidence = format!("{:?}", row.confidence).to_lowercase();
        text.push_str(&format!(
            "\n{} {}: {}{}\n  rule {}, {} reading(s), confidence {confidence}, {:.1}s old; {}\n",
            printable(&row.subject),
            row.verdict.words(),
            printable(&by),
            printable(&row.meaning),
            row.rule,
            row.readings,
            row.age_ms as f64 / 1000.0,
            row.method,
        ));
    }
    let mut reasons: Vec<&str> = Vec::new();
    for row in rows.iter().filter(|row| row.verdict == Verdict::NotObservable) {
        if !reasons.contains(&row.meaning.as_str()) {
            reasons.push(&row.meaning);
        }
    }
    for reason in reasons {
        text.push_str(&format!("\nnot observable: {}\n", printable(reason)));
    }
    text
}
