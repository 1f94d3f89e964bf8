//! Connections to ports of the guest that are asked for inside this process, and not at a socket that has a path.
//!
//! Whoever has been asked hands the stream over and is done with it. It waits here until the device's worker takes it; a
//! guest without a driver takes none, and whoever asks is told so.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use host::lock::Lock;
use rustix::event::{EventfdFlags, eventfd};

/// Streams that wait to be taken, which takes no longer than the worker's turn.
const WAITING_MAX: usize = 16;

/// Hands streams to a socket device. Cheap to clone; outlives the guest's lives.
#[derive(Clone, Debug)]
pub struct Connector(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    waiting: Lock<VecDeque<(UnixStream, u32)>>,
    /// Readable when there is something.
    bell: OwnedFd,
    /// A driver has the device.
    is_served: AtomicBool,
}

/// Why a stream was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotConnected {
    /// The guest has no driver for the device, or has not loaded it yet.
    NoDriver,
    /// As many wait as may.
    Full,
}

impl Connector {
    /// For a device that is still to be made.
    ///
    /// # Errors
    /// If the host gives no event.
    pub fn new() -> io::Result<Connector> {
        Ok(Connector(Arc::new(Shared {
            waiting: Lock::default(),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            is_served: AtomicBool::new(false),
        })))
    }

    /// Whether a driver has the device.
    pub fn is_served(&self) -> bool {
        self.0.is_served.load(Ordering::Acquire)
    }

    /// Connects `stream` to this port of the guest. When a program there accepts, `OK`, a number and a newline come first,
    /// as at the device's socket; where none does, the stream is closed.
    ///
    /// # Errors
    /// [`NotConnected`]; nothing was written to the stream.
    pub fn connect(&self, stream: UnixStream, guest_port: u32) -> Result<(), NotConnected> {
        if !self.is_served() {
            return Err(NotConnected::NoDriver);
        }
        let mut waiting = self.0.waiting.lock();
        if waiting.len() >= WAITING_MAX {
            return Err(NotConnected::Full);
        }
        waiting.push_back((stream, guest_port));
        // Full only if nobody reads it, and then it is readable already.
        let _ = rustix::io::write(&self.0.bell, &1_u64.to_ne_bytes());
        Ok(())
    }

    /// What has come since the last time.
    pub(super) fn take(&self) -> VecDeque<(UnixStream, u32)> {
        let mut waiting = self.0.waiting.lock();
        let mut count = [0; 8];
        // An error says that there is nothing.
        let _ = rustix::io::read(&self.0.bell, &mut count);
        std::mem::take(&mut *waiting)
    }

    /// A driver has come, or gone: then what waits is closed.
    pub(super) fn set_served(&self, is_served: bool) {
        let mut waiting = self.0.waiting.lock();
        self.0.is_served.store(is_served, Ordering::Release);
        if !is_served {
            waiting.clear();
        }
    }

    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }
}
