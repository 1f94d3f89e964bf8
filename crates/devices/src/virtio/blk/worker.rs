//! The back of a disk: one worker for each virtqueue, doing what its requests ask for.
//!
//! A worker takes all that is available, request after request, and tells the driver once for a batch: an interrupt
//! costs the guest more than the request that it reports. But a driver that waits for the first of many slow ones is
//! not left waiting for the last: what is finished is told at least every [`SILENCE_MAX`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mem::{Buffer, GuestMemory, TransferError};
use x86::Gpa;

use super::config::{F_DISCARD, F_WRITE_ZEROES, RANGE_SECTORS_MAX, RANGES_MAX, REQUEST_BYTES_MAX};
use super::disk::{Disk, Trouble};
use super::head::{MAGIC_BYTES, SECTOR_BYTES, looks_formatted};
use super::request::{Request, RequestKind, Status, len_bytes};
use crate::virtio::{Broken, DeviceMetrics, Virtqueue, Wake, Worker, WorkerState};

/// Longest time for which finished requests are not told to the driver.
const SILENCE_MAX: Duration = Duration::from_micros(200);
/// Bytes of `struct virtio_blk_discard_write_zeroes` (5.2.6).
const RANGE_BYTES: usize = 16;
/// Flag bit 0 of a range: blocks may be unmapped.
const UNMAP: u32 = 1;

/// When a write is answered (5.2.5.2, 5.2.6.2).
#[derive(Clone, Debug)]
pub(super) enum Caching {
    /// When the host has it; `FLUSH` makes it durable.
    WriteBack,
    /// When it is durable.
    WriteThrough,
    /// As the driver last said in the configuration space: true is write-back.
    Chosen(Arc<AtomicBool>),
}

impl Caching {
    fn is_write_back(&self) -> bool {
        match self {
            Caching::WriteBack => true,
            Caching::WriteThrough => false,
            Caching::Chosen(is_write_back) => is_write_back.load(Ordering::Relaxed),
        }
    }
}

/// What became of a request: its status, and how many bytes were written before that.
type Outcome = (Status, u64);

/// The worker of one queue.
pub(super) struct BlockWorker {
    disk: Arc<Disk>,
    memory: Arc<GuestMemory>,
    features: u64,
    queue: Virtqueue,
    caching: Caching,
    /// When the first of the finished requests that the driver was not told of was finished.
    untold_since: Option<Instant>,
    /// Until when the next request has to wait, if the disk has done more than it may.
    held_until: Option<Instant>,
}

impl BlockWorker {
    pub(super) fn new(
        disk: Arc<Disk>,
        memory: Arc<GuestMemory>,
        features: u64,
        queue: Virtqueue,
        caching: Caching,
    ) -> BlockWorker {
        BlockWorker {
            disk,
            memory,
            features,
            queue,
            caching,
            untold_since: None,
            held_until: None,
        }
    }

    /// Does every request that is available, unless the disk has done more than it may.
    fn drain(&mut self, memory: &GuestMemory) -> Result<(), Broken> {
        loop {
            self.held_until = self.disk.metrics.held_from_guest();
            if self.held_until.is_some() {
                return Ok(());
            }
            let Some(chain) = self.queue.pop(memory)? else {
                return Ok(());
            };
            let start = Instant::now();
            let head = chain.head_index();
            let request =
                Request::parse(chain, memory).map_err(|malformed| self.queue.broken(&malformed))?;
            let (status, written) = self.perform(&request, memory);
            memory
                .write(request.status, &[status as u8])
                .map_err(|error| self.queue.broken(&error))?;
            self.queue
                .push(memory, head, u32::try_from(written + 1).unwrap_or(u32::MAX))?;
            let moved = len_bytes(&request.readable) + len_bytes(&request.writable);
            self.disk
                .metrics
                .pay_from_guest(moved.min(REQUEST_BYTES_MAX));
            let now = Instant::now();
            self.count(status, now - start);
            if now - *self.untold_since.get_or_insert(now) >= SILENCE_MAX {
                self.tell(memory)?;
            }
        }
    }

    fn count(&self, status: Status, took: Duration) {
        let metrics = &self.disk.metrics;
        DeviceMetrics::add(&metrics.requests, 1);
        metrics.latency.add(took);
        if status != Status::Ok {
            DeviceMetrics::add(&metrics.errors, 1);
        }
    }

    /// Tells the driver of what is finished, if it wants to hear.
    fn tell(&mut self, memory: &GuestMemory) -> Result<(), Broken> {
        match self.untold_since.take() {
            Some(_) => self.queue.signal(memory),
            None => Ok(()),
        }
    }

    fn perform(&self, request: &Request, memory: &GuestMemory) -> Outcome {
        match request.kind {
            RequestKind::Read => self.read(request, memory),
            RequestKind::Write => (self.write(request, memory), 0),
            RequestKind::Flush => (self.host(self.disk.image.flush()), 0),
            RequestKind::GetId => self.get_id(request, memory),
            RequestKind::Discard if self.features & F_DISCARD != 0 => {
                (self.ranges(request, memory), 0)
            }
            RequestKind::WriteZeroes if self.features & F_WRITE_ZEROES != 0 => {
                (self.ranges(request, memory), 0)
            }
            _ => (Status::Unsupported, 0),
        }
    }

    /// Where the data of a read or write lie on the disk; nothing if that is no place of it.
    fn offset(&self, sector: u64, len_bytes: u64) -> Option<u64> {
        if !len_bytes.is_multiple_of(SECTOR_BYTES) || len_bytes > REQUEST_BYTES_MAX {
            return None;
        }
        let end = sector.checked_add(len_bytes / SECTOR_BYTES)?;
        (end <= self.disk.capacity_sectors()).then(|| sector * SECTOR_BYTES)
    }

    fn read(&self, request: &Request, memory: &GuestMemory) -> Outcome {
        let len_bytes = len_bytes(&request.writable);
        let Some(offset) = self.offset(request.sector, len_bytes) else {
            return (Status::IoError, 0);
        };
        match self.transferred(self.disk.image.read(memory, &request.writable, offset)) {
            Status::Ok => {
                DeviceMetrics::add(&self.disk.metrics.bytes_to_guest, len_bytes);
                (Status::Ok, len_bytes)
            }
            status => (status, 0),
        }
    }

    fn write(&self, request: &Request, memory: &GuestMemory) -> Status {
        let len_bytes = len_bytes(&request.readable);
        let Some(offset) = self.offset(request.sector, len_bytes) else {
            return Status::IoError;
        };
        if self.disk.options.is_read_only {
            return Status::IoError;
        }
        let written = if self.disk.options.is_guessed_raw && offset == 0 && len_bytes > 0 {
            match self.write_start(&request.readable, memory) {
                Some(written) => written,
                None => return Status::IoError,
            }
        } else {
            self.disk.image.write(memory, &request.readable, offset)
        };
        match self.transferred(written) {
            Status::Ok => {
                DeviceMetrics::add(&self.disk.metrics.bytes_from_guest, len_bytes);
                self.after_write()
            }
            status => status,
        }
    }

    /// Writes to the start of a disk that was taken for raw by its looks. Nothing if it would look otherwise from now
    /// on. The first sector passes through our hands, so that the guest cannot change it after the look.
    fn write_start(
        &self,
        buffers: &[Buffer],
        memory: &GuestMemory,
    ) -> Option<Result<(), TransferError>> {
        let mut sector = [0; SECTOR_BYTES as usize];
        let rest = match take(memory, buffers, &mut sector) {
            Ok(rest) => rest,
            Err(error) => return Some(Err(error.into())),
        };
        if looks_formatted(&sector[..MAGIC_BYTES]) {
            if self.disk.is_news(Trouble::Disguise) {
                let name = self.disk.name();
                tracing::warn!(
                    "{name}: refused a write that would make this raw disk look like another format; with \
                     `format=raw` the guest may write what it likes (more of these are only counted)"
                );
            }
            return None;
        }
        let image = &self.disk.image;
        let first = image.write_bytes(&sector, 0).map_err(TransferError::from);
        Some(first.and_then(|()| image.write(memory, &rest, SECTOR_BYTES)))
    }

    fn after_write(&self) -> Status {
        if self.caching.is_write_back() {
            Status::Ok
        } else {
            self.host(self.disk.image.flush())
        }
    }

    fn get_id(&self, request: &Request, memory: &GuestMemory) -> Outcome {
        let serial = self.disk.serial();
        let mut rest = &serial[..];
        for buffer in &request.writable {
            let (now, later) = rest.split_at(rest.len().min(buffer.len_bytes as usize));
            if memory.write(buffer.gpa, now).is_err() {
                return (Status::IoError, 0);
            }
            rest = later;
        }
        (Status::Ok, (serial.len() - rest.len()) as u64)
    }

    /// Discard and write-zeroes.
    fn ranges(&self, request: &Request, memory: &GuestMemory) -> Status {
        let len_bytes = len_bytes(&request.readable);
        let whole = len_bytes > 0 && len_bytes.is_multiple_of(RANGE_BYTES as u64);
        if !whole
            || len_bytes > u64::from(RANGES_MAX) * RANGE_BYTES as u64
            || self.disk.options.is_read_only
        {
            return Status::IoError;
        }
        let mut bytes = vec![0; len_bytes as usize];
        if take(memory, &request.readable, &mut bytes).is_err() {
            return Status::IoError;
        }
        // All are looked at before the first is done: a request is refused as a whole.
        let mut ranges = Vec::new();
        for range in bytes.chunks_exact(RANGE_BYTES) {
            match self.range(request.kind, range) {
                Ok(range) => ranges.push(range),
                Err(status) => return status,
            }
        }
        for (offset, len_bytes, may_unmap) in ranges
            .into_iter()
            .filter(|(_, len_bytes, _)| *len_bytes > 0)
        {
            let done = match request.kind {
                RequestKind::Discard => self.disk.image.discard(offset, len_bytes),
                _ => self.disk.image.write_zeroes(offset, len_bytes, may_unmap),
            };
            let status = self.host(done);
            if status != Status::Ok {
                return status;
            }
        }
        self.after_write()
    }

    /// Offset, length, and whether it may be unmapped.
    fn range(&self, kind: RequestKind, bytes: &[u8]) -> Result<(u64, u64, bool), Status> {
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| bytes[at + n]));
        let sector = u64::from(word(4)) << 32 | u64::from(word(0));
        let sectors = word(8);
        let flags = word(12);
        if flags & !UNMAP != 0 || (kind == RequestKind::Discard && flags != 0) {
            return Err(Status::Unsupported);
        }
        let end = sector
            .checked_add(u64::from(sectors))
            .ok_or(Status::IoError)?;
        if end > self.disk.capacity_sectors() || sectors > RANGE_SECTORS_MAX {
            return Err(Status::IoError);
        }
        Ok((
            sector * SECTOR_BYTES,
            u64::from(sectors) * SECTOR_BYTES,
            flags & UNMAP != 0,
        ))
    }

    fn transferred(&self, result: Result<(), TransferError>) -> Status {
        match result {
            Ok(()) => Status::Ok,
            Err(TransferError::File(error)) => self.host(Err(error)),
            Err(TransferError::Memory(_)) => Status::IoError,
        }
    }

    /// What the host said, as a status: its errors are the guest's I/O errors.
    fn host(&self, result: std::io::Result<()>) -> Status {
        match result {
            Ok(()) => Status::Ok,
            Err(error) => {
                if self.disk.is_news(Trouble::Host(error.kind())) {
                    let name = self.disk.name();
                    tracing::warn!(
                        "{name}: {error}; the guest gets an I/O error (more of these are only counted)"
                    );
                }
                Status::IoError
            }
        }
    }
}

/// Copies the first bytes of `buffers` out; the buffers behind them.
fn take(
    memory: &GuestMemory,
    buffers: &[Buffer],
    bytes: &mut [u8],
) -> Result<Vec<Buffer>, mem::MemoryError> {
    let mut rest = bytes;
    let mut behind = Vec::new();
    for buffer in buffers {
        let now = buffer.len_bytes.min(rest.len() as u64);
        let (part, later) = rest.split_at_mut(now as usize);
        memory.read(buffer.gpa, part)?;
        rest = later;
        if now < buffer.len_bytes {
            behind.push(Buffer {
                gpa: Gpa(buffer.gpa.0 + now),
                len_bytes: buffer.len_bytes - now,
            });
        }
    }
    Ok(behind)
}

impl Worker for BlockWorker {
    fn save(&self) -> WorkerState {
        WorkerState::plain([self.queue.position()])
    }

    fn queues(&self) -> Vec<u16> {
        vec![self.queue.index]
    }

    fn serve(&mut self, _wake: Wake) -> Result<(), Broken> {
        let memory = Arc::clone(&self.memory);
        loop {
            self.queue.disable_notification(&memory)?;
            self.drain(&memory)?;
            self.tell(&memory)?;
            if self.held_until.is_some() || !self.queue.enable_notification(&memory)? {
                return Ok(());
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.held_until
    }
}
