//! An image file, read piece by piece: kernels with debug information are larger than we want to hold.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use host::at::FileAt;
use std::path::Path;

use mem::GuestMemory;
use thiserror::Error;
use x86::Gpa;

/// Bytes copied into guest memory at once.
const CHUNK_BYTES: u64 = 1 << 20;

/// Why an image cannot be started.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The file could not be opened or is not a regular one.
    #[error("cannot open it")]
    Open(#[source] io::Error),
    /// A directory, a device, a socket.
    #[error("it is not a regular file")]
    NotAFile,
    /// Reading failed.
    #[error("cannot read {len_bytes} bytes at offset {offset:#x}")]
    Read {
        /// Where in the file.
        offset: u64,
        /// How much.
        len_bytes: u64,
        /// What the host said.
        source: io::Error,
    },
    /// Nothing in it looks like a kernel we know.
    #[error("it is not a kernel: no bzImage header, no multiboot header, no ELF file")]
    NotAKernel,
    /// A file shorter than its own headers say.
    #[error("it is truncated: its {what} ends at byte {needed}, and the file has {len_bytes}")]
    Truncated {
        /// Which part.
        what: &'static str,
        /// Where that part ends.
        needed: u64,
        /// Length of the file.
        len_bytes: u64,
    },
    /// A bzImage whose boot protocol is older than the 64-bit entry.
    #[error("its boot protocol {}.{} is older than 2.12 (Linux 3.8), which has the 64-bit entry", version >> 8, version & 0xff)]
    OldProtocol {
        /// Protocol version, 8.8 bits.
        version: u16,
    },
    /// XLF_KERNEL_64 is missing.
    #[error("it is a 32-bit kernel: its header has no 64-bit entry (XLF_KERNEL_64)")]
    Only32Bit,
    /// An ELF file for another machine.
    #[error("it is an ELF file for another machine (class {class}, machine {machine})")]
    ForeignElf {
        /// EI_CLASS.
        class: u8,
        /// e_machine.
        machine: u16,
    },
    /// An ELF file that says nothing of how to start it.
    #[error("it is an ELF file without a PVH note (CONFIG_PVH) and without a multiboot header")]
    NoPvhNote,
    /// Fields of a header contradict each other.
    #[error("its {what} makes no sense")]
    Nonsense {
        /// Which header or field.
        what: &'static str,
    },
    /// A multiboot kernel that must have what we do not give.
    #[error("it is a multiboot kernel that requires features we do not have (flags {flags:#x})")]
    MultibootFlags {
        /// The required flags that are unknown.
        flags: u32,
    },
    /// More modules than the boot information has room for.
    #[error("it cannot take {count} modules: there is room for {limit}")]
    TooManyModules {
        /// How many there are.
        count: usize,
        /// How many fit.
        limit: usize,
    },
    /// Some part does not lie in guest memory.
    #[error("its {what} needs memory at {gpa}..+{len_bytes:#x}, where this guest has none")]
    NoMemory {
        /// Which part.
        what: &'static str,
        /// First address.
        gpa: Gpa,
        /// Its length.
        len_bytes: u64,
    },
}

/// An open image file.
#[derive(Debug)]
pub struct Image {
    file: File,
    len_bytes: u64,
    /// What the file's inode said when it was opened.
    stamp: Stamp,
}

/// What an inode says of its file's last change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    len_bytes: u64,
    /// When the contents were changed last: a program can set this.
    modified: (i64, i64),
    /// When anything was changed last, names included: no program can set this.
    changed: (i64, i64),
    names: u64,
}

impl Stamp {
    fn of(file: &File) -> io::Result<Stamp> {
        let metadata = file.metadata()?;
        Ok(Stamp {
            len_bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            names: metadata.nlink(),
        })
    }

    /// Whether the contents are those of `before`: nothing has changed, or the file has lost a name, as one does that is
    /// replaced by a newer one.
    fn has_contents_of(&self, before: &Stamp) -> bool {
        let has_lost_name = self.names < before.names;
        let is_same = (self.len_bytes, self.modified) == (before.len_bytes, before.modified);
        is_same && (self.changed == before.changed || has_lost_name)
    }
}

/// Opens the regular file at `path`.
///
/// # Errors
/// [`ImageError::Open`] or [`ImageError::NotAFile`].
pub(crate) fn open_file(path: &Path) -> Result<File, ImageError> {
    // Looking before opening: to open a FIFO would wait for its other end.
    let kind = std::fs::metadata(path)
        .map_err(ImageError::Open)?
        .file_type();
    if !kind.is_file() {
        return Err(ImageError::NotAFile);
    }
    File::open(path).map_err(ImageError::Open)
}

impl Image {
    /// Opens the regular file at `path`.
    ///
    /// # Errors
    /// [`ImageError::Open`] or [`ImageError::NotAFile`].
    pub fn open(path: &Path) -> Result<Image, ImageError> {
        Image::from_file(open_file(path)?)
    }

    /// An image in a file that is open already.
    ///
    /// # Errors
    /// [`ImageError::Open`] if its length cannot be had.
    pub fn from_file(file: File) -> Result<Image, ImageError> {
        let stamp = Stamp::of(&file).map_err(ImageError::Open)?;
        Ok(Image {
            file,
            len_bytes: stamp.len_bytes,
            stamp,
        })
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Whether the file's contents are what they were when it was opened.
    pub(super) fn is_unchanged(&self) -> bool {
        Stamp::of(&self.file).is_ok_and(|stamp| stamp.has_contents_of(&self.stamp))
    }

    /// Length of the file.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Whether `len_bytes` at `offset` lie in the file; `what` names them in the complaint.
    pub(super) fn check(
        &self,
        what: &'static str,
        offset: u64,
        len_bytes: u64,
    ) -> Result<(), ImageError> {
        let needed = offset
            .checked_add(len_bytes)
            .ok_or(ImageError::Nonsense { what })?;
        if needed > self.len_bytes {
            return Err(ImageError::Truncated {
                what,
                needed,
                len_bytes: self.len_bytes,
            });
        }
        Ok(())
    }

    /// Up to `len_bytes` from `offset`: fewer where the file ends.
    pub(super) fn head(&self, offset: u64, len_bytes: u64) -> Result<Vec<u8>, ImageError> {
        let len_bytes = len_bytes.min(self.len_bytes.saturating_sub(offset));
        let mut bytes = vec![0; len_bytes as usize];
        let read = self.file.read_exact_at(&mut bytes, offset);
        read.map_err(|source| ImageError::Read {
            offset,
            len_bytes,
            source,
        })?;
        Ok(bytes)
    }

    /// Exactly `len_bytes` from `offset`. The caller bounds the length.
    pub(super) fn read(
        &self,
        what: &'static str,
        offset: u64,
        len_bytes: u64,
    ) -> Result<Vec<u8>, ImageError> {
        self.check(what, offset, len_bytes)?;
        self.head(offset, len_bytes)
    }

    /// Copies a part of the file into guest memory. All-zero pages of untouched memory stay untouched.
    pub(super) fn load(
        &self,
        memory: &GuestMemory,
        what: &'static str,
        offset: u64,
        gpa: Gpa,
        len_bytes: u64,
    ) -> Result<(), ImageError> {
        self.check(what, offset, len_bytes)?;
        let mut done = 0;
        while done < len_bytes {
            let bytes = self.head(offset + done, CHUNK_BYTES.min(len_bytes - done))?;
            let to = gpa.checked_add(done).ok_or(ImageError::NoMemory {
                what,
                gpa,
                len_bytes,
            })?;
            memory.write(to, &bytes).map_err(|_| ImageError::NoMemory {
                what,
                gpa,
                len_bytes,
            })?;
            done += bytes.len() as u64;
        }
        Ok(())
    }
}

/// Little-endian fields of a header that has been read; callers know that it is long enough.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn u8(&self, at: usize) -> u8 {
        self.0[at]
    }

    pub(super) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }
}

/// An image made of bytes, for tests.
#[cfg(test)]
pub(crate) fn image_of(bytes: &[u8]) -> Image {
    let fd = host::MemFd::new(c"image", bytes.len() as u64).unwrap();
    fd.file().write_all_at(bytes, 0).unwrap();
    Image::from_file(fd.file().try_clone().unwrap()).unwrap()
}
