//! The silicon's side of sequences: each round is a case whose slot says what changes before it.

use super::{Before, Native, RawChange, Slot};
use crate::arena;
use crate::case::{Outcome, Registers};
use crate::rounds::{Change, MOST_CHANGES, MOST_ROUNDS, Round, Sequence, WINDOW};

impl Native {
    /// One outcome for each round.
    ///
    /// # Errors
    /// When the process cannot be started.
    ///
    /// # Panics
    /// If the oracle was not made with [`Native::for_sequences`], or the sequence has too many rounds.
    pub fn run_rounds(&mut self, sequence: &Sequence) -> anyhow::Result<Vec<Outcome>> {
        assert!(self.may_map, "this oracle's process may not map pages");
        assert!(!sequence.rounds.is_empty() && sequence.rounds.len() <= MOST_ROUNDS);
        self.put_image(&sequence.image.data);
        for (index, round) in sequence.rounds.iter().enumerate() {
            self.put_round(index, &sequence.start_of(round), before(index, round));
        }
        self.offer(sequence.rounds.len());
        self.go()?;
        // A process that died did so in a round that has no signal: its outcome says so.
        Ok((0..sequence.rounds.len())
            .map(|index| self.outcome(index))
            .collect())
    }

    fn put_round(&self, index: usize, start: &Registers, before: Before) {
        let slot: *mut Slot = self.slot(index);
        // SAFETY: the slot lies in the mapping, and the child does not run now.
        let slot = unsafe { &mut *slot };
        slot.start.clone_from(start);
        slot.signal = 0;
        slot.before = before;
    }
}

fn before(index: usize, round: &Round) -> Before {
    let mut changes = [RawChange::default(); MOST_CHANGES];
    for (raw, change) in changes.iter_mut().zip(&round.changes) {
        *raw = raw_change(change);
    }
    Before {
        keeps_data: u32::from(index > 0),
        goes_on: u32::from(round.goes_on),
        count: round.changes.len() as u32,
        reserved: 0,
        changes,
    }
}

fn raw_change(change: &Change) -> RawChange {
    match *change {
        Change::Map { page, to } => {
            let access = to.map_or(libc::PROT_NONE, |to| {
                let write = if to.write { libc::PROT_WRITE } else { 0 };
                let execute = if to.execute { libc::PROT_EXEC } else { 0 };
                libc::PROT_READ | write | execute
            });
            RawChange {
                address: WINDOW + page as u64 * arena::PAGE,
                offset: to.map_or(0, |to| to.frame as u64 * arena::PAGE),
                value: access as u64,
            }
        }
        Change::Store { offset, byte } => RawChange {
            address: 0,
            offset: offset as u64,
            value: u64::from(byte),
        },
    }
}
