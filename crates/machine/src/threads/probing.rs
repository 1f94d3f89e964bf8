//! Observers that want to hear when a guest's kernel passes an address.
//!
//! Each observer has a *session*: its points, and a queue of hits that its connection empties. All sessions together are
//! one set of addresses, which every vCPU's thread gives to its engine between two runs: the set has a number, and a thread
//! that finds another number than the one it knows takes the new set. When a vCPU passes, its own thread runs the points'
//! operations (`probe`) over guest memory and lays the hit down in the queue.
//!
//! The guest never waits for an observer. A queue has room for so many hits; what comes when it is full is counted and told
//! as lost. So what a guest can have us keep is bounded by [`SESSIONS_MAX`] times [`QUEUE_BYTES`].
//!
//! Reading guest memory here is what a device does: a page that is with the pager is brought back by the pager's thread,
//! and the vCPU waits for it as for any other. No lock is held meanwhile.

use std::collections::{HashMap, HashSet, VecDeque};
use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use host::lock::{Condition, Lock};
use mem::GuestMemory;
use probe::{Point, Reader, Start, Value};
use vcpu::{Pass, ProbeSink, Probes, Vcpu};
use x86::paging::{self, Access};
use x86::{Gva, PAGE_SIZE};

use crate::threads::bell::{Bell, Bells};
use crate::threads::gate::Gate;

/// Observers at one time.
pub(crate) const SESSIONS_MAX: usize = 4;
/// What the hits of a queue may take.
const QUEUE_BYTES: usize = 4 << 20;
/// What a hit takes beside the bytes it holds, roughly.
const HIT_BYTES: usize = 256;
/// Pages that are remembered while one point's operations run.
const PAGES: usize = 32;
/// How long vCPUs may take to have their engines look. Guest code comes out within milliseconds, but the host may have much
/// else to do.
const PATIENCE: Duration = Duration::from_secs(5);
/// The number of no set: an engine that has not been asked what it can.
pub(crate) const NOT_ASKED: u64 = u64::MAX;

/// A vCPU passed a point of a session's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Passed {
    pub(crate) point: u16,
    pub(crate) vcpu_id: u32,
    pub(crate) at: Instant,
    pub(crate) values: Vec<Value>,
}

#[derive(Default)]
struct Queue {
    hits: VecDeque<Passed>,
    bytes: usize,
    lost: u64,
    is_over: bool,
}

/// One observer's.
pub(crate) struct Session {
    points: Vec<Point>,
    queue: Lock<Queue>,
    changed: Condition,
}

/// What a session has for its observer.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) hits: Vec<Passed>,
    /// Hits for which there was no room.
    pub(crate) lost: u64,
    /// The life is over: nothing more will come.
    pub(crate) is_over: bool,
}

impl Session {
    fn new(points: Vec<Point>) -> Session {
        Session {
            points,
            queue: Lock::default(),
            changed: Condition::new(),
        }
    }

    fn push(&self, hit: Passed) {
        let bytes = HIT_BYTES + hit.values.iter().map(size).sum::<usize>();
        let mut queue = self.queue.lock();
        if queue.bytes + bytes > QUEUE_BYTES {
            queue.lost += 1;
            return;
        }
        queue.bytes += bytes;
        let was_empty = queue.hits.is_empty();
        queue.hits.push_back(hit);
        drop(queue);
        if was_empty {
            self.changed.notify_all();
        }
    }

    /// Everything there is, up to about `most` bytes; waits for something for so long.
    pub(crate) fn hear(&self, most: usize, patience: Duration) -> Heard {
        let is_quiet = |queue: &mut Queue| queue.hits.is_empty() && !queue.is_over;
        let queue = self.queue.lock();
        let mut queue = self.changed.wait_timeout_while(queue, patience, is_quiet);
        let mut heard = Heard {
            lost: take(&mut queue.lost),
            ..Heard::default()
        };
        let mut taken = 0;
        while taken < most
            && let Some(hit) = queue.hits.pop_front()
        {
            let bytes = HIT_BYTES + hit.values.iter().map(size).sum::<usize>();
            taken += bytes;
            queue.bytes -= bytes;
            heard.hits.push(hit);
        }
        heard.is_over = queue.is_over && queue.hits.is_empty();
        heard
    }

    fn end(&self) {
        self.queue.lock().is_over = true;
        self.changed.notify_all();
    }
}

fn size(value: &Value) -> usize {
    const EACH: usize = size_of::<Value>();
    match value {
        Value::Unreadable | Value::Number(_) => EACH,
        Value::Bytes(bytes) => EACH + bytes.0.len(),
        Value::Names(names) => EACH + names.iter().map(|name| EACH + name.0.len()).sum::<usize>(),
    }
}

/// All that is watched at one time: what engines tell.
struct Watched {
    memory: Arc<GuestMemory>,
    /// By address, whose and which point.
    points: HashMap<u64, Vec<(Arc<Session>, u16)>>,
}

impl ProbeSink for Watched {
    fn passed(&self, pass: &Pass<'_>) {
        let at = Instant::now();
        for (session, number) in self.points.get(&pass.address).into_iter().flatten() {
            let Some(point) = session.points.get(usize::from(*number)) else {
                continue;
            };
            let start = Start {
                gprs: pass.gprs,
                gs_base: pass.gs_base,
            };
            let mut reader = GuestReader::new(&self.memory, pass.paging);
            if let Some(values) = probe::run(&point.operations, start, &mut reader) {
                session.push(Passed {
                    point: *number,
                    vcpu_id: pass.vcpu_id,
                    at,
                    values,
                });
            }
        }
    }

    fn ended(&self) {
        let sessions = self.points.values().flatten();
        sessions.for_each(|(session, _)| session.end());
    }
}

/// Guest memory as the kernel sees it at this moment.
pub(crate) struct GuestReader<'a> {
    memory: &'a GuestMemory,
    paging: paging::Paging,
    /// Pages that were walked to, by their lowest bits, and where they lie: structures are read member by member.
    pages: [Option<(u64, u64)>; PAGES],
}

impl<'a> GuestReader<'a> {
    pub(crate) fn new(memory: &'a GuestMemory, paging: paging::Paging) -> GuestReader<'a> {
        GuestReader {
            memory,
            paging,
            pages: [None; PAGES],
        }
    }

    /// Where the page of an address lies.
    pub(crate) fn page(&mut self, page: u64) -> Option<u64> {
        let place = (page / PAGE_SIZE) as usize % PAGES;
        if let Some((_, gpa)) = self.pages[place].filter(|(known, _)| *known == page) {
            return Some(gpa);
        }
        // Reading changes nothing, the bits in the tables included, and a kernel's rights are not judged.
        let access = Access {
            write: false,
            fetch: false,
            user: false,
            smap_override: true,
        };
        let read = |entry, size| self.memory.read_value(entry, size).unwrap_or(0);
        let walk = paging::walk(&self.paging, Gva(page), access, read).ok()?;
        self.pages[place] = Some((page, walk.gpa.0));
        Some(walk.gpa.0)
    }
}

impl Reader for GuestReader<'_> {
    fn read(&mut self, gva: u64, bytes: &mut [u8]) -> bool {
        let mut at = gva;
        let mut rest = bytes;
        while !rest.is_empty() {
            let offset = at % PAGE_SIZE;
            let len = rest.len().min((PAGE_SIZE - offset) as usize);
            let (now, later) = rest.split_at_mut(len);
            let Some(page) = self.page(at - offset) else {
                return false;
            };
            if self.memory.read(x86::Gpa(page + offset), now).is_err() {
                return false;
            }
            at = at.wrapping_add(len as u64);
            rest = later;
        }
        true
    }
}

/// Why there is no session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoSession {
    /// There are too many.
    Full,
    /// The life is over.
    Over,
    /// vCPUs did not come out in time.
    TimedOut,
    /// The engine cannot tell of passes.
    Engine,
    /// It tells of no more addresses than so many.
    Room(usize),
    /// The guest has what the engine tells by for itself.
    Guest,
}

/// What one vCPU's engine said when it was last asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Taken {
    /// The number of the set that it has.
    number: u64,
    /// Whether it tells of passes.
    tells: bool,
    /// How many addresses it may be given.
    most: usize,
}

/// What vCPUs have to look at, and how far they do.
struct Set {
    number: u64,
    probes: Arc<Probes>,
    sessions: Vec<Arc<Session>>,
    /// For each vCPU. One whose thread has not begun yet is thought able of everything.
    taken: Vec<Taken>,
    is_over: bool,
}

impl Taken {
    /// Whether it has this set, or one behind it.
    fn has(&self, number: u64) -> bool {
        self.number >= number
    }
}

impl Set {
    /// How many addresses every vCPU's engine may be given.
    fn most(&self) -> usize {
        let most = self.taken.iter().map(|taken| taken.most).min();
        most.unwrap_or(usize::MAX)
    }

    /// How many there are in all sessions.
    fn addresses(&self) -> usize {
        let points = self.sessions.iter().flat_map(|session| &session.points);
        points
            .map(|point| point.address)
            .collect::<HashSet<_>>()
            .len()
    }
}

/// See the module's head. One for each life.
pub(crate) struct Probing {
    memory: Arc<GuestMemory>,
    bells: Arc<Bells>,
    gate: Arc<Gate>,
    /// The number of the present set.
    number: AtomicU64,
    set: Lock<Set>,
    changed: Condition,
}

impl Probing {
    pub(crate) fn new(
        memory: &Arc<GuestMemory>,
        bells: &Arc<Bells>,
        gate: &Arc<Gate>,
        vcpu_count: usize,
    ) -> Probing {
        Probing {
            memory: Arc::clone(memory),
            bells: Arc::clone(bells),
            gate: Arc::clone(gate),
            number: AtomicU64::new(0),
            set: Lock::new(Set {
                number: 0,
                probes: Probes::none(),
                sessions: Vec::new(),
                taken: vec![
                    Taken {
                        number: 0,
                        tells: true,
                        most: usize::MAX,
                    };
                    vcpu_count
                ],
                is_over: false,
            }),
            changed: Condition::new(),
        }
    }

    /// A vCPU's thread, between two runs: gives its engine the present set, if it does not have it. `known` is the number
    /// that the thread keeps; [`NOT_ASKED`] for a new engine.
    pub(crate) fn serve(&self, vcpu_id: u32, vcpu: &mut dyn Vcpu, known: &mut u64) {
        if self.number.load(Ordering::Acquire) == *known {
            return;
        }
        let (number, probes) = {
            let set = self.set.lock();
            (set.number, Arc::clone(&set.probes))
        };
        let tells = vcpu.set_probes(&probes);
        *known = number;
        let mut set = self.set.lock();
        set.taken[vcpu_id as usize] = Taken {
            number,
            tells,
            most: vcpu.probes_max(),
        };
        if !tells {
            // The guest has come to an engine that cannot, or has taken what this one tells by.
            set.sessions.iter().for_each(|session| session.end());
        }
        drop(set);
        self.changed.notify_all();
    }

    /// Begins a session; returns when every pass is told from then on.
    pub(crate) fn begin(&self, points: Vec<Point>) -> Result<Arc<Session>, NoSession> {
        let session = Arc::new(Session::new(points));
        let number = {
            let mut set = self.set.lock();
            if set.is_over {
                return Err(NoSession::Over);
            }
            if set.sessions.len() >= SESSIONS_MAX {
                return Err(NoSession::Full);
            }
            let most = set.most();
            set.sessions.push(Arc::clone(&session));
            if set.addresses() > most {
                set.sessions.pop();
                return Err(match most {
                    0 => NoSession::Engine,
                    most => NoSession::Room(most),
                });
            }
            self.change(&mut set)
        };
        self.call();
        let deadline = Instant::now() + PATIENCE;
        let has_taken = |set: &Set| set.taken.iter().all(|taken| taken.has(number));
        let mut set = self.set.lock();
        while !has_taken(&set) && !set.is_over && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            set = self.changed.wait_timeout(set, left).0;
        }
        let result = match () {
            () if set.is_over => Err(NoSession::Over),
            () if !has_taken(&set) => Err(NoSession::TimedOut),
            () if set.taken.iter().any(|taken| !taken.tells) => Err(match set.most() {
                0 => NoSession::Engine,
                _ => NoSession::Guest,
            }),
            () => Ok(Arc::clone(&session)),
        };
        drop(set);
        if result.is_err() {
            self.end(&session);
        }
        result
    }

    /// Ends a session. Engines drop its probes when they come out next.
    pub(crate) fn end(&self, session: &Arc<Session>) {
        let mut set = self.set.lock();
        set.sessions.retain(|other| !Arc::ptr_eq(other, session));
        self.change(&mut set);
        drop(set);
        self.call();
        session.end();
    }

    /// The life is over.
    pub(crate) fn finish(&self) {
        let mut set = self.set.lock();
        set.is_over = true;
        let sessions = take(&mut set.sessions);
        drop(set);
        self.changed.notify_all();
        sessions.iter().for_each(|session| session.end());
    }

    /// Makes a set of all sessions' points; its number.
    fn change(&self, set: &mut Set) -> u64 {
        let mut points: HashMap<u64, Vec<(Arc<Session>, u16)>> = HashMap::new();
        for session in &set.sessions {
            for (number, point) in (0..).zip(&session.points) {
                let at = points.entry(point.address).or_default();
                at.push((Arc::clone(session), number));
            }
        }
        set.probes = if points.is_empty() {
            Probes::none()
        } else {
            let addresses = points.keys().copied().collect();
            let memory = Arc::clone(&self.memory);
            Probes::new(addresses, Arc::new(Watched { memory, points }))
        };
        set.number += 1;
        self.number.store(set.number, Ordering::Release);
        set.number
    }

    /// Has every vCPU's thread come by.
    fn call(&self) {
        self.bells.all().iter().for_each(Bell::ring_always);
        self.gate.call();
    }
}

#[cfg(test)]
mod tests {
    use probe::{From, Operation};

    use super::*;

    fn session() -> Session {
        Session::new(vec![])
    }

    fn hit(point: u16, len: usize) -> Passed {
        Passed {
            point,
            vcpu_id: 0,
            at: Instant::now(),
            values: vec![Value::Bytes(probe::Bytes(vec![0; len]))],
        }
    }

    #[test]
    fn hits_come_in_order_and_what_has_no_room_is_counted() {
        let session = session();
        let most = QUEUE_BYTES / (1 << 16);
        for point in 0..most as u16 {
            session.push(hit(point, 1 << 16));
        }
        let first = session.hear(1, Duration::ZERO);
        assert_eq!(first.hits.len(), 1, "a piece has at least one");
        assert_eq!((first.hits[0].point, first.lost > 0), (0, true));
        session.push(hit(777, 0));
        let rest = session.hear(usize::MAX, Duration::ZERO);
        let points: Vec<u16> = rest.hits.iter().map(|hit| hit.point).collect();
        assert!(points.is_sorted() && points.last() == Some(&777));
        assert_eq!(rest.lost, 0, "what was told is not told again");
        assert_eq!(points.len() as u64 + first.lost, most as u64);
        assert!(!rest.is_over);
        session.push(hit(1, 0));
        session.end();
        let last = session.hear(usize::MAX, Duration::ZERO);
        assert_eq!((last.hits.len(), last.is_over), (1, true));
    }

    #[test]
    fn an_observer_is_woken_by_the_first_hit() {
        let session = Arc::new(session());
        let pushed = Arc::clone(&session);
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            pushed.push(hit(3, 0));
        });
        let begun = Instant::now();
        let heard = session.hear(usize::MAX, Duration::from_secs(60));
        assert_eq!(heard.hits.len(), 1);
        assert!(begun.elapsed() < Duration::from_secs(30));
        thread.join().unwrap();
    }

    /// Two observers at one address and one at another: each hears its own.
    #[test]
    fn every_observer_hears_of_its_own_points() {
        let memory = Arc::new(GuestMemory::flat(1 << 20).unwrap());
        let probing = Probing::new(
            &memory,
            &Arc::new(Bells::default()),
            &Arc::new(Gate::default()),
            0,
        );
        let point = |address| Point {
            address,
            operations: vec![Operation::Number {
                from: From::Register(0),
                path: vec![],
                bytes: 8,
            }],
        };
        let first = probing.begin(vec![point(0x1000), point(0x2000)]).unwrap();
        let second = probing.begin(vec![point(0x2000)]).unwrap();
        let pass = |address| {
            let probes = Arc::clone(&probing.set.lock().probes);
            assert_eq!(probes.has(address), address != 0x3000);
            probes.tell(&Pass {
                vcpu_id: 1,
                address,
                gprs: &[9; 16],
                gs_base: 0,
                paging: paging::Paging {
                    cr0: x86::Cr0::empty(),
                    cr3: 0,
                    cr4: x86::Cr4::empty(),
                    efer: x86::Efer::empty(),
                },
            });
        };
        [0x1000, 0x2000, 0x3000].into_iter().for_each(pass);
        let heard = |session: &Session| -> Vec<u16> {
            let heard = session.hear(usize::MAX, Duration::ZERO);
            assert!(
                heard
                    .hits
                    .iter()
                    .all(|hit| hit.values == [Value::Number(9)])
            );
            heard.hits.iter().map(|hit| hit.point).collect()
        };
        assert_eq!(heard(&first), [0, 1]);
        assert_eq!(heard(&second), [0]);
        probing.end(&first);
        assert_eq!(probing.set.lock().probes.addresses(), [0x2000]);
        probing.begin(vec![]).unwrap();
        probing.begin(vec![]).unwrap();
        probing.begin(vec![]).unwrap();
        assert_eq!(probing.begin(vec![]).err(), Some(NoSession::Full));
        probing.finish();
        assert!(second.hear(1, Duration::ZERO).is_over);
        assert_eq!(probing.begin(vec![]).err(), Some(NoSession::Over));
    }

    /// Who comes later cannot take addresses from who was there, and may share them.
    #[test]
    fn an_engine_with_few_addresses_serves_as_many_as_it_has() {
        let check = |most: usize, first: &[u64], second: &[u64], expected: Option<NoSession>| {
            let memory = Arc::new(GuestMemory::flat(1 << 20).unwrap());
            let bells = Arc::new(Bells::default());
            let probing = Probing::new(&memory, &bells, &Arc::new(Gate::default()), 0);
            // One that has every set already, whatever its number.
            probing.set.lock().taken.push(Taken {
                number: u64::MAX,
                tells: true,
                most,
            });
            let points = |addresses: &[u64]| {
                let point = |address: &u64| Point {
                    address: *address,
                    operations: vec![],
                };
                addresses.iter().map(point).collect::<Vec<_>>()
            };
            let before = probing.begin(points(first)).unwrap();
            let refused = probing.begin(points(second)).err();
            assert_eq!(refused, expected, "{most} {first:?} {second:?}");
            assert!(!before.hear(1, Duration::ZERO).is_over);
            let told = probing.set.lock().probes.addresses().len();
            assert!(told >= first.len() && told <= most);
        };
        check(4, &[1, 2, 3, 4], &[1, 4], None);
        check(4, &[1, 2, 3, 4], &[5], Some(NoSession::Room(4)));
        check(4, &[1, 2], &[3, 4], None);
        check(4, &[1, 2], &[3, 4, 5], Some(NoSession::Room(4)));
        check(usize::MAX, &[1, 2], &[3, 4, 5], None);
        check(0, &[], &[1], Some(NoSession::Engine));
    }

    /// The guest takes the registers that an engine tells by.
    #[test]
    fn when_the_engine_tells_no_more_every_observer_hears_it() {
        let memory = Arc::new(GuestMemory::flat(1 << 20).unwrap());
        let bells = Arc::new(Bells::default());
        let probing = Probing::new(&memory, &bells, &Arc::new(Gate::default()), 0);
        let point = |address| Point {
            address,
            operations: vec![],
        };
        let first = probing.begin(vec![point(0x1000)]).unwrap();
        let second = probing.begin(vec![point(0x2000)]).unwrap();
        let probes = Arc::clone(&probing.set.lock().probes);
        probes.end();
        for session in [first, second] {
            assert!(session.hear(1, Duration::ZERO).is_over);
        }
    }
}
