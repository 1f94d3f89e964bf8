//! What tells one new disk from another: a number and a time.

use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

/// A random number for the file system.
pub(crate) fn uuid() -> [u8; 16] {
    let mut bytes = [0; 16];
    // Without the kernel's the number is the time's, which differs too. No file: who reads an image has none.
    let read = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    if read != Ok(bytes.len()) {
        bytes[..4].copy_from_slice(&now().to_le_bytes());
    }
    with_version(bytes, 4)
}

/// The number for a file system that is always made of the same and always the same.
pub(crate) fn uuid_of(what: &str) -> [u8; 16] {
    let digest = Sha256::digest(what.as_bytes());
    with_version(std::array::from_fn(|index| digest[index]), 8)
}

/// Version and variant 1 (RFC 9562; 4 is random, 8 is whatever else).
fn with_version(mut bytes: [u8; 16], version: u8) -> [u8; 16] {
    bytes[6] = bytes[6] & 0x0f | version << 4;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

pub(crate) fn now() -> u32 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}
