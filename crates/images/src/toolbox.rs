//! The programs that run inside guests (`guests/toolbox`), one file for all of them.

use std::io::Read;
use std::sync::OnceLock;

use flate2::read::GzDecoder;

/// What it is called as, where it is more than the one that starts programs.
pub(crate) const NAMES: [&str; 3] = ["warden", "visitor", "clerk"];

/// The file, as `build.rs` has packed it.
const PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/toolbox.gz"));

/// The file.
pub(crate) fn toolbox() -> &'static [u8] {
    static UNPACKED: OnceLock<Vec<u8>> = OnceLock::new();
    UNPACKED.get_or_init(|| {
        let mut bytes = Vec::new();
        GzDecoder::new(PACKED)
            .read_to_end(&mut bytes)
            .expect("what the build has packed is unpacked");
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_program() {
        assert!(toolbox().starts_with(b"\x7fELF"));
        assert!(PACKED.len() < toolbox().len());
    }
}
