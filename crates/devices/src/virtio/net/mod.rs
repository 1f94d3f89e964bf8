//! The network device (VIRTIO 1.2, 5.1).
//!
//! ```text
//! driver ──transmit, control──> Transmitter ──Outlet──> ┐
//!                                                       ├ NetPort: stream socket (passt), tap, or nothing
//! driver <──receive─────────── Receiver <──Inlet─────── ┘
//! ```
//!
//! Two workers, one for each direction, each with its half of the backend, so that neither waits for the other.
//! Backpressure both ways: a backend that takes nothing leaves packets in the guest's queue, a guest without buffers
//! leaves them in the backend's socket. What is dropped is what a wire would drop (the cable is out), what no buffer
//! of the driver's could hold, and what [`guard`] does not let out.
//!
//! Behind a stream socket there is nobody who finishes checksums or cuts segments. Checksums are done here, by the
//! host's vector units, both ways. Segments are not offered, for there is a better way: an MTU of 65,520 bytes, with
//! which a guest's TCP makes packets as large as its largest segments. A tap's kernel does both, and is offered both.

mod checksum;
mod control;
mod device;
mod guard;
mod header;
mod inlet;
mod outlet;
mod port;
mod receive;
#[cfg(test)]
mod tests;
mod transmit;
mod wire;

pub use crate::virtio::mac::MacAddress;
pub use device::Net;
pub use port::{NetPort, Unfinished};
