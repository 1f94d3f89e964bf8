//! `cargo xtask bench neighbour`: what a guest gets beside a hostile one, against what it gets beside an honest busy one.
//!
//! All on one core: a guest that does honest work and prints a point for each piece of it, one that is busy with the same, and
//! one after the other those that do harm at full tilt. All have the same weight. The two neighbours take turns: one is paused
//! while the other runs, hostile and honest in pairs, each first every second time, so that what else the machine does falls
//! on both alike. Meanwhile both control sockets that are in use are asked for their status, on another core.
//!
//! Two figures, because other programs may want the core too. *By the clock*: pieces of work per second. *Of what both had*:
//! pieces of work for each second of CPU time that the two guests used together, which no third program changes, but which
//! does not see what the host's kernel does on nobody's account.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use api::{Command as Order, VmName, VmStatus};
use fleet::{Client, Inventory};
use proof::bare::GUESTS;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::boot::build_mother;
use crate::runs::median;
use crate::workspace;

/// Pairs for each flood if not told otherwise.
const PAIRS: usize = 8;
/// How long each of a pair is looked at, and how long it runs before.
const WINDOW: Duration = Duration::from_millis(1500);
const SETTLE: Duration = Duration::from_millis(300);
/// How long a guest of Linux may take to be at what it does, on half a core.
const BOOT: Duration = Duration::from_secs(8);
/// What is promised.
const LEAST: f64 = 0.95;
const ANSWER: Duration = Duration::from_millis(100);
/// How often control sockets are asked.
const BETWEEN: Duration = Duration::from_millis(50);

const WORKER: &str = "neighbour-worker";
const HONEST: &str = "neighbour-honest";
const HOSTILE: &str = "neighbour-hostile";

/// Modes of `guests/bare/flood.c`.
const BARE: [&str; 15] = [
    "console",
    "timers",
    "ticks",
    "interrupts",
    "ports",
    "registers",
    "strings",
    "faults",
    "translation",
    "rewriting",
    "spaces",
    "memory",
    "locks",
    "caches",
    "resets",
];

/// What a Linux guest does, by a name: options of `mother run`, and a command for its shell.
const LINUX: [(&str, &[&str], &str); 6] = [
    (
        "processes",
        &["--cpus", "4"],
        "for i in 1 2 3 4 5 6 7 8; do while :; do /bin/true; done & done; wait",
    ),
    (
        "disk",
        &["--disk", "@DISK@,format=raw"],
        "for i in 1 2 3 4; do while :; do dd if=/dev/zero of=/dev/vda bs=64k count=1000 oflag=direct; \
         dd if=/dev/zero of=/dev/vda bs=4k count=1000 conv=fsync; done & done; wait",
    ),
    (
        "network",
        &["--net", "user"],
        "for i in 1 2 3 4; do while :; do head -c 1000000 /dev/zero | timeout 5 nc -u -w 1 10.0.2.2 9; done & done; wait",
    ),
    (
        "stream",
        &["--console", "virtio"],
        "while :; do head -c 1000000 /dev/zero | tr '\\0' x > /dev/console; done",
    ),
    (
        "sleepers",
        &["--cpus", "4"],
        "i=0; while [ $i -lt 64 ]; do i=$((i+1)); while :; do usleep 1; done & done; wait",
    ),
    (
        "paging",
        &["--memory", "256M", "--resident-limit", "40M"],
        "mount -t tmpfs none /tmp; head -c 120000000 /dev/urandom > /tmp/a; while :; do cat /tmp/a > /dev/null; done",
    ),
];

/// The name of the flood over the socket device.
const VSOCK: &str = "vsock";

/// What one look says.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Pieces of work per second.
    by_clock: f64,
    /// Pieces of work per second of CPU time of both.
    of_both: f64,
    /// The slowest answer of a control socket.
    slowest: Duration,
}

/// Runs it; `true` if the promise holds of every flood.
pub fn run(words: &[&str]) -> Result<bool> {
    let mut pairs = PAIRS;
    let mut engine = "auto";
    let mut wanted = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--runs" => {
                let number = words.next().context("a number of pairs")?;
                pairs = number.parse::<usize>().context("a number of pairs")?.max(1);
            }
            "--engine" => engine = words.next().context("an engine")?,
            name => wanted.push(name),
        }
    }
    let known: Vec<&str> = BARE
        .into_iter()
        .chain(LINUX.map(|it| it.0))
        .chain([VSOCK])
        .collect();
    if let Some(unknown) = wanted.iter().find(|name| !known.contains(name)) {
        bail!(
            "there is no flood {unknown}; there are {}",
            known.join(", ")
        );
    }
    let floods = known
        .into_iter()
        .filter(|it| wanted.is_empty() || wanted.contains(it));
    let bench = Bench::new(engine)?;
    println!(
        "{pairs} pairs of {WINDOW:?} each; ratios hostile / honest: median, middle half of pairs"
    );
    println!(
        "{:<13}{:>26}{:>26}{:>16}",
        "flood", "by the clock", "of what both had", "slowest answer"
    );
    let mut holds = true;
    for flood in floods {
        holds &= bench.measure(flood, pairs)?;
    }
    Ok(holds)
}

/// The guests that are always there, and what they are made from.
struct Bench {
    engine: String,
    folder: tempfile::TempDir,
    all_cores: CpuSet,
}

impl Bench {
    fn new(engine: &str) -> Result<Bench> {
        build_mother()?;
        let folder = tempfile::tempdir().context("make a folder")?;
        let flood = GUESTS.iter().find(|guest| guest.name == "flood");
        flood
            .context("there is no guest of floods")?
            .build(folder.path())?;
        let bench = Bench {
            engine: engine.to_owned(),
            folder,
            all_cores: sched_getaffinity(None).context("ask for the own cores")?,
        };
        bench.start_bare(WORKER, "work")?;
        bench.start_bare(HONEST, "busy")?;
        order(HONEST, Order::Pause)?;
        Ok(bench)
    }

    /// `mother run -d` with these words, on the last core.
    fn start(&self, name: &str, words: &[&str]) -> Result<()> {
        let all = self.all_cores;
        let last = (0..CpuSet::MAX_CPU).rev().find(|core| all.is_set(*core));
        let mut one = CpuSet::new();
        one.set(last.context("there is a core")?);
        sched_setaffinity(None, &one).context("stay on a core")?;
        let mut mother = Command::new(workspace::root().join("target/release/mother"));
        mother.args([
            "run",
            "-d",
            "--name",
            name,
            "--timeout",
            "1h",
            "--engine",
            &self.engine,
        ]);
        let ran = mother.args(words).stdin(Stdio::null()).output();
        sched_setaffinity(None, &all).context("leave that core")?;
        let ran = ran.context("start mother")?;
        let said = String::from_utf8_lossy(&ran.stderr);
        ensure!(ran.status.success(), "{name} does not start: {said}");
        Ok(())
    }

    fn start_bare(&self, name: &str, mode: &str) -> Result<()> {
        let image = self.folder.path().join("flood.bin");
        let words = ["--memory", "128M", "--cmdline", mode];
        self.start(
            name,
            &[&["--kernel", &image.to_string_lossy()], &words[..]].concat(),
        )
    }

    fn start_hostile(&self, flood: &str) -> Result<()> {
        if BARE.contains(&flood) {
            return self.start_bare(HOSTILE, flood);
        }
        if flood == VSOCK {
            return self.start_vsock();
        }
        let (_, options, script) = LINUX
            .iter()
            .find(|it| it.0 == flood)
            .context("a flood of Linux")?;
        let disk = self.folder.path().join("disk");
        File::create(&disk)?.set_len(256 << 20)?;
        let put = |word: &&str| word.replace("@DISK@", &disk.to_string_lossy());
        let options: Vec<String> = options.iter().map(put).collect();
        let mut words: Vec<&str> = options.iter().map(String::as_str).collect();
        words.extend(["--", "sh", "-c", script]);
        self.start(HOSTILE, &words)?;
        thread::sleep(BOOT);
        Ok(())
    }

    /// A program that sends over the socket device, to a thread that throws it away.
    fn start_vsock(&self) -> Result<()> {
        let program = self.folder.path().join("vsock");
        let source = workspace::root().join("guests/vsock/main.c");
        let built = Command::new("cc")
            .args(["-O2", "-static", "-o"])
            .arg(&program)
            .arg(source)
            .status();
        ensure!(
            built.context("start cc")?.success(),
            "the program for the socket device does not build"
        );
        let socket = self.folder.path().join("socket");
        let _ = fs::remove_file(&socket);
        let port = self.folder.path().join("socket_7");
        let _ = fs::remove_file(&port);
        let listener = UnixListener::bind(&port).context("listen for the guest")?;
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut bytes = vec![0; 1 << 16];
                while stream.read(&mut bytes).is_ok_and(|count| count > 0) {}
            }
        });
        let socket = socket.to_string_lossy();
        let program = program.to_string_lossy();
        let words = [
            "--vsock",
            &socket,
            "--app",
            &program,
            "--",
            "send",
            "7",
            "1000000000000",
        ];
        self.start(HOSTILE, &words)?;
        thread::sleep(BOOT);
        Ok(())
    }

    /// Prints what comes of a flood; whether the promise holds.
    fn measure(&self, flood: &str, pairs: usize) -> Result<bool> {
        self.start_hostile(flood)?;
        order(HOSTILE, Order::Pause)?;
        let mut ratios: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
        let mut slowest = Duration::ZERO;
        for pair in 0..pairs {
            let first = if pair % 2 == 0 {
                [HOSTILE, HONEST]
            } else {
                [HONEST, HOSTILE]
            };
            let seen = [beside(first[0])?, beside(first[1])?];
            let [hostile, honest] = if pair % 2 == 0 {
                seen
            } else {
                [seen[1], seen[0]]
            };
            ratios[0].push(hostile.by_clock / honest.by_clock);
            ratios[1].push(hostile.of_both / honest.of_both);
            slowest = slowest.max(hostile.slowest);
        }
        // One that was ended by what it did is not there any more.
        let _ = order(HOSTILE, Order::Kill);
        forget(HOSTILE);
        let [clock, both] = ratios.map(Middle::of);
        let holds = clock.median.max(both.median) >= LEAST && slowest <= ANSWER;
        let milliseconds = slowest.as_secs_f64() * 1e3;
        let word = if holds { "" } else { "   NO" };
        println!(
            "{flood:<13}{:>26}{:>26}{milliseconds:>13.1} ms{word}",
            clock.words(),
            both.words()
        );
        Ok(holds)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for name in [WORKER, HONEST, HOSTILE] {
            let _ = order(name, Order::Kill);
            forget(name);
        }
    }
}

/// The middle of some ratios.
struct Middle {
    median: f64,
    low: f64,
    high: f64,
}

impl Middle {
    fn of(mut ratios: Vec<f64>) -> Middle {
        ratios.sort_by(f64::total_cmp);
        let quarter = ratios.len() / 4;
        Middle {
            low: ratios[quarter],
            high: ratios[ratios.len() - 1 - quarter],
            median: median(ratios),
        }
    }

    fn words(&self) -> String {
        format!("{:.3}, {:.3} to {:.3}", self.median, self.low, self.high)
    }
}

/// What the worker does while this neighbour runs.
fn beside(neighbour: &str) -> Result<Seen> {
    order(neighbour, Order::Resume)?;
    thread::sleep(SETTLE);
    let is_over = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        let asking = scope.spawn(|| ask_until(neighbour, &is_over));
        let looked = look(neighbour);
        is_over.store(true, Ordering::Relaxed);
        let slowest = asking.join().expect("who asks does not panic");
        let mut seen = looked?;
        seen.slowest = slowest?;
        anyhow::Ok(seen)
    })?;
    order(neighbour, Order::Pause)?;
    Ok(seen)
}

fn look(neighbour: &str) -> Result<Seen> {
    let books = || -> Result<(Instant, VmStatus, VmStatus)> {
        let neighbour = status(neighbour)?;
        let worker = status(WORKER)?;
        Ok((Instant::now(), worker, neighbour))
    };
    let (start, worker, other) = books()?;
    thread::sleep(WINDOW);
    let (end, worker_after, other_after) = books()?;
    let pieces = (printed(&worker_after) - printed(&worker)) as f64;
    let cpu =
        worker_after.cpu_seconds - worker.cpu_seconds + other_after.cpu_seconds - other.cpu_seconds;
    Ok(Seen {
        by_clock: pieces / (end - start).as_secs_f64(),
        of_both: pieces / cpu,
        slowest: Duration::ZERO,
    })
}

/// Asks both; how long the slowest answer took.
fn ask_until(neighbour: &str, is_over: &AtomicBool) -> Result<Duration> {
    let mut slowest = Duration::ZERO;
    while !is_over.load(Ordering::Relaxed) {
        for name in [WORKER, neighbour] {
            let start = Instant::now();
            status(name)?;
            slowest = slowest.max(start.elapsed());
        }
        thread::sleep(BETWEEN);
    }
    Ok(slowest)
}

fn client(name: &str) -> Result<Client> {
    let name = VmName::new(name).map_err(|error| anyhow::anyhow!(error.what))?;
    let record = Inventory::of_user()?.record(&name);
    Client::connect(&record).with_context(|| format!("connect to {name}"))
}

fn order(name: &str, order: Order) -> Result<()> {
    let word = format!("{order:?}");
    client(name)?
        .order(order)
        .with_context(|| format!("{word} of {name}"))
}

fn status(name: &str) -> Result<VmStatus> {
    client(name)?
        .status()
        .with_context(|| format!("the status of {name}"))
}

/// Takes away what an ended VM has left.
fn forget(name: &str) {
    let mother = workspace::root().join("target/release/mother");
    let words = ["rm", "--force", name];
    let _ = Command::new(Path::new(&mother)).args(words).output();
}

/// Bytes that the guest has printed.
fn printed(status: &VmStatus) -> u64 {
    let console = status
        .devices
        .iter()
        .find(|device| device.name == "console");
    let counter = console.and_then(|device| device.counters.first());
    counter.map_or(0, |counter| counter.value)
}
