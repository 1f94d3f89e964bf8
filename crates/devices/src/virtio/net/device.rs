//! The front: features, configuration space, and who serves the queues.

use std::sync::Arc;

use host::tap::Offloads;

use super::control::SharedMac;
use super::port::{NetPort, PortKind};
use super::receive::Receiver;
use super::transmit::Transmitter;
use crate::saved::{Unfit, ensure};
use crate::virtio::device::read_part;
use crate::virtio::mac::MacAddress;
use crate::virtio::{DeviceMetrics, FrontState, Setup, VirtioDevice, VirtioKind, Worker};

/// Feature bits (5.1.3).
mod feature {
    pub(super) const CSUM: u64 = 1 << 0;
    pub(super) const GUEST_CSUM: u64 = 1 << 1;
    pub(super) const MTU: u64 = 1 << 3;
    pub(super) const MAC: u64 = 1 << 5;
    pub(super) const GUEST_TSO4: u64 = 1 << 7;
    pub(super) const GUEST_TSO6: u64 = 1 << 8;
    pub(super) const GUEST_ECN: u64 = 1 << 9;
    pub(super) const HOST_TSO4: u64 = 1 << 11;
    pub(super) const HOST_TSO6: u64 = 1 << 12;
    pub(super) const HOST_ECN: u64 = 1 << 13;
    pub(super) const MRG_RXBUF: u64 = 1 << 15;
    pub(super) const STATUS: u64 = 1 << 16;
    pub(super) const CTRL_VQ: u64 = 1 << 17;
    pub(super) const CTRL_RX: u64 = 1 << 18;
    pub(super) const CTRL_MAC_ADDR: u64 = 1 << 23;
    pub(super) const SPEED_DUPLEX: u64 = 1 << 63;
}

/// Queues without `VIRTIO_NET_F_MQ` (5.1.2).
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const CONTROL: u16 = 2;
const QUEUE_SIZES: [u16; 3] = [256, 256, 64];

/// `VIRTIO_NET_S_LINK_UP` (5.1.4).
const LINK_UP: u16 = 1;
/// What the link claims, in megabits per second; nothing is measured by it.
const SPEED_MBITS: u32 = 10_000;
/// `duplex`: full.
const FULL_DUPLEX: u8 = 1;

/// The MTU behind a stream socket: the largest IP packet, rounded down to a multiple of 16 as passt has it.
const STREAM_MTU: u16 = 65_520;

/// A network device.
#[derive(Debug)]
pub struct Net {
    name: String,
    port: NetPort,
    first_mac: MacAddress,
    mac: SharedMac,
    metrics: Arc<DeviceMetrics>,
}

impl Net {
    /// A device called `name`, plugged into `port`, that counts into `metrics`.
    pub fn new(
        name: impl Into<String>,
        mac: MacAddress,
        port: NetPort,
        metrics: Arc<DeviceMetrics>,
    ) -> Net {
        Net {
            name: name.into(),
            port,
            first_mac: mac,
            mac: SharedMac::new(mac),
            metrics,
        }
    }

    /// The configuration space (5.1.4).
    fn config(&self) -> [u8; 17] {
        let mut config = [0; 17];
        config[0..6].copy_from_slice(&self.mac.get().0);
        let status = if self.port.is_up() { LINK_UP } else { 0 };
        config[6..8].copy_from_slice(&status.to_le_bytes());
        config[8..10].copy_from_slice(&1_u16.to_le_bytes());
        config[10..12].copy_from_slice(&STREAM_MTU.to_le_bytes());
        config[12..16].copy_from_slice(&SPEED_MBITS.to_le_bytes());
        config[16] = FULL_DUPLEX;
        config
    }
}

impl VirtioDevice for Net {
    fn kind(&self) -> VirtioKind {
        VirtioKind::Net
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        let all = feature::CSUM
            | feature::GUEST_CSUM
            | feature::MAC
            | feature::MRG_RXBUF
            | feature::STATUS
            | feature::CTRL_VQ
            | feature::CTRL_RX
            | feature::CTRL_MAC_ADDR
            | feature::SPEED_DUPLEX;
        all | match self.port.kind() {
            PortKind::Unplugged => 0,
            PortKind::Stream => feature::MTU,
            PortKind::Tap => {
                feature::HOST_TSO4
                    | feature::HOST_TSO6
                    | feature::HOST_ECN
                    | feature::GUEST_TSO4
                    | feature::GUEST_TSO6
                    | feature::GUEST_ECN
            }
        }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        QUEUE_SIZES.to_vec()
    }

    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        read_part(&self.config(), offset, bytes);
    }

    /// All of it is read-only (5.1.4.1): addresses are set through the control queue.
    fn write_config(&mut self, _offset: u64, _bytes: &[u8]) {}

    fn activate(&mut self, setup: Setup) -> Vec<Box<dyn Worker>> {
        let Setup {
            memory,
            features,
            queues,
            config_changed,
        } = setup;
        let has = |bit| features & bit != 0;
        self.port.listen(Some(config_changed));
        self.port.set_offloads(Offloads {
            checksum: has(feature::GUEST_CSUM),
            tso4: has(feature::GUEST_TSO4),
            tso6: has(feature::GUEST_TSO6),
            ecn: has(feature::GUEST_ECN),
        });
        let mut transmit = None;
        let mut control = None;
        let mut workers: Vec<Box<dyn Worker>> = Vec::new();
        for queue in queues {
            match queue.index {
                RECEIVE => {
                    let metrics = Arc::clone(&self.metrics);
                    let port = self.port.clone();
                    let memory = Arc::clone(&memory);
                    let merges = has(feature::MRG_RXBUF);
                    workers.push(Box::new(Receiver::new(
                        port, memory, queue, merges, metrics,
                    )));
                }
                TRANSMIT => transmit = Some(queue),
                CONTROL => control = Some(queue),
                _ => {}
            }
        }
        if transmit.is_some() || control.is_some() {
            let mac = self.mac.clone();
            let metrics = Arc::clone(&self.metrics);
            let worker =
                Transmitter::new(self.port.clone(), memory, transmit, control, mac, metrics);
            workers.push(Box::new(worker));
        }
        workers
    }

    fn reset(&mut self) {
        self.port.listen(None);
        self.mac.set(self.first_mac);
    }

    fn save(&self) -> FrontState {
        FrontState::Net {
            mac: self.mac.get(),
        }
    }

    fn restore(&mut self, state: FrontState) -> Result<(), Unfit> {
        let FrontState::Net { mac } = state else {
            return ensure(false, "network card", "it is another device's");
        };
        self.mac.set(mac);
        Ok(())
    }

    fn metrics(&self) -> Arc<DeviceMetrics> {
        Arc::clone(&self.metrics)
    }
}
