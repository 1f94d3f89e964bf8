//! The file of the page store: segments of one size, each written once from front to back, and used again when nothing
//! in it is alive.
//!
//! The file has no name from its birth on, so nothing is left of it however the process ends. It is read and written
//! through the host's page cache: what was just written comes back at memory speed, and under pressure the cache is
//! the first thing that the host drops, which a cache of our own would not be.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use host::at::FileAt;
use rustix::fs::{FallocateFlags, OFlags, fallocate};

/// Bytes of a segment: what is written at once.
pub(crate) const SEGMENT_BYTES: u64 = 256 * 1024;

/// The file may hold this much of gaps before it is tidied up: a part of what is alive in it, and some segments.
const GAPS_PART: u64 = 4;
const GAPS_SEGMENTS: u64 = 16;

/// Where bytes lie in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    /// Which segment.
    pub(crate) segment: u32,
    /// Where in it.
    pub(crate) offset: u32,
    /// How many bytes.
    pub(crate) len_bytes: u16,
}

impl Extent {
    /// Where in the file.
    pub(crate) fn position(self) -> u64 {
        u64::from(self.segment) * SEGMENT_BYTES + u64::from(self.offset)
    }
}

/// What the store does with its file. The file itself does it; tests have one that fails on purpose.
pub(crate) trait Medium: Send + Sync {
    /// Fills `bytes` from `position` on.
    fn read(&self, bytes: &mut [u8], position: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `position`.
    fn write(&self, bytes: &[u8], position: u64) -> io::Result<()>;
    /// Gives the room of a stretch back.
    fn punch(&self, position: u64, len_bytes: u64) -> io::Result<()>;
}

impl Medium for File {
    fn read(&self, bytes: &mut [u8], position: u64) -> io::Result<()> {
        self.read_exact_at(bytes, position)
    }

    fn write(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.write_all_at(bytes, position)
    }

    fn punch(&self, position: u64, len_bytes: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(self, flags, position, len_bytes)?)
    }
}

/// The file of a page store, and how much may lie in it: opened once, and empty for each pager that it serves.
#[derive(Clone, Debug)]
pub struct PageFile {
    file: Arc<File>,
    budget_bytes: u64,
}

impl PageFile {
    /// Makes one in `folder`.
    ///
    /// # Errors
    /// What the host says.
    pub fn open(folder: &Path, budget_bytes: u64) -> io::Result<PageFile> {
        Ok(PageFile::of_file(PageFile::make(folder)?, budget_bytes))
    }

    /// Makes the file alone, which no path leads to.
    ///
    /// # Errors
    /// What the host says.
    pub fn make(folder: &Path) -> io::Result<File> {
        nameless(folder)
    }

    /// One in a file that was [made](PageFile::make), by another process perhaps.
    pub fn of_file(file: File, budget_bytes: u64) -> PageFile {
        PageFile {
            file: Arc::new(file),
            budget_bytes,
        }
    }

    pub(crate) fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// The file for one more pager. What the one before it left there belongs to nobody, and its room is given back; a
    /// host that does not take it back has it overwritten.
    pub(crate) fn medium(&self) -> Arc<File> {
        let _ = self.file.set_len(0);
        Arc::clone(&self.file)
    }
}

fn nameless(folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options
        .clone()
        .custom_flags(OFlags::TMPFILE.bits() as i32)
        .open(folder)
    {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
        opened => return opened,
    }
    // A file system without O_TMPFILE: the name lives for the time of two system calls.
    let name = folder.join(format!(".mother-pages-{}", host::cpu::process_number()));
    let file = options.create_new(true).open(&name)?;
    std::fs::remove_file(&name)?;
    Ok(file)
}

#[derive(Clone, Copy, Debug, Default)]
struct Segment {
    live_bytes: u64,
    is_written: bool,
}

/// The segments of a file and what is alive in them.
pub(crate) struct Segments {
    medium: Arc<dyn Medium>,
    segments: Vec<Segment>,
    free: Vec<u32>,
    live_bytes: u64,
}

impl Segments {
    /// At most `budget_bytes` of `medium`; at least three segments, because one is needed for tidying up.
    pub(crate) fn new(medium: Arc<dyn Medium>, budget_bytes: u64) -> Segments {
        let count = (budget_bytes / SEGMENT_BYTES).max(3) as u32;
        Segments {
            medium,
            segments: vec![Segment::default(); count as usize],
            free: (0..count).rev().collect(),
            live_bytes: 0,
        }
    }

    /// What to read from and write to, also without holding a lock on the segments.
    pub(crate) fn medium(&self) -> Arc<dyn Medium> {
        Arc::clone(&self.medium)
    }

    /// Bytes of pages in the file.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Bytes that the file takes.
    pub(crate) fn held_bytes(&self) -> u64 {
        (self.segments.len() - self.free.len()) as u64 * SEGMENT_BYTES
    }

    /// Whether the file is more gaps than it may be.
    pub(crate) fn is_untidy(&self) -> bool {
        let gaps = self.held_bytes() - self.live_bytes;
        gaps > self.live_bytes / GAPS_PART + GAPS_SEGMENTS * SEGMENT_BYTES
    }

    /// A segment to write; the last one only `to_tidy`.
    pub(crate) fn reserve(&mut self, to_tidy: bool) -> Option<u32> {
        if self.free.len() <= usize::from(!to_tidy) {
            None
        } else {
            self.free.pop()
        }
    }

    /// A reserved segment was not written.
    pub(crate) fn give_back(&mut self, segment: u32) {
        self.segments[segment as usize] = Segment::default();
        self.free.push(segment);
    }

    /// A page lies there now.
    pub(crate) fn add(&mut self, extent: Extent) {
        let segment = &mut self.segments[extent.segment as usize];
        segment.is_written = true;
        segment.live_bytes += u64::from(extent.len_bytes);
        self.live_bytes += u64::from(extent.len_bytes);
    }

    /// No more. A segment in which nothing is alive can be used again.
    pub(crate) fn remove(&mut self, extent: Extent) {
        let segment = &mut self.segments[extent.segment as usize];
        segment.live_bytes -= u64::from(extent.len_bytes);
        self.live_bytes -= u64::from(extent.len_bytes);
        if segment.live_bytes == 0 && segment.is_written {
            self.give_back(extent.segment);
            // Costs disk, not correctness, if the file system cannot do it.
            let _ = self
                .medium
                .punch(u64::from(extent.segment) * SEGMENT_BYTES, SEGMENT_BYTES);
        }
    }

    /// The segments that are worth emptying: those with the least in them, as long as one segment holds them all.
    pub(crate) fn worth_tidying(&self) -> Vec<u32> {
        let mut written: Vec<u32> = (0..self.segments.len() as u32)
            .filter(|&at| self.segments[at as usize].is_written)
            .collect();
        written.sort_by_key(|&at| self.segments[at as usize].live_bytes);
        let mut total = 0;
        let fitting: Vec<u32> = written
            .into_iter()
            .take_while(|&at| {
                total += self.segments[at as usize].live_bytes;
                total <= SEGMENT_BYTES
            })
            .collect();
        if fitting.len() < 2 {
            Vec::new()
        } else {
            fitting
        }
    }
}

impl std::fmt::Debug for Segments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segments")
            .field("live_bytes", &self.live_bytes)
            .finish_non_exhaustive()
    }
}
