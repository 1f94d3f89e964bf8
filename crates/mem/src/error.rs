//! What can go wrong with guest memory.

use std::io;

use thiserror::Error;
use x86::Gpa;

/// Why guest memory could not be made or reached.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The host gave no memory.
    #[error("cannot map {len_bytes} bytes of guest memory")]
    Map {
        /// Bytes asked for.
        len_bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// rust-vmm's view could not be built.
    #[error("cannot describe guest memory at {gpa}")]
    Describe {
        /// Where the slot begins.
        gpa: Gpa,
    },
    /// The host did not take pages back.
    #[error("cannot give guest memory at {gpa} back to the host")]
    Discard {
        /// First page.
        gpa: Gpa,
        /// What the kernel said.
        source: io::Error,
    },
    /// An access touched addresses that no memslot backs.
    #[error("no guest memory at {gpa}..+{len_bytes}")]
    NotMemory {
        /// First byte.
        gpa: Gpa,
        /// Its length.
        len_bytes: u64,
    },
}
