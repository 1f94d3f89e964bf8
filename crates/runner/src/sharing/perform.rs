//! The server's side: it locks itself in before the guest has said a word.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use api::JailWish;
use folder::{Access, Bounds, Owners, Server};
use host::jail::{self, Refused, Tier};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, chdir, getrlimit, setrlimit, umask};
use rustix::stdio::dup2_stderr;

use crate::own_log;
use crate::spawn;
use crate::trouble::OUR_FAULT;
use crate::wire::{Channel, FromSharing};

/// Files that a guest may know: each is held open, and with it the host's kernel holds about a kilobyte.
const NODES_MAX: usize = 256 << 10;

/// Files that a guest may have open.
const HANDLES_MAX: usize = 16 << 10;

/// Descriptors that a server needs for itself.
const OWN_DESCRIPTORS: usize = 32;

/// Serves a folder until the VM's process is gone. With this come its socket, the folder, and where it says what it has to say,
/// for a detached VM.
pub(crate) fn perform(
    channel: Channel,
    name: &str,
    is_read_only: bool,
    wish: JailWish,
    descriptors: Vec<OwnedFd>,
) -> u8 {
    spawn::name_process("mother: folder");
    let (mut server, socket) = match begin(&channel, is_read_only, wish, descriptors) {
        Ok(begun) => begun,
        Err(error) => {
            let why = error.to_string();
            // A launcher that is gone is told nothing.
            let _ = channel.say(&FromSharing::Refused { why });
            return OUR_FAULT;
        }
    };
    drop(channel);
    let served = folder::serve(&mut server, &socket);
    if let Some(refused) = jail::refused().filter(|refused| refused.count > 0) {
        let Refused { count, first } = refused;
        tracing::warn!(
            "{name}: who serves this folder was refused {count} system calls: {first:?}"
        );
    }
    match served {
        Ok(()) => 0,
        // The VM's process went while it was to be answered.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            tracing::warn!("{name}: who serves this folder ends: {error}");
            OUR_FAULT
        }
    }
}

/// Puts up the walls, and says so.
fn begin(
    channel: &Channel,
    is_read_only: bool,
    wish: JailWish,
    descriptors: Vec<OwnedFd>,
) -> io::Result<(Server, UnixStream)> {
    let mut descriptors = descriptors.into_iter();
    let (Some(socket), Some(folder)) = (descriptors.next(), descriptors.next()) else {
        return Err(io::Error::other("it was given no folder"));
    };
    if let Some(messages) = descriptors.next() {
        own_log::limit();
        let _ = dup2_stderr(messages);
    }
    // Where it was started means nothing here, and is not kept from being unmounted.
    let _ = chdir("/");
    // What the guest says of modes is what they are.
    umask(Mode::empty());
    let bounds = bounds(most_descriptors());
    let access = match is_read_only {
        true => Access::Read,
        false => Access::Write,
    };
    let root = folder.try_clone()?;
    let server = Server::new(root, access, Owners::of_process(), bounds)?;
    if wish != JailWish::Off {
        lock(&folder, !is_read_only, wish)?;
    }
    channel.say(&FromSharing::Ready)?;
    Ok((server, socket.into()))
}

fn lock(folder: &OwnedFd, may_write: bool, wish: JailWish) -> io::Result<()> {
    jail::settle_libc();
    let walls = jail::lock_in_folder(folder.as_fd(), may_write, &mut |wall, error| {
        tracing::warn!("who serves a folder has no {wall} around it: {error}");
    });
    // Namespaces it never has.
    if wish == JailWish::Require && walls.tier() < Tier::Landlock {
        let tier = walls.tier().word();
        return Err(io::Error::other(format!(
            "who serves it would have a jail of the tier \"{tier}\", not \"landlock\""
        )));
    }
    Ok(())
}

/// As many descriptors as this process can have.
fn most_descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    current.map_or(usize::MAX, |most| {
        usize::try_from(most).unwrap_or(usize::MAX)
    })
}

/// What a guest may make it keep, of so many descriptors.
fn bounds(descriptors: usize) -> Bounds {
    let most = descriptors.saturating_sub(OWN_DESCRIPTORS).max(2);
    let handles = HANDLES_MAX.min(most / 4).max(1);
    Bounds {
        nodes: NODES_MAX.min(most - handles),
        handles,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_may_have_open_what_the_server_may() {
        let check = |descriptors: usize, nodes: usize, handles: usize| {
            let expected = Bounds { nodes, handles };
            assert_eq!(bounds(descriptors), expected, "{descriptors}");
        };
        check(1024, 744, 248);
        check(1 << 20, 256 << 10, 16 << 10);
        check(usize::MAX, 256 << 10, 16 << 10);
        check(0, 1, 1);
    }
}
