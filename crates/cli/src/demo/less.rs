//! The demo's second guest: it fills its memory and says so, and was given a tenth of it.
//!
//! It is the small guest with a shell; what it says comes over its console, what Mother knows from the pager's books, and
//! the two meet in the table. The same guest is then seen as a user would see it ([`seen`](super::seen)).

use std::fmt::Write as _;
use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use api::{MemorySize, ResidentLimit, Timeout, VmName, VmSpec};
use images::DefaultGuest;
use machine::{
    Console, ConsoleInput, HostFindings, MachineControl, PagingBooks, PagingFinding, build, plan,
};

use crate::arguments::DemoArguments;
use crate::ending::finish;
use crate::failure::Failure;
use crate::registration::Registrar;
use crate::signals;

use super::seen::truth;

const NAME: &str = "demo-less";
const COMMAND_LINE: &str = "console=ttyS0 rdinit=/pipe panic=-1";
const MEMORY: MemorySize = MemorySize::of_mib(512);
const LIMIT: ResidentLimit = ResidentLimit::Share(10);
/// Behind this the guest says what it has and what it uses, in KiB.
const CLAIM: &str = "claims memory ";
/// How long Mother watches the full guest: two windows of the working set's estimate.
const WATCHED: Duration = Duration::from_secs(9);
/// Width of the guest's column.
const SAYS: usize = 44;
/// Width of a name on the left.
const WHAT: usize = 30;

const WORK: &str = include_str!("less.sh");

/// What the guest said it has and uses, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claim {
    total_bytes: u64,
    used_bytes: u64,
}

impl Claim {
    fn parse(line: &str) -> Option<Claim> {
        let mut numbers = line
            .trim()
            .strip_prefix(CLAIM)?
            .split(' ')
            .map(|word| word.parse::<u64>().ok());
        let mut bytes = || numbers.next()??.checked_mul(1024);
        Some(Claim {
            total_bytes: bytes()?,
            used_bytes: bytes()?,
        })
    }

    fn percent(&self) -> u64 {
        (self.used_bytes * 100)
            .checked_div(self.total_bytes)
            .unwrap_or(0)
    }
}

/// Runs it; the text of the table, or why there is none. False if it should have come and did not.
pub fn show(arguments: &DemoArguments, guest: &DefaultGuest) -> Result<(String, bool), Failure> {
    let PagingFinding { usable, why, .. } = machine::paging_finding();
    if !usable {
        return Ok((
            format!("A guest that is given less than it believes cannot be shown here: {why}\n\n"),
            true,
        ));
    }
    let spec = VmSpec {
        name: VmName::new(NAME).ok(),
        kernel: Some(guest.kernel.clone()),
        initrd: Some(guest.initrd.clone()),
        cmdline: Some(COMMAND_LINE.to_owned()),
        memory: Some(MEMORY),
        resident_limit: Some(LIMIT),
        engine: arguments.engine,
        timeout: Some(Timeout::of_seconds(300)),
        no_reboot: true,
        ..VmSpec::default()
    };
    let mut plan = plan(&spec, &HostFindings::for_spec(&spec))?;
    let registration = Registrar::new(None)?.register_in_passing(&mut plan)?;
    let name = plan.name.clone();
    let (lines, heard) = channel();
    let console = Console::new(Box::new(Lines {
        lines,
        line: Vec::new(),
    }));
    let input = console.input();
    let machine = build(plan, console).map_err(|source| Failure::Build {
        name: NAME.to_owned(),
        source,
    })?;
    let control = machine.control();
    let received = signals::listen(&machine, signals::OnTerm::End).map_err(Failure::Signals)?;
    let registration = registration.serve(&machine)?;
    let watcher = thread::spawn(move || {
        let seen = watch(&heard, &input, &control);
        let seen = seen.map(|(claim, books)| (claim, books, truth(&name)));
        control.stop();
        seen
    });
    let ended = finish(machine, NAME, None);
    let seen = watcher
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    registration.leave(&ended, None)?;
    received.die_of_it();
    ended?;
    match seen {
        Some((claim, books, Ok(truth))) => Ok((table(claim, &books) + &truth, true)),
        Some((claim, books, Err(trouble))) => Ok((table(claim, &books) + &trouble, false)),
        None => Ok((
            "error: the guest that was given less than it believes did not fill its memory\n\n"
                .to_owned(),
            false,
        )),
    }
}

/// The guest's console, line by line.
struct Lines {
    lines: Sender<String>,
    line: Vec<u8>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for &byte in bytes {
            if byte == b'\n' {
                // Whoever listens no more has heard enough.
                let _ = self
                    .lines
                    .send(String::from_utf8_lossy(&self.line).into_owned());
                self.line.clear();
            } else if self.line.len() < 1024 {
                self.line.push(byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Has the guest fill its memory, and looks at it when it is full.
fn watch(
    heard: &Receiver<String>,
    input: &ConsoleInput,
    control: &MachineControl,
) -> Option<(Claim, PagingBooks)> {
    heard
        .iter()
        .find(|line| line.contains(images::INIT_MARKER))?;
    input.send(WORK.as_bytes()).ok()?;
    let claim = heard.iter().find_map(|line| Claim::parse(&line))?;
    let end = Instant::now() + WATCHED;
    while Instant::now() < end {
        thread::sleep(Duration::from_millis(100));
    }
    Some((claim, control.paging_books()?))
}

/// What the guest says beside what Mother knows.
fn table(claim: Claim, books: &PagingBooks) -> String {
    let away = books.out_bytes + books.zero_bytes;
    let share = (away * 100)
        .checked_div(away + books.resident_bytes)
        .unwrap_or(0);
    format!(
        "{}{}\n  It says that it uses {} % of its memory. It holds a tenth: {share} % of what it ever touched lies\n  somewhere else, and it does not know.\n\n",
        both_sides(claim, books),
        where_pages_are(books),
        claim.percent()
    )
}

/// The guest's words and Mother's on the same lines.
fn both_sides(claim: Claim, books: &PagingBooks) -> String {
    let mut text = format!(
        "\n  {:<11}{:<SAYS$}{}\n\n",
        "", "a full guest says", "Mother knows"
    );
    let limit = books.limit_bytes.unwrap_or(0);
    let says = format!("{} in all", size(claim.total_bytes));
    let _ = writeln!(
        text,
        "  {:<11}{says:<SAYS$}given {} at a time ({LIMIT} of {MEMORY})",
        "memory",
        size(limit)
    );
    let says = format!("{} used, {} %", size(claim.used_bytes), claim.percent());
    let _ = writeln!(
        text,
        "  {:<11}{says:<SAYS$}resident {}\n",
        "",
        size(books.resident_bytes)
    );
    text
}

/// One row for each place that pages are in.
fn where_pages_are(books: &PagingBooks) -> String {
    const PAGE_BYTES: u64 = 4096;
    let mut text = String::new();
    let store = &books.store;
    let pages = |count: u64| format!("{count} pages, {}", size(count * PAGE_BYTES));
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<WHAT$}{value}");
    };
    row("resident", pages(books.resident_bytes / PAGE_BYTES));
    row(
        "compressed",
        format!(
            "{} in {}",
            pages(store.memory_pages),
            size(store.memory_bytes)
        ),
    );
    row(
        "the same as another one",
        pages(store.shared_pages + store.repeating_pages),
    );
    row(
        "zeros, stored nowhere",
        pages(books.zero_bytes / PAGE_BYTES),
    );
    row("on disk", pages(store.file_pages));
    if let Some(set) = &books.working_set {
        let bytes = |pages: f64| size((pages * PAGE_BYTES as f64) as u64);
        let window = set.window.as_secs_f64();
        row(
            "working set",
            format!(
                "{} +- {} in {window:.0} s",
                bytes(set.pages),
                bytes(set.error_pages)
            ),
        );
    }
    row(
        "brought back so far",
        format!("{} pages", books.counts.page_ins + books.counts.prefetched),
    );
    text
}

fn size(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_understood_or_is_none() {
        let check = |line, expected: Option<(u64, u64)>| {
            let expected = expected.map(|(total_bytes, used_bytes)| Claim {
                total_bytes,
                used_bytes,
            });
            assert_eq!(Claim::parse(line), expected, "{line}");
        };
        check(
            "claims memory 480000 456000\r",
            Some((480_000 << 10, 456_000 << 10)),
        );
        check("claims memory 480000", None);
        check("claims memory much more", None);
        check("claims memory 18446744073709551615 1", None);
        check("echo claims memory 1 1", None);
        assert_eq!(
            Claim {
                total_bytes: 0,
                used_bytes: 1
            }
            .percent(),
            0
        );
    }
}
