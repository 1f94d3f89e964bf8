//! The header of a qcow2 image, judged before anything is started: what Mother cannot open is named at once.
//!
//! Source: QEMU's `docs/interop/qcow2.rst`, "Header", "Features" and "Header extensions". An image says in its
//! incompatible features what a reader must understand; whatever is left there after those that we have is an
//! [`Obstacle`], and each of them has a way around, which the plan of a VM tells.

use host::at::FileAt;
use std::fs::File;

use super::formats::{Head, HeadError, ImageFormat, Obstacle};

/// Incompatible feature bit 0: reference counts may be wrong.
const DIRTY: u64 = 1 << 0;
/// Incompatible feature bit 1: the image was found corrupt.
const CORRUPT: u64 = 1 << 1;
/// Incompatible feature bit 2: guest data lie in another file.
const EXTERNAL_DATA: u64 = 1 << 2;
/// Incompatible feature bit 3: clusters are compressed in another way than with zlib.
const COMPRESSION_TYPE: u64 = 1 << 3;
/// Incompatible feature bit 4: clusters are allocated in parts.
const EXTENDED_L2: u64 = 1 << 4;

/// Longest name of a backing file.
const BACKING_NAME_BYTES_MAX: u32 = 1023;
/// Header extension with the name of the data file.
const DATA_FILE_NAME: u32 = 0x4441_5441;
/// Header extension with names of features, and the length of each entry.
const FEATURE_NAMES: u32 = 0x6803_f857;
const FEATURE_NAME_BYTES: u32 = 48;
/// Where header extensions end at the latest: they lie in the first cluster, which is no larger.
const EXTENSIONS_END: u64 = 2 << 20;

/// Reads the header that starts with `bytes`, which begin with the magic.
pub(super) fn read(file: &File, bytes: &[u8]) -> Result<Head, HeadError> {
    let header = Header(bytes);
    let version = header.word(4)?;
    if !(2..=3).contains(&version) {
        return Err(HeadError::Version(version));
    }
    let backing = backing_name(file, header.long(8)?, header.word(16)?)?;
    let incompatible = if version == 3 { header.long(72)? } else { 0 };
    match obstacle(&header, incompatible)? {
        Some(obstacle) => Err(HeadError::Obstacle {
            obstacle,
            leads_to: backing.or_else(|| match obstacle {
                Obstacle::ExternalData => data_file_name(file, &header),
                _ => None,
            }),
        }),
        None if version == 3 && has_broken_names(file, &header) => Err(HeadError::Damaged(
            "its table of names of features ends within an entry",
        )),
        None => Ok(Head {
            format: ImageFormat::Qcow2,
            size_bytes: header.long(24)?,
            backing,
        }),
    }
}

/// The first bytes of the file.
struct Header<'a>(&'a [u8]);

impl Header<'_> {
    fn word(&self, at: usize) -> Result<u32, HeadError> {
        let bytes = self.0.get(at..at + 4);
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_be_bytes)
            .ok_or(HeadError::Damaged("the file ends inside it"))
    }

    fn long(&self, at: usize) -> Result<u64, HeadError> {
        Ok(u64::from(self.word(at)?) << 32 | u64::from(self.word(at + 4)?))
    }
}

/// The first thing that stands in the way: those that need most of a user come first.
fn obstacle(header: &Header, incompatible: u64) -> Result<Option<Obstacle>, HeadError> {
    let method = header.word(32)?;
    if method != 0 {
        return Ok(Some(Obstacle::Encrypted(method)));
    }
    let has = |feature| incompatible & feature != 0;
    // The field is there when the bit is set, and says zlib (0) in no valid image then.
    let compression = header.0.get(104).copied().unwrap_or(0);
    let known = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2;
    let found = [
        (CORRUPT, Obstacle::Corrupt),
        (DIRTY, Obstacle::Dirty),
        (EXTERNAL_DATA, Obstacle::ExternalData),
        (COMPRESSION_TYPE, Obstacle::Compression(compression)),
        (EXTENDED_L2, Obstacle::ExtendedL2),
        (!known, Obstacle::Unknown(incompatible & !known)),
    ];
    Ok(found
        .into_iter()
        .find(|(feature, _)| has(*feature))
        .map(|(_, obstacle)| obstacle))
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

/// The extensions behind the header: kind, where the data are, and their length.
fn extensions(file: &File, header: &Header) -> Vec<(u32, u64, u32)> {
    let mut found = Vec::new();
    let mut at = header.word(100).map_or(0, u64::from);
    while at < EXTENSIONS_END {
        let mut head = [0; 8];
        if file.read_exact_at(&mut head, at).is_err() {
            break;
        }
        let [kind, len_bytes] = [&head[..4], &head[4..]]
            .map(|word| u32::from_be_bytes(word.try_into().expect("four bytes")));
        if kind == 0 {
            break;
        }
        at += 8;
        found.push((kind, at, len_bytes));
        at += u64::from(len_bytes).next_multiple_of(8);
    }
    found
}

/// Whether a table of names of features is cut: the library that reads images takes its entries for whole.
fn has_broken_names(file: &File, header: &Header) -> bool {
    extensions(file, header)
        .iter()
        .any(|(kind, _, len_bytes)| *kind == FEATURE_NAMES && len_bytes % FEATURE_NAME_BYTES != 0)
}

/// The name of the data file, if the extensions behind the header have it.
fn data_file_name(file: &File, header: &Header) -> Option<String> {
    let is_it = |(kind, _, len_bytes): &(u32, u64, u32)| {
        *kind == DATA_FILE_NAME && *len_bytes <= BACKING_NAME_BYTES_MAX
    };
    let (_, at, len_bytes) = extensions(file, header).into_iter().find(is_it)?;
    let mut name = vec![0; len_bytes as usize];
    file.read_exact_at(&mut name, at).ok()?;
    Some(String::from_utf8_lossy(&name).into_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::virtio::blk::tests::memory_file;

    /// Writes headers of 1 MiB disks.
    pub(in super::super) struct Qcow2Header {
        pub(in super::super) version: u32,
        pub(in super::super) encryption: u32,
        pub(in super::super) incompatible: u64,
        pub(in super::super) compression: u8,
        pub(in super::super) backing: Option<&'static str>,
        pub(in super::super) data_file: Option<&'static str>,
    }

    impl Default for Qcow2Header {
        fn default() -> Qcow2Header {
            Qcow2Header {
                version: 3,
                encryption: 0,
                incompatible: 0,
                compression: 0,
                backing: None,
                data_file: None,
            }
        }
    }

    impl Qcow2Header {
        pub(in super::super) fn bytes(&self) -> Vec<u8> {
            let mut bytes = vec![0; 512];
            let mut put =
                |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
            put(0, b"QFI\xfb");
            put(4, &self.version.to_be_bytes());
            put(20, &16_u32.to_be_bytes());
            put(24, &(1_u64 << 20).to_be_bytes());
            put(32, &self.encryption.to_be_bytes());
            put(72, &self.incompatible.to_be_bytes());
            put(96, &4_u32.to_be_bytes());
            put(100, &112_u32.to_be_bytes());
            put(104, &[self.compression]);
            // An extension that is none of ours, then the data file's, then the end.
            put(112, b"\x12\x34\x56\x78\0\0\0\x03abc");
            if let Some(name) = self.data_file {
                put(128, b"DATA");
                put(132, &(name.len() as u32).to_be_bytes());
                put(136, name.as_bytes());
            }
            if let Some(name) = self.backing {
                put(8, &300_u64.to_be_bytes());
                put(16, &(name.len() as u32).to_be_bytes());
                put(300, name.as_bytes());
            }
            bytes
        }
    }

    fn check_bytes(bytes: &[u8], expected: &str) {
        let got = match Head::read(&memory_file(bytes), None) {
            Ok(head) => format!("{} {} {:?}", head.format, head.size_bytes, head.backing),
            Err(HeadError::Obstacle { obstacle, leads_to }) => match leads_to {
                Some(name) => format!("{obstacle} -> {name}"),
                None => obstacle.to_string(),
            },
            Err(error) => error.to_string(),
        };
        assert_eq!(got, expected);
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let of = |incompatible| Qcow2Header {
            incompatible,
            ..Qcow2Header::default()
        };
        let check = |header: Qcow2Header, expected: &str| check_bytes(&header.bytes(), expected);
        check(of(0), "qcow2 1048576 None");
        check(
            Qcow2Header {
                version: 2,
                // Not there in version 2.
                ..of(u64::MAX)
            },
            "qcow2 1048576 None",
        );
        check(
            Qcow2Header {
                backing: Some("base"),
                ..of(0)
            },
            "qcow2 1048576 Some(\"base\")",
        );
        check(
            of(1),
            "it is marked as dirty: what had it open has not closed it, and its reference counts may be wrong",
        );
        check(of(2), "it is marked as corrupt");
        check(of(3), "it is marked as corrupt");
        check(
            of(4),
            "its data lie in another file, named by the image itself",
        );
        check(
            Qcow2Header {
                data_file: Some("ext.raw"),
                ..of(4)
            },
            "its data lie in another file, named by the image itself -> ext.raw",
        );
        check(
            Qcow2Header {
                compression: 1,
                ..of(8)
            },
            "its compression is zstd, which Mother cannot read",
        );
        check(
            Qcow2Header {
                compression: 9,
                ..of(8)
            },
            "its compression is of type 9, which Mother cannot read",
        );
        check(
            Qcow2Header {
                backing: Some("base"),
                ..of(16)
            },
            "it has extended L2 entries, which Mother cannot read -> base",
        );
        check(
            of(0x8000_0000_0000_0020),
            "it has features that Mother does not know (bits 0x8000000000000020)",
        );
        let encrypted = |encryption| Qcow2Header {
            encryption,
            ..of(2)
        };
        check(encrypted(1), "it is encrypted (AES)");
        check(encrypted(2), "it is encrypted (LUKS)");
        check(encrypted(7), "it is encrypted (method 7)");
    }

    #[test]
    fn a_bad_header_says_what_is_bad() {
        let with = |at: usize, value: &[u8]| {
            let header = Qcow2Header {
                backing: Some("base"),
                ..Qcow2Header::default()
            };
            let mut bytes = header.bytes();
            bytes[at..at + value.len()].copy_from_slice(value);
            bytes
        };
        let damaged = "its qcow2 header is damaged: ";
        check_bytes(
            &with(0, b"")[..14],
            &format!("{damaged}the file ends inside it"),
        );
        check_bytes(
            &with(4, &[0, 0, 0, 4]),
            "its qcow2 version is 4; Mother knows 2 and 3",
        );
        let length = format!("{damaged}the backing file's name has an impossible length");
        check_bytes(&with(16, &[0xff; 4]), &length);
        check_bytes(&with(16, &[0; 4]), &length);
        let outside = format!("{damaged}the backing file's name lies outside the file");
        check_bytes(&with(8, &[0xff; 8]), &outside);
        let names = |len_bytes: u32| {
            let kind = FEATURE_NAMES.to_be_bytes();
            with(112, &[kind, len_bytes.to_be_bytes()].concat())
        };
        check_bytes(&names(96), "qcow2 1048576 Some(\"base\")");
        let cut = format!("{damaged}its table of names of features ends within an entry");
        check_bytes(&names(50), &cut);
        // Extensions that contain themselves, or lead past every end, come to one.
        let external = "its data lie in another file, named by the image itself";
        for extensions in [&[0xff; 4], &[0, 0, 0, 0]] {
            let mut bytes = with(100, extensions);
            bytes[8..16].fill(0);
            bytes[79] = 4;
            check_bytes(&bytes, external);
        }
    }
}
