//! Who reads a container image, and what it has for that.
//!
//! An image is foreign: its archives, its compressed streams and its descriptions may be made to break whoever reads them. So
//! what reads them names no file of the host. It is given the image, piece by piece where that is a folder, two empty files
//! to write to, and says what it found. Whether that is another process in a jail, or this one, is for who calls to choose; the
//! rest of this crate knows [`ReadContainer`] only, and puts what came of it in its place.
//!
//! ```text
//! who keeps images                          who reads one
//! Input: archive, or a way to parts ------> what it says about itself
//!                                <--------- its digest
//! is there one of that digest?
//! Onto: a spool and a disk, empty --------> unpacks, writes a file system
//!                                <--------- progress ... Made: name, command
//! gives it its name
//! ```
//!
//! A reader that was taken over can still lie about the image that it reads: what it says is checked for its form, not for
//! its truth.

use serde::{Deserialize, Serialize};

use crate::container::input::{Input, Onto};
use crate::container::{ContainerError, Opened};
use crate::guest_config::GuestCommand;
use crate::progress::OnProgress;

/// What was made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Made {
    /// What the image calls itself.
    pub name: String,
    /// How many layers it has.
    pub layer_count: usize,
    /// What it runs.
    pub command: GuestCommand,
}

/// Reads container images.
pub trait ReadContainer {
    /// Reads what an image says about itself.
    ///
    /// # Errors
    /// If it is none, is damaged, or for other machines.
    fn open(&self, input: Input) -> Result<Box<dyn OpenedContainer>, ContainerError>;
}

/// An image of which everything but the layers has been read.
pub trait OpenedContainer {
    /// The SHA-256 that stands for all of it, in hexadecimal.
    fn digest(&self) -> &str;

    /// Unpacks its layers, and writes a disk of them.
    ///
    /// # Errors
    /// If a layer is damaged or hostile, or a disk is full.
    fn make(self: Box<Self>, onto: Onto, on_progress: OnProgress) -> Result<Made, ContainerError>;
}

/// Reads in the very process that asks, with all that this one has.
#[derive(Clone, Copy, Debug, Default)]
pub struct InThisProcess;

impl ReadContainer for InThisProcess {
    fn open(&self, input: Input) -> Result<Box<dyn OpenedContainer>, ContainerError> {
        Ok(Box::new(Opened::new(input)?))
    }
}
