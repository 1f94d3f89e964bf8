//! Files that the program carries in packed form (`build.rs`).

use std::io::Read;

use flate2::read::GzDecoder;

/// A file of the folder `page` or `schema`, packed.
macro_rules! packed {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".gz"))
    };
}

pub(crate) use packed;

/// As it was.
pub(crate) fn unpacked(packed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(packed)
        .read_to_end(&mut bytes)
        .expect("what the build has packed is unpacked");
    bytes
}
