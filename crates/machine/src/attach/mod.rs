//! The outside of a VM's virtio devices: what is opened once and lent to every life of the guest.
//!
//! An [`Attachment`] is one device from its plan to its backend. It says in which slot of the PCI bus the device
//! sits and makes the device anew for each life, as everything of a life is made anew. What it holds itself outlives
//! resets: open images, sockets, counters. To add a kind of device: a file here with its attachment, a line in
//! [`attach()`], and one in [`crate::build::descriptors`] if it stands on something of the host's.
//!
//! ```text
//! VmPlan, descriptors ── attach ──> Attachment ── device, in every life ──> VirtioDevice ──> a slot of the board
//! ```

mod balloon;
pub(crate) mod block;
pub(crate) mod broker;
pub(crate) mod claims;
mod console;
pub(crate) mod counters;
mod entropy;
pub(crate) mod folder;
pub(crate) mod handles;
mod image_lock;
pub(crate) mod network;
pub(crate) mod passt;
pub(crate) mod vsock;

use std::sync::Arc;

use api::ConsoleKind;
use devices::virtio::VirtioDevice;
use devices::virtio::blk::Disk;
use devices::virtio::net::NetPort;
use thiserror::Error;

use crate::attach::block::DiskFiles;
use crate::attach::broker::Broker;
use crate::attach::counters::DeviceCounters;
use crate::attach::folder::Shared;
use crate::attach::handles::Handles;
use crate::attach::network::Wire;
use crate::attach::vsock::Listeners;
use crate::console::output::Output;
use crate::console::{Channel, ConsoleInput};
use crate::plan::VmPlan;

/// Slots of PCI bus 0. A device has the same one whatever else there is, so that its name in the guest stays.
pub(crate) mod slot {
    pub(crate) const CONSOLE: u8 = 1;
    pub(crate) const ENTROPY: u8 = 2;
    pub(crate) const NETWORK: u8 = 3;
    pub(crate) const BALLOON: u8 = 4;
    pub(crate) const VSOCK: u8 = 5;
    /// And the ones behind it, for as many disks as a plan has.
    pub(crate) const FIRST_DISK: u8 = 8;
    /// And the ones behind it, up to the last slot of the bus.
    pub(crate) const FIRST_FOLDER: u8 = 24;
}

/// Why the outside of a device could not be opened.
#[derive(Debug, Error)]
#[error("cannot set up {device}")]
pub struct AttachError {
    /// Which device.
    pub device: String,
    /// What the device or the host said.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl AttachError {
    /// The network's.
    pub fn of_network(source: impl std::error::Error + Send + Sync + 'static) -> AttachError {
        AttachError {
            device: "the network".to_owned(),
            source: Box::new(source),
        }
    }

    /// The shared folder's of this name.
    pub(crate) fn of_folder(
        name: &str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> AttachError {
        AttachError {
            device: format!("the shared folder {name}"),
            source: Box::new(source),
        }
    }

    /// What to do, if something can be done.
    pub(crate) fn help(&self) -> Option<&'static str> {
        self.source.downcast_ref::<passt::PasstError>()?.help()
    }

    /// Whether what the user named is to blame, and not the host.
    pub(crate) fn is_bad_input(&self) -> bool {
        let disk = self.source.downcast_ref::<block::DiskError>();
        disk.is_some_and(block::DiskError::is_bad_input)
    }
}

/// The outside of one device.
pub(crate) trait Attachment: Send {
    /// Its slot on the bus.
    fn slot(&self) -> u8;

    /// The device for a new life. The one of the life before has been dropped, and its workers with it.
    fn device(&mut self) -> Result<Box<dyn VirtioDevice>, AttachError>;

    /// The disk, if it is one.
    fn disk(&self) -> Option<Arc<Disk>> {
        None
    }

    /// Where another network can be plugged in, if it is a network device.
    fn port(&self) -> Option<NetPort> {
        None
    }

    /// What the device counted, over all lives.
    fn counters(&self) -> DeviceCounters;
}

/// The console, which stands on nothing of the host's.
pub(crate) fn console(
    plan: &VmPlan,
    input: &ConsoleInput,
    output: &Output,
    channels: Vec<Channel>,
    handles: &Handles,
) -> Result<Box<dyn Attachment>, AttachError> {
    let window = handles.window.clone();
    let console = match plan.console {
        ConsoleKind::Virtio => {
            console::ConsoleAttachment::connected(input, output, &handles.claims, window)?
        }
        ConsoleKind::Serial => console::ConsoleAttachment::loose(&handles.claims, window),
    };
    Ok(Box::new(console.with_channels(channels)))
}

/// What devices stand on, opened.
pub(crate) struct Opened {
    pub(crate) disks: Vec<DiskFiles>,
    pub(crate) folders: Vec<Shared>,
    pub(crate) wire: Option<Wire>,
    pub(crate) listeners: Option<Listeners>,
}

/// So many devices come before the disks, without the console.
pub(crate) const BEFORE_DISKS: usize = 2;

/// The disks of `plan` on their files.
pub(crate) fn disks(
    plan: &VmPlan,
    files: Vec<DiskFiles>,
) -> Result<Vec<Box<dyn Attachment>>, AttachError> {
    let mut disks: Vec<Box<dyn Attachment>> = Vec::new();
    for ((n, disk), files) in (0..).zip(&plan.disks).zip(files) {
        let disk = block::DiskAttachment::new(disk, files, n, plan.vcpu_count)?;
        disks.push(Box::new(disk));
    }
    Ok(disks)
}

/// The devices of `plan` on what was opened for them, but for the console. `are_anothers` tells whether another process has its
/// sockets too.
pub(crate) fn attach(
    plan: &VmPlan,
    opened: Opened,
    handles: &Handles,
    broker: &Arc<dyn Broker>,
    are_anothers: bool,
) -> Result<Vec<Box<dyn Attachment>>, AttachError> {
    let mut attachments: Vec<Box<dyn Attachment>> = vec![
        Box::new(entropy::EntropyAttachment::default()),
        Box::new(balloon::BalloonAttachment::new(handles.balloon.clone())),
    ];
    debug_assert_eq!(attachments.len(), BEFORE_DISKS);
    attachments.extend(disks(plan, opened.disks)?);
    for ((n, folder), shared) in (0..).zip(&plan.folders).zip(opened.folders) {
        attachments.push(Box::new(folder::FolderAttachment::new(folder, shared, n)?));
    }
    if let (Some(network), Some(wire)) = (&plan.network, opened.wire) {
        attachments.push(Box::new(network::NetworkAttachment::new(network, wire)?));
    }
    if let Some(connector) = handles.connector.clone() {
        attachments.push(Box::new(vsock::VsockAttachment::new(
            opened.listeners,
            connector,
            &handles.claims,
            broker,
            are_anothers,
        )));
    }
    Ok(attachments)
}
