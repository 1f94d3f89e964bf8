//! A line that counts the seconds until a guest says its first words: a quiet kernel and systemd may say nothing for long, and
//! a program may be one that says nothing.

use std::io::{self, Write};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often the line changes; a guest that speaks earlier needs none.
const TICK: Duration = Duration::from_secs(1);
/// Ticks before there is a line: the small guest is there by then.
const TICKS_BEFORE: u64 = 3;

/// Whose first words are waited for.
#[derive(Clone, Copy, Debug)]
pub enum Whose {
    /// The guest's.
    Guest,
    /// Those of the one program in it, which may run already and be silent.
    Program,
}

/// Writes on, and ends the line when the first bytes come.
pub struct UntilFirstWords<W> {
    to: W,
    line: Option<Line>,
}

/// The thread that shows the line; it ends when the sender goes.
struct Line {
    end: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl<W: Write> UntilFirstWords<W> {
    /// Counts from now on, on standard error.
    pub fn new(to: W, whose: Whose) -> io::Result<UntilFirstWords<W>> {
        let (end, ended) = mpsc::sync_channel::<()>(1);
        let count = move || {
            let start = Instant::now();
            for tick in 1.. {
                if ended.recv_timeout(TICK) != Err(RecvTimeoutError::Timeout) {
                    // The line was only for the time until now.
                    if tick > TICKS_BEFORE {
                        show("\r\x1b[K");
                    }
                    return;
                }
                if tick >= TICKS_BEFORE {
                    show(&words(start.elapsed(), whose));
                }
            }
        };
        let thread = thread::Builder::new()
            .name("booting".to_owned())
            .spawn(count)?;
        Ok(UntilFirstWords {
            to,
            line: Some(Line { end, thread }),
        })
    }
}

impl<W> UntilFirstWords<W> {
    fn end_line(&mut self) {
        if let Some(Line { end, thread }) = self.line.take() {
            drop(end);
            // Nothing is written before the line is gone.
            let _ = thread.join();
        }
    }
}

impl<W> Drop for UntilFirstWords<W> {
    fn drop(&mut self) {
        self.end_line();
    }
}

impl<W: Write> Write for UntilFirstWords<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.end_line();
        self.to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// The line, over the one before.
fn words(passed: Duration, whose: Whose) -> String {
    let seconds = passed.as_secs();
    let what = match whose {
        Whose::Guest => format!("booting, {seconds} s: the guest"),
        Whose::Program => format!("{seconds} s: the program"),
    };
    format!("\r\x1b[Kmother: {what} has printed nothing yet; Ctrl-A x leaves")
}

fn show(text: &str) {
    // It is a comfort; where it cannot be shown there is none.
    let mut stderr = io::stderr().lock();
    let _ = stderr
        .write_all(text.as_bytes())
        .and_then(|()| stderr.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_is_written_as_it_is() {
        let mut said = Vec::new();
        let mut writer = UntilFirstWords::new(&mut said, Whose::Guest).unwrap();
        writer.write_all(b"one ").unwrap();
        writer.write_all(b"two").unwrap();
        drop(writer);
        assert_eq!(said, b"one two");
    }

    #[test]
    fn the_line_takes_the_place_of_the_one_before() {
        for (whose, expected) in [
            (Whose::Guest, "mother: booting, 4 s: the guest has"),
            (Whose::Program, "mother: 4 s: the program has"),
        ] {
            let line = words(Duration::from_millis(4200), whose);
            assert!(line.starts_with(&format!("\r\x1b[K{expected}")), "{line:?}");
            assert!(!line.contains('\n'));
        }
    }
}
