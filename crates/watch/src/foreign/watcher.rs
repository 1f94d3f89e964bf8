//! Somebody who judges a VM that Mother does not run, by the same rules as one that she runs.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fleet::foreign::Foreign;
use insight::amounts::{size, time};
use insight::verdict::{Claims, HostBook, READINGS_NEEDED, Reading, Row, Verdict, judge};
use insight::{Cost, Limits, NotRecognised};

use super::process::{ForeignProcess, ProcessGuestBooks, ProcessReach};
use super::recognise::{ForeignGuest, recognise};
use crate::hidden;
use crate::reading::kernel_book;
use crate::{KernelFacts, people};

/// Why nothing is compared with a kernel file.
const LOADED: &str = "nobody says which kernel was loaded";
/// How long to wait before a guest whose kernel was not recognised is looked at again.
const AGAIN: Duration = Duration::from_secs(2);
/// The rule about a balloon's size.
const BALLOON: &str = "balloon-target";

/// Judges one VM.
pub struct ForeignWatcher {
    process: ForeignProcess,
    guest: Result<ForeignGuest, NotRecognised>,
    tried: Instant,
    readings: Vec<Reading>,
}

/// What is known after one more reading.
pub struct ForeignAssessment {
    /// The host's own books.
    pub books: ProcessGuestBooks,
    /// The guest's kernel.
    pub kernel: KernelFacts,
    /// What comes of the last readings.
    pub rows: Vec<Row>,
    /// What this look cost.
    pub cost: Cost,
    /// How long the reading took.
    pub took: Duration,
}

impl ForeignWatcher {
    /// Finds the kernel of a VM whose process is reached so.
    ///
    /// # Errors
    /// If it has ended, or its memory may not be read.
    pub fn connect(reach: Box<dyn ProcessReach>) -> io::Result<ForeignWatcher> {
        let mut process = ForeignProcess::new(reach);
        let guest = meet(&mut process)?;
        Ok(ForeignWatcher {
            process,
            guest,
            tried: Instant::now(),
            readings: Vec::new(),
        })
    }

    /// The VM.
    pub fn vm(&self) -> &Foreign {
        self.process.vm()
    }

    /// The guest, or why its kernel is not known.
    pub fn guest(&self) -> Result<&ForeignGuest, &NotRecognised> {
        self.guest.as_ref()
    }

    /// The guest alone.
    ///
    /// # Errors
    /// Why its kernel is not known.
    pub fn into_guest(self) -> Result<ForeignGuest, NotRecognised> {
        self.guest
    }

    /// The host's own books.
    ///
    /// # Errors
    /// If it has ended.
    pub fn books(&self) -> io::Result<ProcessGuestBooks> {
        self.process.books()
    }

    /// A guest that starts again has another kernel, or the same elsewhere; one that boots has none yet.
    fn meet_again(&mut self) -> io::Result<()> {
        let is_known = match &self.guest {
            Ok(guest) => guest.kernel.is_still_there(),
            Err(_) => self.tried.elapsed() < AGAIN,
        };
        if !is_known {
            self.guest = meet(&mut self.process)?;
            self.tried = Instant::now();
            self.readings.clear();
        }
        Ok(())
    }

    /// One more reading.
    ///
    /// # Errors
    /// If it has ended.
    pub fn assess(&mut self) -> io::Result<ForeignAssessment> {
        let begin = Instant::now();
        self.meet_again()?;
        let books = self.process.books()?;
        let kernel = self.guest.as_ref().map(|guest| &guest.kernel);
        let facts = KernelFacts::alone(kernel, LOADED);
        let account = kernel.ok().map(insight::Kernel::account);
        let look = self.guest.as_ref().ok().zip(account.as_ref());
        let look = look.map(|(guest, account)| guest.look(account));
        let not = self.guest.as_ref().err();
        let mut book = match (&look, not) {
            (Some(look), _) => kernel_book(Ok(look)),
            (None, Some(not)) => kernel_book(Err(not)),
            (None, None) => insight::verdict::KernelBook::default(),
        };
        if let Some(look) = &look {
            book.views.extend(people::panicked(look));
            book.views
                .push(hidden::tasks(look, insight::hidden::Depth::Books));
            book.views.push(hidden::modules(look).0);
        }
        let reading = Reading {
            claims: Claims::default(),
            host: host_book(&books),
            kernel: book,
        };
        let cost = look.as_ref().map(insight::Look::cost).unwrap_or_default();
        if self.readings.len() >= 2 * READINGS_NEEDED {
            self.readings.remove(0);
        }
        self.readings.push(reading);
        let rows = judge(&self.readings).into_iter();
        Ok(ForeignAssessment {
            rows: rows.filter_map(|row| told(row, &books)).collect(),
            books,
            kernel: facts,
            cost,
            took: begin.elapsed(),
        })
    }
}

/// Finds the kernel and the RAM that it is in.
fn meet(process: &mut ForeignProcess) -> io::Result<Result<ForeignGuest, NotRecognised>> {
    let candidates = process.candidates()?;
    let guest = recognise(&candidates, None, Limits::default());
    // Where the kernel is not known, RAM is what is likeliest.
    let ram = guest.as_ref().ok().map(|guest| &guest.memory);
    if let Some(ram) = ram.or(candidates.first().map(|first| &first.memory)) {
        process.is_ram(ram);
    }
    Ok(guest)
}

/// The books as rules have them. When a guest was reset and how long it was paused only who runs it knows: its process's
/// age is the most that its time can be.
fn host_book(books: &ProcessGuestBooks) -> HostBook {
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let has_threads = !books.vcpus.is_empty();
    let sum = |pick: fn(&super::process::VcpuThread) -> f64| {
        has_threads.then(|| books.vcpus.iter().map(pick).sum())
    };
    HostBook {
        configured_bytes: books.configured_bytes,
        resident_bytes: books.resident_bytes,
        paged_out_bytes: books.swapped_bytes,
        run_seconds: sum(|thread| thread.run_seconds),
        wait_seconds: sum(|thread| thread.wait_seconds),
        guest_seconds: books.uptime_seconds.unwrap_or(f64::MAX),
        wall_seconds: wall.as_secs_f64(),
        vcpus: u32::try_from(books.vcpus.len()).unwrap_or(u32::MAX),
        ..HostBook::default()
    }
}

/// A row that stands on what nobody tells says so instead. There is none about a balloon that is not there.
fn told(mut row: Row, books: &ProcessGuestBooks) -> Option<Row> {
    if row.rule == BALLOON {
        let left = books
            .balloon_left_bytes
            .map(|left| format!("{} left to it", size(left)));
        return (books.has_balloon != Some(false)).then(|| Row {
            claim: left,
            truth: None,
            verdict: Verdict::NotObservable,
            meaning: "what its balloon shall hold, and what came of that, only who runs it knows"
                .to_owned(),
            ..row
        });
    }
    let is_of_threads = matches!(row.rule.as_str(), "steal-against-wait" | "busy-against-run");
    if is_of_threads && books.vcpus.is_empty() && row.kernel.is_some() {
        row.truth = None;
        row.verdict = Verdict::NotObservable;
        row.meaning = books.missing.last().cloned().unwrap_or_default();
    }
    if row.rule == "uptime-drift" && row.verdict == Verdict::Agrees {
        row.truth = books
            .uptime_seconds
            .map(|age| format!("at most {}", time(age)));
        row.meaning = "it is not up for longer than its process is".to_owned();
    }
    Some(row)
}

#[cfg(test)]
mod tests {
    use insight::verdict::KernelBook;

    use super::*;
    use crate::foreign::VcpuThread;

    fn rows(books: &ProcessGuestBooks, uptime_seconds: f64) -> Vec<Row> {
        let reading = Reading {
            claims: Claims::default(),
            host: host_book(books),
            kernel: KernelBook {
                total_bytes: Some(500 << 20),
                free_bytes: Some(400 << 20),
                uptime_seconds: Some(uptime_seconds),
                busy_seconds: Some(3.0),
                steal_seconds: Some(0.0),
                ..KernelBook::default()
            },
        };
        let readings = vec![reading; READINGS_NEEDED];
        let rows = judge(&readings).into_iter();
        rows.filter_map(|row| told(row, books)).collect()
    }

    #[test]
    fn what_nobody_tells_is_not_observable_and_what_is_known_is_judged() {
        let books = ProcessGuestBooks {
            configured_bytes: 512 << 20,
            resident_bytes: 500 << 20,
            uptime_seconds: Some(100.0),
            missing: vec!["which threads".to_owned()],
            ..ProcessGuestBooks::default()
        };
        let verdict = |rows: &[Row], rule: &str| {
            let row = rows.iter().find(|row| row.rule == rule);
            row.map(|row| row.verdict)
        };
        let found = rows(&books, 40.0);
        assert_eq!(verdict(&found, "dead-memory"), Some(Verdict::Costs));
        assert_eq!(verdict(&found, BALLOON), Some(Verdict::NotObservable));
        assert_eq!(
            verdict(&found, "busy-against-run"),
            Some(Verdict::NotObservable)
        );
        // It may have been reset a minute ago; it cannot be older than its process.
        assert_eq!(verdict(&found, "uptime-drift"), Some(Verdict::Agrees));
        let found = rows(&books, 500.0);
        assert_eq!(verdict(&found, "uptime-drift"), Some(Verdict::Contradicts));
        let with_qmp = ProcessGuestBooks {
            has_balloon: Some(false),
            vcpus: vec![VcpuThread {
                vcpu_id: 0,
                tid: 1,
                run_seconds: 3.1,
                wait_seconds: 0.0,
            }],
            ..books
        };
        let found = rows(&with_qmp, 40.0);
        assert_eq!(verdict(&found, BALLOON), None);
        assert_eq!(verdict(&found, "busy-against-run"), Some(Verdict::Agrees));
    }
}
