//! A process that does with files what a guest says, below one folder or nowhere.
//!
//! One kind is the command itself, which from then on does nothing else: it has no child, no terminal of its own to speak of, and every
//! descriptor that it will need. So it needs no process beside it, and no namespaces, in which root would be nobody: as root
//! it has to write as root. What it gives up is the rest of the file system, whatever name it comes upon.
//!
//! The other kind serves a folder that is shared with a guest. It has one thread and all its descriptors too, keeps its user for the
//! same reason, and reads below the folder what the other one only writes.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::process::Resource;
use rustix::thread::CapabilitySet;

use super::landlock::Below;
use super::table::Kind;
use super::{Walls, filter, landlock, limit, telling, thread};

/// What writing files for others takes, of who has it: giving them away, and having rights over what is theirs.
const OF_ROOT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::DAC_OVERRIDE);

/// Puts up what can be had of the walls around this process, which has one thread: it writes files below `folder` and otherwise
/// uses only what is open. What the host refuses is told to `missing`.
pub fn lock_in_files(
    folder: Option<BorrowedFd<'_>>,
    missing: &mut dyn FnMut(&'static str, &io::Error),
) -> Walls {
    lock_in_below(
        folder.map(|folder| (folder, Below::Fill)),
        Kind::Files,
        missing,
    )
}

/// The same around a process that serves `folder`, of which it writes nothing unless it `may_write`.
pub fn lock_in_folder(
    folder: BorrowedFd<'_>,
    may_write: bool,
    missing: &mut dyn FnMut(&'static str, &io::Error),
) -> Walls {
    let below = match may_write {
        true => Below::Use,
        false => Below::Read,
    };
    lock_in_below(Some((folder, below)), Kind::Folder, missing)
}

fn lock_in_below(
    folder: Option<(BorrowedFd<'_>, Below)>,
    kind: Kind,
    missing: &mut dyn FnMut(&'static str, &io::Error),
) -> Walls {
    let mut put_up = telling(missing);
    put_up("a limit", limit(Resource::Core, 0));
    put_up("not to be dumped", thread::hide_from_equals());
    // Linux 6.3; the filter allows no such call either.
    let _ = thread::refuse_executable_gain();
    put_up("few capabilities", thread::keep_capabilities(OF_ROOT));
    put_up("no new privileges", thread::no_new_privileges());
    let entered = landlock::domain().and_then(|(domain, abi)| {
        if let Some((folder, below)) = folder {
            landlock::allow_below(&domain, abi, folder, below)?;
        }
        landlock::enter(&domain)?;
        Ok(abi)
    });
    let landlock_abi = match entered {
        Ok(abi) => abi,
        Err(error) => {
            put_up("Landlock", Err(error));
            0
        }
    };
    let armed = filter::arm(kind, false, false);
    let filter = put_up("a filter of system calls", armed.map(drop));
    Walls {
        namespaces: false,
        landlock_abi,
        filter,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

    use super::super::own_process::in_its_own_process;
    use super::super::refused;
    use super::*;

    const NEW: OFlags = OFlags::WRONLY.union(OFlags::CREATE);

    /// A mode without a file that is made is refused by itself.
    fn open(at: BorrowedFd<'_>, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let mode = match flags.contains(OFlags::CREATE) {
            true => Mode::from_raw_mode(0o600),
            false => Mode::empty(),
        };
        openat2(at, name, flags, mode, ResolveFlags::empty())
    }

    /// Where the process of its own finds a folder: it cannot remove it any more.
    fn folder(test: &str, process: u32) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("mother-{test}-{process}"))
    }

    #[test]
    fn who_writes_files_writes_them_below_one_folder() {
        let ours = folder("files", std::process::id());
        std::fs::create_dir_all(&ours).unwrap();
        in_its_own_process(
            "files::tests::who_writes_files_writes_them_below_one_folder",
            within_one_folder,
        );
        let _ = std::fs::remove_dir_all(&ours);
    }

    fn within_one_folder() {
        let parent = std::os::unix::process::parent_id();
        let within = std::fs::File::open(folder("files", parent)).unwrap();
        let outside = std::fs::File::open(std::env::temp_dir()).unwrap();
        let walls = lock_in_files(Some(within.as_fd()), &mut |_, _| {});
        open(within.as_fd(), "new", NEW).unwrap();
        rustix::fs::mkdirat(&within, "folder", Mode::RWXU).unwrap();
        rustix::fs::renameat(&within, "new", &within, "newer").unwrap();
        if walls.landlock_abi > 0 {
            open(outside.as_fd(), "escaped", NEW).unwrap_err();
            open(within.as_fd(), "../escaped", NEW).unwrap_err();
            open(within.as_fd(), "newer", OFlags::RDONLY).unwrap_err();
            open(within.as_fd(), "/etc/passwd", OFlags::RDONLY).unwrap_err();
        }
        assert_eq!(refused().map(|refused| refused.count), Some(0));
        std::fs::File::open("/etc/passwd").unwrap_err();
        std::net::TcpListener::bind("127.0.0.1:0").unwrap_err();
        assert_ne!(refused().map(|refused| refused.count), Some(0));
        let none = rustix::fs::AtFlags::empty();
        rustix::fs::unlinkat(&within, "newer", none).unwrap();
    }

    #[test]
    fn who_serves_a_folder_uses_that_folder_alone() {
        let ours = folder("use", std::process::id());
        std::fs::create_dir_all(ours.join("below")).unwrap();
        std::fs::write(ours.join("file"), "text").unwrap();
        in_its_own_process(
            "files::tests::who_serves_a_folder_uses_that_folder_alone",
            || served(true),
        );
        let _ = std::fs::remove_dir_all(&ours);
    }

    #[test]
    fn who_serves_a_folder_to_be_read_writes_nothing() {
        let ours = folder("read", std::process::id());
        std::fs::create_dir_all(ours.join("below")).unwrap();
        std::fs::write(ours.join("file"), "text").unwrap();
        in_its_own_process(
            "files::tests::who_serves_a_folder_to_be_read_writes_nothing",
            || served(false),
        );
        let _ = std::fs::remove_dir_all(&ours);
    }

    fn served(may_write: bool) {
        let parent = std::os::unix::process::parent_id();
        let test = if may_write { "use" } else { "read" };
        let within = std::fs::File::open(folder(test, parent)).unwrap();
        let outside = std::fs::File::open(std::env::temp_dir()).unwrap();
        let own = std::fs::File::open("/proc/self/fd").unwrap();
        let walls = lock_in_folder(within.as_fd(), may_write, &mut |_, _| {});
        // What is open as a place alone is opened by its own number, though this process may not be looked into.
        let place = open(within.as_fd(), "file", OFlags::PATH).unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&place).to_string();
        let again = |flags| rustix::fs::openat(&own, &number, flags, Mode::empty());
        let mut bytes = [0; 4];
        rustix::io::pread(again(OFlags::RDONLY).unwrap(), &mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"text");
        let moved = rustix::fs::renameat(&within, "file", &within, "below/file");
        if walls.landlock_abi > 0 {
            assert_eq!(again(OFlags::WRONLY).is_ok(), may_write);
            assert_eq!(open(within.as_fd(), "new", NEW).is_ok(), may_write);
            assert_eq!(moved.is_ok(), may_write && walls.landlock_abi > 1);
            open(outside.as_fd(), "escaped", NEW).unwrap_err();
            open(within.as_fd(), "../escaped", NEW).unwrap_err();
            open(within.as_fd(), "/etc/passwd", OFlags::RDONLY).unwrap_err();
            let linked = rustix::fs::AtFlags::SYMLINK_FOLLOW;
            rustix::fs::linkat(&own, &number, &outside, "escaped", linked).unwrap_err();
        }
        assert_eq!(refused().map(|refused| refused.count), Some(0));
        std::net::TcpListener::bind("127.0.0.1:0").unwrap_err();
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(&within, "pipe", mode).unwrap_err();
        assert_ne!(refused().map(|refused| refused.count), Some(0));
    }
}
