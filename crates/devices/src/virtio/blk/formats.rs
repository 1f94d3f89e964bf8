//! What the head of a disk image can say: its format, and why it is of no use.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Formats of disk images that Mother knows by their looks and cannot open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "named as they are called")]
pub enum OtherFormat {
    Parallels,
    Qed,
    Vdi,
    Vhd,
    Vhdx,
    Vmdk,
}

impl OtherFormat {
    /// What `qemu-img` calls it.
    pub fn qemu_name(self) -> &'static str {
        match self {
            OtherFormat::Parallels => "parallels",
            OtherFormat::Qed => "qed",
            OtherFormat::Vdi => "vdi",
            OtherFormat::Vhd => "vpc",
            OtherFormat::Vhdx => "vhdx",
            OtherFormat::Vmdk => "vmdk",
        }
    }
}

impl fmt::Display for OtherFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OtherFormat::Parallels => "Parallels",
            OtherFormat::Qed => "QED",
            OtherFormat::Vdi => "VDI",
            OtherFormat::Vhd => "VHD",
            OtherFormat::Vhdx => "VHDX",
            OtherFormat::Vmdk => "VMDK",
        })
    }
}

/// Programs whose compressed files are known by their first bytes. Each unpacks to its standard output with `-dc`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "named as they are called")]
pub enum Packer {
    Bzip2,
    Gzip,
    Lz4,
    Xz,
    Zstd,
}

impl fmt::Display for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Packer::Bzip2 => "bzip2",
            Packer::Gzip => "gzip",
            Packer::Lz4 => "lz4",
            Packer::Xz => "xz",
            Packer::Zstd => "zstd",
        })
    }
}

/// How a disk lies in its file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageFormat {
    /// Byte for byte.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ImageFormat::Raw => "raw",
            ImageFormat::Qcow2 => "qcow2",
        })
    }
}

/// Why the head of an image is of no use.
#[derive(Debug, Error)]
pub enum HeadError {
    /// The host said no.
    #[error("cannot read its first bytes")]
    Read(#[source] io::Error),
    /// A format that we do not have.
    #[error("it is a {0} image, which Mother cannot open")]
    OtherFormat(OtherFormat),
    /// A file that must be unpacked before it is a disk.
    #[error("it is compressed with {0}")]
    Packed(Packer),
    /// Asked for as qcow2.
    #[error("it is not a qcow2 image: its first bytes are not QFI\\xfb")]
    NotQcow2,
    /// A version that we do not know.
    #[error("its qcow2 version is {0}; Mother knows 2 and 3")]
    Version(u32),
    /// The header contradicts itself or the file.
    #[error("its qcow2 header is damaged: {0}")]
    Damaged(&'static str),
    /// A qcow2 image of a kind that cannot be opened.
    #[error("{obstacle}")]
    Obstacle {
        /// Of which kind.
        obstacle: Obstacle,
        /// The file that the image names as its backing or data file, if any: what reads the image reads that too.
        leads_to: Option<String>,
    },
}

/// The head of an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// What it is.
    pub format: ImageFormat,
    /// Size of the disk that a guest sees.
    pub size_bytes: u64,
    /// The backing file that a qcow2 image names, in the image's own words.
    pub backing: Option<String>,
}

/// Why a well-formed qcow2 image cannot be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// Encrypted images need a secret, for which there is no way in. The method in the header: 1 is AES, 2 is LUKS.
    Encrypted(u32),
    /// A check found it corrupt and said so in the header.
    Corrupt,
    /// What had it open for writing has not closed it, and repairs were postponed (`lazy_refcounts`).
    Dirty,
    /// Guest data lie in a second file.
    ExternalData,
    /// Compressed in another way than with zlib. The type in the header: 1 is zstd.
    Compression(u8),
    /// Clusters are allocated in parts (`extended_l2`).
    ExtendedL2,
    /// Incompatible features that have come later.
    Unknown(u64),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Encrypted(1) => f.write_str("it is encrypted (AES)"),
            Obstacle::Encrypted(2) => f.write_str("it is encrypted (LUKS)"),
            Obstacle::Encrypted(other) => write!(f, "it is encrypted (method {other})"),
            Obstacle::Corrupt => f.write_str("it is marked as corrupt"),
            Obstacle::Dirty => f.write_str(
                "it is marked as dirty: what had it open has not closed it, and its reference counts may be wrong",
            ),
            Obstacle::ExternalData => {
                f.write_str("its data lie in another file, named by the image itself")
            }
            Obstacle::Compression(1) => {
                f.write_str("its compression is zstd, which Mother cannot read")
            }
            Obstacle::Compression(other) => {
                write!(f, "its compression is of type {other}, which Mother cannot read")
            }
            Obstacle::ExtendedL2 => {
                f.write_str("it has extended L2 entries, which Mother cannot read")
            }
            Obstacle::Unknown(bits) => {
                write!(f, "it has features that Mother does not know (bits {bits:#x})")
            }
        }
    }
}
