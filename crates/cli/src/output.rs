//! To standard output: our own words, or the guest's console, unbuffered and with an eye on one line.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::mpsc::Sender;

use crate::failure::Failure;

/// Says something of ours.
pub fn say(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(Failure::Output)
}

/// Standard output without Rust's line buffer: a prompt has no line end.
pub fn standard_output() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

/// Passes everything on and tells once when a text has come by.
pub struct Watch<W> {
    to: W,
    text: &'static [u8],
    seen: usize,
    tell: Option<Sender<()>>,
}

impl<W: Write> Watch<W> {
    /// Watches what is written to `to` for `text`.
    pub fn new(to: W, text: &'static str, tell: Sender<()>) -> Watch<W> {
        Watch {
            to,
            text: text.as_bytes(),
            seen: 0,
            tell: Some(tell),
        }
    }

    fn look_at(&mut self, byte: u8) {
        // The first byte of the text does not come again inside it, so a mismatch can only start it anew.
        self.seen = match byte {
            _ if byte == self.text[self.seen] => self.seen + 1,
            _ if byte == self.text[0] => 1,
            _ => 0,
        };
        if self.seen == self.text.len() {
            if let Some(tell) = self.tell.take() {
                // Nobody listening is as good as told.
                let _ = tell.send(());
            }
            self.seen = 0;
        }
    }
}

impl<W: Write> Write for Watch<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        for &byte in &bytes[..count] {
            if self.tell.is_none() {
                break;
            }
            self.look_at(byte);
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn check(chunks: &[&str], expected: bool) {
        let (sender, receiver) = mpsc::channel();
        let mut watch = Watch::new(Vec::new(), images::INIT_MARKER, sender);
        for chunk in chunks {
            watch.write_all(chunk.as_bytes()).unwrap();
        }
        assert_eq!(receiver.try_recv().is_ok(), expected, "{chunks:?}");
        assert_eq!(watch.to, chunks.concat().as_bytes());
    }

    #[test]
    fn the_marker_is_seen_wherever_the_console_cuts_it() {
        check(&["[1.0] Run /init\r\nmother: /init started\r\n"], true);
        check(&["mother: /in", "it star", "ted"], true);
        check(&["mother: mother: /init started"], true);
        check(&["mommother: /init started"], true);
        check(&["mother: /init starte"], false);
    }

    #[test]
    fn the_watched_text_starts_with_a_byte_that_it_has_once() {
        // What `look_at` relies on.
        let first = images::INIT_MARKER.as_bytes()[0];
        assert_eq!(
            images::INIT_MARKER
                .bytes()
                .filter(|&byte| byte == first)
                .count(),
            1
        );
    }
}
