//! One life of a guest: from its first instruction to power-off, crash, or reset.
//!
//! A reset builds everything anew, memory, board and vCPUs, through the same assembly as the start. So a guest that
//! starts again finds exactly what it found the first time, and nothing of ours survives that could be stale.
//!
//! Locks, in the order in which they may be taken: the room (board and MSRs; held for one visit, never across guest
//! code or a write to the console), then the console's queues, an alarm or a bell. The end is under its own lock.

mod assemble;
mod firmware;
pub(crate) mod handing;
pub(crate) mod held;
mod msr;
pub(crate) mod restored;
mod room;
pub(crate) mod saved;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use host::lock::Lock;
use mem::GuestMemory;
use x86::CpuidTable;

use crate::boot::LoadedKernel;
use crate::console::ConsoleInput;
use crate::console::output::Output;
use crate::outcome::ending::Ending;
use crate::report::VmmMemory;
use crate::report::footprint::Footprint;
use crate::threads::alarm::Alarm;
use crate::threads::bell::{Bell, Bells};
use crate::threads::device_threads::DeviceThreads;
use crate::threads::engine_limit::EngineLimit;
use crate::threads::exchange::Exchange;
use crate::threads::gate::Gate;
use crate::threads::mailbox::Mailbox;
use crate::threads::observe::{Observed, VcpuMonitor};
use crate::threads::probing::Probing;
use crate::threads::profiler::Seat;
use crate::threads::quota::Quota;
use crate::threads::time::GuestTime;
#[cfg(test)]
pub(crate) use assemble::MakeVcpus;
pub(crate) use assemble::{AssemblyError, Begin, VcpuMaker};
pub(crate) use firmware::sipi_state;
pub(crate) use room::{Room, Visit};
pub(crate) use saved::Ready;

/// Why a life is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// And the VM with it.
    Ending(Ending),
    /// The guest asked for a reset.
    Reset,
    /// The console's writer failed: nobody would see what the guest says.
    ConsoleLost,
}

/// What all threads of one life share.
pub(crate) struct Life {
    pub(crate) memory: Arc<GuestMemory>,
    /// The kernel file that was loaded.
    kernel: Arc<LoadedKernel>,
    pub(crate) time: GuestTime,
    pub(crate) bells: Arc<Bells>,
    /// What each vCPU shows.
    pub(crate) monitors: Arc<Vec<VcpuMonitor>>,
    /// Who hears of what the guest's kernel passes.
    pub(crate) probing: Arc<Probing>,
    /// What each vCPU's CPUID shows.
    pub(crate) cpuid: Vec<CpuidTable>,
    /// What each vCPU's thread is profiled by, if it is.
    pub(crate) seats: Option<Arc<Vec<Seat>>>,
    /// Where vCPUs change their engine.
    pub(crate) exchange: Exchange,
    pub(crate) alarm: Arc<Alarm>,
    pub(crate) output: Output,
    /// What the process costs the host.
    pub(crate) footprint: Arc<Footprint>,
    /// What all threads that do something for the guest pass.
    pub(crate) gate: Arc<Gate>,
    /// Where vCPUs wait that have used more than they may.
    pub(crate) quota: Arc<Quota>,
    /// How much the engine may hold.
    pub(crate) engine_limit: Arc<EngineLimit>,
    pub(crate) threads: Arc<DeviceThreads>,
    /// What is typed on the serial port; none if the console is another.
    input: Option<ConsoleInput>,
    room: Arc<Lock<Room>>,
    mailbox: Arc<Mailbox>,
    over: AtomicBool,
    end: Lock<Option<End>>,
}

impl Life {
    /// Enters the room.
    pub(crate) fn room(&self) -> Visit<'_> {
        let inside = Some(self.room.lock());
        Visit {
            inside,
            cell: &self.room,
            mailbox: &self.mailbox,
        }
    }

    /// The kernel file that was loaded.
    pub(crate) fn kernel(&self) -> &LoadedKernel {
        &self.kernel
    }

    /// What is shown of it; it is life number `life`.
    pub(crate) fn observed(&self, life: u64) -> Observed {
        Observed {
            life,
            memory: Arc::clone(&self.memory),
            kernel: Arc::clone(&self.kernel),
            time: self.time.clone(),
            monitors: Arc::clone(&self.monitors),
            bells: Arc::clone(&self.bells),
            gate: Arc::clone(&self.gate),
            probing: Arc::clone(&self.probing),
            board: Box::new(room::board_meter(&self.room, &self.mailbox)),
        }
    }

    /// What the process costs the host now, measured for a vCPU's thread.
    pub(crate) fn have_measured(&self) -> Option<VmmMemory> {
        let footprint = Arc::clone(&self.footprint);
        self.threads.helper().have_done(move || footprint.measure())
    }

    /// Looks at what the VM has used and may use; when to look again, if there is a limit.
    pub(crate) fn look_at_quota(&self) -> Option<Instant> {
        let used = host::cpu::process_cpu_time;
        let call = || self.bells.all().iter().for_each(Bell::ring_always);
        self.quota.look(used, call);
        self.quota.next_look()
    }

    /// Whether threads should come to their end.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Ends this life and calls all its threads. The first reason counts.
    pub(crate) fn end(&self, reason: End) {
        self.end.lock().get_or_insert(reason);
        self.call_off();
    }

    /// Calls all threads to their end, also without a reason: one of them failed.
    pub(crate) fn call_off(&self) {
        self.over.store(true, Ordering::Release);
        self.bells.all().iter().for_each(Bell::ring_always);
        self.gate.call();
        vcpu::Kick::kick(&*self.alarm);
    }

    /// Why it ended.
    pub(crate) fn take_end(&self) -> Option<End> {
        self.end.lock().take()
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.probing.finish();
        // Before the room goes: a thread that is just inside must not be the one who drops its own device.
        self.threads.stop_all();
    }
}
