//! The run loop: finds or makes the translation at RIP, enters it, and deals with why it came back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use mem::GuestMemory;
use vcpu::{
    At, EngineError, EngineStatistics, Exit, Injection, Kick, Marker, Places, Probes, Reply, Spot,
    TripleFault, Unit, Vcpu, VcpuState, What,
};
use x86::paging::Walk;
use x86::{Exception, Gpa, Gva, PAGE_SIZE, Rflags};

use crate::beside::{Beside, Missed};
use crate::block::seg;
use crate::block::{ExitReason, PAUSES_AT_ONCE};
use crate::code_cache::HostPc;
use crate::cpu::{GP0, SoftVcpu, Stop};
use crate::decoded::{Decoded, MAX_INSTRUCTION_BYTES, Place};
use crate::enter::{Left, known};
use crate::exceptions::{Event, Source};
use crate::jumps::Origin;
use crate::mode::Mode;
use crate::translate::{Site, WINDOW_BYTES, fp_level, window_of};
use crate::translations::BlockKey;

/// How far one turn of the loop came.
enum Turn {
    /// At least one instruction is done (in careful mode exactly one).
    Progress,
    /// Nothing done yet: try again.
    Again,
    /// An exception was delivered instead.
    Raised,
    /// The machine is needed.
    Exit(Exit),
}

impl SoftVcpu {
    fn turn(&mut self) -> Result<Turn, EngineError> {
        let is_careful = self.mode.has(Mode::CAREFUL);
        if is_careful && let Some(dr6) = self.instruction_breakpoint() {
            return Ok(self.raise_or_exit(Exception::Debug { dr6 }));
        }
        if !is_careful {
            // RF holds breakpoints off for one instruction. There are none, so it ends before the many of this turn.
            self.block.system_flags &= !Rflags::RF.bits();
        }
        let steps = self.rflags().contains(Rflags::TF);
        self.pending.delivered = false;
        let turn = self.execute()?;
        if matches!(turn, Turn::Progress) {
            let resumes = std::mem::take(&mut self.pending.resumes);
            let steps_already = std::mem::take(&mut self.pending.steps_already);
            if !is_careful && !steps_already {
                return Ok(turn);
            }
            if !resumes {
                self.block.system_flags &= !Rflags::RF.bits();
            }
            let delivered = std::mem::take(&mut self.pending.delivered);
            let has_stepped = steps && !delivered || steps_already;
            let step = if has_stepped { 1 << 14 } else { 0 };
            let dr6 = std::mem::take(&mut self.pending.breakpoints) | step;
            if dr6 != 0 {
                return Ok(self.raise_or_exit(Exception::Debug { dr6 }));
            }
        }
        Ok(turn)
    }

    fn raise_or_exit(&mut self, exception: Exception) -> Turn {
        self.answers.clear();
        self.answers_used = 0;
        match self.raise(exception) {
            Ok(()) => Turn::Raised,
            Err(fault) => self.shut_down(fault),
        }
    }

    fn shut_down(&mut self, fault: TripleFault) -> Turn {
        self.in_shutdown = true;
        Turn::Exit(Exit::TripleFault(fault))
    }

    /// DR6 bits of instruction breakpoints at RIP, unless RFLAGS.RF holds them off.
    fn instruction_breakpoint(&self) -> Option<u64> {
        if self.block.system_flags & Rflags::RF.bits() != 0 || !self.answers.is_empty() {
            return None;
        }
        let at = self.code_linear(self.block.rip);
        let hits = (0..4).fold(0, |hits, n| {
            let is_enabled = self.debug.dr7 >> (2 * n) & 3 != 0;
            let is_execute = self.debug.dr7 >> (16 + 4 * n) & 3 == 0;
            if is_enabled && is_execute && self.debug.address[n] == at {
                hits | 1 << n
            } else {
                hits
            }
        });
        (hits != 0).then_some(hits)
    }

    pub(crate) fn code_linear(&self, rip: u64) -> u64 {
        if self.is_64_bit() {
            rip
        } else {
            self.segments[seg::CS].base.wrapping_add(rip) & 0xffff_ffff
        }
    }

    /// Runs from RIP until translated code comes back for good.
    fn execute(&mut self) -> Result<Turn, EngineError> {
        if !self.answers.is_empty() {
            return Ok(self.start_over());
        }
        let mut pc = match self.find_code(true) {
            Ok(pc) => pc,
            Err(stop) => return Ok(self.stopped(stop)),
        };
        // The probe that was told and whose instruction is next.
        let mut told = None;
        // The same, where the code cache was cleared before that instruction.
        let mut told_before = None;
        loop {
            let Some(Left { reason, site }) = self.run_code(pc)? else {
                told_before = told.take().or(told_before);
                pc = match self.find_code(true) {
                    Ok(pc) => pc,
                    Err(stop) => return Ok(self.stopped(stop)),
                };
                continue;
            };
            told = None;
            let is_told = told_before.take();
            let is_careful = self.mode.has(Mode::CAREFUL);
            match reason {
                Some(ExitReason::Probe) => {
                    pc = self.pass(site, is_told)?;
                    told = Some(self.block.rip);
                }
                Some(ExitReason::Lookup) if self.jumped_nowhere(site) => {
                    return Ok(self.raise_or_exit(GP0));
                }
                Some(ExitReason::Lookup | ExitReason::Chain) if is_careful => {
                    return Ok(Turn::Progress);
                }
                Some(ExitReason::Lookup | ExitReason::Chain) => {
                    let link = (reason == Some(ExitReason::Chain)).then_some(self.block.exit_info);
                    pc = match self.go_on(link) {
                        Ok(pc) => pc,
                        Err(turn) => return Ok(turn),
                    };
                }
                Some(ExitReason::OneByOne) => {
                    pc = match self.go_one_by_one(Some(self.block.exit_info)) {
                        Ok(pc) => pc,
                        Err(turn) => return Ok(turn),
                    };
                }
                Some(ExitReason::Poll) => return Ok(Turn::Progress),
                Some(ExitReason::Interpret) => {
                    return Ok(self.interpret_at(Place::of_exit(self.block.exit_info)));
                }
                Some(ExitReason::Pause) => return Ok(self.pause()),
                Some(ExitReason::Memory) => match self.miss(site)? {
                    Ok(resume) => pc = resume,
                    Err(turn) => return Ok(turn),
                },
                Some(ExitReason::FpState) => match self.load_fp_state(site)? {
                    Ok(resume) => pc = resume,
                    Err(turn) => return Ok(turn),
                },
                Some(ExitReason::Fault) => return self.fault(site),
                Some(ExitReason::Bounced) | None => {
                    return Err(EngineError::Internal(
                        "translated code left for no known reason".into(),
                    ));
                }
            }
        }
    }

    /// Gives the core to whoever is waited for.
    fn pause(&mut self) -> Turn {
        self.block.pauses_left = PAUSES_AT_ONCE;
        self.spot.begin(At::plain(What::Pause), self.block.rip);
        std::thread::yield_now();
        Turn::Progress
    }

    /// The instruction that asked, with the answer.
    fn start_over(&mut self) -> Turn {
        let restarted = self
            .asking
            .take()
            .filter(|decoded| decoded.instruction.ip() == self.block.rip);
        match restarted {
            Some(decoded) => self.interpret_decoded(&decoded),
            None => self.interpret_here(),
        }
    }

    /// Where translated code goes on that came back for the translation at RIP, or how the turn ends. `link` is the jump
    /// that can be chained to it.
    fn go_on(&mut self, link: Option<u32>) -> Result<HostPc, Turn> {
        self.counters.lookups += 1;
        self.look_around()?;
        let generation = self.generation;
        let pc = self.find_code(false).map_err(|stop| self.stopped(stop))?;
        if let Some(link) = link {
            self.chain(link, pc, generation);
        }
        Ok(pc)
    }

    /// The block at RIP that does without shared checks, or how the turn ends. `link` is the jump that leads there.
    fn go_one_by_one(&mut self, link: Option<u32>) -> Result<HostPc, Turn> {
        let generation = self.generation;
        self.block.fp_loaded = self.block.fp_was_loaded;
        let found = self
            .fetch_walk(self.block.rip)
            .and_then(|walk| self.translation_of(&walk, self.mode.one_by_one()));
        let (pc, _) = found.map_err(|stop| self.stopped(stop))?;
        if let Some(link) = link {
            self.chain(link, pc, generation);
        }
        Ok(pc)
    }

    /// Whether an indirect branch went to what is no address: then it faults itself, and has not moved RSP.
    fn jumped_nowhere(&mut self, site: Option<Site>) -> bool {
        if !self.is_64_bit() || Gva(self.block.rip).is_canonical() {
            return false;
        }
        let Some(site) = site else { return false };
        self.block.rip = site.rip;
        let rsp = &mut self.block.gprs[vcpu::gpr::RSP];
        *rsp = rsp.wrapping_sub(i64::from(site.stack_change()) as u64);
        true
    }

    /// Ends the turn if something outside translated code wants attention.
    fn look_around(&mut self) -> Result<(), Turn> {
        let is_wanted = self.door.is_wanted();
        self.block.fp_loaded = if is_wanted {
            0
        } else {
            self.block.fp_was_loaded
        };
        if is_wanted {
            Err(Turn::Progress)
        } else {
            Ok(())
        }
    }

    fn stopped(&mut self, stop: Stop) -> Turn {
        match stop {
            Stop::Exception(exception) => self.raise_or_exit(exception),
            Stop::Ask(exit) => Turn::Exit(exit),
            Stop::Again => Turn::Again,
        }
    }

    /// Executes the instruction at RIP by hand.
    fn interpret_here(&mut self) -> Turn {
        match self.decode_and_judge() {
            Ok(decoded) => self.interpret_decoded(&decoded),
            Err(stop) => self.stopped(stop),
        }
    }

    /// Executes the instruction at RIP by hand, which translated code has left at `place`.
    fn interpret_at(&mut self, place: Place) -> Turn {
        self.spot.go_on(What::Interpreter);
        match self.decoded_at(place) {
            Ok(decoded) => self.interpret_decoded(&decoded),
            Err(stop) => self.stopped(stop),
        }
    }

    fn interpret_decoded(&mut self, decoded: &Decoded) -> Turn {
        self.answers_used = 0;
        match self.interpret(decoded) {
            Ok(()) => {
                self.answers.clear();
                Turn::Progress
            }
            Err(Stop::Again) => {
                self.answers.clear();
                Turn::Again
            }
            Err(stop) => {
                if matches!(stop, Stop::Ask(_)) {
                    self.asking = Some(*decoded);
                }
                self.stopped(stop)
            }
        }
    }

    /// Where the translation at RIP starts, translating if need be. `try_jump_cache` is for callers whose RIP was
    /// not just looked up there.
    fn find_code(&mut self, try_jump_cache: bool) -> Result<HostPc, Stop> {
        let rip = self.block.rip;
        let may_cache = self.mode.may_jump();
        if try_jump_cache
            && may_cache
            && let Some(pc) = self.banks.jumps().find(rip)
        {
            return Ok(pc);
        }
        self.spot.begin(At::plain(What::MissFetch), rip);
        let walk = self.fetch_walk(rip)?;
        self.spot.begin(At::plain(What::LookUp), rip);
        let (pc, second) = self.translation_of(&walk, self.mode)?;
        if may_cache {
            let origin = Origin {
                global: walk.global && second.is_none_or(|second| second.global),
                page_size: walk.page_size,
                second_page_size: second.map(|second| second.page_size),
            };
            self.banks.jumps().add(rip, pc, origin);
        }
        Ok(pc)
    }

    /// The translation at RIP, which `walk` has led to, for a mode; also tells of the page behind, if it is a new one that
    /// straddles into it.
    fn translation_of(&mut self, walk: &Walk, mode: Mode) -> Result<(HostPc, Option<Walk>), Stop> {
        let key = BlockKey {
            gpa: walk.gpa.0,
            rip: self.block.rip,
            mode,
        };
        match self.find_translation(|translations| translations.find(key)) {
            Some(pc) => Ok((pc, None)),
            None => self.translate_at(key),
        }
    }

    /// Translates; also tells of the page behind, if the block straddles into it.
    fn translate_at(&mut self, key: BlockKey) -> Result<(HostPc, Option<Walk>), Stop> {
        self.spot.begin(At::plain(What::Translator), key.rip);
        let gpa = Gpa(key.gpa);
        let linear = self.code_linear(key.rip);
        let left = (PAGE_SIZE - linear % PAGE_SIZE) as usize;
        let is_alone = self.soft.is_alone();
        let done = self.make_translation(&[gpa], |translations, memory| {
            // Another vCPU may have been faster.
            if let Some(pc) = translations.find(key) {
                return Ok(Some(pc));
            }
            if let Some(pc) = translations.move_here(key) {
                debug_assert!(!is_alone || translations.are_as_translated(pc, memory));
                return Ok(Some(pc));
            }
            let mut window = [0; WINDOW_BYTES];
            let bytes = window_of(&mut window, gpa.0);
            read_code(memory, gpa, bytes)?;
            Ok(translations.translate(key, bytes, None))
        })?;
        if let Some(pc) = done {
            return Ok((pc, None));
        }
        // The first instruction straddles into the next page.
        let walk = self.fetch_walk(key.rip.wrapping_add(left as u64))?;
        let second = walk.gpa;
        let done = self.make_translation(&[gpa, second], |translations, memory| {
            if let Some(pc) = translations.find_straddling(key, second.gfn()) {
                return Ok(Some(pc));
            }
            let mut bytes = [0; MAX_INSTRUCTION_BYTES];
            let first = left.min(MAX_INSTRUCTION_BYTES);
            read_code(memory, gpa, &mut bytes[..first])?;
            read_code(memory, second, &mut bytes[first..])?;
            Ok(translations.translate(key, &bytes, Some(second.gfn())))
        })?;
        // Fifteen bytes and still no end: too long an instruction (APM vol. 3, 1.2).
        done.map(|pc| (pc, Some(walk))).ok_or_else(|| GP0.into())
    }

    /// Chains a direct jump. Both ends start in one page, so the jump holds wherever that page is mapped; a block that
    /// goes on into the next page is reached through its guard. `generation` is that of the link number.
    fn chain(&mut self, link: u32, target: HostPc, generation: u64) {
        let mut translations = self.soft.translations();
        if translations.generation() == generation && self.generation == generation {
            self.counters.chained += 1;
            translations.chain(link, target);
        }
    }

    /// Brings registers and flags into the exact state at a site, and RIP to its instruction.
    pub(crate) fn restore_site(&mut self, site: &Site) {
        for number in (0..16).filter(|number| site.borrowed & 1 << number != 0) {
            self.block.gprs[number] = self.block.spill[number];
        }
        if site.flags_saved {
            let saved = self.block.saved_flags;
            // LAHF put SF, ZF, AF, PF, CF into AH; SETO OF into AL.
            let low = saved >> 8 & 0xd5;
            let overflow = (saved & 1) << 11;
            self.block.rflags = self.block.rflags & Rflags::DF.bits() | low | overflow | 2;
        }
        self.block.rip = site.rip;
    }

    /// A TLB miss: where to go on, or how the turn ends.
    fn miss(&mut self, site: Option<Site>) -> Result<Result<HostPc, Turn>, EngineError> {
        self.counters.tlb_misses += 1;
        let site = known(site)?;
        let Some(access) = site.access() else {
            return Err(EngineError::Internal(
                "a memory exit without an access".into(),
            ));
        };
        let what = if access.write {
            What::MissWrite
        } else {
            What::MissRead
        };
        self.spot.begin(At::plain(what), site.rip);
        let linear = (!access.is_segmented).then(|| self.missed_address(&access));
        let shared = site.shared();
        let held = self.block.gprs;
        self.restore_site(&site);
        if let Some(start) = linear {
            // What the check stands for, and the part that this instruction wants.
            let crosses = |at: u64, size: u8| at % PAGE_SIZE + u64::from(size.max(1)) > PAGE_SIZE;
            let is_in_two_pages = crosses(start, access.size);
            let (linear, size) = match shared.own_size {
                0 => (start, access.size),
                size => (start.wrapping_add(u64::from(shared.own_offset)), size),
            };
            let crosses = crosses(linear, size);
            let is_canonical = !self.is_long_mode() || Gva(linear).is_canonical();
            let mut walked = None;
            if !crosses && is_canonical {
                let kind = self.access(access.write);
                let filled = match self.walk(Gva(linear), kind) {
                    Ok(walk) => {
                        walked = Some(walk.gpa);
                        self.fill_tlb(Gva(linear), &walk, access.write)
                    }
                    // Where alignment matters it is judged before the page tables: a closer look decides.
                    Err(_) if size >= 16 && !linear.is_multiple_of(u64::from(size)) => false,
                    Err(exception) => {
                        let exception = self.first_fault(exception);
                        return Ok(Err(self.raise_or_exit(exception)));
                    }
                };
                if filled {
                    self.block.fp_loaded = self.block.fp_was_loaded;
                    if is_in_two_pages {
                        return Ok(self.go_one_by_one(None));
                    }
                    self.hold_anchors(shared.anchors, held);
                    return Ok(Ok(site.start(self.soft.stubs().cache)));
                }
            }
            let missed = Missed {
                linear,
                size,
                walked,
            };
            self.spot.begin(At::plain(What::Beside), site.rip);
            match self.make_beside(&site, missed, &held) {
                Some(Err(stop)) => return Ok(Err(self.stopped(stop))),
                Some(Ok(Beside::Within(pc))) => return Ok(Ok(pc)),
                Some(Ok(Beside::Behind)) => {
                    let found = self.look_around().map(|()| self.find_code(true));
                    return Ok(found.and_then(|found| found.map_err(|stop| self.stopped(stop))));
                }
                None => {}
            }
        }
        Ok(Err(self.interpret_at(Place::of_site(self.block.exit_info))))
    }

    /// The fault that comes first when an x87 or MMX instruction's operand faults: a pending x87 exception wins.
    fn first_fault(&mut self, exception: Exception) -> Exception {
        if !self.has_pending_x87_fault() {
            return exception;
        }
        let mut bytes = [0; MAX_INSTRUCTION_BYTES];
        let waits = self.decode_here(&mut bytes).is_ok_and(|instruction| {
            use iced_x86::Mnemonic as M;
            fp_level(&instruction) == 1 && !matches!(instruction.mnemonic(), M::Fnstcw | M::Fnstsw)
        });
        if waits {
            Exception::X87Fault
        } else {
            exception
        }
    }

    /// The linear address whose check failed: the check left `address ^ tag` and the entry's position.
    fn missed_address(&mut self, access: &crate::translate::SiteAccess) -> u64 {
        let mixed = self.block.gprs[usize::from(access.address.0)];
        let entry = self.block.gprs[usize::from(access.entry.0)];
        let tlbs = self.tlbs();
        let tlb = if access.write {
            &tlbs.write
        } else {
            &tlbs.read
        };
        mixed ^ tlb.tag_at(entry)
    }

    fn load_fp_state(&mut self, site: Option<Site>) -> Result<Result<HostPc, Turn>, EngineError> {
        self.counters.fp_loads += 1;
        let site = known(site)?;
        self.spot.begin(At::plain(What::FpState), site.rip);
        let held = self.block.gprs;
        self.restore_site(&site);
        let mut bytes = [0; MAX_INSTRUCTION_BYTES];
        let checked = self
            .decode_here(&mut bytes)
            .and_then(|instruction| Ok(self.check_fp(&instruction)?));
        match checked {
            Ok(()) => {
                self.block.fp_loaded = 1;
                self.hold_anchors(site.shared().anchors, held);
                Ok(Ok(site.start(self.soft.stubs().cache)))
            }
            Err(stop) => Ok(Err(self.stopped(stop))),
        }
    }

    /// The silicon faulted on a copied instruction: the guest's fault, precisely there.
    fn fault(&mut self, site: Option<Site>) -> Result<Turn, EngineError> {
        let record = self.block.fault;
        // A page fault would mean that a TLB entry led outside guest memory.
        let Some(site) = site.filter(|_| record.vector != 14) else {
            return Err(EngineError::Internal(format!(
                "host fault {} (error {:#x}, address {:#x}) in translated code at {:#x}",
                record.vector, record.error, record.address, record.rip
            )));
        };
        self.restore_site(&site);
        // A host that forbids locked accesses across cache lines: the bounce buffer is aligned.
        if record.vector == 17 {
            return Ok(self.interpret_here());
        }
        let stop = self.host_fault();
        Ok(self.stopped(stop))
    }

    /// Delivers what waits, if it may be delivered now. True if RIP has moved.
    fn deliver_pending(&mut self) -> Result<bool, TripleFault> {
        if self.pending.shadow {
            return Ok(false);
        }
        if self.pending.nmis > 0 && !self.pending.nmi_blocked {
            self.pending.nmis -= 1;
            self.pending.nmi_blocked = true;
            let event = Event {
                vector: 2,
                error_code: None,
                source: Source::External,
                return_rip: self.block.rip,
            };
            if let Err(exception) = self.deliver(event) {
                self.raise(exception)?;
            }
            return Ok(true);
        }
        if self.block.interrupts != 0
            && let Some(vector) = self.pending.interrupt.take()
        {
            self.show_waiting();
            self.deliver_interrupt(vector)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Tells translated code whether somebody waits for interrupts to be on: the machine, or an interrupt that it gave when they
    /// were, and before which an NMI came.
    pub(crate) fn show_waiting(&mut self) {
        let waits = self.window_wanted || self.pending.interrupt.is_some();
        self.block.window_wanted = u32::from(waits);
    }

    fn take_reply(&mut self, reply: Reply) -> Option<Turn> {
        if !std::mem::take(&mut self.asked) {
            return None;
        }
        match reply {
            Reply::Value(value) => self.answers.push(value),
            Reply::Done => self.answers.push(0),
            Reply::Fault => return Some(self.raise_or_exit(GP0)),
        }
        None
    }
}

/// Reads guest code. Fetching where there is no memory reads all ones, which is no instruction.
fn read_code(memory: &GuestMemory, gpa: Gpa, bytes: &mut [u8]) -> Result<(), Stop> {
    memory
        .read(gpa, bytes)
        .map_err(|_| Exception::InvalidOpcode.into())
}

impl Vcpu for SoftVcpu {
    fn run(&mut self, reply: Reply) -> Result<Exit, EngineError> {
        self.spot.go_on(What::InAndOut);
        if self.in_shutdown {
            return Ok(Exit::TripleFault(TripleFault {
                first_vector: None,
                rip: self.block.rip,
            }));
        }
        if let Some(Turn::Exit(exit)) = self.take_reply(reply) {
            return Ok(exit);
        }
        loop {
            if !self.posted.is_empty() {
                return Ok(self.posted.remove(0));
            }
            let is_in_instruction = !self.answers.is_empty();
            if !is_in_instruction {
                if self.door.take_kick() {
                    return Ok(Exit::Kicked);
                }
                match self.deliver_pending() {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(fault) => {
                        self.in_shutdown = true;
                        return Ok(Exit::TripleFault(fault));
                    }
                }
                if self.window_wanted && self.can_inject() {
                    return Ok(Exit::InterruptWindow);
                }
                if self.pending.halted {
                    return Ok(Exit::Halt);
                }
            }
            let was_shadowed = std::mem::take(&mut self.pending.shadow);
            if was_shadowed {
                // Exactly one instruction before the next look.
                self.mode.0 |= Mode::CAREFUL;
            }
            let turn = self.turn()?;
            if was_shadowed {
                self.mode = self.code_mode();
            }
            if let Turn::Exit(exit) = turn {
                self.asked = !matches!(exit, Exit::TripleFault(_));
                self.pending.shadow |= was_shadowed;
                return Ok(exit);
            }
        }
    }

    fn can_inject(&self) -> bool {
        self.block.interrupts != 0
            && !self.pending.shadow
            && self.pending.interrupt.is_none()
            && self.answers.is_empty()
            && !self.asked
            && !self.in_shutdown
    }

    fn inject(&mut self, event: Injection) {
        match event {
            Injection::Interrupt(vector) => {
                self.pending.interrupt = Some(vector);
                self.show_waiting();
            }
            Injection::Nmi => {
                // One may wait behind the one that is being handled, or behind the one that comes next.
                let most = if self.pending.nmi_blocked { 1 } else { 2 };
                self.pending.nmis = most.min(self.pending.nmis + 1);
            }
        }
    }

    fn set_interrupt_window(&mut self, wanted: bool) {
        self.window_wanted = wanted;
        self.show_waiting();
    }

    fn state(&mut self) -> Result<VcpuState, EngineError> {
        Ok(self.save_state())
    }

    fn set_state(&mut self, state: &VcpuState) -> Result<(), EngineError> {
        SoftVcpu::check_state(state)?;
        self.asked = false;
        self.load_state(state);
        // Its delivery may fault like any other; what then comes of it, the next run says.
        if let Some(exception) = state.exception_pending {
            self.in_shutdown = self.raise(exception).is_err();
        }
        Ok(())
    }

    fn probes_max(&self) -> usize {
        usize::MAX
    }

    fn set_probes(&mut self, probes: &Arc<Probes>) -> bool {
        self.change_probes(probes);
        true
    }

    fn keep_memory_limit(&mut self) {
        self.obey_limit();
    }

    fn tell_where(&mut self, spot: &Arc<Spot>) -> Option<Arc<dyn Places>> {
        self.spot = Marker::of(spot);
        self.spot.enter_space(self.cr3, self.cpl() == 3);
        Some(Arc::clone(&self.soft) as Arc<dyn Places>)
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::clone(&self.door) as Arc<dyn Kick>
    }

    fn statistics(&self) -> EngineStatistics {
        let mut translations = self.soft.translations();
        let (code, tables) = translations.held_bytes();
        let shared = translations.counters;
        let own = &self.counters;
        let doors = self.soft.doors();
        EngineStatistics(vec![
            ("code cache", Unit::SharedBytes, code as u64),
            ("translation tables", Unit::SharedBytes, tables as u64),
            ("software TLBs", Unit::Bytes, self.banks.len_bytes() as u64),
            ("translated blocks", Unit::SharedCount, shared.translated),
            (
                "translated guest bytes",
                Unit::SharedBytes,
                shared.guest_bytes,
            ),
            ("invalidated blocks", Unit::SharedCount, shared.invalidated),
            ("code cache clears", Unit::SharedCount, shared.cache_clears),
            ("bounce thunks", Unit::SharedCount, shared.bounce_thunks),
            ("moved blocks", Unit::SharedCount, shared.moved),
            (
                "clears of moved blocks",
                Unit::SharedCount,
                shared.moved_clears,
            ),
            (
                "vCPUs called out",
                Unit::SharedCount,
                doors.calls.load(Ordering::Relaxed),
            ),
            (
                "stops of all vCPUs",
                Unit::SharedCount,
                doors.stops.load(Ordering::Relaxed),
            ),
            ("block look-ups", Unit::Count, own.lookups),
            ("chained jumps", Unit::Count, own.chained),
            ("TLB misses", Unit::Count, own.tlb_misses),
            ("TLB flushes", Unit::Count, self.banks.flushes),
            ("bounced accesses", Unit::Count, own.bounced),
            ("accesses beside", Unit::Count, own.beside),
            ("interpreted instructions", Unit::Count, own.interpreted),
            ("FP state loads", Unit::Count, own.fp_loads),
            ("exceptions", Unit::Count, own.exceptions),
            ("interrupts", Unit::Count, own.interrupts),
        ])
    }
}
