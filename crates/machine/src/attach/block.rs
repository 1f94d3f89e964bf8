//! Disks: opens and locks what a plan names, once for all lives of the guest.

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

    fn counters(&self) -> DeviceCounters {
        DeviceCounters {
            name: self.disk.name().to_owned(),
            kind: VirtioKind::Block,
            metrics: Arc::clone(self.disk.metrics()),
            balloon: None,
        }
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
