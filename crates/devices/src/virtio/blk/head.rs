//! What the first bytes of a disk image say, read without believing them: format, size, and which other files the
//! image would lead to.
//!
//! Source: QEMU's `docs/interop/qcow2.txt`, "Header".

use std::fmt;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A sector: the unit of virtio-blk, whatever the block size is (5.2.4).
pub const SECTOR_BYTES: u64 = 512;

/// `QFI\xfb`, the magic of qcow2.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
/// Other formats that have a magic at their start, so that they are not taken for raw disks.
const OTHER_MAGICS: [(&[u8], &str); 6] = [
    (b"KDMV", "VMDK"),
    (b"COWD", "VMDK"),
    (b"# Disk DescriptorFile", "VMDK"),
    (b"vhdxfile", "VHDX"),
    (b"conectix", "VHD"),
    (b"QED\0", "QED"),
];
/// Bytes that [`looks_formatted`] wants to see.
pub(super) const MAGIC_BYTES: usize = 21;

/// Incompatible feature bit 1: the image was found corrupt.
const CORRUPT: u64 = 1 << 1;
/// Incompatible feature bit 2: guest data lie in another file.
const EXTERNAL_DATA: u64 = 1 << 2;
/// Longest name of a backing file.
const BACKING_NAME_BYTES_MAX: u32 = 1023;

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
    OtherFormat(&'static str),
    /// Asked for as qcow2.
    #[error("it is not a qcow2 image: its first bytes are not QFI\\xfb")]
    NotQcow2,
    /// A version that we do not know.
    #[error("its qcow2 version is {0}; Mother knows 2 and 3")]
    Version(u32),
    /// The header contradicts itself or the file.
    #[error("its qcow2 header is damaged: {0}")]
    Damaged(&'static str),
    /// A check found it so and said so in the header.
    #[error("it is marked as corrupt")]
    Corrupt,
    /// Encrypted images need a secret, for which there is no way in.
    #[error("it is encrypted")]
    Encrypted,
    /// Guest data in a second file, which nobody named.
    #[error("its data lie in another file, named by the image itself")]
    ExternalData,
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

impl Head {
    /// Reads the head of `file`, as `format` or as what its first bytes say.
    ///
    /// # Errors
    /// [`HeadError`] for what cannot be a disk of ours.
    pub fn read(file: &File, format: Option<ImageFormat>) -> Result<Head, HeadError> {
        let mut bytes = [0; 104];
        let len = read_start(file, &mut bytes)?;
        let bytes = &bytes[..len];
        let is_qcow2 = bytes.starts_with(&QCOW2_MAGIC);
        match format {
            Some(ImageFormat::Qcow2) if !is_qcow2 => Err(HeadError::NotQcow2),
            Some(ImageFormat::Raw) => raw_head(file),
            None if !is_qcow2 => match other_format(bytes) {
                Some(name) => Err(HeadError::OtherFormat(name)),
                None => raw_head(file),
            },
            Some(ImageFormat::Qcow2) | None => qcow2_head(file, bytes),
        }
    }
}

/// Whether a file that starts with these bytes would be taken for something else than a raw disk.
pub(super) fn looks_formatted(bytes: &[u8]) -> bool {
    bytes.starts_with(&QCOW2_MAGIC) || other_format(bytes).is_some()
}

fn other_format(bytes: &[u8]) -> Option<&'static str> {
    OTHER_MAGICS
        .iter()
        .find(|(magic, _)| bytes.starts_with(magic))
        .map(|(_, name)| *name)
}

fn read_start(file: &File, bytes: &mut [u8]) -> Result<usize, HeadError> {
    let mut len = 0;
    while len < bytes.len() {
        match file.read_at(&mut bytes[len..], len as u64) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(HeadError::Read(error)),
        }
    }
    Ok(len)
}

/// Seeking finds the end of block devices too, whose metadata have no size.
fn raw_head(mut file: &File) -> Result<Head, HeadError> {
    let size_bytes = file.seek(SeekFrom::End(0)).map_err(HeadError::Read)?;
    Ok(Head {
        format: ImageFormat::Raw,
        size_bytes,
        backing: None,
    })
}

fn qcow2_head(file: &File, bytes: &[u8]) -> Result<Head, HeadError> {
    let word = |at: usize| {
        let bytes = bytes
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(u32::from_be_bytes)
            .ok_or(HeadError::Damaged("the file ends inside it"))
    };
    let long =
        |at: usize| Ok::<u64, HeadError>(u64::from(word(at)?) << 32 | u64::from(word(at + 4)?));
    let version = word(4)?;
    if !(2..=3).contains(&version) {
        return Err(HeadError::Version(version));
    }
    if word(32)? != 0 {
        return Err(HeadError::Encrypted);
    }
    let incompatible = if version == 3 { long(72)? } else { 0 };
    if incompatible & EXTERNAL_DATA != 0 {
        return Err(HeadError::ExternalData);
    }
    if incompatible & CORRUPT != 0 {
        return Err(HeadError::Corrupt);
    }
    let backing = backing_name(file, long(8)?, word(16)?)?;
    Ok(Head {
        format: ImageFormat::Qcow2,
        size_bytes: long(24)?,
        backing,
    })
}

fn backing_name(file: &File, offset: u64, len_bytes: u32) -> Result<Option<String>, HeadError> {
    if offset == 0 {
        return Ok(None);
    }
    if len_bytes == 0 || len_bytes > BACKING_NAME_BYTES_MAX {
        return Err(HeadError::Damaged(
            "the backing file's name has an impossible length",
        ));
    }
    let mut name = vec![0; len_bytes as usize];
    file.read_exact_at(&mut name, offset)
        .map_err(|_| HeadError::Damaged("the backing file's name lies outside the file"))?;
    Ok(Some(String::from_utf8_lossy(&name).into_owned()))
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;
    use crate::virtio::blk::tests::memory_file;

    /// A version 3 header of a 1 MiB disk with the backing file `base`.
    fn header() -> Vec<u8> {
        let mut bytes = vec![0; 200];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, b"QFI\xfb");
        put(4, &3_u32.to_be_bytes());
        put(8, &150_u64.to_be_bytes());
        put(16, &4_u32.to_be_bytes());
        put(20, &16_u32.to_be_bytes());
        put(24, &(1_u64 << 20).to_be_bytes());
        put(150, b"base");
        bytes
    }

    fn with(at: usize, value: &[u8]) -> Vec<u8> {
        let mut bytes = header();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    }

    fn check(bytes: &[u8], format: Option<ImageFormat>, expected: &str) {
        let got = match Head::read(&memory_file(bytes), format) {
            Ok(head) => format!("{} {} {:?}", head.format, head.size_bytes, head.backing),
            Err(error) => {
                assert!(error.source().is_none());
                error.to_string()
            }
        };
        assert_eq!(got, expected);
    }

    #[test]
    fn an_image_is_what_its_first_bytes_say() {
        check(&[0; 1024], None, "raw 1024 None");
        check(&[], None, "raw 0 None");
        check(b"QF", None, "raw 2 None");
        check(&header(), None, "qcow2 1048576 Some(\"base\")");
        check(
            b"KDMV and more",
            None,
            "it is a VMDK image, which Mother cannot open",
        );
        check(
            b"vhdxfile",
            None,
            "it is a VHDX image, which Mother cannot open",
        );
    }

    #[test]
    fn a_format_that_was_named_is_not_guessed() {
        check(&header(), Some(ImageFormat::Raw), "raw 200 None");
        check(b"KDMV", Some(ImageFormat::Raw), "raw 4 None");
        check(
            &[0; 512],
            Some(ImageFormat::Qcow2),
            "it is not a qcow2 image: its first bytes are not QFI\\xfb",
        );
    }

    #[test]
    fn a_bad_header_says_what_is_bad() {
        let damaged = "its qcow2 header is damaged: ";
        check(
            &header()[..20],
            None,
            &format!("{damaged}the file ends inside it"),
        );
        check(
            &with(4, &[0, 0, 0, 4]),
            None,
            "its qcow2 version is 4; Mother knows 2 and 3",
        );
        check(&with(32, &[0, 0, 0, 2]), None, "it is encrypted");
        check(&with(79, &[2]), None, "it is marked as corrupt");
        check(
            &with(79, &[4]),
            None,
            "its data lie in another file, named by the image itself",
        );
        let length = format!("{damaged}the backing file's name has an impossible length");
        check(&with(16, &[0xff; 4]), None, &length);
        check(&with(16, &[0; 4]), None, &length);
        let outside = format!("{damaged}the backing file's name lies outside the file");
        check(&with(8, &[0xff; 8]), None, &outside);
    }
}
