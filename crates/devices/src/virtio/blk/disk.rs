//! An opened disk: its image and what a guest may know of it, one for all lives of the guest.

use std::io;
use std::sync::Arc;

use host::lock::Lock;

use super::head::SECTOR_BYTES;
use super::image::Image;
use crate::virtio::DeviceMetrics;

/// Bytes of a serial number (5.2.6, `VIRTIO_BLK_T_GET_ID`).
pub const SERIAL_BYTES: usize = 20;

/// What belongs to a disk beside its image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskOptions {
    /// What it is called in messages and metrics.
    pub name: String,
    /// What the guest sees as its serial number: [`SERIAL_BYTES`] at most, the rest is cut off.
    pub serial: String,
    /// Whether the guest may not write.
    pub is_read_only: bool,
    /// Whether nobody said that the image is raw: then the guest may not write what would make it look like another
    /// format the next time.
    pub is_guessed_raw: bool,
}

/// An opened disk: one for all lives of the guest.
#[derive(Debug)]
pub struct Disk {
    pub(super) image: Image,
    pub(super) options: DiskOptions,
    pub(super) metrics: Arc<DeviceMetrics>,
    told: Lock<Vec<Trouble>>,
}

/// A kind of trouble that a guest can cause as often as it likes, and that is worth a line in the log once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trouble {
    /// A write that would make a raw disk look like another format.
    Disguise,
    /// An error of the host.
    Host(io::ErrorKind),
}

impl Disk {
    /// A disk with this image.
    pub fn new(image: Image, options: DiskOptions) -> Disk {
        Disk {
            image,
            options,
            metrics: Arc::default(),
            told: Lock::default(),
        }
    }

    /// Whether this is the first trouble of its kind with this disk, over all lives of the guest: later ones are
    /// counted among its errors and not told again. There are some forty kinds, so the list is short.
    pub(super) fn is_news(&self, trouble: Trouble) -> bool {
        let mut told = self.told.lock();
        if told.contains(&trouble) {
            return false;
        }
        told.push(trouble);
        true
    }

    /// What it counts, over all lives of the guest.
    pub fn metrics(&self) -> &Arc<DeviceMetrics> {
        &self.metrics
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Has everything that was written be in the image's file, where whoever copies that finds it: tables of a qcow2 image
    /// are written later than what they lead to. While no request is under way.
    ///
    /// # Errors
    /// What the host says.
    pub fn settle(&self) -> io::Result<()> {
        if self.options.is_read_only {
            return Ok(());
        }
        self.image.flush()
    }

    /// Has everything that this process holds of the image be in its file, for another process that opens it: durable it is no more
    /// than before. While no request is under way.
    ///
    /// # Errors
    /// What the host says.
    pub fn write_out(&self) -> io::Result<()> {
        if self.options.is_read_only {
            return Ok(());
        }
        self.image.write_out()
    }

    /// Sectors of the disk.
    pub(super) fn capacity_sectors(&self) -> u64 {
        self.image.size_bytes() / SECTOR_BYTES
    }

    /// The answer to `VIRTIO_BLK_T_GET_ID`: padded with zeros, without one at the end if it is full.
    pub(super) fn serial(&self) -> [u8; SERIAL_BYTES] {
        let mut bytes = [0; SERIAL_BYTES];
        let serial = self.options.serial.as_bytes();
        let len = serial.len().min(SERIAL_BYTES);
        bytes[..len].copy_from_slice(&serial[..len]);
        bytes
    }
}
