//! A VM that goes on in another process: a new binary under a running guest.
//!
//! # Problem
//!
//! A VM that runs for months runs in the binary that started it. What is mended since, in a device or in an engine, is of no
//! use to it until its guest starts again, which whoever depends on that guest puts off. So the guest is to go on in a process
//! of the new binary: same memory, same disks, same connections, and no longer pause than a change of engine has.
//!
//! # Plan
//!
//! All that a VM is lies in three places. What the kernel has for it (files, sockets, the memory file) belongs to no process, and
//! is handed over as descriptors. What its devices and vCPUs are is a plain value already ([`crate::life::saved`]), because a
//! snapshot is made of it. The rest is few words: what is beside the life ([`Words`]). So the guest is not copied, and its memory is
//! not touched: the new process maps the same file.
//!
//! ```text
//!                old process                 launcher                  new process
//!  guest runs    .                           starts it, same descriptors ->  opens, locks itself in
//!  guest runs    .                           <------------------------  is ready
//!  guest runs    brings in what is away  <-  asks
//!  stands still  rests, gives ------------>  ---------------------->  takes: maps memory, makes devices and vCPUs
//!  stands still  waits                       <------------------------  is built
//!  stands still  is killed               <-  serves ---------------->  runs
//!  guest runs                                                          .
//! ```
//!
//! # Invariants
//!
//! - **One of the two may run the guest, at any moment.** From when its state is taken until it is told that it stays, the old
//!   process does nothing of the guest's: its attendant waits in that very step ([`crate::control`]), so that no request, signal or
//!   client can have it go on, and what is asked of it meanwhile is refused and not noted. It has no patience that could end: only
//!   the launcher says how it goes on, and when the launcher is gone, so is the VM.
//! - **Until it is killed, the old process has lost nothing.** Taking a state changes nothing, the new process writes neither
//!   memory nor disks nor sockets before it runs, and pages that are away are brought in while the guest still runs. So
//!   whatever happens to the new process before that costs the guest a pause.
//! - **What is handed over is not believed.** The old process may have been taken over by its guest: its words are read as those of
//!   a snapshot are, by a process that has locked itself in, and descriptors beside memory come from the launcher, which opened them.
//! - **A number says what is understood** ([`FORMAT`]): words of another one are refused, before the guest is asked to rest.

mod give;
mod take;

use std::fs::File;
use std::os::fd::OwnedFd;

use api::{ClaimBook, LimitsSaid};
use devices::virtio::net::Unfinished;
use serde::{Deserialize, Serialize};

use crate::engine::EngineKind;
use crate::life::saved::LifeState;

pub use give::{Giver, NotGiven};

/// The number of what a process gives and understands: changed with anything in [`Words`] or in a state beneath it.
pub const FORMAT: u32 = 1;

/// Bytes of words that are read at most.
const WORDS_BYTES_MAX: u64 = 64 << 20;
/// Bytes of blobs that are read at most: more than is ever kept.
const BLOBS_BYTES_MAX: u64 = 4 << 20;

/// A VM on its way from one process to another.
#[derive(Debug)]
pub struct Handed {
    /// [`Words`], as JSON.
    words: File,
    /// [`Blobs`], one after the other.
    blobs: File,
    /// Its memory.
    memory: File,
    /// The same for who only reads, if there is one.
    view: Option<File>,
}

impl Handed {
    /// Of the descriptors that [`Handed::into_descriptors`] gave; none if they are not as many.
    pub fn of_descriptors(descriptors: Vec<OwnedFd>) -> Option<Handed> {
        let mut files = descriptors.into_iter().map(File::from);
        let handed = Handed {
            words: files.next()?,
            blobs: files.next()?,
            memory: files.next()?,
            view: files.next(),
        };
        files.next().is_none().then_some(handed)
    }

    /// One by one.
    pub fn into_descriptors(self) -> Vec<OwnedFd> {
        let Handed {
            words,
            blobs,
            memory,
            view,
        } = self;
        let files = [words, blobs, memory].into_iter().chain(view);
        files.map(OwnedFd::from).collect()
    }
}

/// What a VM is beside its memory and what it stands on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    format: u32,
    life: LifeState,
    engine: EngineKind,
    /// Somebody has paused it: it stays so.
    is_paused: bool,
    /// Whether its memory may be in huge pages.
    is_in_huge_pages: bool,
    /// How often the guest started again.
    reboots: u64,
    /// Since when it runs, in nanoseconds.
    age_ns: u64,
    limits: LimitsSaid,
    /// Somebody has pulled the cable of its network card.
    is_unplugged: bool,
    claims: ClaimBook,
    /// Bytes that the guest ever printed.
    printed_bytes: u64,
    /// How long each of the [`Blobs`] is.
    blobs: [usize; 4],
}

/// Bytes that are no words.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Blobs {
    /// What the guest printed lately.
    printed: Vec<u8>,
    /// What was typed and not taken by the guest.
    typed: Vec<u8>,
    /// What is in the middle of a frame.
    frames: Unfinished,
}

impl Blobs {
    fn parts(&self) -> [&[u8]; 4] {
        let Unfinished {
            from_network,
            to_network,
        } = &self.frames;
        [&self.printed, &self.typed, from_network, to_network]
    }

    /// Cut out of `bytes`, which are as many as `lens` say, or else none are.
    fn cut(bytes: &[u8], lens: [usize; 4]) -> Option<Blobs> {
        let mut rest = bytes;
        let mut parts = lens.into_iter().map(|len| {
            let (part, behind) = rest.split_at_checked(len)?;
            rest = behind;
            Some(part.to_vec())
        });
        let blobs = Blobs {
            printed: parts.next()??,
            typed: parts.next()??,
            frames: Unfinished {
                from_network: parts.next()??,
                to_network: parts.next()??,
            },
        };
        drop(parts);
        rest.is_empty().then_some(blobs)
    }
}
