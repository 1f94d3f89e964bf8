//! A part that is bytes to this crate: `magic, length u64, LZ4 block`. Its checksum is the manifest's.

use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};

use crate::error::{Damage, SnapshotError, damaged};

const MAGIC: [u8; 8] = *b"MOTHRPK1";
const HEAD_BYTES: usize = 16;

/// The longest part that is unpacked: a board of hundreds of devices has a few MiB.
const UNPACKED_BYTES_MAX: u64 = 256 << 20;

/// An LZ4 block cannot stand for more than this many times its bytes.
const RATIO_MAX: u64 = 256;

/// Packs bytes.
pub fn pack(bytes: &[u8]) -> Vec<u8> {
    let mut packed = vec![0; HEAD_BYTES + get_maximum_output_size(bytes.len())];
    packed[..8].copy_from_slice(&MAGIC);
    packed[8..HEAD_BYTES].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    let len = compress_into(bytes, &mut packed[HEAD_BYTES..]).expect("room for the worst case");
    packed.truncate(HEAD_BYTES + len);
    packed
}

/// Unpacks them. Memory is taken for what the bytes can be, not for what they say.
///
/// # Errors
/// If they are not what [`pack`] makes.
pub fn unpack(part: &str, packed: &[u8]) -> Result<Vec<u8>, SnapshotError> {
    if packed.len() < HEAD_BYTES || packed[..8] != MAGIC {
        return Err(damaged(part, Damage::Magic));
    }
    let mut len = [0; 8];
    len.copy_from_slice(&packed[8..HEAD_BYTES]);
    let len = u64::from_le_bytes(len);
    let block = &packed[HEAD_BYTES..];
    let most = UNPACKED_BYTES_MAX.min(RATIO_MAX.saturating_mul(block.len() as u64));
    if len > most {
        let what = format!("it claims to be {len} bytes, which it cannot be");
        return Err(damaged(part, Damage::Layout(what)));
    }
    let mut bytes = vec![0; len as usize];
    if decompress_into(block, &mut bytes).ok() != Some(bytes.len()) {
        return Err(damaged(part, Damage::Unpacking("it".to_owned())));
    }
    Ok(bytes)
}
