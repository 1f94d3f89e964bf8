//! The file that guest memory lies in.

use std::ffi::CStr;

use host::mapping::MemFd;

use crate::error::MemoryError;
use crate::slots::Slots;

/// What the memory file is called in `/proc/PID/maps`.
const NAME: &CStr = c"mother-guest-memory";

/// The file that guest memory lies in. A VM has one for all its lives: what it takes to make one, and to be allowed to,
/// is needed once.
#[derive(Debug)]
pub struct MemoryFile {
    pub(crate) fd: MemFd,
    pub(crate) len_bytes: u64,
    pub(crate) is_in_huge_pages: bool,
    /// The same file for who only reads; none where the host does not give it.
    pub(crate) view: Option<std::fs::File>,
}

impl MemoryFile {
    /// A file for these slots, all zeros, costing nothing until touched.
    ///
    /// # Errors
    /// [`MemoryError::Map`] if the host gives none.
    pub fn new(slots: &Slots) -> Result<MemoryFile, MemoryError> {
        let len_bytes = slots.len_bytes();
        let fd =
            MemFd::new(NAME, len_bytes).map_err(|source| MemoryError::Map { len_bytes, source })?;
        Ok(MemoryFile {
            fd,
            len_bytes,
            is_in_huge_pages: false,
            view: None,
        })
    }

    /// The same in huge pages, where the host can: the first touch costs 2 MiB and takes them all. For who is not counting
    /// pages.
    ///
    /// # Errors
    /// As [`MemoryFile::new`].
    pub fn in_huge_pages(slots: &Slots) -> Result<MemoryFile, MemoryError> {
        let len_bytes = slots.len_bytes();
        let file = host::huge::file(NAME, len_bytes);
        match file.map_err(|source| MemoryError::Map { len_bytes, source })? {
            Some(fd) => Ok(MemoryFile {
                fd,
                len_bytes,
                is_in_huge_pages: true,
                view: None,
            }),
            None => MemoryFile::new(slots),
        }
    }

    /// The file of a VM that another process has run until now, with what that process gave its observers.
    ///
    /// # Errors
    /// [`MemoryError::Map`] if it was made for other slots.
    pub fn handed(
        slots: &Slots,
        file: std::fs::File,
        view: Option<std::fs::File>,
        is_in_huge_pages: bool,
    ) -> Result<MemoryFile, MemoryError> {
        let len_bytes = slots.len_bytes();
        let fd = MemFd::handed(file, len_bytes);
        Ok(MemoryFile {
            fd: fd.map_err(|source| MemoryError::Map { len_bytes, source })?,
            len_bytes,
            is_in_huge_pages,
            view,
        })
    }

    /// With a second descriptor, for observers, which cannot write. Where the host does not give one, observers see
    /// nothing.
    #[must_use]
    pub fn with_view(mut self) -> MemoryFile {
        self.view = self.fd.read_only().ok();
        self
    }

    /// Whether the host may back it with huge pages.
    pub fn is_in_huge_pages(&self) -> bool {
        self.is_in_huge_pages
    }
}
