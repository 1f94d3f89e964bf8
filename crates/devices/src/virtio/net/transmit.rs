//! The worker of the transmit and the control queue: from the guest to the backend.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use mem::GuestMemory;

use super::control::{self, SharedMac};
use super::header::{HEADER_BYTES, Header};
use super::outlet::Outlet;
use super::port::NetPort;
use super::wire::{FRAME_BYTES_MAX, FRAME_BYTES_MIN, Lost};
use super::{checksum, guard};
use crate::virtio::segments::{Half, Segments};
use crate::virtio::{Broken, DeviceMetrics, Virtqueue, Wake, Worker, WorkerState};

/// Packets in one call, so that a guest that never pauses does not keep a stop or a pause waiting.
const PACKETS_MAX: usize = 256;

/// The worker.
#[derive(Debug)]
pub(super) struct Transmitter {
    memory: Arc<GuestMemory>,
    port: NetPort,
    outlet: Option<Outlet>,
    transmit: Option<Virtqueue>,
    control: Option<Virtqueue>,
    mac: SharedMac,
    segments: Segments,
    is_signal_due: bool,
    has_more: bool,
    /// Until when the next packet has to wait, if more were sent than may.
    held_until: Option<Instant>,
    metrics: Arc<DeviceMetrics>,
}

/// Why the transmit queue was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pause {
    Empty,
    BackendBusy,
    /// More was sent than may: the rest waits for a time.
    Held,
    /// There may be more, for the next call.
    Enough,
}

impl Transmitter {
    /// A worker for those of the two queues that the driver has set up.
    pub(super) fn new(
        port: NetPort,
        memory: Arc<GuestMemory>,
        transmit: Option<Virtqueue>,
        control: Option<Virtqueue>,
        mac: SharedMac,
        metrics: Arc<DeviceMetrics>,
    ) -> Transmitter {
        let outlet = port.take_outlet();
        let segments = Segments::default();
        Transmitter {
            memory,
            port,
            outlet,
            transmit,
            control,
            mac,
            segments,
            is_signal_due: false,
            has_more: false,
            held_until: None,
            metrics,
        }
    }

    /// Takes packets until there are none or the backend takes no more.
    fn send(&mut self, queue: &mut Virtqueue) -> Result<(), Broken> {
        loop {
            queue.disable_notification(&self.memory)?;
            let pause = self.take_packets(queue)?;
            self.signal(queue)?;
            // While the backend is busy its sink wakes us, and the guest may leave us alone.
            self.has_more = pause == Pause::Enough;
            if pause != Pause::Empty || !queue.enable_notification(&self.memory)? {
                return Ok(());
            }
        }
    }

    fn take_packets(&mut self, queue: &mut Virtqueue) -> Result<Pause, Broken> {
        let memory = Arc::clone(&self.memory);
        for _ in 0..PACKETS_MAX {
            if self.outlet.as_ref().is_some_and(Outlet::is_full) && !self.flush() {
                return Ok(Pause::BackendBusy);
            }
            self.held_until = self.metrics.held_from_guest();
            if self.held_until.is_some() {
                let is_empty = self.flush();
                return Ok(if is_empty {
                    Pause::Held
                } else {
                    Pause::BackendBusy
                });
            }
            let began = Instant::now();
            let Some(chain) = queue.pop(&memory)? else {
                return Ok(if self.flush() {
                    Pause::Empty
                } else {
                    Pause::BackendBusy
                });
            };
            let head = chain.head_index();
            self.segments.clear();
            self.segments
                .add(chain, Half::Readable, HEADER_BYTES + FRAME_BYTES_MAX + 1);
            self.push_packet()
                .ok_or_else(|| queue.broken(&"a packet is not in guest memory"))?;
            self.give_back(queue, head, 0)?;
            self.metrics.latency.add(began.elapsed());
        }
        Ok(if self.flush() {
            Pause::Enough
        } else {
            Pause::BackendBusy
        })
    }

    /// Gives the packet that lies in the segments to the backend; `None` if guest memory does not have it. What
    /// cannot be a packet, or must not leave, is counted and lost, as on a wire.
    fn push_packet(&mut self) -> Option<()> {
        let memory = self.memory.vm_memory();
        let frame_bytes = self.segments.len_bytes().saturating_sub(HEADER_BYTES);
        if !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&frame_bytes) {
            DeviceMetrics::add(&self.metrics.violations, 1);
            return Some(());
        }
        let mut header = Header::default();
        self.segments.read(memory, 0, &mut header.0)?;
        DeviceMetrics::add(&self.metrics.requests, 1);
        DeviceMetrics::add(&self.metrics.bytes_from_guest, frame_bytes as u64);
        self.metrics.pay_from_guest(frame_bytes as u64);
        let Some(outlet) = self.outlet.as_mut().filter(|_| self.port.is_up()) else {
            DeviceMetrics::add(&self.metrics.errors, 1);
            return Some(());
        };
        let is_tap = outlet.is_tap();
        let mut was_read = false;
        let segments = &self.segments;
        let pushed = outlet.push(header, frame_bytes, |frame| {
            segments.read(memory, HEADER_BYTES, frame)?;
            was_read = true;
            if is_tap {
                Some(())
            } else {
                make_whole(header, frame)
            }
        });
        if pushed.is_none() && was_read {
            DeviceMetrics::add(&self.metrics.errors, 1);
        }
        was_read.then_some(())
    }

    /// Writes what waits; whether nothing waits any more. A backend that is gone takes the link down, and packets
    /// with it.
    fn flush(&mut self) -> bool {
        let Some(outlet) = &mut self.outlet else {
            return true;
        };
        match outlet.flush() {
            Ok(is_empty) => is_empty,
            Err(Lost) => {
                DeviceMetrics::add(&self.metrics.errors, 1);
                self.outlet = self.port.replace_outlet();
                if self.outlet.is_none() {
                    let what = "the network's backend takes nothing any more: the link goes down";
                    tracing::warn!("{what}");
                }
                true
            }
        }
    }

    fn give_back(&mut self, queue: &mut Virtqueue, head: u16, written: u32) -> Result<(), Broken> {
        self.is_signal_due = true;
        queue.push(&self.memory, head, written)
    }

    /// Tells the driver about used buffers, if there are any and it wants to hear.
    fn signal(&mut self, queue: &mut Virtqueue) -> Result<(), Broken> {
        if std::mem::take(&mut self.is_signal_due) {
            queue.signal(&self.memory)
        } else {
            Ok(())
        }
    }

    fn obey(&mut self, queue: &mut Virtqueue) -> Result<(), Broken> {
        let memory = Arc::clone(&self.memory);
        loop {
            let Some(chain) = queue.pop(&memory)? else {
                self.signal(queue)?;
                if queue.enable_notification(&memory)? {
                    continue;
                }
                return Ok(());
            };
            let head = chain.head_index();
            let wrote = control::serve(chain, memory.vm_memory(), &self.mac);
            let wrote =
                wrote.ok_or_else(|| queue.broken(&"a command has no room for its answer"))?;
            self.give_back(queue, head, wrote)?;
        }
    }
}

/// Does what a driver left to the device, for a backend that wants packets as they are on the wire; `None` for a
/// packet that must not leave.
fn make_whole(header: Header, frame: &mut [u8]) -> Option<()> {
    if header.is_segmented() || !guard::may_leave(frame) {
        return None;
    }
    match header.checksum() {
        Some((start, offset)) => checksum::finish(frame, start, offset),
        None => Some(()),
    }
}

impl Worker for Transmitter {
    fn save(&self) -> WorkerState {
        let unwritten = self.outlet.as_ref().map(Outlet::unwritten);
        self.port
            .note(|it| it.to_network = unwritten.unwrap_or_default());
        let queues = self.transmit.iter().chain(&self.control);
        WorkerState::plain(queues.map(Virtqueue::position))
    }

    fn queues(&self) -> Vec<u16> {
        self.transmit
            .iter()
            .chain(&self.control)
            .map(|queue| queue.index)
            .collect()
    }

    fn serve(&mut self, wake: Wake) -> Result<(), Broken> {
        let is_control = matches!((wake, &self.control), (Wake::Notified(index), Some(queue)) if queue.index == index);
        if (is_control || wake == Wake::Start)
            && let Some(mut queue) = self.control.take()
        {
            let obeyed = self.obey(&mut queue);
            self.control = Some(queue);
            obeyed?;
        }
        if self.outlet.is_none() {
            self.outlet = self.port.take_outlet();
        }
        if !is_control && let Some(mut queue) = self.transmit.take() {
            let sent = self.send(&mut queue);
            self.transmit = Some(queue);
            sent?;
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        if self.has_more {
            return Some(Instant::now());
        }
        self.held_until
    }

    fn sinks(&self) -> Vec<BorrowedFd<'_>> {
        self.outlet
            .iter()
            .filter(|outlet| !outlet.is_empty())
            .map(Outlet::fd)
            .collect()
    }
}

impl Drop for Transmitter {
    fn drop(&mut self) {
        self.port.put_outlet(self.outlet.take());
    }
}
