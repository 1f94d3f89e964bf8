//! `cargo xtask soak paging`: a guest that checksums all its memory, what it gets over its network and what it wrote to
//! its disk, while the limit of what the host may hold of it moves up and down.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use api::{HostBooks, VmName};
use fleet::{Client, Inventory};

use crate::boot::build_mother;
use crate::paging::{Guest, mother};

const NAME: &str = "soak-paging";
const MEMORY_BYTES: u64 = 512 << 20;
/// What moves: a tenth first, whose keeping is measured.
const TENTH: &str = "10%";
const LIMITS: [&str; 8] = [TENTH, "60%", "none", TENTH, "25%", "100%", "40M", "200M"];
/// How long each limit stays.
const STAY: Duration = Duration::from_secs(4);
/// What goes over the network at a time.
const SENT_BYTES: usize = 3 << 20;
/// How long the guest may take to end its rounds with a tenth of its memory, and to start.
const PATIENCE: Duration = Duration::from_secs(240);

const WORK: &str = include_str!("soak.sh");

/// What came over the network.
#[derive(Default)]
struct Traffic {
    given: AtomicU64,
    right: AtomicU64,
    wrong: AtomicU64,
}

/// Runs it for so many minutes; `true` if nothing was wrong.
pub fn paging(words: &[&str]) -> Result<bool> {
    let minutes: u64 = match words {
        [] => 10,
        ["--minutes", number] => number.parse().context("a number of minutes")?,
        _ => bail!("the only option is --minutes N"),
    };
    build_mother()?;
    let time = Duration::from_secs(minutes * 60);
    let folder = std::env::temp_dir().join(format!("mother-soak-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let disk = folder.join("disk.raw");
    fs::File::create(&disk)?.set_len(16 << 20)?;
    let traffic = Arc::new(Traffic::default());
    let ports = serve(&traffic)?;
    let disk = format!("{},format=raw", disk.display());
    let pages = folder.display().to_string();
    let words = [
        "--memory",
        "512M",
        "--cpus",
        "2",
        "--disk",
        &disk,
        "--net",
        "user,host",
    ];
    let store = ["--page-memory", "64M", "--page-file", &pages];
    let mut guest = Guest::start(NAME, &[&words[..], &store].concat(), time + 2 * PATIENCE)?;
    let done = soak(&mut guest, time, ports, &traffic);
    let _ = guest.finish();
    let left: Vec<_> = fs::read_dir(&folder)?
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    fs::remove_dir_all(&folder)?;
    ensure!(
        left == ["disk.raw"],
        "the page file left something: {left:?}"
    );
    done
}

fn soak(
    guest: &mut Guest,
    time: Duration,
    (source, sink): (u16, u16),
    traffic: &Traffic,
) -> Result<bool> {
    let work = WORK
        .replace("@SOURCE@", &source.to_string())
        .replace("@SINK@", &sink.to_string());
    guest.say(&work)?;
    guest.hear("working")?;
    println!(
        "soak: 512 MiB, 2 vCPUs, 320 MiB of files read by two, network and disk beside; {time:.0?}"
    );
    let start = Instant::now();
    let mut moves = 0;
    let mut most = 0.0_f64;
    for limit in LIMITS.iter().cycle() {
        if start.elapsed() >= time {
            break;
        }
        mother(&["limit", NAME, "--resident", limit])?;
        moves += 1;
        let until = Instant::now() + STAY;
        while Instant::now() < until {
            if *limit == TENTH {
                let allowed = MEMORY_BYTES / 100 * 10;
                most = most.max(books()?.memory.resident_bytes as f64 / allowed as f64);
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
    mother(&["limit", NAME, "--resident", "50%"])?;
    guest.say("finish")?;
    let said = guest.hear("counted")?;
    let books = books()?;
    println!(
        "  {moves} changes of the limit in {:.0?}; rounds: {said}",
        start.elapsed()
    );
    let given = traffic.given.load(Ordering::Relaxed);
    let right = traffic.right.load(Ordering::Relaxed);
    let wrong = traffic.wrong.load(Ordering::Relaxed);
    println!("  network: {given} times given, {right} times back as given, {wrong} not");
    println!(
        "  at {TENTH} at most {:.1} % of the limit resident",
        most * 100.0
    );
    print_paging(&books);
    let counts: Vec<u64> = said
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    let worked = counts.len() == 4 && counts[..3].iter().all(|count| *count > 0) && right > 0;
    Ok(worked && counts[3] == 0 && wrong == 0 && most <= 1.02)
}

/// What the pager counted.
fn print_paging(books: &HostBooks) {
    if let Some(paging) = &books.memory.paging {
        let counters: Vec<String> = paging
            .counters
            .iter()
            .map(|counter| format!("{} {}", counter.name, counter.value))
            .collect();
        println!("  {}", counters.join(", "));
        println!(
            "  store {:.1} MiB of memory, {:.1} MiB of file; pager {:.0} s of CPU",
            paging.store_memory_bytes as f64 / 1048576.0,
            paging.store_file_bytes as f64 / 1048576.0,
            paging.cpu_seconds
        );
    }
}

fn books() -> Result<HostBooks> {
    let name = VmName::new(NAME).map_err(|error| anyhow::anyhow!(error.what))?;
    Ok(Client::connect(&Inventory::of_user()?.record(&name))?.books()?)
}

/// Two services on the loopback for as long as we run: one gives bytes, the other compares what it gets with them.
fn serve(traffic: &Arc<Traffic>) -> Result<(u16, u16)> {
    let bytes: Arc<Vec<u8>> = {
        let mut random = vec![0; SENT_BYTES];
        fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
        Arc::new(random)
    };
    let giver = TcpListener::bind("127.0.0.1:0")?;
    let taker = TcpListener::bind("127.0.0.1:0")?;
    let ports = (giver.local_addr()?.port(), taker.local_addr()?.port());
    let counts = Arc::clone(traffic);
    let given = Arc::clone(&bytes);
    thread::spawn(move || {
        giver.incoming().flatten().for_each(|stream| {
            if give(stream, &given).is_ok() {
                counts.given.fetch_add(1, Ordering::Relaxed);
            }
        });
    });
    let counts = Arc::clone(traffic);
    thread::spawn(move || {
        taker.incoming().flatten().for_each(|mut stream| {
            let mut got = Vec::new();
            let is_right = stream.read_to_end(&mut got).is_ok() && got == *bytes;
            let counter = if is_right {
                &counts.right
            } else {
                &counts.wrong
            };
            counter.fetch_add(1, Ordering::Relaxed);
        });
    });
    Ok(ports)
}

fn give(mut stream: TcpStream, bytes: &[u8]) -> Result<()> {
    stream.write_all(bytes)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    while stream.read(&mut [0; 64])? > 0 {}
    Ok(())
}
