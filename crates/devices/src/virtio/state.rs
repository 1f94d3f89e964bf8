//! What a virtio device is at a moment: its configuration space, what its driver has written, its interrupts, what its
//! front keeps, and where its workers stand in the rings.
//!
//! The rings themselves are in guest memory. A worker that is outside of the gate has finished its call: what it took
//! from a ring it has answered, or says here that it has not ([`Back`]). So positions and a few words are all there is:
//!
//! ```text
//! front:   registers, vectors, FrontState ──restore──> registers set, device activated as the driver did it
//! worker:  QueuePosition, Back            ──restore──> rings taken up where they were left, then Wake::Start
//! ```
//!
//! What the outside of a device is connected to cannot be carried: bytes inside of a passt connection, packets that
//! wait in a socket, the host's end of a vsock connection. [`Back::Vsock`] names those connections so that the guest is
//! told of their end; a network has lost some packets, as networks do.

use serde::{Deserialize, Serialize};

use super::mac::MacAddress;
use super::msix::Vectors;
use super::registers::Registers;
use crate::pci::ConfigState;

/// What a virtio device is at a moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VirtioState {
    pub(super) config: ConfigState,
    pub(super) transport: TransportState,
}

/// What stands behind the common configuration structure and the interrupts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct TransportState {
    pub(super) registers: Registers,
    /// The interrupt status register, which reading clears.
    pub(super) interrupt_status: u8,
    pub(super) is_broken: bool,
    pub(super) generation: u8,
    pub(super) vectors: Vectors,
    pub(super) front: FrontState,
    pub(super) workers: Vec<WorkerState>,
}

/// What a front keeps of what its driver has done, beside registers and queues.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FrontState {
    /// No more than its queues.
    Plain,
    /// Whether the driver chose that writes are answered before they are durable.
    Block {
        /// True until the driver says otherwise.
        is_write_back: bool,
    },
    /// Sizes in pages of 4 KiB.
    Balloon {
        /// What the host wants.
        target_pages: u32,
        /// What the driver says that it gave.
        actual_pages: u32,
    },
    /// The address that the driver may have changed.
    Net {
        /// The address that the device has now.
        mac: MacAddress,
    },
}

/// What a worker is between two calls.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkerState {
    /// Where it stands in each of its queues.
    pub queues: Vec<QueuePosition>,
    /// What it has taken from them and not answered yet.
    pub back: Back,
}

impl WorkerState {
    /// Of a worker that has answered all that it took.
    pub(super) fn plain(queues: impl IntoIterator<Item = QueuePosition>) -> WorkerState {
        WorkerState {
            queues: queues.into_iter().collect(),
            back: Back::Plain,
        }
    }
}

/// How far a device has come in the rings of a queue (2.7): both count on and wrap at 65536.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QueuePosition {
    /// Which queue.
    pub index: u16,
    /// The entry of the available ring that is taken next.
    pub next_available: u16,
    /// The entry of the used ring that is written next.
    pub next_used: u16,
}

/// What a worker holds between two calls.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Back {
    /// No more than its queues.
    Plain,
    /// The buffer for statistics, which is the host's to keep (5.5.6.3), by the head of its chain.
    Balloon {
        /// None before the driver gave one.
        held: Option<u16>,
    },
    /// The streams of a console, one for each port, and messages for which the driver had no buffer.
    Console {
        /// In the order of the ports.
        streams: Vec<StreamState>,
        /// Whole control messages, oldest first.
        messages: Vec<Vec<u8>>,
    },
    /// Connections of a socket device, which end here.
    Vsock(VsockState),
    /// Requests that a folder's server has, with all that the guest has open there: nobody can take them up.
    Folder {
        /// How many.
        waiting: usize,
    },
}

/// One port of a console.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StreamState {
    /// Whether the guest has opened it.
    pub is_open: bool,
    /// Bytes of the buffer at the transmit queue's position that the host has taken already.
    pub sent_bytes: usize,
    /// Bytes that were taken from the host and found no buffer.
    pub incoming: Vec<u8>,
}

/// What a socket device is at a moment. Sockets of the host cannot be carried: the connections through them are lost.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VsockState {
    /// Ports of the host and of the guest of each connection.
    pub lost: Vec<(u32, u32)>,
    /// Headers that wait for a buffer of the guest's, oldest first, as they go over the queue.
    pub answers: Vec<Vec<u8>>,
    /// The port that the next connection from the host gets.
    pub next_host_port: u32,
}
