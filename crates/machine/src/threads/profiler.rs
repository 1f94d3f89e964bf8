//! Where the CPU time of the vCPUs' threads goes: a thread that looks now and then.
//!
//! Every [`PERIOD`] it reads how much CPU time each vCPU's thread has used, and charges what is new to what the thread says it is at
//! ([`vcpu::Spot`]). Only of translated code that is not enough: there the host's instruction says which guest code it is, so the
//! thread is asked by a signal ([`host::sampling`]), and what comes of that is charged at the next look. All that is charged is CPU
//! time that was read, so the shares sum to all of it. Time in which the thread ran nothing is counted apart.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use host::jail::{self, Kind};
use host::lock::Lock;
use vcpu::{At, Places, Seen, Spot, Vcpu, What};

use crate::outcome::exits::ExitKind;
use crate::report::profile::{Cpu, Part, Place};
use crate::threads::crew::Profiled;

/// From one look to the next.
pub(crate) const PERIOD: Duration = Duration::from_millis(1);

/// Places in the guest that are told apart, of one life; time at others is summed.
const PLACES_MAX: usize = 1 << 18;

/// How instructions are called that an engine executed by hand.
type Names = fn(u16) -> String;

/// One vCPU's thread, as it is looked at.
pub(crate) struct Seat {
    thread: Profiled,
    /// What its engine knows of the code that it generates.
    places: Lock<Option<Arc<dyn Places>>>,
    names: Lock<Option<Names>>,
}

impl Seat {
    /// Where the thread says it is.
    pub(crate) fn spot(&self) -> &Arc<Spot> {
        &self.thread.spot
    }

    /// Has this vCPU write where it is from now on.
    pub(crate) fn take(&self, vcpu: &mut dyn Vcpu) {
        let places = vcpu.tell_where(&self.thread.spot);
        if let Some(places) = &places {
            *self.names.lock() = Some(places.names());
        }
        *self.places.lock() = places;
    }
}

/// What is known so far.
#[derive(Default)]
struct Tally {
    cpu_time: Duration,
    waited: Duration,
    kept: Duration,
    samples: u64,
    parts: BTreeMap<At, Duration>,
    /// Places in the guest of this life: address space and RIP.
    places: HashMap<(u64, u64), Duration>,
    /// Those of lives that are over.
    earlier: Vec<Place>,
    /// At places that are not told apart, or not known.
    unplaced: Duration,
}

impl Tally {
    /// Charges time to what a thread was at; the guest's address is `rip`, if that is known.
    fn charge(&mut self, at: At, space: u64, rip: Option<u64>, time: Duration) {
        self.cpu_time += time;
        self.samples += 1;
        *self.parts.entry(at).or_default() += time;
        // What the machine does for a guest that sleeps is done for no place in it.
        let rip = rip.filter(|_| !matches!(at.what, What::Elsewhere | What::Engine | What::Rest));
        let Some(rip) = rip else {
            self.unplaced += time;
            return;
        };
        // In the kernel's half it is the same code in every address space.
        let space = if rip >> 63 == 0 { space } else { 0 };
        let is_full = self.places.len() >= PLACES_MAX;
        match self.places.get_mut(&(space, rip)) {
            Some(sum) => *sum += time,
            None if is_full => self.unplaced += time,
            None => {
                self.places.insert((space, rip), time);
            }
        }
    }

    fn settle(&mut self, entry: Option<u64>) {
        let places = self.places.drain();
        self.earlier
            .extend(places.map(|((space, rip), time)| Place {
                space,
                rip,
                entry,
                time,
            }));
    }
}

/// What the thread knows of a vCPU's from its last look.
#[derive(Default)]
struct Last {
    cpu_time: Duration,
    generation: u64,
}

/// See the module. Its thread ends when it is dropped.
pub(crate) struct Profiler {
    seats: Arc<Vec<Seat>>,
    tally: Arc<Lock<Tally>>,
    is_over: Arc<AtomicBool>,
    begin: Lock<Option<mpsc::Sender<()>>>,
    thread: Lock<Option<JoinHandle<()>>>,
}

impl Profiler {
    /// One that waits until it is told to begin.
    pub(crate) fn new(threads: Vec<Profiled>) -> io::Result<Profiler> {
        let seat = |thread| Seat {
            thread,
            places: Lock::default(),
            names: Lock::default(),
        };
        let seats = Arc::new(threads.into_iter().map(seat).collect::<Vec<_>>());
        let tally: Arc<Lock<Tally>> = Arc::default();
        let is_over = Arc::new(AtomicBool::new(false));
        let (begin, begins) = mpsc::channel();
        let work = {
            let seats = Arc::clone(&seats);
            let tally = Arc::clone(&tally);
            let is_over = Arc::clone(&is_over);
            move || {
                if begins.recv().is_ok() {
                    jail::enter_early(Kind::Any);
                    look_on(&seats, &tally, &is_over);
                }
            }
        };
        let thread = thread::Builder::new()
            .name("profiler".to_owned())
            .spawn(work)?;
        Ok(Profiler {
            seats,
            tally,
            is_over,
            begin: Lock::new(Some(begin)),
            thread: Lock::new(Some(thread)),
        })
    }

    /// What each vCPU's thread is looked at by.
    pub(crate) fn seats(&self) -> &Arc<Vec<Seat>> {
        &self.seats
    }

    /// A life begins.
    pub(crate) fn begin(&self) {
        if let Some(begin) = self.begin.lock().take() {
            // The thread waits for nothing else.
            let _ = begin.send(());
        }
    }

    /// A life is over, in which the kernel's entry for system calls was at `entry`.
    pub(crate) fn life_ended(&self, entry: Option<u64>) {
        self.tally.lock().settle(entry);
        // What they are of goes with its life.
        for seat in self.seats.iter() {
            seat.places.lock().take();
        }
    }

    /// What is known when all lives are over.
    pub(crate) fn finish(&self) -> Cpu {
        self.stop();
        let mut tally = self.tally.lock();
        tally.settle(None);
        let seats = &self.seats;
        let names = seats.iter().find_map(|seat| *seat.names.lock());
        let mut counts: BTreeMap<At, u64> = BTreeMap::new();
        for seat in seats.iter() {
            for (at, count) in seat.thread.spot.counted() {
                *counts.entry(at).or_default() += count;
            }
        }
        let mut times = std::mem::take(&mut tally.parts);
        // What was too short to be seen was counted all the same.
        counts.keys().for_each(|at| {
            times.entry(*at).or_default();
        });
        let part = |(at, time): (At, Duration)| Part {
            what: at.what.name(),
            detail: detail(at, names),
            time,
            count: counts.get(&at).copied(),
        };
        Cpu {
            period: PERIOD,
            samples: tally.samples,
            cpu_time: tally.cpu_time,
            waited: tally.waited,
            kept: tally.kept,
            parts: times.into_iter().map(part).collect(),
            places: std::mem::take(&mut tally.earlier),
            unplaced: tally.unplaced,
            kernel: None,
        }
    }

    fn stop(&self) {
        self.is_over.store(true, Ordering::Release);
        self.begin.lock().take();
        if let Some(thread) = self.thread.lock().take() {
            // A panic of it has been printed; what it has seen until then is there.
            let _ = thread.join();
        }
    }
}

impl Drop for Profiler {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a detail is called.
fn detail(at: At, names: Option<Names>) -> Option<String> {
    match at.what {
        What::Interpreter if at.detail == 0 => Some("(being decoded)".to_owned()),
        What::Interpreter => Some(names?(at.detail)),
        What::Exit => {
            let (_, name) = ExitKind::ALL.get(usize::from(at.detail))?;
            Some((*name).to_owned())
        }
        _ => None,
    }
}

fn look_on(seats: &[Seat], tally: &Lock<Tally>, is_over: &AtomicBool) {
    let mut last: Vec<Last> = seats
        .iter()
        .map(|seat| Last {
            cpu_time: seat.thread.times.cpu_time(),
            generation: 0,
        })
        .collect();
    let mut since = Instant::now();
    while !is_over.load(Ordering::Acquire) {
        thread::sleep(PERIOD);
        let passed = since.elapsed();
        since += passed;
        let mut tally = tally.lock();
        for (seat, last) in seats.iter().zip(&mut last) {
            look_at(seat, last, &mut tally, passed);
        }
    }
    let mut tally = tally.lock();
    for (seat, last) in seats.iter().zip(&mut last) {
        take_samples(seat, last, &mut tally);
        let owed = seat.thread.sampled.owed();
        if !owed.is_zero() {
            tally.charge(At::plain(What::Translated), 0, None, owed);
        }
    }
}

fn look_at(seat: &Seat, last: &mut Last, tally: &mut Tally, passed: Duration) {
    take_samples(seat, last, tally);
    let now = seat.thread.times.cpu_time();
    let ran = now.saturating_sub(last.cpu_time);
    last.cpu_time = now;
    let Seen { at, rip, space } = Spot::of_words(seat.thread.spot.words());
    let stood = passed.saturating_sub(ran);
    match at.what {
        What::Rest => tally.waited += stood,
        _ => tally.kept += stood,
    }
    if ran.is_zero() {
        return;
    }
    if at.what == What::Translated {
        // Before the thread is asked: what the code means when it answers can only be newer.
        let places = seat.places.lock();
        last.generation = places.as_ref().map_or(0, |places| places.generation());
        seat.thread.sampled.ask(ran);
    } else {
        tally.charge(at, space, Some(rip), ran);
    }
}

fn take_samples(seat: &Seat, last: &Last, tally: &mut Tally) {
    for sample in seat.thread.sampled.take() {
        if sample.time.is_zero() {
            continue;
        }
        let Seen { at, rip, space } = Spot::of_words(sample.words);
        if at.what != What::Translated {
            tally.charge(at, space, Some(rip), sample.time);
            continue;
        }
        let places = seat.places.lock();
        let found = places
            .as_ref()
            .and_then(|places| places.guest_of(sample.pc, last.generation));
        tally.charge(at, space, found, sample.time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_charged_to_what_and_where_and_nothing_of_it_is_lost() {
        let ms = Duration::from_millis;
        let kernel = 0xffff_ffff_8100_0000;
        let outb = At {
            what: What::Interpreter,
            detail: 3,
        };
        let code = At::plain(What::Translated);
        let mut tally = Tally::default();
        tally.charge(code, 0x1000, Some(kernel), ms(1));
        // The kernel is one, whichever process it works for.
        tally.charge(code, 0x2000, Some(kernel), ms(2));
        tally.charge(outb, 0x2001, Some(0x40_0000), ms(4));
        tally.charge(outb, 0x3001, Some(0x40_0000), ms(8));
        // Where nobody knows; and what is done while the guest sleeps.
        tally.charge(code, 0, None, ms(16));
        tally.charge(At::plain(What::Rest), 0, Some(kernel), ms(32));
        assert_eq!(tally.cpu_time, ms(63));
        assert_eq!(tally.parts.values().sum::<Duration>(), ms(63));
        assert_eq!(tally.parts[&code], ms(19));
        assert_eq!(tally.parts[&outb], ms(12));
        tally.settle(Some(7));
        // The next life's kernel lies elsewhere.
        tally.charge(code, 0, Some(kernel), ms(64));
        tally.settle(None);
        let mut places = tally.earlier.clone();
        places.sort_by_key(|place| place.time);
        let place = |space, rip, entry, time| Place {
            space,
            rip,
            entry,
            time: ms(time),
        };
        assert_eq!(
            places,
            [
                place(0, kernel, Some(7), 3),
                place(0x2001, 0x40_0000, Some(7), 4),
                place(0x3001, 0x40_0000, Some(7), 8),
                place(0, kernel, None, 64),
            ]
        );
        let placed: Duration = places.iter().map(|place| place.time).sum();
        assert_eq!(placed + tally.unplaced, tally.cpu_time);
    }
}
