//! Anonymous memory files and mappings of them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::ptr;

use rustix::fs::{
    FallocateFlags, MemfdFlags, OFlags, SealFlags, SeekFrom, fallocate, fcntl_add_seals,
    memfd_create, seek,
};
use rustix::io::Errno;

/// An anonymous memory file (`memfd_create`), sparse: pages never touched cost nothing.
#[derive(Debug)]
pub struct MemFd(File);

impl MemFd {
    /// A file of `len_bytes` that shows up as `name` in `/proc/PID/maps`.
    ///
    /// # Errors
    /// What `memfd_create` or `ftruncate` say.
    pub fn new(name: &std::ffi::CStr, len_bytes: u64) -> io::Result<MemFd> {
        let file = memfd_create(name, MemfdFlags::CLOEXEC)?;
        MemFd::of_file(File::from(file), len_bytes)
    }

    /// The same for a file that shall be sealed with [`MemFd::seal`].
    ///
    /// # Errors
    /// As [`MemFd::new`].
    pub fn sealable(name: &std::ffi::CStr, len_bytes: u64) -> io::Result<MemFd> {
        let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        MemFd::of_file(File::from(file), len_bytes)
    }

    /// From now on nobody writes to the file but through mappings that there are already, and its length stays: whoever
    /// is given its descriptor can only read (`F_SEAL_FUTURE_WRITE`, Linux 5.1).
    ///
    /// # Errors
    /// What `fcntl` says; so for a file that is not [`MemFd::sealable`].
    pub fn seal(&self) -> io::Result<()> {
        let seals = SealFlags::FUTURE_WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        Ok(fcntl_add_seals(&self.0, seals)?)
    }

    /// The file, opened again for reading alone, by way of `/proc`. Nobody asks when it was read last, and to note that
    /// is a tenth of what a little read costs.
    ///
    /// # Errors
    /// What the host says; so where there is no `/proc`.
    pub fn read_only(&self) -> io::Result<File> {
        let path = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        let mut options = File::options();
        options.read(true);
        let without_time = options
            .clone()
            .custom_flags(OFlags::NOATIME.bits().cast_signed())
            .open(&path);
        without_time.or_else(|_| options.open(&path))
    }

    /// A file of a tmpfs's that has no name any more, which is the same thing, with this length from now on.
    pub(crate) fn of_file(file: File, len_bytes: u64) -> io::Result<MemFd> {
        file.set_len(len_bytes)?;
        Ok(MemFd(file))
    }

    /// One that another process made, which has `len_bytes`.
    ///
    /// # Errors
    /// `InvalidInput` if it has another length, otherwise what `lseek` says.
    pub fn handed(file: File, len_bytes: u64) -> io::Result<MemFd> {
        if seek(&file, SeekFrom::End(0))? != len_bytes {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(MemFd(file))
    }

    /// Gives the memory of a range back to the host; it reads as zeros from now on, through every mapping. Only
    /// whole pages cost nothing any more.
    ///
    /// # Errors
    /// What `fallocate` says.
    pub fn punch_hole(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.0, mode, offset, len_bytes)?)
    }

    /// How many bytes of a range the file holds, in whole pages: what a hole punched there would give back.
    ///
    /// # Errors
    /// What `lseek` says.
    pub fn held_bytes(&self, offset: u64, len_bytes: u64) -> io::Result<u64> {
        let end = offset + len_bytes;
        let mut at = offset;
        let mut held = 0;
        while at < end {
            let Some(data) = self.next_data(at)?.filter(|data| *data < end) else {
                break;
            };
            let hole = self.next_hole(data)?.unwrap_or(end).min(end);
            held += hole - data;
            at = hole;
        }
        Ok(held)
    }

    /// Where data is from `at` on, if there is any.
    fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        found(seek(&self.0, SeekFrom::Data(at)))
    }

    /// Where a hole is from `at` on; behind the last byte of every file is one.
    fn next_hole(&self, at: u64) -> io::Result<Option<u64>> {
        found(seek(&self.0, SeekFrom::Hole(at)))
    }

    /// Start and end of every stretch between `from` and `to` that the host holds memory for, in order.
    ///
    /// # Errors
    /// What `lseek` says.
    pub fn data(&self, from: u64, to: u64) -> io::Result<Vec<(u64, u64)>> {
        let mut stretches = Vec::new();
        let mut at = from;
        while let Some(start) = self.next_data(at)?.filter(|start| *start < to) {
            let Some(end) = self.next_hole(start)?.filter(|end| *end > start) else {
                break;
            };
            stretches.push((start, end.min(to)));
            at = end;
        }
        Ok(stretches)
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.0
    }
}

/// The file's position, which `seek` moves too, means nothing to anybody: all use offsets.
fn found(place: Result<u64, Errno>) -> io::Result<Option<u64>> {
    match place {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What a mapping may be used for. There is no writable and executable one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protection {
    /// Data: read and written, never executed.
    ReadWrite,
    /// Code: read and executed, never written.
    ReadExecute,
}

/// Bytes on both sides of a mapping in which nothing ever lies: whatever reaches over its end, an operand or a wrong bound,
/// faults and corrupts nothing.
const GUARD_BYTES: usize = 64 << 10;

/// The same for code, which can reach as far with a displacement.
const CODE_GUARD_BYTES: usize = 2 << 30;

/// Bytes of a huge page.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A shared mapping of a whole [`MemFd`] between guards, unmapped on drop. What it holds is a guest's, or made for one: it goes into no core
/// dump, which would keep a guest's secrets on the host's disk.
#[derive(Debug)]
pub struct Mapping {
    address: usize,
    len_bytes: usize,
    guard_bytes: usize,
}

impl Mapping {
    /// Maps `len_bytes` of `fd` from its start.
    ///
    /// # Errors
    /// What `mmap` says.
    pub fn new(fd: &MemFd, len_bytes: usize, protection: Protection) -> io::Result<Mapping> {
        let bits = match protection {
            Protection::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
            Protection::ReadExecute => libc::PROT_READ | libc::PROT_EXEC,
        };
        let (around, guard_bytes) = reserve(len_bytes, protection)?;
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE | libc::MAP_FIXED;
        let inside = (around + guard_bytes) as *mut libc::c_void;
        // SAFETY: the range was reserved just now, is nobody else's, and has this many bytes between its guards.
        let at = unsafe { libc::mmap(inside, len_bytes, bits, flags, fd.0.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            // SAFETY: the range is ours, and nothing lies in it.
            unsafe { libc::munmap(around as *mut libc::c_void, len_bytes + 2 * guard_bytes) };
            return Err(error);
        }
        let mapping = Mapping {
            address: at as usize,
            len_bytes,
            guard_bytes,
        };
        mapping.advise(0, len_bytes as u64, libc::MADV_DONTDUMP)?;
        Ok(mapping)
    }

    /// Where it lies in this process.
    pub fn address(&self) -> usize {
        self.address
    }

    /// Its size.
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// From now on nobody changes the mapping and its guards, not even this process, which must keep it for ever (mseal(2),
    /// Linux 6.10); elsewhere it is as it was.
    pub(crate) fn seal_for_ever(&self) {
        const MSEAL: libc::c_long = 462;
        let around = self.address - self.guard_bytes;
        let len_bytes = self.len_bytes + 2 * self.guard_bytes;
        // SAFETY: the call forbids changes of a range that is ours, and changes nothing.
        let _ = unsafe { libc::syscall(MSEAL, around, len_bytes, 0_usize) };
    }

    /// Gives what the file holds back to the host; it reads as zeros from now on.
    ///
    /// # Errors
    /// What `madvise` says.
    pub(crate) fn empty(&self) -> io::Result<()> {
        self.empty_part(0, self.len_bytes)
    }

    /// The same for a part, of whole pages.
    ///
    /// # Errors
    /// As [`Mapping::empty`]; so for a part that does not lie inside.
    pub(crate) fn empty_part(&self, offset: usize, len_bytes: usize) -> io::Result<()> {
        let end = offset.checked_add(len_bytes);
        if end.is_none_or(|end| end > self.len_bytes) {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        let at = (self.address + offset) as *mut libc::c_void;
        // SAFETY: the range is ours; nobody else has a view of what lies there that he still uses.
        let result = unsafe { libc::madvise(at, len_bytes, libc::MADV_REMOVE) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Takes a range out of this process's page tables. Nothing is lost: it is the file's, and the next access maps it
    /// again, which is how one learns that there was one.
    ///
    /// # Errors
    /// What `madvise` says; the range must consist of whole pages inside the mapping.
    pub fn unmap_until_used(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.advise(offset, len_bytes, libc::MADV_DONTNEED)
    }

    /// No access through this mapping brings a huge page into the file, whatever the administrator has set for memory
    /// files, and the kernel joins none later.
    pub fn keep_pages_small(&self) {
        // A kernel without huge pages refuses, and is right.
        let _ = self.advise(0, self.len_bytes as u64, libc::MADV_NOHUGEPAGE);
    }

    /// Has the kernel split huge pages that a range is a part of: they are mapped as a whole or not at all, and one access
    /// would speak for all of it. It does so when it is told that a part is cold; a page that it uses just now stays whole.
    ///
    /// # Errors
    /// As [`Mapping::unmap_until_used`].
    pub fn split_huge_pages(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.advise(offset, len_bytes, libc::MADV_COLD)
    }

    /// `advice` is one that keeps every byte of a shared mapping.
    fn advise(&self, offset: u64, len_bytes: u64, advice: libc::c_int) -> io::Result<()> {
        let end = offset
            .checked_add(len_bytes)
            .filter(|&end| end <= self.len_bytes as u64);
        if end.is_none() {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        let at = (self.address as u64 + offset) as *mut libc::c_void;
        // SAFETY: the range lies in our mapping. It is shared, so the bytes stay in the file, and whoever accesses them
        // meanwhile waits for the kernel to map them again.
        let result = unsafe { libc::madvise(at, len_bytes as usize, advice) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let around = self.address - self.guard_bytes;
        let len_bytes = self.len_bytes + 2 * self.guard_bytes;
        // SAFETY: we mapped exactly this range and own it; whoever used the address held a borrow of `self`
        // or an owner that drops before it.
        unsafe { libc::munmap(around as *mut libc::c_void, len_bytes) };
    }
}

/// Takes address space for so many bytes and a guard on each side: where it begins, and how large a guard is. It costs
/// nothing but addresses; where those are limited, a smaller guard has to do.
///
/// What is between the guards begins where a huge page may, if one fits: the kernel maps a huge page of a file as one only
/// where file and address have the same place in it, and KVM gives a guest only what is mapped so.
fn reserve(len_bytes: usize, protection: Protection) -> io::Result<(usize, usize)> {
    let guards: &[usize] = match protection {
        Protection::ReadWrite => &[GUARD_BYTES],
        Protection::ReadExecute => &[CODE_GUARD_BYTES, GUARD_BYTES],
    };
    for &guard_bytes in guards {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let slack = if len_bytes >= HUGE_PAGE_BYTES {
            HUGE_PAGE_BYTES
        } else {
            0
        };
        let bytes = len_bytes + 2 * guard_bytes + slack;
        // SAFETY: the kernel chooses the address, so no existing mapping is replaced.
        let at = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
        if at != libc::MAP_FAILED {
            let at = at as usize;
            let inside = (at + guard_bytes).next_multiple_of(slack.max(1));
            let around = inside - guard_bytes;
            let end = inside + len_bytes + guard_bytes;
            for (from, to) in [(at, around), (end, at + bytes)] {
                if from < to {
                    // SAFETY: the range was reserved just now, and nothing lies in it.
                    unsafe { libc::munmap(from as *mut libc::c_void, to - from) };
                }
            }
            return Ok((around, guard_bytes));
        }
    }
    Err(io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The kernel's flags of the mapping at `address` (proc_pid_smaps(5), `VmFlags`).
    fn flags(address: usize) -> Vec<String> {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let start = format!("{address:x}-");
        let entry = smaps
            .lines()
            .skip_while(|line| !line.starts_with(&start))
            .find_map(|line| line.strip_prefix("VmFlags:"));
        let words = entry.unwrap().split_whitespace();
        words.map(str::to_owned).collect()
    }

    #[test]
    fn a_mapping_begins_where_a_huge_page_may_and_lies_between_guards() {
        for (len_bytes, aligned) in [(4096, 4096), (2 << 20, 2 << 20), (5 << 20, 2 << 20)] {
            let file = MemFd::new(c"guest-memory", len_bytes as u64).unwrap();
            for protection in [Protection::ReadWrite, Protection::ReadExecute] {
                let mapping = Mapping::new(&file, len_bytes, protection).unwrap();
                let start = mapping.address();
                assert_eq!(start % aligned, 0, "{len_bytes} {protection:?}");
                let maps = fs::read_to_string("/proc/self/maps").unwrap();
                let is_reserved = |at: usize| {
                    maps.lines().any(|line| {
                        let (range, rights) = line.split_once(' ').unwrap();
                        let (from, to) = range.split_once('-').unwrap();
                        let address = |text| usize::from_str_radix(text, 16).unwrap();
                        (address(from)..address(to)).contains(&at) && rights.starts_with("---p")
                    })
                };
                let guards = [
                    start - 1,
                    start - GUARD_BYTES,
                    start + len_bytes,
                    start + len_bytes + GUARD_BYTES - 1,
                ];
                assert!(
                    guards.into_iter().all(is_reserved),
                    "{len_bytes} {protection:?}: {maps}"
                );
                assert!(!is_reserved(start) && !is_reserved(start + len_bytes - 1));
            }
        }
    }

    #[test]
    fn nothing_of_a_guest_goes_into_a_core_dump() {
        let file = MemFd::new(c"guest-memory", 1 << 20).unwrap();
        for protection in [Protection::ReadWrite, Protection::ReadExecute] {
            let mapping = Mapping::new(&file, 1 << 20, protection).unwrap();
            let flags = flags(mapping.address());
            assert!(
                flags.iter().any(|flag| flag == "dd"),
                "{protection:?}: {flags:?}"
            );
        }
    }
}
