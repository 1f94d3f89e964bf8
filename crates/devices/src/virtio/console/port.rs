//! The host's side of a console: what takes and gives a port's bytes, and the size of the window.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use host::lock::Lock;
use rustix::event::{EventfdFlags, eventfd};

/// The host's side of one port. Never blocks.
pub trait PortEnd: Send {
    /// Takes bytes that the guest wrote; how many of them. Fewer mean that there is no room now.
    fn write(&mut self, bytes: &[u8]) -> usize;

    /// Gives bytes for the guest; how many. None mean that there are none now.
    fn read(&mut self, bytes: &mut [u8]) -> usize;

    /// Readable when there may be bytes to read again; it is asked to be [`PortEnd::quiet`] then. `None` if there never
    /// are. The same as long as the end lives.
    fn arrival(&self) -> Option<BorrowedFd<'_>>;

    /// Makes [`PortEnd::arrival`] unreadable until something new arrives, if it does not become so by reading.
    fn quiet(&mut self);

    /// Whether there will never be bytes to read any more.
    fn is_at_end(&self) -> bool {
        false
    }

    /// Writable when there may be room again after there was none. `None` if that is to be asked for now and then. The
    /// same as long as the end lives.
    fn room(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A port's end: the device's front keeps it, the worker of the day uses it.
pub type SharedEnd = Arc<Lock<dyn PortEnd>>;

/// Makes an end that can be shared.
pub fn share(end: impl PortEnd + 'static) -> SharedEnd {
    Arc::new(Lock::new(end))
}

/// The size of the window that a console is shown in. Cheap to clone; any thread may change it.
#[derive(Clone, Debug)]
pub struct Window(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Rows in the upper half, columns in the lower.
    size: AtomicU32,
    changed: OwnedFd,
}

impl Window {
    /// A window of unknown size.
    ///
    /// # Errors
    /// If the host gives no event descriptor.
    pub fn new() -> io::Result<Window> {
        let changed = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Window(Arc::new(Shared {
            size: AtomicU32::new(0),
            changed,
        })))
    }

    /// The window has this size now.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = u32::from(rows) << 16 | u32::from(columns);
        if self.0.size.swap(size, Ordering::AcqRel) != size {
            // Full only if nobody reads it, and then it is readable already.
            let _ = rustix::io::write(&self.0.changed, &1_u64.to_ne_bytes());
        }
    }

    /// Rows and columns; zeros if nobody said.
    pub fn size(&self) -> (u16, u16) {
        let size = self.0.size.load(Ordering::Acquire);
        ((size >> 16) as u16, size as u16)
    }

    pub(super) fn changed(&self) -> BorrowedFd<'_> {
        self.0.changed.as_fd()
    }

    pub(super) fn quiet(&self) {
        let _ = rustix::io::read(&self.0.changed, &mut [0_u8; 8]);
    }
}
