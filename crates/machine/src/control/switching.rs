//! Asking for another engine: whether it can be had is known before the guest is asked to rest, and from the plan: a VM
//! that runs does not look at the host again.

use std::time::Duration;

use crate::control::MachineControl;
use crate::control::requests::Request;
use crate::engine::{self, EngineKind, NoEngine};
use crate::outcome::refusal::SwitchError;

impl MachineControl {
    /// Moves the guest to the engine `wanted` (`kvm` or `soft`) and has it go on there, unless it was paused before.
    ///
    /// # Errors
    /// [`SwitchError`]: the guest is on its old engine then, and goes on.
    pub fn switch(&self, wanted: &str, patience: Duration) -> Result<(), SwitchError> {
        let choice = engine::choose(wanted, &self.0.engines)
            .map_err(|NoEngine { what, help }| SwitchError::NoEngine { what, help })?;
        if self.engine() == choice.kind {
            return Err(SwitchError::Already(choice.kind));
        }
        self.change_engine(choice.kind, patience)
    }

    /// The same without asking whether it makes sense.
    pub(crate) fn change_engine(
        &self,
        kind: EngineKind,
        patience: Duration,
    ) -> Result<(), SwitchError> {
        let request = |answer| Request::Switch(kind, answer);
        self.ask(request, patience, SwitchError::TimedOut)
    }
}
