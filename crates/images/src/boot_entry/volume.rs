//! File systems that are read: ext2 to ext4 through `ext4-view`, vfat through `fatfs`, and ISO 9660; all others are known by name
//! only.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::rc::Rc;

use ext4_view::{Ext4, Ext4Read};
use fatfs::{FileSystem, FsOptions};

use super::CONFIG_BYTES_MAX;
use super::disk::{ReadDisk, Section};
use super::iso::Iso;
use super::partitions::Partition;

/// Entries of a folder that are looked at.
const ENTRIES_MAX: usize = 1024;
/// Bytes that are copied at once.
const PIECE_BYTES: usize = 128 << 10;
/// Bytes at the start of a partition in which file systems say what they are.
const HEAD_BYTES: usize = 0x10048;

/// What other file systems and containers of them have where (blkid's probes).
const FOREIGN: [(&str, usize, &[u8]); 10] = [
    ("an xfs file system", 0, b"XFSB"),
    ("a btrfs file system", 0x10040, b"_BHRfS_M"),
    ("an f2fs file system", 0x400, &[0x10, 0x20, 0xf5, 0xf2]),
    ("a volume group (LVM)", 0x218, b"LVM2 001"),
    ("an encrypted volume (LUKS)", 0, b"LUKS\xba\xbe"),
    ("a RAID member", 0x1000, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("an NTFS file system", 3, b"NTFS    "),
    ("an exFAT file system", 3, b"EXFAT   "),
    ("a squashfs file system", 0, b"hsqs"),
    ("an erofs file system", 0x400, &[0xe2, 0xe1, 0xf5, 0xe0]),
];

/// Where an ISO 9660 file system says what it is (ECMA-119, 8.4).
const ISO_MARK: (u64, &[u8; 5]) = (0x8001, b"CD001");

/// Files that entries are looked for in. Paths begin with `/`.
pub(super) trait Files {
    /// A file of at most [`CONFIG_BYTES_MAX`], if it is there.
    fn read(&self, path: &str) -> Option<Vec<u8>>;

    /// Whether something is there.
    fn is_there(&self, path: &str) -> bool;

    /// The names in a folder; none, if it is not there.
    fn list(&self, path: &str) -> Vec<String>;

    /// What `search --fs-uuid` looks for.
    fn uuid(&self) -> String;

    /// What `search --label` looks for.
    fn label(&self) -> String;

    /// What GRUB calls the part of the disk: `hd0,gpt1`.
    fn grub_name(&self) -> String;
}

/// Why a partition is no volume.
pub(super) enum Unread {
    /// There is nothing in it that could have a boot entry.
    Empty,
    /// It has what is not read here.
    Foreign(&'static str),
}

/// A file system that is read.
pub(super) struct Volume {
    part: Partition,
    system: System,
}

enum System {
    Ext4(Ext4),
    Fat(Box<FileSystem<Section>>),
    Iso(Box<Iso>),
}

/// Whether a file is an image of a disc, byte for byte: an ISO 9660 file system from its start on.
///
/// # Errors
/// What the host says.
pub fn is_disc_file(path: &Path) -> io::Result<bool> {
    let (at, mark) = ISO_MARK;
    let mut found = [0; 5];
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(at))?;
    match file.read_exact(&mut found) {
        Ok(()) => Ok(found == *mark),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a disk begins with an ISO 9660 file system, which lies beside partitions where it is made for sticks too.
pub(super) fn is_disc(disk: &Rc<dyn ReadDisk>) -> bool {
    let (at, mark) = ISO_MARK;
    let mut found = [0; 5];
    disk.read_at(at, &mut found).is_ok() && found == *mark
}

struct Ext4Section(Section);

impl Ext4Read for Ext4Section {
    fn read(
        &mut self,
        start: u64,
        bytes: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        Ok(self.0.fill(start, bytes)?)
    }
}

impl Volume {
    /// The file system of a partition.
    pub(super) fn open(disk: &Rc<dyn ReadDisk>, part: &Partition) -> Result<Volume, Unread> {
        let section = Section::new(disk, part.start, part.len_bytes);
        let mut head = vec![0; HEAD_BYTES.min(part.len_bytes as usize)];
        if section.fill(0, &mut head).is_err() {
            return Err(Unread::Empty);
        }
        let has = |at: usize, mark: &[u8]| head.get(at..at + mark.len()) == Some(mark);
        let volume = |system| Volume {
            part: part.clone(),
            system,
        };
        if has(1024 + 56, &[0x53, 0xef]) {
            let opened = Ext4::load(Box::new(Ext4Section(section)));
            return opened
                .map(|system| volume(System::Ext4(system)))
                .map_err(|_| {
                    Unread::Foreign("an ext4 file system that is damaged or of a newer kind")
                });
        }
        if has(ISO_MARK.0 as usize, ISO_MARK.1) {
            let opened = Iso::open(section);
            return opened
                .map(|system| volume(System::Iso(Box::new(system))))
                .map_err(|_| Unread::Foreign("a damaged ISO 9660 file system"));
        }
        if let Some((what, ..)) = FOREIGN.iter().find(|(_, at, mark)| has(*at, mark)) {
            return Err(Unread::Foreign(what));
        }
        if has(510, &[0x55, 0xaa]) && (has(0x36, b"FAT") || has(0x52, b"FAT32")) {
            let options = FsOptions::new().update_accessed_date(false);
            let opened = FileSystem::new(section, options);
            return opened
                .map(|system| volume(System::Fat(Box::new(system))))
                .map_err(|_| Unread::Foreign("a damaged vfat file system"));
        }
        Err(Unread::Empty)
    }

    /// Where it is, for people.
    pub(super) fn name(&self) -> String {
        self.part.name()
    }

    /// What it is, for people.
    pub(super) fn kind(&self) -> &'static str {
        match self.system {
            System::Ext4(_) => "ext4",
            System::Fat(_) => "vfat",
            System::Iso(_) => "ISO 9660",
        }
    }

    /// Copies a file.
    pub(super) fn copy(&self, path: &str, to: &mut dyn Write) -> io::Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        match &self.system {
            System::Ext4(system) => {
                let mut file = system.open(path).map_err(io::Error::other)?;
                loop {
                    let len = file.read_bytes(&mut piece).map_err(io::Error::other)?;
                    if len == 0 {
                        return Ok(());
                    }
                    to.write_all(&piece[..len])?;
                }
            }
            System::Fat(system) => {
                let mut file = system.root_dir().open_file(path.trim_start_matches('/'))?;
                loop {
                    let len = file.read(&mut piece)?;
                    if len == 0 {
                        return Ok(());
                    }
                    to.write_all(&piece[..len])?;
                }
            }
            System::Iso(system) => system.copy(path, to),
        }
    }

    /// A program for UEFI, if there is one: a unified kernel, or a boot loader.
    pub(super) fn efi_program(&self) -> Option<String> {
        let System::Fat(_) = self.system else {
            return None;
        };
        ["/EFI/Linux", "/EFI/Microsoft/Boot", "/EFI/BOOT"]
            .iter()
            .find_map(|folder| {
                let is_program = |name: &String| name.to_ascii_lowercase().ends_with(".efi");
                let name = self.list(folder).into_iter().find(is_program)?;
                Some(format!("{folder}/{name}"))
            })
    }
}

/// Collects what is written, up to a size.
struct Short(Vec<u8>);

impl Write for Short {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > CONFIG_BYTES_MAX as usize {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Files for Volume {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        let mut short = Short(Vec::new());
        self.copy(path, &mut short).ok()?;
        Some(short.0)
    }

    fn is_there(&self, path: &str) -> bool {
        match &self.system {
            // A link that leads nowhere may lead somewhere in a guest that has mounted more.
            System::Ext4(system) => system.symlink_metadata(path).is_ok(),
            System::Fat(system) => {
                let path = path.trim_start_matches('/');
                system.root_dir().open_file(path).is_ok()
                    || system.root_dir().open_dir(path).is_ok()
            }
            System::Iso(system) => system.is_there(path),
        }
    }

    fn list(&self, path: &str) -> Vec<String> {
        match &self.system {
            System::Ext4(system) => {
                let Ok(entries) = system.read_dir(path) else {
                    return Vec::new();
                };
                let names = entries.take(ENTRIES_MAX).map_while(Result::ok);
                names
                    .filter_map(|entry| Some(entry.file_name().as_str().ok()?.to_owned()))
                    .collect()
            }
            System::Fat(system) => {
                let Ok(folder) = system.root_dir().open_dir(path.trim_start_matches('/')) else {
                    return Vec::new();
                };
                let names = folder.iter().take(ENTRIES_MAX).map_while(Result::ok);
                names.map(|entry| entry.file_name()).collect()
            }
            System::Iso(system) => system.list(path, ENTRIES_MAX),
        }
    }

    fn uuid(&self) -> String {
        match &self.system {
            System::Ext4(system) => system.uuid().to_string(),
            System::Fat(system) => {
                let id = system.volume_id();
                format!("{:04X}-{:04X}", id >> 16, id & 0xffff)
            }
            System::Iso(system) => system.uuid().to_owned(),
        }
    }

    fn label(&self) -> String {
        match &self.system {
            System::Ext4(system) => system.label().to_str().unwrap_or_default().to_owned(),
            System::Fat(system) => system.volume_label().trim().to_owned(),
            System::Iso(system) => system.label().to_owned(),
        }
    }

    fn grub_name(&self) -> String {
        if matches!(self.system, System::Iso(_)) && self.part.number.is_none() {
            return "cd0".to_owned();
        }
        match (self.part.number, self.part.is_gpt) {
            (None, _) => "hd0".to_owned(),
            (Some(number), true) => format!("hd0,gpt{number}"),
            (Some(number), false) => format!("hd0,msdos{number}"),
        }
    }
}

/// Files that are in memory.
pub(super) struct InMemory<'a>(BTreeMap<&'a str, &'a [u8]>);

impl<'a> From<&[(&'a str, &'a [u8])]> for InMemory<'a> {
    fn from(files: &[(&'a str, &'a [u8])]) -> InMemory<'a> {
        InMemory(files.iter().copied().collect())
    }
}

impl Files for InMemory<'_> {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.0.get(path).map(|bytes| bytes.to_vec())
    }

    fn is_there(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    fn list(&self, path: &str) -> Vec<String> {
        let within = |name: &&&str| {
            name.strip_prefix(path)?
                .strip_prefix('/')
                .map(str::to_owned)
        };
        let names = self.0.keys().filter_map(|name| within(&name));
        names.filter(|name| !name.contains('/')).collect()
    }

    /// The first byte of a file `/uuid`, so that tests can have several.
    fn uuid(&self) -> String {
        let uuid = self.read("/uuid").unwrap_or_default();
        String::from_utf8_lossy(&uuid).into_owned()
    }

    fn label(&self) -> String {
        let label = self.read("/label").unwrap_or_default();
        String::from_utf8_lossy(&label).into_owned()
    }

    fn grub_name(&self) -> String {
        let name = self.read("/name").unwrap_or_else(|| b"hd0".to_vec());
        String::from_utf8_lossy(&name).into_owned()
    }
}
