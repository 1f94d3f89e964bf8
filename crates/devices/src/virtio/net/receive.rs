//! The worker of the receive queue: from the backend into the guest.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use mem::GuestMemory;
use virtio_queue::QueueT;

use super::header::{HEADER_BYTES, Header};
use super::inlet::{Inlet, Packet};
use super::port::NetPort;
use super::wire::Lost;
use crate::virtio::segments::{Half, Segments};
use crate::virtio::{Broken, DeviceMetrics, Virtqueue, Wake, Worker, WorkerState};

/// Reads in one call, so that a backend that never pauses does not keep a stop or a pause waiting.
const READS_MAX: usize = 4;

/// The worker.
#[derive(Debug)]
pub(super) struct Receiver {
    port: NetPort,
    inlet: Option<Inlet>,
    ring: Ring,
    metrics: Arc<DeviceMetrics>,
    is_starved: bool,
    /// Until when the next packet has to wait, if more came than may.
    held_until: Option<Instant>,
}

/// The queue and where its buffers go.
#[derive(Debug)]
struct Ring {
    memory: Arc<GuestMemory>,
    queue: Virtqueue,
    merges: bool,
    chains: Vec<(u16, usize)>,
    segments: Segments,
    /// Where the available ring ended when a packet last looked for buffers.
    seen_avail: u16,
    is_signal_due: bool,
}

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Delivered,
    NoBuffers,
    Dropped,
}

impl Receiver {
    /// A worker for `queue`. `merges`: whether packets may lie in several buffers (`VIRTIO_NET_F_MRG_RXBUF`).
    pub(super) fn new(
        port: NetPort,
        memory: Arc<GuestMemory>,
        queue: Virtqueue,
        merges: bool,
        metrics: Arc<DeviceMetrics>,
    ) -> Receiver {
        let inlet = port.take_inlet();
        let ring = Ring {
            memory,
            queue,
            merges,
            chains: Vec::new(),
            segments: Segments::default(),
            seen_avail: 0,
            is_signal_due: false,
        };
        Receiver {
            port,
            inlet,
            ring,
            metrics,
            is_starved: false,
            held_until: None,
        }
    }

    /// Moves packets until the backend has none or the guest has no room.
    fn pump(&mut self, inlet: &mut Inlet) -> Result<Result<(), Lost>, Broken> {
        let mut reads = 0;
        loop {
            self.held_until = self.metrics.held_to_guest();
            if self.held_until.is_some() {
                self.ring.signal()?;
                return Ok(Ok(()));
            }
            let packet = match inlet.packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => {
                    self.ring.signal()?;
                    if reads == READS_MAX {
                        // Nothing whole is left in the inlet, and whatever is unread wakes us again.
                        return Ok(Ok(()));
                    }
                    reads += 1;
                    match inlet.fill() {
                        Ok(true) => continue,
                        Ok(false) => return Ok(Ok(())),
                        Err(Lost) => return Ok(Err(Lost)),
                    }
                }
                Err(Lost) => return Ok(Err(Lost)),
            };
            let frame_bytes = packet.frame.len();
            let outcome = if self.port.is_up() {
                self.ring.deliver(&packet)?
            } else {
                Outcome::Dropped
            };
            match outcome {
                Outcome::Delivered => {
                    DeviceMetrics::add(&self.metrics.requests, 1);
                    DeviceMetrics::add(&self.metrics.bytes_to_guest, frame_bytes as u64);
                    self.metrics.pay_to_guest(frame_bytes as u64);
                }
                Outcome::Dropped => DeviceMetrics::add(&self.metrics.errors, 1),
                Outcome::NoBuffers => {
                    self.ring.signal()?;
                    if self.ring.wait_for_buffers()? {
                        self.is_starved = true;
                        return Ok(Ok(()));
                    }
                    continue;
                }
            }
            inlet.consume(frame_bytes);
        }
    }
}

impl Ring {
    /// Copies a packet into as many chains as it needs.
    fn deliver(&mut self, packet: &Packet<'_>) -> Result<Outcome, Broken> {
        let needed_bytes = HEADER_BYTES + packet.frame.len();
        let first = self.queue.queue.next_avail();
        let available = self
            .queue
            .queue
            .avail_idx(self.memory.vm_memory(), Ordering::Acquire);
        self.seen_avail = available.map_err(|error| self.queue.broken(&error))?.0;
        self.chains.clear();
        self.segments.clear();
        while self.segments.len_bytes() < needed_bytes {
            let Some(chain) = self.queue.pop(&self.memory)? else {
                self.queue.queue.set_next_avail(first);
                return Ok(Outcome::NoBuffers);
            };
            let head = chain.head_index();
            let before = self.segments.len_bytes();
            self.segments.add(chain, Half::Writable, needed_bytes);
            let taken = self.segments.len_bytes().min(needed_bytes) - before;
            self.chains.push((head, taken));
            if taken == 0 || (!self.merges && self.segments.len_bytes() < needed_bytes) {
                break;
            }
        }
        if self.segments.len_bytes() < needed_bytes {
            return self.refuse(first);
        }
        let count = u16::try_from(self.chains.len()).map_err(|error| self.queue.broken(&error))?;
        let Header(header) = packet.header.with_buffers(count);
        let memory = self.memory.vm_memory();
        let wrote = self.segments.write(memory, 0, &header);
        let wrote = wrote.and_then(|()| self.segments.write(memory, HEADER_BYTES, packet.frame));
        wrote.ok_or_else(|| {
            self.queue
                .broken(&"a receive buffer is not in guest memory")
        })?;
        for at in 0..self.chains.len() {
            let (head, taken) = self.chains[at];
            self.add_used(head, taken)?;
        }
        Ok(Outcome::Delivered)
    }

    /// The buffer that the driver has put there cannot hold the packet. The buffer stays; one without any room is
    /// the driver's mistake, which would otherwise come up for every packet.
    fn refuse(&mut self, first: u16) -> Result<Outcome, Broken> {
        if self.segments.len_bytes() < HEADER_BYTES
            || self.chains.last().is_some_and(|(_, taken)| *taken == 0)
        {
            return Err(self.queue.broken(&"a receive buffer has no room"));
        }
        self.queue.queue.set_next_avail(first);
        Ok(Outcome::Dropped)
    }

    fn add_used(&mut self, head: u16, len_bytes: usize) -> Result<(), Broken> {
        self.is_signal_due = true;
        self.queue.push(&self.memory, head, len_bytes as u32)
    }

    /// Tells the driver about used buffers, if there are any and it wants to hear.
    fn signal(&mut self) -> Result<(), Broken> {
        if std::mem::take(&mut self.is_signal_due) {
            self.queue.signal(&self.memory)
        } else {
            Ok(())
        }
    }

    /// Asks for a notification about more buffers than the last packet has seen; whether to wait for it, for they
    /// may have come meanwhile.
    fn wait_for_buffers(&mut self) -> Result<bool, Broken> {
        // The buffers that were too few stay, so the place to watch is behind them.
        let first = self.queue.queue.next_avail();
        self.queue.queue.set_next_avail(self.seen_avail);
        let more = self.queue.enable_notification(&self.memory);
        self.queue.queue.set_next_avail(first);
        more.map(|more| !more)
    }
}

impl Worker for Receiver {
    fn save(&self) -> WorkerState {
        let unread = self.inlet.as_ref().map(Inlet::unread).unwrap_or_default();
        self.port.note(|it| it.from_network = unread);
        WorkerState::plain([self.ring.queue.position()])
    }

    fn queues(&self) -> Vec<u16> {
        vec![self.ring.queue.index]
    }

    fn serve(&mut self, wake: Wake) -> Result<(), Broken> {
        if wake == Wake::Start {
            self.port.apply_offloads();
        }
        if self.inlet.is_none() {
            self.port.quiet();
            self.inlet = self.port.take_inlet();
        }
        let Some(mut inlet) = self.inlet.take() else {
            return Ok(());
        };
        if self.is_starved || wake == Wake::Start {
            self.is_starved = false;
            self.ring.queue.disable_notification(&self.ring.memory)?;
        }
        let pumped = self.pump(&mut inlet);
        match pumped {
            Ok(Err(Lost)) => {
                DeviceMetrics::add(&self.metrics.errors, 1);
                self.inlet = self.port.replace_inlet();
                if self.inlet.is_none() {
                    tracing::warn!("the network's backend is gone: the link goes down");
                }
                self.ring.signal()
            }
            Ok(Ok(())) => {
                self.inlet = Some(inlet);
                Ok(())
            }
            Err(broken) => {
                self.inlet = Some(inlet);
                Err(broken)
            }
        }
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        match &self.inlet {
            None => self.port.plugged().into_iter().collect(),
            Some(_) if self.is_starved || self.held_until.is_some() => Vec::new(),
            Some(inlet) => vec![inlet.fd()],
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.held_until
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.port.put_inlet(self.inlet.take());
    }
}
