//! Memory for generated code under W^X: one memory file mapped twice, writable at one address and executable
//! at another, never both.

use std::io;

use crate::mapping::{Mapping, MemFd, Protection};

/// The two views.
#[derive(Debug)]
pub struct ExecutableMemory {
    writable: Mapping,
    executable: Mapping,
}

impl ExecutableMemory {
    /// `len_bytes` (a multiple of the page size) of zeroed memory.
    ///
    /// # Errors
    /// What the kernel says when it gives no memory or forbids executable mappings.
    pub fn new(len_bytes: usize) -> io::Result<ExecutableMemory> {
        let fd = MemFd::new(c"mother-code", len_bytes as u64)?;
        let writable = Mapping::new(&fd, len_bytes, Protection::ReadWrite)?;
        let executable = Mapping::new(&fd, len_bytes, Protection::ReadExecute)?;
        Ok(ExecutableMemory {
            writable,
            executable,
        })
    }

    /// Address of the view to write through.
    pub fn writable_address(&self) -> usize {
        self.writable.address()
    }

    /// Address of the view to execute.
    pub fn executable_address(&self) -> usize {
        self.executable.address()
    }

    /// Size of each view.
    pub fn len_bytes(&self) -> usize {
        self.executable.len_bytes()
    }
}
