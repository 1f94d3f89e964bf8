//! Where the CPU time of the vCPUs' threads goes: a thread that looks now and then.
//!
//! Every [`PERIOD`] it reads how much CPU time each vCPU's thread has used, and charges what is new to what the thread says it is at
//! ([`vcpu::Spot`]). Only of translated code that is not enough: there the host's instruction says which guest code it is, so the
//! thread is asked by a signal ([`host::sampling`]), and what comes of that is charged at the next look. All that is charged is CPU
//! time that was read, so the shares sum to all of it. Time in which the thread ran nothing is counted apart.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use host::jail::{self, Kind};
use host::lock::Lock;
use host::rest::rest;
use mem::GuestMemory;
use probe::{Operation, Start, Value};
use vcpu::{At, Places, Seen, Spot, Vcpu, VcpuState, What};
use x86::PAGE_SIZE;
use x86::paging::Paging;

use crate::outcome::exits::ExitKind;
use crate::report::profile::{Cpu, Part, Place};
use crate::threads::crew::Profiled;
use crate::threads::probing::GuestReader;

/// From one look to the next.
pub(crate) const PERIOD: Duration = Duration::from_millis(4);

/// How long a sample of a program waits until somebody says which program it is: a vCPU comes out for its timer's interrupts.
const PATIENCE: Duration = Duration::from_millis(30);

/// Programs that are told apart by name.
const PROGRAMS_MAX: usize = 1024;

/// The address in CR3.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

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
    /// How to take down who runs, and whether that is wanted.
    running: Vec<Operation>,
    wants_program: AtomicBool,
    /// Who was found to run, and in which address space.
    found: Lock<Vec<(u64, Program)>>,
}

/// A program of the guest, as its kernel says.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Program {
    name: String,
    /// Its own code.
    code: Range<u64>,
}

impl Seat {
    /// Where the thread says it is.
    pub(crate) fn spot(&self) -> &Arc<Spot> {
        &self.thread.spot
    }

    /// Whether somebody wants to know which program runs.
    pub(crate) fn wants_program(&self) -> bool {
        self.wants_program.swap(false, Ordering::Relaxed)
    }

    /// Takes down which program runs on the vCPU, whose state this is.
    pub(crate) fn take_down(&self, state: &VcpuState, memory: &GuestMemory) {
        if let Some(found) = program(&self.running, state, memory) {
            self.found.lock().push(found);
        }
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

/// The program that runs, and the top page table of its address space; none if a kernel's thread runs, or what is taken down does
/// not hold together: the page table that the kernel names is the one that the vCPU has.
fn program(
    running: &[Operation],
    state: &VcpuState,
    memory: &GuestMemory,
) -> Option<(u64, Program)> {
    let gs_base = match state.ss.dpl() {
        3 => state.msrs.kernel_gs_base,
        _ => state.gs.base,
    };
    let paging = Paging {
        cr0: state.cr0,
        cr3: state.cr3,
        cr4: state.cr4,
        efer: state.efer,
    };
    let mut reader = GuestReader::new(memory, paging);
    let start = Start {
        gprs: &state.gprs,
        gs_base,
    };
    let values = probe::run(running, start, &mut reader)?;
    let [
        Value::Number(_),
        Value::Number(table),
        Value::Bytes(name),
        Value::Number(start),
        Value::Number(end),
    ] = &values[..]
    else {
        return None;
    };
    let space = reader.page(*table)?;
    let is_its_own = table.is_multiple_of(PAGE_SIZE) && space == state.cr3 & ADDRESS;
    is_its_own.then(|| {
        let name = String::from_utf8_lossy(&name.0).into_owned();
        let code = *start..*end;
        (space, Program { name, code })
    })
}

/// A sample of a program's code, of which nobody has said yet which program it is.
struct Nameless {
    space: u64,
    rip: u64,
    time: Duration,
    since: Instant,
}

/// Where the guest was: its address space and RIP, or a program (its number, and whether it is the program's own code) and how far
/// behind the beginning of that code, else the RIP.
type Where = (u64, u64, Option<(u32, bool)>);

/// What is known so far.
#[derive(Default)]
struct Tally {
    cpu_time: Duration,
    waited: Duration,
    kept: Duration,
    samples: u64,
    parts: BTreeMap<At, Duration>,
    /// Places in the guest of this life.
    places: HashMap<Where, Duration>,
    nameless: Vec<Nameless>,
    /// Programs by their names, and their numbers.
    programs: HashMap<String, u32>,
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
        match rip {
            None => self.unplaced += time,
            // In the kernel's half it is the same code in every address space.
            Some(rip) if rip >> 63 != 0 => self.place((0, rip, None), time),
            Some(rip) if space & 1 == 0 => self.place((space, rip, None), time),
            Some(rip) => self.nameless.push(Nameless {
                space,
                rip,
                time,
                since: Instant::now(),
            }),
        }
    }

    fn place(&mut self, place: Where, time: Duration) {
        let is_full = self.places.len() >= PLACES_MAX;
        match self.places.get_mut(&place) {
            Some(sum) => *sum += time,
            None if is_full => self.unplaced += time,
            None => {
                self.places.insert(place, time);
            }
        }
    }

    /// This program runs in this address space: what waited for its name has it.
    fn name(&mut self, space: u64, program: &Program) {
        let number = self.programs.len();
        let number = match self.programs.get(&program.name) {
            Some(number) => *number,
            None if number >= PROGRAMS_MAX => return,
            None => {
                self.programs.insert(program.name.clone(), number as u32);
                number as u32
            }
        };
        let (named, others): (Vec<Nameless>, Vec<Nameless>) = std::mem::take(&mut self.nameless)
            .into_iter()
            .partition(|it| it.space & !1 == space);
        self.nameless = others;
        for Nameless { rip, time, .. } in named {
            let is_own = program.code.contains(&rip);
            let at = if is_own {
                rip - program.code.start
            } else {
                rip
            };
            self.place((0, at, Some((number, is_own))), time);
        }
    }

    /// What has waited for `patience` gets no name any more: another program may have the address space by now.
    fn give_up(&mut self, patience: Duration) {
        let (late, waiting): (Vec<Nameless>, Vec<Nameless>) = std::mem::take(&mut self.nameless)
            .into_iter()
            .partition(|it| it.since.elapsed() >= patience);
        self.nameless = waiting;
        for Nameless {
            space, rip, time, ..
        } in late
        {
            self.place((space, rip, None), time);
        }
    }

    fn settle(&mut self, entry: Option<u64>) {
        self.give_up(Duration::ZERO);
        let places = self.places.drain();
        self.earlier
            .extend(places.map(|((space, rip, program), time)| Place {
                space,
                rip,
                entry,
                program,
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
    /// Once the first life has begun: it is born behind the walls of its process.
    thread: Lock<Option<JoinHandle<()>>>,
}

impl Profiler {
    /// One that waits until it is told to begin.
    pub(crate) fn new(threads: Vec<Profiled>, running: Vec<Operation>) -> Profiler {
        let seat = |thread| Seat {
            thread,
            running: running.clone(),
            wants_program: AtomicBool::new(false),
            found: Lock::default(),
            places: Lock::default(),
            names: Lock::default(),
        };
        Profiler {
            seats: Arc::new(threads.into_iter().map(seat).collect::<Vec<_>>()),
            tally: Arc::default(),
            is_over: Arc::default(),
            thread: Lock::default(),
        }
    }

    /// What each vCPU's thread is looked at by.
    pub(crate) fn seats(&self) -> &Arc<Vec<Seat>> {
        &self.seats
    }

    /// A life begins.
    ///
    /// # Errors
    /// If the host gives no thread.
    pub(crate) fn begin(&self) -> io::Result<()> {
        let mut thread = self.thread.lock();
        if thread.is_none() {
            let seats = Arc::clone(&self.seats);
            let tally = Arc::clone(&self.tally);
            let is_over = Arc::clone(&self.is_over);
            let work = move || {
                jail::enter(Kind::Any);
                look_on(&seats, &tally, &is_over);
            };
            let named = thread::Builder::new().name("profiler".to_owned());
            *thread = Some(named.spawn(work)?);
        }
        Ok(())
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
            programs: programs(&tally.programs),
            kernel: None,
        }
    }

    fn stop(&self) {
        self.is_over.store(true, Ordering::Release);
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

/// Names of programs by their numbers.
fn programs(numbers: &HashMap<String, u32>) -> Vec<String> {
    let mut names: Vec<_> = numbers.iter().collect();
    names.sort_by_key(|(_, number)| **number);
    names.into_iter().map(|(name, _)| name.clone()).collect()
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
        rest(PERIOD);
        let passed = since.elapsed();
        since += passed;
        let mut tally = tally.lock();
        for (seat, last) in seats.iter().zip(&mut last) {
            look_at(seat, last, &mut tally, passed);
            for (space, program) in std::mem::take(&mut *seat.found.lock()) {
                tally.name(space, &program);
            }
            let is_wanted = !tally.nameless.is_empty() && !seat.running.is_empty();
            seat.wants_program.store(is_wanted, Ordering::Relaxed);
        }
        tally.give_up(PATIENCE);
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
        // Only of one of the two it was heard in time which program it is.
        let program = Program {
            name: "sh".to_owned(),
            code: 0x3f_f000..0x40_1000,
        };
        tally.name(0x2000, &program);
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
            program: None,
            time: ms(time),
        };
        let named = Place {
            program: Some((0, true)),
            ..place(0, 0x1000, Some(7), 4)
        };
        assert_eq!(
            places,
            [
                place(0, kernel, Some(7), 3),
                named,
                place(0x3001, 0x40_0000, Some(7), 8),
                place(0, kernel, None, 64),
            ]
        );
        let placed: Duration = places.iter().map(|place| place.time).sum();
        assert_eq!(placed + tally.unplaced, tally.cpu_time);
    }
}
