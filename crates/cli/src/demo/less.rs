//! The demo's second guest: it fills its memory and says so, and was given a tenth of it.
//!
//! It is the small guest with a shell; what it says comes over its console, what Mother knows from the pager's books, and
//! the two meet in the table. The same guest is then seen as a user would see it ([`seen`](super::seen)).

use std::fmt::Write as _;
use std::io::{self, PipeWriter, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use api::{HostBooks, MemoryBook, MemorySize, ResidentLimit, Timeout, VmName, VmSpec};
use fleet::{Client, Inventory};
use images::DefaultGuest;
use insight::amounts::size_in_words;
use machine::{HostFindings, PagingFinding, StopCause, plan};
use runner::{Guest, OnTerm, Streams};

use crate::arguments::DemoArguments;
use crate::attend::Attended;
use crate::failure::Failure;

use super::order;
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
    let plan = plan(&spec, &HostFindings::for_spec(&spec))?;
    let (typed, input) = io::pipe().map_err(Failure::Input)?;
    let (said, console) = io::pipe().map_err(Failure::Input)?;
    let streams = Streams {
        input: Some(typed.into()),
        output: Some(console.into()),
        errors: None,
    };
    let mut attended = Attended::start(order(plan, Guest::Console), streams, OnTerm::End)?;
    let (lines, heard) = channel();
    let line = Vec::new();
    attended.copy(said, Lines { lines, line })?;
    attended.wait_until_serving()?;
    let name = attended.name().to_owned();
    let vm = attended.handle();
    let watcher = thread::spawn(move || {
        let seen = watch(&heard, input, &name);
        let seen = seen.map(|(claim, books)| (claim, books, truth(&name)));
        vm.stop(StopCause::Left);
        seen
    });
    let ended = attended.finish();
    let seen = watcher
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
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
    mut input: PipeWriter,
    name: &str,
) -> Option<(Claim, HostBooks)> {
    heard
        .iter()
        .find(|line| line.contains(images::INIT_MARKER))?;
    input.write_all(WORK.as_bytes()).ok()?;
    let claim = heard.iter().find_map(|line| Claim::parse(&line))?;
    let end = Instant::now() + WATCHED;
    while Instant::now() < end {
        thread::sleep(Duration::from_millis(100));
    }
    let record = Inventory::of_user().ok()?.record(&VmName::new(name).ok()?);
    Some((claim, Client::connect(&record).ok()?.books().ok()?))
}

/// What lies at a place that is not memory, in bytes.
fn away_at(memory: &MemoryBook, place: &str) -> u64 {
    let mut places = memory.paged_out.iter();
    places
        .find(|counter| counter.name == place)
        .map_or(0, |counter| counter.value)
}

/// What the guest says beside what Mother knows.
fn table(claim: Claim, books: &HostBooks) -> String {
    let away = books.memory.paged_out_bytes();
    let share = (away * 100)
        .checked_div(away + books.memory.resident_bytes)
        .unwrap_or(0);
    format!(
        "{}{}\n  It says that it uses {} % of its memory. It holds a tenth: {share} % of what it ever touched lies\n  somewhere else, and it does not know.\n\n",
        both_sides(claim, books),
        where_pages_are(books),
        claim.percent()
    )
}

/// The guest's words and Mother's on the same lines.
fn both_sides(claim: Claim, books: &HostBooks) -> String {
    let mut text = format!(
        "\n  {:<11}{:<SAYS$}{}\n\n",
        "", "a full guest says", "Mother knows"
    );
    let paging = books.memory.paging.as_ref();
    let limit = paging.and_then(|paging| paging.limit_bytes).unwrap_or(0);
    let says = format!("{} in all", size_in_words(claim.total_bytes));
    let _ = writeln!(
        text,
        "  {:<11}{says:<SAYS$}given {} at a time ({LIMIT} of {MEMORY})",
        "memory",
        size_in_words(limit)
    );
    let says = format!(
        "{} used, {} %",
        size_in_words(claim.used_bytes),
        claim.percent()
    );
    let _ = writeln!(
        text,
        "  {:<11}{says:<SAYS$}resident {}\n",
        "",
        size_in_words(books.memory.resident_bytes)
    );
    text
}

/// One row for each place that pages are in.
fn where_pages_are(books: &HostBooks) -> String {
    const PAGE_BYTES: u64 = 4096;
    let mut text = String::new();
    let memory = &books.memory;
    let paging = memory.paging.clone().unwrap_or_default();
    let pages = |bytes: u64| format!("{} pages, {}", bytes / PAGE_BYTES, size_in_words(bytes));
    let at = |place| away_at(memory, place);
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<WHAT$}{value}");
    };
    row("resident", pages(memory.resident_bytes));
    let compressed = pages(at("compressed_in_memory"));
    let store = size_in_words(paging.store_memory_bytes);
    row("compressed", format!("{compressed} in {store}"));
    let same = at("same_as_another") + at("repeating");
    row("the same as another one", pages(same));
    row("zeros, stored nowhere", pages(at("zeros")));
    row("on disk", pages(at("in_file")));
    if let Some(set) = &books.working_set {
        let value = size_in_words(set.value as u64);
        let error = size_in_words(set.error as u64);
        let window = set.period_seconds;
        row(
            "working set",
            format!("{value} +- {error} in {window:.0} s"),
        );
    }
    let back = paging.counters.iter();
    let back = back.filter(|counter| matches!(counter.name.as_str(), "page_ins" | "prefetched"));
    let back: u64 = back.map(|counter| counter.value).sum();
    row("brought back so far", format!("{back} pages"));
    text
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
