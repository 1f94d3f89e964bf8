//! Asking for the guest's state: what vCPUs and board are, as whoever takes a snapshot writes it down.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use api::LimitsSaid;
use devices::virtio::blk::Disk;

use crate::boot::Module;
use crate::control::MachineControl;
use crate::control::door::Door;
use crate::control::requests::{Answer, Request};
use crate::life::saved::LifeState;
use crate::outcome::refusal::SwitchError;
use crate::plan::VmPlan;

/// What a VM stands on in all its lives, for who wants to have it stand on the same elsewhere.
pub(crate) struct Ground {
    /// What it was built from.
    pub(crate) plan: VmPlan,
    /// What a reset loads beside the kernel.
    pub(crate) modules: Arc<Vec<Module>>,
    /// Device and inode of each disk's file: the path may be another's by now.
    pub(crate) disk_ids: Vec<(u64, u64)>,
    /// The disks themselves.
    pub(crate) disks: Vec<Arc<Disk>>,
}

impl MachineControl {
    /// The state of board and vCPUs. The guest rests for it, and is as before then: whoever wants it to be of one moment
    /// with something else has it [rest](MachineControl::rest) meanwhile.
    pub(crate) fn save(&self, patience: Duration) -> Result<LifeState, SwitchError> {
        if !self.0.ground.plan.folders.is_empty() {
            return Err(SwitchError::Folders);
        }
        self.taken(Request::Save, patience)
    }

    /// The same for another process to go on from it: the guest rests until it [stays](MachineControl::stays).
    pub(crate) fn hand_over(&self, patience: Duration) -> Result<LifeState, SwitchError> {
        self.taken(Request::HandOver, patience)
    }

    fn taken(
        &self,
        request: impl FnOnce(Answer<SwitchError>) -> Request,
        patience: Duration,
    ) -> Result<LifeState, SwitchError> {
        let (answer, answers) = mpsc::channel();
        let ticket = self.note(request(answer));
        let done = answers.recv_timeout(patience).unwrap_or_else(|_| {
            self.change(|requests, state, _| requests.take_back(ticket, state));
            // The answer may have come just before.
            answers.try_recv().unwrap_or(Err(SwitchError::TimedOut))
        });
        let mut saved = self.0.saved.lock();
        let place = saved.iter().position(|(of, _)| *of == ticket);
        let state = place.map(|place| saved.swap_remove(place).1);
        done?;
        Ok(state.expect("a state that was taken lies there until it is fetched"))
    }

    /// From now on the guest may be handed over to another process.
    pub(crate) fn may_move(&self) {
        self.change(|requests, _, _| requests.may_move());
    }

    /// The guest stays in this process, whatever was begun: it goes on if it rests to be handed over.
    pub(crate) fn stays(&self) {
        self.change(|requests, _, _| requests.stays());
        self.0.phase_changed.notify_all();
        self.call_attention();
    }

    /// Whether somebody has paused it.
    pub(crate) fn is_paused(&self) -> bool {
        self.inside().requests.is_paused()
    }

    /// Its limits, as they were said last.
    pub(crate) fn limits_said(&self) -> LimitsSaid {
        let (resident_bytes, page_memory_bytes) = self.0.paging.said();
        LimitsSaid {
            resident_bytes,
            page_memory_bytes: Some(page_memory_bytes),
            engine_bytes: self.engine_limit_bytes(),
            host_bytes: self.0.limits.host.limit_bytes(),
            rates: self.0.limits.said(),
        }
    }

    /// Of a VM that another process ran until now: how often its guest started again, and whether it is paused.
    pub(crate) fn go_on_from(&self, reboots: u64, is_paused: bool) {
        let mut inside = self.inside();
        inside.shown.reboots = reboots;
        inside.shown.begins_paused = is_paused;
        drop(inside);
        if is_paused {
            // It is answered when the life has begun, which nobody waits for here.
            let _ = self.tell(Request::Pause);
        }
    }

    /// Where clients come in.
    pub(crate) fn door(&self) -> &Door {
        &self.0.door
    }

    /// What the VM stands on.
    pub(crate) fn ground(&self) -> &Ground {
        &self.0.ground
    }
}
