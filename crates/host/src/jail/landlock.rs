//! A Landlock domain that grants nothing (landlock(7), `include/uapi/linux/landlock.h`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `LANDLOCK_CREATE_RULESET_VERSION` and `LANDLOCK_CREATE_RULESET_ERRATA`.
const ASK_VERSION: u32 = 1;
const ASK_ERRATA: u32 = 2;

/// `struct landlock_ruleset_attr`.
#[repr(C)]
struct Attributes {
    files: u64,
    network: u64,
    scoped: u64,
}

/// What is refused under each version: rights over files, over TCP and UDP, and what is kept within.
struct Handled {
    files: u64,
    network: u64,
    scoped: u64,
    /// How much of [`Attributes`] this version knows.
    bytes: usize,
}

/// `LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET`, `LANDLOCK_SCOPE_SIGNAL`.
const SCOPE_ABSTRACT: u64 = 1;
const SCOPE_SIGNAL: u64 = 2;

/// Erratum 2: signals between threads of one process pass, whichever domains they are in.
const ERRATUM_SIGNALS: u32 = 1 << 1;

fn handled(abi: u32, errata: u32) -> Handled {
    // Each version adds the next bits: 13 rights, refer, truncate, device ioctls, and sockets by path.
    let files = match abi {
        0 => 0,
        1 => (1 << 13) - 1,
        2 => (1 << 14) - 1,
        3 | 4 => (1 << 15) - 1,
        5..=8 => (1 << 16) - 1,
        _ => (1 << 17) - 1,
    };
    let network = match abi {
        0..=3 => 0,
        4..=9 => 0b11,
        // UDP is said in other ways by different kernels; sockets are not to be had here anyway.
        _ => 0b11,
    };
    // A thread that restricts itself later than another is in another domain, and must still be kicked.
    let signals = if errata & ERRATUM_SIGNALS != 0 {
        SCOPE_SIGNAL
    } else {
        0
    };
    let scoped = if abi < 6 { 0 } else { SCOPE_ABSTRACT | signals };
    let bytes = match abi {
        0..=3 => 8,
        4 | 5 => 16,
        _ => 24,
    };
    Handled {
        files,
        network,
        scoped,
        bytes,
    }
}

fn ask(question: u32) -> u32 {
    // SAFETY: with no attributes and one of these flags the call answers a number and touches no memory.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<Attributes>(),
            0_usize,
            question,
        )
    };
    u32::try_from(answer).unwrap_or(0)
}

/// The version of Landlock that this kernel has; 0 without.
pub fn abi() -> u32 {
    ask(ASK_VERSION)
}

/// A domain that grants nothing, and the version that it was made for; not yet entered by anybody.
pub(super) fn domain() -> io::Result<(OwnedFd, u32)> {
    let abi = abi();
    let Handled {
        files,
        network,
        scoped,
        bytes,
    } = handled(abi, ask(ASK_ERRATA));
    let attributes = Attributes {
        files,
        network,
        scoped,
    };
    // SAFETY: the attributes live through the call, which reads so many bytes of them.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attributes,
            bytes,
            0_u32,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor and nobody else owns it.
    let domain = unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) };
    Ok((domain, abi))
}

/// `LANDLOCK_RULE_PATH_BENEATH`.
const PATH_BENEATH: u32 = 1;

/// What may be done below a folder. Never executing a file, and no devices, pipes or sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Below {
    /// Files, folders and links are made, files are written, and files are removed; no file is read.
    Fill,
    /// Files and folders are read.
    Read,
    /// Whatever one does with files, folders and links.
    Use,
}

/// `WRITE_FILE`, `READ_FILE`, `READ_DIR`, `REMOVE_DIR`, `REMOVE_FILE`, `MAKE_DIR`, `MAKE_REG`, `MAKE_SYM`; of the second version
/// `REFER`, to another folder; of the third one `TRUNCATE`.
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const REMOVE_DIR: u64 = 1 << 4;
const REMOVE_FILE: u64 = 1 << 5;
const MAKE: u64 = 1 << 7 | 1 << 8 | 1 << 12;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;

impl Below {
    /// The rights that a version knows.
    fn rights(self, abi: u32) -> u64 {
        const FILL: u64 = WRITE_FILE | READ_DIR | REMOVE_FILE | MAKE | TRUNCATE;
        let rights = match self {
            Below::Fill => FILL,
            Below::Read => READ_FILE | READ_DIR,
            Below::Use => FILL | READ_FILE | REMOVE_DIR | REFER,
        };
        rights & handled(abi, 0).files
    }
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct Beneath {
    allowed: u64,
    parent: i32,
}

/// Lets who is in the domain do this below this folder, and nothing else.
pub(super) fn allow_below(
    domain: &OwnedFd,
    abi: u32,
    folder: BorrowedFd<'_>,
    below: Below,
) -> io::Result<()> {
    let rule = Beneath {
        allowed: below.rights(abi),
        parent: folder.as_raw_fd(),
    };
    // SAFETY: the rule lives through the call, which reads one of its kind.
    let status = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            domain.as_raw_fd(),
            PATH_BENEATH,
            &raw const rule,
            0_u32,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Puts this thread into the domain.
pub(super) fn enter(domain: &OwnedFd) -> io::Result<()> {
    // SAFETY: the call takes its arguments by value.
    let status =
        unsafe { libc::syscall(libc::SYS_landlock_restrict_self, domain.as_raw_fd(), 0_u32) };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::super::own_process::in_its_own_process;
    use super::*;

    #[test]
    fn every_version_refuses_at_least_what_the_one_before_did() {
        let mut before = handled(0, 0);
        assert_eq!((before.files, before.network, before.scoped), (0, 0, 0));
        for abi in 1..=12 {
            for errata in [0, ERRATUM_SIGNALS, 7] {
                let now = handled(abi, errata);
                assert_eq!(now.files & before.files, before.files, "{abi}");
                assert_eq!(now.network & before.network, before.network, "{abi}");
                assert!(now.bytes >= before.bytes, "{abi}");
                let has_signals = now.scoped & SCOPE_SIGNAL != 0;
                assert_eq!(has_signals, abi >= 6 && errata & ERRATUM_SIGNALS != 0);
            }
            before = handled(abi, 0);
        }
    }

    #[test]
    fn what_may_be_done_below_a_folder_is_what_a_version_knows() {
        let check = |below: Below, abi, expected: u64| {
            assert_eq!(below.rights(abi), expected, "{below:?} {abi}");
        };
        check(Below::Fill, 1, 0b1_0001_1010_1010);
        check(Below::Fill, 3, 0b101_0001_1010_1010);
        check(Below::Read, 7, 0b1100);
        check(Below::Use, 1, 0b1_0001_1011_1110);
        check(Below::Use, 2, 0b11_0001_1011_1110);
        check(Below::Use, 7, 0b111_0001_1011_1110);
    }

    #[test]
    fn this_kernel_takes_what_its_version_is_said_to_have() {
        if abi() == 0 {
            return;
        }
        let (_, made_for) = domain().unwrap();
        assert_eq!(made_for, abi());
    }

    #[test]
    fn who_is_within_opens_no_file_without_any_other_wall() {
        in_its_own_process(
            "landlock::tests::who_is_within_opens_no_file_without_any_other_wall",
            || {
                if abi() == 0 {
                    return;
                }
                let mut open = std::fs::File::open("/etc/passwd").unwrap();
                let (domain, _) = domain().unwrap();
                rustix::thread::set_no_new_privs(true).unwrap();
                enter(&domain).unwrap();
                let refused = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
                assert!(refused(std::fs::File::open("/etc/passwd").unwrap_err()));
                assert!(refused(std::fs::read_dir("/").map(drop).unwrap_err()));
                assert!(refused(std::fs::create_dir("/tmp/never").unwrap_err()));
                assert_eq!(
                    io::Read::read(&mut open, &mut [0]).unwrap(),
                    1,
                    "it was open"
                );
                let later = std::thread::spawn(|| std::fs::File::open("/etc/passwd").map(drop));
                assert!(
                    refused(later.join().unwrap().unwrap_err()),
                    "a thread inherits it"
                );
            },
        );
    }
}
