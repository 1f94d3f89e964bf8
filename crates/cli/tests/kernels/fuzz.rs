//! A hostile guest: memory of a real one with mutations where insight reads, and memory of nothing but noise. Whatever is
//! in there, readers end in time with a value or a reason.
//!
//! What a clean run reads is recorded, and mutations go there: at random places a fuzzer would hit free memory. The kernel
//! file is mutated too, in its headers and where its compressed kernel begins.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use insight::hidden::Depth;
use insight::integrity::Scope;
use insight::{
    Account, Extent, Kernel, KernelImage, Limits, Look, Memory, Registers, Unreadable,
    attach_within,
};
use x86::Gpa;

use crate::guest::Guest;

/// What one look may cost here.
const LIMITS: Limits = Limits {
    bytes: 512 << 20,
    reads: 2_000_000,
    time: Duration::from_secs(2),
};
/// How long it may take at most, on a machine that does other things too.
const TOO_LONG: Duration = Duration::from_secs(40);
/// How much of what is read a clean run remembers.
const MAX_READS: usize = 1 << 20;
/// One guest of so many is compared with its baseline: a finding is looked at again after a pause.
const COMPARED: u64 = 8;

/// A small generator that needs no crate (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Captured memory with changes on top.
struct Captured {
    bytes: Vec<u8>,
    /// Words that were changed: where, and to what.
    changes: Mutex<Vec<(u64, u64)>>,
    /// What was read, while it is recorded.
    reads: Mutex<Option<Vec<(u64, usize)>>>,
}

impl Memory for Captured {
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), Unreadable> {
        let start = usize::try_from(gpa.0).map_err(|_| Unreadable::NoMemory(gpa))?;
        let end = start
            .checked_add(bytes.len())
            .filter(|end| *end <= self.bytes.len());
        bytes.copy_from_slice(&self.bytes[start..end.ok_or(Unreadable::NoMemory(gpa))?]);
        if let Some(reads) = self.reads.lock().unwrap().as_mut()
            && reads.len() < MAX_READS
        {
            reads.push((gpa.0, bytes.len()));
        }
        for (at, word) in self.changes.lock().unwrap().iter() {
            for (byte, at) in word.to_le_bytes().into_iter().zip(*at..) {
                if let Some(place) = at
                    .checked_sub(gpa.0)
                    .and_then(|at| bytes.get_mut(at as usize))
                {
                    *place = byte;
                }
            }
        }
        Ok(())
    }

    fn extents(&self) -> Vec<Extent> {
        vec![Extent {
            start: Gpa(0),
            len_bytes: self.bytes.len() as u64,
        }]
    }

    /// What is recorded is what was wanted, not a page around it.
    fn is_cheap(&self) -> bool {
        true
    }
}

/// Nothing but noise, the same for the same seed.
struct Noise(u64);

impl Memory for Noise {
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), Unreadable> {
        for (byte, at) in bytes.iter_mut().zip(gpa.0..) {
            *byte = Random(self.0 ^ (at / 8)).next().to_le_bytes()[(at % 8) as usize];
        }
        Ok(())
    }

    fn extents(&self) -> Vec<Extent> {
        vec![Extent {
            start: Gpa(0),
            len_bytes: 1 << 20,
        }]
    }
}

/// Everything that can be read.
fn read_everything(look: &Look<'_>) {
    look.processes();
    look.modules();
    look.memory_counters();
    look.system();
    look.kernel_log();
    look.cpu_times();
    look.sockets();
    look.mounts();
    look.hidden_tasks(Depth::Slabs);
    look.hidden_modules();
    look.unknown_spaces();
    look.running_tasks();
    look.code_pages();
    look.private_kernels();
    look.strange_credentials();
    look.strange_threads();
    look.uncounted_memory();
}

fn look_at_everything(kernel: &Kernel, registers: &[Registers]) {
    // One after the other: what uses up its limits must not keep the rest from being tried.
    type Reader = fn(&Look<'_>);
    let readers: [Reader; 11] = [
        |look| drop(look.processes()),
        |look| drop(look.modules()),
        |look| drop((look.memory_counters(), look.cpu_times())),
        |look| drop(look.system()),
        |look| drop(look.kernel_log()),
        |look| drop(look.sockets()),
        |look| drop(look.mounts()),
        |look| drop((look.hidden_tasks(Depth::Slabs), look.running_tasks())),
        |look| drop((look.hidden_modules(), look.unknown_spaces())),
        |look| drop((look.code_pages(), look.private_kernels(), look.panic())),
        |look| {
            drop((look.strange_credentials(), look.strange_threads()));
            drop((look.uncounted_memory(), look.listed_free_bytes()));
        },
    ];
    for reader in readers {
        let account = Account::new(LIMITS);
        reader(&kernel.look(&account, registers));
    }
}

/// A baseline of the clean guest, and a copy for each check: what a hostile guest adds to it is not for the next one.
struct Baseline {
    clean: PathBuf,
    work: PathBuf,
}

impl Baseline {
    /// Takes it; a guest whose code was changed where `change` says has the tables read that explain changes.
    fn take(
        memory: &Captured,
        kernel: &Kernel,
        registers: &[Registers],
        folder: &Path,
    ) -> Baseline {
        let baseline = Baseline {
            clean: folder.join("clean"),
            work: folder.join("work"),
        };
        let account = Account::new(LIMITS);
        let look = kernel.look(&account, registers);
        let first = look
            .integrity(&baseline.clean, "1", Scope::All)
            .into_value()
            .unwrap();
        assert!(first.is_first && first.findings.is_empty(), "{first:?}");
        let code = look
            .physical(kernel.address("do_syscall_64").unwrap())
            .unwrap();
        memory.changes.lock().unwrap().push((code.0 & !7, 0));
        baseline.compare(kernel, registers);
        memory.changes.lock().unwrap().clear();
        baseline
    }

    fn compare(&self, kernel: &Kernel, registers: &[Registers]) {
        fs::create_dir_all(&self.work).unwrap();
        for name in ["integrity.head", "integrity.text"] {
            fs::copy(self.clean.join(name), self.work.join(name)).unwrap();
        }
        let account = Account::new(LIMITS);
        kernel
            .look(&account, registers)
            .integrity(&self.work, "1", Scope::All);
    }
}

fn word_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .map_or(0, |word| u64::from_le_bytes(word.try_into().unwrap()))
}

/// A word that is likely to lead somewhere bad.
fn evil(random: &mut Random, memory: &Captured, reads: &[(u64, usize)]) -> u64 {
    let elsewhere = |random: &mut Random| {
        let (at, len) = reads[random.below(reads.len())];
        word_at(&memory.bytes, at as usize + random.below(len) / 8 * 8)
    };
    match random.below(8) {
        0 => random.next(),
        1 => 0,
        2 => u64::MAX >> random.below(64),
        3 => 1 << random.below(64),
        4 => random.next() | 0xffff_8880_0000_0000,
        // A number or a pointer that makes sense somewhere else.
        5 | 6 => elsewhere(random),
        _ => elsewhere(random)
            .wrapping_add(random.next() % 4096)
            .wrapping_sub(2048),
    }
}

/// The kernel file that the guest was loaded from.
fn kernel_file(guest: &Guest) -> Vec<u8> {
    let (file, _) = guest.client().memory().unwrap().kernel.unwrap();
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Reads a kernel file that was damaged: where its header is, where the compressed kernel begins, or anywhere.
fn damaged_file(random: &mut Random, file: &[u8]) {
    let mut bytes = file.to_vec();
    for _ in 0..1 + random.below(4) {
        let head = [0x300, 0x1_0000, file.len()][random.below(3)];
        let at = random.below(head.min(file.len()));
        bytes[at] = [0, 1, 0x7f, 0x80, 0xff, random.next() as u8][random.below(6)];
    }
    if random.below(8) == 0 {
        bytes.truncate(random.below(file.len()));
    }
    if let Ok(image) = KernelImage::decode(&bytes) {
        let _ = insight::profile::Profile::decode(image.as_image());
    }
}

/// Captures a guest, then mutates for so long. Returns how many guests were tried.
pub fn run(guest: &mut Guest, seconds: u64, cache: &Path) -> u64 {
    guest.ask("sleep 1000 & sleep 1000 & for module in /modules/*.ko; do insmod $module 2>/dev/null; done");
    let registers = guest.registers();
    let live = guest.memory();
    let len = live.extents()[0].len_bytes as usize;
    let mut bytes = vec![0; len];
    live.read(Gpa(0), &mut bytes).unwrap();
    let memory = Arc::new(Captured {
        bytes,
        changes: Mutex::default(),
        reads: Mutex::new(Some(Vec::new())),
    });
    let loaded = guest.loaded(Some(cache));
    let file = kernel_file(guest);
    let own = attach_within(memory.clone(), &registers, None, LIMITS).unwrap();
    let kernel = attach_within(memory.clone(), &registers, Some(&loaded), LIMITS).unwrap();
    assert!(
        own.profile() == kernel.profile(),
        "one kernel, seen two ways"
    );
    let attach_reads = memory.reads.lock().unwrap().replace(Vec::new()).unwrap();
    let account = Account::new(LIMITS);
    read_everything(&kernel.look(&account, &registers));
    let baseline = Baseline::take(&memory, &kernel, &registers, cache);
    let reads = memory.reads.lock().unwrap().take().unwrap();
    let seed = std::env::var("MOTHER_FUZZ_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    // The same in every test run, so that what fails is news; `cargo xtask fuzz` brings another each time.
    let mut seed: u64 = seed.unwrap_or(1 << 32);
    crate::say(&format!("{} reads to mutate, seed {seed}", reads.len()));
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut tried = 0;
    while Instant::now() < deadline {
        let mut random = Random(seed);
        let start = Instant::now();
        // Known if this never comes back or panics.
        fs::write(cache.join("seed"), seed.to_string()).unwrap();
        let is_attach = tried % 16 == 0;
        let places = if is_attach { &attach_reads } else { &reads };
        let changes = (0..1 + random.below(12)).map(|_| {
            let (at, len) = places[random.below(places.len())];
            (
                at + (random.below(len) as u64 & !7),
                evil(&mut random, &memory, &reads),
            )
        });
        *memory.changes.lock().unwrap() = changes.collect();
        if tried % 64 == 1 {
            let noise = Arc::new(Noise(seed));
            assert!(
                attach_within(noise, &registers, None, LIMITS).is_err(),
                "seed {seed}: noise is no kernel"
            );
        } else if tried % 64 == 33 {
            damaged_file(&mut random, &file);
        } else if is_attach {
            // By the kernel file and by memory alone: both ways read the guest.
            let loaded = (tried % 32 == 0).then_some(&loaded);
            if let Ok(kernel) = attach_within(memory.clone(), &registers, loaded, LIMITS) {
                look_at_everything(&kernel, &registers);
            }
        } else if tried % COMPARED == COMPARED - 1 {
            baseline.compare(&kernel, &registers);
        } else {
            look_at_everything(&kernel, &registers);
        }
        assert!(
            start.elapsed() < TOO_LONG,
            "seed {seed} took {:?}",
            start.elapsed()
        );
        tried += 1;
        seed += 1;
    }
    tried
}
