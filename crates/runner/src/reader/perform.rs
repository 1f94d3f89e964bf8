//! The reader's side: it locks itself in before it has anything to read.

use std::error::Error;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use devices::virtio::blk::{Head, Image};
use host::MemFd;
use host::jail::{self, Kind, Refused};
use images::{
    BootError, BootOnto, Bootable, ContainerError, ElfError, InThisProcess, Input, Made, Needs,
    Onto, OpenedContainer, Parts, ReadContainer, ReadDisk, ReadElf, read_boot_entry,
};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::spawn;
use crate::trouble::OUR_FAULT;
use crate::vm::lock;
use crate::wire::{Channel, FromReader, ToReader};

/// Reads what it is given until nobody wants anything any more.
pub(crate) fn perform(channel: Channel, is_apart: bool) -> u8 {
    // Who waits for it may be ended at any moment; nobody else wants what it makes. (The kernel means the thread that
    // started it: the one that waits.)
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    spawn::name_process("mother: reader");
    jail::settle_libc();
    let jailed = lock(Kind::Reader, is_apart);
    let channel = Rc::new(channel);
    let served = channel
        .send(&FromReader::Jailed(jailed), &[])
        .and_then(|()| serve(&channel));
    if let Some(refused) = jail::refused().filter(|refused| refused.count > 0) {
        let Refused { count, first } = refused;
        tracing::warn!("a reader of foreign files was refused {count} system calls: {first:?}");
    }
    match served {
        Ok(()) => 0,
        // Who asked is gone.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            tracing::warn!("a reader of foreign files was not understood: {error}");
            OUR_FAULT
        }
    }
}

fn senseless() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "it was told what makes no sense",
    )
}

fn serve(channel: &Rc<Channel>) -> io::Result<()> {
    let mut opened: Option<Box<dyn OpenedContainer>> = None;
    while let Some((wanted, files)) = channel.receive::<ToReader>()? {
        let mut files = files.into_iter().map(File::from);
        match wanted {
            ToReader::Container { name, wanted } => {
                let parts = match files.next() {
                    Some(archive) => Parts::Archive(archive),
                    None => asked_for(channel),
                };
                let input = Input {
                    parts,
                    name,
                    wanted,
                };
                let answer = match InThisProcess.open(input) {
                    Ok(image) => {
                        let digest = image.digest().to_owned();
                        opened = Some(image);
                        FromReader::Opened { digest }
                    }
                    Err(error) => FromReader::Refused((&error).into()),
                };
                channel.send(&answer, &[])?;
            }
            ToReader::Make => {
                let image = opened.take().ok_or_else(senseless)?;
                let spool = files.next().ok_or_else(senseless)?;
                let disk = files.next().ok_or_else(senseless)?;
                match make(channel, image, Onto { spool, disk }) {
                    Ok(made) => tell(channel, &made)?,
                    Err(error) => channel.send(&FromReader::Refused((&error).into()), &[])?,
                }
            }
            ToReader::Elf => {
                let file = files.next().ok_or_else(senseless)?;
                channel.send(&FromReader::Elf(needs(&file)), &[])?;
            }
            ToReader::Boot => {
                let image = files.next().ok_or_else(senseless)?;
                let kernel = files.next().ok_or_else(senseless)?;
                let initrd = files.next().ok_or_else(senseless)?;
                let said = boot(image, BootOnto { kernel, initrd });
                channel.send(&FromReader::Boot(said), &[])?;
            }
            ToReader::Part { .. } => return Err(senseless()),
        }
    }
    Ok(())
}

/// The parts of an image that is a folder: who started this process opens them.
fn asked_for(channel: &Rc<Channel>) -> Parts {
    let channel = Rc::clone(channel);
    Parts::Folder(Box::new(move |path: &str| {
        let path = path.to_owned();
        channel.send(&FromReader::Part { path }, &[])?;
        let answer = channel.receive::<ToReader>()?;
        let (said, files) = answer.ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
        let file: Option<OwnedFd> = files.into_iter().next();
        match (said, file) {
            (ToReader::Part { refusal: None }, Some(file)) => Ok(File::from(file)),
            (
                ToReader::Part {
                    refusal: Some(number),
                },
                _,
            ) => Err(io::Error::from_raw_os_error(number)),
            _ => Err(senseless()),
        }
    }))
}

fn make(
    channel: &Channel,
    image: Box<dyn OpenedContainer>,
    onto: Onto,
) -> Result<Made, ContainerError> {
    image.make(onto, &mut |progress| {
        // Who does not listen any more ends this process.
        let _ = channel.send(&FromReader::Progress(progress), &[]);
    })
}

/// An image's words may be longer than a message.
fn tell(channel: &Channel, made: &Made) -> io::Result<()> {
    let words = serde_json::to_vec(made)?;
    let memory = MemFd::new(c"made", 0)?;
    let mut file = memory.file().try_clone()?;
    file.write_all(&words)?;
    file.rewind()?;
    channel.send(&FromReader::Made, &[file.as_fd()])
}

fn needs(file: &File) -> Result<Needs, ElfError> {
    InThisProcess.needs(file)
}

/// A disk by its image.
struct OfImage(Image);

impl ReadDisk for OfImage {
    fn len_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read_bytes(bytes, offset)
    }
}

fn boot(file: File, onto: BootOnto) -> Result<Bootable, BootError> {
    let unread = |error: &dyn Error| BootError::Disk(error.to_string());
    let head = Head::read(&file, None).map_err(|error| unread(&error))?;
    let image = Image::open(file, head.format, None, false).map_err(|error| unread(&error))?;
    let disk: Rc<dyn ReadDisk> = Rc::new(OfImage(image));
    read_boot_entry(&disk, onto)
}
