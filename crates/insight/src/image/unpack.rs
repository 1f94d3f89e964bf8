//! The compressed kernel in a bzImage, and how each kind of compression is undone (Linux scripts/Makefile.lib: the
//! decompressor is chosen when the kernel is built; the first bytes tell which).

use std::io::Read;

use lzma_rust2::{LzmaReader, XzReader};

use super::{ImageError, MAX_KERNEL};

/// "HdrS" and where it and other fields of the setup header are (Linux Documentation/arch/x86/boot.rst).
const MAGIC: &[u8] = b"HdrS";
const MAGIC_AT: usize = 0x202;
const VERSION_AT: usize = 0x206;
const SETUP_SECTORS_AT: usize = 0x1f1;
const PAYLOAD_OFFSET_AT: usize = 0x248;
const PAYLOAD_LENGTH_AT: usize = 0x24c;
/// The version of the boot protocol that tells where the payload is.
const VERSION_PAYLOAD: u16 = 0x208;
/// Memory that a decompressor may take for its window: kernels are packed with up to 128 MiB.
const MAX_WINDOW_KIB: u32 = 192 << 10;
/// Blocks of LZ4's old format have so many bytes, unpacked (lz4 doc/lz4_Frame_format.md, "Legacy frame").
const LZ4_BLOCK: usize = 8 << 20;

/// The compressed kernel; none if the file is no bzImage.
pub(super) fn payload(file: &[u8]) -> Result<Option<&[u8]>, ImageError> {
    let field = |at: usize, len: usize| file.get(at..at + len).map(number);
    if file.get(MAGIC_AT..MAGIC_AT + MAGIC.len()) != Some(MAGIC) {
        return Ok(None);
    }
    let old = || ImageError::unknown("is a bzImage that does not tell where its kernel is");
    field(VERSION_AT, 2)
        .filter(|version| *version >= usize::from(VERSION_PAYLOAD))
        .ok_or_else(old)?;
    let sectors = match field(SETUP_SECTORS_AT, 1).ok_or_else(old)? {
        0 => 4,
        count => count,
    };
    let offset = field(PAYLOAD_OFFSET_AT, 4).ok_or_else(old)?;
    let len = field(PAYLOAD_LENGTH_AT, 4).ok_or_else(old)?;
    let start = (sectors + 1) * 512 + offset;
    file.get(start..start + len)
        .map(Some)
        .ok_or_else(|| ImageError::unknown("is a bzImage that ends before its kernel does"))
}

fn number(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// Undoes the compression. What lies behind the compressed bytes (the length, for most kinds) is not looked at.
pub(super) fn unpack(payload: &[u8]) -> Result<Vec<u8>, ImageError> {
    match payload {
        [0x1f, 0x8b, ..] => read("gzip", flate2::read::GzDecoder::new(payload)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => read(
            "xz",
            XzReader::new_mem_limit(payload, false, MAX_WINDOW_KIB),
        ),
        [0x5d, 0, 0, ..] => {
            let reader = LzmaReader::new_mem_limit(payload, MAX_WINDOW_KIB, None);
            read("lzma", reader.map_err(|error| broken("lzma", &error))?)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let reader = ruzstd::decoding::StreamingDecoder::new(payload);
            read("zstd", reader.map_err(|error| broken("zstd", &error))?)
        }
        [0x02, 0x21, 0x4c, 0x18, blocks @ ..] => lz4(blocks),
        [0x7f, b'E', b'L', b'F', ..] => Ok(payload.to_vec()),
        [0x89, b'L', b'Z', b'O', ..] => Err(ImageError::unknown(
            "is packed with LZO, which is not read here",
        )),
        [b'B', b'Z', b'h', ..] => Err(ImageError::unknown(
            "is packed with bzip2, which is not read here",
        )),
        _ => Err(ImageError::unknown("is packed in a way that is not known")),
    }
}

fn broken(kind: &str, error: &dyn std::fmt::Display) -> ImageError {
    ImageError::unknown(format!("cannot be unpacked ({kind}: {error})"))
}

fn too_large() -> ImageError {
    ImageError::unknown("is larger, unpacked, than a kernel can be")
}

fn read(kind: &str, reader: impl Read) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    let read = reader.take(MAX_KERNEL as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| broken(kind, &error))?;
    if bytes.len() > MAX_KERNEL {
        return Err(too_large());
    }
    Ok(bytes)
}

/// Blocks, each behind its packed length, until one is not full: what follows is the length of everything.
fn lz4(mut blocks: &[u8]) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    while let Some((len, rest)) = blocks.split_at_checked(4) {
        let len = number(len);
        let Some((packed, rest)) = rest.split_at_checked(len).filter(|_| len > 0) else {
            return Err(broken("lz4", &"a block ends behind the file"));
        };
        let count = lz4_flex::block::decompress_into(packed, &mut block)
            .map_err(|error| broken("lz4", &error))?;
        bytes.extend(&block[..count]);
        if bytes.len() > MAX_KERNEL {
            return Err(too_large());
        }
        if count < LZ4_BLOCK {
            return Ok(bytes);
        }
        blocks = rest;
    }
    Ok(bytes)
}
