//! The guest memory of one VM and its accesses.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use host::lock::Lock;
use host::mapping::{Mapping, MemFd, Protection};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestRegionMmap};
use x86::{Gpa, PAGE_SIZE};

use crate::error::MemoryError;
use crate::file::MemoryFile;
use crate::keeper::PageKeeper;
use crate::notes::{PageNotes, SlotNotes};
use crate::slots::Slots;

/// The shape in which rust-vmm's loaders and virtqueues see guest memory.
pub type VmMemory = vm_memory::GuestRegionCollection<vm_memory::GuestRegionMmap<SlotNotes>>;

/// Host virtual address of a byte of guest memory: a number for generated code and for KVM, not a pointer to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hva(pub u64);

/// The guest memory of one VM. Cheap to share behind an `Arc`.
pub struct GuestMemory {
    file: Arc<MemoryFile>,
    mapping: Mapping,
    slots: Slots,
    notes: Arc<PageNotes>,
    vm_memory: VmMemory,
    /// What [`GuestMemory::discard`] gave back so far of what the host held.
    given_back_bytes: AtomicU64,
    /// Who puts pages away, if somebody does.
    keeper: Lock<Option<Weak<dyn PageKeeper>>>,
    /// Whether the kernel fails where it would have to wait for a page, as it does where only faults of user mode are
    /// answered.
    kernel_cannot_wait: AtomicBool,
}

impl std::fmt::Debug for GuestMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestMemory")
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

impl GuestMemory {
    /// Memory for these slots, all zeros, costing nothing until touched.
    ///
    /// # Errors
    /// [`MemoryError::Map`] if the host gives no address space.
    pub fn new(slots: Slots) -> Result<GuestMemory, MemoryError> {
        let file = Arc::new(MemoryFile::new(&slots)?);
        GuestMemory::of_file(slots, file)
    }

    /// Memory for these slots in a file that is there; whatever is in it is gone, and reads as zeros.
    ///
    /// # Errors
    /// [`MemoryError::Map`] if the host gives no address space, or the file was made for other slots.
    pub fn of_file(slots: Slots, file: Arc<MemoryFile>) -> Result<GuestMemory, MemoryError> {
        let len_bytes = file.len_bytes;
        file.fd
            .punch_hole(0, len_bytes)
            .map_err(|source| MemoryError::Map { len_bytes, source })?;
        GuestMemory::as_it_is(slots, file)
    }

    /// The same with all that is in the file: another process has had it until now.
    ///
    /// # Errors
    /// As [`GuestMemory::of_file`].
    pub fn as_it_is(slots: Slots, file: Arc<MemoryFile>) -> Result<GuestMemory, MemoryError> {
        let len_bytes = slots.len_bytes();
        let map_error = |source| MemoryError::Map { len_bytes, source };
        if len_bytes != file.len_bytes {
            return Err(map_error(io::ErrorKind::InvalidInput.into()));
        }
        let mapping =
            Mapping::new(&file.fd, len_bytes as usize, Protection::ReadWrite).map_err(map_error)?;
        if !file.is_in_huge_pages {
            // Part of a huge page cannot always be taken back, and the pager would believe that it was.
            mapping.keep_pages_small();
        }
        let page = |bytes| (bytes / PAGE_SIZE) as usize;
        let notes = slots
            .0
            .iter()
            .map(|slot| (slot.gpa.gfn(), page(slot.file_offset), page(slot.len_bytes)));
        let notes = Arc::new(PageNotes::new(notes.collect()));
        let mut regions = Vec::new();
        for slot in &slots.0 {
            let at = (mapping.address() as u64 + slot.file_offset) as *mut u8;
            let builder = MmapRegionBuilder::new_with_bitmap(
                slot.len_bytes as usize,
                SlotNotes::new(Arc::clone(&notes), slot.gpa.0),
            );
            // SAFETY: the range lies inside `mapping`, which is writable and lives as long as this struct;
            // vm-memory only accesses it with volatile or atomic operations and does not unmap it.
            let builder = unsafe { builder.with_raw_mmap_pointer(at) };
            let region = builder
                .with_mmap_prot(3)
                .with_mmap_flags(1)
                .build()
                .ok()
                .and_then(|region| GuestRegionMmap::new(region, GuestAddress(slot.gpa.0)))
                .ok_or(MemoryError::Describe { gpa: slot.gpa })?;
            regions.push(region);
        }
        let vm_memory =
            VmMemory::from_regions(regions).map_err(|_| MemoryError::Describe { gpa: Gpa(0) })?;
        let given_back_bytes = AtomicU64::new(0);
        let keeper = Lock::new(None);
        Ok(GuestMemory {
            file,
            mapping,
            slots,
            notes,
            vm_memory,
            given_back_bytes,
            keeper,
            kernel_cannot_wait: AtomicBool::new(false),
        })
    }

    /// One slot from address 0: what tests and tiny guests need.
    ///
    /// # Errors
    /// As [`GuestMemory::new`].
    pub fn flat(len_bytes: u64) -> Result<GuestMemory, MemoryError> {
        let mut slots = Slots::default();
        slots.push(Gpa(0), len_bytes);
        GuestMemory::new(slots)
    }

    /// The memslots.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Notes about pages.
    pub fn notes(&self) -> &PageNotes {
        &self.notes
    }

    /// The memory file: slots lie in it back to back.
    pub fn file(&self) -> &std::fs::File {
        self.file.fd.file()
    }

    /// The same file, which who has this descriptor can only read; `None` if it was not made
    /// [with it](MemoryFile::with_view).
    pub fn view(&self) -> Option<&std::fs::File> {
        self.file.view.as_ref()
    }

    pub(crate) fn memfd(&self) -> &MemFd {
        &self.file.fd
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Whether the host may back it with huge pages.
    pub fn is_in_huge_pages(&self) -> bool {
        self.file.is_in_huge_pages
    }

    pub(crate) fn kernel_cannot_wait(&self) -> bool {
        self.kernel_cannot_wait.load(Ordering::Acquire)
    }

    pub(crate) fn set_kernel_cannot_wait(&self, it_cannot: bool) {
        self.kernel_cannot_wait.store(it_cannot, Ordering::Release);
    }

    pub(crate) fn set_keeper(&self, keeper: Weak<dyn PageKeeper>) {
        *self.keeper.lock() = Some(keeper);
    }

    /// The view for rust-vmm's loaders and virtqueues.
    pub fn vm_memory(&self) -> &VmMemory {
        &self.vm_memory
    }

    /// Gives the whole pages inside a range back to the host: they read as zeros from now on and cost nothing until
    /// they are touched again. Addresses of the host stay valid, so TLBs that hold them do too; translations of code in the
    /// range are dropped as for any write of a device. Returns how many bytes were given back.
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`] unless the range lies in one slot; [`MemoryError::Discard`] if the host refuses.
    pub fn discard(&self, gpa: Gpa, len_bytes: u64) -> Result<u64, MemoryError> {
        self.range(gpa, len_bytes)?;
        let start = gpa.0.next_multiple_of(PAGE_SIZE);
        let end = (gpa.0 + len_bytes) / PAGE_SIZE * PAGE_SIZE;
        if start >= end {
            return Ok(0);
        }
        let slot = self
            .slots
            .0
            .iter()
            .find(|slot| gpa >= slot.gpa && gpa < slot.end());
        let slot = slot.ok_or(MemoryError::NotMemory { gpa, len_bytes })?;
        let offset = slot.file_offset + (start - slot.gpa.0);
        let refused = |source| MemoryError::Discard {
            gpa: Gpa(start),
            source,
        };
        let keeper = self.keeper.lock().clone();
        let mut punch = || {
            let fd = self.memfd();
            let held_bytes = fd.held_bytes(offset, end - start)?;
            fd.punch_hole(offset, end - start)?;
            // A huge page that the kernel cannot split stays, with zeros.
            let kept_bytes = if self.is_in_huge_pages() {
                fd.held_bytes(offset, end - start)?
            } else {
                0
            };
            Ok(held_bytes.saturating_sub(kept_bytes))
        };
        let given_back = match keeper.and_then(|keeper| keeper.upgrade()) {
            Some(keeper) => {
                keeper.forget(offset / PAGE_SIZE, (end - start) / PAGE_SIZE, &mut punch)
            }
            None => punch(),
        };
        self.given_back_bytes
            .fetch_add(given_back.map_err(refused)?, Ordering::Relaxed);
        for gfn in start / PAGE_SIZE..end / PAGE_SIZE {
            self.notes.wrote(x86::Gfn(gfn));
        }
        Ok(end - start)
    }

    /// Bytes of guest memory that the host holds now, by the memory file's own account.
    ///
    /// # Errors
    /// What `fstat` says.
    pub fn resident_bytes(&self) -> io::Result<u64> {
        Ok(self.file().metadata()?.blocks() * 512)
    }

    /// Bytes that the host held and got back so far, through [`GuestMemory::discard`]; pages that were never touched do
    /// not count.
    pub fn given_back_bytes(&self) -> u64 {
        self.given_back_bytes.load(Ordering::Relaxed)
    }

    /// Host address of `gpa` and how many bytes follow it in its slot; `None` where there is no memory.
    pub fn hva(&self, gpa: Gpa) -> Option<(Hva, u64)> {
        let slot = self
            .slots
            .0
            .iter()
            .find(|slot| gpa >= slot.gpa && gpa < slot.end())?;
        let offset = gpa.0 - slot.gpa.0;
        let hva = self.mapping.address() as u64 + slot.file_offset + offset;
        Some((Hva(hva), slot.len_bytes - offset))
    }

    /// Guest address of a host address inside guest memory, the reverse of [`GuestMemory::hva`].
    pub fn gpa(&self, hva: Hva) -> Option<Gpa> {
        let offset = hva.0.checked_sub(self.mapping.address() as u64)?;
        let slot = self.slots.0.iter().find(|slot| {
            offset >= slot.file_offset && offset < slot.file_offset + slot.len_bytes
        })?;
        Some(Gpa(slot.gpa.0 + (offset - slot.file_offset)))
    }

    fn range(&self, gpa: Gpa, len_bytes: u64) -> Result<*mut u8, MemoryError> {
        match self.hva(gpa) {
            Some((hva, left)) if len_bytes <= left => Ok(hva.0 as *mut u8),
            _ => Err(MemoryError::NotMemory { gpa, len_bytes }),
        }
    }

    /// Copies out. The range must lie in one slot. What is 2, 4 or 8 bytes long is copied by one instruction, so a
    /// racing store of that size is seen as a whole or not at all where the silicon promises that; longer copies can
    /// be torn.
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`]; nothing is copied then.
    pub fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let from = self.range(gpa, bytes.len() as u64)?;
        // SAFETY: `range` checked that the source lies in the mapping that `self` owns; the destination is a
        // Rust slice outside guest memory.
        unsafe { copy_whole(from.cast_const(), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies in and notes the pages as written. The range must lie in one slot.
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`]; nothing is written then.
    pub fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), MemoryError> {
        self.write_by_vcpu(gpa, bytes)?;
        let last = gpa.0 + (bytes.len() as u64).saturating_sub(1);
        for gfn in gpa.gfn().0..=last / PAGE_SIZE {
            self.notes.wrote(x86::Gfn(gfn));
        }
        Ok(())
    }

    /// Copies in for a vCPU, which does its own care of translated code. Small copies as in [`GuestMemory::read`].
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`]; nothing is written then.
    pub fn write_by_vcpu(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), MemoryError> {
        let to = self.range(gpa, bytes.len() as u64)?;
        // SAFETY: `range` checked that the destination lies in the mapping that `self` owns, which is writable;
        // the source is a Rust slice outside guest memory.
        unsafe { copy_whole(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    /// Copies inside guest memory for a vCPU, as if through a buffer: the ranges may overlap.
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`] if either range is not memory.
    pub fn copy_by_vcpu(&self, from: Gpa, to: Gpa, len_bytes: u64) -> Result<(), MemoryError> {
        let source = self.range(from, len_bytes)?;
        let target = self.range(to, len_bytes)?;
        // SAFETY: both ranges were checked and lie in the mapping that `self` owns; `copy` allows overlap.
        unsafe { std::ptr::copy(source.cast_const(), target, len_bytes as usize) };
        Ok(())
    }

    /// Fills with one byte for a vCPU.
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`].
    pub fn fill_by_vcpu(&self, gpa: Gpa, byte: u8, len_bytes: u64) -> Result<(), MemoryError> {
        let to = self.range(gpa, len_bytes)?;
        // SAFETY: the range was checked and lies in the mapping that `self` owns.
        unsafe { std::ptr::write_bytes(to, byte, len_bytes as usize) };
        Ok(())
    }

    /// Reads a little-endian value of 1, 2, 4 or 8 bytes, in one access if it is naturally aligned.
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`].
    pub fn read_value(&self, gpa: Gpa, size: u8) -> Result<u64, MemoryError> {
        let from = self.range(gpa, u64::from(size))?;
        if size == 8 && gpa.0.is_multiple_of(8) {
            // SAFETY: in range (checked), aligned, and only ever accessed atomically or volatile.
            let value = unsafe { AtomicU64::from_ptr(from.cast()) };
            return Ok(value.load(Ordering::Relaxed));
        }
        if size == 4 && gpa.0.is_multiple_of(4) {
            // SAFETY: in range (checked), aligned, and only ever accessed atomically or volatile.
            let value = unsafe { AtomicU32::from_ptr(from.cast()) };
            return Ok(u64::from(value.load(Ordering::Relaxed)));
        }
        let mut bytes = [0; 8];
        self.read(gpa, &mut bytes[..usize::from(size)])?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Replaces an aligned value of 1, 2, 4 or 8 bytes if it still is `old`, as a locked instruction does, and a page
    /// walk that sets accessed and dirty bits. Returns whether it did.
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`], also for an address that is not aligned.
    pub fn compare_exchange(
        &self,
        gpa: Gpa,
        size: u8,
        old: u64,
        new: u64,
    ) -> Result<bool, MemoryError> {
        let at = self.range(gpa, u64::from(size))?;
        if !gpa.0.is_multiple_of(u64::from(size)) {
            return Err(MemoryError::NotMemory {
                gpa,
                len_bytes: u64::from(size),
            });
        }
        macro_rules! exchange {
            ($atomic:ty, $value:ty) => {{
                // SAFETY: in range (checked), aligned, and only ever accessed atomically or volatile.
                let value = unsafe { <$atomic>::from_ptr(at.cast()) };
                let old = old as $value;
                let new = new as $value;
                Ok(value.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok())
            }};
        }
        match size {
            1 => exchange!(AtomicU8, u8),
            2 => exchange!(AtomicU16, u16),
            4 => exchange!(AtomicU32, u32),
            _ => exchange!(AtomicU64, u64),
        }
    }
}

/// A value that lies anywhere.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Unaligned<T>(T);

/// Copies between guest memory and Rust; 1, 2, 4 and 8 bytes by one load and one store each.
///
/// # Safety
/// Both ranges must be valid for `len` bytes and must not overlap.
unsafe fn copy_whole(from: *const u8, to: *mut u8, len: usize) {
    macro_rules! copy {
        ($value:ty) => {{
            // SAFETY: the caller vouches for the source; the type needs no alignment.
            let value = unsafe { from.cast::<Unaligned<$value>>().read_volatile() };
            // SAFETY: the caller vouches for the destination; the type needs no alignment.
            unsafe { to.cast::<Unaligned<$value>>().write_volatile(value) };
        }};
    }
    match len {
        1 => copy!(u8),
        2 => copy!(u16),
        4 => copy!(u32),
        8 => copy!(u64),
        // SAFETY: the caller vouches for both ranges.
        _ => unsafe { std::ptr::copy_nonoverlapping(from, to, len) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_slots() -> GuestMemory {
        let mut slots = Slots::default();
        slots.push(Gpa(0), 0x4000);
        slots.push(Gpa(0x10_0000), 0x2000);
        GuestMemory::new(slots).unwrap()
    }

    #[test]
    fn a_file_serves_one_memory_after_the_other_and_starts_empty() {
        let mut slots = Slots::default();
        slots.push(Gpa(0), 0x4000);
        let file = Arc::new(MemoryFile::new(&slots).unwrap().with_view());
        for _ in 0..2 {
            let memory = GuestMemory::of_file(slots.clone(), Arc::clone(&file)).unwrap();
            assert_eq!(memory.read_value(Gpa(0x2000), 8).unwrap(), 0);
            memory.write(Gpa(0x2000), &[7; 8]).unwrap();
            let mut seen = [0; 8];
            let view = memory.view().unwrap();
            std::os::unix::fs::FileExt::read_exact_at(view, &mut seen, 0x2000).unwrap();
            assert_eq!(seen, [7; 8]);
            assert!(std::os::unix::fs::FileExt::write_at(view, &[1], 0).is_err());
            assert!(view.set_len(0).is_err());
        }
        let other = two_slots().slots().clone();
        assert!(GuestMemory::of_file(other, file).is_err());
    }

    #[test]
    fn only_memslots_can_be_accessed() {
        let memory = two_slots();
        let check = |gpa, len: usize, ok| {
            assert_eq!(
                memory.write(Gpa(gpa), &vec![1; len]).is_ok(),
                ok,
                "write {gpa:#x}+{len:#x}"
            );
            assert_eq!(
                memory.read(Gpa(gpa), &mut vec![0; len]).is_ok(),
                ok,
                "read {gpa:#x}+{len:#x}"
            );
        };
        check(0, 0x4000, true);
        check(0x3fff, 1, true);
        check(0x3fff, 2, false);
        check(0x4000, 1, false);
        check(0x10_1ffc, 4, true);
        check(u64::MAX, 8, false);
    }

    /// Remembers the pages it hears of.
    #[derive(Default)]
    struct Watcher(Lock<Vec<x86::Gfn>>);

    impl crate::CodeWatch for Watcher {
        fn code_written(&self, gfn: x86::Gfn) {
            self.0.lock().push(gfn);
        }
    }

    #[test]
    fn a_device_write_to_a_code_page_is_told_before_it_returns() {
        use vm_memory::Bytes;
        let memory = two_slots();
        let watcher = Arc::new(Watcher::default());
        memory.notes().watch_code(Arc::downgrade(
            &(Arc::clone(&watcher) as Arc<dyn crate::CodeWatch>),
        ));
        memory.notes().add_code(Gpa(0x10_1000).gfn());
        memory.write(Gpa(0x10_0ffe), &[1, 2, 3, 4]).unwrap();
        assert_eq!(*watcher.0.lock(), [Gpa(0x10_1000).gfn()]);
        memory
            .vm_memory()
            .write_obj(0x1234_5678_u32, GuestAddress(0x10_1010))
            .unwrap();
        assert_eq!(memory.read_value(Gpa(0x10_1010), 4).unwrap(), 0x1234_5678);
        assert_eq!(watcher.0.lock().len(), 2);
    }

    #[test]
    fn a_value_is_exchanged_only_where_it_is_what_it_was() {
        let memory = two_slots();
        for size in [1, 2, 4, 8] {
            let all = u64::MAX >> (64 - 8 * u32::from(size));
            memory.write(Gpa(0x40), &[0xff; 16]).unwrap();
            assert!(!memory.compare_exchange(Gpa(0x48), size, 1, 2).unwrap());
            assert!(memory.compare_exchange(Gpa(0x48), size, all, 3).unwrap());
            assert_eq!(
                memory.read_value(Gpa(0x48), size).unwrap(),
                3,
                "{size} bytes"
            );
            assert_eq!(memory.read_value(Gpa(0x40), 8).unwrap(), u64::MAX);
        }
        assert!(
            memory.compare_exchange(Gpa(0x49), 2, 0, 0).is_err(),
            "not aligned"
        );
    }

    /// Values of two kinds are stored from one side and loaded from the other: never a mixture.
    #[test]
    fn small_accesses_never_tear() {
        let memory = Arc::new(two_slots());
        let a = u64::from_le_bytes([0x11; 8]);
        let b = u64::from_le_bytes([0xee; 8]);
        // Aligned ones of every size, and what lies inside a cache line.
        for (gpa, len) in [
            (0x100, 8),
            (0x104, 4),
            (0x10a, 2),
            (0x101, 8),
            (0x109, 4),
            (0x131, 2),
        ] {
            memory.write(Gpa(gpa), &a.to_le_bytes()[..len]).unwrap();
            let stop = std::sync::atomic::AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for _ in 0..50_000 {
                        memory
                            .write_by_vcpu(Gpa(gpa), &a.to_le_bytes()[..len])
                            .unwrap();
                        memory
                            .write_by_vcpu(Gpa(gpa), &b.to_le_bytes()[..len])
                            .unwrap();
                    }
                    stop.store(true, Ordering::Relaxed);
                });
                while !stop.load(Ordering::Relaxed) {
                    let mut bytes = [0; 8];
                    memory.read(Gpa(gpa), &mut bytes[..len]).unwrap();
                    assert!(
                        bytes[..len].iter().all(|&byte| byte == bytes[0]),
                        "{gpa:#x}+{len}: {bytes:x?}"
                    );
                }
            });
        }
    }

    #[test]
    fn discarded_pages_cost_nothing_and_read_as_zeros() {
        let memory = two_slots();
        let check = |gpa, len_bytes, given: Option<u64>, left| {
            memory.write(Gpa(0), &[7; 0x4000]).unwrap();
            assert_eq!(
                memory.discard(Gpa(gpa), len_bytes).ok(),
                given,
                "{gpa:#x}+{len_bytes:#x}"
            );
            assert_eq!(
                memory.resident_bytes().unwrap(),
                left,
                "{gpa:#x}+{len_bytes:#x}"
            );
        };
        check(0x1000, 0x2000, Some(0x2000), 0x2000);
        assert_eq!(memory.read_value(Gpa(0xfff), 1).unwrap(), 7);
        assert_eq!(memory.read_value(Gpa(0x1000), 8).unwrap(), 0);
        check(0x1001, 0x1fff, Some(0x1000), 0x3000);
        check(0x1001, 0x100, Some(0), 0x4000);
        check(0x3000, 0x2000, None, 0x4000);
        check(u64::MAX, 0x2000, None, 0x4000);
        let watcher = Arc::new(Watcher::default());
        memory.notes().watch_code(Arc::downgrade(
            &(Arc::clone(&watcher) as Arc<dyn crate::CodeWatch>),
        ));
        memory.write(Gpa(0), &[7; 0x4000]).unwrap();
        memory.notes().add_code(Gpa(0x2000).gfn());
        assert_eq!(memory.discard(Gpa(0x1000), 0x3000).unwrap(), 0x3000);
        assert_eq!(
            *watcher.0.lock(),
            [Gpa(0x2000).gfn()],
            "translations of discarded code are dropped"
        );
    }

    #[test]
    fn only_what_was_held_is_given_back() {
        let memory = two_slots();
        memory.write(Gpa(0), &[7; 0x4000]).unwrap();
        for expected in [0x3000, 0x3000, 0x3000] {
            memory.discard(Gpa(0x1000), 0x3000).unwrap();
            assert_eq!(memory.given_back_bytes(), expected);
        }
        memory.write(Gpa(0x2000), &[7]).unwrap();
        memory.discard(Gpa(0x1000), 0x3000).unwrap();
        assert_eq!(memory.given_back_bytes(), 0x4000);
    }

    #[test]
    fn untouched_memory_costs_nothing() {
        let memory = GuestMemory::flat(1 << 34).unwrap();
        assert_eq!(memory.resident_bytes().unwrap(), 0);
        memory.write(Gpa(1 << 33), &[1]).unwrap();
        assert_eq!(memory.resident_bytes().unwrap(), PAGE_SIZE);
    }
}
