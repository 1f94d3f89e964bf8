//! A name, held by the process of its VM.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use api::{EndKind, VmEnd, VmInfo, VmName, VmOrigin};
use rustix::fs::{FlockOperation, OFlags, flock};
use thiserror::Error;

use crate::log;
use crate::record::Record;

/// Why a name was not given.
#[derive(Debug, Error)]
pub enum ClaimError {
    /// A VM that runs has it.
    #[error("a VM with the name \"{0}\" is running")]
    Taken(VmName),
    /// The folder could not be used.
    #[error("cannot {act} the folder of VM \"{name}\"")]
    Folder {
        /// Which VM.
        name: VmName,
        /// The verb.
        act: &'static str,
        /// What the host said.
        source: io::Error,
    },
}

/// A name that is ours as long as this lives. Dropped without [`Claim::finish`], it leaves nothing if the VM never
/// started, and a report otherwise.
#[derive(Debug)]
pub struct Claim {
    name: VmName,
    record: Record,
    /// Locked. Other processes of the VM may hold the same open file.
    alive: File,
    has_started: bool,
    is_finished: bool,
}

impl Claim {
    /// Takes `name`, whose folder is `record`. The register is locked.
    pub(crate) fn take(name: VmName, record: Record) -> Result<Claim, ClaimError> {
        let failed = |act| {
            let name = name.clone();
            move |source| ClaimError::Folder { name, act, source }
        };
        match DirBuilder::new().mode(0o700).create(record.folder()) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(failed("make")(error));
            }
            _ => {}
        }
        let alive = open_alive(&record.alive()).map_err(failed("lock"))?;
        match flock(&alive, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(ClaimError::Taken(name)),
            Err(error) => return Err(failed("lock")(error.into())),
        }
        record.clear().map_err(failed("clear"))?;
        Ok(Claim {
            name,
            record,
            alive,
            has_started: false,
            is_finished: false,
        })
    }

    /// The name.
    pub fn name(&self) -> &VmName {
        &self.name
    }

    /// Its folder.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Says what the VM is.
    ///
    /// # Errors
    /// [`ClaimError::Folder`].
    pub fn describe(&self, info: &VmInfo) -> Result<(), ClaimError> {
        self.record
            .write_info(info)
            .map_err(|source| self.failed("write to", source))
    }

    /// Says how the VM came to be.
    ///
    /// # Errors
    /// [`ClaimError::Folder`].
    pub fn remember(&self, origin: &VmOrigin) -> Result<(), ClaimError> {
        self.record
            .write_origin(origin)
            .map_err(|source| self.failed("write to", source))
    }

    /// The control socket.
    ///
    /// # Errors
    /// [`ClaimError::Folder`].
    pub fn listen(&self) -> Result<UnixListener, ClaimError> {
        crate::client::bind(&self.record).map_err(|source| self.failed("make a socket in", source))
    }

    /// The launcher's own socket, which keeps packets apart.
    ///
    /// # Errors
    /// [`ClaimError::Folder`].
    pub fn listen_as_launcher(&self) -> Result<OwnedFd, ClaimError> {
        self.record
            .listen_as_launcher()
            .map_err(|source| self.failed("make a socket in", source))
    }

    /// The first file of what the guest prints, for a [`LogWriter`](crate::LogWriter).
    ///
    /// # Errors
    /// [`ClaimError::Folder`].
    pub fn begin_log(&self) -> Result<File, ClaimError> {
        log::begin(&self.record).map_err(|source| self.failed("write to", source))
    }

    /// The next file of it: what was the newer becomes the older one.
    ///
    /// # Errors
    /// [`ClaimError::Folder`].
    pub fn turn_log(&self) -> Result<File, ClaimError> {
        log::turn(&self.record).map_err(|source| self.failed("write to", source))
    }

    /// The guest runs: from now on the end of the VM is worth a report.
    pub fn started(&mut self) {
        self.has_started = true;
    }

    /// Whether its folder is gone, or another's by now: somebody has cleaned up where VMs are.
    pub fn is_gone(&self) -> bool {
        let held = self
            .alive
            .metadata()
            .map(|found| (found.dev(), found.ino()));
        let found = fs::symlink_metadata(self.record.alive());
        let found = found.map(|found| (found.dev(), found.ino()));
        !matches!((held, found), (Ok(held), Ok(found)) if held == found)
    }

    /// Lets go of a folder that [`Claim::is_gone`], and leaves nothing: another claim has taken its place.
    pub fn give_up(mut self) {
        self.is_finished = true;
    }

    /// Gives the name back and leaves `end` behind if it `is_kept`, otherwise nothing.
    ///
    /// # Errors
    /// [`ClaimError::Folder`].
    pub fn finish(mut self, end: &VmEnd, is_kept: bool) -> Result<(), ClaimError> {
        self.is_finished = true;
        let left = if is_kept {
            self.record.close();
            self.record.write_end(end)
        } else {
            self.record.remove()
        };
        self.give_back();
        left.map_err(|source| self.failed("leave", source))
    }

    /// Frees the name, for every process that holds the lock.
    fn give_back(&self) {
        // It fails for no file that was locked; and the name is free at the latest when these processes are gone.
        let _ = flock(&self.alive, FlockOperation::Unlock);
    }

    fn failed(&self, act: &'static str, source: io::Error) -> ClaimError {
        ClaimError::Folder {
            name: self.name.clone(),
            act,
            source,
        }
    }
}

/// The lock, for another process of the VM to hold: the name is free when none of them does.
impl AsFd for Claim {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.alive.as_fd()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        // Nobody is left to tell if this fails; a folder without a holder and without an end says enough.
        let _ = if self.has_started {
            self.record.close();
            self.record.write_end(&VmEnd {
                kind: EndKind::Failed,
                message: "Mother failed while the guest ran".to_owned(),
                detail: None,
                exit_status: 1,
                ended_at: None,
                uptime_seconds: None,
                cpu_seconds: None,
            })
        } else {
            self.record.remove()
        };
        self.give_back();
    }
}

fn open_alive(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

/// Whether a process holds the name whose folder is `record`. The register is locked.
pub(crate) fn is_held(record: &Record) -> bool {
    // The file may be another user's, when root looks.
    let unfollowed = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let open = File::options()
        .read(true)
        .custom_flags(unfollowed.bits() as i32)
        .open(record.alive());
    let Ok(alive) = open else {
        return false;
    };
    // Held for a moment only, and under the register's lock, so that nobody who takes the name sees it.
    flock(&alive, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
}
