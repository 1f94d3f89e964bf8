//! `mother run`: a guest with its console on this terminal or pipe.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use machine::{Console, Ending, Machine, Report, build};

use crate::arguments::RunArguments;
use crate::failure::Failure;
use crate::guest::{Planned, User, plan_app, plan_run};
use crate::output::{Watch, standard_output};
use crate::{app, input, report, signals, terminal};

/// Exit status when the guest crashed.
const CRASHED: u8 = 3;

/// Exit status when the time was up, as timeout(1) has it.
const TIMED_OUT: u8 = 124;

/// Runs the guest; the exit status.
pub fn run(arguments: &RunArguments) -> Result<u8, Failure> {
    if let Some(program) = &arguments.app {
        let planned = plan_app(arguments, program)?;
        let finish = |machine: Machine, name: &str| finish(machine, name, arguments.report.as_deref());
        return app::run(planned.plan, finish, say_ending);
    }
    let user = user();
    let Planned { plan, is_default } = plan_run(arguments, &user)?;
    eprintln!("mother: engine {} ({})", plan.engine.kind, plan.engine.why);
    let name = plan.name.clone();
    let (output, ready) = output(is_default && user == User::Pipe)?;
    let console = Console::new(output);
    let console_input = console.input();
    let machine = build(plan, console).map_err(|source| Failure::Build { name: name.clone(), source })?;
    let received = signals::listen(machine.control()).map_err(Failure::Signals)?;
    if terminal::is_interactive() {
        eprintln!("mother: every key goes to the guest; Ctrl-A x leaves");
        terminal::make_raw().map_err(|source| Failure::Terminal { act: "take", source })?;
        input::send_keys(console_input, machine.control()).map_err(Failure::Input)?;
    } else {
        input::send_pipe(console_input, ready).map_err(Failure::Input)?;
    }
    let ended = finish(machine, &name, arguments.report.as_deref());
    received.die_of_it();
    Ok(say_ending(&ended?))
}

/// Who will type.
fn user() -> User {
    if io::stdin().is_terminal() {
        User::Person { term: std::env::var("TERM").ok(), size: terminal::size() }
    } else {
        User::Pipe
    }
}

/// Where the console goes, and who tells when the guest is ready for a pipe.
type Output = (Box<dyn Write + Send>, Option<Receiver<()>>);

fn output(is_watched: bool) -> Result<Output, Failure> {
    let output = standard_output().map_err(|source| Failure::Terminal { act: "write to", source })?;
    if !is_watched {
        return Ok((Box::new(output), None));
    }
    let (sender, receiver) = mpsc::channel();
    Ok((Box::new(Watch::new(output, images::INIT_MARKER, sender)), Some(receiver)))
}

/// Runs to the end and gives the terminal back.
pub fn finish(machine: Machine, name: &str, report_path: Option<&Path>) -> Result<Report, Failure> {
    let ended = machine.run();
    terminal::restore();
    let report = ended.map_err(|source| Failure::Machine { name: name.to_owned(), source })?;
    if let Some(path) = report_path {
        report::write(&report, path)?;
    }
    Ok(report)
}

/// Says how the guest ended; the exit status that means the same.
pub fn say_ending(report: &Report) -> u8 {
    let after = seconds(report.wall_time);
    match &report.ending {
        Ending::PoweredOff => {
            eprintln!("mother: the guest powered off after {after}");
            0
        }
        Ending::DebugExit(status) => {
            eprintln!("mother: the guest ended through the debug-exit port after {after}: status {status}");
            *status
        }
        Ending::Crashed(crash) => {
            let crash = crash.to_string().replace('\n', "\n  ");
            eprintln!("error: the guest of VM \"{}\" crashed after {after}\n  {crash}", report.name);
            CRASHED
        }
        Ending::TimedOut => {
            eprintln!("error: VM \"{}\" ran out of time after {after}", report.name);
            TIMED_OUT
        }
        Ending::Stopped => {
            eprintln!("mother: you left the guest after {after}");
            0
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
