//! What a process that reads foreign files and the process that started it say to each other.
//!
//! [`FromReader`] is what a file that has broken its reader could have it write: everything in it is bounded, and the only
//! thing that it asks for by name is a part of the very image that it reads.

use api::Jail;
use images::{BootError, Bootable, ElfError, Needs, Progress, ToldError};
use serde::{Deserialize, Serialize};

/// To the reader.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum ToReader {
    /// Read what a container image says of itself: the archive that comes with this, or a folder, whose parts are asked for.
    Container {
        /// What it is called if it does not say so itself.
        name: String,
        /// Which one, if it is several.
        wanted: Option<String>,
    },
    /// The answer to [`FromReader::Part`]: the file with this, or the host's number for why there is none.
    Part {
        /// Why not.
        refusal: Option<i32>,
    },
    /// Make a disk of the image: the two empty files with this are for what is unpacked and for the disk.
    Make,
    /// Say what the ELF file that comes with this needs.
    Elf,
    /// Find the boot entry of the disk whose image comes with this, and copy its kernel and its initrd to the two empty files
    /// that come too.
    Boot,
}

/// From the reader.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum FromReader {
    /// It has locked itself in.
    Jailed(Jail),
    /// It wants a part of the image. Answered with [`ToReader::Part`].
    Part {
        /// Its path within the image.
        path: String,
    },
    /// The image was understood.
    Opened {
        /// The SHA-256 that stands for it, in hexadecimal.
        digest: String,
    },
    /// It is at work.
    Progress(Progress),
    /// The disk is made. In the file that comes with this is, in JSON, what it is of.
    Made,
    /// The image is none, or cannot be unpacked.
    Refused(ToldError),
    /// What the ELF file needs.
    Elf(Result<Needs, ElfError>),
    /// What the disk starts.
    Boot(Result<Bootable, BootError>),
}
