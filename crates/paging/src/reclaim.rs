//! The thread that makes room: it chooses cold pages, puts them away, and keeps the store in order.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mem::PagedMemory;

use crate::clock::Clock;
use crate::core::{Broken, Page, pack_up};
use crate::estimate::Sampler;
use crate::memory::Memory;
use crate::shared::{Shared, note_cpu, with_causes};
use crate::stall::Stall;
use crate::store::Batch;

/// How often it looks by itself.
const TICK: Duration = Duration::from_millis(250);
/// Pages that leave together.
const BATCH: usize = 32;
/// How long between two attempts while the store takes nothing.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);
/// How long between two attempts to write to a page file that failed.
const FILE_PAUSE: Duration = Duration::from_secs(1);
/// Segments of the page file that are written at a time to tidy it up.
const TIDY_BATCHES: u32 = 8;
/// Pages brought back at a time when there is no limit any more.
const BACK_BATCH: u64 = 16;

/// What the thread remembers from time to time.
struct Reclaimer<'a> {
    shared: &'a Shared<PagedMemory>,
    clock: Clock,
    sampler: Sampler,
    /// Pages that were cold when the hand passed, and were not needed then.
    cold: VecDeque<u64>,
    /// Why the page file was not written, and when.
    file_trouble: Option<(String, Instant)>,
    /// Why pages did not leave.
    trouble: Option<String>,
    stall: Stall,
    /// Where bringing back goes on.
    back_from: u64,
}

/// Makes room until told to stop.
pub(crate) fn reclaim(shared: &Shared<PagedMemory>) {
    let mut reclaimer = Reclaimer {
        shared,
        clock: Clock::new(shared.memory.page_count()),
        sampler: Sampler::new(),
        cold: VecDeque::new(),
        file_trouble: None,
        trouble: None,
        stall: Stall::new(Instant::now()),
        back_from: 0,
    };
    while !reclaimer.is_stopping() {
        shared.wait_for_work(if reclaimer.has_more_to_do() {
            Duration::from_millis(1)
        } else {
            TICK
        });
        if let Err(broken) = reclaimer.turn() {
            // Pages stay where they are; only what cannot be believed ends it.
            if matches!(broken, Broken::Panicked) {
                return shared.broke(&with_causes(&broken));
            }
            reclaimer.trouble = Some(with_causes(&broken));
        }
        reclaimer.tell();
        note_cpu(shared, 1);
    }
}

impl Reclaimer<'_> {
    fn is_stopping(&self) -> bool {
        self.shared
            .is_stopping
            .load(std::sync::atomic::Ordering::Acquire)
    }

    fn has_more_to_do(&self) -> bool {
        self.shared
            .core()
            .is_ok_and(|core| core.limit().is_none() && core.out() > 0)
    }

    fn turn(&mut self) -> Result<(), Broken> {
        self.shared.core()?.punch_again();
        let made = self.make_room();
        // Whoever waits tries again in any case: room may have come from elsewhere.
        if self.shared.waiting_for().is_some() {
            self.shared.ring();
        }
        made?;
        self.bring_back()?;
        self.tidy()?;
        let _ = self.shared.core()?.stop_tracking_if_idle();
        self.sample()
    }

    /// If less is free below the limit than faults may need soon, puts pages away until it is twice that.
    fn make_room(&mut self) -> Result<(), Broken> {
        let page_count = self.shared.memory.page_count();
        let core = self.shared.core()?;
        let spare = self.shared.headroom(core.limit());
        if core.excess(spare) == 0 {
            self.trouble = None;
            drop(core);
            return self.spill();
        }
        drop(core);
        let mut passed = 0;
        let mut rounds = 3;
        loop {
            self.spill()?;
            let excess = self.shared.core()?.excess(2 * spare);
            if excess == 0 {
                self.trouble = None;
                return Ok(());
            }
            // A few times round, and everything is either cold or gone, or does not go.
            if self.is_stopping() || passed > rounds * page_count {
                return Ok(());
            }
            if self.cold.is_empty() {
                passed += self.pass()?;
            }
            let refused_before = self.shared.core()?.counts.refused;
            let left = self.put_cold_away(excess)?;
            let is_refused = self.shared.core()?.counts.refused > refused_before;
            if left > 0 && self.shared.waiting_for().is_some() {
                self.shared.ring();
            }
            if is_refused {
                // Some pages may still fit, and each that comes back makes room for one: once round for those.
                rounds = 1;
                self.tell();
            } else if left > 0 {
                passed = 0;
            }
            if is_refused && left == 0 {
                host::rest::rest(REFUSED_PAUSE);
            }
        }
    }

    /// The hand goes on and finds cold pages. How many pages it passed.
    fn pass(&mut self) -> Result<u64, Broken> {
        let (first, count) = self.clock.stretch();
        let core = self.shared.core()?;
        let resident: Vec<bool> = (first..first + count)
            .map(|page| core.page(page) == Page::Resident)
            .collect();
        drop(core);
        let sampler = &mut self.sampler;
        let cold = self.clock.pass(&*self.shared.memory, &resident, |page| {
            sampler.note_used(page)
        });
        let cold = cold.map_err(|source| Broken::Host {
            act: "look at",
            page: first,
            source,
        })?;
        self.cold.extend(cold);
        Ok(count)
    }

    /// Puts a batch of the cold pages away that still are, at most `wanted`. How many left.
    fn put_cold_away(&mut self, wanted: u64) -> Result<u64, Broken> {
        let mut batch = Vec::new();
        while batch.len() < BATCH.min(wanted as usize) {
            let Some(page) = self.cold.pop_front() else {
                break;
            };
            let mut used = [false];
            let looked = Memory::used(&*self.shared.memory, page, &mut used);
            looked.map_err(|source| Broken::Host {
                act: "look at",
                page,
                source,
            })?;
            if !used[0] {
                batch.push(page);
            }
        }
        if batch.is_empty() {
            Ok(0)
        } else {
            self.put_away(batch)
        }
    }

    /// Puts pages away; see `core` for the four steps. Returns how many left.
    fn put_away(&mut self, mut pages: Vec<u64>) -> Result<u64, Broken> {
        self.shared.core()?.begin_leaving(&mut pages);
        let parcels = match pack_up(&*self.shared.memory, &pages) {
            Ok(parcels) => parcels,
            Err(broken) => {
                self.shared.core()?.abandon(&pages)?;
                return Err(broken);
            }
        };
        let mut core = self.shared.core()?;
        let refused = core.counts.refused;
        let left = core.commit(parcels);
        if core.counts.refused > refused {
            self.trouble = Some(match &self.file_trouble {
                Some((why, _)) => format!("the page store is full: {why}"),
                None => "the page store is full".to_owned(),
            });
        }
        left
    }

    /// Writes the oldest pages to the file, ahead of need.
    fn spill(&mut self) -> Result<(), Broken> {
        if self
            .file_trouble
            .as_ref()
            .is_some_and(|(_, since)| since.elapsed() < FILE_PAUSE)
        {
            return Ok(());
        }
        while !self.is_stopping() {
            let mut core = self.shared.core()?;
            if !core.store.wants_to_spill() {
                return Ok(());
            }
            let Some(batch) = core.store.begin_spill() else {
                return Ok(());
            };
            drop(core);
            if !self.write(batch)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Makes gaps in the page file room again, a little at a time.
    fn tidy(&mut self) -> Result<(), Broken> {
        if self.file_trouble.is_some() {
            return Ok(());
        }
        for _ in 0..TIDY_BATCHES {
            let mut core = self.shared.core()?;
            if !core.store.wants_to_tidy() {
                return Ok(());
            }
            let Some(batch) = core.store.begin_tidying() else {
                return Ok(());
            };
            drop(core);
            if self.is_stopping() || !self.write(batch)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Writes a batch to the page file; whether the host did.
    fn write(&mut self, mut batch: Batch) -> Result<bool, Broken> {
        let written = batch.write();
        self.shared.core()?.store.end_spill(batch, written.is_ok());
        let trouble = |error| {
            (
                format!("cannot write to the page file: {error}"),
                Instant::now(),
            )
        };
        self.file_trouble = written.err().map(trouble);
        Ok(self.file_trouble.is_none())
    }

    /// Without a limit, what is away comes back, a little at a time.
    fn bring_back(&mut self) -> Result<(), Broken> {
        let mut core = self.shared.core()?;
        if core.limit().is_some() || core.out() == 0 {
            return Ok(());
        }
        let page_count = core.page_count();
        let mut came = 0;
        for _ in 0..page_count {
            let page = self.back_from;
            self.back_from = (page + 1) % page_count;
            if let Page::Out(_) = core.page(page) {
                if !core.fetch_ahead(page)? {
                    drop(core);
                    crate::service::serve_one(self.shared, page, false)?;
                    return Ok(());
                }
                came += 1;
                if came == BACK_BATCH {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Not where it would cost the guest its huge pages for nobody.
    fn is_sample_wanted(&self) -> bool {
        !self.shared.memory.is_in_huge_pages() || self.shared.is_asked()
    }

    /// Ends a window of the estimates and begins the next.
    fn sample(&mut self) -> Result<(), Broken> {
        if !self.is_sample_wanted() {
            if self.sampler.stop() {
                self.shared.core()?.turn_write_sample(&[])?;
                let mut told = self.shared.told();
                (told.working_set, told.dirty) = (None, None);
            }
            return Ok(());
        }
        if !self.sampler.is_due() {
            return Ok(());
        }
        let window = self.sampler.elapsed();
        let page_count = self.shared.memory.page_count();
        let failed = |source| Broken::Host {
            act: "sample",
            page: 0,
            source,
        };
        let working_set = self.sampler.turn(&*self.shared.memory).map_err(failed)?;
        let pages = self.sampler.pages_to_protect(page_count);
        let dirty = self.shared.core()?.turn_write_sample(&pages)?;
        let dirty = dirty.map(|(count, hits)| crate::Estimate::of(hits, count, page_count, window));
        let mut told = self.shared.told();
        told.working_set = working_set.or(told.working_set);
        told.dirty = dirty.or(told.dirty);
        Ok(())
    }

    /// Says whether the guest waits for something that does not come.
    fn tell(&mut self) {
        let waits = self.shared.waiting_for();
        let is_stalled = self
            .stall
            .look(Instant::now(), waits, self.trouble.is_some());
        match (&self.trouble, is_stalled) {
            (Some(trouble), true) => self.shared.set_stalled(Some(trouble.clone())),
            // It still waits for what leaves now.
            (None, true) => {}
            (_, false) => self.shared.set_stalled(None),
        }
    }
}
