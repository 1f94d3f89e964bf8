//! Where a network between VMs is reached: a socket for each below the runtime folder, and a lock for who starts one.
//!
//! A folder that begins with a dot is no VM's: no name of a VM does.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use api::VmName;
use rustix::fs::{FlockOperation, flock};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

/// The folder, below that of a user's VMs.
const FOLDER: &str = ".networks";

/// The lock, which is no network's: names begin with a letter or digit.
const LOCK: &str = ".lock";

/// Connections that nobody has taken yet.
const WAITING_MAX: i32 = 64;

/// Where a network is reached.
#[derive(Clone, Debug)]
pub struct NetworkDoor {
    folder: PathBuf,
    name: VmName,
}

impl NetworkDoor {
    /// Of the network called `name`, below the folder of a user's VMs.
    pub(crate) fn new(vms: &Path, name: VmName) -> NetworkDoor {
        NetworkDoor {
            folder: vms.join(FOLDER),
            name,
        }
    }

    /// The network.
    pub fn name(&self) -> &VmName {
        &self.name
    }

    /// Where its socket is.
    pub fn path(&self) -> PathBuf {
        self.folder.join(self.name.as_str())
    }

    /// Waits until nobody else comes to a network of this user or starts one, and keeps others from it until the file is dropped.
    ///
    /// # Errors
    /// What the host says of the folder or the lock.
    pub fn lock(&self) -> io::Result<File> {
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut options = File::options();
        options.write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(self.folder.join(LOCK))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        Ok(lock)
    }

    /// A connection to who carries the network, if there is somebody: a socket that keeps packets apart.
    ///
    /// # Errors
    /// What the host says, but that nobody is there.
    pub fn connect(&self) -> io::Result<Option<OwnedFd>> {
        let socket = packets()?;
        let connected = self.with_address(|address| Ok(connect(&socket, address)?));
        match connected {
            Ok(()) => Ok(Some(socket)),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A listener in the place of one that nobody listens at any more. The lock is held.
    ///
    /// # Errors
    /// What the host says.
    pub fn listen(&self) -> io::Result<OwnedFd> {
        match fs::remove_file(self.path()) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = packets()?;
        self.with_address(|address| Ok(bind(&socket, address)?))?;
        listen(&socket, WAITING_MAX)?;
        Ok(socket)
    }

    fn with_address<T>(&self, act: impl FnOnce(&SocketAddrUnix) -> io::Result<T>) -> io::Result<T> {
        with_address(&self.folder, self.name.as_str(), act)
    }
}

/// An address of a socket has 107 bytes, and a path may have more.
pub(crate) fn with_address<T>(
    folder: &Path,
    name: &str,
    act: impl FnOnce(&SocketAddrUnix) -> io::Result<T>,
) -> io::Result<T> {
    let folder = File::open(folder)?;
    let path = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
    act(&SocketAddrUnix::new(path)?)
}

pub(crate) fn packets() -> io::Result<OwnedFd> {
    let kind = SocketType::SEQPACKET;
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_is_open_as_long_as_somebody_listens() {
        let vms = tempfile::tempdir().unwrap();
        let long = vms.path().join("a".repeat(120));
        fs::create_dir(&long).unwrap();
        for folder in [vms.path(), &long] {
            let door = NetworkDoor::new(folder, VmName::new(&"n".repeat(63)).unwrap());
            assert!(door.connect().unwrap().is_none(), "nothing is there");
            let lock = door.lock().unwrap();
            let listener = door.listen().unwrap();
            assert!(door.connect().unwrap().is_some());
            drop(listener);
            assert!(door.connect().unwrap().is_none(), "nobody listens");
            let _again = door.listen().unwrap();
            assert!(door.connect().unwrap().is_some());
            let is_held = flock(
                File::open(folder.join(FOLDER).join(LOCK)).unwrap(),
                FlockOperation::NonBlockingLockShared,
            );
            assert_eq!(is_held, Err(rustix::io::Errno::WOULDBLOCK));
            drop(lock);
        }
    }
}
