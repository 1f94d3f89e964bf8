//! What programs that are started from here inherit.

use std::fs;
use std::io;
use std::os::fd::RawFd;

/// The first descriptor that is no standard stream.
const FIRST: RawFd = 3;

/// Has programs that are started from here inherit standard streams only, whatever this process itself was given by who
/// started it. What is open stays open here.
///
/// # Errors
/// If `/proc` does not say what is open.
pub fn keep_to_ourselves() -> io::Result<()> {
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
    use std::io::Read;
    use std::os::fd::{AsFd, AsRawFd};
    use std::process::Command;

    use rustix::io::{FdFlags, fcntl_setfd};

    use super::*;

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
        let mut file = File::open("/proc/self/exe").unwrap();
        fcntl_setfd(file.as_fd(), FdFlags::empty()).unwrap();
        assert!(is_inherited(&file), "as a shell would leave it");
        keep_to_ourselves().unwrap();
        assert!(!is_inherited(&file));
        assert_eq!(
            file.read(&mut [0; 4]).unwrap(),
            4,
            "it is open here as before"
        );
    }
}
