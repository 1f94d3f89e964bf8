//! A process that writes what a guest has sent, below one folder or nowhere.
//!
//! It is the command itself, which from then on does nothing else: it has no child, no terminal of its own to speak of, and every
//! descriptor that it will need. So it needs no process beside it, and no namespaces, in which root would be nobody: as root
//! it has to write as root. What it gives up is the rest of the file system, whatever name it comes upon.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::process::Resource;
use rustix::thread::CapabilitySet;

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
    let mut put_up = telling(missing);
    put_up("a limit", limit(Resource::Core, 0));
    put_up("not to be dumped", thread::hide_from_equals());
    // Linux 6.3; the filter allows no such call either.
    let _ = thread::refuse_executable_gain();
    put_up("few capabilities", thread::keep_capabilities(OF_ROOT));
    put_up("no new privileges", thread::no_new_privileges());
    let entered = landlock::domain().and_then(|(domain, abi)| {
        if let Some(folder) = folder {
            landlock::allow_below(&domain, abi, folder)?;
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
    let filter = put_up("a filter of system calls", filter::arm_as(Kind::Files));
    Walls {
        namespaces: false,
        landlock_abi,
        filter,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

    use super::super::own_process::in_its_own_process;
    use super::super::refused;
    use super::*;

    const NEW: OFlags = OFlags::WRONLY.union(OFlags::CREATE);

    /// Where the process of its own finds a folder: it cannot remove it any more.
    fn folder(process: u32) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("mother-files-{process}"))
    }

    #[test]
    fn who_writes_files_writes_them_below_one_folder() {
        let ours = folder(std::process::id());
        std::fs::create_dir_all(&ours).unwrap();
        in_its_own_process(
            "files::tests::who_writes_files_writes_them_below_one_folder",
            within_one_folder,
        );
        let _ = std::fs::remove_dir_all(&ours);
    }

    fn within_one_folder() {
        let parent = std::os::unix::process::parent_id();
        let within = std::fs::File::open(folder(parent)).unwrap();
        let outside = std::fs::File::open(std::env::temp_dir()).unwrap();
        let walls = lock_in_files(Some(within.as_fd()), &mut |_, _| {});
        let open = |at: BorrowedFd<'_>, name: &str, flags| {
            let mode = Mode::from_raw_mode(0o600);
            openat2(at, name, flags, mode, ResolveFlags::empty())
        };
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
}
