//! The disk's part of `cargo xtask bench io`: the same file, kernel and program in the guest on the software CPU and
//! on QEMU's TCG, turn and turn about.
//!
//! Both have the file as a virtio-blk disk through the host's page cache with write-back, and the guest goes past its
//! own cache. The program in the guest (`guests/toolbox/src/clerk.rs`) prints when a measurement begins and ends; the times are those
//! at which we read that.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fixtures::Qemu;
use images::{Cache, DefaultGuest};

use crate::boot::build_mother;
use crate::qemu::{MEMORY, limited, qemu, qemu_command};
use crate::runs::median;
use crate::workspace;

const COMMAND_LINE: &str = "console=ttyS0 quiet rdinit=/io";
const DISK_BYTES: u64 = 512 << 20;
/// A guest that takes longer than this hangs.
const LIMIT_SECONDS: &str = "120";

/// What is measured, in the guest's words, and how it is shown.
const MEASUREMENTS: [(&str, &str, Unit); 5] = [
    ("sequential-read", "sequential read, MiB/s", Unit::Mib),
    ("sequential-write", "sequential write, MiB/s", Unit::Mib),
    ("random-read", "random 4K read, per second", Unit::Count),
    ("random-write", "random 4K write, per second", Unit::Count),
    (
        "random-read-4",
        "random 4K read by 4, per second",
        Unit::Count,
    ),
];

#[derive(Clone, Copy)]
enum Unit {
    Mib,
    Count,
}

/// Rate of each measurement, by its name in the guest.
type Rates = BTreeMap<String, f64>;

/// Prints the comparison; whether nothing is slower.
pub fn compare(run_count: usize) -> Result<bool> {
    let qemu = qemu()?;
    let mother = build_mother()?;
    let guest = Cache::of_user()?.default_guest(&mut |_| {})?;
    println!(
        "virtio-blk, raw file of {} MiB, write-back through the host's cache, O_DIRECT in the guest;\n{} with {MEMORY}, \
         1 vCPU, {run_count} runs each, in turns",
        DISK_BYTES >> 20,
        guest.kernel_package
    );
    let disk = DiskFile::new()?;
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..run_count {
        ours.push(run(&mut mother_command(&mother, &guest, &disk.0)).context("on `mother`")?);
        theirs.push(run(&mut qemu_with_disk(&qemu, &guest, &disk.0)).context("on QEMU")?);
    }
    println!(
        "\n{:<34}{:>10}{:>10}{:>12}",
        "medians", "soft", "tcg", "soft / tcg"
    );
    let mut is_fast = true;
    for (name, title, _) in MEASUREMENTS {
        let middle = |runs: &[Rates]| median(runs.iter().map(|run| run[name]).collect());
        let our = middle(&ours);
        let their = middle(&theirs);
        is_fast &= our >= their;
        println!("{title:<34}{our:>10.0}{their:>10.0}{:>12.2}", our / their);
    }
    println!(
        "\nno slower than tcg: {}",
        if is_fast { "yes" } else { "NO" }
    );
    Ok(is_fast)
}

/// The file under the disk, gone afterwards.
struct DiskFile(PathBuf);

impl DiskFile {
    fn new() -> Result<DiskFile> {
        let path = workspace::root().join(format!("target/bench-disk-{}.raw", std::process::id()));
        let mut file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
        let disk = DiskFile(path);
        // Every byte is there before the first run, which would otherwise pay for it.
        let piece = vec![0x6d; 1 << 20];
        for _ in 0..DISK_BYTES / piece.len() as u64 {
            file.write_all(&piece)?;
        }
        file.sync_all()?;
        Ok(disk)
    }
}

impl Drop for DiskFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn mother_command(mother: &Path, guest: &DefaultGuest, disk: &Path) -> Command {
    let mut command = limited(LIMIT_SECONDS, &Command::new(mother));
    command.args([
        "run",
        "--engine",
        "soft",
        "--memory",
        MEMORY,
        "--cmdline",
        COMMAND_LINE,
    ]);
    command
        .arg("--kernel")
        .arg(&guest.kernel)
        .arg("--initrd")
        .arg(&guest.initrd);
    command
        .arg("--disk")
        .arg(format!("{},format=raw", disk.display()));
    command
}

fn qemu_with_disk(qemu: &Qemu, guest: &DefaultGuest, disk: &Path) -> Command {
    let mut command = limited(LIMIT_SECONDS, &qemu_command(qemu, guest, COMMAND_LINE));
    command.arg("-drive");
    command.arg(format!(
        "file={},format=raw,if=none,id=disk,cache=writeback",
        disk.display()
    ));
    command.args(["-device", "virtio-blk-pci,drive=disk,disable-legacy=on"]);
    command
}

/// Runs one guest and takes the times of what it measures.
fn run(command: &mut Command) -> Result<Rates> {
    let spawned = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child =
        spawned.with_context(|| format!("start {}", command.get_program().display()))?;
    let output = child
        .stdout
        .take()
        .context("the output was asked for as a pipe")?;
    let mut rates = Rates::new();
    let mut begun: Option<(String, Instant)> = None;
    let mut last = String::new();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let now = Instant::now();
        let line = String::from_utf8_lossy(&line);
        let words: Vec<&str> = line.split_whitespace().collect();
        match (words.as_slice(), &begun) {
            (["clerk:", "begin", name], _) => begun = Some(((*name).to_owned(), now)),
            (["clerk:", "end", name, count, bytes], Some((open, start))) if open == name => {
                rates.insert((*name).to_owned(), rate(name, count, bytes, now - *start)?);
            }
            (["clerk:", ..], _) => bail!("the guest said: {line}"),
            _ => {}
        }
        last = line.into_owned();
    }
    child.wait()?;
    let missing = MEASUREMENTS
        .iter()
        .find(|(name, ..)| !rates.contains_key(*name));
    ensure!(
        missing.is_none(),
        "the guest ended early; its last line: {last}"
    );
    Ok(rates)
}

fn rate(name: &str, count: &str, bytes: &str, took: Duration) -> Result<f64> {
    let unit = MEASUREMENTS
        .iter()
        .find(|(known, ..)| known == &name)
        .map(|(.., unit)| *unit);
    let amount = match unit.with_context(|| format!("the guest measured {name}"))? {
        Unit::Mib => bytes.parse::<f64>()? / f64::from(1 << 20),
        Unit::Count => count.parse::<f64>()?,
    };
    Ok(amount / took.as_secs_f64())
}
