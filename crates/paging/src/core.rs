//! The state machine of every page: where its bytes are, and what moves them.
//!
//! ```text
//!            first use, or a use of zeros
//!   Empty, Zeros ─────────────────────────> Resident <───────────────┐
//!     ^                                      │    ^                  │
//!     │ its bytes are zeros             begin│    │ written          │ used
//!     │                                      v    │ meanwhile        │
//!     └───────────────────────────────────  Leaving                  │
//!     ^                             commit   │                       │
//!     │                                      v                       │
//!     └───── given back by the guest ────── Out ─────────────────────┘
//! ```
//!
//! Only `Resident` and `Leaving` pages take memory. An `Empty` page is a hole that reads as zeros: never
//! used, or given back by the guest. `Zeros` is the same for a page that was found to be zeros when it was to leave.
//! Nothing is stored for either. A page in a `Base` (`based`) is away as one that is `Out`, and only comes.
//!
//! **Why no write is lost.** A page leaves in four steps: it is marked `Leaving`; it is protected, and when that call
//! returns no processor can write to it any more without a fault that comes to us; its bytes are read and packed; and,
//! under the lock again, if it still is `Leaving`, it is punched out of the memory file. Whoever writes between the
//! second and the last step waits in a fault, which needs the lock: either it comes first, and the page is `Resident`
//! again and what was read of it is thrown away, or the punch comes first, and the fault brings the page back. Readers
//! are not held up: until the punch they see the page, and after it a hole, which is a fault too. Devices reach guest
//! memory through the same mapping, and the kernel's own accesses on their behalf fault and wait like any other.
//!
//! **Who may be wrong.** Nobody looks at a page's bytes and believes them: what comes back has the checksum that was
//! taken before it left, or the VM is stopped. If the host refuses something, the page stays where it was: every step
//! that can fail comes before the mark that says it was done.
//!
//! Outside of this module are only threads, queues and choices: which page, and when.

mod based;
mod broken;

use std::io;
use std::sync::Arc;

use rustix::io::Errno;

pub use broken::Broken;

use crate::base::{Base, InBase};
use crate::memory::{Memory, PAGE_BYTES, PageBytes};
use crate::residency::Residency;
use crate::store::{self, EntryId, InFile, Kept, Packed, ReadError, Store, StoreTotals};
use crate::watch::Watches;

/// Where a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Page {
    /// A hole, zeros: never used, or given back.
    Empty,
    /// A hole, zeros: put away when it was found to be zeros.
    Zeros,
    /// In guest memory.
    Resident,
    /// In guest memory, protected, being put away.
    Leaving,
    /// In the store.
    Out(EntryId),
    /// In the base, never used since the guest was brought back.
    Base,
}

/// What came of a fault.
#[derive(Debug)]
pub(crate) enum Served {
    /// Who waited goes on.
    Done,
    /// It was away, and is back.
    Back,
    /// There is no room: it waits.
    NoRoom,
    /// Its bytes have to be read from the file, without the lock; then [`Core::finish`].
    Read(EntryId, InFile),
    /// Its chunk has to be read from the base, without the lock; then [`Core::arrive`].
    ReadBase(InBase),
}

/// A page that is to leave, read and packed.
pub(crate) struct Parcel {
    page: u64,
    bytes: Box<PageBytes>,
    sum: u64,
    packed: Packed,
}

/// What happened so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Pages brought back because somebody used them.
    pub page_ins: u64,
    /// Pages brought back before somebody did.
    pub prefetched: u64,
    /// Pages put away.
    pub page_outs: u64,
    /// Of those, pages of zeros.
    pub zero_page_outs: u64,
    /// Pages that were written while they were being put away, and stayed.
    pub stayed: u64,
    /// Pages made of zeros at their first use.
    pub zero_fills: u64,
    /// Pages that the guest gave back while they were away: dropped, not kept.
    pub dropped: u64,
    /// Pages that the store had no room for.
    pub refused: u64,
}

/// Why a guest gets no limit while the pager stands aside.
const ASIDE: &str =
    "its engine reaches memory from inside the kernel, whose page faults this user may not handle";

/// See the module. Everything here happens under one lock.
pub(crate) struct Core<M> {
    memory: Arc<M>,
    pages: Vec<Page>,
    pub(crate) store: Store,
    pub(crate) watches: Watches,
    residency: Residency,
    /// Pages resident or leaving.
    resident: u64,
    /// Pages in the store.
    out: u64,
    /// What the guest was brought back from, as long as pages lie there.
    base: Option<Arc<dyn Base>>,
    /// How many do.
    in_base: u64,
    /// Pages away because they were zeros.
    zeros: u64,
    /// Pages away that the host would not take: still in the memory file, protected, the same as what is stored.
    unpunched: Vec<u64>,
    /// Whether missing pages are ours to handle; without, nothing is away and `pages` knows nothing.
    is_tracking: bool,
    /// Whether no faults come to us at all, so nobody's writes are noticed and nothing can leave.
    is_aside: bool,
    /// How many pages may be resident.
    limit: Option<u64>,
    /// The same while the limit is being reached from above: it comes down with what is resident.
    ceiling: u64,
    pub(crate) counts: Counts,
}

fn refused(act: &'static str, page: u64) -> impl Fn(io::Error) -> Broken {
    move |source| Broken::Host { act, page, source }
}

/// Calls `each` with first page and count of every stretch of neighbours in `pages`, which are sorted.
pub(crate) fn each_run(pages: impl IntoIterator<Item = u64>, mut each: impl FnMut(u64, u64)) {
    let mut run: Option<(u64, u64)> = None;
    for page in pages {
        run = match run {
            Some((first, count)) if first + count == page => Some((first, count + 1)),
            Some((first, count)) => {
                each(first, count);
                Some((page, 1))
            }
            None => Some((page, 1)),
        };
    }
    if let Some((first, count)) = run {
        each(first, count);
    }
}

impl<M: Memory> Core<M> {
    pub(crate) fn new(memory: Arc<M>, store: Store) -> io::Result<Core<M>> {
        let page_count = memory.page_count();
        Ok(Core {
            residency: Residency::new(page_count)?,
            pages: vec![Page::Empty; page_count as usize],
            memory,
            store,
            watches: Watches::default(),
            resident: 0,
            out: 0,
            base: None,
            in_base: 0,
            zeros: 0,
            unpunched: Vec::new(),
            is_tracking: false,
            is_aside: false,
            limit: None,
            ceiling: u64::MAX,
            counts: Counts::default(),
        })
    }

    pub(crate) fn page(&self, page: u64) -> Page {
        self.pages[page as usize]
    }

    pub(crate) fn page_count(&self) -> u64 {
        self.pages.len() as u64
    }

    pub(crate) fn out(&self) -> u64 {
        self.out
    }

    /// Pages that were put away as zeros and that nobody has used since.
    pub(crate) fn zeros(&mut self) -> u64 {
        // What cannot be looked at now is counted as it was.
        let _ = self.find_used_zeros(0, self.page_count());
        self.zeros
    }

    /// Without tracking the kernel fills pages that were put away as zeros, and does not say so: finds those among these
    /// pages.
    fn find_used_zeros(&mut self, first: u64, count: u64) -> io::Result<()> {
        if self.is_tracking || self.zeros == 0 {
            return Ok(());
        }
        let pages = &mut self.pages;
        let mut used = 0;
        self.memory
            .each_resident(first, count, &mut |first, count| {
                for page in &mut pages[first as usize..(first + count) as usize] {
                    if *page == Page::Zeros {
                        *page = Page::Empty;
                        used += 1;
                    }
                }
            })?;
        self.zeros -= used;
        Ok(())
    }

    pub(crate) fn limit(&self) -> Option<u64> {
        self.limit
    }

    pub(crate) fn store_totals(&self) -> StoreTotals {
        self.store.totals()
    }

    /// The residency map's file.
    pub(crate) fn residency_file(&self) -> &std::fs::File {
        self.residency.map().file()
    }

    /// Whether a page was written since it was last asked for; from now on its next write is noticed.
    pub(crate) fn ask_written(&mut self, page: u64, watched_max: usize) -> Result<bool, Broken> {
        let is_new = !self.watches.is_watched(page);
        let is_too_many = is_new && self.watches.watched_count() >= watched_max;
        if page >= self.page_count() || is_too_many || self.is_aside {
            return Ok(true);
        }
        let written = self.watches.ask(page) != Some(false);
        if written && let Err(broken) = self.protect_if_wanted(page) {
            // Not protected, so nobody can tell.
            self.watches.written(page);
            return Err(broken);
        }
        Ok(written)
    }

    /// Ends the sample of pages whose writes are counted: how many there were and how many were written. Begins the
    /// next one.
    pub(crate) fn turn_write_sample(
        &mut self,
        pages: &[u64],
    ) -> Result<Option<(u64, u64)>, Broken> {
        if self.is_aside {
            return Ok(None);
        }
        let (old, counted) = self.watches.end_sample();
        for page in old {
            if matches!(self.page(page), Page::Resident | Page::Empty | Page::Zeros) {
                self.unprotect(page)?;
            }
        }
        self.watches.begin_sample(pages);
        pages
            .iter()
            .try_for_each(|&page| self.protect_if_wanted(page))?;
        Ok((counted.0 > 0).then_some(counted))
    }

    /// Protects a page that is to be watched, unless it is on its way: then it is already, or will be when it is back.
    fn protect_if_wanted(&self, page: u64) -> Result<(), Broken> {
        match self.page(page) {
            Page::Leaving | Page::Out(_) | Page::Base => Ok(()),
            // A hole that is ours is protected when it is filled; the kernel remembers it for those that are its own.
            Page::Empty | Page::Zeros if self.is_tracking => Ok(()),
            Page::Empty | Page::Zeros | Page::Resident => self
                .memory
                .protect(page, 1, true)
                .map_err(refused("protect", page)),
        }
    }

    /// Pages that must go before the limit, and `headroom` below it, is kept.
    pub(crate) fn excess(&self, headroom: u64) -> u64 {
        match self.limit {
            Some(limit) => self.taken().saturating_sub(limit.saturating_sub(headroom)),
            None => 0,
        }
    }

    /// How many pages more may come.
    pub(crate) fn room(&self) -> u64 {
        self.ceiling.saturating_sub(self.taken())
    }

    /// So many pages may be resident from now on. What is too much leaves by and by; meanwhile pages come only as
    /// others have gone.
    pub(crate) fn set_limit(&mut self, limit: Option<u64>) -> io::Result<()> {
        if limit.is_some() && self.is_aside {
            return Err(io::Error::other(ASIDE));
        }
        if limit.is_some() && !self.is_tracking {
            self.start_tracking()?;
        }
        self.limit = limit;
        self.ceiling = limit.map_or(u64::MAX, |limit| limit.max(self.taken()));
        Ok(())
    }

    /// Lets every page come that somebody waits for, whatever the limit: the guest is about to end.
    pub(crate) fn lift_ceiling(&mut self) {
        self.ceiling = u64::MAX;
        self.limit = None;
    }

    /// Learns what is resident. From the first call on holes are ours, so nothing changes unseen while we look.
    fn start_tracking(&mut self) -> io::Result<()> {
        self.memory.handle_missing(true)?;
        let page_count = self.page_count();
        let mut resident = Vec::new();
        let mut zeros = 0;
        self.memory
            .each_resident(0, page_count, &mut |first, count| {
                resident.extend(first..first + count)
            })?;
        for &page in &resident {
            zeros += u64::from(self.page(page) == Page::Zeros);
            self.pages[page as usize] = Page::Resident;
        }
        self.resident = resident.len() as u64;
        self.zeros -= zeros;
        self.is_tracking = true;
        Ok(())
    }

    /// Without a limit and with nothing away, the kernel fills holes by itself again.
    pub(crate) fn stop_tracking_if_idle(&mut self) -> io::Result<()> {
        let is_leaving = |page: &Page| *page == Page::Leaving;
        if self.limit.is_some()
            || !self.is_tracking
            || self.out > 0
            || self.in_base > 0
            || self.pages.iter().any(is_leaving)
        {
            return Ok(());
        }
        // The kernel fills holes from now on: it has to know which of them are watched.
        for page in self.watches.wanted() {
            if self.memory.protect(page, 1, true).is_err() {
                // Not protected, so nobody can tell.
                self.watches.written(page);
            }
        }
        self.memory.handle_missing(false)?;
        self.is_tracking = false;
        self.resident = 0;
        self.pages
            .iter_mut()
            .filter(|page| **page == Page::Resident)
            .for_each(|page| *page = Page::Empty);
        // Who waited for a hole that was ours finds that the kernel fills it now.
        self.memory.wake(0, self.page_count())
    }

    /// Handles no faults until [`Core::come_back`]: for an engine of whose accesses none would come to us. With a limit, or
    /// with pages away, this cannot be; false then.
    pub(crate) fn step_aside(&mut self) -> io::Result<bool> {
        self.stop_tracking_if_idle()?;
        if self.is_tracking {
            return Ok(false);
        }
        // Nobody can tell from now on.
        self.watches
            .wanted()
            .into_iter()
            .for_each(|page| self.watches.written(page));
        self.watches.end_sample();
        self.memory.handle_any(false)?;
        self.is_aside = true;
        Ok(true)
    }

    /// Handles faults again.
    pub(crate) fn come_back(&mut self) -> io::Result<()> {
        if self.is_aside {
            self.memory.handle_any(true)?;
            self.is_aside = false;
        }
        Ok(())
    }

    /// Somebody waits for `page`.
    pub(crate) fn fault(&mut self, page: u64, is_protected: bool) -> Result<Served, Broken> {
        match self.page(page) {
            Page::Leaving => {
                if is_protected {
                    self.watches.written(page);
                    self.unprotect(page)?;
                    self.pages[page as usize] = Page::Resident;
                    self.counts.stayed += 1;
                } else {
                    self.memory.wake(page, 1).map_err(refused("wake", page))?;
                }
                Ok(Served::Done)
            }
            Page::Out(id) => {
                if self.room() == 0 {
                    return Ok(Served::NoRoom);
                }
                match self.store.get(id) {
                    Kept::Here(Some(bytes)) => {
                        self.bring_back(page, id, &bytes)?;
                        self.counts.page_ins += 1;
                        Ok(Served::Back)
                    }
                    Kept::Here(None) => Err(Broken::Lost {
                        page,
                        source: ReadError::Checksum,
                    }),
                    Kept::InFile(in_file) => Ok(Served::Read(id, in_file)),
                }
            }
            Page::Base if self.room() == 0 => Ok(Served::NoRoom),
            Page::Base => {
                let base = self.base().expect("pages lie in it");
                Ok(Served::ReadBase(InBase::of_page(base, page)))
            }
            _ if is_protected => {
                self.watches.written(page);
                self.unprotect(page)?;
                Ok(Served::Done)
            }
            // Without tracking the kernel fills holes, but for those that were still ours a moment ago.
            Page::Empty | Page::Zeros => {
                if self.is_tracking && self.room() == 0 {
                    return Ok(Served::NoRoom);
                }
                self.make_zeros(page)?;
                Ok(Served::Done)
            }
            // Served already.
            Page::Resident => {
                self.memory.wake(page, 1).map_err(refused("wake", page))?;
                Ok(Served::Done)
            }
        }
    }

    /// The bytes of a page that is in the file were read, while anything may have happened to it.
    pub(crate) fn finish(
        &mut self,
        page: u64,
        id: EntryId,
        born: u64,
        bytes: &PageBytes,
    ) -> Result<Served, Broken> {
        if self.page(page) != Page::Out(id) || !self.store.is_still(id, born) {
            return self.fault(page, false);
        }
        if self.room() == 0 {
            return Ok(Served::NoRoom);
        }
        self.bring_back(page, id, bytes)?;
        self.counts.page_ins += 1;
        Ok(Served::Back)
    }

    /// A page could not be read from the file: whether that is because it was moved meanwhile.
    pub(crate) fn was_moved(&self, page: u64, id: EntryId, read: &InFile) -> bool {
        self.page(page) != Page::Out(id) || !self.store.is_still_at(id, read)
    }

    /// Brings a page back that nobody waits for yet, if it is at hand. Returns whether it did.
    pub(crate) fn fetch_ahead(&mut self, page: u64) -> Result<bool, Broken> {
        match self.page(page) {
            Page::Out(id) => {
                let Kept::Here(Some(bytes)) = self.store.get(id) else {
                    return Ok(false);
                };
                self.bring_back(page, id, &bytes)?;
                self.counts.prefetched += 1;
                Ok(true)
            }
            Page::Empty | Page::Zeros if self.is_tracking => {
                self.make_zeros(page)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn bring_back(&mut self, page: u64, id: EntryId, bytes: &PageBytes) -> Result<(), Broken> {
        let protected = self.watches.wants(page);
        match self.memory.fill(page, bytes, protected) {
            Ok(()) => {}
            // It is there: the host would not punch it. It is protected since before it was read, so it is the same.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::EXIST) => {
                self.unprotect(page)?
            }
            Err(error) => return Err(refused("bring back", page)(error)),
        }
        self.unpunched.retain(|&other| other != page);
        self.pages[page as usize] = Page::Resident;
        self.resident += 1;
        self.out -= 1;
        self.residency.is_in_file(page);
        self.store.release(id);
        Ok(())
    }

    fn make_zeros(&mut self, page: u64) -> Result<(), Broken> {
        let filled = if self.watches.wants(page) {
            self.memory.fill(page, &[0; PAGE_BYTES as usize], true)
        } else {
            self.memory.fill_with_zeros(page)
        };
        match filled {
            Ok(()) => self.counts.zero_fills += 1,
            // The kernel had begun to fill it when holes became ours.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::EXIST) => {
                self.memory.wake(page, 1).map_err(refused("wake", page))?;
            }
            Err(error) => return Err(refused("fill", page)(error)),
        }
        if self.is_tracking {
            self.zeros -= u64::from(self.page(page) == Page::Zeros);
            self.pages[page as usize] = Page::Resident;
            self.resident += 1;
        }
        Ok(())
    }

    fn unprotect(&self, page: u64) -> Result<(), Broken> {
        let protected = self.watches.wants(page);
        self.memory
            .protect(page, 1, protected)
            .map_err(refused("unprotect", page))?;
        // Protecting wakes nobody.
        if protected {
            self.memory.wake(page, 1).map_err(refused("wake", page))
        } else {
            Ok(())
        }
    }

    /// First step: those of `pages` that are resident begin to leave.
    pub(crate) fn begin_leaving(&mut self, pages: &mut Vec<u64>) {
        pages.sort_unstable();
        pages.dedup();
        pages.retain(|&page| self.page(page) == Page::Resident);
        for &page in &*pages {
            self.pages[page as usize] = Page::Leaving;
        }
    }

    /// Last step: those of `parcels` that nobody wrote to meanwhile are away. Others, and those for which there is no
    /// room, stay. Returns how many left.
    pub(crate) fn commit(&mut self, parcels: Vec<Parcel>) -> Result<u64, Broken> {
        let mut trouble = Ok(());
        let mut leaving = Vec::new();
        for parcel in parcels {
            if self.page(parcel.page) != Page::Leaving {
                continue;
            }
            if parcel.packed == Packed::Repeats(0) {
                leaving.push((parcel.page, Page::Zeros));
                continue;
            }
            match self.store.keep(&parcel.bytes, parcel.sum, &parcel.packed) {
                Ok(id) => leaving.push((parcel.page, Page::Out(id))),
                Err(store::Full) => {
                    self.counts.refused += 1;
                    trouble = trouble.and(self.stay(parcel.page));
                }
            }
        }
        let mut runs = Vec::new();
        each_run(leaving.iter().map(|&(page, _)| page), |first, count| {
            runs.push((first, count as usize))
        });
        let mut rest = &mut leaving[..];
        for (first, count) in runs {
            let (run, behind) = rest.split_at_mut(count);
            rest = behind;
            self.leave(first, run);
        }
        trouble.map(|()| leaving.len() as u64)
    }

    /// A run of neighbours goes: told to readers first, then punched, then ours to bring back.
    fn leave(&mut self, first: u64, run: &mut [(u64, Page)]) {
        for &mut (page, to) in &mut *run {
            if matches!(to, Page::Out(_)) {
                self.residency.leaves(page);
            }
        }
        if self.memory.punch(first, run.len() as u64).is_err() {
            // Some may be holes and others not. What is stored of them is right in both cases, because they are
            // protected; so all are away, and those that are not holes are punched again later.
            for (page, to) in &mut *run {
                self.unpunched.push(*page);
                if *to == Page::Zeros {
                    let zeros = [0; PAGE_BYTES as usize];
                    let kept =
                        self.store
                            .keep(&zeros, store::checksum(&zeros), &Packed::Repeats(0));
                    *to = Page::Out(kept.expect("pages of one word need no room"));
                    self.residency.leaves(*page);
                }
            }
        }
        for &mut (page, to) in run {
            self.pages[page as usize] = to;
            self.resident -= 1;
            self.counts.page_outs += 1;
            match to {
                Page::Out(_) => self.out += 1,
                _ => {
                    self.zeros += 1;
                    self.counts.zero_page_outs += 1;
                }
            }
        }
        if let Some(limit) = self.limit {
            self.ceiling = self.ceiling.min(self.taken().max(limit));
        }
    }

    /// Tries again to punch pages that the host would not take.
    pub(crate) fn punch_again(&mut self) {
        for page in std::mem::take(&mut self.unpunched) {
            if matches!(self.page(page), Page::Out(_)) && self.memory.punch(page, 1).is_err() {
                self.unpunched.push(page);
            }
        }
    }

    /// Pages that take memory.
    fn taken(&self) -> u64 {
        self.resident + self.unpunched.len() as u64
    }

    /// A page that was leaving does not.
    fn stay(&mut self, page: u64) -> Result<(), Broken> {
        if self.page(page) == Page::Leaving {
            self.pages[page as usize] = Page::Resident;
            self.unprotect(page)?;
        }
        Ok(())
    }

    /// None of these leaves: the second step failed.
    pub(crate) fn abandon(&mut self, pages: &[u64]) -> Result<(), Broken> {
        // Each of them, also behind one that the host refused.
        let mut trouble = Ok(());
        for &page in pages {
            trouble = trouble.and(self.stay(page));
        }
        trouble
    }

    /// The guest gave pages back: what they held does not matter any more.
    pub(crate) fn forget(
        &mut self,
        first: u64,
        count: u64,
        punch: &mut dyn FnMut() -> io::Result<u64>,
    ) -> io::Result<u64> {
        // What cannot be looked at now is counted as it was.
        let _ = self.find_used_zeros(first, count);
        let mut given_back = punch()?;
        for page in first..(first + count).min(self.page_count()) {
            self.watches.written(page);
            match self.page(page) {
                Page::Empty => continue,
                Page::Resident | Page::Leaving => self.resident -= 1,
                Page::Zeros => {
                    self.zeros -= 1;
                    given_back += PAGE_BYTES;
                }
                Page::Out(id) => {
                    self.out -= 1;
                    given_back += PAGE_BYTES;
                    self.counts.dropped += 1;
                    self.residency.is_in_file(page);
                    self.store.release(id);
                }
                Page::Base => {
                    given_back += PAGE_BYTES;
                    self.counts.dropped += 1;
                    self.residency.is_in_file(page);
                    self.leaves_base();
                }
            }
            self.pages[page as usize] = Page::Empty;
        }
        Ok(given_back)
    }

    /// The bytes of a page, wherever it is, for who only looks. `Err` has the way to those in the file.
    pub(crate) fn look(&self, page: u64) -> Result<Box<PageBytes>, Looked> {
        if let Page::Out(id) = self.page(page) {
            return match self.store.get(id) {
                Kept::Here(Some(bytes)) => Ok(bytes),
                Kept::Here(None) => Err(Looked::Broken(Broken::Lost {
                    page,
                    source: ReadError::Checksum,
                })),
                Kept::InFile(in_file) => Err(Looked::InFile(in_file)),
            };
        }
        if self.page(page) == Page::Base {
            let base = self.base().expect("pages lie in it");
            return Err(Looked::InBase(InBase::of_page(base, page)));
        }
        let mut bytes = Box::new([0; PAGE_BYTES as usize]);
        self.memory
            .read(page, &mut bytes)
            .map_err(refused("read", page))
            .map_err(Looked::Broken)?;
        Ok(bytes)
    }
}

/// Why a look at a page gave no bytes.
#[derive(Debug)]
pub(crate) enum Looked {
    /// They have to be read.
    InFile(InFile),
    /// They have to be read from the base, with their neighbours.
    InBase(InBase),
    /// They cannot be had.
    Broken(Broken),
}

/// Second and third step, without the lock: protects the pages, which are sorted, then reads and packs them.
pub(crate) fn pack_up<M: Memory>(memory: &M, pages: &[u64]) -> Result<Vec<Parcel>, Broken> {
    let mut protected = Ok(());
    each_run(pages.iter().copied(), |first, count| {
        if protected.is_ok() {
            protected = memory
                .protect(first, count, true)
                .map_err(refused("protect", first));
        }
    });
    protected?;
    let read = |&page: &u64| {
        let mut bytes = Box::new([0; PAGE_BYTES as usize]);
        memory
            .read(page, &mut bytes)
            .map_err(refused("read", page))?;
        let sum = store::checksum(&bytes);
        let packed = store::pack(&bytes);
        Ok(Parcel {
            page,
            bytes,
            sum,
            packed,
        })
    };
    pages.iter().map(read).collect()
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
