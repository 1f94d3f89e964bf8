//! The port: what a network device is plugged into, and whether the cable is in.
//!
//! It outlives the guest's lives: a driver that resets the device, or a guest that reboots, finds the same backend,
//! with a half-written frame still in its place. The two halves are owned by the workers while these run, and lie
//! here between.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use host::lock::Lock;
use host::tap::{Offloads, Tap};

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
    inlet: Lock<Option<Inlet>>,
    outlet: Lock<Option<Outlet>>,
    is_up: AtomicBool,
    /// Tells the driver that the link has changed, while there is one.
    listener: Lock<Option<Interrupt>>,
}

impl NetPort {
    /// Nothing is plugged in: the link is down.
    pub fn unplugged() -> NetPort {
        NetPort::new(PortKind::Unplugged, None, None, None)
    }

    /// A socket that carries frames with their length before them, as QEMU's `-netdev stream` and passt do.
    ///
    /// # Errors
    /// What the host says about making it non-blocking or a second handle to it.
    pub fn stream(socket: UnixStream) -> io::Result<NetPort> {
        socket.set_nonblocking(true)?;
        let inlet = Inlet::stream(socket.try_clone()?);
        Ok(NetPort::new(
            PortKind::Stream,
            None,
            Some(inlet),
            Some(Outlet::stream(socket)),
        ))
    }

    /// A tap.
    ///
    /// # Errors
    /// What the host says about another handle to it.
    pub fn tap(tap: Tap) -> io::Result<NetPort> {
        let inlet = Inlet::tap(tap.file().try_clone()?);
        let outlet = Outlet::tap(tap.file().try_clone()?);
        Ok(NetPort::new(
            PortKind::Tap,
            Some(tap),
            Some(inlet),
            Some(outlet),
        ))
    }

    fn new(
        kind: PortKind,
        tap: Option<Tap>,
        inlet: Option<Inlet>,
        outlet: Option<Outlet>,
    ) -> NetPort {
        NetPort(Arc::new(Port {
            kind,
            tap,
            inlet: Lock::new(inlet),
            outlet: Lock::new(outlet),
            is_up: AtomicBool::new(kind != PortKind::Unplugged),
            listener: Lock::new(None),
        }))
    }

    /// Plugs the cable in or pulls it. While it is out, packets both ways are lost.
    pub fn set_link(&self, is_up: bool) {
        let is_up = is_up && self.0.kind != PortKind::Unplugged;
        if self.0.is_up.swap(is_up, Ordering::AcqRel) != is_up
            && let Some(listener) = &*self.0.listener.lock()
        {
            listener.raise();
        }
    }

    /// Whether the cable is in.
    pub fn is_up(&self) -> bool {
        self.0.is_up.load(Ordering::Acquire)
    }

    pub(super) fn kind(&self) -> PortKind {
        self.0.kind
    }

    /// Who hears about the link from now on.
    pub(super) fn listen(&self, listener: Option<Interrupt>) {
        *self.0.listener.lock() = listener;
    }

    /// What the driver takes from a tap. The tap's kernel then sums and cuts what the guest cannot take.
    pub(super) fn set_offloads(&self, offloads: Offloads) {
        if let Some(tap) = &self.0.tap
            && let Err(error) = tap.set_offloads(offloads)
        {
            tracing::warn!("the tap refuses offloads: {error}");
        }
    }

    pub(super) fn take_inlet(&self) -> Option<Inlet> {
        self.0.inlet.lock().take()
    }

    pub(super) fn put_inlet(&self, inlet: Option<Inlet>) {
        *self.0.inlet.lock() = inlet;
    }

    pub(super) fn take_outlet(&self) -> Option<Outlet> {
        self.0.outlet.lock().take()
    }

    pub(super) fn put_outlet(&self, outlet: Option<Outlet>) {
        *self.0.outlet.lock() = outlet;
    }
}
