//! The life of a virtio device between its registers and its workers: negotiation, set-up, running, reset.
//!
//! ```text
//! reset ──> ACKNOWLEDGE ──> DRIVER ──> FEATURES_OK ──queues──> DRIVER_OK ──> workers run
//!   ^                                                                         │    │ Broken
//!   └── status reads 0 <── workers have ended <── driver writes 0 <───────────┴────┘ NEEDS_RESET
//! ```
//!
//! Every write is checked against the status (2.1, 3.1.1, 4.1.4.3.2). What a driver may not do changes nothing and
//! is counted.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::saved::{Unfit, ensure};
use crate::virtio::device::{Setup, VirtioDevice};
use crate::virtio::metrics::DeviceMetrics;
use crate::virtio::msix::{NO_VECTOR, Vectors};
use crate::virtio::registers::{self as register, Registers, feature_half};
use crate::virtio::shared::{Cause, Links, Shared, count};
use crate::virtio::state::{TransportState, WorkerState};
use crate::virtio::virtqueue::Virtqueue;
use crate::virtio::worker::{RunningWorkers, Worker};

/// Features of rings and transport (6).
const RING_INDIRECT_DESC: u64 = 1 << 28;
const RING_EVENT_IDX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;

/// One device and the state of its driver's conversation with it.
pub(super) struct Transport {
    device: Box<dyn VirtioDevice>,
    links: Links,
    pub(super) shared: Arc<Shared>,
    metrics: Arc<DeviceMetrics>,
    registers: Registers,
    sizes: Vec<u16>,
    workers: Option<Box<dyn RunningWorkers>>,
    /// The driver wrote 0 and workers have not ended yet.
    is_resetting: bool,
}

impl Transport {
    pub(super) fn new(device: Box<dyn VirtioDevice>, links: Links) -> Transport {
        let sizes = device.queue_sizes();
        let shared = Shared::new(
            device.metrics(),
            sizes.len() as u16,
            Arc::clone(&links.interrupts),
        );
        let metrics = device.metrics();
        let registers = Registers::new(&sizes);
        Transport {
            device,
            links,
            shared,
            metrics,
            registers,
            sizes,
            workers: None,
            is_resetting: false,
        }
    }

    fn features(&self) -> u64 {
        self.device.features() | RING_INDIRECT_DESC | RING_EVENT_IDX | VERSION_1
    }

    /// Reads the common configuration: any bytes of it.
    pub(super) fn read_common(&mut self, offset: u64, size: u8) -> u64 {
        let bytes = self.common_bytes();
        let byte = |n: u64| bytes.get((offset + n) as usize).copied().unwrap_or(0);
        (0..u64::from(size)).fold(0, |value, n| value | u64::from(byte(n)) << (8 * n))
    }

    fn common_bytes(&mut self) -> [u8; register::LEN] {
        let status = self.status();
        let registers = &self.registers;
        let mut bytes = [0; register::LEN];
        let mut put = |at: u64, value: &[u8]| {
            bytes[at as usize..at as usize + value.len()].copy_from_slice(value);
        };
        let offered = feature_half(self.features(), registers.device_feature_select);
        let accepted = feature_half(registers.driver_features, registers.driver_feature_select);
        put(
            register::DEVICE_FEATURE_SELECT,
            &registers.device_feature_select.to_le_bytes(),
        );
        put(register::DEVICE_FEATURE, &offered.to_le_bytes());
        put(
            register::DRIVER_FEATURE_SELECT,
            &registers.driver_feature_select.to_le_bytes(),
        );
        put(register::DRIVER_FEATURE, &accepted.to_le_bytes());
        put(
            register::QUEUE_COUNT,
            &(self.sizes.len() as u16).to_le_bytes(),
        );
        put(register::STATUS, &[status]);
        put(register::GENERATION, &[self.shared.generation()]);
        put(
            register::QUEUE_SELECT,
            &registers.queue_select.to_le_bytes(),
        );
        let vectors = self.shared.vectors();
        put(register::CONFIG_VECTOR, &vectors.config.to_le_bytes());
        // A queue that is not there has size 0 (4.1.4.3.1).
        if let Some(queue) = registers.selected() {
            let vector = vectors.queues[usize::from(registers.queue_select)];
            put(register::QUEUE_VECTOR, &vector.to_le_bytes());
            put(register::QUEUE_SIZE, &queue.size.to_le_bytes());
            put(
                register::QUEUE_ENABLE,
                &u16::from(queue.is_enabled).to_le_bytes(),
            );
            put(
                register::QUEUE_NOTIFY_OFFSET,
                &registers.queue_select.to_le_bytes(),
            );
            put(
                register::QUEUE_DESCRIPTORS,
                &queue.descriptors.to_le_bytes(),
            );
            put(register::QUEUE_AVAILABLE, &queue.available.to_le_bytes());
            put(register::QUEUE_USED, &queue.used.to_le_bytes());
        } else {
            put(register::QUEUE_VECTOR, &NO_VECTOR.to_le_bytes());
        }
        bytes
    }

    /// The status, which becomes 0 once the workers have ended.
    fn status(&mut self) -> u8 {
        if self.is_resetting
            && self
                .workers
                .as_ref()
                .is_none_or(|workers| workers.have_stopped())
        {
            self.finish_reset();
        }
        let needs_reset = if self.shared.is_broken() {
            register::NEEDS_RESET
        } else {
            0
        };
        self.registers.status | needs_reset
    }

    /// Writes the common configuration: a register in its own width (4.1.3.1), a 64-bit one also in halves.
    pub(super) fn write_common(&mut self, offset: u64, size: u8, value: u64) {
        if self.is_resetting && self.status() != 0 {
            return self
                .shared
                .violation("wrote to a register before the reset was over");
        }
        let word = value as u32;
        let half = value as u16;
        match (offset, size) {
            (register::DEVICE_FEATURE_SELECT, 4) => self.registers.device_feature_select = word,
            (register::DRIVER_FEATURE_SELECT, 4) => self.registers.driver_feature_select = word,
            (register::DRIVER_FEATURE, 4) => self.write_driver_feature(word),
            (register::CONFIG_VECTOR, 2) => {
                let mut vectors = self.shared.vectors();
                vectors.config = if vectors.msix.has_vector(half) {
                    half
                } else {
                    NO_VECTOR
                };
            }
            (register::STATUS, 1) => self.write_status(value as u8),
            (register::QUEUE_SELECT, 2) => self.registers.queue_select = half,
            (register::QUEUE_VECTOR, 2) => self.write_queue_vector(half),
            (register::QUEUE_SIZE, 2) => self.write_queue_size(half),
            (register::QUEUE_ENABLE, 2) => self.write_queue_enable(half),
            (register::QUEUE_DESCRIPTORS..=0x37, 4 | 8)
                if offset.is_multiple_of(u64::from(size)) =>
            {
                self.write_queue_address(offset, size, value);
            }
            _ => self
                .shared
                .violation("wrote to what is not a register, or in another width"),
        }
    }

    fn write_driver_feature(&mut self, value: u32) {
        let registers = &mut self.registers;
        if registers.status & (register::DRIVER | register::FEATURES_OK) != register::DRIVER {
            return self
                .shared
                .violation("wrote features outside of their negotiation");
        }
        let value = u64::from(value);
        match registers.driver_feature_select {
            0 => registers.driver_features = registers.driver_features & !0xffff_ffff | value,
            1 => registers.driver_features = registers.driver_features & 0xffff_ffff | value << 32,
            _ if value == 0 => {}
            _ => self
                .shared
                .violation("accepted features that no device has"),
        }
    }

    fn write_queue_vector(&mut self, vector: u16) {
        let mut vectors = self.shared.vectors();
        let known = if vectors.msix.has_vector(vector) {
            vector
        } else {
            NO_VECTOR
        };
        if let Some(place) = vectors
            .queues
            .get_mut(usize::from(self.registers.queue_select))
        {
            *place = known;
        }
    }

    /// The selected queue, if the driver may change it now.
    fn queue_in_set_up(&mut self) -> Option<&mut register::QueueRegisters> {
        let may = self.registers.may_set_up();
        self.registers
            .selected_mut()
            .filter(|queue| may && !queue.is_enabled)
    }

    fn write_queue_size(&mut self, size: u16) {
        match self.queue_in_set_up() {
            Some(queue) if size.is_power_of_two() && size <= queue.size_max => queue.size = size,
            Some(_) => self
                .shared
                .violation("gave a queue a size that it cannot have"),
            None => self
                .shared
                .violation("changed a queue's size outside of its set-up"),
        }
    }

    fn write_queue_address(&mut self, offset: u64, size: u8, value: u64) {
        let Some(address) = self
            .queue_in_set_up()
            .and_then(|queue| queue.address(offset))
        else {
            return self.shared.violation("moved a queue outside of its set-up");
        };
        *address = match (size, offset & 4) {
            (8, _) => value,
            (_, 0) => *address & !0xffff_ffff | value & 0xffff_ffff,
            _ => *address & 0xffff_ffff | value << 32,
        };
    }

    fn write_queue_enable(&mut self, value: u16) {
        let event_idx = self.registers.driver_features & RING_EVENT_IDX != 0;
        let memory = Arc::clone(&self.links.memory);
        match self.queue_in_set_up() {
            Some(queue) if value == 1 => {
                queue.is_enabled = queue.queue(memory.vm_memory(), event_idx).is_some();
                if !queue.is_enabled {
                    tracing::debug!("driver of {}: rings outside of memory", self.device.name());
                    self.shared.set_broken();
                }
            }
            _ => self
                .shared
                .violation("enabled a queue outside of its set-up, or wrote what is not 1"),
        }
    }

    fn write_status(&mut self, value: u8) {
        if value == 0 {
            return self.reset();
        }
        let old = self.registers.status;
        let new = value & !old;
        if old & !(value | register::NEEDS_RESET) != 0 {
            return self.shared.violation("cleared a bit of the status");
        }
        let order = [
            register::ACKNOWLEDGE,
            register::DRIVER,
            register::FEATURES_OK,
            register::DRIVER_OK,
        ];
        for (n, &bit) in order.iter().enumerate().filter(|(_, bit)| new & **bit != 0) {
            let before = order[..n].iter().fold(0, |bits, bit| bits | bit);
            if self.registers.status & before != before {
                return self
                    .shared
                    .violation("skipped a step of the initialisation");
            }
            match bit {
                register::FEATURES_OK if !self.are_features_right() => {
                    return self
                        .shared
                        .violation("accepted features that were not offered, or not VERSION_1");
                }
                register::DRIVER_OK if self.shared.is_broken() => {}
                register::DRIVER_OK => self.activate(),
                _ => {}
            }
            self.registers.status |= bit;
        }
        self.registers.status |= value & register::FAILED;
    }

    fn are_features_right(&self) -> bool {
        let accepted = self.registers.driver_features;
        accepted & !self.features() == 0 && accepted & VERSION_1 != 0
    }

    /// The driver says that it is ready: workers take its queues.
    fn activate(&mut self) {
        let queues = self.enabled_queues();
        let workers = self.make_workers(queues);
        self.start(workers);
    }

    fn enabled_queues(&self) -> Vec<Virtqueue> {
        let event_idx = self.registers.driver_features & RING_EVENT_IDX != 0;
        let enabled = (0..)
            .zip(&self.registers.queues)
            .filter(|(_, queue)| queue.is_enabled);
        let queue = |(index, registers): (u16, &register::QueueRegisters)| {
            Some(Virtqueue {
                index,
                // Settled when it was enabled.
                queue: registers.queue(self.links.memory.vm_memory(), event_idx)?,
                interrupt: self.shared.interrupt(Cause::Queue(index)),
            })
        };
        enabled.filter_map(queue).collect()
    }

    fn make_workers(&mut self, queues: Vec<Virtqueue>) -> Vec<Box<dyn Worker>> {
        self.device.activate(Setup {
            memory: Arc::clone(&self.links.memory),
            features: self.registers.driver_features,
            queues,
            config_changed: self.shared.interrupt(Cause::Config),
        })
    }

    fn start(&mut self, workers: Vec<Box<dyn Worker>>) {
        let shared = Arc::clone(&self.shared);
        let name = self.device.name().to_owned();
        let on_broken = Box::new(move |broken: &crate::virtio::worker::Broken| {
            tracing::debug!("{name}: {broken}");
            shared.set_broken();
        });
        self.workers = Some(self.links.threads.start(
            self.device.name(),
            workers,
            &self.metrics,
            on_broken,
        ));
    }

    /// What the device is now. While workers have yet to go, it is what it becomes when they have gone.
    pub(super) fn save(&self) -> TransportState {
        let (interrupt_status, generation, vectors) = self.shared.words();
        let is_over = self.is_resetting;
        let empty = Vectors {
            msix: vectors.msix.clone(),
            config: NO_VECTOR,
            queues: vec![NO_VECTOR; vectors.queues.len()],
        };
        let running = self.workers.as_ref().filter(|_| !is_over);
        TransportState {
            registers: if is_over {
                Registers::new(&self.sizes)
            } else {
                self.registers.clone()
            },
            interrupt_status: if is_over { 0 } else { interrupt_status },
            is_broken: self.shared.is_broken() && !is_over,
            generation,
            vectors: if is_over { empty } else { vectors },
            front: self.device.save(),
            workers: running.map_or_else(Vec::new, |workers| workers.save()),
        }
    }

    /// Becomes what `state` says. Its workers start where others stood; they serve when the guest runs.
    pub(super) fn restore(&mut self, state: TransportState) -> Result<(), Unfit> {
        const DEVICE: &str = "virtio device";
        let maxima = state.registers.queues.iter().map(|queue| queue.size_max);
        ensure(
            maxima.eq(self.sizes.iter().copied()),
            DEVICE,
            "other queues",
        )?;
        let are_sizes = state.registers.queues.iter();
        let are_sizes = are_sizes.fold(true, |all, queue| {
            all && queue.size.is_power_of_two() && queue.size <= queue.size_max
        });
        ensure(are_sizes, DEVICE, "a queue of a size that it cannot have")?;
        let accepted = state.registers.driver_features;
        let is_offered = accepted & !self.features() == 0;
        ensure(is_offered, DEVICE, "features that this host does not offer")?;
        self.device.restore(state.front)?;
        let words = (state.interrupt_status, state.generation, state.vectors);
        self.shared.set_words(words, state.is_broken)?;
        self.registers = state.registers;
        if self.registers.status & register::DRIVER_OK != 0 && !state.is_broken {
            self.resume(state.workers)?;
        }
        Ok(())
    }

    fn resume(&mut self, states: Vec<WorkerState>) -> Result<(), Unfit> {
        const DEVICE: &str = "virtio device";
        let mut queues = self.enabled_queues();
        let enabled = self.registers.queues.iter();
        let count = enabled.filter(|queue| queue.is_enabled).count();
        ensure(queues.len() == count, DEVICE, "rings outside of memory")?;
        for position in states.iter().flat_map(|state| &state.queues) {
            let queue = queues
                .iter_mut()
                .find(|queue| queue.index == position.index);
            ensure(
                queue.is_some(),
                DEVICE,
                "a position in a queue that is not enabled",
            )?;
            if let Some(queue) = queue {
                queue.take_up(position);
            }
        }
        let mut workers = self.make_workers(queues);
        ensure(
            workers.len() == states.len(),
            DEVICE,
            "another number of workers",
        )?;
        for (worker, state) in workers.iter_mut().zip(states) {
            worker.restore(state.back)?;
        }
        self.start(workers);
        Ok(())
    }

    /// The driver wants a new device. Workers are told and not waited for, because the board's lock is held here and
    /// a worker may be deep in a file of the host: the driver reads the status until it is 0 (4.1.4.3.2), and the read
    /// that finds them gone ends the reset.
    fn reset(&mut self) {
        self.is_resetting = true;
        if let Some(workers) = &mut self.workers {
            workers.stop();
        }
        self.status();
    }

    fn finish_reset(&mut self) {
        self.is_resetting = false;
        self.workers = None;
        self.device.reset();
        self.shared.reset();
        self.registers = Registers::new(&self.sizes);
    }

    /// The driver notifies a queue.
    pub(super) fn notify(&mut self, index: u64) {
        let index = u16::try_from(index).ok().filter(|index| {
            let queue = self.registers.queues.get(usize::from(*index));
            queue.is_some_and(|queue| queue.is_enabled)
        });
        match (&self.workers, index) {
            (Some(workers), Some(index)) if !self.is_resetting => {
                count(&self.metrics.notifications);
                workers.notify(index);
            }
            _ => self.shared.violation("notified a queue that does not run"),
        }
    }

    /// For each queue that can be notified now, an event that does it without us.
    pub(super) fn events(&self) -> Vec<(u16, Arc<OwnedFd>)> {
        match &self.workers {
            Some(workers) if !self.is_resetting => workers.events(),
            _ => Vec::new(),
        }
    }

    /// Reads the device's own configuration.
    pub(super) fn read_config(&self, offset: u64, size: u8) -> u64 {
        let mut bytes = [0; 8];
        self.device
            .read_config(offset, &mut bytes[..usize::from(size)]);
        u64::from_le_bytes(bytes)
    }

    /// Writes it. Drivers may from the moment they said that they are there.
    pub(super) fn write_config(&mut self, offset: u64, size: u8, value: u64) {
        if self.is_resetting || self.registers.status & register::DRIVER == 0 {
            return self
                .shared
                .violation("wrote configuration before it said that it is a driver");
        }
        self.device
            .write_config(offset, &value.to_le_bytes()[..usize::from(size)]);
    }
}
