//! Workers on their threads: called, paused, stopped, broken, and failing.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

use devices::virtio::{Back, QueuePosition};

use super::*;

/// Counts its calls; does what its notification says.
struct Counting {
    calls: Arc<AtomicU32>,
    /// What a notification of its queue does.
    act: fn() -> Result<(), Broken>,
    deadline: Option<Instant>,
    /// Dropped with the worker.
    _gone: Arc<()>,
}

impl Worker for Counting {
    fn queues(&self) -> Vec<u16> {
        vec![3]
    }

    fn serve(&mut self, wake: Wake) -> Result<(), Broken> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        match wake {
            Wake::Notified(3) => (self.act)(),
            Wake::Deadline => {
                self.deadline = None;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn save(&self) -> WorkerState {
        let position = QueuePosition {
            index: 3,
            next_available: self.calls.load(Ordering::SeqCst) as u16,
            next_used: 0,
        };
        WorkerState {
            queues: vec![position],
            back: Back::Plain,
        }
    }
}

#[derive(Default)]
struct Attendant(AtomicU32);

impl Kick for Attendant {
    fn kick(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct Scene {
    gate: Arc<Gate>,
    attendant: Arc<Attendant>,
    threads: DeviceThreads,
    calls: Arc<AtomicU32>,
    broken: Arc<Lock<Vec<Broken>>>,
    gone: Arc<()>,
    metrics: Arc<DeviceMetrics>,
}

impl Scene {
    fn new() -> Scene {
        let gate = Arc::<Gate>::default();
        let attendant = Arc::<Attendant>::default();
        let kick = Arc::clone(&attendant) as Arc<dyn Kick>;
        let helper = Arc::new(Helper::new().unwrap());
        let threads = DeviceThreads::new(Arc::clone(&gate), kick, Patience::new(1, 2), helper);
        let calls = Arc::default();
        let broken = Arc::default();
        let gone = Arc::default();
        Scene {
            gate,
            attendant,
            threads,
            calls,
            broken,
            gone,
            metrics: Arc::default(),
        }
    }

    fn start(
        &self,
        act: fn() -> Result<(), Broken>,
        deadline: Option<Instant>,
    ) -> Box<dyn RunningWorkers> {
        let calls = Arc::clone(&self.calls);
        let gone = Arc::clone(&self.gone);
        let worker = Counting {
            calls,
            act,
            deadline,
            _gone: gone,
        };
        let broken = Arc::clone(&self.broken);
        let on_broken = Box::new(move |what: &Broken| broken.lock().push(what.clone()));
        self.threads
            .start("test", vec![Box::new(worker)], &self.metrics, on_broken)
    }

    fn wait_for_calls(&self, count: u32) {
        wait_until(|| self.calls.load(Ordering::SeqCst) >= count);
    }
}

fn wait_until(is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(30), "it never comes");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_worker_hears_its_start_its_queue_and_its_deadline() {
    let scene = Scene::new();
    let running = scene.start(|| Ok(()), Some(Instant::now()));
    scene.wait_for_calls(2);
    running.notify(2);
    running.notify(3);
    scene.wait_for_calls(3);
    assert!(!running.have_stopped());
}

#[test]
fn a_notification_past_the_front_is_heard_and_counted() {
    let scene = Scene::new();
    let running = scene.start(|| Ok(()), None);
    scene.wait_for_calls(1);
    let (queues, events): (Vec<u16>, Vec<_>) = running.events().into_iter().unzip();
    assert_eq!(queues, [3]);
    let ring = |event: &OwnedFd| assert_eq!(rustix::io::write(event, &1_u64.to_ne_bytes()), Ok(8));
    let counted = || scene.metrics.notifications.load(Ordering::Relaxed);
    ring(&events[0]);
    wait_until(|| counted() == 1);
    scene.wait_for_calls(2);
    // The front counts what comes its way itself.
    running.notify(3);
    scene.wait_for_calls(3);
    assert_eq!(counted(), 1);
    // Several may come as one; each is counted.
    assert!(scene.gate.close(|| (), || true));
    (0..3).for_each(|_| ring(&events[0]));
    scene.gate.open();
    wait_until(|| counted() == 4);
}

#[test]
fn a_stopped_worker_is_gone_when_that_is_said() {
    let scene = Scene::new();
    let mut running = scene.start(|| Ok(()), None);
    running.stop();
    wait_until(|| running.have_stopped());
    assert_eq!(Arc::strong_count(&scene.gone), 1);
}

#[test]
fn a_paused_worker_does_nothing_until_it_is_let_go_or_stopped() {
    let check = |name: &str, let_go: fn(&Scene), calls| {
        let scene = Scene::new();
        let running = scene.start(|| Ok(()), None);
        scene.wait_for_calls(1);
        assert!(scene.gate.close(|| (), || true));
        running.notify(3);
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(scene.calls.load(Ordering::SeqCst), 1, "{name}: paused");
        let_go(&scene);
        scene.wait_for_calls(calls);
        drop(running);
        assert_eq!(Arc::strong_count(&scene.gone), 1, "{name}");
    };
    check("resumed", |scene| scene.gate.open(), 2);
    check("ended while paused", |scene| scene.threads.stop_all(), 1);
}

#[test]
fn a_broken_queue_is_told_once_and_ends_the_worker() {
    let scene = Scene::new();
    let mut running = scene.start(
        || {
            Err(Broken {
                queue: 3,
                what: "a loop".to_owned(),
            })
        },
        None,
    );
    running.notify(3);
    wait_until(|| running.have_stopped());
    assert_eq!(scene.broken.lock().len(), 1);
    assert_eq!(running.take_broken().map(|broken| broken.queue), Some(3));
    assert_eq!(running.take_broken(), None);
    assert!(!scene.threads.has_panicked());
}

#[test]
fn a_panic_of_a_worker_is_brought_to_the_attendant() {
    let scene = Scene::new();
    let running = scene.start(|| panic!("our mistake"), None);
    running.notify(3);
    wait_until(|| running.have_stopped());
    assert!(scene.threads.has_panicked() && scene.attendant.0.load(Ordering::SeqCst) > 0);
    let panic = scene.threads.take_panic().expect("it was kept");
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"our mistake"));
    assert!(
        scene.broken.lock().is_empty(),
        "the driver did nothing wrong"
    );
}

/// Where the only worker stands.
fn stands(running: &dyn RunningWorkers) -> Vec<u16> {
    let states = running.save();
    let positions = states.iter().flat_map(|state| &state.queues);
    positions.map(|position| position.next_available).collect()
}

#[test]
fn a_worker_says_where_it_stands_in_a_pause_and_goes_on_after_it() {
    let scene = Scene::new();
    let running = scene.start(|| Ok(()), None);
    scene.wait_for_calls(1);
    assert!(scene.gate.close(|| (), || true));
    assert_eq!(stands(&*running), [1], "asleep");
    running.notify(3);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(stands(&*running), [1], "before the gate");
    assert_eq!(stands(&*running), [1], "again");
    scene.gate.open();
    scene.wait_for_calls(2);
    assert!(scene.gate.close(|| (), || true));
    assert_eq!(stands(&*running), [2]);
    scene.gate.open();
}

#[test]
fn a_worker_that_has_ended_says_nothing() {
    let scene = Scene::new();
    let broken = || {
        Err(Broken {
            queue: 3,
            what: "so".to_owned(),
        })
    };
    let running = scene.start(broken, None);
    running.notify(3);
    wait_until(|| running.have_stopped());
    assert!(stands(&*running).is_empty());
}
