//! userfaultfd: faults of a shared mapping become messages that a thread of ours answers.
//!
//! Every operation takes the [`Mapping`] and an offset in it, and refuses what does not lie inside: an ioctl on a wrong
//! address would change somebody else's memory. What is copied into a mapping here is what a store through it would
//! do, so the rule of mappings holds: nobody has a Rust reference into one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::mapping::Mapping;

/// `UFFD_API`.
const API: u64 = 0xaa;
/// A fault says whether it was one of write protection.
const FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;
/// Missing pages of shared memory.
const FEATURE_MISSING_SHMEM: u64 = 1 << 5;
/// Write protection of shared memory.
const FEATURE_WP_SHMEM: u64 = 1 << 12;

const MODE_MISSING: u64 = 1 << 0;
const MODE_WP: u64 = 1 << 1;

const COPY_MODE_WP: u64 = 1 << 1;
const WRITEPROTECT_MODE_WP: u64 = 1 << 0;

const EVENT_PAGEFAULT: u8 = 0x12;
const FLAG_WRITE: u64 = 1 << 0;
const FLAG_WP: u64 = 1 << 1;

/// `UFFD_USER_MODE_ONLY` (Linux 5.11): what anybody may ask for.
const USER_MODE_ONLY: libc::c_int = 1;

const READ: u64 = 2;
const READ_WRITE: u64 = 3;

/// An ioctl's number (`asm-generic/ioctl.h`).
const fn number(direction: u64, nr: u64, len_bytes: usize) -> libc::c_ulong {
    direction << 30 | (len_bytes as u64) << 16 | API << 8 | nr
}

/// `USERFAULTFD_IOC_NEW` of `/dev/userfaultfd`.
const IOC_NEW: libc::c_ulong = number(0, 0, 0);

#[repr(C)]
#[derive(Default)]
struct UffdApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Range {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct Copy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

#[repr(C)]
struct ZeroPage {
    range: Range,
    mode: u64,
    zeroed: i64,
}

#[repr(C)]
struct WriteProtect {
    range: Range,
    mode: u64,
}

/// `struct uffd_msg`, as far as page faults use it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    rest: u64,
}

/// A thread waits for a page of the mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Where in the mapping.
    pub offset: u64,
    /// It wants to write.
    pub is_write: bool,
    /// The page is there and protected against writing; otherwise it is missing.
    pub is_protected: bool,
}

/// Why faults cannot be handled here.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not even those of user mode, which the kernel gives to everybody: something in front of it refuses.
    #[error(
        "this process may not handle page faults (a container's filter of system calls often forbids it)"
    )]
    NotPermitted,
    /// The kernel lacks it, or a part that is needed.
    #[error("the host's kernel cannot hand over faults of shared memory")]
    Unsupported(#[source] io::Error),
}

/// Faults of a mapping, handled by who has this.
#[derive(Debug)]
pub struct UserFault {
    fd: OwnedFd,
    sees_kernel: bool,
}

impl UserFault {
    /// Opens one, if it can be had one that sees the kernel's own accesses too: through `/dev/userfaultfd` for who was given
    /// that as `device` or may open it, or as a privileged process. Otherwise one of [user mode](UserFault::of_user_mode).
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(device: Option<&File>) -> Result<UserFault, OpenError> {
        let opened = match device.map_or_else(|| open_by_call(0), open_by_device) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                open_device().and_then(|device| open_by_device(&device))
            }
            opened => opened,
        };
        match opened {
            Ok(fd) => UserFault {
                fd,
                sees_kernel: true,
            }
            .begun(),
            Err(_) => UserFault::of_user_mode(),
        }
    }

    /// Opens one for which nobody needs a privilege (Linux 5.11). Where the kernel itself would have to wait for a page, in
    /// the middle of a system call, the call fails with `EFAULT`, or ends short: whoever makes calls on such memory has to
    /// touch it first, or copy.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn of_user_mode() -> Result<UserFault, OpenError> {
        let fd = open_by_call(USER_MODE_ONLY).map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => OpenError::NotPermitted,
            _ => OpenError::Unsupported(error),
        })?;
        UserFault {
            fd,
            sees_kernel: false,
        }
        .begun()
    }

    /// Whether the kernel's own accesses are faults that come here too.
    pub fn sees_kernel(&self) -> bool {
        self.sees_kernel
    }

    fn begun(self) -> Result<UserFault, OpenError> {
        let features = FEATURE_PAGEFAULT_FLAG_WP | FEATURE_MISSING_SHMEM | FEATURE_WP_SHMEM;
        let mut api = UffdApi {
            api: API,
            features,
            ioctls: 0,
        };
        self.ioctl(number(READ_WRITE, 0x3f, size_of::<UffdApi>()), &mut api)
            .map_err(OpenError::Unsupported)?;
        Ok(self)
    }

    fn ioctl<T>(&self, request: libc::c_ulong, argument: &mut T) -> io::Result<()> {
        // SAFETY: every caller in this module passes the struct that belongs to `request`, whose size is a part of the
        // number; addresses in it were made by `range` from a mapping that is borrowed for the call.
        let result =
            unsafe { libc::ioctl(self.fd.as_raw_fd(), request, std::ptr::from_mut(argument)) };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Handles faults of the whole mapping from now on: writes to protected pages, and `missing` pages too if asked.
    /// Asked again, the last answer counts.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn register(&self, mapping: &Mapping, missing: bool) -> io::Result<()> {
        let range = range(mapping, 0, mapping.len_bytes() as u64)?;
        let mode = MODE_WP | if missing { MODE_MISSING } else { 0 };
        let mut register = Register {
            range,
            mode,
            ioctls: 0,
        };
        self.ioctl(
            number(READ_WRITE, 0x00, size_of::<Register>()),
            &mut register,
        )
    }

    /// Handles none any more; who waits tries again and finds what is there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn unregister(&self, mapping: &Mapping) -> io::Result<()> {
        let mut range = range(mapping, 0, mapping.len_bytes() as u64)?;
        self.ioctl(number(READ, 0x01, size_of::<Range>()), &mut range)
    }

    /// Has who waits in a range try again.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wake(&self, mapping: &Mapping, offset: u64, len_bytes: u64) -> io::Result<()> {
        let mut range = range(mapping, offset, len_bytes)?;
        self.ioctl(number(READ, 0x02, size_of::<Range>()), &mut range)
    }

    /// Puts a page that is missing in its place, and has who waits for it go on.
    ///
    /// # Errors
    /// `EEXIST` if it is there already; otherwise what the kernel says.
    pub fn copy_page(
        &self,
        mapping: &Mapping,
        offset: u64,
        bytes: &[u8; 4096],
        protected: bool,
    ) -> io::Result<()> {
        let to = range(mapping, offset, bytes.len() as u64)?;
        let mode = if protected { COPY_MODE_WP } else { 0 };
        let mut copy = Copy {
            dst: to.start,
            src: bytes.as_ptr() as u64,
            len: to.len,
            mode,
            copied: 0,
        };
        self.ioctl(number(READ_WRITE, 0x03, size_of::<Copy>()), &mut copy)
    }

    /// The same with a page of zeros.
    ///
    /// # Errors
    /// As [`UserFault::copy_page`].
    pub fn zero_page(&self, mapping: &Mapping, offset: u64) -> io::Result<()> {
        let mut zero = ZeroPage {
            range: range(mapping, offset, 4096)?,
            mode: 0,
            zeroed: 0,
        };
        self.ioctl(number(READ_WRITE, 0x04, size_of::<ZeroPage>()), &mut zero)
    }

    /// Protects a range against writing, or no more, which has waiting writers go on. Who wants to write to a protected
    /// page waits; nobody's write is under way any more when this returns.
    ///
    /// # Errors
    /// What the kernel says; a part may be done.
    pub fn protect(
        &self,
        mapping: &Mapping,
        offset: u64,
        len_bytes: u64,
        protected: bool,
    ) -> io::Result<()> {
        let mode = if protected { WRITEPROTECT_MODE_WP } else { 0 };
        let mut protect = WriteProtect {
            range: range(mapping, offset, len_bytes)?,
            mode,
        };
        self.ioctl(
            number(READ_WRITE, 0x06, size_of::<WriteProtect>()),
            &mut protect,
        )
    }

    /// Takes the faults that wait to be handled, without waiting itself. Those outside the mapping are not ours.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn take_faults(&self, mapping: &Mapping, faults: &mut Vec<Fault>) -> io::Result<()> {
        let none = Message {
            event: 0,
            reserved: [0; 7],
            flags: 0,
            address: 0,
            rest: 0,
        };
        let mut messages = [none; 32];
        let len = size_of_val(&messages);
        // SAFETY: the buffer is ours and as long as we say; any bytes are a valid `Message`.
        let got = unsafe { libc::read(self.fd.as_raw_fd(), messages.as_mut_ptr().cast(), len) };
        let Ok(got) = usize::try_from(got) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
                _ => Err(error),
            };
        };
        for message in &messages[..got / size_of::<Message>()] {
            let offset = message.address.wrapping_sub(mapping.address() as u64);
            if message.event == EVENT_PAGEFAULT && offset < mapping.len_bytes() as u64 {
                faults.push(Fault {
                    offset,
                    is_write: message.flags & FLAG_WRITE != 0,
                    is_protected: message.flags & FLAG_WP != 0,
                });
            }
        }
        Ok(())
    }
}

impl AsFd for UserFault {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn range(mapping: &Mapping, offset: u64, len_bytes: u64) -> io::Result<Range> {
    let is_inside = offset
        .checked_add(len_bytes)
        .is_some_and(|end| end <= mapping.len_bytes() as u64);
    if !is_inside {
        return Err(io::Error::from_raw_os_error(libc::EFAULT));
    }
    Ok(Range {
        start: mapping.address() as u64 + offset,
        len: len_bytes,
    })
}

fn open_by_call(flags: libc::c_int) -> io::Result<OwnedFd> {
    let flags = flags | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: the call takes flags only.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    owned(fd as libc::c_int)
}

/// Opens `/dev/userfaultfd` (Linux 6.1): whoever has the descriptor, or is given it, needs no privilege.
///
/// # Errors
/// What the host says.
pub fn open_device() -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).open("/dev/userfaultfd")
}

fn open_by_device(device: &File) -> io::Result<OwnedFd> {
    // SAFETY: this ioctl takes flags in place of a pointer.
    let fd = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            IOC_NEW,
            libc::O_CLOEXEC | libc::O_NONBLOCK,
        )
    };
    owned(fd)
}

fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::{MemFd, Protection};

    /// Those that this host allows: for both the tests hold, where no kernel access is meant.
    fn opened() -> Vec<UserFault> {
        let both = [UserFault::open(None), UserFault::of_user_mode()];
        let told = |error: OpenError| eprintln!("SKIPPED: {error}");
        both.into_iter()
            .filter_map(|opened| opened.map_err(told).ok())
            .collect()
    }

    const LEN_BYTES: usize = 0x4000;

    fn mapped(fault: &UserFault) -> (MemFd, Mapping) {
        let fd = MemFd::new(c"test", LEN_BYTES as u64).unwrap();
        let mapping = Mapping::new(&fd, LEN_BYTES, Protection::ReadWrite).unwrap();
        fault.register(&mapping, true).unwrap();
        (fd, mapping)
    }

    /// Of who may see it, the kernel waits for a page in the middle of its call; of everybody else the call is refused.
    #[test]
    fn the_kernel_reads_a_file_into_a_page_that_is_missing() {
        for fault in opened() {
            let (fd, mapping) = mapped(&fault);
            let place = crate::vectored::Place {
                address: mapping.address() + 0x1ffc,
                len_bytes: 8,
            };
            let source = File::open("/proc/self/exe").unwrap();
            let (read, mut seen) = std::thread::scope(|scope| {
                // SAFETY: the place lies in the mapping, which outlives the scope, and nobody refers to it.
                let reader =
                    scope.spawn(|| unsafe { crate::vectored::read_at(&source, &[place], 0) });
                let mut seen = Vec::new();
                while !reader.is_finished() {
                    let mut faults = Vec::new();
                    fault.take_faults(&mapping, &mut faults).unwrap();
                    for one in &faults {
                        assert!(!one.is_protected);
                        fault
                            .copy_page(&mapping, one.offset & !0xfff, &[7; 4096], false)
                            .unwrap();
                        seen.push(one.offset & !0xfff);
                    }
                    std::thread::yield_now();
                }
                (reader.join().unwrap(), seen)
            });
            if !fault.sees_kernel() {
                assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EFAULT));
                assert!(seen.is_empty());
                continue;
            }
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, [0x1000, 0x2000]);
            assert_eq!(read.unwrap(), 8);
            let mut bytes = [0; 12];
            std::os::unix::fs::FileExt::read_at(fd.file(), &mut bytes, 0x1ff8).unwrap();
            assert_eq!(&bytes[..8], b"\x07\x07\x07\x07\x7fELF");
        }
    }

    #[test]
    fn ranges_outside_the_mapping_are_refused() {
        for fault in opened() {
            let (_fd, mapping) = mapped(&fault);
            assert!(fault.zero_page(&mapping, 0x4000).is_err());
            assert!(fault.protect(&mapping, 0x3000, 0x2000, true).is_err());
            assert!(fault.wake(&mapping, u64::MAX, 1).is_err());
            fault.zero_page(&mapping, 0x3000).unwrap();
            let error = fault.zero_page(&mapping, 0x3000).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
        }
    }
}
