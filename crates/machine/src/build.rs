//! From a plan to a machine, and from its run to its report.

use std::fmt;
use std::io::Write;
use std::time::Instant;

use vcpu::Vcpu;

use crate::attach::{self, Handles};
use crate::console::output::Output;
use crate::console::recent::Recent;
use crate::console::{Console, ConsoleInput};
use crate::control::{MachineControl, Phase};
use crate::engine;
use crate::life::{Life, VcpuMaker};
use crate::outcome::ending::Ending;
use crate::paging::Paging;
use crate::plan::VmPlan;
use crate::report::Report;
use crate::run::accounts::Accounts;
use crate::run::lives::{MachineError, live};
use crate::run::outside::{BuildError, Outside};

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
        channels,
    } = console;
    let output = Output::new(start, &plan.markers);
    let handles = Handles::new().map_err(BuildError::Attach)?;
    let attachments = attach::open(&plan, &input, &output, channels, &handles);
    let attachments = attachments.map_err(BuildError::Attach)?;
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
                writer_output.write_to(&mut sink, || writer_control.call_attention());
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
