//! What outlives a life, and how it makes the next one.

use std::sync::Arc;

use mem::{GuestMemory, MemoryError};
use paging::StartError;
use thiserror::Error;
use vcpu::{EngineError, Vcpu};

use crate::attach::{AttachError, Attachment};
use crate::boot::ImageError;
use crate::console::ConsoleInput;
use crate::console::output::Output;
use crate::control::MachineControl;
use crate::engine::EngineKind;
use crate::life::{AssemblyError, Life, VcpuMaker};
use crate::paging::Paging;
use crate::plan::VmPlan;

/// Why a machine could not be built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The host gave no memory.
    #[error("cannot make guest memory")]
    Memory(#[source] MemoryError),
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
    /// What a device stands on could not be opened.
    #[error("cannot give the VM its devices")]
    Attach(#[source] AttachError),
    /// A limit on what the host may hold cannot be kept here.
    #[error("cannot page guest memory")]
    Paging(#[source] StartError),
}

/// What outlives a life: it is lent to each.
pub(crate) struct Outside {
    pub(crate) input: ConsoleInput,
    pub(crate) output: Output,
    pub(crate) attachments: Vec<Box<dyn Attachment>>,
    pub(crate) maker: VcpuMaker,
    pub(crate) paging: Paging,
    pub(crate) control: MachineControl,
}

impl Outside {
    /// The next life.
    pub(crate) fn assemble(
        &mut self,
        plan: &VmPlan,
    ) -> Result<(Life, Vec<Box<dyn Vcpu>>), BuildError> {
        let (input, output) = (self.input.clone(), self.output.clone());
        let begin_paging = |memory: &Arc<GuestMemory>| {
            let control = self.control.clone();
            self.paging.begin(
                &plan.name,
                memory,
                Arc::new(move || control.paging_changed()),
            )
        };
        let (attachments, maker) = (&mut self.attachments, &self.maker);
        let assembled = Life::assemble(plan, input, output, attachments, maker, begin_paging);
        if assembled.is_err() {
            self.paging.end();
        }
        assembled.map_err(|error| match error {
            AssemblyError::Memory(source) => BuildError::Memory(source),
            AssemblyError::Image { path, source } => BuildError::Image { path, source },
            AssemblyError::Attach(source) => BuildError::Attach(source),
            AssemblyError::Paging(source) => BuildError::Paging(source),
            AssemblyError::Engine(source) => BuildError::Engine {
                kind: self.maker.kind,
                source,
            },
        })
    }
}
