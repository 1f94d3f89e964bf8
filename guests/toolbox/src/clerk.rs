//! Works with a disk inside a guest: measures it for whoever watches the console, writes records and says which are
//! durable, and reads them again.
//!
//! `clerk measure DEVICE` overwrites a block device without the page cache (`O_DIRECT`) and prints a line when each
//! measurement begins and when it ends; the watcher's clock counts, the guest's only decides how long to go on.
//! `clerk write FOLDER` writes record after record and, each time `fsync` has come back, says up to which. `clerk
//! verify FOLDER` reads the records and says up to which they are whole.
#![forbid(unsafe_code)]

use std::env::args;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// `O_DIRECT` (open(2)) on x86.
const DIRECT: i32 = 0o40000;
/// What direct transfers are aligned to.
const ALIGN: usize = 4096;
/// One sequential transfer.
const LARGE: usize = 1 << 20;
/// One random transfer.
const SMALL: usize = 4096;
/// How long each measurement takes.
const SPAN: Duration = Duration::from_secs(2);
/// Threads that share the disk in the last measurement.
const READERS: u64 = 4;

/// Bytes of a record: its number, again and again.
const RECORD: usize = 16384;
/// Records in a file.
const RECORDS_PER_FILE: u64 = 16;

pub(crate) fn main() -> ExitCode {
    let words: Vec<String> = args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["measure", device] => measure(device),
        ["write", folder] => write_records(Path::new(folder)),
        ["verify", folder] => verify_records(Path::new(folder)),
        _ => Err(io::Error::other(
            "usage: clerk measure DEVICE | write FOLDER | verify FOLDER",
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("clerk: failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A line, on the console before anything else happens.
fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// A buffer with room for an aligned part, and where that starts.
fn aligned(len: usize, byte: u8) -> (Vec<u8>, usize) {
    let buffer = vec![byte; len + ALIGN];
    let start = buffer.as_ptr().align_offset(ALIGN);
    (buffer, start)
}

fn measure(device: &str) -> io::Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(DIRECT)
        .open(device)?;
    let size = io::Seek::seek(&mut &file, io::SeekFrom::End(0))?;
    let large = size / LARGE as u64;
    let small = size / SMALL as u64;
    // Writes come first: what is read afterwards is there on the host, not a hole.
    timed("sequential-write", LARGE, |n, buffer| {
        file.write_all_at(buffer, n % large * LARGE as u64)
    })?;
    timed("sequential-read", LARGE, |n, buffer| {
        file.read_exact_at(buffer, n % large * LARGE as u64)
    })?;
    timed("random-write", SMALL, |n, buffer| {
        file.write_all_at(buffer, mix(n) % small * SMALL as u64)
    })?;
    timed("random-read", SMALL, |n, buffer| {
        file.read_exact_at(buffer, mix(n) % small * SMALL as u64)
    })?;
    several_readers(&file, small)
}

/// Different places all over the disk, the same ones every time.
fn mix(n: u64) -> u64 {
    let x = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 13
}

fn timed(
    name: &str,
    len: usize,
    mut act: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> io::Result<()> {
    let (mut buffer, start) = aligned(len, 0x6d);
    let part = &mut buffer[start..start + len];
    say(&format!("clerk: begin {name}"))?;
    let begin = Instant::now();
    let mut count = 0;
    while begin.elapsed() < SPAN {
        act(count, part)?;
        count += 1;
    }
    say(&format!("clerk: end {name} {count} {}", count * len as u64))
}

/// Random reads that wait in the queue together.
fn several_readers(file: &File, small: u64) -> io::Result<()> {
    let name = "random-read-4";
    say(&format!("clerk: begin {name}"))?;
    let counts: io::Result<Vec<u64>> = std::thread::scope(|scope| {
        let read = |reader: u64| {
            move || {
                let (mut buffer, start) = aligned(SMALL, 0);
                let begin = Instant::now();
                let mut count = 0;
                while begin.elapsed() < SPAN {
                    let place = mix(count * READERS + reader) % small * SMALL as u64;
                    file.read_exact_at(&mut buffer[start..start + SMALL], place)?;
                    count += 1;
                }
                Ok(count)
            }
        };
        let threads: Vec<_> = (0..READERS)
            .map(|reader| scope.spawn(read(reader)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a reader does not panic"))
            .collect()
    });
    let count: u64 = counts?.iter().sum();
    say(&format!(
        "clerk: end {name} {count} {}",
        count * SMALL as u64
    ))
}

fn record(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(RECORD / 8)
}

fn name_of(folder: &Path, number: u64) -> std::path::PathBuf {
    folder.join(format!("records-{:06}", number / RECORDS_PER_FILE))
}

fn write_records(folder: &Path) -> io::Result<()> {
    for number in 0.. {
        let path = name_of(folder, number);
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        (&file).write_all(&record(number))?;
        file.sync_all()?;
        if number % RECORDS_PER_FILE == 0 {
            // A new file is there when its folder says so.
            File::open(folder)?.sync_all()?;
        }
        say(&format!("clerk: durable {number}"))?;
    }
    Ok(())
}

fn verify_records(folder: &Path) -> io::Result<()> {
    for number in 0.. {
        let mut bytes = vec![0; RECORD];
        let read = File::open(name_of(folder, number)).and_then(|file| {
            file.read_exact_at(&mut bytes, number % RECORDS_PER_FILE * RECORD as u64)
        });
        if read.is_err() || bytes != record(number) {
            return say(&format!("clerk: whole {number}"));
        }
    }
    Ok(())
}
