//! The new process: goes on with a guest that another process has given away.

use std::fs::File;
use std::time::{Duration, Instant};

use host::at::FileAt;
use mem::MemoryFile;
use serde::Deserialize;

use super::{BLOBS_BYTES_MAX, Blobs, FORMAT, Handed, WORDS_BYTES_MAX, Words};
use crate::boot;
use crate::build::Machine;
use crate::build::opened::Opened;
use crate::console::Console;
use crate::life::Begin;
use crate::life::held::BuildError;
use crate::life::restored::Restored;
use crate::life::saved::SavedError;

impl Opened {
    /// Assembles a machine that goes on with the guest of `handed`, as [`Opened::assemble`] does for one that starts. Nothing of the
    /// guest runs before the machine does, and none of its memory, disks and sockets is touched.
    ///
    /// # Errors
    /// [`BuildError`] when what was handed over is not understood, or does not fit.
    pub fn go_on(mut self, console: Console, handed: Handed) -> Result<Machine, BuildError> {
        let words = words(&handed.words).map_err(BuildError::Saved)?;
        let blobs = blobs(&handed.blobs, words.blobs).map_err(BuildError::Saved)?;
        let slots = boot::slots(self.plan().memory_bytes);
        let is_huge = words.is_in_huge_pages;
        let memory = MemoryFile::handed(&slots, handed.memory, handed.view, is_huge);
        self.begin_on(memory.map_err(BuildError::Memory)?, words.engine)?;
        self.begin_within(&words.limits);
        if !self.begin_with_frames(&blobs.frames) {
            return Err(BuildError::Saved(SavedError::Machine(
                "frames of no network",
            )));
        }
        let input = console.input();
        let begin = Begin::Saved(Box::new(Restored::moved(words.life)));
        let mut machine = self.assemble_from(console, begin)?;
        let age = Duration::from_nanos(words.age_ns);
        machine.start = Instant::now().checked_sub(age).unwrap_or(machine.start);
        machine
            .recent
            .go_on_from(&blobs.printed, words.printed_bytes);
        machine.control.go_on_from(words.reboots, words.is_paused);
        machine
            .devices
            .go_on_from(&words.claims, words.is_unplugged);
        input.begin_with(&blobs.typed);
        machine.reboots = words.reboots;
        Ok(machine)
    }
}

/// What another process has written of a VM, if it is understood.
fn words(file: &File) -> Result<Words, SavedError> {
    /// What every format says.
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let unread = |error: serde_json::Error| SavedError::Read(error.to_string());
    let text = read_all(file, WORDS_BYTES_MAX)?;
    let Format { format } = serde_json::from_slice(&text).map_err(unread)?;
    if format != FORMAT {
        return Err(SavedError::Handed { found: format });
    }
    let words: Words = serde_json::from_slice(&text).map_err(unread)?;
    words.life.check_format()?;
    Ok(words)
}

fn blobs(file: &File, lens: [usize; 4]) -> Result<Blobs, SavedError> {
    let bytes = read_all(file, BLOBS_BYTES_MAX)?;
    let cut = Blobs::cut(&bytes, lens);
    cut.ok_or_else(|| SavedError::Read("it is shorter or longer than it says".to_owned()))
}

/// All of a file, from wherever it is written to its end.
fn read_all(file: &File, bytes_max: u64) -> Result<Vec<u8>, SavedError> {
    let mut bytes = Vec::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        let read = file.read_at(&mut piece, bytes.len() as u64);
        match read.map_err(|error| SavedError::Read(error.to_string()))? {
            0 => return Ok(bytes),
            count => bytes.extend_from_slice(&piece[..count]),
        }
        if bytes.len() as u64 > bytes_max {
            return Err(SavedError::Read("it is too long".to_owned()));
        }
    }
}
