//! Foreign files are read by a process in a jail: container images, and what a program of the host says that it needs.
//!
//! It is this very program, started again as a VM's process is: in namespaces of its own, with an empty root, Landlock, no
//! capabilities and the calls that reading takes ([`host::jail::Kind::Reader`]). What it reads and what it writes are
//! descriptors that it is given; parts of an image that is a folder are asked for one by one, by names that lead out of the
//! folder nowhere. So whoever breaks it has an image that is his own already, and a disk that is about to be.
//!
//! ```text
//! here                                        the reader
//! Container, archive ───────────────────────> asks for parts, says Opened
//! Make, spool and disk ─────────────────────> Progress ..., Made
//! Elf, a program or library ────────────────> Elf
//! Boot, disk, two empty files ──────────────> Boot, what the disk starts
//! ```
//!
//! When this process is gone, by whatever way, the reader is ended by the kernel.

mod perform;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use api::{Jail, JailWish};
use host::jail::{Apart, Child, Tier};
use images::{
    BootError, BootOnto, Bootable, ContainerError, ElfError, Input, Made, Needs, OnProgress, Onto,
    OpenedContainer, Parts, ReadContainer, ReadElf,
};

pub(crate) use self::perform::perform;
use crate::own_log::LogWish;
use crate::spawn;
use crate::trouble::RunError;
use crate::wire::{Channel, FromReader, Role, ToReader};

/// What a reader may say of an image that it made, in bytes: an image's own words, which are at most
/// a description's 16 MiB, as JSON.
const MADE_BYTES_MAX: u64 = 64 << 20;

/// A process that reads foreign files. It ends with this.
#[derive(Debug)]
pub struct Reader(Rc<Process>);

impl Reader {
    /// Starts one. With [`JailWish::Require`] it has namespaces of its own, or there is none.
    ///
    /// # Errors
    /// If there is no process for it, or the host does not give the jail that is required.
    pub fn start(wish: JailWish) -> Result<Reader, RunError> {
        let failed = |act| move |source| RunError::Process { act, source };
        let started = spawn::start_apart("reader", Apart::Namespaces).map_err(failed("start"))?;
        let (child, channel, apart) = started;
        let process = Process { child, channel };
        let role = Role::Reader {
            log: LogWish::of_environment(),
            is_apart: apart == Apart::Namespaces,
        };
        process
            .channel
            .send(&role, &[])
            .map_err(failed("speak to"))?;
        let jail = match process.hear() {
            Ok((FromReader::Jailed(jail), _)) => jail,
            Ok(_) => return Err(failed("hear from")(senseless())),
            Err(source) => return Err(failed("hear from")(source)),
        };
        if wish == JailWish::Require && jail.tier != Tier::Namespaces.word() {
            let Jail { tier, missing, .. } = jail;
            return Err(RunError::ReaderJail { tier, missing });
        }
        Ok(Reader(Rc::new(process)))
    }

    /// What the disk of an image starts, by its own boot entries; the image may be raw or qcow2, and lies over nothing.
    ///
    /// # Errors
    /// [`BootError`], if it has no entry that can be used.
    pub fn boot(&self, image: &File, onto: &BootOnto) -> Result<Bootable, BootError> {
        let files = [image.as_fd(), onto.kernel.as_fd(), onto.initrd.as_fd()];
        let asked = self.0.say(&ToReader::Boot, &files);
        match asked.and_then(|()| self.0.hear()) {
            Ok((FromReader::Boot(said), _)) => said,
            Ok(_) => Err(BootError::Reader(senseless().to_string())),
            Err(error) => Err(BootError::Reader(error.to_string())),
        }
    }
}

#[derive(Debug)]
struct Process {
    child: Child,
    channel: Channel,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It keeps nothing that would have to be put in order.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn senseless() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "it says what makes no sense now",
    )
}

impl Process {
    fn say(&self, what: &ToReader, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        match self.channel.send(what, descriptors) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(self.gone()),
            sent => sent,
        }
    }

    fn hear(&self) -> io::Result<(FromReader, Vec<OwnedFd>)> {
        self.channel.receive()?.ok_or_else(|| self.gone())
    }

    /// What became of it.
    fn gone(&self) -> io::Error {
        let _ = self.child.kill();
        let how = match self.child.wait() {
            Ok(status) => match status.terminating_signal() {
                Some(SIGSYS) => {
                    "it was ended by its jail: it tried what only a process does that was taken over"
                        .to_owned()
                }
                Some(signal) => format!("it was ended by signal {signal}"),
                None => "it vanished".to_owned(),
            },
            Err(_) => "it vanished".to_owned(),
        };
        io::Error::other(how)
    }

    /// Answers what it asks for until it says something else.
    fn converse(
        &self,
        parts: &Parts,
        on_progress: OnProgress,
    ) -> io::Result<(FromReader, Vec<OwnedFd>)> {
        loop {
            match self.hear()? {
                (FromReader::Part { path }, _) => match parts.open(&path) {
                    Ok(file) => self.say(&ToReader::Part { refusal: None }, &[file.as_fd()])?,
                    Err(error) => {
                        let number = error.raw_os_error();
                        let refusal = number.or(Some(NO_SUCH_FILE));
                        self.say(&ToReader::Part { refusal }, &[])?;
                    }
                },
                (FromReader::Progress(progress), _) => on_progress(progress),
                said => return Ok(said),
            }
        }
    }
}

/// `SIGSYS` (signal(7)), which a filter ends a process with.
const SIGSYS: i32 = 31;

/// `ENOENT`.
const NO_SUCH_FILE: i32 = 2;

/// An image that its reader has understood.
struct Opened {
    process: Rc<Process>,
    parts: Parts,
    digest: String,
}

impl ReadContainer for Reader {
    fn open(&self, input: Input) -> Result<Box<dyn OpenedContainer>, ContainerError> {
        let Input {
            parts,
            name,
            wanted,
        } = input;
        let archive: Vec<BorrowedFd<'_>> = match &parts {
            Parts::Archive(file) => vec![file.as_fd()],
            Parts::Folder(_) => Vec::new(),
        };
        let process = &self.0;
        let asked = process.say(&ToReader::Container { name, wanted }, &archive);
        let said = asked.and_then(|()| process.converse(&parts, &mut |_| {}));
        match said.map_err(ContainerError::Reader)? {
            (FromReader::Opened { digest }, _) => Ok(Box::new(Opened {
                process: Rc::clone(process),
                parts,
                digest,
            })),
            (FromReader::Refused(told), _) => Err(told.into()),
            _ => Err(ContainerError::Reader(senseless())),
        }
    }
}

impl OpenedContainer for Opened {
    fn digest(&self) -> &str {
        &self.digest
    }

    fn make(self: Box<Self>, onto: Onto, on_progress: OnProgress) -> Result<Made, ContainerError> {
        let files = [onto.spool.as_fd(), onto.disk.as_fd()];
        let asked = self.process.say(&ToReader::Make, &files);
        let said = asked.and_then(|()| self.process.converse(&self.parts, on_progress));
        match said.map_err(ContainerError::Reader)? {
            (FromReader::Made, files) => made(files).map_err(ContainerError::Reader),
            (FromReader::Refused(told), _) => Err(told.into()),
            _ => Err(ContainerError::Reader(senseless())),
        }
    }
}

/// What it says of the disk, from the file that came with that.
fn made(files: Vec<OwnedFd>) -> io::Result<Made> {
    let file = files.into_iter().next().ok_or_else(senseless)?;
    let mut bytes = Vec::new();
    let mut file = File::from(file).take(MADE_BYTES_MAX);
    file.read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

impl ReadElf for Reader {
    fn needs(&self, file: &File) -> Result<Needs, ElfError> {
        let asked = self.0.say(&ToReader::Elf, &[file.as_fd()]);
        match asked.and_then(|()| self.0.hear()) {
            Ok((FromReader::Elf(needs), _)) => needs,
            Ok(_) => Err(ElfError::Unread(senseless().to_string())),
            Err(error) => Err(ElfError::Unread(error.to_string())),
        }
    }
}
