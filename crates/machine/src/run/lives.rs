//! A machine's way from life to life.
//!
//! What a reset does is the plan's to say ([`OnReset`]). The default is what every machine does: the guest starts
//! again, whichever way it asked (the reset register 0xcf9, the keyboard controller, port 0x92, the ACPI reset
//! register, which is 0xcf9). Guests ask for a reset when they mean one: `reboot`, `panic=1`, an installer's last
//! step. A test kernel or a CI job that must not come back says so with `--no-reboot`, and then every reset ends the
//! VM as power-off does. A triple fault is no request: it is how a kernel dies, so it ends the VM as a crash in both
//! cases, with the registers to show.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, mpsc};

use thiserror::Error;
use vcpu::EngineError;

use crate::control::{MachineControl, Phase};
use crate::life::held::BuildError;
use crate::life::{Begin, End, Life, Ready};
use crate::outcome::ending::{Ending, StopCause};
use crate::plan::{OnReset, VmPlan};
use crate::run::accounts::Accounts;
use crate::run::attendant::{attend, go_on};
use crate::run::outside::Outside;
use crate::run::vcpu_thread::{self, VcpuAccount};

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

/// What the thread that lives the lives leaves.
type Lived = (Result<Ending, MachineError>, Accounts);

/// Lives until the VM ends, on a thread of its own: when pages of the guest do not come back, whoever waits for one
/// waits for ever, and is left behind.
pub(crate) fn live(
    plan: VmPlan,
    control: MachineControl,
    mut outside: Outside,
    first: (Life, Vec<Ready>),
    mut accounts: Accounts,
) -> Result<Lived, MachineError> {
    let (sender, receiver) = mpsc::channel();
    let broken = sender.clone();
    let when_broken = Box::new(move |why| drop(broken.send(Err(why))));
    outside.paging.when_broken(when_broken);
    let thread = std::thread::Builder::new()
        .name("attendant".to_owned())
        .spawn(move || {
            let lives = || run_lives(&plan, &control, &mut outside, first, &mut accounts);
            let ending = catch_unwind(AssertUnwindSafe(lives));
            outside.paging.end();
            if let Some(profiler) = &outside.held.profiler {
                accounts.profiled(profiler.finish());
            }
            // What devices stand on goes first, sockets with their paths and passt: whoever hears of the end finds
            // nothing of the VM left.
            drop(outside);
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
    first: (Life, Vec<Ready>),
    accounts: &mut Accounts,
) -> Result<Ending, MachineError> {
    let (life, mut vcpus) = first;
    let mut life = Arc::new(life);
    loop {
        let end = run_life(&life, vcpus, control, outside, accounts)?;
        accounts.life_ended(&life);
        control.life_is_over();
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
        let next = outside
            .assemble(plan, Begin::Boot)
            .map_err(MachineError::Reboot)?;
        (life, vcpus) = (Arc::new(next.0), next.1);
    }
}

/// Ends a life whose thread panics, so that the others do not wait for it.
struct EndOnDrop(Arc<Life>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.call_off();
        }
    }
}

/// Runs one life: the thread of each vCPU runs that, and this one attends.
fn run_life(
    life: &Arc<Life>,
    vcpus: Vec<Ready>,
    control: &MachineControl,
    outside: &Outside,
    accounts: &mut Accounts,
) -> Result<End, MachineError> {
    control.life_begins(life.observed(accounts.reboots));
    control.set_attention(Arc::clone(&life.alarm) as Arc<dyn vcpu::Kick>);
    let alarm = Arc::clone(&life.alarm);
    outside
        .input
        .on_arrival(Box::new(move || vcpu::Kick::kick(&*alarm)));
    if let Some(profiler) = &outside.held.profiler {
        profiler.begin().map_err(MachineError::Thread)?;
    }
    let mut running = Vec::new();
    for (vcpu_id, vcpu) in (0..).zip(vcpus) {
        let guard = EndOnDrop(Arc::clone(life));
        let work = move || {
            let guard = guard;
            vcpu_thread::run(&guard.0, vcpu_id, vcpu)
        };
        running.push(outside.held.crew.start(vcpu_id, work));
    }
    if control.begins_paused() {
        control.reached(Phase::Paused);
    } else {
        control.reached(Phase::Running);
        // One that goes on from a snapshot stands still until here.
        go_on(life);
    }
    attend(life, control, &outside.maker);
    let results: Vec<Result<VcpuAccount, MachineError>> = running.into_iter().map(join).collect();
    let entry = accounts.add(results.into_iter().collect::<Result<_, _>>()?);
    if let Some(profiler) = &outside.held.profiler {
        profiler.life_ended(entry);
    }
    life.threads.stop_all();
    if let Some(panic) = life.threads.take_panic() {
        resume_unwind(panic);
    }
    // Without a reason only a thread that failed ends a life, and that has been returned above.
    Ok(life
        .take_end()
        .unwrap_or(End::Ending(Ending::Stopped(StopCause::Left))))
}

/// What comes of a vCPU in one life.
type Running = mpsc::Receiver<std::thread::Result<Result<VcpuAccount, EngineError>>>;

fn join(running: Running) -> Result<VcpuAccount, MachineError> {
    match running.recv() {
        Ok(Ok(result)) => result.map_err(MachineError::Engine),
        // A panic is our own mistake: it goes on in the thread that called.
        Ok(Err(panic)) => resume_unwind(panic),
        Err(lost) => Err(MachineError::Thread(std::io::Error::other(lost))),
    }
}
