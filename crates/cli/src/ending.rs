//! The end of a run: the machine runs to it, the terminal comes back, and a sentence says how it was.

use std::path::Path;
use std::time::Duration;

use machine::{Ending, Machine, Report, StopCause};

use crate::failure::Failure;
use crate::{report, terminal};

/// Exit status when the guest crashed.
pub const CRASHED: u8 = 3;

/// Exit status when the time was up, as timeout(1) has it.
pub const TIMED_OUT: u8 = 124;

/// Exit status when somebody else ended the VM: that of a program that gets SIGKILL.
pub const KILLED: u8 = 137;

/// Runs to the end and gives the terminal back.
pub fn finish(machine: Machine, name: &str, report_path: Option<&Path>) -> Result<Report, Failure> {
    let ended = machine.run();
    terminal::restore();
    let report = ended.map_err(|source| Failure::Machine {
        name: name.to_owned(),
        source,
    })?;
    if let Some(path) = report_path {
        report::write(&report, None, path)?;
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
            eprintln!(
                "mother: the guest ended through the debug-exit port after {after}: status {status}"
            );
            *status
        }
        Ending::Crashed(crash) => {
            let crash = crash.to_string().replace('\n', "\n  ");
            eprintln!(
                "error: the guest of VM \"{}\" crashed after {after}\n  {crash}",
                report.name
            );
            CRASHED
        }
        Ending::TimedOut => {
            eprintln!(
                "error: VM \"{}\" ran out of time after {after}",
                report.name
            );
            TIMED_OUT
        }
        Ending::Stopped(StopCause::Left | StopCause::Signal(_)) => {
            eprintln!("mother: you left the guest after {after}");
            0
        }
        Ending::Stopped(StopCause::Killed) => {
            eprintln!("error: VM \"{}\" was killed after {after}", report.name);
            KILLED
        }
        Ending::Stopped(StopCause::GraceOver) => {
            eprintln!(
                "error: VM \"{}\" was ended after {after}: it did not power off in its grace time",
                report.name
            );
            KILLED
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
