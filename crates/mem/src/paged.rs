//! Guest memory by page of the memory file, for who puts pages away and brings them back.
//!
//! Positions here are page indexes in the memory file (`page`), not guest frames: what is put away is the file's page,
//! wherever the guest sees it. Reads go through the file, so that they neither fault nor bring a page in.

use host::at::FileAt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Weak};

use host::mapping::{Mapping, MemFd, Protection};
use host::userfault::{Fault, OpenError, UserFault};
use x86::PAGE_SIZE;

use crate::GuestMemory;
use crate::keeper::{PageBytes, PageKeeper};

/// Guest memory whose faults are handled in this process, until it is dropped.
#[derive(Debug)]
pub struct PagedMemory {
    memory: Arc<GuestMemory>,
    faults: Arc<Faults>,
}

/// What it takes to handle faults in an address space, opened once for all memory that is ever mapped there.
#[derive(Debug)]
pub struct Faults {
    fault: UserFault,
    /// `/proc/self/pagemap`: 8 bytes for each page of our address space.
    pagemap: File,
}

impl Faults {
    /// Opens it for this process's address space; `device` is `/dev/userfaultfd`, for who was given it.
    ///
    /// # Errors
    /// [`OpenError`] if this host does not allow it.
    pub fn open(device: Option<&File>) -> Result<Faults, OpenError> {
        Faults::with(UserFault::open(device)?)
    }

    /// The same where the [kernel cannot wait](UserFault::of_user_mode), which needs no privilege.
    ///
    /// # Errors
    /// [`OpenError`] if this host does not allow it.
    pub fn of_user_mode() -> Result<Faults, OpenError> {
        Faults::with(UserFault::of_user_mode()?)
    }

    /// Whether the kernel can wait for a page too. It has to for guests on KVM, whose memory it reaches itself.
    pub fn sees_kernel(&self) -> bool {
        self.fault.sees_kernel()
    }

    fn with(fault: UserFault) -> Result<Faults, OpenError> {
        let pagemap = File::open("/proc/self/pagemap").map_err(OpenError::Unsupported)?;
        Ok(Faults { fault, pagemap })
    }
}

/// Bit of a pagemap entry: the page is in our page tables.
const PAGEMAP_PRESENT: u64 = 1 << 63;

impl PagedMemory {
    /// Handles faults of `memory`, at first only of writes to protected pages.
    ///
    /// # Errors
    /// [`OpenError`] if this host does not allow it.
    pub fn new(memory: Arc<GuestMemory>, faults: Arc<Faults>) -> Result<PagedMemory, OpenError> {
        let paged = PagedMemory { memory, faults };
        paged.take_hold().map_err(OpenError::Unsupported)?;
        Ok(paged)
    }

    /// Handles them again after [`PagedMemory::let_go`].
    ///
    /// # Errors
    /// What the kernel says.
    pub fn take_hold(&self) -> io::Result<()> {
        // First, so that no transfer meets a fault unprepared.
        self.memory
            .set_kernel_cannot_wait(!self.faults.fault.sees_kernel());
        self.handle_missing(false)
    }

    /// The memory.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Whether the kernel can wait for a page too.
    pub fn sees_kernel(&self) -> bool {
        self.faults.sees_kernel()
    }

    /// Pages of the memory file.
    pub fn page_count(&self) -> u64 {
        self.memory.slots().len_bytes() / PAGE_SIZE
    }

    /// Becomes readable when a fault waits.
    pub fn waits(&self) -> BorrowedFd<'_> {
        self.faults.fault.as_fd()
    }

    /// Whether faults of missing pages are handled too. Without, the kernel fills holes with zeros as always.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn handle_missing(&self, missing: bool) -> io::Result<()> {
        self.faults.fault.register(self.memory.mapping(), missing)
    }

    /// Handles no faults any more.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn let_go(&self) -> io::Result<()> {
        self.faults.fault.unregister(self.memory.mapping())?;
        self.memory.set_kernel_cannot_wait(false);
        Ok(())
    }

    /// Adds the faults that wait to `faults`; offsets are in the memory file.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn take_faults(&self, faults: &mut Vec<Fault>) -> io::Result<()> {
        self.faults.fault.take_faults(self.memory.mapping(), faults)
    }

    /// Puts a missing page in its place; who waits for it goes on. Protected, the next write to it is a fault.
    ///
    /// # Errors
    /// `EEXIST` if it is there, otherwise what the kernel says.
    pub fn fill(&self, page: u64, bytes: &PageBytes, protected: bool) -> io::Result<()> {
        self.faults
            .fault
            .copy_page(self.memory.mapping(), page * PAGE_SIZE, bytes, protected)
    }

    /// The same with zeros, not protected.
    ///
    /// # Errors
    /// As [`PagedMemory::fill`].
    pub fn fill_with_zeros(&self, page: u64) -> io::Result<()> {
        self.faults
            .fault
            .zero_page(self.memory.mapping(), page * PAGE_SIZE)
    }

    /// Protects pages against writing, or no more, which has waiting writers go on.
    ///
    /// # Errors
    /// What the kernel says; a part may be done.
    pub fn protect(&self, first: u64, count: u64, protected: bool) -> io::Result<()> {
        self.faults.fault.protect(
            self.memory.mapping(),
            first * PAGE_SIZE,
            count * PAGE_SIZE,
            protected,
        )
    }

    /// Has who waits for these pages try again.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wake(&self, first: u64, count: u64) -> io::Result<()> {
        self.faults
            .fault
            .wake(self.memory.mapping(), first * PAGE_SIZE, count * PAGE_SIZE)
    }

    /// Reads a page through the file. A hole reads as zeros and stays a hole.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read(&self, page: u64, bytes: &mut PageBytes) -> io::Result<()> {
        self.memory.file().read_exact_at(bytes, page * PAGE_SIZE)
    }

    /// Gives pages back to the host: they are holes from now on.
    ///
    /// # Errors
    /// What the kernel says; a part may be done.
    pub fn punch(&self, first: u64, count: u64) -> io::Result<()> {
        self.memory
            .memfd()
            .punch_hole(first * PAGE_SIZE, count * PAGE_SIZE)
    }

    /// Whether the host may back it with huge pages; [`PagedMemory::watch_use`] has it split those that it meets.
    pub fn is_in_huge_pages(&self) -> bool {
        self.memory.is_in_huge_pages()
    }

    /// Takes pages out of our page tables, so that the next access to them shows in [`PagedMemory::used`].
    ///
    /// # Errors
    /// What the kernel says.
    pub fn watch_use(&self, first: u64, count: u64) -> io::Result<()> {
        if self.is_in_huge_pages() {
            self.memory
                .mapping()
                .split_huge_pages(first * PAGE_SIZE, count * PAGE_SIZE)?;
        }
        self.memory
            .mapping()
            .unmap_until_used(first * PAGE_SIZE, count * PAGE_SIZE)
    }

    /// For each page whether it is in our page tables: it was accessed since it was last taken out of them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn used(&self, first: u64, used: &mut [bool]) -> io::Result<()> {
        let at = self.memory.mapping().address() as u64 / PAGE_SIZE + first;
        let mut bytes = vec![0; used.len() * 8];
        self.faults.pagemap.read_exact_at(&mut bytes, at * 8)?;
        for (used, entry) in used.iter_mut().zip(bytes.as_chunks().0) {
            *used = u64::from_ne_bytes(*entry) & PAGEMAP_PRESENT != 0;
        }
        Ok(())
    }

    /// Calls `each` with first page and count of every stretch of pages that the host holds, among the `count` pages from
    /// `first` on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn each_resident(
        &self,
        first: u64,
        count: u64,
        mut each: impl FnMut(u64, u64),
    ) -> io::Result<()> {
        for (start, end) in self
            .memory
            .memfd()
            .data(first * PAGE_SIZE, (first + count) * PAGE_SIZE)?
        {
            each(start / PAGE_SIZE, (end - start).div_ceil(PAGE_SIZE));
        }
        Ok(())
    }

    /// From now on `keeper` hears of pages that are given back, as long as it lives.
    pub fn keep_with(&self, keeper: Weak<dyn PageKeeper>) {
        self.memory.set_keeper(keeper);
    }
}

impl Drop for PagedMemory {
    fn drop(&mut self) {
        // Whoever still has the memory must not wait for an answer that nobody gives. A mapping that the kernel does not
        // let go of ends with the memory.
        let _ = self.let_go();
    }
}

/// A number for each page, in a memory file that other processes can be given to read.
#[derive(Debug)]
pub struct PageMap {
    fd: MemFd,
    mapping: Mapping,
    page_count: u64,
}

impl PageMap {
    /// All zeros.
    ///
    /// # Errors
    /// If the host gives no memory.
    pub fn new(page_count: u64) -> io::Result<PageMap> {
        let len_bytes = (page_count * size_of::<u32>() as u64)
            .next_multiple_of(PAGE_SIZE)
            .max(PAGE_SIZE);
        let fd = MemFd::sealable(c"mother-residency", len_bytes)?;
        let mapping = Mapping::new(&fd, len_bytes as usize, Protection::ReadWrite)?;
        // What is given away of it is for reading, and this mapping the one way to write.
        fd.seal()?;
        Ok(PageMap {
            fd,
            mapping,
            page_count,
        })
    }

    /// The file.
    pub fn file(&self) -> &File {
        self.fd.file()
    }

    /// Counts the number of a page up if it is even and `odd` is wanted, or the other way round; other processes see it
    /// before anything that this thread does later. One thread at a time counts.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn make(&self, page: u64, odd: bool) {
        assert!(
            page < self.page_count,
            "pages are counted by the same memory file"
        );
        let at = (self.mapping.address() as u64 + page * size_of::<u32>() as u64) as *mut u32;
        // SAFETY: the number lies in our mapping, aligned, and is accessed atomically only.
        let number = unsafe { std::sync::atomic::AtomicU32::from_ptr(at) };
        let now = number.load(std::sync::atomic::Ordering::SeqCst);
        if (now % 2 == 1) != odd {
            number.store(now.wrapping_add(1), std::sync::atomic::Ordering::SeqCst);
        }
    }
}
