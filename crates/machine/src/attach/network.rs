//! The network device, and what is behind it: passt or a tap.

use std::sync::Arc;

use devices::virtio::net::{MacAddress, Net, NetPort};
use devices::virtio::{DeviceMetrics, VirtioDevice, VirtioKind};
use host::tap::Tap;

use super::{AttachError, Attachment, slot};
use crate::attach::counters::DeviceCounters;
use crate::attach::passt::Passt;
use crate::plan::{NetBackend, NetPlan};

/// What the device is called in messages and metrics.
const NAME: &str = "net0";

/// Holds the port, which every life's device is plugged into.
pub(super) struct NetworkAttachment {
    mac: MacAddress,
    port: NetPort,
    metrics: Arc<DeviceMetrics>,
    /// Runs until this is dropped.
    _passt: Option<Passt>,
}

impl NetworkAttachment {
    /// Starts passt or attaches to the tap.
    pub(super) fn open(plan: &NetPlan) -> Result<NetworkAttachment, AttachError> {
        let (port, passt) = match &plan.backend {
            NetBackend::User(network) => {
                let (passt, socket) = Passt::start(network, plan.mac).map_err(failed)?;
                (NetPort::stream(socket).map_err(failed)?, Some(passt))
            }
            NetBackend::Tap(name) => {
                let tap = Tap::open(name).map_err(|source| {
                    failed(TapError {
                        name: name.clone(),
                        source,
                    })
                })?;
                (NetPort::tap(tap).map_err(failed)?, None)
            }
        };
        Ok(NetworkAttachment {
            mac: plan.mac,
            port,
            metrics: Arc::default(),
            _passt: passt,
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

fn failed(source: impl std::error::Error + Send + Sync + 'static) -> AttachError {
    AttachError {
        device: "the network".to_owned(),
        source: Box::new(source),
    }
}

impl Attachment for NetworkAttachment {
    fn slot(&self) -> u8 {
        slot::NETWORK
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
