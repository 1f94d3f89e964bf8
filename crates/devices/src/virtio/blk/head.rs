//! What the first bytes of a disk image say, read without believing them: format, size, and which other files the
//! image would lead to.

use host::at::FileAt;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};

use super::formats::{Head, HeadError, ImageFormat, OtherFormat, Packer};
use super::qcow2_head;

/// A sector: the unit of virtio-blk, whatever the block size is (5.2.4).
pub const SECTOR_BYTES: u64 = 512;

/// `QFI\xfb`, the magic of qcow2.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
/// Other formats that have a magic, and where: so that they are not taken for raw disks.
const OTHER_MAGICS: [(usize, &[u8], OtherFormat); 9] = [
    (0, b"KDMV", OtherFormat::Vmdk),
    (0, b"COWD", OtherFormat::Vmdk),
    (0, b"# Disk DescriptorFile", OtherFormat::Vmdk),
    (0, b"vhdxfile", OtherFormat::Vhdx),
    (0, b"conectix", OtherFormat::Vhd),
    (0, b"QED\0", OtherFormat::Qed),
    (0, b"WithoutFreeSpace", OtherFormat::Parallels),
    (0, b"WithouFreSpacExt", OtherFormat::Parallels),
    (64, b"\x7f\x10\xda\xbe", OtherFormat::Vdi),
];
/// What compressed files start with.
const PACKED_MAGICS: [(usize, &[u8], Packer); 5] = [
    (0, b"\x1f\x8b\x08", Packer::Gzip),
    (0, b"\xfd7zXZ\0", Packer::Xz),
    (0, b"\x28\xb5\x2f\xfd", Packer::Zstd),
    (0, b"\x04\x22\x4d\x18", Packer::Lz4),
    // Behind `BZh` and the size of its blocks.
    (4, b"1AY&SY", Packer::Bzip2),
];
/// Bytes that [`looks_formatted`] wants to see.
pub(super) const MAGIC_BYTES: usize = 68;

/// Bytes that are looked at first: all of the above, and a qcow2 header with its compression type.
const START_BYTES: usize = 112;

impl Head {
    /// Reads the head of `file`, as `format` or as what its first bytes say.
    ///
    /// # Errors
    /// [`HeadError`] for what cannot be a disk of ours.
    pub fn read(file: &File, format: Option<ImageFormat>) -> Result<Head, HeadError> {
        let mut bytes = [0; START_BYTES];
        let len = read_start(file, &mut bytes)?;
        let bytes = &bytes[..len];
        let is_qcow2 = bytes.starts_with(&QCOW2_MAGIC);
        match format {
            Some(ImageFormat::Qcow2) if !is_qcow2 => Err(HeadError::NotQcow2),
            Some(ImageFormat::Raw) => raw_head(file),
            None if !is_qcow2 => match (other_format(bytes), packer(bytes)) {
                (Some(format), _) => Err(HeadError::OtherFormat(format)),
                (None, Some(packer)) => Err(HeadError::Packed(packer)),
                (None, None) => raw_head(file),
            },
            Some(ImageFormat::Qcow2) | None => qcow2_head::read(file, bytes),
        }
    }
}

/// Whether a file that starts with these bytes would be taken for something else than a raw disk.
pub(super) fn looks_formatted(bytes: &[u8]) -> bool {
    bytes.starts_with(&QCOW2_MAGIC) || other_format(bytes).is_some()
}

fn other_format(bytes: &[u8]) -> Option<OtherFormat> {
    OTHER_MAGICS
        .iter()
        .find(|(at, magic, _)| stands_at(bytes, *at, magic))
        .map(|(_, _, format)| *format)
}

fn packer(bytes: &[u8]) -> Option<Packer> {
    PACKED_MAGICS
        .iter()
        .find(|(at, magic, _)| stands_at(bytes, *at, magic))
        .map(|(_, _, packer)| *packer)
}

fn stands_at(bytes: &[u8], at: usize, magic: &[u8]) -> bool {
    bytes
        .get(at..)
        .is_some_and(|bytes| bytes.starts_with(magic))
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

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;
    use crate::virtio::blk::qcow2_head::tests::Qcow2Header;
    use crate::virtio::blk::tests::memory_file;

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

    fn header() -> Vec<u8> {
        Qcow2Header::default().bytes()
    }

    #[test]
    fn an_image_is_what_its_first_bytes_say() {
        check(&[0; 1024], None, "raw 1024 None");
        check(&[], None, "raw 0 None");
        check(b"QF", None, "raw 2 None");
        check(b"BZ", None, "raw 2 None");
        check(&header(), None, "qcow2 1048576 None");
        let other = |name| format!("it is a {name} image, which Mother cannot open");
        check(b"KDMV and more", None, &other("VMDK"));
        check(b"vhdxfile", None, &other("VHDX"));
        check(b"WithouFreSpacExt", None, &other("Parallels"));
        let mut vdi = vec![b'<'; 512];
        vdi[64..68].copy_from_slice(b"\x7f\x10\xda\xbe");
        check(&vdi, None, &other("VDI"));
        check(&vdi[..67], None, "raw 67 None");
    }

    #[test]
    fn a_compressed_file_is_no_disk() {
        let check_packed = |bytes: &[u8], name: &str| {
            check(bytes, None, &format!("it is compressed with {name}"));
            check(
                bytes,
                Some(ImageFormat::Raw),
                &format!("raw {} None", bytes.len()),
            );
            assert!(!looks_formatted(bytes), "a guest may write this");
        };
        check_packed(b"\x1f\x8b\x08\0\0\0", "gzip");
        check_packed(b"\xfd7zXZ\0\0", "xz");
        check_packed(b"\x28\xb5\x2f\xfd\0", "zstd");
        check_packed(b"BZh91AY&SY", "bzip2");
        check_packed(b"\x04\x22\x4d\x18@", "lz4");
    }

    #[test]
    fn a_format_that_was_named_is_not_guessed() {
        check(
            &header(),
            Some(ImageFormat::Raw),
            &format!("raw {} None", header().len()),
        );
        check(b"KDMV", Some(ImageFormat::Raw), "raw 4 None");
        check(
            &[0; 512],
            Some(ImageFormat::Qcow2),
            "it is not a qcow2 image: its first bytes are not QFI\\xfb",
        );
    }
}
