//! A life as a plain value: what vCPUs, board and clock are at one moment of a pause, and a new life that goes on there.
//!
//! Memory is not in it, which is many times as much and is read while the guest rests, by whoever takes the snapshot.
//!
//! ```text
//! paused life ── take ──> LifeState ── JSON ──> LifeState ── Begin::Saved ──> a life that stands still
//! ```
//!
//! **Going on.** The new life is assembled as for a start, but for two things: nothing is loaded into its memory, which
//! lies in the snapshot ([`paging::Base`]), and before anybody runs its board and vCPUs become what was saved. The gate is
//! shut and time stands still all the while, so that devices' threads, which begin with their devices, wait; whoever runs the
//! life opens it.
//!
//! **Time.** Everything that a guest reads of time comes from its TSC. It goes on either from the moment of the snapshot
//! (frozen), or from there plus what has passed on the host since (host): then wall clock and monotonic clock are right at
//! once without anybody's help in the guest, timers that are due fire once, and a kernel with a paravirtual clock is told
//! that it was stopped, so that its watchdogs do not bark. It never goes back.
//!
//! **Who may have written it.** Anybody: what devices refuse is refused ([`devices::Unfit`]), and so is a vCPU that the engine
//! could not have left.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use devices::{Board, BoardState, Saved, Unfit};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use vcpu::{Engine, EngineError, Vcpu, VcpuState, XSAVE_BYTES};
use x86::CpuidTable;

use crate::life::Life;
use crate::life::handing::{hand_over, states};
use crate::life::msr::{MachineMsrs, MsrState};
use crate::outcome::refusal::SwitchError;
use crate::outcome::rest::Rest;
use crate::plan::ResumeClock;
use crate::threads::observe::VcpuMonitor;
use crate::threads::time::{GuestTime, TimeState};

/// The format that this code writes and reads.
const FORMAT: u32 = 1;
/// Nanoseconds of time that went by at once of which a guest is told.
const LATE_NS: u64 = 1_000_000_000;
/// Features that a guest may have and this host has not which are told by name; the others are counted.
const NAMED_MAX: usize = 4;

/// A vCPU that is about to run, and what it does until then.
pub(crate) type Ready = (Box<dyn Vcpu>, Rest);

/// What a life begins with.
pub(crate) struct Begun {
    /// What each vCPU does at first.
    pub(crate) rests: Vec<Rest>,
    pub(crate) msrs: MachineMsrs,
    pub(crate) typed: Vec<u8>,
    /// What each vCPU's thread had run and waited before, in nanoseconds.
    pub(crate) times: Vec<Option<(u64, u64)>>,
}

/// What a life is at a moment, apart from its memory.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LifeState {
    format: u32,
    /// Nanoseconds since 1970-01-01 UTC by the host's clock.
    wall_ns: u64,
    time: TimeState,
    /// Guest TSC minus host TSC by the machine's account, of which a guest may have moved its own.
    tsc_offset: u64,
    /// What each vCPU's CPUID shows.
    cpuid: Vec<CpuidTable>,
    vcpus: Vec<VcpuState>,
    /// Nanoseconds that each vCPU's thread ran and waited for the host, where the host tells.
    times: Vec<Option<(u64, u64)>>,
    board: BoardState,
    msrs: MsrState,
    /// What was typed and found no room yet.
    typed: Vec<u8>,
}

/// Why a life does not go on from what was saved.
#[derive(Debug, Error)]
pub enum SavedError {
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Read(String),
    /// It is of another version.
    #[error("it is of format {found}, and this version of Mother reads format {FORMAT}")]
    Format {
        /// What it says.
        found: u32,
    },
    /// It comes from a process of another version.
    #[error(
        "it comes from a process that says what a VM is in format {found}, and this version of Mother reads format {}",
        crate::upgrade::FORMAT
    )]
    Handed {
        /// What it says.
        found: u32,
    },
    /// It was made for another machine than was planned.
    #[error("it does not fit the machine that was planned: {0}")]
    Machine(&'static str),
    /// The guest may use what this host or engine lacks.
    #[error(
        "this host's processor, as this engine shows it, lacks what the guest was started with: {0}"
    )]
    Features(String),
    /// This host's time is another one.
    #[error(transparent)]
    Clock(Unfit),
    /// A device refuses its state.
    #[error(transparent)]
    Device(#[from] Unfit),
    /// A vCPU's state cannot be.
    #[error("the saved state of vCPU {vcpu_id} cannot be: {what}")]
    Vcpu {
        /// Which.
        vcpu_id: u32,
        /// What about it.
        what: &'static str,
    },
    /// Memory does not come.
    #[error("its memory cannot be read: {0}")]
    Memory(String),
}

impl SavedError {
    /// What to do, if something can be done.
    pub(crate) fn help(&self) -> Option<&'static str> {
        match self {
            SavedError::Format { .. } => Some(
                "restore it with the version that made it, which `mother snapshots inspect` names",
            ),
            SavedError::Handed { .. } => Some(
                "`mother suspend NAME` with the version that runs it and `mother restore NAME` with this one, if the guest need not \
                 stay connected; or start it anew",
            ),
            SavedError::Features(_) => Some(
                "restore it on a host with such a processor, or on the engine that it was made on",
            ),
            SavedError::Clock(_) => {
                Some("restore it on the host that it was made on, or on one with such a clock")
            }
            SavedError::Device(_) | SavedError::Machine(_) => {
                Some("restore it with as many vCPUs, disks and devices as it was made with")
            }
            SavedError::Read(_) | SavedError::Vcpu { .. } | SavedError::Memory(_) => Some(
                "`mother snapshots verify` looks at all of it; the snapshot itself is as it was",
            ),
        }
    }
}

/// Takes the state of `life`, which is paused.
pub(crate) fn take(life: &Life) -> Result<LifeState, SwitchError> {
    let vcpus = states(life)?;
    let monitors = Arc::clone(&life.monitors);
    let times = move || monitors.iter().map(VcpuMonitor::own_times).collect();
    let times = life.threads.helper().have_done(times);
    let room = life.room();
    Ok(LifeState {
        format: FORMAT,
        wall_ns: wall_now(),
        time: life.time.save(),
        tsc_offset: life.time.tsc_offset(),
        cpuid: life.cpuid.clone(),
        vcpus,
        times,
        board: room.board.save(),
        msrs: room.msrs.save(),
        typed: room.typed.clone(),
    })
}

fn wall_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_nanos() as u64
}

impl LifeState {
    /// From what was written.
    pub(crate) fn parse(text: &[u8]) -> Result<LifeState, SavedError> {
        /// What every format says.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let unread = |error: serde_json::Error| SavedError::Read(error.to_string());
        let Format { format } = serde_json::from_slice(text).map_err(unread)?;
        if format != FORMAT {
            return Err(SavedError::Format { found: format });
        }
        serde_json::from_slice(text).map_err(unread)
    }

    /// Refuses what another version took, of what came by another way than [`LifeState::parse`].
    pub(crate) fn check_format(&self) -> Result<(), SavedError> {
        match self.format {
            FORMAT => Ok(()),
            found => Err(SavedError::Format { found }),
        }
    }

    /// The time that goes on: it stands still until the life runs.
    pub(crate) fn time(&self, clock: ResumeClock) -> Result<GuestTime, SavedError> {
        let mut time = GuestTime::start();
        let away_ns = match clock {
            ResumeClock::Host => wall_now().saturating_sub(self.wall_ns),
            ResumeClock::Frozen => 0,
        };
        let mut state = self.time;
        state.go_ahead(away_ns);
        time.restore(state).map_err(SavedError::Clock)?;
        time.freeze();
        Ok(time)
    }

    /// Whether the guest, whose vCPUs have these tables here, finds everything that it was started with.
    pub(crate) fn check_features(&self, offered: &[CpuidTable]) -> Result<(), SavedError> {
        if self.cpuid.len() != offered.len() || self.vcpus.len() != offered.len() {
            return Err(SavedError::Machine("another number of vCPUs"));
        }
        let lacks = x86::cpu_model::lacking(&self.cpuid[0], &offered[0]);
        if lacks.is_empty() {
            return Ok(());
        }
        let mut words = lacks[..lacks.len().min(NAMED_MAX)].join(", ");
        if lacks.len() > NAMED_MAX {
            words.push_str(&format!(" and {} more", lacks.len() - NAMED_MAX));
        }
        Err(SavedError::Features(words))
    }

    /// What each vCPU's CPUID shows from now on: what it always showed.
    pub(crate) fn cpuid(&self) -> &[CpuidTable] {
        &self.cpuid
    }

    /// Has `board`, which has its devices, and the vCPUs of `engine` be what was saved. What each vCPU does at first.
    pub(crate) fn give(
        self,
        board: &mut Board,
        engine: &mut Engine,
        time: &GuestTime,
    ) -> Result<Begun, GiveError> {
        let is_late = time.now().since(self.time.now()) > LATE_NS;
        let moved = time.tsc_offset().wrapping_sub(self.tsc_offset);
        let mut states = self.vcpus;
        for (vcpu_id, state) in (0..).zip(&mut states) {
            check_vcpu(vcpu_id, state)?;
            state.msrs.tsc_offset = state.msrs.tsc_offset.wrapping_add(moved);
        }
        board.restore(self.board).map_err(SavedError::from)?;
        let tsc_adjusts: Vec<u64> = states.iter().map(|state| state.msrs.tsc_adjust).collect();
        let rests = hand_over(board, time, engine, states).map_err(GiveError::Engine)?;
        if is_late {
            board.tell_of_stop(time.now(), &tsc_adjusts);
        }
        let mut msrs = MachineMsrs::default();
        msrs.restore(self.msrs).map_err(SavedError::from)?;
        Ok(Begun {
            rests,
            msrs,
            typed: self.typed,
            times: self.times,
        })
    }
}

/// Why a state was not taken.
#[derive(Debug)]
pub(crate) enum GiveError {
    /// It cannot be.
    Saved(SavedError),
    /// The engine refused it.
    Engine(EngineError),
}

impl From<SavedError> for GiveError {
    fn from(error: SavedError) -> GiveError {
        GiveError::Saved(error)
    }
}

/// Offsets in the XSAVE area (SDM vol. 1, 13.4): MXCSR, and the header with XSTATE_BV, XCOMP_BV and reserved bytes.
const MXCSR: usize = 24;
const HEADER: usize = 512;
const HEADER_RESERVED: std::ops::Range<usize> = 528..576;
/// Bits of MXCSR that are not reserved.
const MXCSR_BITS: u32 = 0xffff;

/// Refuses what no processor could have left and restoring would fault on (SDM vol. 1, 13.8).
fn check_vcpu(vcpu_id: u32, state: &VcpuState) -> Result<(), SavedError> {
    let area: &[u8; XSAVE_BYTES] = &state.xsave;
    let word = |at: usize| {
        area[at..at + 8]
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte))
    };
    let what = if word(MXCSR) as u32 & !MXCSR_BITS != 0 {
        "MXCSR has reserved bits"
    } else if word(HEADER) & !state.xcr0 != 0 {
        "there is state of features that are off"
    } else if word(HEADER + 8) != 0 || area[HEADER_RESERVED].iter().any(|byte| *byte != 0) {
        "reserved bytes of the XSAVE header are not zero"
    } else if state.xcr0 & 1 == 0 || state.xcr0 & !host::cpu::xcr0() != 0 {
        "XCR0 has what this host has not"
    } else {
        return Ok(());
    };
    Err(SavedError::Vcpu { vcpu_id, what })
}
