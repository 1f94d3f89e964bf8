//! The folder of one VM: where what lies, and the two files of JSON in it.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use api::{VmEnd, VmInfo, VmOrigin};
use rustix::fs::OFlags;
use rustix::net::{bind, connect, listen};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::network::{packets, with_address};

/// What the launcher's socket is called.
const LAUNCHER: &str = "launcher";

/// Connections to it that nobody has taken yet.
const WAITING_MAX: i32 = 8;

/// Longest file of JSON that is read.
const JSON_BYTES_MAX: u64 = 1 << 20;

/// One VM's folder, there or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record(PathBuf);

impl Record {
    pub(crate) fn new(folder: PathBuf) -> Record {
        Record(folder)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    pub(crate) fn alive(&self) -> PathBuf {
        self.0.join("alive")
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.0.join("control")
    }

    /// Where the VM's launcher takes orders that are not for the VM's process.
    pub(crate) fn launcher(&self) -> PathBuf {
        self.0.join(LAUNCHER)
    }

    /// A connection to the VM's launcher, which keeps packets apart; none if nobody listens there, as with launchers of versions that
    /// took no orders.
    ///
    /// # Errors
    /// What the host says.
    pub fn connect_to_launcher(&self) -> io::Result<Option<OwnedFd>> {
        let socket = packets()?;
        match with_address(&self.0, LAUNCHER, |address| Ok(connect(&socket, address)?)) {
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

    /// The other end of that.
    pub(crate) fn listen_as_launcher(&self) -> io::Result<OwnedFd> {
        match fs::remove_file(self.launcher()) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = packets()?;
        with_address(&self.0, LAUNCHER, |address| Ok(bind(&socket, address)?))?;
        listen(&socket, WAITING_MAX)?;
        Ok(socket)
    }

    /// What the guest printed, the newer part.
    pub(crate) fn console(&self) -> PathBuf {
        self.0.join("console")
    }

    /// The older part.
    pub(crate) fn old_console(&self) -> PathBuf {
        self.0.join("console.old")
    }

    /// What a detached VM's process said about itself.
    pub fn messages(&self) -> PathBuf {
        self.0.join("messages")
    }

    fn vm(&self) -> PathBuf {
        self.0.join("vm.json")
    }

    fn ended(&self) -> PathBuf {
        self.0.join("end.json")
    }

    fn origin_file(&self) -> PathBuf {
        self.0.join("origin.json")
    }

    /// How the VM came to be, if that is known.
    pub fn origin(&self) -> Option<VmOrigin> {
        read(&self.origin_file())
    }

    pub(crate) fn write_origin(&self, origin: &VmOrigin) -> io::Result<()> {
        write(&self.origin_file(), origin)
    }

    /// What the VM is; `None` if it never got that far.
    pub fn info(&self) -> Option<VmInfo> {
        read(&self.vm())
    }

    /// How the VM ended, if it said so.
    pub fn end(&self) -> Option<VmEnd> {
        read(&self.ended())
    }

    pub(crate) fn write_info(&self, info: &VmInfo) -> io::Result<()> {
        write(&self.vm(), info)
    }

    pub(crate) fn write_end(&self, end: &VmEnd) -> io::Result<()> {
        write(&self.ended(), end)
    }

    /// Removes the sockets of a VM that has ended.
    pub(crate) fn close(&self) {
        for socket in [self.socket(), self.launcher()] {
            // One that stays is one that nobody listens at.
            let _ = fs::remove_file(socket);
        }
    }

    /// Removes what an earlier VM of the name left, except the file that is locked.
    pub(crate) fn clear(&self) -> io::Result<()> {
        let files = [
            self.socket(),
            self.launcher(),
            self.console(),
            self.old_console(),
            self.messages(),
            self.vm(),
            self.ended(),
            self.origin_file(),
        ];
        for file in files {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

/// A value, if the file is there and whole: what has its name has all its bytes.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let mut text = String::new();
    // Root reads other users' files here: no link of theirs is followed, and no pipe waited for.
    let unfollowed = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    File::options()
        .read(true)
        .custom_flags(unfollowed.bits() as i32)
        .open(path)
        .ok()?
        .take(JSON_BYTES_MAX)
        .read_to_string(&mut text)
        .ok()?;
    serde_json::from_str(&text).ok()
}

fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    fs::write(&unfinished, serde_json::to_string(value)? + "\n")?;
    fs::rename(&unfinished, path)
}
