//! From a plan to a machine, and the machine's way from life to life.
//!
//! What a reset does is the plan's to say ([`OnReset`]). The default is what every machine does: the guest starts
//! again, whichever way it asked (the reset register 0xcf9, the keyboard controller, port 0x92, the ACPI reset
//! register, which is 0xcf9). Guests ask for a reset when they mean one: `reboot`, `panic=1`, an installer's last
//! step. A test kernel or a CI job that must not come back says so with `--no-reboot`, and then every reset ends the
//! VM as power-off does. A triple fault is no request: it is how a kernel dies, so it ends the VM as a crash in both
//! cases, with the registers to show.

use std::fmt;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use mem::{GuestMemory, MemoryError};
use paging::StartError;
use thiserror::Error;
use vcpu::{EngineError, Vcpu};

use crate::accounts::Accounts;
use crate::attach::{self, AttachError, Attachment, Handles};
use crate::attendant::attend;
use crate::boot::ImageError;
use crate::console::{Console, ConsoleInput};
use crate::control::{MachineControl, Phase, StopCause};
use crate::engine::{self, EngineKind};
use crate::life::{AssemblyError, End, Life, VcpuMaker};
use crate::output::Output;
use crate::paging::Paging;
use crate::plan::{OnReset, VmPlan};
use crate::recent::Recent;
use crate::report::{Ending, Report};
use crate::vcpu_thread::{self, VcpuAccount};

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

/// Why a machine that ran could not go on. Never the guest's fault.
#[derive(Debug, Error)]
pub enum MachineError {
    /// The engine gave up.
    #[error("the engine cannot go on")]
    Engine(#[from] EngineError),
    /// A reset could not build the guest again.
    #[error("cannot start the guest again")]
    Reboot(#[source] BuildError),
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// The console's writer failed.
    #[error("cannot write to the console")]
    Console(#[source] std::io::Error),
    /// Pages of the guest that were put away do not come back.
    #[error("the guest was stopped, because pages of its memory do not come back: {0}")]
    Paging(String),
}

/// One VM, ready to run.
pub struct Machine {
    plan: VmPlan,
    start: Instant,
    control: MachineControl,
    recent: Recent,
    sink: Box<dyn Write + Send>,
    outside: Outside,
    first: (Life, Vec<Box<dyn Vcpu>>),
}

/// What outlives a life: it is lent to each.
struct Outside {
    input: ConsoleInput,
    output: Output,
    attachments: Vec<Box<dyn Attachment>>,
    maker: VcpuMaker,
    paging: Paging,
    control: MachineControl,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

/// Builds what `plan` says: memory, board, engine, and the images in their places. The VM's time starts here.
///
/// # Errors
/// [`BuildError`] when the host refuses something or a file changed since it was planned.
pub fn build(plan: VmPlan, console: Console) -> Result<Machine, BuildError> {
    let maker = VcpuMaker {
        kind: plan.engine.kind,
        make: Box::new(engine::make),
        limit: engine::cpuid_limit(),
    };
    build_on(plan, console, maker)
}

/// Builds on an engine of the caller's choice.
pub(crate) fn build_on(
    plan: VmPlan,
    console: Console,
    maker: VcpuMaker,
) -> Result<Machine, BuildError> {
    let start = Instant::now();
    let Console {
        output: sink,
        input,
    } = console;
    let output = Output::new(start, &plan.markers);
    let handles = Handles::new().map_err(BuildError::Attach)?;
    let attachments = attach::open(&plan, &input, &output, &handles).map_err(BuildError::Attach)?;
    let paging = Paging::new(&plan.paging);
    let control = MachineControl::new(plan.engine.kind, paging.clone());
    let mut outside = Outside {
        input,
        output,
        attachments,
        maker,
        paging,
        control: control.clone(),
    };
    let first = outside.assemble(&plan)?;
    control.set_devices(first.0.counters.clone(), handles);
    let recent = Recent::default();
    Ok(Machine {
        plan,
        start,
        control,
        recent,
        sink,
        outside,
        first,
    })
}

impl Outside {
    /// The next life.
    fn assemble(&mut self, plan: &VmPlan) -> Result<(Life, Vec<Box<dyn Vcpu>>), BuildError> {
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

impl Machine {
    /// A handle to act on the VM from another thread.
    pub fn control(&self) -> MachineControl {
        self.control.clone()
    }

    /// When its time began, and the console's two ends, for the control socket.
    pub(crate) fn ends(&self) -> (Instant, ConsoleInput, Recent) {
        (self.start, self.outside.input.clone(), self.recent.clone())
    }

    /// Runs the guest until it ends, is stopped, or its time is up.
    ///
    /// # Errors
    /// [`MachineError`] when Mother failed; whatever the guest does is an [`Ending`].
    pub fn run(self) -> Result<Report, MachineError> {
        let Machine {
            plan,
            start,
            control,
            recent,
            sink,
            outside,
            first,
        } = self;
        let mut sink = Shown {
            recent: recent.clone(),
            sink,
        };
        let (input, output) = (outside.input.clone(), outside.output.clone());
        let writer_output = output.clone();
        let writer_control = control.clone();
        let writer = std::thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || {
                writer_output.write_to(&mut sink);
                writer_control.call_attention();
            });
        writer.map_err(MachineError::Thread)?;
        let lived = live(
            plan.clone(),
            control.clone(),
            outside,
            first,
            Accounts::new(start),
        );
        let (ending, accounts) = match lived {
            Ok((ending, accounts)) => (ending, Some(accounts)),
            Err(error) => (Err(error), None),
        };
        control.set_phase(Phase::Ended);
        input.close();
        // Whoever stopped the VM or set it a limit is not made to wait for a console that nobody reads.
        let patient = matches!(&ending, Ok(ending) if !matches!(ending, Ending::Stopped(_) | Ending::TimedOut));
        let drained = output.finish(|| patient && !control.is_stopped());
        recent.close();
        let ending = ending?;
        drained.map_err(MachineError::Console)?;
        let accounts = accounts.expect("who has an ending has accounts");
        Ok(accounts.report(&plan, ending, &output, control.device_counters()))
    }
}

/// The console's output on its way: remembered for those who look on, then written.
struct Shown {
    recent: Recent,
    sink: Box<dyn Write + Send>,
}

impl Write for Shown {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.recent.push(bytes);
        self.sink.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.sink.flush()
    }
}

/// What the thread that lives the lives leaves.
type Lived = (Result<Ending, MachineError>, Accounts);

/// Lives until the VM ends, on a thread of its own: when pages of the guest do not come back, whoever waits for one
/// waits for ever, and is left behind.
fn live(
    plan: VmPlan,
    control: MachineControl,
    mut outside: Outside,
    first: (Life, Vec<Box<dyn Vcpu>>),
    mut accounts: Accounts,
) -> Result<Lived, MachineError> {
    let (sender, receiver) = mpsc::channel();
    let broken = sender.clone();
    control.when_broken(Box::new(move |why| drop(broken.send(Err(why)))));
    let thread = std::thread::Builder::new()
        .name("attendant".to_owned())
        .spawn(move || {
            let lives = || run_lives(&plan, &control, &mut outside, first, &mut accounts);
            let ending = catch_unwind(AssertUnwindSafe(lives));
            outside.paging.end();
            // Nobody listens any more if the VM broke.
            let _ = sender.send(Ok((ending, accounts)));
        });
    thread.map_err(MachineError::Thread)?;
    match receiver
        .recv()
        .expect("the thread says something before it ends")
    {
        Ok((Ok(ending), accounts)) => Ok((ending, accounts)),
        Ok((Err(panic), _)) => resume_unwind(panic),
        Err(why) => Err(MachineError::Paging(why)),
    }
}

/// From life to life until the VM ends.
fn run_lives(
    plan: &VmPlan,
    control: &MachineControl,
    outside: &mut Outside,
    first: (Life, Vec<Box<dyn Vcpu>>),
    accounts: &mut Accounts,
) -> Result<Ending, MachineError> {
    let time_up = plan.timeout.map(|limit| accounts.start + limit);
    let (mut life, mut vcpus) = first;
    loop {
        let end = run_life(&life, vcpus, control, outside, time_up, accounts)?;
        accounts.life_ended(&life);
        control.set_observed(None);
        match end {
            End::Ending(ending) => return Ok(ending),
            End::Reset if plan.on_reset == OnReset::End => return Ok(Ending::PoweredOff),
            // `Machine::run` finds out how it failed.
            End::ConsoleLost => return Ok(Ending::Stopped(StopCause::Left)),
            End::Reset => {}
        }
        accounts.reboots += 1;
        control.count_reboot();
        // The old life goes first: two at once would be twice the guest's memory.
        drop(life);
        outside.paging.end();
        // It goes on where the last one was.
        outside.maker.kind = control.engine();
        (life, vcpus) = outside.assemble(plan).map_err(MachineError::Reboot)?;
    }
}

/// Ends a life whose thread panics, so that the others do not wait for it.
struct EndOnDrop<'a>(&'a Life);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.call_off();
        }
    }
}

/// Runs one life: a thread for each vCPU, and this one attends.
fn run_life(
    life: &Life,
    vcpus: Vec<Box<dyn Vcpu>>,
    control: &MachineControl,
    outside: &Outside,
    time_up: Option<Instant>,
    accounts: &mut Accounts,
) -> Result<End, MachineError> {
    control.set_observed(Some(Arc::new(life.observed(accounts.reboots))));
    control.set_attention(Arc::clone(&life.alarm) as Arc<dyn vcpu::Kick>);
    let alarm = Arc::clone(&life.alarm);
    outside
        .input
        .on_arrival(Box::new(move || vcpu::Kick::kick(&*alarm)));
    let results: Vec<Result<VcpuAccount, MachineError>> = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (vcpu_id, vcpu) in (0..).zip(vcpus) {
            let thread = std::thread::Builder::new().name(format!("vcpu{vcpu_id}"));
            threads.push(thread.spawn_scoped(scope, move || {
                let _guard = EndOnDrop(life);
                vcpu_thread::run(life, vcpu_id, vcpu)
            }));
        }
        if threads.iter().any(Result::is_err) {
            life.call_off();
        }
        control.set_phase(Phase::Running);
        attend(life, control, &*outside.maker.make, time_up);
        threads.into_iter().map(join).collect()
    });
    accounts.add(results.into_iter().collect::<Result<_, _>>()?);
    life.threads.stop_all();
    if let Some(panic) = life.threads.take_panic() {
        resume_unwind(panic);
    }
    // Without a reason only a thread that failed ends a life, and that has been returned above.
    Ok(life
        .take_end()
        .unwrap_or(End::Ending(Ending::Stopped(StopCause::Left))))
}

type Spawned<'a> =
    std::io::Result<std::thread::ScopedJoinHandle<'a, Result<VcpuAccount, EngineError>>>;

fn join(thread: Spawned<'_>) -> Result<VcpuAccount, MachineError> {
    match thread.map_err(MachineError::Thread)?.join() {
        Ok(result) => result.map_err(MachineError::Engine),
        // A panic is our own mistake: it goes on in the thread that called.
        Err(panic) => resume_unwind(panic),
    }
}
