//! A process's folder in `/proc`, opened once: everything else is opened below it, so that another process that gets the
//! number later is not taken for it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{AtFlags, Mode, OFlags, open, openat, statat};

use super::maps::Mapping;

/// The longest text that is read: a process may have as many mappings as it likes.
const TEXT_MAX: u64 = 64 << 20;
/// Most descriptors that are looked at.
const DESCRIPTORS_MAX: usize = 1 << 16;

/// See the module's head.
pub(super) struct ProcessFiles {
    folder: OwnedFd,
}

impl ProcessFiles {
    pub(super) fn open(pid: u32) -> io::Result<ProcessFiles> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = open(format!("/proc/{pid}"), flags, Mode::empty())?;
        Ok(ProcessFiles { folder })
    }

    /// A file of it, for reading.
    pub(super) fn file(&self, name: &str) -> io::Result<File> {
        // A descriptor of the process may be of a pipe or a device, which must not be waited for.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        Ok(File::from(openat(
            &self.folder,
            name,
            flags,
            Mode::empty(),
        )?))
    }

    /// What is in a file of it.
    pub(super) fn bytes(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(name)?.take(TEXT_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The beginning of a short text of it.
    pub(super) fn words(&self, name: &str, max_bytes: u64) -> io::Result<String> {
        let mut bytes = Vec::new();
        self.file(name)?.take(max_bytes).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The file behind a shared mapping, by a descriptor of the process's.
    pub(super) fn behind(&self, mapping: &Mapping) -> io::Result<File> {
        let is_it = |file: &File| {
            let metadata = file.metadata();
            metadata.is_ok_and(|it| it.ino() == mapping.inode && it.len() >= mapping.end_in_file())
        };
        let by_descriptor = self.descriptors().find_map(|name| {
            let inode = self.inode(&name).ok()?;
            if inode != mapping.inode {
                return None;
            }
            self.file(&name).ok().filter(&is_it)
        });
        if let Some(file) = by_descriptor {
            return Ok(file);
        }
        let name = format!("map_files/{:x}-{:x}", mapping.start, mapping.end());
        let file = self.file(&name)?;
        match is_it(&file) {
            true => Ok(file),
            false => Err(io::Error::other("its mappings change")),
        }
    }

    /// Names of what is in a folder of it.
    pub(super) fn names(&self, folder: &str) -> io::Result<Vec<String>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(&self.folder, folder, flags, Mode::empty())?;
        let entries = fs::read_dir(format!("/proc/self/fd/{}", opened.as_raw_fd()))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.take(DESCRIPTORS_MAX).collect())
    }

    /// Its descriptors, as names of files.
    fn descriptors(&self) -> impl Iterator<Item = String> {
        let names = self.names("fd").unwrap_or_default().into_iter();
        names.map(|name| format!("fd/{name}"))
    }

    /// The number of the file that a descriptor is of.
    fn inode(&self, name: &str) -> io::Result<u64> {
        Ok(statat(&self.folder, name, AtFlags::empty())?.st_ino)
    }
}
