//! Into translated code and out again, and what that needs of the VM's other vCPUs.
//!
//! Everything here keeps one rule: an address in the code cache, a site number or a link number is used only while
//! nothing can take it away, that is behind the vCPU's door, or under the lock of the translations in the vCPU's own
//! generation. Whoever finds that the generation has moved on starts over from RIP, which is always exact by then.

use std::sync::atomic::{Ordering, fence};

use mem::{GuestMemory, Hva};
use vcpu::{At, EngineError, What};
use x86::{Exception, Gpa, PAGE_SIZE};

use crate::bank::Banks;
use crate::block::ExitReason;
use crate::block::seg;
use crate::code_cache::{CodeCache, HostPc};
use crate::cpu::{SoftVcpu, Stop};
use crate::held_anchors::HeldAnchors;
use crate::sites::were_moved_alone;
use crate::soft::Soft;
use crate::translate::Site;
use crate::translations::Translations;

/// Why translated code came back, and where from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left {
    pub(crate) reason: Option<ExitReason>,
    /// The site that `exit_info` or the host's fault names.
    pub(crate) site: Option<Site>,
}

impl SoftVcpu {
    /// Runs translated code from `pc` on. `None` if the code cache has been cleared since `pc` was found: then nothing
    /// has run, and `pc` means nothing.
    pub(crate) fn run_code(&mut self, pc: HostPc) -> Result<Option<Left>, EngineError> {
        let is_alone = self.soft.is_alone();
        let anchors = self.anchors.take();
        if !is_alone {
            self.go_in();
        }
        // A page that was taken from the TLBs meanwhile may be one that an anchor leads to.
        let is_stale = std::mem::take(&mut self.has_obeyed) && anchors.is_some();
        if is_stale || self.generation != self.soft.sites.generation() {
            self.door.come_out();
            self.follow_generation();
            return Ok(None);
        }
        if let Some(anchors) = anchors {
            anchors.put_into(&mut self.block.gprs);
        }
        self.block.exit_info = u32::MAX;
        debug_assert!(
            self.block.segment_base[seg::GS] == self.segments[seg::GS].base
                && self.block.kernel_gs_base == self.msrs.kernel_gs_base,
            "the block has the bases that SWAPGS swaps"
        );
        self.spot.begin(At::plain(What::Translated), self.block.rip);
        let ran = CodeCache::run(self.soft.stubs(), &mut self.block, pc);
        self.spot.go_on(What::InAndOut);
        self.segments[seg::GS].base = self.block.segment_base[seg::GS];
        self.msrs.kernel_gs_base = self.block.kernel_gs_base;
        self.follow_crossing();
        let reason = ExitReason::from_raw(self.block.exit_reason);
        let site = match reason {
            Some(ExitReason::Fault) => self
                .soft
                .sites
                .at(self.block.fault.rip, self.soft.stubs().cache),
            Some(
                ExitReason::Memory | ExitReason::FpState | ExitReason::Lookup | ExitReason::Probe,
            ) => self.soft.sites.get(self.block.exit_info),
            _ => None,
        };
        self.spot
            .tell(|spot| spot.move_to(site.map_or(self.block.rip, |site| site.rip)));
        if !is_alone {
            self.door.come_out();
        }
        ran.map_err(|source| EngineError::Host {
            what: "cannot prepare a thread for translated code",
            source,
        })?;
        Ok(Some(Left { reason, site }))
    }

    fn go_in(&mut self) {
        let banks = &mut self.banks;
        self.has_obeyed |= self.door.go_in(|Hva(page)| banks.protect_host_page(page));
    }

    /// Has the registers in `mask` hold what they are in `held` when translated code goes on in the middle of a block,
    /// which is next.
    pub(crate) fn hold_anchors(&mut self, mask: u16, held: [u64; 16]) {
        self.anchors = (mask != 0).then_some(HeldAnchors::new(mask, held));
    }

    /// Makes jump caches of an older generation void.
    pub(crate) fn follow_generation(&mut self) {
        follow(&self.soft, &mut self.generation, &mut self.banks);
    }

    /// Stores into guest memory in the interpreter's name, with what must not come between. Whether the page holds code
    /// may be asked afterwards: whoever marked it before the store could be seen is found, and whoever marks it later
    /// reads what was stored.
    pub(crate) fn store_slowly<T>(&mut self, store: impl FnOnce(&GuestMemory) -> T) -> T {
        if self.soft.is_alone() {
            return store(&self.memory);
        }
        self.go_in();
        let done = store(&self.memory);
        self.door.come_out();
        fence(Ordering::SeqCst);
        done
    }

    /// The translation of `key`, made before, under the lock.
    pub(crate) fn find_translation(
        &mut self,
        find: impl FnOnce(&Translations) -> Option<HostPc>,
    ) -> Option<HostPc> {
        let translations = self.soft.translations();
        follow(&self.soft, &mut self.generation, &mut self.banks);
        find(&translations)
    }

    /// Does something that makes code, under the lock: marks `pages` as code, so that nobody writes them unseen, then
    /// calls `make`, which may read them.
    pub(crate) fn make_translation(
        &mut self,
        pages: &[Gpa],
        make: impl FnOnce(&mut Translations, &GuestMemory) -> Result<Option<HostPc>, Stop>,
    ) -> Result<Option<HostPc>, Stop> {
        let mut translations = self.soft.translations();
        make_room(&self.soft, self.index, &mut translations);
        follow(&self.soft, &mut self.generation, &mut self.banks);
        for &page in pages {
            mark_code(&self.soft, self.index, &mut self.banks, page)?;
        }
        let made = make(&mut translations, &self.memory);
        let count = translations.counters.translated;
        if translations.budget.most_bytes.is_some()
            || count < NOTED_EVERY
            || count.is_multiple_of(NOTED_EVERY)
        {
            note_held(&self.soft, &mut translations);
        }
        made
    }

    /// Translations may take so much from now on: clears them if they take more.
    pub(crate) fn keep_budget(&mut self, most_bytes: Option<usize>) {
        let mut translations = self.soft.translations();
        translations.set_budget(most_bytes);
        make_room(&self.soft, self.index, &mut translations);
        note_held(&self.soft, &mut translations);
        follow(&self.soft, &mut self.generation, &mut self.banks);
    }
}

/// Without a limit what translations hold is a number for people, and to add it up takes a hundredth of making one.
const NOTED_EVERY: u64 = 64;

fn note_held(soft: &Soft, translations: &mut Translations) {
    let (code, tables) = translations.held_bytes();
    soft.limit.note_translations(code, tables);
}

/// The site that translated code has left at.
pub(crate) fn known(site: Option<Site>) -> Result<Site, EngineError> {
    site.ok_or_else(|| {
        EngineError::Internal("translated code left at a site that is not there".into())
    })
}

fn follow(soft: &Soft, generation: &mut u64, banks: &mut Banks) {
    let now = soft.sites.generation();
    if *generation != now {
        if were_moved_alone(*generation, now) {
            banks.forget_code_in(&soft.stubs().moved());
        } else {
            banks.forget_code();
        }
        *generation = now;
        // What lay in the code cache before may have been fetched ahead: CPUID serialises (APM vol. 2, 7.6.4).
        host::cpu::cpuid(0, 0);
    }
}

/// Clears the code cache, or its arena for moved blocks, if nothing more fits, with every other vCPU out of it.
pub(crate) fn make_room(soft: &Soft, mine: usize, translations: &mut Translations) {
    if !translations.has_room() {
        let _shut = soft.doors().shut(mine);
        translations.clear(&soft.memory);
    } else if !translations.has_room_to_move() {
        let _shut = soft.doors().shut(mine);
        translations.clear_moved(&soft.memory);
    }
}

/// Marks a page as holding translated code and sees to it that nobody writes it unseen any more. Under the lock of the
/// translations, which also has whoever takes the mark away.
fn mark_code(soft: &Soft, mine: usize, banks: &mut Banks, gpa: Gpa) -> Result<(), Stop> {
    let page = Gpa(gpa.0 & !(PAGE_SIZE - 1));
    let Some((host, _)) = soft.memory.hva(page) else {
        // Fetching where there is no memory reads all ones, which is no instruction.
        return Err(Exception::InvalidOpcode.into());
    };
    let writers = soft.memory.notes().add_code(page.gfn());
    if writers.may_have(mine) {
        banks.protect_host_page(host.0);
    }
    soft.doors().call_out(mine, writers, host);
    Ok(())
}
