//! The two ends of the console outside the serial port: what the guest wrote, what was typed for it.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use host::lock::Lock;

/// Typed bytes that wait for the guest at most. Whoever types more has to offer it again later.
const INPUT_LIMIT: usize = 64 * 1024;
/// Output is handed on at this size at the latest.
const OUTPUT_CHUNK: usize = 4096;

/// What was typed and not yet read by the guest. Bytes are never dropped: the serial port takes them at the
/// guest's pace.
#[derive(Clone, Debug, Default)]
pub struct ConsoleInput(Arc<Lock<VecDeque<u8>>>);

impl ConsoleInput {
    /// Types; how many bytes were taken.
    pub fn push(&self, bytes: &[u8]) -> usize {
        let mut queue = self.0.lock();
        let taken = bytes.len().min(INPUT_LIMIT.saturating_sub(queue.len()));
        queue.extend(&bytes[..taken]);
        taken
    }

    /// Takes bytes back that were popped and not read, oldest first.
    pub fn unpop(&self, bytes: impl DoubleEndedIterator<Item = u8>) {
        let mut queue = self.0.lock();
        bytes.rev().for_each(|byte| queue.push_front(byte));
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Takes the next byte.
    pub fn pop(&self) -> Option<u8> {
        self.0.lock().pop_front()
    }
}

struct Output {
    sink: Box<dyn Write + Send>,
    chunk: Vec<u8>,
    lost_bytes: u64,
}

impl Output {
    fn flush(&mut self) {
        if self.chunk.is_empty() {
            return;
        }
        if self
            .sink
            .write_all(&self.chunk)
            .and_then(|()| self.sink.flush())
            .is_err()
        {
            self.lost_bytes += self.chunk.len() as u64;
        }
        self.chunk.clear();
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Where the guest's output goes, in chunks: a write per byte would cost a system call each.
#[derive(Clone)]
pub struct ConsoleOutput {
    output: Arc<Lock<Output>>,
    /// Its reader is behind.
    is_slow: Arc<AtomicBool>,
}

impl ConsoleOutput {
    /// Output that ends in `sink`.
    pub fn new(sink: Box<dyn Write + Send>) -> ConsoleOutput {
        let output = Output {
            sink,
            chunk: Vec::new(),
            lost_bytes: 0,
        };
        ConsoleOutput {
            output: Arc::new(Lock::new(output)),
            is_slow: Arc::default(),
        }
    }

    /// Says whether the output's reader is behind. The serial port looks when time next passes for it.
    pub fn slow_down(&self, is_slow: bool) {
        self.is_slow.store(is_slow, Ordering::Release);
    }

    pub(crate) fn is_slow(&self) -> bool {
        self.is_slow.load(Ordering::Acquire)
    }

    /// Takes a byte, to be handed on at the end of the line, of the chunk, or with [`ConsoleOutput::flush`].
    pub fn push(&self, byte: u8) {
        let mut output = self.output.lock();
        output.chunk.push(byte);
        if byte == b'\n' || output.chunk.len() >= OUTPUT_CHUNK {
            output.flush();
        }
    }

    /// Hands on what waits. A sink that fails loses bytes, which are counted; the guest does not notice, as with
    /// a cable pulled out.
    pub fn flush(&self) {
        self.output.lock().flush();
    }

    /// Bytes that the sink did not take.
    pub fn lost_bytes(&self) -> u64 {
        self.output.lock().lost_bytes
    }
}
