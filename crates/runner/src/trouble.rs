//! What went wrong with a VM's processes: typed where it happens, a sentence with an exit status on its way to the client.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use api::CpuWeight;
use fleet::{ClaimError, InventoryError};
use machine::{BuildError, MachineError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Exit status when Mother failed.
pub const OUR_FAULT: u8 = 1;

/// Exit status after bad input.
const BAD_INPUT: u8 = 2;

/// Exit status of a program that writes into a closed pipe: 128 and the number of SIGPIPE.
pub const CLOSED_PIPE: u8 = 141;

/// How a VM comes to run in another version whose processes do not understand those that run it now.
pub(crate) const ANOTHER_WAY: &str = "`mother suspend NAME` and `mother restore NAME` with the new version have its guest go on there, but \
     for its connections; or start it anew with `mother restart NAME`";

/// Why a VM did not run to an end.
#[derive(Debug, Error)]
pub enum RunError {
    /// The host gives no machine.
    #[error("cannot start VM \"{name}\"")]
    Build {
        /// The VM.
        name: String,
        /// What could not be built.
        source: BuildError,
    },
    /// The machine broke.
    #[error("VM \"{name}\" cannot go on")]
    Machine {
        /// The VM.
        name: String,
        /// What broke while it ran.
        source: MachineError,
    },
    /// The name cannot be had, or its folder not be used.
    #[error("cannot start VM \"{name}\"")]
    Claim {
        /// The VM.
        name: String,
        /// What kept us from having the name.
        source: ClaimError,
    },
    /// There is no inventory of VMs.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    /// A process could not be started, or spoken to.
    #[error("cannot {act} a process for the VM")]
    Process {
        /// The verb.
        act: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// The host gives no thread.
    #[error("cannot start a thread for the VM")]
    Thread(#[source] io::Error),
    /// The host lets a process have fewer descriptors than the VM may come to need.
    #[error("VM \"{name}\" is not started: it may come to need more open files than it can have")]
    Descriptors {
        /// The VM.
        name: String,
        /// What the host said.
        source: io::Error,
    },
    /// The control socket has no thread.
    #[error("cannot serve the control socket")]
    Control(#[source] io::Error),
    /// What another process says of a guest is not understood.
    #[error(
        "VM \"{name}\" cannot go on in this version of Mother: its process says what it is in format {found}, and this version \
         understands format {ours}"
    )]
    Handed {
        /// The VM.
        name: String,
        /// Its process's format.
        found: u32,
        /// And this one's.
        ours: u32,
    },
    /// The host does not give the jail that was asked for.
    #[error(
        "VM \"{name}\" is not started: its jail would be of the tier \"{tier}\", not \"namespaces\""
    )]
    Jail {
        /// The VM.
        name: String,
        /// What it would have.
        tier: String,
        /// What the host refused.
        missing: Vec<String>,
    },
    /// The host does not give the VM the CPU time that it was to have against others.
    #[error("VM \"{name}\" is not started: the host does not give it the weight {weight}")]
    Weight {
        /// The VM.
        name: String,
        /// Its weight.
        weight: CpuWeight,
        /// What the host said.
        source: io::Error,
    },
    /// The host does not give the jail that was asked for to what reads foreign files.
    #[error(
        "no image is read: what reads it would have a jail of the tier \"{tier}\", not \"namespaces\""
    )]
    ReaderJail {
        /// What it would have.
        tier: String,
        /// What the host refused.
        missing: Vec<String>,
    },
    /// The host does not give the jail that was asked for to what looks into guests.
    #[error(
        "no guest is looked into: what does it would have a jail of the tier \"{tier}\", not \"namespaces\""
    )]
    ObserverJail {
        /// What it would have.
        tier: String,
        /// What the host refused.
        missing: Vec<String>,
    },
    /// What looks into guests is gone.
    #[error("what looks into the guest is gone: {how}")]
    Observer {
        /// What became of it.
        how: String,
    },
    /// A program's standard output does not take what it writes.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// The report was not written.
    #[error("cannot write the report {}", .path.display())]
    Report {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// A process of the VM is gone.
    #[error("VM \"{name}\" is lost: {what}")]
    Lost {
        /// The VM.
        name: String,
        /// What happened, as far as it is known.
        what: String,
    },
}

impl RunError {
    /// Whether the reader of our output went away.
    fn is_closed_pipe(&self) -> bool {
        matches!(
            self,
            RunError::Machine { source: MachineError::Console(error), .. }
                if error.kind() == io::ErrorKind::BrokenPipe
        )
    }

    fn help(&self) -> Option<&'static str> {
        match self {
            RunError::Claim {
                source: ClaimError::Taken(_),
                ..
            } => Some(
                "give another name with `--name`, or end that one with `mother stop` or `mother kill`",
            ),
            RunError::Inventory(InventoryError::Place(_)) => {
                Some("set XDG_RUNTIME_DIR to a folder that is yours alone")
            }
            RunError::Jail { .. } | RunError::ReaderJail { .. } => {
                Some("`mother doctor` says what the host lacks; `--jail auto` takes what it has")
            }
            RunError::Handed { .. } => Some(ANOTHER_WAY),
            RunError::Descriptors { .. } => Some("allow more with `ulimit -n 1024`"),
            RunError::Weight { .. } => Some(
                "`mother doctor` says what weights this host keeps; more than 100 is for root, or takes a cgroup",
            ),
            RunError::Build { source, .. } => source.help(),
            _ => None,
        }
    }

    /// Whether what the user named is to blame, and not the host.
    fn is_bad_input(&self) -> bool {
        matches!(self, RunError::Build { source, .. } if source.is_bad_input())
    }
}

/// The same in parts that can be sent: what failed, on what, why, and what to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Trouble {
    /// What failed, in one line.
    pub message: String,
    /// Why, a line for each cause.
    pub causes: Vec<String>,
    /// What to do.
    pub help: Option<String>,
    /// The exit status that says so.
    pub status: u8,
    /// The reader of our output went away, and wants to hear no more.
    pub is_closed_pipe: bool,
}

impl Trouble {
    /// All of it, `error:` first, without a last line end.
    pub fn text(&self) -> String {
        let mut text = format!("error: {}", self.message);
        for cause in &self.causes {
            text.push_str(&format!("\n  {cause}"));
        }
        if let Some(help) = &self.help {
            text.push_str(&format!("\n  help: {help}"));
        }
        text
    }
}

impl Trouble {
    /// What went wrong in one line, and what to do.
    pub(crate) fn why_and_help(self) -> (String, Option<String>) {
        let mut words = vec![self.message];
        words.extend(self.causes);
        (words.join(": "), self.help)
    }
}

impl From<RunError> for Trouble {
    fn from(error: RunError) -> Trouble {
        let is_closed_pipe = error.is_closed_pipe();
        Trouble {
            message: error.to_string(),
            causes: causes(&error),
            help: error.help().map(str::to_owned),
            status: if is_closed_pipe {
                CLOSED_PIPE
            } else if error.is_bad_input() {
                BAD_INPUT
            } else {
                OUR_FAULT
            },
            is_closed_pipe,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Trouble {}

/// The causes of an error that say something else than what is above them, a line for each.
pub fn causes(error: &dyn Error) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    let mut last = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let line = plain(inner);
        // A transparent error prints what its source prints.
        if !last.ends_with(&line) {
            causes.push(line.clone());
            last = line;
        }
        cause = inner.source();
    }
    causes
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
    use api::VmName;

    use super::*;

    #[test]
    fn an_error_keeps_its_causes_its_help_and_its_status_on_the_way() {
        let check = |error: RunError, text: &str, status: u8| {
            let trouble = Trouble::from(error);
            let sent = serde_json::to_string(&trouble).unwrap();
            let came: Trouble = serde_json::from_str(&sent).unwrap();
            assert_eq!(came, trouble);
            assert_eq!((came.text().as_str(), came.status), (text, status));
        };
        let web = VmName::new("web").unwrap();
        check(
            RunError::Claim {
                name: "web".to_owned(),
                source: ClaimError::Taken(web),
            },
            "error: cannot start VM \"web\"\n  a VM with the name \"web\" is running\n  help: give another name with \
             `--name`, or end that one with `mother stop` or `mother kill`",
            OUR_FAULT,
        );
        check(
            RunError::Report {
                path: "/report.json".into(),
                source: io::ErrorKind::PermissionDenied.into(),
            },
            "error: cannot write the report /report.json\n  permission denied",
            OUR_FAULT,
        );
        let closed = MachineError::Console(io::ErrorKind::BrokenPipe.into());
        let name = "web".to_owned();
        check(
            RunError::Machine {
                name,
                source: closed,
            },
            "error: VM \"web\" cannot go on\n  cannot write to the console\n  broken pipe",
            CLOSED_PIPE,
        );
    }
}
