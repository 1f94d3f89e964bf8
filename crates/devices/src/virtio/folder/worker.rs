//! The back of a folder: takes messages off the queues, has them answered, and gives the answers back.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use folder::{ANSWER_BYTES_MAX, ANSWER_HEADER_BYTES, HEADER_BYTES, REQUEST_BYTES_MAX, is_answered};
use mem::GuestMemory;
use rustix::io::Errno;
use virtio_queue::QueueT;

use super::link::{FolderPort, Link, Went};
use crate::virtio::segments::{Half, Segments};
use crate::virtio::state::{Back, WorkerState};
use crate::virtio::virtqueue::{Chain, Virtqueue};
use crate::virtio::{Broken, DeviceMetrics, Setup, Wake, Worker};

/// Messages, and answers, in one call, so that a worker that is to stop hears of it.
const MESSAGES_MAX: usize = 32;

/// A chain whose message the server has.
struct Waiting {
    /// Which of the queues.
    at: usize,
    head: u16,
    room: Segments,
    /// The guest's number for it.
    unique: [u8; 8],
    start: Instant,
}

/// The worker of both queues.
pub(super) struct FolderWorker {
    name: String,
    port: FolderPort,
    memory: Arc<GuestMemory>,
    metrics: Arc<DeviceMetrics>,
    queues: Vec<Virtqueue>,
    /// By the number that the message got. No hash table: one that is made asks the host for random numbers, and a device is activated by
    /// a vCPU's thread, which may not.
    waiting: BTreeMap<u64, Waiting>,
    /// The socket takes no more now.
    is_blocked: bool,
    is_lost: bool,
    /// Something was left for the next call.
    has_more: bool,
}

impl FolderWorker {
    pub(super) fn new(
        name: &str,
        port: FolderPort,
        setup: Setup,
        metrics: Arc<DeviceMetrics>,
    ) -> FolderWorker {
        FolderWorker {
            name: name.to_owned(),
            port,
            memory: setup.memory,
            metrics,
            queues: setup.queues,
            waiting: BTreeMap::new(),
            is_blocked: false,
            is_lost: false,
            has_more: false,
        }
    }

    /// Gives back what has been answered.
    fn answers(
        &mut self,
        link: &mut Link,
        socket: BorrowedFd<'_>,
        memory: &GuestMemory,
    ) -> Result<(), Broken> {
        for _ in 0..MESSAGES_MAX {
            if link.is_lost {
                return Ok(());
            }
            match link.receive(socket) {
                Ok(Went::Through) => {
                    let (ticket, answer) = link.take();
                    // One that nobody waits for is of a driver that has been reset.
                    if let Some(waiting) = self.waiting.remove(&ticket) {
                        self.answer(&waiting, answer, memory)?;
                    }
                }
                Ok(Went::Waits) => return Ok(()),
                Err(error) => return self.lose(link, &error, memory),
            }
        }
        self.has_more = true;
        Ok(())
    }

    /// Takes what the guest wants, for as long as the socket takes it.
    fn requests(
        &mut self,
        link: &mut Link,
        socket: BorrowedFd<'_>,
        memory: &GuestMemory,
    ) -> Result<(), Broken> {
        for _ in 0..MESSAGES_MAX {
            match link.flush(socket) {
                Ok(Went::Through) => {}
                Ok(Went::Waits) => {
                    self.is_blocked = true;
                    return Ok(());
                }
                Err(error) => self.lose(link, &error, memory)?,
            }
            let mut next = None;
            for (at, queue) in self.queues.iter_mut().enumerate() {
                next = queue.pop(memory)?.map(|chain| (at, chain));
                if next.is_some() {
                    break;
                }
            }
            if let Some((at, chain)) = next {
                self.request(link, at, chain, memory)?;
                continue;
            }
            let mut came = false;
            for queue in &mut self.queues {
                came |= queue.enable_notification(memory)?;
            }
            if !came {
                return Ok(());
            }
        }
        self.has_more = true;
        Ok(())
    }

    /// Has one message be on its way.
    fn request(
        &mut self,
        link: &mut Link,
        at: usize,
        chain: Chain<'_>,
        memory: &GuestMemory,
    ) -> Result<(), Broken> {
        let start = Instant::now();
        let head = chain.head_index();
        let mut room = Segments::default();
        room.add(chain.clone(), Half::Writable, ANSWER_BYTES_MAX);
        let mut readable = Segments::default();
        readable.add(chain, Half::Readable, REQUEST_BYTES_MAX + 1);
        let message = read(memory, &readable);
        DeviceMetrics::add(&self.metrics.requests, 1);
        let unique = message
            .as_ref()
            .and_then(|message| message[8..].first_chunk());
        let waiting = Waiting {
            at,
            head,
            room,
            unique: unique.copied().unwrap_or_default(),
            start,
        };
        let Some(message) = message else {
            return self.refuse(&waiting, Errno::INVAL, memory);
        };
        let opcode = message[4..].first_chunk().copied();
        let is_answered = opcode.is_some_and(|word| is_answered(u32::from_le_bytes(word)));
        if link.is_lost && is_answered {
            return self.refuse(&waiting, Errno::IO, memory);
        }
        let len_bytes = message.len() as u64;
        DeviceMetrics::add(&self.metrics.bytes_from_guest, len_bytes);
        if !link.is_lost {
            let ticket = link.put(message);
            if is_answered {
                self.waiting.insert(ticket, waiting);
                return Ok(());
            }
        }
        self.give_back(&waiting, 0, memory)
    }

    /// Gives a chain back with the answer to its message.
    fn answer(
        &mut self,
        waiting: &Waiting,
        mut answer: Vec<u8>,
        memory: &GuestMemory,
    ) -> Result<(), Broken> {
        answer[8..16].copy_from_slice(&waiting.unique);
        let fits = answer.len() <= waiting.room.len_bytes();
        if !fits || waiting.room.write(memory.vm_memory(), 0, &answer).is_none() {
            return self.refuse(waiting, Errno::IO, memory);
        }
        let written = answer.len() as u32;
        DeviceMetrics::add(&self.metrics.bytes_to_guest, u64::from(written));
        self.give_back(waiting, written, memory)
    }

    /// Gives a chain back with an error, if there is room for one.
    fn refuse(
        &mut self,
        waiting: &Waiting,
        error: Errno,
        memory: &GuestMemory,
    ) -> Result<(), Broken> {
        DeviceMetrics::add(&self.metrics.errors, 1);
        let mut answer = [0; ANSWER_HEADER_BYTES];
        answer[..4].copy_from_slice(&(ANSWER_HEADER_BYTES as u32).to_le_bytes());
        answer[4..8].copy_from_slice(&(-error.raw_os_error()).to_le_bytes());
        answer[8..].copy_from_slice(&waiting.unique);
        let has_room = waiting.room.len_bytes() >= ANSWER_HEADER_BYTES;
        let written = has_room
            .then(|| waiting.room.write(memory.vm_memory(), 0, &answer))
            .flatten();
        let written = written.map_or(0, |()| ANSWER_HEADER_BYTES as u32);
        self.give_back(waiting, written, memory)
    }

    fn give_back(
        &mut self,
        waiting: &Waiting,
        written: u32,
        memory: &GuestMemory,
    ) -> Result<(), Broken> {
        self.metrics.latency.add(waiting.start.elapsed());
        self.queues[waiting.at].push(memory, waiting.head, written)
    }

    /// The server is gone: nobody will answer what it has.
    fn lose(
        &mut self,
        link: &mut Link,
        error: &io::Error,
        memory: &GuestMemory,
    ) -> Result<(), Broken> {
        if !link.is_lost {
            let name = &self.name;
            tracing::warn!(
                "{name}: who serves this folder is gone ({error}): everything in it is an I/O error to the guest from now on"
            );
        }
        link.lose();
        let lost = std::mem::take(&mut self.waiting);
        lost.values()
            .try_for_each(|waiting| self.refuse(waiting, Errno::IO, memory))
    }
}

/// A message that is of the length that it says, and of one that a message may have.
fn read(memory: &GuestMemory, readable: &Segments) -> Option<Vec<u8>> {
    let len_bytes = readable.len_bytes();
    if !(HEADER_BYTES..=REQUEST_BYTES_MAX).contains(&len_bytes) {
        return None;
    }
    let mut message = vec![0; len_bytes];
    readable.read(memory.vm_memory(), 0, &mut message)?;
    let said = u32::from_le_bytes(*message.first_chunk()?);
    (said as usize == len_bytes).then_some(message)
}

impl Worker for FolderWorker {
    fn save(&self) -> WorkerState {
        WorkerState {
            queues: self.queues.iter().map(Virtqueue::position).collect(),
            back: Back::Folder {
                waiting: self.waiting.len(),
            },
        }
    }

    fn queues(&self) -> Vec<u16> {
        self.queues.iter().map(|queue| queue.index).collect()
    }

    fn serve(&mut self, _wake: Wake) -> Result<(), Broken> {
        let memory = Arc::clone(&self.memory);
        let before: Vec<u16> = self.queues.iter().map(|it| it.queue.next_used()).collect();
        self.has_more = false;
        self.is_blocked = false;
        let port = self.port.clone();
        port.with(|link, socket| {
            self.answers(link, socket, &memory)?;
            self.requests(link, socket, &memory)?;
            self.is_lost = link.is_lost;
            Ok(())
        })?;
        let queues = self.queues.iter_mut().zip(before);
        queues
            .into_iter()
            .try_for_each(|(queue, before)| queue.signal_since(before, &memory))
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        let is_there = !self.is_lost;
        is_there.then(|| self.port.fd()).into_iter().collect()
    }

    fn sinks(&self) -> Vec<BorrowedFd<'_>> {
        let is_blocked = self.is_blocked && !self.is_lost;
        is_blocked.then(|| self.port.fd()).into_iter().collect()
    }

    fn deadline(&self) -> Option<Instant> {
        self.has_more.then(Instant::now)
    }
}
