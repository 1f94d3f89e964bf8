//! What is told while something takes its time.

/// What is being done, for a progress bar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress {
    /// Another process is at it already.
    Waiting,
    /// apt reads what the mirror offers; percent done.
    Listing(f64),
    /// apt downloads the packages; percent done.
    Downloading(f64),
    /// Taking the files out of the packages.
    Unpacking,
    /// Putting a root file system together; percent of packages done.
    Assembling(f64),
    /// Reading the layers of a container image; percent of their bytes done.
    Layers(f64),
    /// A guest configures packages; percent of them done.
    Configuring(f64),
    /// Writing a disk.
    WritingDisk,
}

/// Told about progress, often.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress);
