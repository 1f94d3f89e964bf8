//! What a guest may use of its host per second, over all its lives, and while it runs.

use std::sync::Arc;

use api::{ByteRate, CountRate, CpuLimit, Rates};
use devices::rate::RateLimiter;
use devices::virtio::{DeviceMetrics, DeviceRates, VirtioKind};

use host::lock::Lock;

use crate::threads::engine_limit::EngineLimit;
use crate::threads::host_limit::HostLimit;
use crate::threads::quota::Quota;

/// See the module. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) cpu: Arc<Quota>,
    disks: Arc<RateLimiter>,
    sent: Arc<RateLimiter>,
    received: Arc<RateLimiter>,
    /// Of everything that comes from a console.
    pub(crate) consoles: Arc<RateLimiter>,
    /// Of what the engine holds.
    pub(crate) engine: Arc<EngineLimit>,
    /// Of what the VM costs in all.
    pub(crate) host: Arc<HostLimit>,
    /// What was said of all that.
    said: Arc<Lock<Rates>>,
}

impl Limits {
    /// These, and nothing else is limited.
    pub(crate) fn new(rates: &Rates) -> Limits {
        let limits = Limits::default();
        limits.set(rates);
        limits
    }

    /// Others from now on; what is not said stays.
    pub(crate) fn set(&self, rates: &Rates) {
        let bytes = |rate: Option<ByteRate>| rate.map(ByteRate::bytes);
        let count = |rate: Option<CountRate>| rate.map(CountRate::count);
        if let Some(cpu) = rates.cpu_limit.map(CpuLimit::percent) {
            self.cpu.set(cpu);
        }
        if rates.disk_rate.is_some() || rates.disk_ops.is_some() {
            self.disks
                .set(bytes(rates.disk_rate), count(rates.disk_ops));
        }
        if rates.net_rate.is_some() || rates.net_packets.is_some() {
            for way in [&self.sent, &self.received] {
                way.set(bytes(rates.net_rate), count(rates.net_packets));
            }
        }
        if rates.console_rate.is_some() {
            self.consoles.set(bytes(rates.console_rate), None);
        }
        note(&mut self.said.lock(), rates);
    }

    /// All that was said.
    pub(crate) fn said(&self) -> Rates {
        *self.said.lock()
    }

    /// Bounds a device, before the guest runs.
    pub(crate) fn bound(&self, kind: VirtioKind, metrics: &DeviceMetrics) {
        let (from_guest, to_guest) = match kind {
            VirtioKind::Block => (&self.disks, &self.disks),
            VirtioKind::Net => (&self.sent, &self.received),
            VirtioKind::Console => (&self.consoles, &Arc::default()),
            _ => return,
        };
        metrics.bound_by(DeviceRates {
            from_guest: Arc::clone(from_guest),
            to_guest: Arc::clone(to_guest),
        });
    }
}

/// Adds what is said now to what was `said`: of disks and of the network both limits hold from now on, also one that is not said.
fn note(said: &mut Rates, now: &Rates) {
    said.cpu_limit = now.cpu_limit.or(said.cpu_limit);
    said.cpu_weight = now.cpu_weight.or(said.cpu_weight);
    if now.disk_rate.is_some() || now.disk_ops.is_some() {
        said.disk_rate = now.disk_rate;
        said.disk_ops = now.disk_ops;
    }
    if now.net_rate.is_some() || now.net_packets.is_some() {
        said.net_rate = now.net_rate;
        said.net_packets = now.net_packets;
    }
    said.console_rate = now.console_rate.or(said.console_rate);
}
