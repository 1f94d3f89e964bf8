//! What programs that are started from here inherit.

use std::fs::{self, File};
use std::io;
use std::os::fd::{OwnedFd, RawFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// The first descriptor that is no standard stream.
const FIRST: RawFd = 3;

/// Has programs that are started from here inherit standard streams only, whatever this process itself was given by who
/// started it. What is open stays open here.
///
/// One system call where there is one (`close_range(2)` that marks, Linux 5.11), so that this works in boxes without `/proc`;
/// else one for each descriptor that `/proc` lists.
///
/// # Errors
/// If the kernel has no such call and `/proc` does not say what is open.
pub fn keep_to_ourselves() -> io::Result<()> {
    mark_all().or_else(|_| mark_listed())
}

/// A standard stream that leads nowhere: reading it ends at once. `/dev/null`; in a box without one, an empty file of memory
/// that nothing can be written into.
///
/// # Errors
/// If there is neither.
pub fn nothing() -> io::Result<OwnedFd> {
    match File::options().read(true).write(true).open("/dev/null") {
        Ok(null) => Ok(null.into()),
        Err(_) => empty(),
    }
}

fn empty() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create(c"nothing", flags)?;
    fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(file)
}

/// Marks whatever is open by one call.
fn mark_all() -> io::Result<()> {
    // SAFETY: with this flag the call changes nothing but whether descriptors survive exec.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Marks what `/proc` lists, one after the other.
fn mark_listed() -> io::Result<()> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let number = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(number) = number.filter(|number: &RawFd| *number >= FIRST) else {
            continue;
        };
        // SAFETY: the call changes nothing but whether the descriptor survives exec; one that is closed by now is refused.
        let _ = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::{AsFd, AsRawFd};
    use std::process::Command;

    use rustix::io::{FdFlags, fcntl_setfd};

    use super::*;

    #[test]
    fn a_stream_that_leads_nowhere_ends_at_once_and_takes_nothing() {
        for stream in [nothing().unwrap(), empty().unwrap()] {
            let mut stream = File::from(stream);
            assert_eq!(stream.read(&mut [0; 4]).unwrap(), 0);
            let _ = stream.write(b"words");
            assert_eq!(stream.metadata().unwrap().len(), 0);
        }
    }

    /// What a program that is started from here has open of `file`.
    fn is_inherited(file: &File) -> bool {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        Command::new("test")
            .args(["-e", &path])
            .status()
            .unwrap()
            .success()
    }

    #[test]
    fn a_program_inherits_standard_streams_only() {
        check(keep_to_ourselves);
    }

    #[test]
    fn a_program_inherits_standard_streams_only_before_linux_5_11() {
        check(mark_listed);
    }

    fn check(keep: fn() -> io::Result<()>) {
        let mut file = File::open("/proc/self/exe").unwrap();
        fcntl_setfd(file.as_fd(), FdFlags::empty()).unwrap();
        assert!(is_inherited(&file), "as a shell would leave it");
        keep().unwrap();
        assert!(!is_inherited(&file));
        assert_eq!(
            file.read(&mut [0; 4]).unwrap(),
            4,
            "it is open here as before"
        );
    }
}
