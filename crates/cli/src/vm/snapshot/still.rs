//! A guest whose programs stand still while it is written, so that in a clone none runs before its random numbers are others.
//!
//! The guest agent does it (`guests/toolbox/src/warden/agent/freeze.rs`) and undoes it when its connection ends, which in a clone
//! it has: so nothing has to be told to a clone, and a snapshot that nobody finishes leaves the guest as it was.

use std::time::Duration;

use api::agent::{from_agent, to_agent};
use fleet::{Agent, AgentError, OneVm};

/// How long the guest may take to come to rest, or to go on.
const PATIENCE: Duration = Duration::from_secs(8);

/// It stands still as long as this lives.
pub(super) struct Still(Agent);

impl Still {
    /// Has the agent of `vm` hold the guest still. One that does not answer is not waited for.
    ///
    /// # Errors
    /// [`AgentError`]: there is none, or it cannot.
    pub(super) fn hold(vm: &OneVm) -> Result<Still, AgentError> {
        let mut agent = Agent::connect(vm, Duration::ZERO)?;
        let gone = |_| AgentError::Cut;
        agent.set_patience(Some(PATIENCE)).map_err(gone)?;
        agent.say(to_agent::FREEZE, &[]).map_err(gone)?;
        match agent.hear()?.kind {
            from_agent::FROZEN => Ok(Still(agent)),
            _ => Err(AgentError::Strange),
        }
    }

    /// Lets the guest go on, and waits until it does.
    ///
    /// # Errors
    /// [`AgentError`]; it goes on all the same, as the connection ends.
    pub(super) fn let_go(mut self) -> Result<(), AgentError> {
        let gone = |_| AgentError::Cut;
        self.0.say(to_agent::THAW, &[]).map_err(gone)?;
        match self.0.hear()?.kind {
            from_agent::THAWED => Ok(()),
            _ => Err(AgentError::Strange),
        }
    }
}
