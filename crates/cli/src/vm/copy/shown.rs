//! How far a copy is, on a line for a person. No thread draws it: who copies a guest's files has one.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use insight::amounts::size_in_words;

/// How often the line is drawn.
const AGAIN: Duration = Duration::from_millis(200);

/// A line on standard error, if that is a terminal.
#[derive(Debug)]
pub struct Shown {
    is_seen: bool,
    total: u64,
    begun: Instant,
    drawn: Option<Instant>,
}

impl Shown {
    /// Nothing is shown yet.
    pub fn new() -> Shown {
        Shown {
            is_seen: io::stderr().is_terminal(),
            total: 0,
            begun: Instant::now(),
            drawn: None,
        }
    }

    /// So many bytes are to come.
    pub fn expect(&mut self, total: u64) {
        self.total = total;
    }

    /// So many have.
    pub fn show(&mut self, done: u64) {
        let last = self.drawn.unwrap_or(self.begun);
        if !self.is_seen || last.elapsed() < AGAIN {
            return;
        }
        self.drawn = Some(Instant::now());
        let line = line(done, self.total, self.begun.elapsed());
        // Where that fails nobody sees it.
        let _ = write!(io::stderr(), "\r\x1b[Kmother: {line}");
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if self.drawn.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }

    /// How long it took so far.
    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }
}

fn line(done: u64, total: u64, passed: Duration) -> String {
    let seconds = passed.as_secs_f64().max(0.001);
    let each = size_in_words((done as f64 / seconds) as u64);
    if total < done {
        return format!("{}, {each}/s", size_in_words(done));
    }
    let left = (total - done) as f64 * seconds / done.max(1) as f64;
    format!(
        "{} of {}, {each}/s, {left:.0} s left",
        size_in_words(done),
        size_in_words(total)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_how_much_how_fast_and_how_long() {
        let check = |done: u64, total: u64, expected: &str| {
            assert_eq!(
                line(done << 20, total << 20, Duration::from_secs(4)),
                expected
            );
        };
        check(8, 24, "8 MiB of 24 MiB, 2 MiB/s, 8 s left");
        check(8, 0, "8 MiB, 2 MiB/s");
        check(8, 8, "8 MiB of 8 MiB, 2 MiB/s, 0 s left");
    }
}
