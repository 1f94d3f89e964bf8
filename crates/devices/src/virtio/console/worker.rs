//! Serves a console's ports and its control queues.

use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mem::GuestMemory;

use super::message::{self, Received, message};
use super::port::Window;
use super::stream::Stream;
use super::{Port, QUEUE_SIZE};
use crate::saved::{Unfit, ensure};
use crate::virtio::device::Setup;
use crate::virtio::interrupt::Interrupt;
use crate::virtio::metrics::DeviceMetrics;
use crate::virtio::segments::{Half, Segments};
use crate::virtio::state::{Back, WorkerState};
use crate::virtio::virtqueue::Virtqueue;
use crate::virtio::worker::{Broken, Wake, Worker};

/// Numbers of the control queues (5.3.2).
const CONTROL_RECEIVE: u16 = 2;
const CONTROL_TRANSMIT: u16 = 3;
/// How long output waits before it asks the host's side for room again.
const ROOM_PATIENCE: Duration = Duration::from_millis(5);
/// Messages that may wait for a driver that gives no buffers.
const MESSAGES_MAX: usize = 256;

/// The queues of a port.
fn queues_of(port: usize) -> (u16, u16) {
    let first = if port == 0 { 0 } else { 2 * (port as u16 + 1) };
    (first, first + 1)
}

/// The back of a console.
pub(super) struct ConsoleWorker {
    memory: Arc<GuestMemory>,
    metrics: Arc<DeviceMetrics>,
    streams: Vec<Stream>,
    names: Vec<String>,
    control_receive: Option<Virtqueue>,
    control_transmit: Option<Virtqueue>,
    /// Messages that wait for buffers.
    messages: VecDeque<Vec<u8>>,
    window: Window,
    config_changed: Interrupt,
    is_multiport: bool,
    /// The ends' descriptors could not be lent while the ends are locked; so these are duplicates.
    arrivals: Vec<Option<OwnedFd>>,
    rooms: Vec<Option<OwnedFd>>,
}

impl ConsoleWorker {
    pub(super) fn new(
        setup: Setup,
        ports: &[Port],
        window: Window,
        is_multiport: bool,
        metrics: Arc<DeviceMetrics>,
    ) -> ConsoleWorker {
        let Setup {
            memory,
            mut queues,
            config_changed,
            ..
        } = setup;
        let mut take = |index| {
            let at = queues.iter().position(|queue| queue.index == index)?;
            Some(queues.swap_remove(at))
        };
        let mut streams = Vec::new();
        let count = if is_multiport { ports.len() } else { 1 };
        for (n, port) in ports.iter().enumerate().take(count) {
            let (receive, transmit) = queues_of(n);
            streams.push(Stream::new(
                Arc::clone(&port.end),
                take(receive),
                take(transmit),
            ));
        }
        streams[0].is_open = !is_multiport;
        ConsoleWorker {
            arrivals: streams.iter().map(|_| None).collect(),
            rooms: streams.iter().map(|_| None).collect(),
            names: ports.iter().map(|port| port.name.clone()).collect(),
            control_receive: take(CONTROL_RECEIVE).filter(|_| is_multiport),
            control_transmit: take(CONTROL_TRANSMIT).filter(|_| is_multiport),
            streams,
            messages: VecDeque::new(),
            window,
            config_changed,
            is_multiport,
            memory,
            metrics,
        }
    }

    /// Takes descriptors of its own, to wait for without the ports' locks: here, because who made the worker is a vCPU's thread,
    /// which makes no descriptors.
    fn begin(&mut self) {
        let own =
            |file: Option<BorrowedFd<'_>>| file.and_then(|file| file.try_clone_to_owned().ok());
        for (n, stream) in self.streams.iter().enumerate() {
            let end = stream.end.lock();
            self.arrivals[n] = own(end.arrival());
            self.rooms[n] = own(end.room());
        }
    }

    /// Reads the driver's messages and answers them.
    fn hear(&mut self) -> Result<(), Broken> {
        let memory = Arc::clone(&self.memory);
        let Some(mut queue) = self.control_transmit.take() else {
            return Ok(());
        };
        let result = self.hear_from(&memory, &mut queue);
        self.control_transmit = Some(queue);
        result
    }

    fn hear_from(&mut self, memory: &GuestMemory, queue: &mut Virtqueue) -> Result<(), Broken> {
        // Messages beyond a full ring wait for the next notification, which the last look asks for.
        for _ in 0..2 * QUEUE_SIZE {
            let Some(chain) = queue.pop(memory)? else {
                if queue.enable_notification(memory)? {
                    continue;
                }
                break;
            };
            let head = chain.head_index();
            let mut segments = Segments::default();
            segments.add(chain, Half::Readable, message::LEN);
            let mut bytes = [0; message::LEN];
            if segments.read(memory.vm_memory(), 0, &mut bytes).is_some() {
                self.answer(Received::parse(bytes));
            } else {
                DeviceMetrics::add(&self.metrics.errors, 1);
            }
            queue.push(memory, head, 0)?;
        }
        queue.signal(memory)
    }

    fn answer(&mut self, received: Received) {
        let port = received.port as usize;
        match received.event {
            message::DEVICE_READY if received.value == 1 => {
                for n in 0..self.streams.len() {
                    self.post(message(n, message::DEVICE_ADD, 1, &[]));
                }
            }
            message::PORT_READY if received.value == 1 && port < self.streams.len() => {
                if port == 0 {
                    self.post(message(0, message::CONSOLE_PORT, 1, &[]));
                    self.post_size();
                }
                let name = self.names[port].clone();
                if !name.is_empty() {
                    self.post(message(port, message::PORT_NAME, 1, name.as_bytes()));
                }
                self.post(message(port, message::PORT_OPEN, 1, &[]));
                // A console is read from the start; who opens a port says so.
                self.streams[port].is_open |= port == 0;
            }
            message::PORT_OPEN => {
                if let Some(stream) = self.streams.get_mut(port) {
                    stream.is_open = received.value == 1;
                }
            }
            _ => {}
        }
    }

    fn post(&mut self, message: Vec<u8>) {
        if self.messages.len() < MESSAGES_MAX {
            self.messages.push_back(message);
        } else {
            DeviceMetrics::add(&self.metrics.errors, 1);
        }
    }

    fn post_size(&mut self) {
        let size = self.window.size();
        if size != (0, 0) {
            self.post(message::resize(0, size));
        }
    }

    /// Gives the driver what waits for it, as far as it gives buffers.
    fn say(&mut self) -> Result<(), Broken> {
        let Some(queue) = &mut self.control_receive else {
            return Ok(());
        };
        if self.messages.is_empty() {
            return Ok(());
        }
        while let Some(message) = self.messages.front() {
            let Some(chain) = queue.pop(&self.memory)? else {
                if queue.enable_notification(&self.memory)? {
                    continue;
                }
                break;
            };
            let head = chain.head_index();
            let mut segments = Segments::default();
            segments.add(chain, Half::Writable, message.len());
            let len = segments.len_bytes().min(message.len());
            if segments
                .write(self.memory.vm_memory(), 0, &message[..len])
                .is_none()
            {
                DeviceMetrics::add(&self.metrics.errors, 1);
            }
            queue.push(&self.memory, head, len as u32)?;
            self.messages.pop_front();
        }
        queue.signal(&self.memory)
    }

    /// The window has another size.
    fn resize(&mut self) {
        self.window.quiet();
        if self.is_multiport {
            self.post_size();
        }
        self.config_changed.raise();
    }

    fn arrived(&mut self, source: usize) {
        let listening = self.listening();
        if let Some(&port) = source.checked_sub(1).and_then(|n| listening.get(n)) {
            self.streams[port].end.lock().quiet();
        }
    }

    /// Ports whose ends are worth listening to.
    fn listening(&self) -> Vec<usize> {
        let ports = 0..self.streams.len();
        let is_useful = |port: &usize| {
            let stream = &self.streams[*port];
            let is_ready = stream.is_open && !stream.is_behind() && !stream.is_at_end;
            is_ready && self.arrivals[*port].is_some()
        };
        ports.filter(is_useful).collect()
    }
}

impl Worker for ConsoleWorker {
    fn save(&self) -> WorkerState {
        let control = self.control_receive.iter().chain(&self.control_transmit);
        let streams = self.streams.iter().flat_map(Stream::positions);
        WorkerState {
            queues: streams.chain(control.map(Virtqueue::position)).collect(),
            back: Back::Console {
                streams: self.streams.iter().map(Stream::save).collect(),
                messages: self.messages.iter().cloned().collect(),
            },
        }
    }

    fn restore(&mut self, back: Back) -> Result<(), Unfit> {
        const DEVICE: &str = "console";
        let Back::Console { streams, messages } = back else {
            return ensure(false, DEVICE, "it held something of another device");
        };
        ensure(
            streams.len() == self.streams.len(),
            DEVICE,
            "another number of ports",
        )?;
        ensure(messages.len() <= MESSAGES_MAX, DEVICE, "too many messages")?;
        for (stream, state) in self.streams.iter_mut().zip(streams) {
            stream.restore(state)?;
        }
        self.messages = messages.into();
        Ok(())
    }

    fn queues(&self) -> Vec<u16> {
        let control = self
            .control_receive
            .iter()
            .chain(&self.control_transmit)
            .map(|queue| queue.index);
        self.streams
            .iter()
            .flat_map(Stream::queues)
            .chain(control)
            .collect()
    }

    fn serve(&mut self, wake: Wake) -> Result<(), Broken> {
        match wake {
            Wake::Start => self.begin(),
            Wake::Readable(0) => self.resize(),
            Wake::Readable(source) => self.arrived(source),
            _ => {}
        }
        self.hear()?;
        self.say()?;
        for stream in &mut self.streams {
            stream.has_more = false;
            stream.transmit(&self.memory, &self.metrics)?;
            stream.receive(&self.memory, &self.metrics)?;
        }
        Ok(())
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        let mut sources = vec![self.window.changed()];
        let files = self
            .listening()
            .into_iter()
            .filter_map(|port| self.arrivals[port].as_ref());
        sources.extend(files.map(AsFd::as_fd));
        sources
    }

    fn sinks(&self) -> Vec<BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        let blocked = self.streams.iter().zip(&self.rooms);
        blocked
            .filter(|(stream, _)| stream.is_blocked())
            .filter_map(|(_, room)| room.as_ref().map(AsFd::as_fd))
            .collect()
    }

    fn deadline(&self) -> Option<Instant> {
        if self.streams.iter().any(|stream| stream.has_more) {
            return Some(Instant::now());
        }
        let mut all = self.streams.iter().zip(&self.rooms);
        let is_blocked = all.any(|(stream, room)| stream.is_blocked() && room.is_none());
        let room = is_blocked.then(|| Instant::now() + ROOM_PATIENCE);
        let held = self.streams.iter().filter_map(|stream| stream.held_until);
        room.into_iter().chain(held).min()
    }
}
