//! The front and the worker of the socket device.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Instant;

use mem::GuestMemory;
use virtio_queue::QueueT;

use super::connection::BUFFER_BYTES;
use super::connector::Connector;
use super::dial::Dial;
use super::hub::Hub;
use super::packet::{HEADER_BYTES, Header};
use crate::saved::{Unfit, ensure};
use crate::virtio::device::read_part;
use crate::virtio::segments::{Half, Segments};
use crate::virtio::{
    Back, Broken, DeviceMetrics, Setup, VirtioDevice, VirtioKind, Virtqueue, Wake, Worker,
    WorkerState,
};

/// Queues (5.10.2).
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const QUEUE_SIZES: [u16; 3] = [128, 128, 16];

/// Most data in one packet to the guest.
const DATA_BYTES_MAX: usize = 64 << 10;

/// Packets moved in one call, so that a stop is not kept waiting.
const TURNS_MAX: usize = 256;

/// A socket device.
#[derive(Debug)]
pub struct Vsock {
    name: String,
    guest_cid: u64,
    dial: Arc<dyn Dial>,
    listener: Option<Arc<UnixListener>>,
    connector: Connector,
    metrics: Arc<DeviceMetrics>,
}

impl Vsock {
    /// A device for the guest with this context id, behind `listener`, if it has a socket, and `connector`; the guest's own
    /// connections are made by `dial`.
    ///
    /// # Errors
    /// What the host says about making the listener non-blocking.
    pub fn new(
        name: impl Into<String>,
        guest_cid: u64,
        dial: Arc<dyn Dial>,
        listener: Option<UnixListener>,
        connector: Connector,
        metrics: Arc<DeviceMetrics>,
    ) -> io::Result<Vsock> {
        if let Some(listener) = &listener {
            listener.set_nonblocking(true)?;
        }
        Ok(Vsock {
            name: name.into(),
            guest_cid,
            dial,
            listener: listener.map(Arc::new),
            connector,
            metrics,
        })
    }
}

impl VirtioDevice for Vsock {
    fn kind(&self) -> VirtioKind {
        VirtioKind::Vsock
    }

    fn name(&self) -> &str {
        &self.name
    }

    /// None: without `VIRTIO_VSOCK_F_STREAM` and its siblings streams are what there is (5.10.3.1).
    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        QUEUE_SIZES.to_vec()
    }

    /// `guest_cid` is all there is (5.10.4).
    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        read_part(&self.guest_cid.to_le_bytes(), offset, bytes);
    }

    fn write_config(&mut self, _offset: u64, _bytes: &[u8]) {}

    fn activate(&mut self, setup: Setup) -> Vec<Box<dyn Worker>> {
        let Setup { memory, queues, .. } = setup;
        let mut receive = None;
        let mut transmit = None;
        for queue in queues {
            match queue.index {
                RECEIVE => receive = Some(queue),
                TRANSMIT => transmit = Some(queue),
                // Events tell of a guest that was moved, which ours never are.
                _ => {}
            }
        }
        let hub = Hub::new(
            self.guest_cid,
            Arc::clone(&self.dial),
            self.listener.clone(),
            self.connector.clone(),
        );
        let (Some(receive), Some(transmit)) = (receive, transmit) else {
            return Vec::new();
        };
        self.connector.set_served(true);
        let metrics = Arc::clone(&self.metrics);
        let segments = Segments::default();
        let data = vec![0; DATA_BYTES_MAX.max(BUFFER_BYTES as usize)];
        vec![Box::new(Porter {
            memory,
            receive,
            transmit,
            hub,
            segments,
            data,
            metrics,
            is_starved: false,
            has_more: false,
        })]
    }

    fn reset(&mut self) {
        self.connector.set_served(false);
    }

    fn metrics(&self) -> Arc<DeviceMetrics> {
        Arc::clone(&self.metrics)
    }
}

impl Drop for Vsock {
    /// The guest's life is over, and with it its driver.
    fn drop(&mut self) {
        self.connector.set_served(false);
    }
}

/// The worker: carries packets between the queues and the hub.
#[derive(Debug)]
struct Porter {
    memory: Arc<GuestMemory>,
    receive: Virtqueue,
    transmit: Virtqueue,
    hub: Hub,
    segments: Segments,
    data: Vec<u8>,
    metrics: Arc<DeviceMetrics>,
    /// The guest has no buffer for what waits.
    is_starved: bool,
    /// Something moved in the last call, so more may be able to.
    has_more: bool,
}

impl Porter {
    /// Takes what the guest has sent while its answers have room; whether there was any.
    fn take_from_guest(&mut self) -> Result<bool, Broken> {
        let memory = Arc::clone(&self.memory);
        let mut took = false;
        for _ in 0..TURNS_MAX {
            if !self.hub.has_room() {
                break;
            }
            let Some(chain) = self.transmit.pop(&memory)? else {
                if took {
                    self.transmit.signal(&memory)?;
                }
                if self.transmit.enable_notification(&memory)? {
                    continue;
                }
                return Ok(took);
            };
            took = true;
            let head = chain.head_index();
            self.segments.clear();
            self.segments
                .add(chain, Half::Readable, HEADER_BYTES + self.data.len());
            let taken = self.take_packet();
            taken.ok_or_else(|| self.transmit.broken(&"a packet is not in guest memory"))?;
            self.transmit.push(&memory, head, 0)?;
        }
        if took {
            self.transmit.signal(&memory)?;
        }
        Ok(took)
    }

    /// Reads the packet in the segments; `None` if guest memory does not have it.
    fn take_packet(&mut self) -> Option<()> {
        let memory = self.memory.vm_memory();
        let mut header = [0; HEADER_BYTES];
        let there = self.segments.len_bytes().checked_sub(HEADER_BYTES);
        let is_read = there.map(|_| self.segments.read(memory, 0, &mut header));
        let header = Header::from_bytes(&header);
        let len = header.len as usize;
        let is_right = match (is_read, there) {
            (Some(None), _) => return None,
            (Some(Some(())), Some(there)) if len <= there && len <= self.data.len() => {
                self.segments
                    .read(memory, HEADER_BYTES, &mut self.data[..len])?;
                self.hub.take(&header, &self.data[..len])
            }
            _ => false,
        };
        DeviceMetrics::add(&self.metrics.requests, 1);
        if is_right {
            DeviceMetrics::add(&self.metrics.bytes_from_guest, len as u64);
        } else {
            DeviceMetrics::add(&self.metrics.violations, 1);
        }
        Some(())
    }

    /// Gives the guest what there is while it has buffers; whether there was any.
    fn give_to_guest(&mut self) -> Result<bool, Broken> {
        let memory = Arc::clone(&self.memory);
        let mut gave = false;
        for _ in 0..TURNS_MAX {
            let first = self.receive.queue.next_avail();
            let Some(chain) = self.receive.pop(&memory)? else {
                self.is_starved = !self.receive.enable_notification(&memory)?;
                if self.is_starved {
                    break;
                }
                continue;
            };
            let head = chain.head_index();
            self.segments.clear();
            self.segments
                .add(chain, Half::Writable, HEADER_BYTES + DATA_BYTES_MAX);
            let Some(room) = self.segments.len_bytes().checked_sub(HEADER_BYTES) else {
                return Err(self.receive.broken(&"a receive buffer holds no header"));
            };
            let room = room.min(DATA_BYTES_MAX);
            let Some((header, len)) = self.hub.next(&mut self.data[..room]) else {
                self.receive.queue.set_next_avail(first);
                break;
            };
            let wrote = self
                .segments
                .write(memory.vm_memory(), 0, &header.to_bytes());
            let wrote = wrote.and_then(|()| {
                self.segments
                    .write(memory.vm_memory(), HEADER_BYTES, &self.data[..len])
            });
            wrote.ok_or_else(|| {
                self.receive
                    .broken(&"a receive buffer is not in guest memory")
            })?;
            self.receive
                .push(&memory, head, (HEADER_BYTES + len) as u32)?;
            DeviceMetrics::add(&self.metrics.requests, 1);
            DeviceMetrics::add(&self.metrics.bytes_to_guest, len as u64);
            gave = true;
        }
        if gave {
            self.receive.signal(&memory)?;
        }
        Ok(gave)
    }
}

impl Worker for Porter {
    fn save(&self) -> WorkerState {
        WorkerState {
            back: Back::Vsock(self.hub.save()),
            ..WorkerState::plain([self.receive.position(), self.transmit.position()])
        }
    }

    fn restore(&mut self, back: Back) -> Result<(), Unfit> {
        let Back::Vsock(state) = back else {
            return ensure(
                false,
                "socket device",
                "it held something of another device",
            );
        };
        self.hub.restore(state)
    }

    fn queues(&self) -> Vec<u16> {
        vec![self.receive.index, self.transmit.index]
    }

    /// Every call looks at everything: which socket woke it may have changed meanwhile, and an idle one costs little.
    fn serve(&mut self, _wake: Wake) -> Result<(), Broken> {
        self.is_starved = false;
        self.hub.welcome();
        let took = self.take_from_guest()?;
        self.hub.flush();
        let gave = self.give_to_guest()?;
        self.has_more = took || gave;
        Ok(())
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        if self.is_starved {
            Vec::new()
        } else {
            self.hub.sources()
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.has_more.then(Instant::now)
    }

    fn sinks(&self) -> Vec<BorrowedFd<'_>> {
        self.hub.sinks()
    }
}
