//! What a vCPU's thread does: guest code in, exit out, board, reply in.
//!
//! Each exit is one visit to the room: the access, what came of it, and the look for interrupts, all under one hold
//! of the lock. The vCPU is marked as in the guest before the lock is let go, so that whoever rings then kicks (`bell`).
//! A halted vCPU sleeps on its bell; the attendant rings when a timer has become an interrupt.

use std::sync::Arc;
use std::time::Duration;

use devices::{Board, Startup};
use vcpu::{EngineError, EngineStatistics, Exit, Injection, Marker, Reply, Vcpu, What};

use crate::life::{End, Life, Ready, Room, sipi_state};
use crate::outcome::crash::{Crash, CrashCause};
use crate::outcome::ending::Ending;
use crate::outcome::exits::{ExitCounts, ExitKind};
use crate::outcome::rest::Rest;
use crate::report::sums;
use crate::report::{Sample, VmmMemory};
use crate::threads::gate::Inside;
use crate::threads::observe::VcpuMonitor;
use crate::threads::probing::NOT_ASKED;
use crate::threads::profiler::Seat;

/// What one vCPU's thread knows at its end.
#[derive(Debug, Default)]
pub(crate) struct VcpuAccount {
    pub(crate) exits: ExitCounts,
    pub(crate) statistics: EngineStatistics,
    pub(crate) cpu_time: Duration,
    /// What the process held while the vCPU was still there.
    pub(crate) vmm_memory: Option<VmmMemory>,
    /// What was measured when markers were seen, with their positions in the plan.
    pub(crate) samples: Vec<(usize, Sample)>,
    /// Where the guest's kernel has its entry for system calls, if the time is profiled and it has one.
    pub(crate) entry: Option<u64>,
}

struct VcpuThread<'a> {
    life: &'a Life,
    monitor: &'a VcpuMonitor,
    vcpu_id: u32,
    vcpu: Box<dyn Vcpu>,
    rest: Rest,
    /// Where the thread is.
    spot: Marker,
    /// The number of the probes that the vCPU's engine has.
    probes: u64,
    /// What [`crate::threads::time::GuestTime::lost_ticks`] said when the vCPU's TSC was last moved.
    lost_ticks: u64,
    /// CPU time that the thread had used when the life began.
    before: Duration,
    account: VcpuAccount,
}

/// Runs a vCPU until its life is over.
pub(crate) fn run(
    life: &Life,
    vcpu_id: u32,
    (vcpu, rest): Ready,
) -> Result<VcpuAccount, EngineError> {
    let monitor = &life.monitors[vcpu_id as usize];
    let monitors = Arc::clone(&life.monitors);
    let helper = life.threads.helper();
    helper.have_done(move || monitors[vcpu_id as usize].take());
    let account = VcpuAccount::default();
    let mut thread = VcpuThread {
        life,
        monitor,
        vcpu_id,
        vcpu,
        rest,
        spot: seat(life, vcpu_id).map_or_else(Marker::default, |seat| Marker::of(seat.spot())),
        probes: NOT_ASKED,
        lost_ticks: 0,
        before: cpu_time(life, vcpu_id),
        account,
    };
    thread.take_seat();
    let result = thread.go();
    thread.spot.go_on(What::Elsewhere);
    monitor.leave();
    // A thread that failed has no reason that counts, but the others must not wait for it.
    if result.is_err() {
        life.call_off();
    }
    result?;
    thread.sample();
    sums::add_vcpu(&mut thread.account.statistics, &thread.vcpu.statistics());
    thread.account.vmm_memory = life.have_measured();
    thread.account.cpu_time = thread.cpu_time();
    if life.seats.is_some() {
        let entry = thread.vcpu.state()?.msrs.lstar;
        thread.account.entry = (entry != 0).then_some(entry);
    }
    Ok(thread.account)
}

/// What the vCPU's thread is profiled by.
fn seat(life: &Life, vcpu_id: u32) -> Option<&Seat> {
    life.seats.as_ref().map(|seats| &seats[vcpu_id as usize])
}

/// CPU time of the vCPU's thread, which is this one.
fn cpu_time(life: &Life, vcpu_id: u32) -> Duration {
    let monitors = Arc::clone(&life.monitors);
    let helper = life.threads.helper();
    helper.have_done(move || monitors[vcpu_id as usize].cpu_time())
}

impl VcpuThread<'_> {
    /// Has the vCPU's engine write where it is, if the time is profiled.
    fn take_seat(&mut self) {
        if let Some(seat) = seat(self.life, self.vcpu_id) {
            seat.take(&mut *self.vcpu);
        }
    }

    /// CPU time used in this life.
    fn cpu_time(&self) -> Duration {
        cpu_time(self.life, self.vcpu_id).saturating_sub(self.before)
    }

    fn go(&mut self) -> Result<(), EngineError> {
        let life = self.life;
        let bell = life.bells.of(self.vcpu_id);
        // Who comes after a pause has begun stands in it as the others do: seen, with the time taken out, and moved to
        // another engine with them.
        let mut inside = life.gate.arrive();
        self.stand_still(&mut inside)?;
        let mut reply = Reply::Done;
        self.visit(None)?;
        while !life.is_over() {
            self.show()?;
            if self.rest != Rest::None {
                self.monitor.rest(self.rest);
                self.spot.go_on(What::Rest);
                bell.sleep();
                self.stand_still(&mut inside)?;
                self.visit(None)?;
                if self.rest == Rest::None {
                    self.monitor.rest(Rest::None);
                }
                continue;
            }
            self.spot.go_on(What::Engine);
            let exit = self.vcpu.run(reply)?;
            self.spot.answer(ExitKind::of(&exit) as u16);
            bell.left();
            self.count(&exit);
            // Who closes the gate kicks: this exit comes, and no instruction is half done then.
            if exit == Exit::Kicked {
                self.stand_still(&mut inside)?;
            }
            reply = match exit {
                Exit::TripleFault(fault) => self.crash(CrashCause::TripleFault(fault))?,
                Exit::Unrunnable(what) => self.crash(CrashCause::Unrunnable(what))?,
                exit => self.visit(Some(exit))?,
            };
            self.spot.go_on(What::Elsewhere);
            self.wait_for_console()?;
            self.wait_for_cpu(&mut inside)?;
            self.sample();
        }
        Ok(())
    }

    /// Waits while the VM is paused, and takes the pause out of the vCPU's time.
    fn stand_still(&mut self, inside: &mut Inside<'_>) -> Result<(), EngineError> {
        let life = self.life;
        let mut served = Ok(());
        inside.wait_outside(|| {
            served = self.serve();
            served.is_ok() && !life.is_over()
        });
        served?;
        let lost = life.time.lost_ticks();
        if lost != self.lost_ticks {
            self.vcpu
                .hold_tsc_back(lost.wrapping_sub(self.lost_ticks))?;
            self.lost_ticks = lost;
        }
        Ok(())
    }

    /// Shows the vCPU to who looks on, and has its engine look where somebody wants to hear of it.
    fn show(&mut self) -> Result<(), EngineError> {
        let vcpu = &mut *self.vcpu;
        vcpu.keep_memory_limit();
        if let Some(seat) = seat(self.life, self.vcpu_id)
            && seat.wants_program()
        {
            seat.take_down(&vcpu.state()?, &self.life.memory);
        }
        self.life
            .probing
            .serve(self.vcpu_id, vcpu, &mut self.probes);
        self.monitor.serve(self.vcpu_id, vcpu, self.rest)
    }

    /// In a pause: shows the vCPU to who looks on, and takes part in a change of engine.
    fn serve(&mut self) -> Result<(), EngineError> {
        self.show()?;
        let old = self
            .life
            .exchange
            .take_part(self.vcpu_id, &mut self.vcpu, &mut self.rest)?;
        if let Some(old) = old {
            self.probes = NOT_ASKED;
            self.take_seat();
            sums::add_vcpu(&mut self.account.statistics, &old.statistics());
        }
        Ok(())
    }

    /// Waits while the vCPUs have used more than they may.
    fn wait_for_cpu(&mut self, inside: &mut Inside<'_>) -> Result<(), EngineError> {
        let life = self.life;
        while life.quota.is_held() && !life.is_over() {
            let vcpu = &mut *self.vcpu;
            let mut shown = Ok(());
            life.quota.wait(|| {
                life.probing.serve(self.vcpu_id, vcpu, &mut self.probes);
                shown = self.monitor.serve(self.vcpu_id, vcpu, self.rest);
                shown.is_ok() && !life.is_over() && !life.gate.is_closed()
            });
            shown?;
            self.stand_still(inside)?;
        }
        Ok(())
    }

    /// Waits until the console has room again.
    fn wait_for_console(&mut self) -> Result<(), EngineError> {
        let life = self.life;
        let vcpu = &mut *self.vcpu;
        let mut shown = Ok(());
        life.output.wait_for_room(|| {
            life.probing.serve(self.vcpu_id, vcpu, &mut self.probes);
            shown = self.monitor.serve(self.vcpu_id, vcpu, self.rest);
            shown.is_ok() && !life.is_over() && !life.gate.is_closed()
        });
        shown
    }

    /// One visit to the room: the exit's access, then a look for interrupts.
    fn visit(&mut self, exit: Option<Exit>) -> Result<Reply, EngineError> {
        let life = self.life;
        let mut room = life.room();
        let reply = match exit {
            Some(exit) => self.answer(&mut room, exit),
            None => Reply::Done,
        };
        let bell = life.bells.of(self.vcpu_id);
        bell.answered();
        self.look(&mut room.board)?;
        if self.rest == Rest::None {
            bell.entering();
        }
        Ok(reply)
    }

    fn answer(&mut self, room: &mut Room, exit: Exit) -> Reply {
        let vcpu_id = self.vcpu_id;
        let now = self.life.time.now();
        let board = &mut room.board;
        let reply = match exit {
            Exit::PioRead { port, size } => Reply::Value(board.pio_read(now, port, size).into()),
            Exit::PioWrite { port, size, value } => {
                board.pio_write(now, port, size, value);
                Reply::Done
            }
            Exit::MmioRead { gpa, size } => Reply::Value(board.mmio_read(vcpu_id, now, gpa, size)),
            Exit::MmioWrite { gpa, size, value } => {
                board.mmio_write(vcpu_id, now, gpa, size, value);
                Reply::Done
            }
            Exit::MsrRead { msr } => match board.msr_read(vcpu_id, now, msr) {
                Ok(value) => Reply::Value(value),
                Err(_) => room.msrs.read(msr).map_or(Reply::Fault, Reply::Value),
            },
            Exit::MsrWrite { msr, value } => match board.msr_write(vcpu_id, now, msr, value) {
                Ok(()) => Reply::Done,
                Err(_) if room.msrs.write(msr, value) => Reply::Done,
                Err(_) => Reply::Fault,
            },
            Exit::TaskPriorityRead => Reply::Value(board.task_priority(vcpu_id).into()),
            Exit::TaskPriorityWrite { value } => {
                board.set_task_priority(vcpu_id, value);
                Reply::Done
            }
            Exit::Halt => {
                self.rest = Rest::Halted;
                Reply::Done
            }
            Exit::EndOfInterrupt { vector } => {
                board.end_of_interrupt(vector);
                Reply::Done
            }
            Exit::InterruptWindow | Exit::Kicked | Exit::TripleFault(_) | Exit::Unrunnable(_) => {
                return Reply::Done;
            }
        };
        room.settle(self.life, now);
        reply
    }

    /// Takes what waits for this vCPU: startup requests, NMI, interrupt.
    fn look(&mut self, board: &mut Board) -> Result<(), EngineError> {
        if self.vcpu.has_local_apic() {
            // One that somebody outside has sent; the guest's own are the engine's.
            while board.take_nmi(self.vcpu_id) {
                self.vcpu.inject(Injection::Nmi);
            }
            self.look_for_pic(board);
            return Ok(());
        }
        while let Some(startup) = board.take_startup(self.vcpu_id) {
            self.start_up(startup)?;
        }
        if self.rest == Rest::WaitsForSipi {
            return Ok(());
        }
        while board.take_nmi(self.vcpu_id) {
            self.vcpu.inject(Injection::Nmi);
            self.rest = Rest::None;
        }
        if board.has_interrupt(self.vcpu_id) && self.vcpu.can_inject() {
            // None where the controllers changed their mind: a spurious interrupt without a vector.
            if let Some(vector) = board.acknowledge(self.vcpu_id) {
                self.vcpu.inject(Injection::Interrupt(vector));
                self.rest = Rest::None;
            }
        }
        self.vcpu
            .set_interrupt_window(board.has_interrupt(self.vcpu_id));
        Ok(())
    }

    /// With its local APIC in the engine, only the 8259 pair of the board interrupts a vCPU.
    fn look_for_pic(&mut self, board: &mut Board) {
        if board.has_interrupt(self.vcpu_id)
            && self.vcpu.can_inject()
            && let Some(vector) = board.acknowledge(self.vcpu_id)
        {
            self.vcpu.inject(Injection::Interrupt(vector));
        }
        self.vcpu
            .set_interrupt_window(board.has_interrupt(self.vcpu_id));
    }

    fn start_up(&mut self, startup: Startup) -> Result<(), EngineError> {
        match startup {
            // INIT sends the first vCPU to firmware, which is not there: the machine starts again.
            Startup::Init if self.vcpu_id == 0 => self.life.end(End::Reset),
            Startup::Init => self.rest = Rest::WaitsForSipi,
            Startup::Sipi(page) if self.rest == Rest::WaitsForSipi => {
                self.vcpu.set_state(&sipi_state(page, &self.life.time))?;
                self.rest = Rest::None;
            }
            Startup::Sipi(_) => {}
        }
        Ok(())
    }

    fn crash(&mut self, cause: CrashCause) -> Result<Reply, EngineError> {
        let crash = Crash::new(cause, self.vcpu.state()?, &self.life.memory);
        self.life.end(End::Ending(Ending::Crashed(Box::new(crash))));
        Ok(Reply::Done)
    }

    fn count(&mut self, exit: &Exit) {
        self.account.exits.count(ExitKind::of(exit));
        self.monitor.count(&self.account.exits);
    }

    /// Measures for the markers that have just been seen.
    fn sample(&mut self) {
        for (marker, at) in self.life.output.take_seen() {
            let memory = Arc::clone(&self.life.memory);
            let helper = self.life.threads.helper();
            let sample = Sample {
                at,
                resident_bytes: helper.have_done(move || memory.resident_bytes().ok()),
                vmm_memory: self.life.have_measured(),
                vcpu_time: self.cpu_time(),
                statistics: self.vcpu.statistics(),
            };
            self.account.samples.push((marker, sample));
        }
    }
}
