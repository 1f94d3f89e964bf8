//! What the guest prints: watched for markers on its way, written by a thread of its own.
//!
//! A console can be a terminal that scrolls slowly or a pipe that nobody reads, for as long as they like, and no byte
//! may be lost. Bytes go into a queue. When more wait than [`BEHIND_BYTES`], the serial line becomes a slow one
//! ([`Output::is_behind`]), and programs in the guest wait for it as for any slow line. What still comes, from a kernel
//! that prints and from the slow line, has room for hours. A guest that fills that too, because it asks no line whether
//! it is ready, waits as a whole: its vCPU thread between two exits ([`Output::wait_for_room`]), never while it holds the
//! board's lock. A stop or a timeout ends that.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use devices::rate::RateLimiter;
use host::lock::{Condition, Lock};

/// Bytes that may wait before programs in the guest do.
const BEHIND_BYTES: usize = 256 * 1024;
/// Bytes that may wait before the whole guest does.
const QUEUE_BYTES: usize = 16 << 20;
/// How long the writer lets bytes gather: a guest sends one at a time, and to wake a thread for each costs more
/// than the byte.
const GATHER: Duration = Duration::from_millis(1);
/// How often somebody who waits looks whether the wait still makes sense.
const PATIENCE: Duration = Duration::from_millis(100);
/// Bytes that are written at once where their rate is limited.
const PIECE_BYTES: usize = 4096;
/// Longest part of a line that markers are looked for in.
const LINE_BYTES: usize = 4096;

/// A text that is watched for.
struct Watched {
    text: String,
    seen: Option<Duration>,
}

struct State {
    queue: Vec<u8>,
    /// The writer holds bytes that it took from the queue.
    writing: bool,
    closed: bool,
    failed: Option<io::Error>,
    line: Vec<u8>,
    first: Option<Duration>,
    watched: Vec<Watched>,
    /// Positions of markers seen and not yet asked about.
    fresh: Vec<usize>,
}

struct Shared {
    start: Instant,
    state: Lock<State>,
    changed: Condition,
    /// More waits than should.
    behind: AtomicBool,
    /// More waits than may.
    full: AtomicBool,
    /// There are fresh markers.
    seen: AtomicBool,
}

/// The board's end of the console. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Output(Arc<Shared>);

impl Output {
    /// An output for a VM that started at `start`.
    pub(crate) fn new(start: Instant, markers: &[String]) -> Output {
        let watched = markers
            .iter()
            .map(|text| Watched {
                text: text.clone(),
                seen: None,
            })
            .collect();
        let state = State {
            queue: Vec::new(),
            writing: false,
            closed: false,
            failed: None,
            line: Vec::new(),
            first: None,
            watched,
            fresh: Vec::new(),
        };
        Output(Arc::new(Shared {
            start,
            state: Lock::new(state),
            changed: Condition::new(),
            behind: AtomicBool::new(false),
            full: AtomicBool::new(false),
            seen: AtomicBool::new(false),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }

    /// Whether programs in the guest should wait for the writer.
    pub(crate) fn is_behind(&self) -> bool {
        self.0.behind.load(Ordering::Relaxed)
    }

    /// Whether there is room. Who does not ask is not refused.
    pub(crate) fn has_room(&self) -> bool {
        !self.0.full.load(Ordering::Relaxed) || self.lock().failed.is_some()
    }

    /// Waits until the writer has caught up, as long as `goes_on`.
    pub(crate) fn wait_for_room(&self, mut goes_on: impl FnMut() -> bool) {
        if !self.0.full.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.lock();
        while state.queue.len() >= QUEUE_BYTES && state.failed.is_none() && goes_on() {
            state = self.wait(state);
        }
    }

    fn wait<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.0.changed.wait_timeout(state, PATIENCE).0
    }

    /// The markers seen since last asked, by position, with the time of each.
    pub(crate) fn take_seen(&self) -> Vec<(usize, Duration)> {
        if !self.0.seen.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut state = self.lock();
        self.0.seen.store(false, Ordering::Relaxed);
        let fresh = std::mem::take(&mut state.fresh);
        fresh
            .into_iter()
            .filter_map(|at| Some((at, state.watched[at].seen?)))
            .collect()
    }

    /// When the first byte came.
    pub(crate) fn first_byte(&self) -> Option<Duration> {
        self.lock().first
    }

    /// Writes everything to `sink`, as fast as `limiter` lets it through, until the output is closed or the sink fails, and
    /// calls `on_room` whenever programs need not wait any more. The writer thread is in here.
    pub(crate) fn write_to(&self, sink: &mut dyn Write, limiter: &RateLimiter, on_room: impl Fn()) {
        loop {
            let mut state = self.lock();
            while state.queue.is_empty() && !state.closed {
                state = self.0.changed.wait(state);
            }
            if state.queue.is_empty() {
                return;
            }
            if !state.closed {
                drop(state);
                host::rest::rest(GATHER);
                state = self.lock();
            }
            let bytes = std::mem::take(&mut state.queue);
            state.writing = true;
            self.0.full.store(false, Ordering::Relaxed);
            let was_behind = self.0.behind.swap(false, Ordering::Relaxed);
            drop(state);
            if was_behind {
                on_room();
            }
            // A sink that panics is one that failed: the guest must not wait for ever for room.
            let write = AssertUnwindSafe(|| self.write_pieces(sink, limiter, &bytes));
            let written = catch_unwind(write)
                .unwrap_or_else(|_| Err(io::Error::other("its writer panicked")));
            let mut state = self.lock();
            state.writing = false;
            let failed = written.is_err();
            state.failed = written.err();
            self.0.changed.notify_all();
            if failed {
                return;
            }
        }
    }

    /// Piece by piece where that is limited; what waits when the VM has ended goes at once.
    fn write_pieces(
        &self,
        sink: &mut dyn Write,
        limiter: &RateLimiter,
        bytes: &[u8],
    ) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let mut state = self.lock();
            while let Some(until) = limiter.held().filter(|_| !state.closed) {
                let wait = until.saturating_duration_since(Instant::now());
                state = self.0.changed.wait_timeout(state, wait).0;
            }
            let is_paced = limiter.is_limited() && !state.closed;
            drop(state);
            let len = if is_paced {
                rest.len().min(PIECE_BYTES)
            } else {
                rest.len()
            };
            let (piece, later) = rest.split_at(len);
            sink.write_all(piece)?;
            limiter.pay(len as u64);
            rest = later;
        }
        sink.flush()
    }

    /// No byte comes any more. Waits until all are written, as long as `goes_on`; returns whether they were, or how
    /// the sink failed.
    pub(crate) fn finish(&self, goes_on: impl Fn() -> bool) -> io::Result<bool> {
        let mut state = self.lock();
        state.closed = true;
        self.0.changed.notify_all();
        loop {
            if let Some(error) = state.failed.take() {
                return Err(error);
            }
            if state.queue.is_empty() && !state.writing {
                return Ok(true);
            }
            if !goes_on() {
                return Ok(false);
            }
            state = self.wait(state);
        }
    }

    /// Whether all that was printed has been written; waited for so long.
    pub(crate) fn is_written(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        while (!state.queue.is_empty() || state.writing) && state.failed.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let look = left.min(Duration::from_millis(1));
            state = self.0.changed.wait_timeout(state, look).0;
        }
        true
    }

    /// Whether the sink failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.lock().failed.is_some()
    }
}

impl State {
    /// Looks at one byte; true if it completed a marker.
    fn watch(&mut self, byte: u8, since_start: impl Fn() -> Duration) -> bool {
        if byte == b'\n' {
            self.line.clear();
            return false;
        }
        if self.line.len() < LINE_BYTES {
            self.line.push(byte);
        }
        let line = &self.line;
        let before = self.fresh.len();
        for (at, watched) in self.watched.iter_mut().enumerate() {
            if watched.seen.is_none() && line.ends_with(watched.text.as_bytes()) {
                watched.seen = Some(since_start());
                self.fresh.push(at);
            }
        }
        self.fresh.len() > before
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.lock();
        let since_start = || self.0.start.elapsed();
        if state.first.is_none() && !bytes.is_empty() {
            state.first = Some(since_start());
        }
        for &byte in bytes {
            if state.watch(byte, since_start) {
                self.0.seen.store(true, Ordering::Release);
            }
        }
        if state.failed.is_some() {
            return Ok(bytes.len());
        }
        if state.queue.is_empty() {
            self.0.changed.notify_all();
        }
        state.queue.extend_from_slice(bytes);
        if state.queue.len() >= BEHIND_BYTES {
            self.0.behind.store(true, Ordering::Relaxed);
        }
        if state.queue.len() >= QUEUE_BYTES {
            self.0.full.store(true, Ordering::Relaxed);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn output(markers: &[&str]) -> Output {
        let markers: Vec<String> = markers.iter().map(|&text| text.to_owned()).collect();
        Output::new(Instant::now(), &markers)
    }

    #[test]
    fn a_marker_is_seen_once_and_only_within_a_line() {
        let check = |pieces: &[&str], expected: &[usize]| {
            let mut output = output(&["Run /init", "ready", "init"]);
            for piece in pieces {
                output.write_all(piece.as_bytes()).unwrap();
            }
            let seen: Vec<usize> = output.take_seen().into_iter().map(|(at, _)| at).collect();
            assert_eq!(seen, expected, "{pieces:?}");
            assert!(output.take_seen().is_empty());
        };
        check(&["[1.0] Run /init as init process\n"], &[0, 2]);
        check(&["Run", " /in", "it"], &[0, 2]);
        check(&["Run /\nready ready"], &[1]);
        check(&["in\nit"], &[]);
        check(&["nothing\n"], &[]);
    }

    /// Takes bytes only when it is let.
    struct Gate(mpsc::Receiver<()>, Vec<u8>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0
                .recv()
                .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            self.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_console_that_nobody_reads_stops_nobody_who_wants_to_end() {
        let mut output = output(&[]);
        let (open, gate) = mpsc::channel();
        let writer = std::thread::spawn({
            let output = output.clone();
            move || {
                let mut gate = Gate(gate, Vec::new());
                output.write_to(&mut gate, &RateLimiter::default(), || ());
                gate.1
            }
        });
        output.write_all(&vec![b'x'; QUEUE_BYTES]).unwrap();
        while !output.lock().writing {
            std::thread::yield_now();
        }
        output.write_all(&vec![b'y'; BEHIND_BYTES]).unwrap();
        assert!(output.is_behind() && output.has_room());
        output.wait_for_room(|| unreachable!("there is room"));
        output
            .write_all(&vec![b'y'; QUEUE_BYTES - BEHIND_BYTES])
            .unwrap();
        assert!(!output.has_room());
        output.wait_for_room(|| false);
        assert!(!output.finish(|| false).unwrap());
        open.send(()).unwrap();
        open.send(()).unwrap();
        assert!(output.finish(|| true).unwrap());
        assert_eq!(writer.join().unwrap().len(), 2 * QUEUE_BYTES);
    }

    #[test]
    fn a_console_that_went_away_is_told_at_the_end() {
        let mut output = output(&[]);
        let (open, gate) = mpsc::channel();
        drop(open);
        output.write_all(b"lost").unwrap();
        output.write_to(&mut Gate(gate, Vec::new()), &RateLimiter::default(), || ());
        output.wait_for_room(|| true);
        assert_eq!(
            output.finish(|| true).unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }
}
