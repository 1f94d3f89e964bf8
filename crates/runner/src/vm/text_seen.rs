//! A guest's console with an eye on one text.

use std::io::{self, Write};
use std::sync::mpsc::Sender;

/// Passes everything on and tells once when a text has come by.
pub(super) struct Watch<W> {
    to: W,
    text: Vec<u8>,
    seen: usize,
    tell: Option<Sender<()>>,
}

impl<W: Write> Watch<W> {
    /// Watches what is written to `to` for `text`, whose first byte comes once in it.
    pub(super) fn new(to: W, text: &str, tell: Sender<()>) -> Watch<W> {
        Watch {
            to,
            text: text.as_bytes().to_vec(),
            seen: 0,
            tell: Some(tell).filter(|_| !text.is_empty()),
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
        let mut watch = Watch::new(Vec::new(), "mother: /init started", sender);
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
}
