//! What a guest printed, kept in two files of bounded size: when the newer is full it becomes the older.
//!
//! So a guest that prints for ever takes a fixed part of the host's disk, and the last that it said is always there.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;

use crate::record::Record;

/// Bytes in each of the two files.
const HALF_BYTES: u64 = 2 << 20;

/// Gets the next file, when one is full.
type Turn = Box<dyn FnMut() -> io::Result<File> + Send>;

/// Writes a log. Never fails its caller: a full disk must not stop a guest.
pub struct LogWriter {
    file: File,
    turn: Turn,
    written: u64,
    half_bytes: u64,
    is_stale: Arc<AtomicBool>,
}

impl fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogWriter")
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

/// The first file of a log.
pub(crate) fn begin(record: &Record) -> io::Result<File> {
    File::create(record.console())
}

/// The next one.
pub(crate) fn turn(record: &Record) -> io::Result<File> {
    fs::rename(record.console(), record.old_console())?;
    File::create(record.console())
}

impl LogWriter {
    /// Writes to `file`, and when that is full to the one that `turn` gets: by another process, if this one may open
    /// nothing.
    pub fn new(file: File, turn: Box<dyn FnMut() -> io::Result<File> + Send>) -> LogWriter {
        LogWriter {
            file,
            turn,
            written: 0,
            half_bytes: HALF_BYTES,
            is_stale: Arc::default(),
        }
    }

    /// The same where so many bytes are in `file` already.
    #[must_use]
    pub fn with_written(mut self, bytes: u64) -> LogWriter {
        self.written = bytes;
        self
    }

    /// Set, it has the next bytes go to the next file: nobody finds the present one any more.
    pub fn staleness(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_stale)
    }

    fn turn_over(&mut self) -> io::Result<()> {
        self.file = (self.turn)()?;
        self.written = 0;
        Ok(())
    }
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let is_full = self.written >= self.half_bytes;
        if (is_full || self.is_stale.swap(false, Ordering::Relaxed)) && self.turn_over().is_err() {
            return Ok(bytes.len());
        }
        let room = (self.half_bytes - self.written.min(self.half_bytes)).max(1);
        let now = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        // What the disk does not take is lost to the log, not to the console.
        let _ = self.file.write_all(&bytes[..now]);
        self.written += now as u64;
        Ok(now)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How much of a log to show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail {
    /// All that is kept.
    All,
    /// The last lines.
    Lines(usize),
}

/// A log that is being read.
#[derive(Debug)]
pub struct Follow {
    record: Record,
    file: Option<File>,
}

/// Reads what is kept of the log of `record`; [`Follow::more`] has what comes after.
///
/// # Errors
/// Anything but that there is no log yet.
pub fn follow(record: &Record, tail: Tail) -> io::Result<(Vec<u8>, Follow)> {
    let mut bytes = Vec::new();
    let mut file = None;
    // The newer is opened first: should it become the older one now, it is read twice rather than not at all.
    let newer = open(&record.console())?;
    if let Some(mut older) = open(&record.old_console())? {
        let is_other = match &newer {
            Some(newer) => newer.metadata()?.ino() != older.metadata()?.ino(),
            None => true,
        };
        if is_other {
            older.read_to_end(&mut bytes)?;
        }
    }
    if let Some(mut newer) = newer {
        newer.read_to_end(&mut bytes)?;
        file = Some(newer);
    }
    if let Tail::Lines(count) = tail {
        let at = last_lines(&bytes, count);
        bytes.drain(..at);
    }
    Ok((
        bytes,
        Follow {
            record: record.clone(),
            file,
        },
    ))
}

impl Follow {
    /// What was written since the last look.
    ///
    /// # Errors
    /// What the file says.
    pub fn more(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if let Some(file) = &mut self.file {
            file.read_to_end(&mut bytes)?;
        }
        let newest = open(&self.record.console())?;
        let is_same = match (&self.file, &newest) {
            (Some(file), Some(newest)) => file.metadata()?.ino() == newest.metadata()?.ino(),
            (_, None) => true,
            (None, Some(_)) => false,
        };
        if !is_same {
            // The old one gets no more bytes, but may have got some between the two looks.
            if let Some(file) = &mut self.file {
                file.read_to_end(&mut bytes)?;
            }
            self.file = newest;
            if let Some(file) = &mut self.file {
                file.read_to_end(&mut bytes)?;
            }
        }
        Ok(bytes)
    }
}

fn open(path: &std::path::Path) -> io::Result<Option<File>> {
    // Root reads other users' logs: no link of theirs is followed, and no pipe waited for.
    let unfollowed = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let open = File::options()
        .read(true)
        .custom_flags(unfollowed.bits() as i32)
        .open(path);
    match open {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where the last `count` lines begin.
fn last_lines(bytes: &[u8], count: usize) -> usize {
    let mut starts = VecDeque::from([0]);
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        if at + 1 == bytes.len() {
            break;
        }
        starts.push_back(at + 1);
        if starts.len() > count.max(1) {
            starts.pop_front();
        }
    }
    if count == 0 { bytes.len() } else { starts[0] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_whole_ones() {
        let check = |text: &str, count, expected: &str| {
            assert_eq!(
                &text[last_lines(text.as_bytes(), count)..],
                expected,
                "{text:?} {count}"
            );
        };
        check("a\nb\nc\n", 2, "b\nc\n");
        check("a\nb\nc", 2, "b\nc");
        check("a\nb\nc", 9, "a\nb\nc");
        check("a\n", 1, "a\n");
        check("a\nb", 0, "");
        check("", 3, "");
    }

    #[test]
    fn a_guest_that_prints_for_ever_takes_a_bounded_part_of_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::new(folder.path().to_owned());
        let turned = record.clone();
        let mut log = LogWriter::new(begin(&record).unwrap(), Box::new(move || turn(&turned)));
        log.half_bytes = 1000;
        let (nothing, mut follow_it) = follow(&record, Tail::All).unwrap();
        assert!(nothing.is_empty());
        let mut followed = Vec::new();
        let mut written = Vec::new();
        for line in 0..500 {
            let text = format!("line {line}\n");
            log.write_all(text.as_bytes()).unwrap();
            written.extend(text.into_bytes());
            followed.extend(follow_it.more().unwrap());
        }
        assert!(followed == written, "who follows misses nothing");
        let kept = follow(&record, Tail::All).unwrap().0;
        assert!(kept.len() <= 2000 && kept.len() > 1000, "{}", kept.len());
        assert!(written.ends_with(&kept));
        assert_eq!(follow(&record, Tail::Lines(1)).unwrap().0, b"line 499\n");
    }
}
