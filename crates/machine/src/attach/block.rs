//! Disks: opens and locks what a plan names, once for all lives of the guest.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use devices::virtio::blk::{Disk, DiskOptions, HeadError, Image, ImageError, VirtioBlock};
use devices::virtio::{VirtioDevice, VirtioKind};
use thiserror::Error;

use super::image_lock::{LockError, open_locked};
use super::{AttachError, Attachment, slot};
use crate::attach::counters::DeviceCounters;
use crate::plan::DiskPlan;

/// Why a disk could not be opened.
#[derive(Debug, Error)]
pub(super) enum DiskError {
    /// It could not be opened and locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// It cannot be a disk.
    #[error("cannot use {path}")]
    Image {
        /// Which file.
        path: PathBuf,
        /// What is wrong with the image.
        source: ImageError,
    },
}

impl DiskError {
    /// Whether the image is one that nobody could open, wherever.
    pub(super) fn is_bad_input(&self) -> bool {
        let DiskError::Image { source, .. } = self else {
            return false;
        };
        !matches!(source, ImageError::Head(HeadError::Read(_)))
    }
}

/// An opened disk and its place on the board.
pub(super) struct DiskAttachment {
    disk: Arc<Disk>,
    slot: u8,
    queue_count: u16,
}

/// The opened files of a disk, locked for as long as they are open, in whichever process.
#[derive(Debug)]
pub(crate) struct DiskFiles {
    pub(crate) image: File,
    pub(crate) base: Option<File>,
}

impl DiskFiles {
    /// Opens and locks them.
    pub(crate) fn open(plan: &DiskPlan) -> Result<DiskFiles, AttachError> {
        let open = |path, for_writing| {
            open_locked(path, for_writing).map_err(|error| failed(plan, DiskError::Lock(error)))
        };
        let image = open(&plan.path, !plan.is_read_only)?;
        let base = plan.base.as_ref().map(|base| open(&base.path, false));
        Ok(DiskFiles {
            image,
            base: base.transpose()?,
        })
    }
}

fn failed(plan: &DiskPlan, source: DiskError) -> AttachError {
    AttachError {
        device: plan.name.clone(),
        source: Box::new(source),
    }
}

impl DiskAttachment {
    /// The disk number `n` of a VM with so many vCPUs.
    pub(super) fn new(
        plan: &DiskPlan,
        files: DiskFiles,
        n: u8,
        vcpu_count: u32,
    ) -> Result<DiskAttachment, AttachError> {
        let disk = disk(plan, files).map_err(|source| failed(plan, source))?;
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

    fn disk(&self) -> Option<Arc<Disk>> {
        Some(Arc::clone(&self.disk))
    }

    fn counters(&self) -> DeviceCounters {
        DeviceCounters {
            name: self.disk.name().to_owned(),
            kind: VirtioKind::Block,
            metrics: Arc::clone(self.disk.metrics()),
            balloon: None,
        }
    }
}

fn disk(plan: &DiskPlan, files: DiskFiles) -> Result<Disk, DiskError> {
    let base = plan.base.as_ref().and_then(|base| {
        let file = files.base?;
        Some((file, base.format))
    });
    let image = Image::open(files.image, plan.format, base, !plan.is_read_only);
    let image = image.map_err(|source| DiskError::Image {
        path: plan.path.clone(),
        source,
    })?;
    let options = DiskOptions {
        name: plan.name.clone(),
        serial: plan.serial.clone(),
        is_read_only: plan.is_read_only,
        is_guessed_raw: plan.is_guessed_raw,
    };
    Ok(Disk::new(image, options))
}
