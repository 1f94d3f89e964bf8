//! The socket device and the Unix sockets behind it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use devices::virtio::vsock::{Connector, Dial, SocketsBeside, Vsock};
use devices::virtio::{DeviceMetrics, VirtioDevice, VirtioKind};
use rustix::fs::{AtFlags, Mode, OFlags, open, unlinkat};

use super::{AttachError, Attachment, slot};
use crate::attach::broker::{Broker, Dialer};
use crate::attach::claims::{ClaimListener, Claims};
use crate::attach::counters::DeviceCounters;

/// What the device is called in messages and metrics.
const NAME: &str = "vsock0";

/// The guest's context id: the first that is a guest's (5.10.4). Sockets are told apart by their paths.
const GUEST_CID: u64 = 3;

/// The sockets that a guest is reached by.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// The device's own.
    pub(crate) device: UnixListener,
    /// That of [`api::CLAIMS_PORT`]; none if another program listens there.
    pub(crate) claims: Option<UnixListener>,
}

/// Where they are, whatever the folder they are in is called by now: with whoever made them, who removes them with the VM.
#[derive(Debug)]
pub(crate) struct SocketPaths {
    folder: OwnedFd,
    name: OsString,
    has_claims: bool,
}

impl SocketPaths {
    /// Listens at `path`, and beside it for claims. What an earlier VM left there, and nobody listens at, is replaced.
    pub(crate) fn listen(path: &Path) -> Result<(Listeners, SocketPaths), AttachError> {
        let listen = || -> io::Result<_> {
            let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
            let folder = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let mut paths = SocketPaths {
                folder: open(folder, flags, Mode::empty())?,
                name: name.to_owned(),
                has_claims: false,
            };
            if fs::symlink_metadata(path).is_ok() {
                fs::remove_file(path)?;
            }
            let device = UnixListener::bind(path)?;
            let claims = listen_for_claims(path)?;
            paths.has_claims = claims.is_some();
            Ok((Listeners { device, claims }, paths))
        };
        listen().map_err(failed)
    }

    /// Connects to what listens for the guest at this port of the host.
    pub(crate) fn dial(&self, port: u32) -> io::Result<UnixStream> {
        let folder = format!("/proc/self/fd/{}", self.folder.as_raw_fd());
        SocketsBeside(Path::new(&folder).join(&self.name)).dial(port)
    }
}

impl Drop for SocketPaths {
    fn drop(&mut self) {
        let claims = of_port(&self.name, api::CLAIMS_PORT);
        let names = [Some(&self.name), self.has_claims.then_some(&claims)];
        for name in names.into_iter().flatten() {
            // Somebody may have removed it, which is as good.
            let _ = unlinkat(&self.folder, name, AtFlags::empty());
        }
    }
}

fn of_port(path: &OsStr, port: u32) -> OsString {
    let mut path = path.to_owned();
    path.push(format!("_{port}"));
    path
}

/// Listens at the path that the socket device reaches for claims. Whoever has put something there keeps it.
fn listen_for_claims(vsock: &Path) -> io::Result<Option<UnixListener>> {
    let path = PathBuf::from(of_port(vsock.as_os_str(), api::CLAIMS_PORT));
    if UnixStream::connect(&path).is_ok() {
        return Ok(None);
    }
    // What an earlier VM left; nobody listens at it.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(&path).map(Some)
}

/// Holds the listener for every life.
pub(super) struct VsockAttachment {
    dial: Arc<Dialer>,
    listener: Option<UnixListener>,
    connector: Connector,
    /// Where the guest's claims arrive, until somebody hears them: from the first life on.
    unheard: Option<(UnixListener, Claims)>,
    /// Another process has the sockets too.
    are_anothers: bool,
    /// Hears what the guest claims of itself.
    claims: Option<ClaimListener>,
    metrics: Arc<DeviceMetrics>,
}

impl VsockAttachment {
    /// The device behind these sockets, if it has some, and `connector`; what the guest wants to be connected to is asked of
    /// `broker`.
    pub(super) fn new(
        listeners: Option<Listeners>,
        connector: Connector,
        claims: &Claims,
        broker: &Arc<dyn Broker>,
        are_anothers: bool,
    ) -> VsockAttachment {
        let (device, for_claims) = listeners.map(|it| (it.device, it.claims)).unzip();
        VsockAttachment {
            dial: Arc::new(Dialer(Arc::clone(broker))),
            listener: device,
            connector,
            unheard: for_claims
                .flatten()
                .map(|listener| (listener, claims.clone())),
            are_anothers,
            claims: None,
            metrics: Arc::default(),
        }
    }
}

fn failed(source: io::Error) -> AttachError {
    AttachError {
        device: "the vsock device".to_owned(),
        source: Box::new(source),
    }
}

impl Attachment for VsockAttachment {
    fn slot(&self) -> u8 {
        slot::VSOCK
    }

    fn device(&mut self) -> Result<Box<dyn VirtioDevice>, AttachError> {
        if let Some((listener, claims)) = self.unheard.take() {
            let claims = ClaimListener::start(listener, &claims, self.are_anothers);
            self.claims = Some(claims.map_err(failed)?);
        }
        let listener = self.listener.as_ref().map(UnixListener::try_clone);
        let listener = listener.transpose().map_err(failed)?;
        let connector = self.connector.clone();
        let dial = Arc::<Dialer>::clone(&self.dial);
        let metrics = Arc::clone(&self.metrics);
        let device = Vsock::new(NAME, GUEST_CID, dial, listener, connector, metrics);
        Ok(Box::new(device.map_err(failed)?))
    }

    fn counters(&self) -> DeviceCounters {
        DeviceCounters {
            name: NAME.to_owned(),
            kind: VirtioKind::Vsock,
            metrics: Arc::clone(&self.metrics),
            balloon: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_go_with_the_vm_and_what_is_anothers_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let claims = format!("v_{}", api::CLAIMS_PORT);
        let (listeners, paths) = SocketPaths::listen(&path("v")).unwrap();
        assert!(listeners.claims.is_some());
        let (second, of_second) = SocketPaths::listen(&path("v")).unwrap();
        assert!(second.claims.is_none(), "whoever listens there keeps it");
        drop(of_second);
        assert!(!path("v").exists() && path(&claims).exists());
        drop(paths);
        assert!(!path(&claims).exists());
    }

    #[test]
    fn a_folder_is_found_again_however_it_is_called() {
        let parent = tempfile::tempdir().unwrap();
        let old = parent.path().join("old");
        let new = parent.path().join("new");
        fs::create_dir(&old).unwrap();
        let (_listeners, paths) = SocketPaths::listen(&old.join("v")).unwrap();
        let _server = UnixListener::bind(old.join("v_7")).unwrap();
        fs::rename(&old, &new).unwrap();
        assert!(paths.dial(7).is_ok() && paths.dial(8).is_err());
        drop(paths);
        let left: Vec<_> = fs::read_dir(&new).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "the server's own socket: {left:?}");
    }
}
