//! The outside of a guest's console: connected before this process locks itself in, as far as it takes anything of the host, and for a guest that
//! comes from another process when its log comes with it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use fleet::LogWriter;
use machine::{BuildError, Console, Handed, Machine, Opened};

use super::asking::{self, Asking};
use super::connect::{self, Talk};
use super::orders::Folder;
use super::program::Ours;
use crate::trouble::RunError;
use crate::wire::{Guest, Sorted};

/// What is connected.
type Connected = (Arc<Folder>, Console, Talk);

/// See the module.
pub(super) enum Ends {
    /// Of a guest that starts.
    Connected(Connected),
    /// Of one that comes from another process.
    Loose(Guest, Ours),
}

/// A machine, if it could be built, with its folder and who it talks to.
type Assembled = (Result<Machine, BuildError>, Arc<Folder>, Talk);

impl Ends {
    /// Of a guest that speaks so, with what is for it of `sorted`.
    pub(super) fn new(
        goes_on: bool,
        guest: Guest,
        sorted: &mut Sorted,
        asking: &Arc<Asking>,
    ) -> Result<Ends, RunError> {
        let file = |it: &mut Option<OwnedFd>| it.take().map(File::from);
        let ours = Ours {
            input: file(&mut sorted.input),
            output: file(&mut sorted.output),
            errors: file(&mut sorted.errors),
        };
        if goes_on {
            return Ok(Ends::Loose(guest, ours));
        }
        let log = file(&mut sorted.log).ok_or(io::Error::from(io::ErrorKind::NotFound));
        let act = "give a log to";
        let log = log.map_err(|source| RunError::Process { act, source })?;
        let log = LogWriter::new(log, asking::turn_log(asking));
        connected(guest, ours, log).map(Ends::Connected)
    }

    /// The machine on what was opened, with these ends. A guest of another process is waited for by `wait`.
    pub(super) fn assemble(
        self,
        opened: Opened,
        wait: impl FnOnce() -> Result<(LogWriter, Handed), RunError>,
    ) -> Result<Assembled, RunError> {
        Ok(match self {
            Ends::Connected((folder, console, talk)) => (opened.assemble(console), folder, talk),
            Ends::Loose(guest, ours) => {
                let (log, handed) = wait()?;
                let (folder, console, talk) = connected(guest, ours, log)?;
                (opened.go_on(console, handed), folder, talk)
            }
        })
    }
}

fn connected(guest: Guest, ours: Ours, log: LogWriter) -> Result<Connected, RunError> {
    let folder = Arc::new(Folder::of_log(&log));
    let act = "connect";
    let (console, talk) =
        connect::connect(guest, ours, log).map_err(|source| RunError::Process { act, source })?;
    Ok((folder, console, talk))
}
