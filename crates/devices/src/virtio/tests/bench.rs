//! A test bench for any virtio device: a PCI function, memory, and workers that run in place.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use mem::GuestMemory;
use rustix::event::{EventfdFlags, eventfd};
use x86::Gpa;

use crate::pci::PciFunction;
use crate::virtio::{
    Broken, DeviceMetrics, Doorbell, Links, RunningWorkers, SendMsi, StartWorkers, VirtioDevice,
    VirtioFunction, Wake, Worker, WorkerState,
};

/// Registers of the common configuration, by their offsets in the function's window (4.1.4.3).
pub(super) const FEATURE_SELECT: u64 = 0x00;
pub(super) const FEATURE: u64 = 0x04;
pub(super) const DRIVER_FEATURE_SELECT: u64 = 0x08;
pub(super) const DRIVER_FEATURE: u64 = 0x0c;
pub(super) const CONFIG_VECTOR: u64 = 0x10;
pub(super) const QUEUE_COUNT: u64 = 0x12;
pub(super) const STATUS: u64 = 0x14;
pub(super) const QUEUE_SELECT: u64 = 0x16;
pub(super) const QUEUE_SIZE: u64 = 0x18;
pub(super) const QUEUE_VECTOR: u64 = 0x1a;
pub(super) const QUEUE_ENABLE: u64 = 0x1c;
pub(super) const DESCRIPTORS: u64 = 0x20;
pub(super) const AVAILABLE: u64 = 0x28;
pub(super) const USED: u64 = 0x30;
pub(super) const INTERRUPT_STATUS: u64 = 0x1000;
pub(super) const CONFIG: u64 = 0x2000;
pub(super) const NOTIFY: u64 = 0x3000;
pub(super) const TABLE: u64 = 0x4000;
/// Control register of MSI-X in configuration space.
pub(super) const MSIX_CONTROL: u16 = 0x42;

/// Interrupts as they came.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) messages: Mutex<Vec<(u64, u32)>>,
    pub(super) pins: AtomicBool,
}

impl SendMsi for Heard {
    fn send_msi(&self, address: u64, data: u32) {
        let mut messages = self.messages.lock().unwrap();
        if !messages.contains(&(address, data)) {
            messages.push((address, data));
        }
    }

    fn pin_changed(&self) {
        self.pins.store(true, Ordering::Relaxed);
    }
}

type OnBroken = Box<dyn Fn(&Broken) + Send + Sync>;

/// Workers of one activation.
#[derive(Default)]
struct Team {
    workers: Vec<Box<dyn Worker>>,
    notified: Vec<u16>,
    events: Vec<(u16, Arc<OwnedFd>)>,
    is_stopping: bool,
    /// How often the transport wanted to know whether they have ended.
    asked: usize,
    on_broken: Option<OnBroken>,
}

/// Keeps workers until the bench has them serve.
#[derive(Default)]
struct InPlace(Mutex<Vec<Arc<Mutex<Team>>>>);

struct Running(Arc<Mutex<Team>>);

/// For devices that nobody starts.
pub(super) struct NoThreads;

impl StartWorkers for NoThreads {
    fn start(
        &self,
        name: &str,
        _: Vec<Box<dyn Worker>>,
        _: &Arc<DeviceMetrics>,
        _: OnBroken,
    ) -> Box<dyn RunningWorkers> {
        panic!("nobody starts {name}")
    }
}

impl StartWorkers for InPlace {
    fn start(
        &self,
        _name: &str,
        workers: Vec<Box<dyn Worker>>,
        _metrics: &Arc<DeviceMetrics>,
        on_broken: OnBroken,
    ) -> Box<dyn RunningWorkers> {
        let event = |queue| (queue, Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap()));
        let events = workers
            .iter()
            .flat_map(|worker| worker.queues())
            .map(event)
            .collect();
        let team = Team {
            workers,
            events,
            on_broken: Some(on_broken),
            ..Team::default()
        };
        let team = Arc::new(Mutex::new(team));
        self.0.lock().unwrap().push(Arc::clone(&team));
        Box::new(Running(team))
    }
}

impl Doorbell for Running {
    fn notify(&self, queue: u16) {
        let mut team = self.0.lock().unwrap();
        if !team.notified.contains(&queue) {
            team.notified.push(queue);
        }
    }

    fn events(&self) -> Vec<(u16, Arc<OwnedFd>)> {
        self.0.lock().unwrap().events.clone()
    }
}

impl RunningWorkers for Running {
    fn stop(&mut self) {
        self.0.lock().unwrap().is_stopping = true;
    }

    fn have_stopped(&self) -> bool {
        let mut team = self.0.lock().unwrap();
        team.asked += 1;
        team.workers.is_empty()
    }

    fn take_broken(&mut self) -> Option<Broken> {
        None
    }

    fn save(&self) -> Vec<WorkerState> {
        let team = self.0.lock().unwrap();
        team.workers.iter().map(|worker| worker.save()).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut team = self.0.lock().unwrap();
        team.is_stopping = true;
        team.workers.clear();
    }
}

/// One device on its bench.
pub(super) struct Bench {
    pub(super) memory: Arc<GuestMemory>,
    pub(super) function: VirtioFunction,
    pub(super) heard: Arc<Heard>,
    pub(super) queue_count: u16,
    threads: Arc<InPlace>,
}

impl Bench {
    pub(super) fn new(device: Box<dyn VirtioDevice>, memory_bytes: u64) -> Bench {
        let memory = Arc::new(GuestMemory::flat(memory_bytes).unwrap());
        let heard = Arc::<Heard>::default();
        let threads = Arc::<InPlace>::default();
        let queue_count = device.queue_sizes().len() as u16;
        let links = Links {
            memory: Arc::clone(&memory),
            interrupts: Arc::<Heard>::clone(&heard),
            threads: Arc::<InPlace>::clone(&threads),
        };
        let function = VirtioFunction::new(1, device, links);
        Bench {
            memory,
            function,
            heard,
            queue_count,
            threads,
        }
    }

    pub(super) fn read(&mut self, offset: u64, size: u8) -> u64 {
        self.function.read_memory(offset, size)
    }

    pub(super) fn write(&mut self, offset: u64, size: u8, value: u64) {
        self.function.write_memory(offset, size, value);
    }

    /// Has workers do what they were called for; with `tick` also what they wait for by themselves.
    pub(super) fn serve(&mut self, tick: bool) {
        let mut teams = self.threads.0.lock().unwrap();
        teams.retain(|team| {
            let mut team = team.lock().unwrap();
            serve_team(&mut team, tick);
            !team.workers.is_empty()
        });
    }

    /// What a driver does up to `DRIVER_OK`, with all features of the low half and the queues where `place` puts
    /// them (descriptors, available, used).
    pub(super) fn set_up(&mut self, refused: u64, place: impl Fn(u16) -> Option<[u64; 3]>) {
        self.reset();
        self.write(STATUS, 1, 1);
        self.write(STATUS, 1, 3);
        for half in 0..2 {
            self.write(FEATURE_SELECT, 4, half);
            let offered = self.read(FEATURE, 4);
            self.write(DRIVER_FEATURE_SELECT, 4, half);
            self.write(DRIVER_FEATURE, 4, offered & !(refused >> (32 * half)));
        }
        self.write(STATUS, 1, 0xb);
        for queue in 0..self.queue_count {
            let Some(places) = place(queue) else { continue };
            self.write(QUEUE_SELECT, 2, u64::from(queue));
            for (register, address) in [DESCRIPTORS, AVAILABLE, USED].into_iter().zip(places) {
                self.write(register, 8, address);
            }
            self.write(QUEUE_ENABLE, 2, 1);
        }
        self.write(STATUS, 1, 0xf);
        self.serve(false);
    }

    /// Resets and waits for it.
    pub(super) fn reset(&mut self) {
        self.write(STATUS, 1, 0);
        self.serve(false);
        assert_eq!(
            self.read(STATUS, 1),
            0,
            "workers that are gone are a reset that is over"
        );
    }

    /// How often workers were asked whether they have ended.
    pub(super) fn asked(&self) -> usize {
        let teams = self.threads.0.lock().unwrap();
        teams.iter().map(|team| team.lock().unwrap().asked).sum()
    }

    pub(super) fn put(&self, at: u64, size: usize, value: u64) {
        // Outside of memory there is nothing to write to.
        let _ = self.memory.write(Gpa(at), &value.to_le_bytes()[..size]);
    }
}

fn serve_team(team: &mut Team, tick: bool) {
    if team.is_stopping {
        team.workers.clear();
        return;
    }
    let mut wakes: Vec<Wake> = team.notified.drain(..).map(Wake::Notified).collect();
    if tick {
        wakes.push(Wake::Start);
    }
    for wake in wakes {
        let mut broken = Vec::new();
        team.workers.retain_mut(|worker| {
            let is_concerned = match wake {
                Wake::Notified(queue) => worker.queues().contains(&queue),
                _ => true,
            };
            let result = if is_concerned {
                worker.serve(wake)
            } else {
                Ok(())
            };
            broken.extend(result.clone().err());
            result.is_ok()
        });
        // As a thread would: it looks at its files and its clock between two calls.
        if tick {
            broken.extend(serve_waits(&mut team.workers));
        }
        let on_broken = team.on_broken.as_ref().expect("set at the start");
        broken.iter().for_each(on_broken);
    }
}

/// Serves what is readable, writable or due.
fn serve_waits(workers: &mut Vec<Box<dyn Worker>>) -> Vec<Broken> {
    let mut broken = Vec::new();
    workers.retain_mut(|worker| {
        let mut wakes: Vec<Wake> = (0..worker.sources().len()).map(Wake::Readable).collect();
        wakes.extend((0..worker.sinks().len()).map(Wake::Writable));
        if worker.deadline().is_some_and(|at| at <= Instant::now()) {
            wakes.push(Wake::Deadline);
        }
        let result = wakes.into_iter().try_for_each(|wake| worker.serve(wake));
        broken.extend(result.clone().err());
        result.is_ok()
    });
    broken
}
