//! Processes of other hypervisors and containers, through the jail: what of them is handed over, and how it is asked for.
//!
//! Which one it is was typed, and found before there was an observer; nobody asks for another. Handed over are its memory, to
//! read, the file behind RAM that it shares, texts that the kernel writes of it, and lines of QMP. Nothing of all that is read on
//! the side that has rights, where it may be the guest's words: QEMU has bugs too, and its guest answers then.
//!
//! QMP starts programs for whoever may speak it, so what is said there is one of four questions, and nothing before QEMU's
//! greeting was heard: a process can have any socket of its user's on its command line.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use fleet::foreign::{Foreign, ProcessBooks};
use host::MemFd;
use host::lock::Lock;
use rustix::io::Errno;
use watch::foreign::{
    ContainerTexts, HostProcess, Mapping, ProcessReach, ProcessText, QmpCommand, QmpLink,
    QmpSocket, ThreadText,
};

use super::handed::contents;
use super::requests::{Answered, Asked, OfTheirs, Told};
use super::within::ask;

/// How QEMU's greeting begins (its documentation, interop/qmp-spec).
const GREETING: &[u8] = b"{\"QMP\":";

/// Whom a command is about that Mother does not run.
pub enum Theirs {
    /// A VM, by its process.
    Process(Box<HostProcess>),
    /// A container.
    Container(Box<Foreign>),
}

/// A connection to QMP, and whether QEMU has greeted there.
type Link = (QmpSocket, bool);

/// The side that has rights.
pub(super) struct Giver {
    theirs: Theirs,
    link: Lock<Option<Link>>,
}

fn refused() -> io::Error {
    Errno::PERM.into()
}

/// A file with these bytes and no name.
fn file_of(bytes: &[u8]) -> io::Result<OwnedFd> {
    let memory = MemFd::new(c"told", 0)?;
    memory.file().write_all(bytes)?;
    Ok(memory.file().try_clone()?.into())
}

fn told(what: Told) -> (Answered, Vec<OwnedFd>) {
    (Answered::Theirs(what), Vec::new())
}

fn files(files: impl IntoIterator<Item = OwnedFd>) -> (Answered, Vec<OwnedFd>) {
    (Answered::Done, files.into_iter().collect())
}

impl Giver {
    pub(super) fn new(theirs: Theirs) -> Giver {
        Giver {
            theirs,
            link: Lock::new(None),
        }
    }

    /// What is answered.
    pub(super) fn give(&self, asked: &OfTheirs) -> io::Result<(Answered, Vec<OwnedFd>)> {
        let process = match (&self.theirs, asked) {
            (Theirs::Container(found), OfTheirs::Container) => {
                let texts = ContainerTexts::gather(found)?;
                return Ok(files([file_of(&serde_json::to_vec(&texts)?)?]));
            }
            (Theirs::Process(process), _) => process,
            (Theirs::Container(_), _) => return Err(refused()),
        };
        Ok(match asked {
            OfTheirs::Found => {
                let vm = process.vm().clone();
                let has_qmp = !vm.qmp.is_empty();
                told(Told::Found(Box::new(vm), has_qmp))
            }
            OfTheirs::Text(text) => files([file_of(&process.bytes(*text)?)?]),
            OfTheirs::Memory => files(process.memory()?.map(OwnedFd::from)),
            OfTheirs::Behind(mapping) => files([process.behind(mapping)?.into()]),
            OfTheirs::Threads => told(Told::Threads(process.threads()?)),
            OfTheirs::Costs => told(Told::Costs(process.costs()?)),
            OfTheirs::Connect => {
                let socket = process.connect_qmp()?.ok_or(Errno::NOENT)?;
                *self.link.lock() = Some((socket, false));
                files([])
            }
            OfTheirs::Line => {
                let mut link = self.link.lock();
                let (socket, is_greeted) = link.as_mut().ok_or(Errno::NOTCONN)?;
                let line = socket.line()?;
                *is_greeted |= is_greeting(&line);
                told(Told::Line(line))
            }
            OfTheirs::Say(command) => {
                let mut link = self.link.lock();
                let (socket, is_greeted) = link.as_mut().ok_or(Errno::NOTCONN)?;
                if !command.is_question() || !*is_greeted {
                    return Err(refused());
                }
                socket.say(*command)?;
                files([])
            }
            OfTheirs::Container => return Err(refused()),
        })
    }
}

/// Whether a line begins as QEMU's first does, blanks aside.
fn is_greeting(line: &[u8]) -> bool {
    let solid = line.iter().filter(|byte| !byte.is_ascii_whitespace());
    solid.take(GREETING.len()).eq(GREETING)
}

fn ask_for(what: OfTheirs) -> io::Result<(Answered, Vec<OwnedFd>)> {
    ask(&Asked::Theirs(what), &[])
}

fn one_file(what: OfTheirs) -> io::Result<File> {
    let (_, files) = ask_for(what)?;
    let file = files.into_iter().next();
    Ok(File::from(file.ok_or(Errno::BADMSG)?))
}

fn told_of(what: OfTheirs) -> io::Result<Told> {
    match ask_for(what)? {
        (Answered::Theirs(told), _) => Ok(told),
        _ => Err(Errno::BADMSG.into()),
    }
}

/// The container that was typed.
pub fn container() -> io::Result<ContainerTexts> {
    let texts = contents(&one_file(OfTheirs::Container)?)?;
    Ok(serde_json::from_slice(&texts)?)
}

/// The process of the VM that was typed.
pub fn process() -> io::Result<Box<dyn ProcessReach>> {
    match told_of(OfTheirs::Found)? {
        Told::Found(vm, has_qmp) => Ok(Box::new(Process { vm: *vm, has_qmp })),
        _ => Err(Errno::BADMSG.into()),
    }
}

/// It, for who is in the jail.
struct Process {
    vm: Foreign,
    has_qmp: bool,
}

impl ProcessReach for Process {
    fn vm(&self) -> &Foreign {
        &self.vm
    }

    fn text(&self, text: ProcessText) -> io::Result<String> {
        let bytes = contents(&one_file(OfTheirs::Text(text))?)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn memory(&self) -> io::Result<[File; 2]> {
        let (_, files) = ask_for(OfTheirs::Memory)?;
        let files = files.into_iter().map(File::from).collect::<Vec<_>>();
        <[File; 2]>::try_from(files).map_err(|_| Errno::BADMSG.into())
    }

    fn behind(&self, mapping: &Mapping) -> io::Result<File> {
        one_file(OfTheirs::Behind(mapping.clone()))
    }

    fn threads(&self) -> io::Result<Vec<ThreadText>> {
        match told_of(OfTheirs::Threads)? {
            Told::Threads(threads) => Ok(threads),
            _ => Err(Errno::BADMSG.into()),
        }
    }

    fn costs(&self) -> io::Result<ProcessBooks> {
        match told_of(OfTheirs::Costs)? {
            Told::Costs(books) => Ok(books),
            _ => Err(Errno::BADMSG.into()),
        }
    }

    fn qmp(&self) -> io::Result<Option<Box<dyn QmpLink>>> {
        if !self.has_qmp {
            return Ok(None);
        }
        ask_for(OfTheirs::Connect)?;
        Ok(Some(Box::new(Line)))
    }
}

/// A connection to QMP that somebody else has.
struct Line;

impl QmpLink for Line {
    fn line(&mut self) -> io::Result<Vec<u8>> {
        match told_of(OfTheirs::Line)? {
            Told::Line(line) => Ok(line),
            _ => Err(Errno::BADMSG.into()),
        }
    }

    fn say(&mut self, command: QmpCommand) -> io::Result<()> {
        ask_for(OfTheirs::Say(command)).map(drop)
    }
}

#[cfg(test)]
#[path = "foreign_tests.rs"]
mod tests;
