//! Memory that a file has piece by piece, packed: pieces are unpacked when somebody reads them and kept for the next one.

use std::collections::HashMap;
use std::sync::Arc;

use host::lock::Lock;
use insight::{Extent, Memory, Unreadable};
use x86::Gpa;

/// Most bytes that are kept unpacked.
const KEPT_BYTES: usize = 32 << 20;

/// Where packed pieces are had.
pub(super) trait Pieces: Send + Sync {
    /// Bytes of a piece: a power of two, whole pages.
    const PIECE_BYTES: u64;

    /// The piece that begins at this address, unpacked; fewer bytes if memory ends in it.
    ///
    /// # Errors
    /// What is wrong with it.
    fn piece(&self, gpa: Gpa) -> Result<Vec<u8>, String>;

    /// Whether all of that piece is zeros, as far as that is known without unpacking it.
    fn is_zero(&self, gpa: Gpa) -> bool;
}

/// See the module's head.
pub(super) struct PackedMemory<P> {
    pieces: P,
    extents: Vec<Extent>,
    kept: Lock<HashMap<u64, Arc<[u8]>>>,
}

impl<P: Pieces> PackedMemory<P> {
    /// Memory in `extents`, ascending and apart, which begin with a piece.
    pub(super) fn new(pieces: P, extents: Vec<Extent>) -> PackedMemory<P> {
        PackedMemory {
            pieces,
            extents,
            kept: Lock::new(HashMap::new()),
        }
    }

    fn extent(&self, gpa: Gpa) -> Option<Extent> {
        let after = self
            .extents
            .partition_point(|extent| extent.start.0 <= gpa.0);
        let extent = *self.extents.get(after.checked_sub(1)?)?;
        (gpa.0 - extent.start.0 < extent.len_bytes).then_some(extent)
    }

    fn piece(&self, start: u64) -> Result<Arc<[u8]>, Unreadable> {
        if let Some(piece) = self.kept.lock().get(&start) {
            return Ok(Arc::clone(piece));
        }
        let piece = self.pieces.piece(Gpa(start));
        let piece: Arc<[u8]> = piece
            .map_err(|why| Unreadable::Host(Gpa(start), why))?
            .into();
        let mut kept = self.kept.lock();
        // Which of them will be wanted again nobody knows; to begin anew costs little now and then.
        if kept.len() >= KEPT_BYTES / P::PIECE_BYTES as usize {
            kept.clear();
        }
        kept.insert(start, Arc::clone(&piece));
        Ok(piece)
    }
}

impl<P: Pieces> Memory for PackedMemory<P> {
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), Unreadable> {
        let mut at = gpa;
        let mut rest = bytes;
        while !rest.is_empty() {
            let extent = self.extent(at).ok_or(Unreadable::NoMemory(at))?;
            let inside = at.0 - extent.start.0;
            let start = at.0 - inside % P::PIECE_BYTES;
            let piece = self.piece(start)?;
            let skip = (at.0 - start) as usize;
            let there = piece.get(skip..).unwrap_or_default();
            let left = (extent.len_bytes - inside).min(there.len() as u64) as usize;
            if left == 0 {
                return Err(Unreadable::NoMemory(at));
            }
            let (now, later) = rest.split_at_mut(left.min(rest.len()));
            now.copy_from_slice(&there[..now.len()]);
            at = Gpa(at.0 + now.len() as u64);
            rest = later;
        }
        Ok(())
    }

    fn extents(&self) -> Vec<Extent> {
        self.extents.clone()
    }

    fn next_data(&self, gpa: Gpa) -> Option<Gpa> {
        let extent = self.extent(gpa)?;
        let end = extent.start.0 + extent.len_bytes;
        let mut at = gpa.0;
        while at < end {
            let start = at - (at - extent.start.0) % P::PIECE_BYTES;
            if !self.pieces.is_zero(Gpa(start)) {
                return Some(Gpa(at));
            }
            at = start + P::PIECE_BYTES;
        }
        None
    }
}
