//! The old process: brings the guest to rest and gives it away, or has it go on.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use host::MemFd;
use host::at::FileAt;
use serde::Serialize;
use thiserror::Error;

use super::{Blobs, FORMAT, Handed, Words};
use crate::attach::handles::Devices;
use crate::build::Machine;
use crate::console::ConsoleInput;
use crate::console::output::Output;
use crate::console::recent::Recent;
use crate::control::MachineControl;
use crate::life::saved::LifeState;
use crate::outcome::refusal::SwitchError;

/// How long the guest's threads may take to come to rest and say what they are.
const REST_TIME: Duration = Duration::from_secs(25);
/// How long what the guest has printed may take to where it goes.
const PRINT_TIME: Duration = Duration::from_millis(500);

/// Why a VM was not given away. It goes on where it is.
#[derive(Debug, Error)]
pub enum NotGiven {
    /// Its guest did not come to rest, or cannot be written down.
    #[error(transparent)]
    Rest(#[from] SwitchError),
    /// It starts again just now, or has ended.
    #[error("its guest is starting again, or has ended")]
    NoLife,
    /// It is to end.
    #[error("it was asked to power off")]
    Stopping,
    /// The host may not hold all of its memory.
    #[error(
        "the host may not hold all of its memory, and pages that are away cannot be handed over; `mother limit NAME {lift}` lets them \
         come in"
    )]
    Limited {
        /// What takes the limit away.
        lift: &'static str,
    },
    /// Pages do not come in.
    #[error("pages that are away do not come in: {0}")]
    Away(String),
    /// A disk cannot be written.
    #[error("{name} cannot be written out")]
    Disk {
        /// Which disk.
        name: String,
        /// What the host said.
        source: io::Error,
    },
    /// What it has printed is on its way still.
    #[error("what the guest has printed is not written yet: its console is behind, or paced")]
    Behind,
    /// The host gives no memory for what it is.
    #[error("there is no memory for what the guest is")]
    Words(#[source] io::Error),
}

/// Gives a VM that runs away to another process.
#[derive(Clone)]
pub struct Giver {
    start: Instant,
    control: MachineControl,
    devices: Devices,
    input: ConsoleInput,
    output: Output,
    recent: Recent,
}

impl std::fmt::Debug for Giver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Giver").finish_non_exhaustive()
    }
}

impl Machine {
    /// For who has the VM go on in another process.
    pub fn giver(&self) -> Giver {
        let (start, input, recent) = self.ends();
        Giver {
            start,
            control: self.control(),
            devices: self.devices(),
            input,
            output: self.outside.output.clone(),
            recent,
        }
    }
}

impl Giver {
    /// From now on it may be given away.
    pub fn may_go(&self) {
        self.control.may_move();
    }

    /// It stays: a guest that rests to be given away goes on, and one that was to rest does not.
    pub fn stays(&self) {
        self.control.stays();
        self.control.door().open();
    }

    /// From when this returns no client is let in, until it [stays](Giver::stays): who comes waits for the other process.
    pub fn lets_nobody_in(&self) {
        self.control.door().shut();
    }

    /// Brings the guest to rest and says what it is, and since when it rests. It rests until it [stays](Giver::stays) or this
    /// process is killed.
    ///
    /// # Errors
    /// [`NotGiven`]: the guest goes on.
    pub fn give(&self) -> Result<(Handed, Instant), NotGiven> {
        self.bring_in()?;
        // While the guest runs, so that little is left for when it rests.
        self.write_disks_out()?;
        if self.control.is_stopping() {
            return Err(NotGiven::Stopping);
        }
        // A VM that is paused already has rested since then, which is nobody's waiting.
        let begun = Instant::now();
        let life = self.control.hand_over(REST_TIME)?;
        let given = self.written(life).map(|handed| (handed, begun));
        if given.is_err() {
            self.stays();
        }
        given
    }

    /// Brings everything in that is away, while the guest runs.
    fn bring_in(&self) -> Result<(), NotGiven> {
        let Some(pager) = self.control.paging().pager() else {
            return Ok(());
        };
        if pager.is_limited() {
            return Err(self.limited());
        }
        pager
            .bring_all()
            .map_err(|error| NotGiven::Away(paging::with_causes(&error)))
    }

    fn limited(&self) -> NotGiven {
        let said = self.control.limits_said();
        let lift = match (said.resident_bytes, said.host_bytes) {
            (Some(_), Some(_)) => "--resident none --host-limit none",
            (None, Some(_)) => "--host-limit none",
            (_, None) => "--resident none",
        };
        NotGiven::Limited { lift }
    }

    fn write_disks_out(&self) -> Result<(), NotGiven> {
        for disk in &self.control.ground().disks {
            disk.write_out().map_err(|source| NotGiven::Disk {
                name: disk.name().to_owned(),
                source,
            })?;
        }
        Ok(())
    }

    /// All that the guest is, which rests.
    fn written(&self, life: LifeState) -> Result<Handed, NotGiven> {
        let observed = self.control.observed().ok_or(NotGiven::NoLife)?;
        if self.control.is_stopping() {
            return Err(NotGiven::Stopping);
        }
        // A limit may have come since.
        let paging = self.control.paging();
        if paging.pager().is_some_and(|pager| !pager.is_all_in()) {
            return Err(self.limited());
        }
        if !self.output.is_written(PRINT_TIME) {
            return Err(NotGiven::Behind);
        }
        self.write_disks_out()?;
        let (printed_bytes, printed) = self.recent.kept();
        let blobs = Blobs {
            printed,
            typed: self.input.waiting(),
            frames: self.devices.unfinished_frames(),
        };
        let words = Words {
            format: FORMAT,
            life,
            engine: self.control.engine(),
            is_paused: self.control.is_paused(),
            is_in_huge_pages: observed.memory.is_in_huge_pages(),
            reboots: self.control.reboots(),
            age_ns: u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX),
            limits: self.control.limits_said(),
            is_unplugged: self.devices.is_unplugged(),
            claims: self.devices.claims(),
            printed_bytes,
            blobs: blobs.parts().map(<[u8]>::len),
        };
        let view = observed.memory.view().map(File::try_clone).transpose();
        Ok(Handed {
            words: filed(&words).map_err(NotGiven::Words)?,
            blobs: file_of(&blobs.parts().concat()).map_err(NotGiven::Words)?,
            memory: observed
                .memory
                .file()
                .try_clone()
                .map_err(NotGiven::Words)?,
            view: view.map_err(NotGiven::Words)?,
        })
    }
}

fn filed(words: &impl Serialize) -> io::Result<File> {
    file_of(&serde_json::to_vec(words)?)
}

/// A memory file of these bytes.
fn file_of(bytes: &[u8]) -> io::Result<File> {
    let file = MemFd::new(c"mother-handed", bytes.len() as u64)?;
    file.file().write_all_at(bytes, 0)?;
    file.file().try_clone()
}
