//! Snapshots of Mother's (crate `snapshot`): memory in chunks, one behind the other as the memory file of the VM has them,
//! which goes on at 4 GiB behind the hole.

use std::sync::Arc;

use insight::Extent;
use snapshot::{CHUNK_BYTES, MemoryParts, MemoryReader, PAGE_BYTES};
use x86::Gpa;

use super::super::recognise::Candidate;
use super::pages::{PackedMemory, Pieces};
use super::{ImageError, ImageFormat, MemoryImage};

/// Where the hole begins, and where memory goes on.
const HOLE: u64 = 3 << 30;
const HIGH: u64 = 4 << 30;

struct Chunks(MemoryReader);

impl Chunks {
    fn number(gpa: Gpa) -> u64 {
        let offset = if gpa.0 < HOLE {
            gpa.0
        } else {
            gpa.0 - (HIGH - HOLE)
        };
        offset / CHUNK_BYTES as u64
    }
}

impl Pieces for Chunks {
    const PIECE_BYTES: u64 = CHUNK_BYTES as u64;

    fn piece(&self, gpa: Gpa) -> Result<Vec<u8>, String> {
        let chunk = Chunks::number(gpa);
        if chunk >= self.0.chunk_count() {
            return Err("it has no such chunk".to_owned());
        }
        let mut bytes = vec![0; self.0.chunk_bytes(chunk)];
        let read = self.0.read(chunk, &mut bytes);
        read.map(|()| bytes).map_err(|error| error.to_string())
    }

    fn is_zero(&self, gpa: Gpa) -> bool {
        self.0.stored(Chunks::number(gpa)) == 0
    }
}

/// The memory in these files of a snapshot.
///
/// # Errors
/// If they are damaged where that can be seen at once.
pub fn of_snapshot(parts: MemoryParts) -> Result<MemoryImage, ImageError> {
    let reader = parts.read()?;
    let len_bytes = reader.page_count() * PAGE_BYTES as u64;
    let low = len_bytes.min(HOLE);
    let stretches = [(0, low), (HIGH, len_bytes - low)];
    let extents = stretches
        .into_iter()
        .filter(|(_, len_bytes)| *len_bytes > 0)
        .map(|(start, len_bytes)| Extent {
            start: Gpa(start),
            len_bytes,
        });
    let memory = PackedMemory::new(Chunks(reader), extents.collect());
    Ok(MemoryImage {
        format: ImageFormat::Snapshot,
        candidates: vec![Candidate {
            memory: Arc::new(memory),
            words: "as the snapshot says".to_owned(),
        }],
        told: None,
    })
}
