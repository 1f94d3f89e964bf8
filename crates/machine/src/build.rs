//! From a plan to a machine: the only code that opens what a VM runs on.

use mem::MemoryError;
use thiserror::Error;
use vcpu::EngineError;

use crate::boot::ImageError;
use crate::console::Console;
use crate::control::MachineControl;
use crate::engine::EngineKind;
use crate::plan::VmPlan;
use crate::report::Report;

/// Why a machine could not be built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The host gave no memory.
    #[error("cannot make guest memory")]
    Memory(#[from] MemoryError),
    /// An image changed since the plan, or does not fit.
    #[error("cannot load {path}")]
    Image {
        /// Which file.
        path: String,
        /// Why.
        source: ImageError,
    },
    /// The engine could not be made.
    #[error("cannot make a vCPU on the engine {kind}")]
    Engine {
        /// Which.
        kind: EngineKind,
        /// Why.
        source: EngineError,
    },
    /// The engine is not part of this build.
    #[error("the engine {0} is not built yet")]
    NoEngine(EngineKind),
}

/// Why a machine that ran could not go on. Never the guest's fault.
#[derive(Debug, Error)]
pub enum MachineError {
    /// The engine gave up.
    #[error("the engine cannot go on")]
    Engine(#[from] EngineError),
    /// A reset could not load the images again.
    #[error("cannot start the guest again")]
    Reboot(#[source] BuildError),
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// The console's writer failed.
    #[error("cannot write to the console")]
    Console(#[source] std::io::Error),
}

/// One VM, ready to run.
#[derive(Debug)]
pub struct Machine {
    control: MachineControl,
}

impl Machine {
    /// A handle to act on the VM from another thread.
    pub fn control(&self) -> MachineControl {
        self.control.clone()
    }

    /// Runs the guest until it ends, is stopped, or its time is up.
    ///
    /// # Errors
    /// [`MachineError`] when Mother failed; whatever the guest does is an [`crate::Ending`].
    pub fn run(self) -> Result<Report, MachineError> {
        Err(MachineError::Engine(EngineError::Internal("no engine is built yet".to_owned())))
    }
}

/// Builds what `plan` says: memory, board, engine, and the images in their places.
///
/// # Errors
/// [`BuildError`] when the host refuses something or a file changed since it was planned.
pub fn build(plan: VmPlan, console: Console) -> Result<Machine, BuildError> {
    drop(console);
    Err(BuildError::NoEngine(plan.engine.kind))
}
