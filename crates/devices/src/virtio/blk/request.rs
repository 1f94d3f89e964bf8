//! One request: from a descriptor chain to what is asked for (5.2.6).
//!
//! A driver may cut a request into descriptors as it likes (2.7.4.1): the header is the first 16 readable bytes, the
//! status is the last writable one, wherever the cuts are. A chain from which neither can be had cannot be answered
//! at all, and its driver has broken the queue. Everything else gets a status.

use mem::{Buffer, GuestMemory};
use thiserror::Error;
use virtio_queue::desc::split::Descriptor;
use x86::Gpa;

/// Bytes of `struct virtio_blk_req` before the data.
const HEADER_BYTES: u64 = 16;

/// `VIRTIO_BLK_S_*` (5.2.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Status {
    /// `VIRTIO_BLK_S_OK`.
    Ok = 0,
    /// `VIRTIO_BLK_S_IOERR`: the host failed, or the request is impossible.
    IoError = 1,
    /// `VIRTIO_BLK_S_UNSUPP`: an unknown type or flag.
    Unsupported = 2,
}

/// What is asked for: `VIRTIO_BLK_T_*` (5.2.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RequestKind {
    Read,
    Write,
    Flush,
    GetId,
    Discard,
    WriteZeroes,
    Unknown(u32),
}

impl From<u32> for RequestKind {
    fn from(value: u32) -> RequestKind {
        match value {
            0 => RequestKind::Read,
            1 => RequestKind::Write,
            4 => RequestKind::Flush,
            8 => RequestKind::GetId,
            11 => RequestKind::Discard,
            13 => RequestKind::WriteZeroes,
            other => RequestKind::Unknown(other),
        }
    }
}

/// A chain that cannot be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(super) enum Malformed {
    #[error("a request has no whole header")]
    NoHeader,
    #[error("a request has no room for its status")]
    NoStatus,
    #[error("a request has a readable buffer behind a writable one")]
    Disorder,
    #[error("a request's header lies outside memory")]
    HeaderNotMemory,
    #[error("a request's status lies outside memory")]
    StatusNotMemory,
}

/// A request as its driver described it. Nothing but header and status has been checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Request {
    pub(super) kind: RequestKind,
    pub(super) sector: u64,
    /// What the driver gives, behind the header.
    pub(super) readable: Vec<Buffer>,
    /// What the driver wants filled, before the status.
    pub(super) writable: Vec<Buffer>,
    /// Where the status goes.
    pub(super) status: Gpa,
}

impl Request {
    /// Takes a chain apart.
    pub(super) fn parse(
        chain: impl Iterator<Item = Descriptor>,
        memory: &GuestMemory,
    ) -> Result<Request, Malformed> {
        let mut readable = Vec::new();
        let mut writable = Vec::new();
        for descriptor in chain {
            let buffer = Buffer {
                gpa: Gpa(descriptor.addr().0),
                len_bytes: u64::from(descriptor.len()),
            };
            if descriptor.is_write_only() {
                writable.push(buffer);
            } else if writable.is_empty() {
                readable.push(buffer);
            } else {
                return Err(Malformed::Disorder);
            }
        }
        let header = read_header(&mut readable, memory)?;
        let status = split_status(&mut writable)?;
        if memory.hva(status).is_none() {
            return Err(Malformed::StatusNotMemory);
        }
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| header[at + n]));
        let sector = u64::from(word(12)) << 32 | u64::from(word(8));
        Ok(Request {
            kind: word(0).into(),
            sector,
            readable,
            writable,
            status,
        })
    }
}

/// Bytes in `buffers`. A chain has at most 65535 descriptors of less than 4 GiB: this fits.
pub(super) fn len_bytes(buffers: &[Buffer]) -> u64 {
    buffers.iter().map(|buffer| buffer.len_bytes).sum()
}

/// Takes the header from the front of `readable`.
fn read_header(
    readable: &mut Vec<Buffer>,
    memory: &GuestMemory,
) -> Result<[u8; HEADER_BYTES as usize], Malformed> {
    let mut header = [0; HEADER_BYTES as usize];
    let mut filled = 0;
    let mut used = 0;
    for buffer in readable.iter_mut() {
        let now = buffer.len_bytes.min(HEADER_BYTES - filled as u64);
        if now == 0 && filled == header.len() {
            break;
        }
        if now == 0 {
            used += 1;
            continue;
        }
        let part = &mut header[filled..filled + now as usize];
        memory
            .read(buffer.gpa, part)
            .map_err(|_| Malformed::HeaderNotMemory)?;
        filled += now as usize;
        // No overflow: `now` bytes from here are memory.
        *buffer = Buffer {
            gpa: Gpa(buffer.gpa.0 + now),
            len_bytes: buffer.len_bytes - now,
        };
        if buffer.len_bytes > 0 {
            break;
        }
        used += 1;
    }
    if filled < header.len() {
        return Err(Malformed::NoHeader);
    }
    readable.drain(..used);
    Ok(header)
}

/// Takes the last byte of `writable`.
fn split_status(writable: &mut Vec<Buffer>) -> Result<Gpa, Malformed> {
    while writable.last().is_some_and(|buffer| buffer.len_bytes == 0) {
        writable.pop();
    }
    let last = writable.last_mut().ok_or(Malformed::NoStatus)?;
    last.len_bytes -= 1;
    let status = Gpa(last
        .gpa
        .0
        .checked_add(last.len_bytes)
        .ok_or(Malformed::StatusNotMemory)?);
    if last.len_bytes == 0 {
        writable.pop();
    }
    Ok(status)
}
