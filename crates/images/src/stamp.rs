//! What tells one new disk from another: a number and a time.

use std::time::{SystemTime, UNIX_EPOCH};

/// A random number for the file system.
pub(crate) fn uuid() -> [u8; 16] {
    let mut bytes = [0; 16];
    // Without the kernel's the number is the time's, which differs too. No file: who reads an image has none.
    let read = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    if read != Ok(bytes.len()) {
        bytes[..4].copy_from_slice(&now().to_le_bytes());
    }
    // Version 4, variant 1 (RFC 9562).
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

pub(crate) fn now() -> u32 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}
