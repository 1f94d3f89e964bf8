//! What went wrong, as a person reads it: what failed, on what, why, and what to do.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use images::{AppImageError, CacheError};
use machine::{BuildError, MachineError, SpecErrors};
use thiserror::Error;

/// Exit status when Mother failed.
pub const OUR_FAULT: u8 = 1;

/// Exit status when the question was understood and the answer is no.
pub const ANSWER_IS_NO: u8 = 1;

/// Exit status of a program that writes into a closed pipe: 128 and the number of SIGPIPE.
const CLOSED_PIPE: u8 = 141;

/// Exit status after bad input.
const BAD_INPUT: u8 = 2;

/// Why the command did not do what it should.
#[derive(Debug, Error)]
pub enum Failure {
    /// The spec is wrong.
    #[error(transparent)]
    Spec(#[from] SpecErrors),
    /// There is no default guest.
    #[error("cannot get the default guest")]
    Guest(#[from] CacheError),
    /// The program cannot be a guest.
    #[error("cannot make a guest of the program")]
    App(#[from] AppImageError),
    /// There is no program for the guest's network.
    #[error("cannot get passt, which carries the guest's network")]
    Passt(#[source] CacheError),
    /// The host gives no machine.
    #[error("cannot start VM \"{name}\"")]
    Build {
        /// The VM.
        name: String,
        /// Why.
        source: BuildError,
    },
    /// The machine broke.
    #[error("VM \"{name}\" cannot go on")]
    Machine {
        /// The VM.
        name: String,
        /// Why.
        source: MachineError,
    },
    /// The terminal does not obey.
    #[error("cannot {act} the terminal")]
    Terminal {
        /// The verb.
        act: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Signals cannot be listened to.
    #[error("cannot listen to signals")]
    Signals(#[source] io::Error),
    /// Standard input cannot be read beside the guest.
    #[error("cannot start the thread that reads standard input")]
    Input(#[source] io::Error),
    /// Standard output does not take what we have to say.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// The report was not written.
    #[error("cannot write the report {}", .path.display())]
    Report {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Failure {
    /// The exit status that says so.
    pub fn status(&self) -> u8 {
        match self {
            Failure::Spec(_) => BAD_INPUT,
            Failure::App(AppImageError::App(error)) if error.is_bad_input() => BAD_INPUT,
            _ if self.is_closed_pipe() => CLOSED_PIPE,
            _ => OUR_FAULT,
        }
    }

    /// Prints it with its causes and the way on. Whoever closed our output wants to hear no more.
    pub fn print(&self) {
        if !self.is_closed_pipe() {
            eprintln!("{}", self.text());
        }
    }

    /// Whether whoever read our output went away.
    fn is_closed_pipe(&self) -> bool {
        match self {
            Failure::Output(error) | Failure::Machine { source: MachineError::Console(error), .. } => {
                error.kind() == io::ErrorKind::BrokenPipe
            }
            _ => false,
        }
    }

    fn text(&self) -> String {
        let mut text = format!("error: {self}");
        let mut cause = self.source().filter(|_| !matches!(self, Failure::Spec(_)));
        while let Some(inner) = cause {
            let line = plain(inner);
            // A transparent error prints what its source prints.
            if !text.ends_with(&line) {
                text.push_str(&format!("\n  {line}"));
            }
            cause = inner.source();
        }
        if let Some(help) = self.help() {
            text.push_str(&format!("\n  help: {help}"));
        }
        text
    }

    fn help(&self) -> Option<&'static str> {
        match self {
            Failure::Guest(_) => {
                Some("bring a guest of your own with `--kernel FILE --initrd FILE`: that needs no download")
            }
            _ => None,
        }
    }
}

/// The host's words without their number.
fn plain(error: &(dyn Error + 'static)) -> String {
    match error.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::NotFound) => "no such file or folder".to_owned(),
        Some(io::ErrorKind::PermissionDenied) => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use images::AptError;

    use super::*;

    fn check(failure: Failure, expected: &str) {
        assert_eq!(failure.text(), expected);
    }

    #[test]
    fn every_cause_has_its_own_line_and_the_last_says_what_to_do() {
        let help =
            "help: bring a guest of your own with `--kernel FILE --initrd FILE`: that needs no download";
        let missing = CacheError::Apt(AptError::Missing("apt-get"));
        check(
            missing.into(),
            &format!("error: cannot get the default guest\n  this host has no `apt-get`\n  {help}"),
        );
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let failure = Failure::Report { path: "/report.json".into(), source: denied };
        check(failure, "error: cannot write the report /report.json\n  permission denied");
    }
}
