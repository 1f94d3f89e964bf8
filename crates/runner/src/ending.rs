//! How a run ended: what is kept of it, and what is said where it was started.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::{EndKind, VmEnd};
use machine::{Ending, Report, StopCause};

use crate::report::RunReport;
use crate::trouble::{OUR_FAULT, Trouble};
use crate::wire::{Ended, Outcome, Ran};

/// Exit status when the guest crashed.
pub const CRASHED: u8 = 3;

/// Exit status when the time was up, as timeout(1) has it.
pub const TIMED_OUT: u8 = 124;

/// Exit status when somebody else ended the VM: that of a program that gets SIGKILL.
pub const KILLED: u8 = 137;

/// What a guest that is one program left behind.
pub(crate) struct ProgramEnd {
    /// Its exit status, if it ended.
    pub(crate) status: Option<u8>,
    /// The last of what was on its console, if that was not shown already.
    pub(crate) unexplained: String,
}

/// Of a VM that ran to an end, with its program if it was one.
pub(crate) fn of_report(report: &Report, program: Option<ProgramEnd>) -> Ended {
    let stopped = match report.ending {
        Ending::Stopped(cause) => Some(cause),
        _ => None,
    };
    let report_of_run = RunReport::from(report);
    let report_of_run = match program.as_ref().and_then(|program| program.status) {
        Some(status) => report_of_run.exited(status),
        None => report_of_run,
    };
    let (words, status, end) = match program {
        Some(ProgramEnd {
            status: Some(status),
            ..
        }) => (String::new(), status, end_of_program(report, status)),
        Some(program) => {
            let (words, status) = without_its_program(report, &program.unexplained);
            (words, status, end_of(report))
        }
        None => {
            let (words, status) = words(report);
            (words, status, end_of(report))
        }
    };
    Ended {
        end,
        outcome: Outcome::Ran(Box::new(Ran {
            words,
            status,
            stopped,
            report: report_of_run,
        })),
    }
}

/// Of a VM that Mother could not bring to an end.
pub(crate) fn of_trouble(trouble: Trouble) -> Ended {
    let end = VmEnd {
        kind: EndKind::Failed,
        message: "Mother failed".to_owned(),
        detail: Some(trouble.text()),
        exit_status: trouble.status,
        ended_at: Some(now()),
        uptime_seconds: None,
        cpu_seconds: None,
    };
    Ended {
        end,
        outcome: Outcome::Failed(trouble),
    }
}

/// Of a VM whose process is gone without a word.
pub(crate) fn of_vanished(name: &str, what: &str) -> Ended {
    let end = VmEnd {
        kind: EndKind::Died,
        message: format!("its process vanished without a word: {what}"),
        detail: None,
        exit_status: OUR_FAULT,
        ended_at: Some(now()),
        uptime_seconds: None,
        cpu_seconds: None,
    };
    let trouble = Trouble {
        message: format!("VM \"{name}\" died"),
        causes: vec![end.message.clone()],
        help: None,
        status: OUR_FAULT,
        is_closed_pipe: false,
    };
    Ended {
        end,
        outcome: Outcome::Failed(trouble),
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

/// How the guest ended, as a sentence, and the exit status that means the same.
fn words(report: &Report) -> (String, u8) {
    let after = seconds(report.wall_time);
    let name = &report.name;
    let (line, status) = match &report.ending {
        Ending::PoweredOff => match &report.start_failed {
            Some(why) => (
                format!("error: the guest of VM \"{name}\" did not start: {why}"),
                OUR_FAULT,
            ),
            None => (format!("mother: the guest powered off after {after}"), 0),
        },
        Ending::DebugExit(status) => {
            let how = "mother: the guest ended through the debug-exit port after";
            (format!("{how} {after}: status {status}"), *status)
        }
        Ending::Crashed(crash) => {
            let crash = crash.to_string().replace('\n', "\n  ");
            let line =
                format!("error: the guest of VM \"{name}\" crashed after {after}\n  {crash}");
            (line, CRASHED)
        }
        Ending::TimedOut => {
            let line = format!("error: VM \"{name}\" ran out of time after {after}");
            (line, TIMED_OUT)
        }
        Ending::Stopped(StopCause::Left | StopCause::Signal(_)) => {
            (format!("mother: you left the guest after {after}"), 0)
        }
        Ending::Stopped(StopCause::Killed) => {
            let line = format!("error: VM \"{name}\" was killed after {after}");
            (line, KILLED)
        }
        Ending::Stopped(StopCause::GraceOver) => {
            let why = "it did not power off in its grace time";
            let line = format!("error: VM \"{name}\" was ended after {after}: {why}");
            (line, KILLED)
        }
    };
    (line + "\n", status)
}

/// Lines of a console that are shown unasked: as many as a kernel needs to say why it died, and no more than a screen or two.
const LAST_LINES: usize = 80;

fn last_lines(text: &str) -> &str {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let start = body
        .rmatch_indices('\n')
        .nth(LAST_LINES - 1)
        .map_or(0, |(at, _)| at + 1);
    &text[start..]
}

/// The same of a guest that was to be one program, which has not ended: the last of its kernel's words come first.
fn without_its_program(report: &Report, unexplained: &str) -> (String, u8) {
    let (how, status) = words(report);
    let unexplained = last_lines(unexplained);
    let end = if unexplained.is_empty() || unexplained.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let said = format!("{unexplained}{end}{how}");
    match report.ending {
        Ending::PoweredOff if report.start_failed.is_some() => (how, status),
        Ending::PoweredOff | Ending::Stopped(StopCause::Left) => {
            let line = "error: the guest ended before the program in it did: something in it switched it off, or its kernel \
                        died\n  help: `--kernel-log` shows all that its kernel says; a program that just ends has the \
                        guest switched off, and its exit status is Mother's\n";
            (said + line, OUR_FAULT)
        }
        _ => (said, status),
    }
}

fn end_of_program(report: &Report, status: u8) -> VmEnd {
    VmEnd {
        kind: EndKind::Exited,
        message: format!("its program ended with exit status {status}"),
        exit_status: status,
        ..end_of(report)
    }
}

fn end_of(report: &Report) -> VmEnd {
    let (kind, message, exit_status) = match &report.ending {
        Ending::PoweredOff => match &report.start_failed {
            Some(why) => (
                EndKind::PoweredOff,
                format!("the guest did not start: {why}"),
                OUR_FAULT,
            ),
            None => (EndKind::PoweredOff, "the guest powered off".to_owned(), 0),
        },
        Ending::DebugExit(status) => (
            EndKind::DebugExit,
            format!("the guest ended through the debug-exit port: status {status}"),
            *status,
        ),
        Ending::Crashed(_) => (EndKind::Crashed, "the guest crashed".to_owned(), CRASHED),
        Ending::TimedOut => (
            EndKind::TimedOut,
            "it ran out of time".to_owned(),
            TIMED_OUT,
        ),
        Ending::Stopped(cause) => stopped(*cause),
    };
    let detail = match &report.ending {
        Ending::Crashed(crash) => Some(crash.to_string()),
        _ => None,
    };
    VmEnd {
        kind,
        message,
        detail,
        exit_status,
        ended_at: Some(now()),
        uptime_seconds: Some(report.wall_time.as_secs_f64()),
        cpu_seconds: Some(report.cpu_time.as_secs_f64()),
    }
}

fn stopped(cause: StopCause) -> (EndKind, String, u8) {
    let (message, status) = match cause {
        StopCause::Left => ("whoever started it left it".to_owned(), 0),
        StopCause::Signal(signal) => (
            format!("its process got signal {signal}"),
            u8::try_from(128 + signal).unwrap_or(KILLED),
        ),
        StopCause::Killed => ("it was killed".to_owned(), KILLED),
        StopCause::GraceOver => (
            "it was ended: it did not power off in its grace time".to_owned(),
            KILLED,
        ),
    };
    (EndKind::Stopped, message, status)
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_a_kernel_are_not_many() {
        let lines = |numbers: std::ops::Range<usize>| -> String {
            numbers.map(|n| format!("line {n}\n")).collect()
        };
        let check = |text: &str, expected: &str| assert_eq!(last_lines(text), expected, "{text:?}");
        check("", "");
        check("one", "one");
        check("one\ntwo", "one\ntwo");
        check(&lines(0..LAST_LINES), &lines(0..LAST_LINES));
        check(&lines(0..500), &lines(500 - LAST_LINES..500));
    }
}
