//! A folder's device, and the socket to who serves the folder.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use devices::virtio::folder::{Folder, FolderPort};
use devices::virtio::{DeviceMetrics, VirtioDevice, VirtioKind};
use thiserror::Error;

use super::{AttachError, Attachment, slot};
use crate::attach::counters::DeviceCounters;
use crate::plan::FolderPlan;

/// A folder on its way to the guest.
#[derive(Debug)]
pub(crate) enum Shared {
    /// The folder itself, open as a place, which is for who serves it.
    Folder(OwnedFd),
    /// A socket to who serves it.
    Served(UnixStream),
}

/// Nobody serves the folder: that is for who starts the VM ([`crate::Descriptors::share`]).
#[derive(Debug, Error)]
#[error("nobody serves it")]
struct NotServed;

/// Holds the socket, which every life's device speaks through.
pub(super) struct FolderAttachment {
    name: String,
    slot: u8,
    port: FolderPort,
    metrics: Arc<DeviceMetrics>,
}

impl FolderAttachment {
    /// The device of the `n`th folder.
    pub(super) fn new(
        plan: &FolderPlan,
        shared: Shared,
        n: u8,
    ) -> Result<FolderAttachment, AttachError> {
        let Shared::Served(socket) = shared else {
            return Err(AttachError::of_folder(&plan.name, NotServed));
        };
        Ok(FolderAttachment {
            name: plan.name.clone(),
            slot: slot::FIRST_FOLDER + n,
            port: FolderPort::new(socket),
            metrics: Arc::default(),
        })
    }
}

impl Attachment for FolderAttachment {
    fn slot(&self) -> u8 {
        self.slot
    }

    fn device(&mut self) -> Result<Box<dyn VirtioDevice>, AttachError> {
        let metrics = Arc::clone(&self.metrics);
        Ok(Box::new(Folder::new(
            &self.name,
            self.port.clone(),
            metrics,
        )))
    }

    fn counters(&self) -> DeviceCounters {
        DeviceCounters {
            name: self.name.clone(),
            kind: VirtioKind::FileSystem,
            metrics: Arc::clone(&self.metrics),
            balloon: None,
        }
    }
}
