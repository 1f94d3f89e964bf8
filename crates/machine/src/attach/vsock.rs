//! The socket device and the Unix socket behind it.

use std::fs;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use devices::virtio::vsock::Vsock;
use devices::virtio::{DeviceMetrics, VirtioDevice, VirtioKind};

use super::{AttachError, Attachment, slot};
use crate::attach::broker::{Broker, Dialer};
use crate::attach::claims::{ClaimListener, Claims};
use crate::attach::counters::DeviceCounters;

/// What the device is called in messages and metrics.
const NAME: &str = "vsock0";

/// The guest's context id: the first that is a guest's (5.10.4). Sockets are told apart by their paths.
const GUEST_CID: u64 = 3;

/// Holds the listener; its path is gone when the VM is.
pub(super) struct VsockAttachment {
    path: PathBuf,
    dial: Arc<Dialer>,
    listener: UnixListener,
    /// Hears what the guest claims of itself; none if somebody else listens there.
    _claims: Option<ClaimListener>,
    metrics: Arc<DeviceMetrics>,
}

impl VsockAttachment {
    /// Listens at `path`. What an earlier VM left there, and nobody listens at, is replaced.
    pub(super) fn open(
        path: &Path,
        claims: &Claims,
        broker: &Arc<dyn Broker>,
    ) -> Result<VsockAttachment, AttachError> {
        if fs::symlink_metadata(path).is_ok() {
            fs::remove_file(path).map_err(failed)?;
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let claims = ClaimListener::open(path, claims).map_err(failed)?;
        Ok(VsockAttachment {
            path: path.to_owned(),
            dial: Arc::new(Dialer(Arc::clone(broker))),
            listener,
            _claims: claims,
            metrics: Arc::default(),
        })
    }
}

impl Drop for VsockAttachment {
    fn drop(&mut self) {
        // Somebody may have removed it, which is as good.
        let _ = fs::remove_file(&self.path);
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
        let listener = self.listener.try_clone().map_err(failed)?;
        let dial = Arc::<Dialer>::clone(&self.dial);
        let metrics = Arc::clone(&self.metrics);
        let device = Vsock::new(NAME, GUEST_CID, dial, listener, metrics);
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
