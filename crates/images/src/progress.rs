//! What is told while something takes its time.

use serde::{Deserialize, Serialize};

/// What is being done, for a progress bar.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Progress {
    /// Another process is at it already.
    Waiting,
    /// A registry says what an image consists of.
    Asking,
    /// apt reads what the mirror offers.
    Listing(Amount),
    /// apt downloads the packages.
    Downloading(Amount),
    /// Taking the files out of the packages.
    Unpacking,
    /// Putting a root file system together, package by package.
    Assembling(Amount),
    /// Reading the layers of a container image.
    Layers(Amount),
    /// A guest configures packages.
    Configuring(Amount),
    /// Writing a disk.
    WritingDisk,
    /// What was made is written through to this host's disk, and gets its name.
    Finishing,
}

/// How much of it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// So much.
    pub done: u64,
    /// Of so much.
    pub total: u64,
    /// Of what.
    pub unit: Unit,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Packages.
    Packages,
    /// Layers of an image.
    Layers,
    /// Parts of a whole whose size is not known.
    Parts,
}

/// Parts of a whole whose size is not known.
const PARTS: u64 = 10_000;

impl Amount {
    /// So many of so many.
    pub fn new(done: usize, total: usize, unit: Unit) -> Amount {
        Amount {
            done: done as u64,
            total: total as u64,
            unit,
        }
    }

    /// So much of a hundred.
    pub(crate) fn percent(percent: f64) -> Amount {
        Amount {
            done: (percent.clamp(0.0, 100.0) / 100.0 * PARTS as f64) as u64,
            total: PARTS,
            unit: Unit::Parts,
        }
    }

    /// As a part of one.
    pub fn fraction(&self) -> f64 {
        match self.total {
            0 => 0.0,
            total => (self.done as f64 / total as f64).min(1.0),
        }
    }
}

/// Told about progress, often.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress);
