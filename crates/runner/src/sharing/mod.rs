//! A folder of the host for a guest, served by a process that has that folder and nothing of the VM but messages.
//!
//! # Problem
//!
//! What a guest asks for in a folder that it shares is done with files of the host, by a process that has paths. The process that runs
//! the guest must have none; and who serves the folder must not have the guest's memory, whose pages may be away (decision 37).
//!
//! # How
//!
//! ```text
//! guest ─ device, in the VM's process ── socket ── this process: crate `folder`, in a jail ── the folder
//! ```
//!
//! It is this program again, with the folder, one end of a socket and the rights of whoever started it below that folder (`host::jail`,
//! [`host::jail::lock_in_folder`]). It has no namespaces of its own, in which root would be nobody: as root it has to write as root.
//!
//! **It ends with the VM.** The other end of its socket is the VM's process's alone, so when that is gone, however it went, the server reads
//! an end and is gone too, also where no launcher is left to end it.

mod perform;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use api::JailWish;
use host::deep_socket;
use host::jail::{Apart, Child};
use machine::FolderPlan;

pub(crate) use self::perform::perform;
use crate::own_log::LogWish;
use crate::spawn;
use crate::wire::{FromSharing, Role};

/// What the sockets hold: a message of the most data, so that neither side has to come back for the rest of one.
const SOCKET_BYTES: u32 = 2 << 20;

/// The process that serves a folder. It ends with this.
#[derive(Debug)]
pub(crate) struct FolderServer {
    child: Child,
}

impl Drop for FolderServer {
    fn drop(&mut self) {
        // It keeps nothing that would have to be put in order: what it has answered has been done.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Has `folder` be served as `plan` says; the socket of the guest's side. The server of a detached VM says what it has to say to
/// `messages`, and holds nothing of who started it.
///
/// # Errors
/// If there is no process for it, or it does not lock itself in as `jail` wants.
pub(crate) fn serve(
    plan: &FolderPlan,
    folder: &OwnedFd,
    jail: JailWish,
    messages: Option<&File>,
) -> io::Result<(FolderServer, UnixStream)> {
    let (ours, theirs) = deep_socket::pair(SOCKET_BYTES)?;
    let (child, channel, _) = spawn::start_apart(&plan.name, Apart::No)?;
    let server = FolderServer { child };
    let role = Role::Sharing {
        log: LogWish::of_environment(),
        name: plan.name.clone(),
        is_read_only: plan.is_read_only,
        jail,
    };
    let mut descriptors = vec![theirs.as_fd(), folder.as_fd()];
    descriptors.extend(messages.map(AsFd::as_fd));
    channel.send(&role, &descriptors)?;
    match channel.receive()? {
        Some((FromSharing::Ready, _)) => Ok((server, ours)),
        Some((FromSharing::Refused { why }, _)) => Err(io::Error::other(why)),
        None => Err(io::Error::other(
            "the process that serves it does not begin",
        )),
    }
}
