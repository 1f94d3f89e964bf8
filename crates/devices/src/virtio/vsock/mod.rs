//! The socket device (VIRTIO 1.2, 5.10): streams between programs of the guest and Unix sockets of the host.
//!
//! The host's side is Firecracker's convention. A host connects to the device's socket, writes `CONNECT PORT` and a
//! newline, and reads `OK PORT` and a newline when a program of the guest listens there; if none does, the socket is
//! closed. A guest that connects to port P of the host (context id 2) reaches whoever listens on the device's path
//! with `_P` behind it. A device may be without a socket; connections to the guest are then made by a [`Connector`] alone.
//!
//! Each side says how much it may be sent; nobody's bytes are dropped, and nobody's pile up beyond a bound.

mod connection;
mod connector;
mod device;
mod dial;
mod hub;
mod packet;
#[cfg(test)]
mod tests;

pub use connector::{Connector, NotConnected};
pub use device::Vsock;
pub use dial::{Dial, SocketsBeside};
