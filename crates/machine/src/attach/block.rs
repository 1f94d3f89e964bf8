//! Disks: opens what a plan names, and keeps others from writing to it meanwhile.
//!
//! A disk that the guest may write is locked for this process alone, one that is only read (a base too) is shared
//! with other readers: `flock`, which the kernel gives back whatever way the process ends. The lock belongs to the
//! opened file, so it lives as long as the disk does, over all lives of the guest.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use devices::virtio::blk::{Disk, DiskOptions, Image, ImageError, VirtioBlock};
use devices::virtio::{DeviceMetrics, VirtioDevice};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use thiserror::Error;

use super::{AttachError, Attachment, slot};
use crate::plan::DiskPlan;

/// Why a disk could not be opened.
#[derive(Debug, Error)]
pub(super) enum DiskError {
    /// The host said no.
    #[error("cannot open {path}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else has it.
    #[error("{path} is in use{holder}; {advice}")]
    Busy {
        /// Which file.
        path: PathBuf,
        /// By whom, if that can be seen; with what stands before it.
        holder: String,
        /// What to do.
        advice: &'static str,
    },
    /// It cannot be a disk.
    #[error("cannot use {path}")]
    Image {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: ImageError,
    },
}

/// An opened disk and its place on the board.
pub(super) struct DiskAttachment {
    disk: Arc<Disk>,
    slot: u8,
    queue_count: u16,
}

impl DiskAttachment {
    /// Opens and locks the disk number `n` of a VM with so many vCPUs.
    pub(super) fn open(
        plan: &DiskPlan,
        n: u8,
        vcpu_count: u32,
    ) -> Result<DiskAttachment, AttachError> {
        let disk = open_disk(plan).map_err(|source| AttachError {
            device: plan.name.clone(),
            source: Box::new(source),
        })?;
        let queue_count = u16::try_from(vcpu_count).unwrap_or(u16::MAX);
        Ok(DiskAttachment {
            disk: Arc::new(disk),
            slot: slot::FIRST_DISK + n,
            queue_count,
        })
    }
}

impl Attachment for DiskAttachment {
    fn slot(&self) -> u8 {
        self.slot
    }

    fn device(&mut self) -> Result<Box<dyn VirtioDevice>, AttachError> {
        Ok(Box::new(VirtioBlock::new(
            Arc::clone(&self.disk),
            self.queue_count,
        )))
    }

    fn metrics(&self) -> Arc<DeviceMetrics> {
        Arc::clone(self.disk.metrics())
    }
}

fn open_disk(plan: &DiskPlan) -> Result<Disk, DiskError> {
    let file = open_locked(&plan.path, !plan.is_read_only)?;
    let mut base = None;
    if let Some(plan) = &plan.base {
        base = Some((open_locked(&plan.path, false)?, plan.format));
    }
    let image = Image::open(file, plan.format, base, !plan.is_read_only).map_err(|source| {
        DiskError::Image {
            path: plan.path.clone(),
            source,
        }
    })?;
    let options = DiskOptions {
        name: plan.name.clone(),
        serial: plan.serial.clone(),
        is_read_only: plan.is_read_only,
        is_guessed_raw: plan.is_guessed_raw,
    };
    Ok(Disk::new(image, options))
}

fn open_locked(path: &Path, for_writing: bool) -> Result<File, DiskError> {
    let open_error = |source| DiskError::Open {
        path: path.to_owned(),
        source,
    };
    let file = File::options()
        .read(true)
        .write(for_writing)
        .open(path)
        .map_err(open_error)?;
    let operation = if for_writing {
        FlockOperation::NonBlockingLockExclusive
    } else {
        FlockOperation::NonBlockingLockShared
    };
    match flock(&file, operation) {
        Ok(()) => Ok(file),
        // A file system without locks: nobody can be kept out there.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK) => {
            tracing::warn!(
                "{}: its file system has no locks; see that nobody else uses it",
                path.display()
            );
            Ok(file)
        }
        Err(Errno::WOULDBLOCK) => Err(DiskError::Busy {
            path: path.to_owned(),
            holder: holder(&file)
                .map(|holder| format!(" by {holder}"))
                .unwrap_or_default(),
            advice: if for_writing {
                "end that first, or give the disk read-only to both"
            } else {
                "it is being written; end that first"
            },
        }),
        Err(error) => Err(open_error(error.into())),
    }
}

/// Who holds a lock on `file`, as the kernel tells everybody.
fn holder(file: &File) -> Option<String> {
    let metadata = file.metadata().ok()?;
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let pid = locks
        .lines()
        .find_map(|line| pid_of_lock(line, metadata.dev(), metadata.ino()))?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("process {pid} ({})", name.trim()))
}

/// The process of a line such as `1: FLOCK  ADVISORY  WRITE 7219 fe:00:3674263 0 EOF`, if it is about this file.
fn pid_of_lock(line: &str, device: u64, inode: u64) -> Option<u32> {
    let mut words = line
        .split_whitespace()
        .skip_while(|word| *word != "FLOCK")
        .skip(3);
    let pid = words.next()?.parse().ok()?;
    let mut numbers = words.next()?.split(':');
    let major = u32::from_str_radix(numbers.next()?, 16).ok()?;
    let minor = u32::from_str_radix(numbers.next()?, 16).ok()?;
    let is_it = (major, minor) == (rustix::fs::major(device), rustix::fs::minor(device))
        && numbers.next()?.parse() == Ok(inode);
    is_it.then_some(pid)
}

#[cfg(test)]
mod tests {
    use devices::virtio::blk::ImageFormat;

    use super::*;

    fn plan(path: &Path, is_read_only: bool) -> DiskPlan {
        DiskPlan {
            name: "disk0".to_owned(),
            path: path.to_owned(),
            format: ImageFormat::Raw,
            is_guessed_raw: true,
            base: None,
            is_read_only,
            serial: "disk0".to_owned(),
        }
    }

    #[test]
    fn a_disk_is_written_by_one_vm_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, [0; 4096]).unwrap();
        let check = |first, second, works: bool| {
            let _held = open_disk(&plan(&path, first)).unwrap();
            let got = open_disk(&plan(&path, second));
            assert_eq!(got.is_ok(), works, "{first} {second}");
            if let Err(error) = got {
                let me = format!("is in use by process {} (", std::process::id());
                assert!(error.to_string().contains(&me), "{error}");
            }
        };
        check(true, true, true);
        check(true, false, false);
        check(false, true, false);
        check(false, false, false);
        assert!(
            open_disk(&plan(&path, false)).is_ok(),
            "and the lock goes with the disk"
        );
    }

    #[test]
    fn the_kernels_list_of_locks_is_read() {
        let check = |line: &str, expected| {
            assert_eq!(
                pid_of_lock(line, rustix::fs::makedev(0xfe, 3), 3674263),
                expected,
                "{line}"
            );
        };
        check(
            "1: FLOCK  ADVISORY  WRITE 7219 fe:03:3674263 0 EOF",
            Some(7219),
        );
        check("12: FLOCK  ADVISORY  READ 7 fe:03:3674263 0 EOF", Some(7));
        check("1: FLOCK  ADVISORY  WRITE 7219 fe:03:3674264 0 EOF", None);
        check("1: FLOCK  ADVISORY  WRITE 7219 fe:04:3674263 0 EOF", None);
        check("1: POSIX  ADVISORY  WRITE 7219 fe:03:3674263 0 EOF", None);
        check("1: -> FLOCK", None);
        check("", None);
    }
}
