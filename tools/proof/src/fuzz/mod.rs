//! Whatever reads what a guest or a stranger wrote, given bytes that somebody has changed: parsers of files, every device with
//! its own code, and the software CPU.
//!
//! Each [`Target`] has good inputs, which are changed at random, by what breaks parsers: single bits, edges of integers at any
//! width, pieces that are cut, doubled or exchanged with another input's. What must hold is little and hard: no panic, an answer
//! within [`PATIENCE`], and not all refused, for a target that refuses everything tests nothing. A seed gives the same inputs
//! everywhere; one that fails is kept as a file.
//!
//! The code is not instrumented: the compiler that the project is built with has no way for that without nightly features. What
//! it makes up for that is speed, and seeds that are formats already.

mod board;
mod code;
mod script;
mod shared_folder;
mod snapshot;
mod stage;
mod targets;
mod virtio;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use host::MemFd;

pub use self::targets::targets;
use crate::random::Random;

/// The longest that one input may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Changes of one input, at most.
const CHANGES_MAX: u64 = 6;

/// Longest piece that is cut, doubled or exchanged.
const PIECE_BYTES_MAX: u64 = 600;

/// Something that reads foreign bytes.
pub struct Target {
    /// What it is called.
    pub name: &'static str,
    /// Good inputs.
    pub seeds: Vec<Vec<u8>>,
    /// Reads one; whether it was taken.
    pub read: fn(&[u8]) -> bool,
    /// Puts right what guards an input against change, so that the rest of it is read too.
    pub mend: fn(&mut Vec<u8>),
    /// Of how many bytes the pieces are that most changes cut, double and exchange.
    pub grain: usize,
    /// It may end the process, so an input is kept before it is read.
    pub may_crash: bool,
}

/// What came of one target.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Inputs.
    pub inputs: u64,
    /// Of those, taken as good.
    pub taken: u64,
    /// What went wrong, and where the input lies.
    pub failure: Option<String>,
}

/// A file in memory with these bytes.
fn filled(bytes: &[u8]) -> std::io::Result<File> {
    let file = MemFd::new(c"fuzz", 0)?;
    file.file().write_all_at(bytes, 0)?;
    file.file().try_clone()
}

/// Changes an input.
fn change(input: &mut Vec<u8>, others: &[Vec<u8>], grain: usize, random: &mut Random) {
    const EDGES: [u64; 12] = [
        0,
        1,
        0x7f,
        0x80,
        0xff,
        0x7fff,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        i64::MAX as u64,
        u64::MAX,
    ];
    for _ in 0..=random.below(CHANGES_MAX) {
        if input.is_empty() {
            return;
        }
        let len = input.len() as u64;
        // Half of the changes are where formats say what follows.
        let place = if random.percent(50) {
            random.below(len.min(1024))
        } else {
            random.below(len)
        };
        let grain = if random.percent(80) { grain } else { 1 };
        let whole = |bytes: usize| bytes / grain * grain;
        let what = random.below(6);
        let is_piece = what > 2;
        let at = if is_piece {
            whole(place as usize)
        } else {
            place as usize
        };
        let piece = whole(grain + random.below(PIECE_BYTES_MAX) as usize).min(input.len() - at);
        match what {
            0 => input[at] ^= 1 << random.below(8),
            1 => input[at] = random.bits() as u8,
            2 => {
                let edge = random
                    .pick(&EDGES)
                    .wrapping_add(random.below(3))
                    .wrapping_sub(1);
                let width = 1 << random.below(4);
                let bytes = if random.percent(50) {
                    edge.to_le_bytes()[..width].to_vec()
                } else {
                    edge.to_be_bytes()[8 - width..].to_vec()
                };
                let room = width.min(input.len() - at);
                input[at..at + room].copy_from_slice(&bytes[..room]);
            }
            3 => drop(input.drain(at..at + piece)),
            4 => {
                let again = input[at..at + piece].to_vec();
                drop(input.splice(at..at, again));
            }
            _ => {
                let other = random.pick(others);
                let from = whole(random.below(other.len() as u64) as usize);
                let count = piece.min(other.len() - from);
                input[at..at + count].copy_from_slice(&other[from..from + count]);
            }
        }
    }
}

impl Target {
    /// One of bytes without order, which end no process.
    fn plain(name: &'static str, seeds: Vec<Vec<u8>>, read: fn(&[u8]) -> bool) -> Target {
        Target {
            name,
            seeds,
            read,
            mend: |_| (),
            grain: 1,
            may_crash: false,
        }
    }

    /// Gives it changed inputs for so long, beginning with the unchanged ones, and at least as many as there are of those.
    ///
    /// # Errors
    /// If an input that it fails on cannot be kept.
    pub fn run(&self, time: Duration, seed: u64) -> Result<Outcome> {
        let mut random = Random::new(seed);
        let mut outcome = Outcome::default();
        let start = Instant::now();
        let mut unchanged = self.seeds.iter();
        // However slow the host is, some are changed.
        while start.elapsed() < time || outcome.inputs < 2 * self.seeds.len() as u64 {
            let (input, is_good) = match unchanged.next() {
                Some(seed) => (seed.clone(), true),
                None => {
                    let mut input = random.pick(&self.seeds).clone();
                    change(&mut input, &self.seeds, self.grain, &mut random);
                    if random.percent(80) {
                        (self.mend)(&mut input);
                    }
                    (input, false)
                }
            };
            if self.may_crash {
                self.keep(&input)?;
            }
            let began = Instant::now();
            let read = catch_unwind(AssertUnwindSafe(|| (self.read)(&input)));
            outcome.inputs += 1;
            outcome.taken += u64::from(matches!(read, Ok(true)));
            let wrong = match read {
                Err(panic) => {
                    let text = panic.downcast_ref::<String>().map(String::as_str);
                    let text = text.or(panic.downcast_ref::<&str>().copied());
                    Some(format!("panicked: {}", text.unwrap_or("without a word")))
                }
                Ok(_) if began.elapsed() > PATIENCE => {
                    Some(format!("took {:.1?}", began.elapsed()))
                }
                Ok(false) if is_good => Some("refuses what is good".to_owned()),
                Ok(_) => None,
            };
            if let Some(wrong) = wrong {
                let path = self.keep(&input)?;
                outcome.failure = Some(format!("{wrong}; the input is {}", path.display()));
                break;
            }
        }
        Ok(outcome)
    }

    fn keep(&self, input: &[u8]) -> Result<PathBuf> {
        let path = std::env::temp_dir().join(format!("mother-fuzz-{}", self.name));
        std::fs::write(&path, input).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_takes_what_is_good_and_survives_what_is_not() {
        for target in targets().unwrap() {
            let outcome = target.run(Duration::from_millis(300), 1).unwrap();
            assert_eq!(outcome.failure, None, "{}", target.name);
            assert!(
                outcome.inputs > target.seeds.len() as u64,
                "{}",
                target.name
            );
        }
    }

    #[test]
    fn a_parser_that_breaks_is_told() {
        let target = Target::plain("broken", vec![vec![7; 100]], |input| {
            assert_eq!(input.len(), 100);
            true
        });
        let outcome = target.run(Duration::from_secs(5), 1).unwrap();
        assert!(outcome.failure.unwrap().starts_with("panicked: "));
    }
}
