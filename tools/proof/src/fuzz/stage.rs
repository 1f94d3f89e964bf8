//! A virtio device on its function, with its driver's memory and workers that run in place, when a step says so: the same input
//! does the same every time.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use devices::pci::PciFunction;
use devices::virtio::{
    Broken, DeviceMetrics, Doorbell, Links, RunningWorkers, SendMsi, StartWorkers, VirtioDevice,
    VirtioFunction, Wake, Worker, WorkerState,
};
use host::lock::Lock;
use mem::GuestMemory;
use x86::Gpa;

use super::script::{Step, steps};

const MEMORY_BYTES: u64 = 0x4_0000;
/// Where the rings of a queue are, and how far apart: descriptors, available, used, a page each.
const RINGS: u64 = 0x1000;
const RING_STEP: u64 = 0x3000;

/// Registers by their offsets in the function's window (4.1.4.3), and of MSI-X in configuration space.
mod register {
    pub(super) const FEATURE_SELECT: u64 = 0x00;
    pub(super) const FEATURE: u64 = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub(super) const DRIVER_FEATURE: u64 = 0x0c;
    pub(super) const STATUS: u64 = 0x14;
    pub(super) const QUEUE_SELECT: u64 = 0x16;
    pub(super) const QUEUE_ENABLE: u64 = 0x1c;
    pub(super) const RINGS: [u64; 3] = [0x20, 0x28, 0x30];
    pub(super) const NOTIFY: u64 = 0x3000;
    pub(super) const WINDOW_BYTES: u64 = 0x8000;
    pub(super) const MSIX_CONTROL: u16 = 0x42;
}

/// Kinds of steps.
pub(super) mod kind {
    /// A whole set-up as drivers do it, without the features in `value`; `small` is MSI-X's control.
    pub(in super::super) const SET_UP: u8 = 0;
    /// `value` into the window at `place`.
    pub(in super::super) const WRITE: u8 = 1;
    pub(in super::super) const READ: u8 = 2;
    /// `value` into configuration space at `small`.
    pub(in super::super) const WRITE_CONFIG: u8 = 3;
    pub(in super::super) const READ_CONFIG: u8 = 4;
    /// `value` into memory at `place`.
    pub(in super::super) const PUT: u8 = 5;
    /// Queue `small` has something; the workers serve it.
    pub(in super::super) const NOTIFY: u8 = 6;
    /// The workers look at what came from outside, and at their clocks.
    pub(in super::super) const TICK: u8 = 7;
    /// Something happens on the other side of the device.
    pub(in super::super) const OUTSIDE: u8 = 8;
    /// How many there are.
    pub(in super::super) const COUNT: u8 = 9;
}

/// Takes interrupts.
struct Nobody;

impl SendMsi for Nobody {
    fn send_msi(&self, _address: u64, _data: u32) {}

    fn pin_changed(&self) {}
}

type OnBroken = Box<dyn Fn(&Broken) + Send + Sync>;

/// Workers of one activation.
struct Team {
    workers: Vec<Box<dyn Worker>>,
    notified: Vec<u16>,
    is_stopping: bool,
    on_broken: OnBroken,
}

impl Team {
    fn serve(&mut self, tick: bool) {
        if self.is_stopping {
            self.workers.clear();
            return;
        }
        let mut wakes: Vec<Wake> = self.notified.drain(..).map(Wake::Notified).collect();
        if tick {
            wakes.push(Wake::Start);
        }
        for wake in wakes {
            self.wake(|worker| match wake {
                Wake::Notified(queue) if !worker.queues().contains(&queue) => Vec::new(),
                _ => vec![wake],
            });
        }
        if tick {
            self.wake(|worker| {
                let readable = (0..worker.sources().len()).map(Wake::Readable);
                let writable = (0..worker.sinks().len()).map(Wake::Writable);
                let is_due = worker.deadline().is_some_and(|at| at <= Instant::now());
                let due = is_due.then_some(Wake::Deadline);
                readable.chain(writable).chain(due).collect()
            });
        }
    }

    /// Has each worker serve what `wakes` says for it; one that says that its queue is broken has ended.
    fn wake(&mut self, wakes: impl Fn(&dyn Worker) -> Vec<Wake>) {
        let mut broken = Vec::new();
        self.workers.retain_mut(|worker| {
            let mut wakes = wakes(worker.as_ref()).into_iter();
            let result = wakes.try_for_each(|wake| worker.serve(wake));
            broken.extend(result.clone().err());
            result.is_ok()
        });
        broken.iter().for_each(&self.on_broken);
    }
}

/// Keeps workers until a step has them serve.
#[derive(Default)]
struct InPlace(Lock<Vec<Arc<Lock<Team>>>>);

struct Running(Arc<Lock<Team>>);

impl StartWorkers for InPlace {
    fn start(
        &self,
        _name: &str,
        workers: Vec<Box<dyn Worker>>,
        _metrics: &Arc<DeviceMetrics>,
        on_broken: OnBroken,
    ) -> Box<dyn RunningWorkers> {
        let team = Arc::new(Lock::new(Team {
            workers,
            notified: Vec::new(),
            is_stopping: false,
            on_broken,
        }));
        self.0.lock().push(Arc::clone(&team));
        Box::new(Running(team))
    }
}

impl Doorbell for Running {
    fn notify(&self, queue: u16) {
        let mut team = self.0.lock();
        if !team.notified.contains(&queue) {
            team.notified.push(queue);
        }
    }
}

impl RunningWorkers for Running {
    fn stop(&mut self) {
        self.0.lock().is_stopping = true;
    }

    fn have_stopped(&self) -> bool {
        self.0.lock().workers.is_empty()
    }

    fn take_broken(&mut self) -> Option<Broken> {
        None
    }

    fn save(&self) -> Vec<WorkerState> {
        let team = self.0.lock();
        team.workers.iter().map(|worker| worker.save()).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut team = self.0.lock();
        team.is_stopping = true;
        team.workers.clear();
    }
}

/// Plays the other side of a device.
pub(super) type Outside = Box<dyn FnMut(Step)>;

/// A device, its driver's memory, and its other side.
pub(super) struct Stage {
    memory: Arc<GuestMemory>,
    function: VirtioFunction,
    queue_count: u64,
    threads: Arc<InPlace>,
    outside: Outside,
}

impl Stage {
    pub(super) fn new(device: Box<dyn VirtioDevice>, outside: Outside) -> Result<Stage> {
        let memory = Arc::new(GuestMemory::flat(MEMORY_BYTES)?);
        let threads = Arc::<InPlace>::default();
        let queue_count = device.queue_sizes().len() as u64;
        let links = Links {
            memory: Arc::clone(&memory),
            interrupts: Arc::new(Nobody),
            threads: Arc::<InPlace>::clone(&threads),
        };
        Ok(Stage {
            memory,
            function: VirtioFunction::new(1, device, links),
            queue_count,
            threads,
            outside,
        })
    }

    pub(super) fn act(&mut self, step: Step) {
        match step.kind % kind::COUNT {
            kind::SET_UP => self.set_up(step),
            kind::WRITE => {
                let at = u64::from(step.place) % (register::WINDOW_BYTES - 8);
                self.write(at, step.width(), step.value);
            }
            kind::READ => {
                let at = u64::from(step.place) % (register::WINDOW_BYTES - 8);
                self.function.read_memory(at, step.width());
            }
            kind::WRITE_CONFIG => {
                let width = step.width().min(4);
                let at = step.small % 4096 / u16::from(width) * u16::from(width);
                self.function.write_config(at, width, step.value as u32);
            }
            kind::READ_CONFIG => {
                self.function.read_config(step.small % 1024 * 4, 4);
            }
            kind::PUT => {
                let bytes = step.value.to_le_bytes();
                let count = usize::from(step.width());
                // Outside of memory there is nothing to write to.
                let _ = self.memory.write(Gpa(step.place.into()), &bytes[..count]);
            }
            kind::NOTIFY => {
                let queue = u64::from(step.small) % (self.queue_count + 1);
                self.write(register::NOTIFY + 4 * queue, 2, queue);
                self.serve(false);
            }
            kind::TICK => self.serve(true),
            _ => (self.outside)(step),
        }
    }

    fn write(&mut self, at: u64, width: u8, value: u64) {
        self.function.write_memory(at, width, value);
    }

    pub(super) fn serve(&mut self, tick: bool) {
        let mut teams = self.threads.0.lock();
        teams.retain(|team| {
            let mut team = team.lock();
            team.serve(tick);
            !team.workers.is_empty()
        });
    }

    /// What a driver does up to `DRIVER_OK` (3.1.1).
    fn set_up(&mut self, step: Step) {
        self.write(register::STATUS, 1, 0);
        self.serve(false);
        let control = u32::from(step.small) & 0xc000;
        self.function
            .write_config(register::MSIX_CONTROL, 2, control);
        self.write(register::STATUS, 1, 1);
        self.write(register::STATUS, 1, 3);
        for half in 0..2 {
            self.write(register::FEATURE_SELECT, 4, half);
            let offered = self.function.read_memory(register::FEATURE, 4);
            self.write(register::DRIVER_FEATURE_SELECT, 4, half);
            let refused = step.value & !(1 << 32);
            let wanted = offered & !(refused >> (32 * half));
            self.write(register::DRIVER_FEATURE, 4, wanted);
        }
        self.write(register::STATUS, 1, 0xb);
        for queue in 0..self.queue_count {
            self.write(register::QUEUE_SELECT, 2, queue);
            for (place, at) in register::RINGS.into_iter().zip(rings(queue)) {
                self.write(place, 8, at);
            }
            self.write(register::QUEUE_ENABLE, 2, 1);
        }
        self.write(register::STATUS, 1, 0xf);
        self.serve(false);
    }
}

/// Where a driver has the rings of a queue.
pub(super) fn rings(queue: u64) -> [u64; 3] {
    [0, 1, 2].map(|page| RINGS + RING_STEP * queue + 0x1000 * page)
}

/// Does all steps; whether the device came to a request.
pub(super) fn play(device: Box<dyn VirtioDevice>, outside: Outside, input: &[u8]) -> bool {
    let metrics = device.metrics();
    // A host without memory for a guest is no fault of the input's.
    let Ok(mut stage) = Stage::new(device, outside) else {
        return false;
    };
    steps(input).for_each(|step| stage.act(step));
    let reading = metrics.read();
    reading.requests + reading.bytes_to_guest + reading.bytes_from_guest > 0
}
