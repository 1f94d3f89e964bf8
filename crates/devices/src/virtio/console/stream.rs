//! The two streams of one port: out of the guest's buffers into the port's end, and back.

use std::time::Instant;

use mem::GuestMemory;
use virtio_queue::QueueT;

use super::port::{PortEnd, SharedEnd};
use crate::saved::{Unfit, ensure};
use crate::virtio::metrics::DeviceMetrics;
use crate::virtio::segments::{Half, Segments};
use crate::virtio::state::{QueuePosition, StreamState};
use crate::virtio::virtqueue::Virtqueue;
use crate::virtio::worker::Broken;

/// Bytes copied at once.
const PIECE_BYTES: usize = 32 * 1024;
/// Bytes taken from one chain; a driver that offers more writes again.
const CHAIN_BYTES_MAX: usize = 1 << 20;
/// Chains in one call, so that a worker that is to stop hears of it.
const CHAINS_MAX: u32 = 256;

/// A chain of the guest's that is on its way out.
struct Outgoing {
    head: u16,
    segments: Segments,
    len_bytes: usize,
    done_bytes: usize,
    start: Instant,
}

/// One port's queues and its end.
pub(super) struct Stream {
    pub(super) end: SharedEnd,
    receive: Option<Virtqueue>,
    transmit: Option<Virtqueue>,
    outgoing: Option<Outgoing>,
    /// Bytes of the next buffer that the host has had already.
    skip_bytes: usize,
    /// Bytes on their way out.
    piece: Vec<u8>,
    /// Came from the end, waits for buffers of the guest from `given_bytes` on.
    incoming: Vec<u8>,
    given_bytes: usize,
    /// The end will give no more.
    pub(super) is_at_end: bool,
    /// Whether the guest listens; with several ports it says so.
    pub(super) is_open: bool,
    /// Chains were left for the next call.
    pub(super) has_more: bool,
    /// Until when output has to wait, if more came than may.
    pub(super) held_until: Option<Instant>,
}

impl Stream {
    pub(super) fn new(
        end: SharedEnd,
        receive: Option<Virtqueue>,
        transmit: Option<Virtqueue>,
    ) -> Stream {
        Stream {
            end,
            receive,
            transmit,
            outgoing: None,
            skip_bytes: 0,
            piece: vec![0; PIECE_BYTES],
            incoming: Vec::new(),
            given_bytes: 0,
            is_at_end: false,
            is_open: false,
            has_more: false,
            held_until: None,
        }
    }

    /// Where it stands in its queues; a buffer that the host has not taken whole counts as not taken.
    pub(super) fn positions(&self) -> impl Iterator<Item = QueuePosition> + '_ {
        let transmit = self.transmit.iter().map(|queue| {
            let mut position = queue.position();
            let unfinished = u16::from(self.outgoing.is_some());
            position.next_available = position.next_available.wrapping_sub(unfinished);
            position
        });
        self.receive.iter().map(Virtqueue::position).chain(transmit)
    }

    pub(super) fn save(&self) -> StreamState {
        let outgoing = self.outgoing.as_ref().map(|outgoing| outgoing.done_bytes);
        StreamState {
            is_open: self.is_open,
            sent_bytes: outgoing.unwrap_or(self.skip_bytes),
            incoming: self.incoming[self.given_bytes..].to_vec(),
        }
    }

    pub(super) fn restore(&mut self, state: StreamState) -> Result<(), Unfit> {
        let fits = state.incoming.len() <= PIECE_BYTES && state.sent_bytes <= CHAIN_BYTES_MAX;
        ensure(fits, "console", "more bytes than it holds")?;
        self.is_open = state.is_open;
        self.skip_bytes = state.sent_bytes;
        self.incoming = state.incoming;
        self.given_bytes = 0;
        Ok(())
    }

    pub(super) fn queues(&self) -> impl Iterator<Item = u16> + '_ {
        self.receive
            .iter()
            .chain(&self.transmit)
            .map(|queue| queue.index)
    }

    /// Whether output waits for room in the end.
    pub(super) fn is_blocked(&self) -> bool {
        self.outgoing.is_some() && self.held_until.is_none()
    }

    /// Whether input waits for buffers, so that there is no use in hearing of more.
    pub(super) fn is_behind(&self) -> bool {
        self.given_bytes < self.incoming.len()
    }

    /// Brings what the guest wrote to the end, as far as there is room.
    pub(super) fn transmit(
        &mut self,
        memory: &GuestMemory,
        metrics: &DeviceMetrics,
    ) -> Result<(), Broken> {
        let Some(queue) = &mut self.transmit else {
            return Ok(());
        };
        let mut end = self.end.lock();
        let before = queue.queue.next_used();
        for _ in 0..CHAINS_MAX {
            self.held_until = metrics.held_from_guest();
            if self.held_until.is_some() {
                return queue.signal_since(before, memory);
            }
            if self.outgoing.is_none() {
                let Some(chain) = queue.pop(memory)? else {
                    break;
                };
                let head = chain.head_index();
                let mut segments = Segments::default();
                segments.add(chain, Half::Readable, CHAIN_BYTES_MAX);
                let len_bytes = segments.len_bytes().min(CHAIN_BYTES_MAX);
                let start = Instant::now();
                self.outgoing = Some(Outgoing {
                    head,
                    segments,
                    len_bytes,
                    done_bytes: std::mem::take(&mut self.skip_bytes).min(len_bytes),
                    start,
                });
            }
            let Some(outgoing) = &mut self.outgoing else {
                break;
            };
            if !outgoing.go_on(memory, &mut *end, &mut self.piece, metrics) {
                return queue.signal_since(before, memory);
            }
            DeviceMetrics::add(&metrics.requests, 1);
            metrics.latency.add(outgoing.start.elapsed());
            queue.push(memory, outgoing.head, 0)?;
            self.outgoing = None;
        }
        queue.signal_since(before, memory)?;
        self.has_more |= queue.enable_notification(memory)?;
        Ok(())
    }

    /// Brings what the end has to the guest, as far as there are buffers.
    pub(super) fn receive(
        &mut self,
        memory: &GuestMemory,
        metrics: &DeviceMetrics,
    ) -> Result<(), Broken> {
        let Some(queue) = &mut self.receive else {
            return Ok(());
        };
        if !self.is_open {
            return Ok(());
        }
        let mut end = self.end.lock();
        let before = queue.queue.next_used();
        for _ in 0..CHAINS_MAX {
            if self.given_bytes == self.incoming.len() {
                self.incoming.resize(PIECE_BYTES, 0);
                let len = end.read(&mut self.incoming);
                self.incoming.truncate(len);
                self.given_bytes = 0;
            }
            if self.incoming.is_empty() {
                self.is_at_end = end.is_at_end();
                return queue.signal_since(before, memory);
            }
            let Some(chain) = queue.pop(memory)? else {
                // The one that comes just now has to be heard of.
                if queue.enable_notification(memory)? {
                    continue;
                }
                return queue.signal_since(before, memory);
            };
            let head = chain.head_index();
            let mut segments = Segments::default();
            segments.add(chain, Half::Writable, PIECE_BYTES);
            let waiting = &self.incoming[self.given_bytes..];
            let len = segments.len_bytes().min(waiting.len());
            if segments
                .write(memory.vm_memory(), 0, &waiting[..len])
                .is_none()
            {
                DeviceMetrics::add(&metrics.errors, 1);
            }
            queue.push(memory, head, len as u32)?;
            self.given_bytes += len;
            DeviceMetrics::add(&metrics.bytes_to_guest, len as u64);
        }
        // There may be buffers and bytes left, of which nothing tells.
        self.has_more = true;
        queue.signal_since(before, memory)
    }
}

impl Outgoing {
    /// Writes on; whether all is written.
    fn go_on(
        &mut self,
        memory: &GuestMemory,
        end: &mut dyn PortEnd,
        piece: &mut [u8],
        metrics: &DeviceMetrics,
    ) -> bool {
        while self.done_bytes < self.len_bytes {
            let len = piece.len().min(self.len_bytes - self.done_bytes);
            let read = self
                .segments
                .read(memory.vm_memory(), self.done_bytes, &mut piece[..len]);
            if read.is_none() {
                // Not memory: the rest of the chain is dropped.
                DeviceMetrics::add(&metrics.errors, 1);
                return true;
            }
            let taken = end.write(&piece[..len]).min(len);
            self.done_bytes += taken;
            metrics.pay_from_guest(taken as u64);
            DeviceMetrics::add(&metrics.bytes_from_guest, taken as u64);
            if taken < len {
                return false;
            }
        }
        true
    }
}
