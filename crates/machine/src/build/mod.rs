//! From a plan to a machine, and from its run to its report.

pub(crate) mod descriptors;
mod host_keeper;
pub(crate) mod opened;

use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use crate::attach::handles::Devices;
use crate::build::descriptors::Kept;
use crate::console::ConsoleInput;
use crate::console::recent::Recent;
use crate::control::{MachineControl, Phase};
use crate::life::{Life, Ready};
use crate::outcome::ending::Ending;
use crate::plan::VmPlan;
use crate::report::Report;
use crate::run::accounts::Accounts;
use crate::run::lives::{MachineError, live};
use crate::run::outside::Outside;
use api::ConsoleKind;

/// One VM, ready to run.
pub struct Machine {
    pub(crate) plan: VmPlan,
    pub(crate) start: Instant,
    pub(crate) control: MachineControl,
    pub(crate) devices: Devices,
    pub(crate) recent: Recent,
    pub(crate) sink: Box<dyn Write + Send>,
    pub(crate) outside: Outside,
    pub(crate) first: (Life, Vec<Ready>),
    /// How often its guest started again in processes that ran it before.
    pub(crate) reboots: u64,
    /// What else the VM stands on, if no other process keeps it.
    pub(crate) kept: Kept,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// Keeps what the VM stands on until it has ended.
    pub(crate) fn keep(mut self, kept: Kept) -> Machine {
        self.kept = kept;
        self
    }

    /// A handle to act on the VM from another thread.
    pub fn control(&self) -> MachineControl {
        self.control.clone()
    }

    /// A handle to its devices.
    pub fn devices(&self) -> Devices {
        self.devices.clone()
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
            devices,
            recent,
            sink,
            outside,
            first,
            reboots,
            kept,
        } = self;
        let mut sink = Shown {
            recent: recent.clone(),
            sink,
        };
        let input = outside.input.clone();
        let output = outside.output.clone();
        let writer_output = output.clone();
        let writer_control = control.clone();
        // What comes from a virtio console was counted there.
        let limiter = match plan.console {
            ConsoleKind::Serial => Arc::clone(&outside.held.limits.consoles),
            ConsoleKind::Virtio => Arc::default(),
        };
        let writer = std::thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || {
                writer_output.write_to(&mut sink, &limiter, || writer_control.call_attention());
                writer_control.call_attention();
            });
        writer.map_err(MachineError::Thread)?;
        let keeper = host_keeper::keep(&control, &plan).map_err(MachineError::Thread)?;
        let accounts = Accounts::new(start, reboots);
        let lived = live(plan.clone(), control.clone(), outside, first, accounts);
        // Whoever hears of the end finds nothing left of the VM.
        drop(kept);
        let (ending, accounts) = match lived {
            Ok((ending, accounts)) => (ending, Some(accounts)),
            Err(error) => (Err(error), None),
        };
        control.reached(Phase::Ended);
        drop(keeper);
        input.close();
        // Whoever stopped the VM or set it a limit is not made to wait for a console that nobody reads.
        let patient = matches!(&ending, Ok(ending) if !matches!(ending, Ending::Stopped(_) | Ending::TimedOut));
        let drained = output.finish(|| patient && control.stop_cause().is_none());
        recent.close();
        let ending = ending?;
        drained.map_err(MachineError::Console)?;
        let accounts = accounts.expect("who has an ending has accounts");
        let mut metrics = control.metrics();
        metrics.merge(devices.metrics(recent.printed_bytes()));
        let report = accounts.report(&plan, ending, &output, devices.counters(), metrics);
        Ok(Report {
            start_failed: devices.start_failed(),
            engine_limit_bytes: control.engine_limit_bytes(),
            host_cost: control.host_cost(),
            ..report
        })
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
