//! Everything of the host that a VM needs, opened once: between the plan and the first guest instruction.
//!
//! # Problem
//!
//! A VM's process is to lock itself in before it runs code that nobody vouches for: no path of the host can be opened
//! then, no socket made, nothing mounted, no process started. A VM that opens its kernel again at every reset, or
//! `/dev/kvm` when it changes its engine, could not be locked in, or would break at its first `reboot`; and whoever
//! exchanges a file meanwhile exchanges the guest.
//!
//! # Invariant
//!
//! ```text
//! VmPlan ── collect ──> Descriptors ── open ──> Opened ── assemble ──> Machine ── run ──> Report
//!           paths,                     what is   every descriptor      opens nothing, in no life: not
//!           sockets, passt             its own   of every life         for a reset, a change of engine,
//!                                                                      a new limit, an observer, or the
//!                                                                      report
//! ```
//!
//! [`collect`] is the only code of a machine that sees a path of the user's, and may run in another process
//! ([`crate::build::descriptors`]): kernel, initrd and modules; disks with their bases, locked; what the network and the socket
//! device stand on; the page file; `/dev/kvm`, if KVM works here, whichever engine the guest begins on. [`open`] adds
//! what belongs to an address space and its threads, which is why it runs in the process that runs the guest: the file of
//! guest memory, and a second descriptor of it that can only read; the userfaultfd, `pagemap`, `smaps`, and one thread for
//! each vCPU with its `schedstat`.
//!
//! After it there are: memory files, eventfds, threads, connections that come in through a socket which listens, KVM's
//! descriptors, which it makes from its own. None of them has a path.
//!
//! # For who locks it in
//!
//! Between [`open`] and [`Opened::assemble`] threads are there already, all of them asleep: a filter has to be set for
//! all threads at once, as [`host::jail`] does, which holds the invariant; each thread
//! puts up what is its own when it is asked to ([`Opened::have_threads`]). What still needs the host later, a guest's
//! connection to a socket of the host, is asked of a [`Broker`].

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Instant;

use api::LimitsSaid;
use devices::virtio::net::Unfinished;
use mem::MemoryFile;

use crate::attach::block::DiskFiles;
use crate::attach::broker::{Broker, InProcess};
use crate::attach::handles::{Devices, Handles};
use crate::attach::{self, Attachment};
use crate::build::Machine;
use crate::build::descriptors::{Descriptors, Kept, collect};
use crate::console::Console;
use crate::console::output::Output;
use crate::console::recent::Recent;
use crate::control::{Ground, MachineControl};
use crate::engine::{EngineKind, Engines};
use crate::life::held::{BuildError, Held};
use crate::life::restored::{Restored, SavedFiles};
use crate::life::saved::SavedError;
use crate::life::{Begin, VcpuMaker};
use crate::paging::Paging;
use crate::plan::VmPlan;
use crate::run::outside::Outside;

/// Everything that a VM needs of the host; nothing of it runs yet.
pub struct Opened {
    plan: VmPlan,
    held: Held,
    maker: VcpuMaker,
    handles: Handles,
    attachments: Vec<Box<dyn Attachment>>,
    paging: Paging,
    broker: Arc<dyn Broker>,
    saved: Option<SavedFiles>,
    /// Disks that are opened when the machine is assembled: another process writes them until then.
    late: Vec<DiskFiles>,
    /// Device and inode of each disk.
    disks: Vec<(u64, u64)>,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

/// Opens what the process that will run the guest has to open itself, beside what it was given. What the guest needs of
/// the host later is asked of `broker`.
///
/// # Errors
/// [`BuildError`] when the host refuses something or a file changed since it was planned.
pub fn open(
    plan: VmPlan,
    descriptors: Descriptors,
    broker: &Arc<dyn Broker>,
) -> Result<Opened, BuildError> {
    let kind = plan.engine.kind;
    let maker = |engines: Engines| maker(kind, engines);
    open_for(plan, descriptors, broker, false, maker)
}

/// The same for a machine that will [go on](Opened::go_on) with a guest that another process runs still: nothing is read of its
/// disks, and none of its sockets is closed for others, whatever becomes of this one.
///
/// # Errors
/// As [`open`].
pub fn open_beside(
    plan: VmPlan,
    descriptors: Descriptors,
    broker: &Arc<dyn Broker>,
) -> Result<Opened, BuildError> {
    let kind = plan.engine.kind;
    let maker = |engines: Engines| maker(kind, engines);
    open_for(plan, descriptors, broker, true, maker)
}

fn maker(kind: EngineKind, engines: Engines) -> VcpuMaker {
    VcpuMaker {
        kind,
        limit: engines.cpuid_limit(),
        make: Box::new(move |kind, memory, tables| engines.make(kind, memory, tables)),
    }
}

/// Opens what `plan` names and assembles it, for a process that does all of it itself.
///
/// # Errors
/// [`BuildError`] when the host refuses something or a file changed since it was planned.
pub fn build(plan: VmPlan, console: Console) -> Result<Machine, BuildError> {
    let nobody: Arc<dyn Fn() + Send + Sync> = Arc::new(|| ());
    let (descriptors, kept) = collect(&plan, &nobody)?;
    let vsock = plan.vsock.clone();
    let broker: Arc<dyn Broker> = Arc::new(InProcess { vsock });
    let machine = open(plan, descriptors, &broker)?.assemble(console)?;
    Ok(machine.keep(kept))
}

/// The same for vCPUs of `maker`'s own.
pub(crate) fn open_for(
    plan: VmPlan,
    descriptors: Descriptors,
    broker: &Arc<dyn Broker>,
    goes_on: bool,
    maker: impl FnOnce(Engines) -> VcpuMaker,
) -> Result<Opened, BuildError> {
    let Descriptors {
        kernel,
        modules,
        disks,
        folders,
        wire,
        listeners,
        page_file,
        kvm,
        faults,
        saved,
    } = descriptors;
    let held = Held::new(&plan, kernel, modules)?;
    let ids = disks.iter().map(|disk| {
        let looked = disk.image.metadata();
        looked.map_or((0, 0), |looked| (looked.dev(), looked.ino()))
    });
    let ids = ids.collect();
    let handles = Handles::new(&plan).map_err(BuildError::Attach)?;
    let (disks, late) = match goes_on {
        true => (Vec::new(), disks),
        false => (disks, Vec::new()),
    };
    let opened = attach::Opened {
        disks,
        folders,
        wire,
        listeners,
    };
    let attachments = attach::attach(&plan, opened, &handles, broker, goes_on);
    Ok(Opened {
        attachments: attachments.map_err(BuildError::Attach)?,
        paging: Paging::open(
            &plan.paging,
            page_file,
            faults.as_ref(),
            plan.host_limit_bytes.is_some(),
        )
        .map_err(BuildError::Paging)?,
        maker: maker(Engines::new(kvm).map_err(BuildError::Thread)?),
        plan,
        held,
        handles,
        broker: Arc::clone(broker),
        saved,
        late,
        disks: ids,
    })
}

/// How the first life begins.
fn begin(plan: &VmPlan, saved: Option<SavedFiles>) -> Result<Begin, SavedError> {
    match (&plan.restore, saved) {
        (Some(restore), Some(files)) => {
            let restored = Restored::read(files, plan.memory_bytes, restore.clock)?;
            Ok(Begin::Saved(Box::new(restored)))
        }
        _ => Ok(Begin::Boot),
    }
}

impl Opened {
    /// Has every thread that is there already do something; all have when this comes back.
    pub fn have_threads(&self, act: fn()) {
        self.held.crew.have_all(act);
        self.held.helper.have_done(act);
    }

    /// Assembles the machine: memory, board, engine, and the images in their places. The VM's time starts here.
    ///
    /// # Errors
    /// [`BuildError`] when the host refuses something or an image does not fit.
    pub fn assemble(mut self, console: Console) -> Result<Machine, BuildError> {
        // What a snapshot says is read by a process that has locked itself in.
        let begin = begin(&self.plan, self.saved.take()).map_err(BuildError::Saved)?;
        self.assemble_from(console, begin)
    }

    /// What will be built.
    pub(crate) fn plan(&self) -> &VmPlan {
        &self.plan
    }

    /// Has the machine stand on the memory that another process has given away, and on disks as that has left them, and begin on
    /// this engine.
    pub(crate) fn begin_on(
        &mut self,
        memory: MemoryFile,
        kind: EngineKind,
    ) -> Result<(), BuildError> {
        self.held.memory = Arc::new(memory);
        self.maker.kind = kind;
        let late = std::mem::take(&mut self.late);
        let disks = attach::disks(&self.plan, late).map_err(BuildError::Attach)?;
        // Where they are in a list of devices always.
        let before = attach::BEFORE_DISKS;
        self.attachments.splice(before..before, disks);
        Ok(())
    }

    /// Has the VM begin within these limits, and not those it was started with.
    pub(crate) fn begin_within(&mut self, limits: &LimitsSaid) {
        self.plan.host_limit_bytes = limits.host_bytes;
        self.held.limits.set(&limits.rates);
        self.held.limits.engine.set(limits.engine_bytes);
        let resident = Some(limits.resident_bytes);
        if let Err(why) = self.paging.set(resident, limits.page_memory_bytes) {
            tracing::debug!("memory is not paged: {why}");
        }
    }

    /// Has the network card begin with what another process left unfinished; false if that cannot be.
    pub(crate) fn begin_with_frames(&self, frames: &Unfinished) -> bool {
        let port = self.attachments.iter().find_map(|it| it.port());
        port.map_or_else(
            || *frames == Unfinished::default(),
            |port| port.begin_with(frames),
        )
    }

    /// Assembles it for a life that begins like this.
    pub(crate) fn assemble_from(
        self,
        console: Console,
        begin: Begin,
    ) -> Result<Machine, BuildError> {
        let start = Instant::now();
        let Opened {
            plan,
            held,
            maker,
            handles,
            mut attachments,
            paging,
            broker,
            saved: _,
            late: _,
            disks,
        } = self;
        let Console {
            output: sink,
            input,
            channels,
        } = console;
        let output = Output::new(start, &plan.markers);
        let console = attach::console(&plan, &input, &output, channels, &handles);
        attachments.insert(0, console.map_err(BuildError::Attach)?);
        let limits = held.limits.clone();
        let footprint = Arc::clone(&held.footprint);
        let devices = Devices::new(&attachments, handles, &limits);
        limits.host.begin(&plan, &paging, &limits.engine);
        let time_up = plan.timeout.map(|limit| start + limit);
        let engine = maker.kind;
        let ground = Ground {
            plan: plan.clone(),
            modules: Arc::clone(&held.modules),
            disk_ids: disks,
            disks: attachments.iter().filter_map(|it| it.disk()).collect(),
        };
        let control =
            MachineControl::new(ground, paging.clone(), limits, broker, footprint, time_up);
        control.begins_on(engine);
        let mut outside = Outside {
            held,
            input,
            output,
            attachments,
            maker,
            paging,
            control: control.clone(),
        };
        let first = outside.assemble(&plan, begin)?;
        Ok(Machine {
            plan,
            start,
            control,
            devices,
            recent: Recent::default(),
            sink,
            outside,
            first,
            reboots: 0,
            kept: Kept::default(),
        })
    }
}
