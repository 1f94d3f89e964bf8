//! How a disk with a system on it wants to be started: kernel, initrd and command line from the disk's own boot entries.
//!
//! ```text
//! ReadDisk ──> partitions ──> Volume: ext4, vfat, ISO 9660 ──> grub.cfg (with BLS where it says so), BLS entries alone,
//!                                                 │            or isolinux.cfg
//!                                                 └─> BootEntry ──> kernel and initrd copied out
//! ```
//!
//! The disk is foreign, so whoever calls this is a process in a jail; what is read is bounded, scripts take a bounded number
//! of steps, and nothing is ever written. File systems that are not read here (xfs, btrfs) are known by their first bytes, so
//! that an error can name them: no Rust library for them is fit, and a separate `/boot` mostly is ext4 or vfat.

mod bls;
mod disc;
mod disk;
mod grub;
mod iso;
mod partitions;
mod syslinux;
mod version;
mod volume;

#[cfg(test)]
mod disk_tests;
#[cfg(test)]
mod iso_tests;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::disc::{DiscNames, OnDisc, disc_of_files};
pub use self::disk::ReadDisk;
use self::grub::Menu;
use self::partitions::{Partition, partitions};
pub use self::volume::is_disc_file as is_disc;
use self::volume::{Files, Unread, Volume};

/// Longest configuration file that is read, in bytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Largest kernel and largest initrd, in bytes. Debian's largest initrds have 70 MiB.
const KERNEL_BYTES_MAX: u64 = 256 << 20;
const INITRD_BYTES_MAX: u64 = 1 << 30;
/// Longest command line that is told, in bytes; kernels take 2047.
const CMDLINE_BYTES_MAX: usize = 16 << 10;
/// Longest word of a disk that is told, in bytes.
const WORD_BYTES_MAX: usize = 1024;
/// Initrds of one entry.
const INITRDS_MAX: usize = 16;

/// Where distributions keep GRUB's menu, on a root file system and on a separate `/boot`; those of EFI partitions mostly lead
/// to one of these, and so come last.
const GRUB_CONFIGS: [&str; 8] = [
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/grub/grub.cfg",
    "/grub2/grub.cfg",
    "/EFI/debian/grub.cfg",
    "/EFI/ubuntu/grub.cfg",
    "/EFI/fedora/grub.cfg",
    "/EFI/BOOT/grub.cfg",
];

/// A boot entry, as its disk has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BootEntry {
    /// What it is called in the menu.
    pub title: String,
    /// The file that it is in, and on which part of the disk.
    pub source: String,
    /// The kernel, and on which part of the disk.
    pub kernel: String,
    /// Initial RAM disks, in their order.
    pub initrds: Vec<String>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// What a disk has for whoever starts it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Bootable {
    /// An entry; its kernel and its initrds are copied out.
    Entry(BootEntry),
    /// A file system with an init and without a boot entry: a kernel of somebody else's can start it.
    System,
}

/// Where kernel and initrds are copied to: empty files.
#[derive(Debug)]
pub struct BootOnto {
    /// The kernel.
    pub kernel: File,
    /// All initrds, one behind the other; nothing, if the entry has none.
    pub initrd: File,
}

/// Why a disk cannot be started from its own entries.
#[derive(Clone, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
pub enum BootError {
    /// Its reader is gone.
    #[error("what reads it failed: {0}")]
    Reader(String),
    /// There is no disk in the image, as far as one can see.
    #[error("cannot read it: {0}")]
    Disk(String),
    /// It starts by UEFI and in no other way.
    #[error("it starts by UEFI alone ({0}), and has no Linux boot entry")]
    UefiOnly(String),
    /// What might have the entries cannot be read.
    #[error("no Linux boot entry was found, and {0} cannot be read")]
    Unread(String),
    /// All could be read, and there is nothing.
    #[error("it has no Linux boot entry: {0}")]
    Nothing(String),
    /// An entry leads to nothing.
    #[error("its boot entry \"{title}\" cannot be used: {what}")]
    BadEntry {
        /// The entry.
        title: String,
        /// What is wrong with it.
        what: String,
    },
    /// What is copied out has no room.
    #[error("cannot keep its kernel and initrd: {0}")]
    Spool(String),
}

impl BootError {
    /// Whether it is the disk that is wrong, and not the host.
    pub fn is_bad_input(&self) -> bool {
        !matches!(self, BootError::Reader(_) | BootError::Spool(_))
    }
}

/// An entry before its files are looked for: a path with the number of the volume that it is on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Found {
    title: String,
    kernel: Place,
    initrds: Vec<Place>,
    cmdline: String,
}

/// A file on a volume.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Place {
    volume: usize,
    path: String,
}

/// Looks for a disk's boot entry, and copies what it starts.
///
/// # Errors
/// [`BootError`], if it has none that can be used.
pub fn read_boot_entry(disk: &Rc<dyn ReadDisk>, onto: BootOnto) -> Result<Bootable, BootError> {
    let parts = partitions(disk).map_err(|error| BootError::Disk(words(&error.to_string())))?;
    let mut volumes = Vec::new();
    let mut unread = Vec::new();
    let whole = Partition::whole(disk);
    // A disc that is made for sticks too has a table of partitions, one of which may be the disc itself.
    let disc = (volume::is_disc(disk) && !parts.contains(&whole)).then_some(&whole);
    for part in parts.iter().chain(disc) {
        match Volume::open(disk, part) {
            Ok(volume) => volumes.push(volume),
            Err(Unread::Empty) => {}
            Err(Unread::Foreign(what)) => unread.push(format!("{what} on {}", part.name())),
        }
    }
    let files: Vec<&dyn Files> = volumes.iter().map(|volume| volume as &dyn Files).collect();
    if let Some((found, source)) = entry(&files) {
        return copy_out(&volumes, found, source, onto).map(Bootable::Entry);
    }
    if volumes.iter().any(has_init) {
        return Ok(Bootable::System);
    }
    Err(nothing(&volumes, &parts, unread))
}

/// The entry that starts by itself, and the file that it stands in.
fn entry(volumes: &[&dyn Files]) -> Option<(Found, Place)> {
    for path in GRUB_CONFIGS {
        for volume in 0..volumes.len() {
            let place = Place {
                volume,
                path: path.to_owned(),
            };
            let Some(menu) = Menu::read(volumes, &place) else {
                continue;
            };
            if let Some(found) = menu.chosen() {
                return Some((found, place));
            }
        }
    }
    (0..volumes.len())
        .find_map(|volume| bls::alone(volumes, volume))
        .or_else(|| syslinux::entry(volumes))
}

/// What starts by itself among files in memory: for tests and for who feeds this with what somebody has changed. Each volume is
/// a list of paths with contents.
pub fn entry_of_files(volumes: &[Vec<(&str, &[u8])>]) -> Option<(String, String)> {
    let volumes: Vec<volume::InMemory> = volumes
        .iter()
        .map(|files| files.as_slice().into())
        .collect();
    let files: Vec<&dyn Files> = volumes.iter().map(|volume| volume as &dyn Files).collect();
    let (found, _) = entry(&files)?;
    Some((found.title, found.cmdline))
}

fn has_init(volume: &Volume) -> bool {
    ["/sbin/init", "/usr/sbin/init", "/usr/lib/systemd/systemd"]
        .iter()
        .any(|path| volume.is_there(path))
}

/// Says why nothing was found.
fn nothing(volumes: &[Volume], parts: &[Partition], unread: Vec<String>) -> BootError {
    let efi = volumes.iter().find_map(|volume| {
        let program = volume.efi_program()?;
        Some(format!("{program} on {}", volume.name()))
    });
    if let Some(program) = efi {
        return BootError::UefiOnly(words(&program));
    }
    if !unread.is_empty() {
        return BootError::Unread(words(&unread.join(", ")));
    }
    let seen = match (volumes, parts) {
        ([], [only]) if only.number.is_none() => {
            "it has no partitions and no file system that is known".to_owned()
        }
        ([], _) => "none of its partitions has a file system that is known".to_owned(),
        _ => {
            let names: Vec<String> = volumes
                .iter()
                .map(|it| format!("{} on {}", it.kind(), it.name()))
                .collect();
            format!("{} was looked through", names.join(", "))
        }
    };
    BootError::Nothing(words(&seen))
}

/// Copies what an entry starts, and says where it was.
fn copy_out(
    volumes: &[Volume],
    found: Found,
    source: Place,
    onto: BootOnto,
) -> Result<BootEntry, BootError> {
    let title = words(&found.title);
    let bad = |what: String| BootError::BadEntry {
        title: title.clone(),
        what: words(&what),
    };
    if found.cmdline.len() > CMDLINE_BYTES_MAX {
        return Err(bad(format!(
            "its command line has {} bytes",
            found.cmdline.len()
        )));
    }
    if found.initrds.len() > INITRDS_MAX {
        return Err(bad(format!("it has {} initrds", found.initrds.len())));
    }
    let shown = |place: &Place| format!("{} on {}", place.path, volumes[place.volume].name());
    let mut kernel = Bounded::new(onto.kernel, KERNEL_BYTES_MAX);
    let mut initrd = Bounded::new(onto.initrd, INITRD_BYTES_MAX);
    let copied = |place: &Place, to: &mut Bounded| {
        let copied = volumes[place.volume].copy(&place.path, to);
        copied.map_err(|error| match to.trouble.take() {
            Some(full) => BootError::Spool(full),
            None => bad(format!("{}: {error}", shown(place))),
        })
    };
    copied(&found.kernel, &mut kernel)?;
    for place in &found.initrds {
        copied(place, &mut initrd)?;
        // The kernel looks for the next archive where a word begins.
        initrd
            .align()
            .map_err(|error| BootError::Spool(error.to_string()))?;
    }
    Ok(BootEntry {
        source: words(&shown(&source)),
        kernel: words(&shown(&found.kernel)),
        initrds: found
            .initrds
            .iter()
            .map(|place| words(&shown(place)))
            .collect(),
        cmdline: found.cmdline,
        title,
    })
}

/// A file that is written to and gets no longer than it should.
struct Bounded {
    file: File,
    len_bytes: u64,
    max_bytes: u64,
    /// What the host said when it could not be written.
    trouble: Option<String>,
}

impl Bounded {
    fn new(file: File, max_bytes: u64) -> Bounded {
        Bounded {
            file,
            len_bytes: 0,
            max_bytes,
            trouble: None,
        }
    }

    fn align(&mut self) -> io::Result<()> {
        let end = self.len_bytes.next_multiple_of(4);
        self.file.set_len(end)?;
        self.len_bytes = self.file.seek(SeekFrom::Start(end))?;
        Ok(())
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.len_bytes + bytes.len() as u64 > self.max_bytes {
            let text = format!("it is larger than {} MiB", self.max_bytes >> 20);
            return Err(io::Error::other(text));
        }
        self.file.write_all(bytes).inspect_err(|error| {
            self.trouble = Some(error.to_string());
        })?;
        self.len_bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A disk's own words, bounded.
fn words(text: &str) -> String {
    let mut end = text.len().min(WORD_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
