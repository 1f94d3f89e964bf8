//! The two ends of a guest's serial console.
//!
//! Output goes to a writer. Input comes through a bounded queue: who sends faster than the guest reads waits, so
//! nothing typed or piped is ever dropped and a large pipe does not fill our memory.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, MutexGuard};

use host::lock::{Condition, Lock};
use rustix::event::{EventfdFlags, eventfd};
use thiserror::Error;

use super::channel::Channel;

/// Bytes that may wait for the guest before the sender does.
const QUEUE_BYTES: usize = 64 * 1024;

/// What a VM talks to: the writer that its output goes to and the queue its input comes from.
pub struct Console {
    pub(crate) output: Box<dyn Write + Send>,
    pub(crate) input: ConsoleInput,
    pub(crate) channels: Vec<Channel>,
}

impl Console {
    /// A console that writes to `output`; take its [`Console::input`] to send bytes.
    pub fn new(output: Box<dyn Write + Send>) -> Console {
        Console {
            output,
            input: ConsoleInput::new(),
            channels: Vec::new(),
        }
    }

    /// The same with further ports for the guest.
    pub fn with_channels(self, channels: Vec<Channel>) -> Console {
        Console { channels, ..self }
    }

    /// A handle to send bytes to the guest.
    pub fn input(&self) -> ConsoleInput {
        self.input.clone()
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console")
            .field("input", &self.input)
            .finish_non_exhaustive()
    }
}

/// The VM has ended: nobody reads its console any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the VM has ended and reads no more input")]
pub struct Closed;

/// Sends bytes to a guest's console. Cheap to clone; any thread may use it.
#[derive(Clone, Debug)]
pub struct ConsoleInput(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Lock<Queue>,
    changed: Condition,
}

struct Queue {
    bytes: VecDeque<u8>,
    closed: bool,
    /// Wakes the machine when bytes arrive.
    wake: Option<Box<dyn Fn() + Send + Sync>>,
    /// Written to when bytes arrive, for whoever polls.
    arrival: Option<OwnedFd>,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("len", &self.bytes.len())
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

impl ConsoleInput {
    fn new() -> ConsoleInput {
        let queue = Queue {
            bytes: VecDeque::new(),
            closed: false,
            wake: None,
            arrival: None,
        };
        ConsoleInput(Arc::new(Shared {
            queue: Lock::new(queue),
            changed: Condition::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock()
    }

    /// Sends all of `bytes`, waiting while the guest is behind.
    ///
    /// # Errors
    /// [`Closed`] once the VM has ended, also while waiting.
    pub fn send(&self, mut bytes: &[u8]) -> Result<(), Closed> {
        while !bytes.is_empty() {
            let mut queue = self.lock();
            while !queue.closed && queue.bytes.len() >= QUEUE_BYTES {
                queue = self.0.changed.wait(queue);
            }
            if queue.closed {
                return Err(Closed);
            }
            let (now, later) = bytes.split_at(bytes.len().min(QUEUE_BYTES - queue.bytes.len()));
            queue.bytes.extend(now);
            bytes = later;
            if let Some(wake) = &queue.wake {
                wake();
            }
            if let Some(arrival) = &queue.arrival {
                // Full only if nobody reads it, and then it is readable already.
                let _ = rustix::io::write(arrival, &1_u64.to_ne_bytes());
            }
        }
        Ok(())
    }

    /// What waits for the guest.
    pub(crate) fn waiting(&self) -> Vec<u8> {
        self.lock().bytes.iter().copied().collect()
    }

    /// Has these bytes wait for the guest, before anybody sends some; as many as have room.
    pub(crate) fn begin_with(&self, bytes: &[u8]) {
        let mut queue = self.lock();
        queue.bytes.extend(bytes.iter().take(QUEUE_BYTES));
    }

    /// Takes the next byte for the guest.
    pub(crate) fn take(&self) -> Option<u8> {
        let mut queue = self.lock();
        let byte = queue.bytes.pop_front()?;
        if queue.bytes.len() == QUEUE_BYTES / 2 {
            self.0.changed.notify_all();
        }
        Some(byte)
    }

    /// Takes bytes for the guest, as many as there are and fit; how many.
    pub(crate) fn take_some(&self, bytes: &mut [u8]) -> usize {
        let mut queue = self.lock();
        let count = queue.bytes.len().min(bytes.len());
        let was_full = queue.bytes.len() > QUEUE_BYTES / 2;
        for (place, byte) in bytes.iter_mut().zip(queue.bytes.drain(..count)) {
            *place = byte;
        }
        if was_full && queue.bytes.len() <= QUEUE_BYTES / 2 {
            self.0.changed.notify_all();
        }
        count
    }

    /// An event descriptor that is readable after bytes arrived, until its counter is read. There is one for each
    /// input.
    pub(crate) fn arrival(&self) -> io::Result<OwnedFd> {
        let mut queue = self.lock();
        // Non-empty at the start: bytes may wait already.
        let event = eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        queue.arrival = Some(event.try_clone()?);
        Ok(event)
    }

    /// Has `wake` called, under the queue's lock, whenever bytes arrive.
    pub(crate) fn on_arrival(&self, wake: Box<dyn Fn() + Send + Sync>) {
        self.lock().wake = Some(wake);
    }

    /// Refuses bytes from now on and lets waiting senders go.
    pub(crate) fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        queue.wake = None;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_pipe_arrives_whole_and_in_order() {
        let input = Console::new(Box::new(std::io::sink())).input();
        let sent: Vec<u8> = (0..5 * QUEUE_BYTES).map(|n| (n % 251) as u8).collect();
        let sender = std::thread::spawn({
            let input = input.clone();
            let sent = sent.clone();
            move || input.send(&sent)
        });
        let mut taken = Vec::new();
        while taken.len() < sent.len() {
            match input.take() {
                Some(byte) => taken.push(byte),
                None => std::thread::yield_now(),
            }
            assert!(input.lock().bytes.len() <= QUEUE_BYTES);
        }
        assert_eq!(sender.join().unwrap(), Ok(()));
        assert!(taken == sent);
    }

    #[test]
    fn a_sender_that_waits_is_let_go_when_the_vm_ends() {
        let input = Console::new(Box::new(std::io::sink())).input();
        let sender = std::thread::spawn({
            let input = input.clone();
            move || input.send(&[0; 2 * QUEUE_BYTES])
        });
        while input.lock().bytes.len() < QUEUE_BYTES {
            std::thread::yield_now();
        }
        input.close();
        assert_eq!(sender.join().unwrap(), Err(Closed));
    }
}
