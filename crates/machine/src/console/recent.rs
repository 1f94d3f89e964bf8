//! What the guest printed lately, for everybody who looks at its console beside the one that it writes to.
//!
//! One writer, any number of readers, each with its own position. The writer never waits for a reader: one that
//! falls behind by more than is kept goes on at the oldest byte that is, and is told how many it missed.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, MutexGuard};

use host::lock::{Condition, Lock};

/// Bytes that are kept.
const KEPT_BYTES: usize = 256 * 1024;
/// Bytes that a reader gets at once.
const PIECE_BYTES: usize = 16 * 1024;

/// The guest's recent output. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Recent(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Lock<State>,
    changed: Condition,
}

#[derive(Default)]
struct State {
    kept: VecDeque<u8>,
    /// Bytes ever written: the position behind the last one kept.
    end: u64,
    closed: bool,
}

impl State {
    fn start(&self) -> u64 {
        self.end - self.kept.len() as u64
    }
}

impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent").finish_non_exhaustive()
    }
}

/// What a reader gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    /// Bytes that it has missed before these.
    pub(crate) missed: u64,
    pub(crate) bytes: Vec<u8>,
}

/// A reader's position.
#[derive(Debug)]
pub(crate) struct Reader {
    recent: Recent,
    at: u64,
}

impl Recent {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }

    /// The guest printed these.
    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut state = self.lock();
        state.end += bytes.len() as u64;
        state
            .kept
            .extend(&bytes[bytes.len().saturating_sub(KEPT_BYTES)..]);
        let surplus = state.kept.len().saturating_sub(KEPT_BYTES);
        state.kept.drain(..surplus);
        self.0.changed.notify_all();
    }

    /// What is kept, and how many bytes the guest ever printed.
    pub(crate) fn kept(&self) -> (u64, Vec<u8>) {
        let state = self.lock();
        (state.end, state.kept.iter().copied().collect())
    }

    /// Goes on from what another process kept, of so many bytes that the guest ever printed. Before it prints.
    pub(crate) fn go_on_from(&self, kept: &[u8], printed_bytes: u64) {
        self.push(kept);
        let mut state = self.lock();
        state.end = state.end.max(printed_bytes);
    }

    /// The guest prints no more.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.0.changed.notify_all();
    }

    /// Has readers look whether they still want to wait.
    pub(crate) fn call(&self) {
        drop(self.lock());
        self.0.changed.notify_all();
    }

    /// How many bytes the guest ever printed.
    pub(crate) fn printed_bytes(&self) -> u64 {
        self.lock().end
    }

    /// A reader that starts this many bytes back, or at the oldest that is kept.
    pub(crate) fn reader(&self, back_bytes: u64) -> Reader {
        let state = self.lock();
        let at = state.end.saturating_sub(back_bytes).max(state.start());
        drop(state);
        Reader {
            recent: self.clone(),
            at,
        }
    }
}

impl Reader {
    /// The next bytes, as soon as there are some; `None` at the end, or when this reader does not want any more.
    pub(crate) fn next(&mut self, goes_on: impl Fn() -> bool) -> Option<Piece> {
        let shared = &self.recent.0;
        let mut state = self.recent.lock();
        while state.end == self.at && !state.closed && goes_on() {
            state = shared.changed.wait(state);
        }
        if state.end == self.at || !goes_on() {
            return None;
        }
        let missed = state.start().saturating_sub(self.at);
        self.at += missed;
        let skip = (self.at - state.start()) as usize;
        let bytes: Vec<u8> = state
            .kept
            .range(skip..)
            .take(PIECE_BYTES)
            .copied()
            .collect();
        self.at += bytes.len() as u64;
        Some(Piece { missed, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reader_gets_all_of_it_from_where_it_came() {
        let recent = Recent::default();
        recent.push(b"before");
        let mut all = recent.reader(u64::MAX);
        let mut some = recent.reader(2);
        recent.push(b" and after");
        recent.close();
        let check = |reader: &mut Reader, expected: &[u8]| {
            let piece = reader.next(|| true).unwrap();
            assert_eq!((piece.missed, piece.bytes.as_slice()), (0, expected));
            assert_eq!(reader.next(|| true), None);
        };
        check(&mut all, b"before and after");
        check(&mut some, b"re and after");
        assert_eq!(recent.printed_bytes(), 16);
    }

    #[test]
    fn a_slow_reader_misses_bytes_and_hears_how_many() {
        let recent = Recent::default();
        let mut slow = recent.reader(0);
        recent.push(&[b'a'; 1000]);
        recent.push(&[b'b'; KEPT_BYTES]);
        recent.push(b"end");
        recent.close();
        let first = slow.next(|| true).unwrap();
        assert_eq!(
            (first.missed, first.bytes[0], first.bytes.len()),
            (1003, b'b', PIECE_BYTES)
        );
        let mut last = first;
        while let Some(piece) = slow.next(|| true) {
            assert_eq!(piece.missed, 0);
            last = piece;
        }
        assert!(last.bytes.ends_with(b"bend"));
    }

    #[test]
    fn a_reader_that_wants_no_more_is_let_go() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let recent = Recent::default();
        let wanted = AtomicBool::new(true);
        let mut reader = recent.reader(0);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| reader.next(|| wanted.load(Ordering::Relaxed)));
            std::thread::sleep(std::time::Duration::from_millis(10));
            wanted.store(false, Ordering::Relaxed);
            recent.call();
            assert_eq!(waiter.join().unwrap(), None);
        });
    }
}
