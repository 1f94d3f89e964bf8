//! Entries and bytes on their way from a source to a taker, and what is told of it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::{Entry, EntryKind, VmName};
use fleet::AgentError;

use super::ends::Ends;
use super::shown::Shown;
use crate::answers::{Copied, LeftOut};
use crate::failure::Failure;
use crate::vm::words::printable;

/// Bytes of a file that go at once.
pub const PIECE_BYTES: usize = 60 << 10;

/// What is told by name of all that was left out.
const NAMED_MAX: usize = 20;

/// Why nothing more is copied.
#[derive(Debug)]
pub enum Stop {
    /// It is a sentence already.
    Failure(Box<Failure>),
    /// A guest's agent does not.
    Agent(VmName, AgentError),
    /// A file here cannot be written, and neither will others be.
    Here(PathBuf, io::Error),
    /// Standard output.
    Output(io::Error),
    /// Standard input is no archive.
    Input(io::Error),
    /// A guest sends more bytes than it may.
    TooMuch(VmName, u64),
    /// Or more files.
    TooMany(VmName),
    /// A signal wants this to end.
    Signal,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failure(Box::new(failure))
    }
}

/// Where entries and bytes go. What cannot be taken of a single one is told, and the others are taken.
pub trait Taker {
    /// The next one. What there is of it comes before another.
    fn entry(&mut self, entry: &Entry, told: &mut Told) -> Result<(), Stop>;
    /// Bytes of the file that came last, in order; what is left out is a hole.
    fn data(&mut self, at: u64, bytes: &[u8], told: &mut Told) -> Result<(), Stop>;
    /// Nothing more comes.
    fn end(&mut self, told: &mut Told) -> Result<(), Stop>;
}

/// What was copied, and what was not.
#[derive(Debug)]
pub struct Told {
    /// How far it is.
    pub shown: Shown,
    signal: Arc<AtomicUsize>,
    files: u64,
    folders: u64,
    links: u64,
    bytes: u64,
    /// How much was left out.
    pub left_out: u64,
    named: Vec<(String, String)>,
    /// Files that lost bits which would have given somebody's rights away.
    pub stripped: u64,
    /// Links that lead out of what was copied.
    pub leading_out: u64,
}

impl Told {
    /// Nothing was copied.
    pub fn new(shown: Shown, signal: Arc<AtomicUsize>) -> Told {
        Told {
            shown,
            signal,
            files: 0,
            folders: 0,
            links: 0,
            bytes: 0,
            left_out: 0,
            named: Vec::new(),
            stripped: 0,
            leading_out: 0,
        }
    }

    /// An entry goes over, unless a signal came.
    pub fn entry(&mut self, entry: &Entry) -> Result<(), Stop> {
        match entry.kind {
            EntryKind::File => self.files += 1,
            EntryKind::Folder => self.folders += 1,
            EntryKind::Link => self.links += 1,
        }
        self.check_signal()
    }

    /// So many bytes go over.
    pub fn data(&mut self, len: usize) -> Result<(), Stop> {
        self.bytes += len as u64;
        self.shown.show(self.bytes);
        self.check_signal()
    }

    /// How many did.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether somebody wants this to end.
    pub fn check_signal(&self) -> Result<(), Stop> {
        match self.signal.load(Ordering::Acquire) {
            0 => Ok(()),
            _ => Err(Stop::Signal),
        }
    }

    /// Something is not copied. Names may be a guest's: what they would do to a terminal they do not.
    pub fn leave_out(&mut self, name: &[u8], why: &str) {
        self.left_out += 1;
        if self.named.len() < NAMED_MAX {
            let name = printable(&String::from_utf8_lossy(name));
            self.named.push((name, printable(why)));
        }
    }

    /// A guest says that so many were left out, some of which it has named.
    pub fn left_out_there(&mut self, count: u64, named: u64) {
        self.left_out += count.saturating_sub(named);
    }

    /// Says on standard error what was not copied as it was.
    pub fn explain(&self) {
        for (name, why) in &self.named {
            eprintln!("mother: left out {name}: {why}");
        }
        let rest = self.left_out.saturating_sub(self.named.len() as u64);
        if rest > 0 {
            eprintln!("mother: left out {rest} more");
        }
        if self.stripped > 0 {
            let count = self.stripped;
            eprintln!(
                "mother: {count} of the files had set-user-ID, set-group-ID or sticky bits, which were taken away"
            );
        }
        if self.leading_out > 0 {
            let count = self.leading_out;
            eprintln!(
                "mother: {count} of the links lead out of what was copied; none was followed"
            );
        }
    }

    /// For programs.
    pub fn answer<'a>(&'a self, ends: &'a Ends) -> Copied<'a> {
        let named = self.named.iter();
        Copied {
            from: ends.source(),
            to: ends.target(),
            files: self.files,
            folders: self.folders,
            links: self.links,
            bytes: self.bytes,
            left_out: self.left_out,
            named: named.map(|(name, why)| LeftOut { name, why }).collect(),
            stripped: self.stripped,
            leading_out: self.leading_out,
            seconds: self.shown.seconds(),
        }
    }
}
