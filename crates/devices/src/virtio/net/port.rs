//! The port: what a network device is plugged into, and whether the cable is in.
//!
//! It outlives the guest's lives: a driver that resets the device, or a guest that reboots, finds the same backend,
//! with a half-written frame still in its place. The two halves are owned by the workers while these run, and lie
//! here between. Behind a stream socket another backend can take the place of one that is gone: a worker that finds its
//! half lost takes the new one, and the link is down only while there is none.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use host::lock::Lock;
use host::tap::{Offloads, Tap};
use rustix::event::{EventfdFlags, eventfd};

use super::inlet::Inlet;
use super::outlet::Outlet;
use crate::virtio::Interrupt;

/// What kind of backend is behind a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PortKind {
    /// Nothing: the cable is out.
    Unplugged,
    /// A stream socket to a user-mode network that takes whole packets only.
    Stream,
    /// A tap of the host, whose kernel cuts and sums.
    Tap,
}

/// What a network device is plugged into. Cheap to clone; clones are the same port.
#[derive(Clone, Debug)]
pub struct NetPort(Arc<Port>);

#[derive(Debug)]
struct Port {
    kind: PortKind,
    tap: Option<Tap>,
    halves: Lock<Halves>,
    /// There is something at the other end. Changed under the lock of the halves where that depends on them.
    has_backend: AtomicBool,
    /// Somebody pulled the cable.
    is_pulled: AtomicBool,
    /// Readable when halves were plugged in anew; only behind a stream socket, where that can be.
    plugged: Option<OwnedFd>,
    /// Tells the driver that the link has changed, while there is one.
    listener: Lock<Option<Interrupt>>,
    /// What the driver takes, and the tap has not been told.
    offloads: Lock<Option<Offloads>>,
    /// As workers said it when they were saved.
    unfinished: Lock<Unfinished>,
}

/// What a port has read of its network and not given to the guest, and what it has of the guest and not written: in the middle
/// of a frame, as a rule. Without it, nobody who goes on with the same socket would find the next frame.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Unfinished {
    /// Towards the guest.
    pub from_network: Vec<u8>,
    /// From the guest.
    pub to_network: Vec<u8>,
}

/// What no worker holds.
#[derive(Debug, Default)]
struct Halves {
    inlet: Option<Inlet>,
    outlet: Option<Outlet>,
}

impl Halves {
    /// Of a socket, which will not block.
    fn of_stream(socket: UnixStream) -> io::Result<Halves> {
        socket.set_nonblocking(true)?;
        Ok(Halves {
            inlet: Some(Inlet::stream(socket.try_clone()?)),
            outlet: Some(Outlet::stream(socket)),
        })
    }
}

impl NetPort {
    /// Nothing is plugged in: the link is down.
    pub fn unplugged() -> NetPort {
        NetPort::new(PortKind::Unplugged, None, Halves::default(), None)
    }

    /// A socket that carries frames with their length before them, as QEMU's `-netdev stream` and passt do.
    ///
    /// # Errors
    /// What the host says about making it non-blocking, a second handle to it, or an event.
    pub fn stream(socket: UnixStream) -> io::Result<NetPort> {
        let plugged = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let halves = Halves::of_stream(socket)?;
        Ok(NetPort::new(PortKind::Stream, None, halves, Some(plugged)))
    }

    /// Another socket in place of the one of [`NetPort::stream`], whose other end is gone: what was half sent is lost, and
    /// the link is up again.
    ///
    /// # Errors
    /// As [`NetPort::stream`]; `InvalidInput` for a port without one.
    pub fn plug(&self, socket: UnixStream) -> io::Result<()> {
        let Some(plugged) = &self.0.plugged else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let halves = Halves::of_stream(socket)?;
        let was_up = {
            let mut place = self.0.halves.lock();
            *place = halves;
            self.0.has_backend.swap(true, Ordering::AcqRel)
        };
        // Full only if nobody reads it, and then it is readable already.
        let _ = rustix::io::write(plugged, &1_u64.to_ne_bytes());
        self.tell(!was_up && self.is_up());
        Ok(())
    }

    /// A tap.
    ///
    /// # Errors
    /// What the host says about another handle to it.
    pub fn tap(tap: Tap) -> io::Result<NetPort> {
        let inlet = Inlet::tap(tap.file().try_clone()?);
        let outlet = Outlet::tap(tap.file().try_clone()?);
        let halves = Halves {
            inlet: Some(inlet),
            outlet: Some(outlet),
        };
        Ok(NetPort::new(PortKind::Tap, Some(tap), halves, None))
    }

    fn new(kind: PortKind, tap: Option<Tap>, halves: Halves, plugged: Option<OwnedFd>) -> NetPort {
        NetPort(Arc::new(Port {
            kind,
            tap,
            halves: Lock::new(halves),
            plugged,
            has_backend: AtomicBool::new(kind != PortKind::Unplugged),
            is_pulled: AtomicBool::new(false),
            listener: Lock::new(None),
            offloads: Lock::new(None),
            unfinished: Lock::default(),
        }))
    }

    /// What is unfinished while the guest rests and its devices were saved: of workers, or where there are none, here.
    pub fn unfinished(&self) -> Unfinished {
        let halves = self.0.halves.lock();
        let mut unfinished = self.0.unfinished.lock().clone();
        if let Some(inlet) = &halves.inlet {
            unfinished.from_network = inlet.unread();
        }
        if let Some(outlet) = &halves.outlet {
            unfinished.to_network = outlet.unwritten();
        }
        unfinished
    }

    /// Begins with what another process left unfinished, before there is a worker; false if that cannot be.
    pub fn begin_with(&self, unfinished: &Unfinished) -> bool {
        let mut halves = self.0.halves.lock();
        let halves = &mut *halves;
        match (&mut halves.inlet, &mut halves.outlet) {
            (Some(inlet), Some(outlet)) => {
                inlet.begin_with(&unfinished.from_network)
                    && outlet.begin_with(&unfinished.to_network)
            }
            _ => *unfinished == Unfinished::default(),
        }
    }

    /// A worker says what is unfinished of its half.
    pub(super) fn note(&self, note: impl FnOnce(&mut Unfinished)) {
        note(&mut self.0.unfinished.lock());
    }

    /// Whether somebody has pulled the cable.
    pub fn is_pulled(&self) -> bool {
        self.0.is_pulled.load(Ordering::Acquire)
    }

    /// Plugs the cable in or pulls it. While it is out, packets both ways are lost, whatever becomes of what is at its other
    /// end. False, and nothing is done, where nothing can be.
    pub fn set_link(&self, is_up: bool) -> bool {
        if self.0.kind == PortKind::Unplugged {
            return false;
        }
        let was_pulled = self.0.is_pulled.swap(!is_up, Ordering::AcqRel);
        let has_backend = self.0.has_backend.load(Ordering::Acquire);
        self.tell(was_pulled == is_up && has_backend);
        true
    }

    /// Tells the driver, if the link `has_changed`.
    fn tell(&self, has_changed: bool) {
        if has_changed && let Some(listener) = &*self.0.listener.lock() {
            listener.raise();
        }
    }

    /// Whether the cable is in.
    pub fn is_up(&self) -> bool {
        self.0.has_backend.load(Ordering::Acquire) && !self.0.is_pulled.load(Ordering::Acquire)
    }

    pub(super) fn kind(&self) -> PortKind {
        self.0.kind
    }

    /// Who hears about the link from now on.
    pub(super) fn listen(&self, listener: Option<Interrupt>) {
        *self.0.listener.lock() = listener;
    }

    /// What the driver takes from a tap. The tap's kernel then sums and cuts what the guest cannot take. It holds from
    /// [`NetPort::apply_offloads`] on, because who knows it is a vCPU's thread, which may give the host no orders.
    pub(super) fn set_offloads(&self, offloads: Offloads) {
        *self.0.offloads.lock() = Some(offloads);
    }

    /// Tells the tap what the driver takes, if that is new.
    pub(super) fn apply_offloads(&self) {
        let offloads = self.0.offloads.lock().take();
        if let (Some(tap), Some(offloads)) = (&self.0.tap, offloads)
            && let Err(error) = tap.set_offloads(offloads)
        {
            tracing::warn!("the tap refuses offloads: {error}");
        }
    }

    pub(super) fn take_inlet(&self) -> Option<Inlet> {
        self.0.halves.lock().inlet.take()
    }

    /// Puts it back, unless another one has been plugged in since.
    pub(super) fn put_inlet(&self, inlet: Option<Inlet>) {
        let mut halves = self.0.halves.lock();
        halves.inlet = halves.inlet.take().or(inlet);
    }

    pub(super) fn take_outlet(&self) -> Option<Outlet> {
        self.0.halves.lock().outlet.take()
    }

    /// Puts it back, unless another one has been plugged in since.
    pub(super) fn put_outlet(&self, outlet: Option<Outlet>) {
        let mut halves = self.0.halves.lock();
        halves.outlet = halves.outlet.take().or(outlet);
    }

    /// The inlet in place of one whose other end is gone. If there is none, the link goes down.
    pub(super) fn replace_inlet(&self) -> Option<Inlet> {
        self.replace(|halves| halves.inlet.take())
    }

    /// The same for the outlet.
    pub(super) fn replace_outlet(&self) -> Option<Outlet> {
        self.replace(|halves| halves.outlet.take())
    }

    fn replace<T>(&self, take: impl FnOnce(&mut Halves) -> Option<T>) -> Option<T> {
        let (half, went_down) = {
            let mut halves = self.0.halves.lock();
            let half = take(&mut halves);
            let was_up = self.is_up();
            let had_backend = half.is_none() && self.0.has_backend.swap(false, Ordering::AcqRel);
            let went_down = had_backend && was_up;
            (half, went_down)
        };
        self.tell(went_down);
        half
    }

    /// What becomes readable when halves are plugged in anew.
    pub(super) fn plugged(&self) -> Option<BorrowedFd<'_>> {
        self.0.plugged.as_ref().map(AsFd::as_fd)
    }

    /// Has it wait for the next time.
    pub(super) fn quiet(&self) {
        if let Some(plugged) = &self.0.plugged {
            let _ = rustix::io::read(plugged, &mut [0_u8; 8]);
        }
    }
}
