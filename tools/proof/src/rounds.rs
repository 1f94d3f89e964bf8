//! A sequence of instructions that is run several times, and what happens to its pages between the runs.
//!
//! One instruction alone never meets what a translator does *between* instructions: flags that are put away, registers
//! that are lent, jumps that are chained, code that stays translated while its pages change. So a [`Sequence`] is a
//! little program in a window of pages of its own, run in [`Round`]s. Before each round pages may be mapped to other
//! memory, lose or get permissions, or be written by a device; a round may be single-stepped. The silicon and the engine
//! must agree on every register and byte after every round.
//!
//! The window's pages lie on the frames of the arena's data pages, so the data pages are aliases of the code.

use std::sync::Arc;

use crate::arena;
use crate::case::{Image, Registers};

/// First address of the window.
pub const WINDOW: u64 = 0x3000_0000;
/// Pages of the window: two of code, a hole, two of data, a hole.
pub const PAGES: usize = 6;
/// The page that the data lies in; the code lies in pages 0 and 1.
pub const DATA_PAGE: usize = 3;
/// The frame of data; 0 and 1 are those of the code, 2 another second page, 3 another first page.
pub const DATA_FRAME: usize = 4;
/// The most changes before a round.
pub const MOST_CHANGES: usize = 8;
/// The most rounds of a sequence.
pub const MOST_ROUNDS: usize = 16;

/// What a page of the window is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Frame among the [`arena::DATA_MAP`]'s.
    pub frame: usize,
    #[allow(missing_docs)]
    pub write: bool,
    #[allow(missing_docs)]
    pub execute: bool,
}

/// What happens before a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// A page of the window becomes this, or nothing.
    Map {
        /// 0 to [`PAGES`].
        page: usize,
        #[allow(missing_docs)]
        to: Option<Mapping>,
    },
    /// A device stores a byte.
    Store {
        /// Where among the data pages' bytes.
        offset: usize,
        #[allow(missing_docs)]
        byte: u8,
    },
}

/// One run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Round {
    /// What happens before it; at most [`MOST_CHANGES`].
    pub changes: Vec<Change>,
    /// It goes on where the round before ended, with the registers of then. Otherwise it starts at the start.
    pub goes_on: bool,
    /// It is single-stepped: RFLAGS.TF is set at its start.
    pub steps: bool,
}

/// See the module's head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sequence {
    /// 64, or 32 for compatibility mode.
    pub bits: u32,
    /// Registers at the start of each round.
    pub start: Registers,
    /// The frames before the first round.
    pub image: Arc<Image>,
    /// At most [`MOST_ROUNDS`].
    pub rounds: Vec<Round>,
    /// Addresses and lengths of the instructions, for people.
    pub instructions: Vec<(u64, usize)>,
}

impl Sequence {
    /// Registers at the start of a round.
    pub fn start_of(&self, round: &Round) -> Registers {
        let mut start = self.start.clone();
        start.rflags |= u64::from(round.steps) << 8;
        start
    }

    /// Where the byte at an address of the code lies in the image, as the first round maps it.
    pub fn code_offset(address: u64) -> usize {
        let offset = (address - WINDOW) as usize;
        assert!(offset < 2 * arena::PAGE as usize, "code lies in two pages");
        offset
    }
}
