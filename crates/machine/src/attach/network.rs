//! The network device, and what is behind it: passt or a tap.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use devices::virtio::net::{MacAddress, Net, NetPort};
use devices::virtio::{DeviceMetrics, VirtioDevice, VirtioKind};
use host::tap::Tap;

use super::{AttachError, Attachment, slot};
use crate::attach::counters::DeviceCounters;
use crate::attach::passt::{Passt, WhenGone};
use crate::plan::{NetBackend, NetPlan, UserNetwork};

/// What the device is called in messages and metrics.
const NAME: &str = "net0";

/// Holds the port, which every life's device is plugged into.
pub(super) struct NetworkAttachment {
    mac: MacAddress,
    port: NetPort,
    metrics: Arc<DeviceMetrics>,
}

/// What is at the other end of the cable.
#[derive(Debug)]
pub(crate) enum Wire {
    /// A socket to passt.
    Stream(UnixStream),
    /// A tap.
    Tap(Tap),
}

/// How a user-mode network is started: first, and again when it has ended.
#[derive(Clone)]
pub struct NetworkStarter {
    network: UserNetwork,
    mac: MacAddress,
    when_gone: WhenGone,
}

impl fmt::Debug for NetworkStarter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkStarter")
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}

/// A user-mode network that runs until this is dropped.
#[derive(Debug)]
pub struct RunningNetwork {
    _passt: Passt,
}

impl NetworkStarter {
    fn new(network: &UserNetwork, mac: MacAddress, when_gone: &WhenGone) -> NetworkStarter {
        let mut network = network.clone();
        // However it is called in the folder of now.
        if let Ok(path) = std::path::absolute(&network.passt) {
            network.passt = path;
        }
        NetworkStarter {
            network,
            mac,
            when_gone: Arc::clone(when_gone),
        }
    }

    /// Starts it, and waits until it is ready; with the socket of the guest's side.
    ///
    /// # Errors
    /// If it does not start, or is not ready in time.
    pub fn start(&self) -> Result<(RunningNetwork, UnixStream), AttachError> {
        let (passt, socket) = Passt::start(&self.network, self.mac, &self.when_gone)
            .map_err(AttachError::of_network)?;
        Ok((RunningNetwork { _passt: passt }, socket))
    }
}

/// What stays with the process that has opened a wire.
pub(crate) type Behind = Option<(NetworkStarter, RunningNetwork)>;

impl Wire {
    /// Starts passt, which runs until it is dropped, or attaches to the tap; nothing for a network between VMs, to which whoever
    /// starts the VM brings a socket ([`crate::Descriptors::plug_in`]).
    pub(crate) fn open(
        plan: &NetPlan,
        when_gone: &WhenGone,
    ) -> Result<Option<(Wire, Behind)>, AttachError> {
        match &plan.backend {
            NetBackend::User(network) => {
                let starter = NetworkStarter::new(network, plan.mac, when_gone);
                let (running, socket) = starter.start()?;
                Ok(Some((Wire::Stream(socket), Some((starter, running)))))
            }
            NetBackend::Tap(name) => {
                let tap = Tap::open(name).map_err(|source| {
                    AttachError::of_network(TapError {
                        name: name.clone(),
                        source,
                    })
                })?;
                Ok(Some((Wire::Tap(tap), None)))
            }
            NetBackend::Named(_) => Ok(None),
        }
    }
}

impl NetworkAttachment {
    /// Plugs the wire in.
    pub(super) fn new(plan: &NetPlan, wire: Wire) -> Result<NetworkAttachment, AttachError> {
        let port = match wire {
            Wire::Stream(socket) => NetPort::stream(socket),
            Wire::Tap(tap) => NetPort::tap(tap),
        };
        Ok(NetworkAttachment {
            mac: plan.mac,
            port: port.map_err(AttachError::of_network)?,
            metrics: Arc::default(),
        })
    }
}

/// A tap that does not let us in.
#[derive(Debug, thiserror::Error)]
#[error("cannot attach to the tap {name}: its owner decides who may, and one VM at a time")]
struct TapError {
    name: String,
    source: std::io::Error,
}

impl Attachment for NetworkAttachment {
    fn slot(&self) -> u8 {
        slot::NETWORK
    }

    fn port(&self) -> Option<NetPort> {
        Some(self.port.clone())
    }

    fn device(&mut self) -> Result<Box<dyn VirtioDevice>, AttachError> {
        Ok(Box::new(Net::new(
            NAME,
            self.mac,
            self.port.clone(),
            Arc::clone(&self.metrics),
        )))
    }

    fn counters(&self) -> DeviceCounters {
        DeviceCounters {
            name: NAME.to_owned(),
            kind: VirtioKind::Net,
            metrics: Arc::clone(&self.metrics),
            balloon: None,
        }
    }
}
