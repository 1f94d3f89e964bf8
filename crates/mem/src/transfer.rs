//! Between files and guest memory: the kernel moves the bytes, scattered and gathered.
//!
//! What a file gives lands in guest memory while vCPUs run, as with a DMA of real hardware: no reference to those
//! bytes exists, and their pages are noted as written afterwards.
//!
//! This is the one place where the host's kernel reaches guest memory on behalf of a device; every other access is an
//! instruction of ours. A page may be away then, or protected because it is leaving. Where the pager was given the kernel's
//! faults too, the call waits in the middle and goes on. Where it was not, the call ends before that page: with what it has
//! moved so far, or with `EFAULT`. Then one piece goes through a buffer of ours, whose copy waits for the page like any
//! access of a vCPU, and the kernel goes on behind it. To touch the page and ask the kernel again would be a race with whoever
//! puts pages away; the copy is none. It costs only where pages are away: nothing is lost of the speed of those that are here.

use host::at::FileAt;
use std::cell::RefCell;
use std::fs::File;
use std::io;

use host::vectored::{self, Place};
use thiserror::Error;
use x86::{Gfn, Gpa, PAGE_SIZE};

use crate::{GuestMemory, MemoryError};

/// A stretch of guest memory as a guest named it: an allegation until it is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buffer {
    /// First byte.
    pub gpa: Gpa,
    /// Its length.
    pub len_bytes: u64,
}

/// Why a transfer did not come to its end.
#[derive(Debug, Error)]
pub enum TransferError {
    /// A buffer is not guest memory; nothing was moved.
    #[error("cannot use a buffer")]
    Memory(#[from] MemoryError),
    /// The file's side failed; a part may have been moved.
    #[error("the host could not read or write the file")]
    File(#[from] io::Error),
}

impl GuestMemory {
    fn places(&self, buffers: &[Buffer]) -> Result<Vec<Place>, MemoryError> {
        let place = |&Buffer { gpa, len_bytes }: &Buffer| match self.hva(gpa) {
            Some((hva, left)) if len_bytes <= left => Ok(Place {
                address: hva.0 as usize,
                len_bytes: len_bytes as usize,
            }),
            _ => Err(MemoryError::NotMemory { gpa, len_bytes }),
        };
        buffers
            .iter()
            .filter(|buffer| buffer.len_bytes > 0)
            .map(place)
            .collect()
    }

    /// Whether a call failed because the kernel could not wait for a page.
    fn is_page_away(&self, error: &io::Error) -> bool {
        self.kernel_cannot_wait() && vectored::met_missing_page(error)
    }

    fn wrote_buffers(&self, buffers: &[Buffer]) {
        for buffer in buffers.iter().filter(|buffer| buffer.len_bytes > 0) {
            let last = buffer.gpa.0 + (buffer.len_bytes - 1);
            for gfn in buffer.gpa.gfn().0..=last / PAGE_SIZE {
                self.notes().wrote(Gfn(gfn));
            }
        }
    }

    /// Fills `buffers` with what `file` has at `offset`, and notes their pages as written. Returns how many bytes
    /// came: fewer than the buffers hold only at the end of the file.
    ///
    /// # Errors
    /// [`TransferError::Memory`] if a buffer does not lie in one slot, otherwise what the host says.
    pub fn read_from_file(
        &self,
        buffers: &[Buffer],
        file: &File,
        offset: u64,
    ) -> Result<u64, TransferError> {
        let mut places = self.places(buffers)?;
        let moved = move_all(&mut places, offset, |places, at| {
            // SAFETY: `places` checked that each lies in the mapping that `self` owns and keeps; it is writable, and
            // no reference into it exists anywhere.
            match unsafe { vectored::read_at(file, places, at) } {
                Err(error) if self.is_page_away(&error) => {
                    with_piece(places, |piece| {
                        let came = file.read_at(piece, at)?;
                        // SAFETY: as above.
                        unsafe { vectored::scatter(&piece[..came], places) };
                        Ok(came)
                    })
                }
                moved => moved,
            }
        });
        // Also after a failure: a part may have come.
        self.wrote_buffers(buffers);
        Ok(moved?)
    }

    /// Writes the bytes of `buffers` to `file` at `offset`, all of them.
    ///
    /// # Errors
    /// [`TransferError::Memory`] if a buffer does not lie in one slot, otherwise what the host says.
    pub fn write_to_file(
        &self,
        buffers: &[Buffer],
        file: &File,
        offset: u64,
    ) -> Result<(), TransferError> {
        let mut places = self.places(buffers)?;
        let wanted: u64 = places.iter().map(|place| place.len_bytes as u64).sum();
        let moved = move_all(&mut places, offset, |places, at| {
            // SAFETY: `places` checked that each lies in the mapping that `self` owns and keeps.
            match unsafe { vectored::write_at(file, places, at) } {
                Err(error) if self.is_page_away(&error) => {
                    with_piece(places, |piece| {
                        // SAFETY: as above.
                        unsafe { vectored::gather(places, piece) };
                        file.write_at(piece, at)
                    })
                }
                moved => moved,
            }
        })?;
        if moved < wanted {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        Ok(())
    }
}

/// Bytes that go through a buffer at a time: a few pages are away where one is, and behind them the kernel goes on.
const PIECE_BYTES: usize = 32 << 10;

/// Calls `act` with a buffer for the first bytes of `places`.
fn with_piece(
    places: &[Place],
    act: impl FnOnce(&mut [u8]) -> io::Result<usize>,
) -> io::Result<usize> {
    thread_local! {
        // A thread that never needs it has none.
        static PIECE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    let all: usize = places.iter().map(|place| place.len_bytes).sum();
    PIECE.with_borrow_mut(|piece| {
        piece.resize(PIECE_BYTES, 0);
        act(&mut piece[..all.min(PIECE_BYTES)])
    })
}

/// Moves until every place was used or nothing more moves.
fn move_all(
    places: &mut [Place],
    offset: u64,
    mut act: impl FnMut(&[Place], u64) -> io::Result<usize>,
) -> io::Result<u64> {
    let mut rest = places;
    let mut moved = 0;
    while !rest.is_empty() {
        let now = match act(rest, offset.saturating_add(moved)) {
            Ok(0) => break,
            Ok(now) => now,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        moved += now as u64;
        rest = skip(rest, now);
    }
    Ok(moved)
}

/// What is left of `places` behind their first `bytes`.
fn skip(mut places: &mut [Place], mut bytes: usize) -> &mut [Place] {
    while let Some(first) = places.first_mut() {
        if bytes < first.len_bytes {
            first.address += bytes;
            first.len_bytes -= bytes;
            break;
        }
        bytes -= first.len_bytes;
        places = &mut places[1..];
    }
    places
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::{CodeWatch, PagedMemory};

    #[derive(Default)]
    struct Watcher(Mutex<Vec<Gfn>>);

    impl CodeWatch for Watcher {
        fn code_written(&self, gfn: Gfn) {
            self.0.lock().unwrap().push(gfn);
        }
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = host::MemFd::new(c"test", 0)
            .unwrap()
            .file()
            .try_clone()
            .unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn buffers(list: &[(u64, u64)]) -> Vec<Buffer> {
        list.iter()
            .map(|&(gpa, len_bytes)| Buffer {
                gpa: Gpa(gpa),
                len_bytes,
            })
            .collect()
    }

    #[test]
    fn a_file_is_scattered_and_gathered() {
        let memory = GuestMemory::flat(0x10_0000).unwrap();
        let bytes: Vec<u8> = (0..10_000_u32).map(|n| (n % 251) as u8).collect();
        let source = file(&bytes);
        let list = buffers(&[(0x1ffe, 4), (0x8000, 0), (0x5001, 4095), (0x9000, 3000)]);
        assert_eq!(memory.read_from_file(&list, &source, 7).unwrap(), 7099);
        let mut got = vec![0; 3000];
        memory.read(Gpa(0x9000), &mut got).unwrap();
        assert_eq!(got, bytes[7 + 4 + 4095..7 + 7099]);
        let mut target = file(&[]);
        memory.write_to_file(&list, &target, 0).unwrap();
        let mut got = Vec::new();
        target.rewind().unwrap();
        target.read_to_end(&mut got).unwrap();
        assert_eq!(got, bytes[7..7 + 7099]);
    }

    #[test]
    fn more_buffers_than_one_call_takes_are_all_moved() {
        let memory = GuestMemory::flat(0x10_0000).unwrap();
        let bytes: Vec<u8> = (0..6000_u32).map(|n| (n / 3) as u8).collect();
        let list: Vec<Buffer> = (0..2000)
            .map(|n| Buffer {
                gpa: Gpa(n * 64),
                len_bytes: 3,
            })
            .collect();
        assert_eq!(
            memory.read_from_file(&list, &file(&bytes), 0).unwrap(),
            6000
        );
        let mut last = [0; 3];
        memory.read(Gpa(1999 * 64), &mut last).unwrap();
        assert_eq!(last, bytes[5997..]);
    }

    #[test]
    fn a_short_file_fills_what_it_can() {
        let memory = GuestMemory::flat(0x10_0000).unwrap();
        let list = buffers(&[(0, 300), (0x1000, 300)]);
        assert_eq!(
            memory.read_from_file(&list, &file(&[5; 400]), 0).unwrap(),
            400
        );
        assert_eq!(
            memory.read_from_file(&list, &file(&[5; 400]), 400).unwrap(),
            0
        );
    }

    #[test]
    fn a_buffer_outside_memory_moves_nothing() {
        let memory = GuestMemory::flat(0x4000).unwrap();
        let check = |gpa, len| {
            let list = buffers(&[(0x1000, 16), (gpa, len)]);
            let error = memory
                .read_from_file(&list, &file(&[9; 64]), 0)
                .unwrap_err();
            assert!(matches!(error, TransferError::Memory(_)), "{gpa:#x}");
            assert_eq!(memory.read_value(Gpa(0x1000), 8).unwrap(), 0);
        };
        check(0x4000, 1);
        check(0x3fff, 2);
        check(u64::MAX, 1);
        check(0x1000, u64::MAX);
    }

    #[test]
    fn a_disk_read_into_code_drops_its_translations() {
        let memory = GuestMemory::flat(0x4000).unwrap();
        memory.notes().add_code(Gfn(2));
        let watcher = Arc::new(Watcher::default());
        memory.notes().watch_code(Arc::downgrade(
            &(Arc::clone(&watcher) as Arc<dyn CodeWatch>),
        ));
        memory
            .read_from_file(&buffers(&[(0x1ff0, 32)]), &file(&[9; 64]), 0)
            .unwrap();
        assert_eq!(*watcher.0.lock().unwrap(), [Gfn(2)]);
    }

    /// As for a user who is given no faults of the kernel's: every page is away, at first and again and again.
    #[test]
    fn a_file_is_read_and_written_where_the_kernel_cannot_wait_for_pages() {
        let Ok(faults) = crate::Faults::of_user_mode() else {
            return eprintln!("SKIPPED: this host hands over no faults");
        };
        let memory = Arc::new(GuestMemory::flat(0x10_0000).unwrap());
        let paged = PagedMemory::new(Arc::clone(&memory), Arc::new(faults)).unwrap();
        paged.handle_missing(true).unwrap();
        let is_over = AtomicBool::new(false);
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        let list = buffers(&[
            (0x1ffe, 4),
            (0x8000, 0),
            (0x5001, 4095),
            (0x9000, 100_000),
            (0x8_0ff0, 65_600),
        ]);
        let all: u64 = list.iter().map(|buffer| buffer.len_bytes).sum();
        let filled = std::thread::scope(|scope| {
            let pager = scope.spawn(|| {
                let mut filled = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let mut waiting = Vec::new();
                    paged.take_faults(&mut waiting).unwrap();
                    for fault in &waiting {
                        let came = paged.fill_with_zeros(fault.offset / PAGE_SIZE);
                        filled += u64::from(came.is_ok());
                    }
                    std::thread::yield_now();
                }
                filled
            });
            for _ in 0..20 {
                let moved = memory.read_from_file(&list, &file(&bytes), 7).unwrap();
                assert_eq!(moved, all);
                let mut target = file(&[]);
                memory.write_to_file(&list, &target, 0).unwrap();
                let mut got = Vec::new();
                target.rewind().unwrap();
                target.read_to_end(&mut got).unwrap();
                assert!(got == bytes[7..7 + all as usize]);
                paged.punch(0, 0x100).unwrap();
            }
            is_over.store(true, Ordering::Relaxed);
            pager.join().unwrap()
        });
        assert!(filled >= 20 * 40, "{filled}");
    }

    #[test]
    fn a_file_that_takes_nothing_is_an_error() {
        let memory = GuestMemory::flat(0x4000).unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let error = memory
            .write_to_file(&buffers(&[(0, 16)]), &full, 0)
            .unwrap_err();
        assert!(matches!(error, TransferError::File(_)));
    }
}
