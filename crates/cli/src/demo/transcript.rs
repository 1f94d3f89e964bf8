//! What the demo guest says on its console, line by line.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::sync::Arc;

use host::lock::Lock;
use indicatif::ProgressBar;

/// Lines kept for the case that something goes wrong.
const LAST_LINES: usize = 12;

/// Longest line that we read; a guest may never end one.
const LINE_BYTES_MAX: usize = 1024;

/// Programs that the guest runs.
const PROGRAMS: usize = 5;

/// One program that the guest ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// What it is about.
    pub name: String,
    /// Whether it came to the known answer.
    pub is_right: bool,
    /// How long it took by the guest's clock.
    pub guest_ms: u64,
    /// Its answer.
    pub answer: String,
}

/// Everything the guest said about itself.
#[derive(Clone, Debug, Default)]
pub struct Said {
    claims: BTreeMap<String, String>,
    ran: Vec<Ran>,
    last: VecDeque<String>,
}

impl Said {
    /// What the guest claims about `key`.
    pub fn claim(&self, key: &str) -> Option<&str> {
        self.claims.get(key).map(String::as_str)
    }

    /// The same as a number.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.claim(key)?.parse().ok()
    }

    /// Whether every program ran and was right.
    pub fn is_complete(&self) -> bool {
        self.ran.len() == PROGRAMS && self.ran.iter().all(|ran| ran.is_right)
    }

    /// The last lines on the console.
    pub fn last_lines(&self) -> impl Iterator<Item = &str> {
        self.last.iter().map(String::as_str)
    }

    /// Takes a line in; a program that ran is given back to be shown.
    fn hear(&mut self, line: &str) -> Option<Ran> {
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line.to_owned());
        if let Some((key, value)) = line
            .strip_prefix("mother: claim ")
            .and_then(|rest| rest.split_once(' '))
        {
            self.claims.insert(key.to_owned(), value.to_owned());
        }
        let ran = parse_ran(line)?;
        self.ran.push(ran.clone());
        Some(ran)
    }
}

/// Reads a line like `mother: ran hashing right 520 381e690c`.
fn parse_ran(line: &str) -> Option<Ran> {
    let mut words = line.strip_prefix("mother: ran ")?.splitn(4, ' ');
    let name = words.next()?;
    let verdict = words.next()?;
    let ms = words.next()?;
    Some(Ran {
        name: name.to_owned(),
        is_right: verdict == "right",
        guest_ms: ms.parse().ok()?,
        answer: words.next().unwrap_or_default().to_owned(),
    })
}

/// The guest's console as a writer.
pub struct Transcript {
    said: Arc<Lock<Said>>,
    bar: ProgressBar,
    show: fn(&Ran) -> String,
    line: Vec<u8>,
}

impl Transcript {
    /// Keeps what is said in `said`, shows the latest line on `bar`, and prints what `show` makes of each program.
    pub fn new(said: Arc<Lock<Said>>, bar: ProgressBar, show: fn(&Ran) -> String) -> Transcript {
        Transcript {
            said,
            bar,
            show,
            line: Vec::new(),
        }
    }

    fn end_line(&mut self) -> io::Result<()> {
        let line = printable(&self.line);
        self.line.clear();
        if line.is_empty() {
            return Ok(());
        }
        let ran = self.said.lock().hear(&line);
        if let Some(ran) = ran {
            let show = || writeln!(io::stdout(), "{}", (self.show)(&ran));
            self.bar.suspend(show)?;
        }
        self.bar.set_message(line);
        Ok(())
    }
}

impl Write for Transcript {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line()?,
                _ if self.line.len() < LINE_BYTES_MAX => self.line.push(byte),
                _ => {}
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A guest's bytes as something that cannot move the cursor of whoever reads them.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.trim().chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(text: &str) -> Said {
        let said = Arc::new(Lock::new(Said::default()));
        let mut transcript = Transcript::new(Arc::clone(&said), ProgressBar::hidden(), |ran| {
            ran.name.clone()
        });
        transcript.write_all(text.as_bytes()).unwrap();
        let said = said.lock();
        said.clone()
    }

    #[test]
    fn claims_and_programs_are_read_from_the_console() {
        let said = hear(
            "[0.1] x\r\nmother: claim cpu Some CPU\r\nmother: claim cpus 1\r\nmother: ran float right 37 pi is near 3\r\n",
        );
        assert_eq!(said.claim("cpu"), Some("Some CPU"));
        assert_eq!(said.number("cpus"), Some(1));
        let ran = Ran {
            name: "float".to_owned(),
            is_right: true,
            guest_ms: 37,
            answer: "pi is near 3".to_owned(),
        };
        assert_eq!(said.ran, [ran]);
        assert!(!said.is_complete());
    }

    #[test]
    fn a_wrong_answer_is_not_complete() {
        let line = |verdict| format!("mother: ran a {verdict} 1 b\n");
        assert!(hear(&line("right").repeat(5)).is_complete());
        assert!(!hear(&(line("right").repeat(4) + &line("WRONG"))).is_complete());
    }

    #[test]
    fn a_guest_cannot_move_our_cursor_or_fill_our_memory() {
        let said = hear("mother: claim cpu \x1b[2Jevil\x07\n");
        assert_eq!(said.claim("cpu"), Some("[2Jevil"));
        let said = hear(&("x".repeat(100_000) + "\n"));
        assert_eq!(said.last_lines().next().map(str::len), Some(LINE_BYTES_MAX));
    }
}
