//! What every life of a VM is assembled from, opened once; [`crate::build::opened`] says why.

use std::fs::File;
use std::num::NonZero;
use std::sync::Arc;

use host::jail::Kind;
use mem::{MemoryError, MemoryFile};
use paging::StartError;
use thiserror::Error;
use vcpu::EngineError;

use crate::attach::AttachError;
use crate::boot::{self, Image, ImageError, LoadedKernel, Module};
use crate::engine::EngineKind;
use crate::life::saved::SavedError;
use crate::limits::Limits;
use crate::plan::{ImagePlan, VmPlan};
use crate::report::footprint::Footprint;
use crate::threads::crew::Crew;
use crate::threads::helper::Helper;
use crate::threads::profiler::Profiler;

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
        /// What is wrong with the image.
        source: ImageError,
    },
    /// The engine could not be made.
    #[error("cannot make a vCPU on the engine {kind}")]
    Engine {
        /// The engine that was to run the guest.
        kind: EngineKind,
        /// What the engine said.
        source: EngineError,
    },
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// What a device stands on could not be opened.
    #[error("cannot give the VM its devices")]
    Attach(#[source] AttachError),
    /// What was saved of the guest cannot be gone on from.
    #[error("the guest cannot go on from its snapshot")]
    Saved(#[source] SavedError),
    /// A limit on what the host may hold cannot be kept here.
    #[error("cannot page guest memory")]
    Paging(#[source] StartError),
}

impl BuildError {
    /// What to do, if something can be done.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            BuildError::Attach(error) => error.help(),
            BuildError::Saved(error) => error.help(),
            _ => None,
        }
    }

    /// Whether what the user named is to blame, and not the host.
    pub fn is_bad_input(&self) -> bool {
        match self {
            BuildError::Attach(error) => error.is_bad_input(),
            BuildError::Saved(_) => true,
            _ => false,
        }
    }
}

/// What every life of a VM is assembled from.
pub(crate) struct Held {
    /// Where guest memory lies, emptied for each life.
    pub(crate) memory: Arc<MemoryFile>,
    pub(crate) kernel: Arc<LoadedKernel>,
    pub(crate) modules: Arc<Vec<Module>>,
    /// The vCPUs' threads.
    pub(crate) crew: Crew,
    /// Who looks where their time goes, if that is wanted.
    pub(crate) profiler: Option<Profiler>,
    /// Who does things for them.
    pub(crate) helper: Arc<Helper>,
    /// The kernel's account of this process.
    pub(crate) footprint: Arc<Footprint>,
    /// What the guest may use per second.
    pub(crate) limits: Limits,
    /// Cores of the host that this process may use; to count them takes files.
    pub(crate) core_count: usize,
}

impl Held {
    /// From the opened images, those of `plan`, and what belongs to this process.
    pub(crate) fn new(
        plan: &VmPlan,
        kernel: File,
        module_files: Vec<File>,
    ) -> Result<Held, BuildError> {
        let mut modules = Vec::new();
        for (module, file) in plan.modules.iter().zip(module_files) {
            modules.push(Module {
                image: image(module, file)?,
                string: module.string.clone(),
            });
        }
        let limits = Limits::new(&plan.rates);
        limits.engine.set(plan.engine_memory_bytes);
        let crew = Crew::new(plan.vcpu_count, vcpu_kind(plan), plan.profile.is_some());
        let crew = crew.map_err(BuildError::Thread)?;
        let running = plan.profile.as_ref().map(|it| it.running.clone());
        let profiler = crew
            .profiled()
            .map(|threads| Profiler::new(threads, running.unwrap_or_default()));
        Ok(Held {
            memory: Arc::new(memory_file(plan).map_err(BuildError::Memory)?),
            kernel: Arc::new(LoadedKernel::new(image(&plan.kernel, kernel)?)),
            modules: Arc::new(modules),
            profiler,
            crew,
            helper: Arc::new(Helper::new().map_err(BuildError::Thread)?),
            footprint: Arc::new(Footprint::open()),
            limits,
            core_count: std::thread::available_parallelism().map_or(1, NonZero::get),
        })
    }
}

/// What its vCPUs' threads may be asked to do.
fn vcpu_kind(plan: &VmPlan) -> Kind {
    let mut usable = plan.engines.iter().filter(|finding| finding.usable);
    if usable.any(|finding| finding.kind == EngineKind::Kvm) {
        Kind::KvmVcpu
    } else {
        Kind::Vcpu
    }
}

fn image(plan: &ImagePlan, file: File) -> Result<Image, BuildError> {
    Image::from_file(file).map_err(|source| image_error(plan, source))
}

/// What is said of an image that cannot be used.
pub(crate) fn image_error(plan: &ImagePlan, source: ImageError) -> BuildError {
    BuildError::Image {
        path: plan.path.display().to_string(),
        source,
    }
}

fn memory_file(plan: &VmPlan) -> Result<MemoryFile, MemoryError> {
    let slots = boot::slots(plan.memory_bytes);
    if !plan.paging.huge_pages {
        return MemoryFile::new(&slots).map(MemoryFile::with_view);
    }
    let file = MemoryFile::in_huge_pages(&slots)?;
    if !file.is_in_huge_pages() {
        tracing::warn!(
            "{}: this host gives no huge pages to this user; guest memory is in small ones",
            plan.name
        );
    }
    Ok(file.with_view())
}
