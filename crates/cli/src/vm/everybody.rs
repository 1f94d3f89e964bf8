//! `mother truth` without a name: every VM in a line, and what all of them together believe beside what the host has.

use std::thread;

use api::VmState;
use fleet::{Inventory, Vm};
use insight::amounts::size;
use insight::verdict::{Belief, Row, Standing, Verdict, judge_host, standing, worst};
use watch::{Assessment, Watcher};

use super::verdicts::{rows, settled, status};
use super::words::{columns, printable};
use crate::answers::{self, TruthOfOne, Truths};
use crate::failure::Failure;
use crate::host_memory;
use crate::observed;
use crate::output::say;

/// One VM: what was seen, or why nothing.
struct Asked {
    vm: Vm,
    seen: Result<Assessment, String>,
}

/// Prints the table; the exit status.
pub(super) fn everybody(is_json: bool) -> Result<u8, Failure> {
    let inventory = Inventory::of_user()?;
    let mut vms = inventory.list()?;
    vms.retain(|vm| !matches!(vm.state, VmState::Ended | VmState::Died));
    let asked: Vec<Asked> = thread::scope(|scope| {
        let ask = |vm: Vm| {
            let inventory = &inventory;
            scope.spawn(move || ask(inventory, vm))
        };
        let threads: Vec<_> = vms.into_iter().map(ask).collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    let beliefs: Vec<Belief> = asked
        .iter()
        .filter_map(|asked| asked.seen.as_ref().ok())
        .map(belief)
        .collect();
    let host = judge_host(&beliefs, host_memory_bytes());
    say(&if is_json {
        answers::text(&answer(&asked, &host))
    } else {
        table(&asked, &host)
    })?;
    // Who does not answer is not seen.
    let stands = |asked: &Asked| {
        let rows = asked
            .seen
            .as_ref()
            .map(|assessment| standing(&assessment.rows));
        rows.unwrap_or(Standing::Blind)
    };
    let of_host = standing(std::slice::from_ref(&host));
    let all = asked.iter().map(stands).chain([of_host]);
    Ok(status(all.max().unwrap_or(Standing::Fine)))
}

/// Each on a thread of its own: one that does not answer holds up nobody for longer than itself.
fn ask(inventory: &Inventory, vm: Vm) -> Asked {
    let seen = Watcher::connect(inventory.record(&vm.name), super::observe::cache());
    let seen = seen
        .map_err(|error| error.to_string())
        .and_then(|mut watcher| settled(&mut watcher).map_err(|error| error.to_string()));
    Asked { vm, seen }
}

fn belief(assessment: &Assessment) -> Belief {
    let memory = &assessment.books.memory;
    Belief {
        configured_bytes: memory.configured_bytes,
        resident_bytes: memory.resident_bytes,
    }
}

/// The worst of the rows, and whether some are missing.
fn verdict_words(assessment: &Assessment) -> String {
    let worst = worst(&assessment.rows).words();
    match standing(&assessment.rows) {
        Standing::Blind => format!("{}, {worst}", Standing::Blind.words()),
        _ => worst.to_owned(),
    }
}

fn verdict(asked: &Asked) -> Option<Verdict> {
    asked
        .seen
        .as_ref()
        .ok()
        .map(|assessment| worst(&assessment.rows))
}

const HEADS: [&str; 7] = [
    "NAME", "STATE", "CLAIM", "KERNEL", "HELD", "GIVEN", "VERDICT",
];

fn table(all: &[Asked], host: &Row) -> String {
    if all.is_empty() {
        return "No guest runs. `mother run -d` starts one.\n".to_owned();
    }
    let lines: Vec<[String; 7]> = all.iter().map(line).collect();
    let mut text = format!(
        "{}\n{}",
        columns(&HEADS, &lines),
        rows(std::slice::from_ref(host))
    );
    for asked in all {
        if let Err(why) = &asked.seen {
            text.push_str(&format!(
                "\n{} does not answer: {}\n",
                asked.vm.name,
                printable(why)
            ));
        }
    }
    if all
        .iter()
        .any(|asked| verdict(asked).is_some_and(|verdict| verdict > Verdict::NotObservable))
    {
        text.push_str("\n`mother truth NAME` says more of one of them.\n");
    }
    text
}

fn line(asked: &Asked) -> [String; 7] {
    let bytes = |bytes: Option<u64>| bytes.map_or("-".to_owned(), size);
    let name = asked.vm.name.to_string();
    let state = asked.vm.state.as_str().to_owned();
    let Ok(assessment) = &asked.seen else {
        let nothing = || "-".to_owned();
        return [
            name,
            state,
            nothing(),
            nothing(),
            nothing(),
            nothing(),
            "no answer".to_owned(),
        ];
    };
    let (claim, kernel) = used(assessment);
    [
        name,
        state,
        bytes(claim),
        bytes(kernel),
        size(assessment.books.memory.resident_bytes),
        size(assessment.books.memory.configured_bytes),
        verdict_words(assessment),
    ]
}

/// Memory in use: as the balloon driver says, and as the kernel counts.
pub(super) fn used(assessment: &Assessment) -> (Option<u64>, Option<u64>) {
    let used = |total: Option<u64>, free: Option<u64>| total?.checked_sub(free?);
    let reading = &assessment.reading;
    let claim = reading
        .claims
        .balloon
        .and_then(|balloon| used(balloon.total_bytes, balloon.free_bytes));
    (
        claim,
        used(reading.kernel.total_bytes, reading.kernel.free_bytes),
    )
}

fn answer<'a>(all: &'a [Asked], host: &'a Row) -> Truths<'a> {
    let guest = |asked: &'a Asked| match &asked.seen {
        Ok(assessment) => TruthOfOne::Seen {
            name: &asked.vm.name,
            state: asked.vm.state,
            worst: worst(&assessment.rows),
            standing: standing(&assessment.rows),
            rows: &assessment.rows,
            kernel: &assessment.kernel,
            cost: &assessment.cost,
        },
        Err(why) => TruthOfOne::Unseen {
            name: &asked.vm.name,
            state: asked.vm.state,
            why_not: why,
        },
    };
    Truths {
        rows: [host],
        guests: all.iter().map(guest).collect(),
    }
}

/// All memory of this host; 0 where the host does not say.
pub(super) fn host_memory_bytes() -> u64 {
    match observed::about() {
        Some(about) => about.host_memory_bytes,
        None => host_memory::bytes(),
    }
}
