//! What outlives a life, and how it makes the next one.

use std::sync::Arc;

use crate::attach::Attachment;
use crate::console::ConsoleInput;
use crate::console::output::Output;
use crate::control::MachineControl;
use crate::life::held::{BuildError, Held, image_error};
use crate::life::{AssemblyError, Begin, Life, Ready, VcpuMaker};
use crate::paging::Paging;
use crate::plan::VmPlan;
use mem::GuestMemory;
use paging::Base;

/// What outlives a life: it is lent to each.
pub(crate) struct Outside {
    pub(crate) held: Held,
    pub(crate) input: ConsoleInput,
    pub(crate) output: Output,
    pub(crate) attachments: Vec<Box<dyn Attachment>>,
    pub(crate) maker: VcpuMaker,
    pub(crate) paging: Paging,
    pub(crate) control: MachineControl,
}

impl Outside {
    /// The next life, which begins as a guest that starts does, or goes on from a snapshot.
    pub(crate) fn assemble(
        &mut self,
        plan: &VmPlan,
        begin: Begin,
    ) -> Result<(Life, Vec<Ready>), BuildError> {
        let input = self.input.clone();
        let output = self.output.clone();
        let kind = self.maker.kind;
        let begin_paging = |memory: &Arc<GuestMemory>, base: Option<&Arc<dyn Base>>| {
            let control = self.control.clone();
            self.paging.begin(
                &plan.name,
                kind,
                memory,
                base,
                Arc::new(move || control.paging_changed()),
            )
        };
        let attachments = &mut self.attachments;
        let maker = &self.maker;
        let assembled = Life::assemble(
            plan,
            &self.held,
            begin,
            (input, output),
            attachments,
            maker,
            begin_paging,
        );
        if assembled.is_err() {
            self.paging.end();
        }
        assembled.map_err(|error| match error {
            AssemblyError::Memory(source) => BuildError::Memory(source),
            AssemblyError::Image(source) => image_error(&plan.kernel, source),
            AssemblyError::Attach(source) => BuildError::Attach(source),
            AssemblyError::Paging(source) => BuildError::Paging(source),
            AssemblyError::Saved(source) => BuildError::Saved(source),
            AssemblyError::Engine(source) => BuildError::Engine {
                kind: self.maker.kind,
                source,
            },
        })
    }
}
