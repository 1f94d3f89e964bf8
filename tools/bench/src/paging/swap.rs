//! The same work in a guest of ours with a limit, and in one of QEMU's in a memory cgroup that makes the host swap it.
//!
//! QEMU's own memory counts in its cgroup, so it gets what it holds beside a small guest on top of the limit. Each is also
//! measured without a limit: the two programs execute guests at different speeds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fixtures::Qemu;
use images::{Cache, DefaultGuest};

use super::guest::Guest;
use crate::qemu::limited;
use crate::qemu::qemu as get_qemu;

const MEMORY: &str = "512M";
/// What may be resident.
const LIMIT_BYTES: u64 = 128 << 20;
/// What QEMU holds for itself: translated code up to 32 MiB, and the rest of it.
const QEMU_BYTES: u64 = 64 << 20;
/// Room to swap to.
const SWAP_BYTES: u64 = 1 << 30;
const LIMIT: Duration = Duration::from_secs(120);

/// Fills 256 MiB, then reads them twice; then works on a little. Times by the guest's clock.
const WORK: &str = "mount -t tmpfs -o size=400m none /mnt; now() { cut -d' ' -f1 /proc/uptime; }
a=$(now); i=0; while [ $i -lt 16 ]; do (echo $i; cat /bin/busybox; head -c 2097152 /dev/urandom; yes $i) | head -c 16777216 > /mnt/f$i; i=$((i+1)); done
b=$(now); cat /mnt/* | md5sum; cat /mnt/* | md5sum
c=$(now); i=0; while [ $i -lt 20 ]; do md5sum /bin/busybox; i=$((i+1)); done > /dev/null
d=$(now); echo took $a $b $c $d
";
const PHASES: [&str; 3] = ["fill 256 MiB", "read them twice", "work on 2 MiB"];

/// Prints the comparison. Nothing is promised of it.
pub fn compare() -> Result<bool> {
    let qemu = get_qemu()?;
    println!(
        "swap: 512 MiB, {} MiB may be resident, seconds",
        LIMIT_BYTES >> 20
    );
    let group = match Group::new() {
        Ok(group) => Some(group),
        Err(error) => {
            println!("  QEMU cannot be made to swap here: {error:#}");
            None
        }
    };
    let guest = Cache::of_user()?.default_guest(&mut |_| {})?;
    let limit = format!("{}K", LIMIT_BYTES / 1024);
    let ours = [mother(&[])?, mother(&["--resident-limit", &limit])?];
    print("mother", &ours);
    if let Some(group) = group {
        let theirs = [
            in_qemu(&qemu, &guest, None)?,
            in_qemu(&qemu, &guest, Some(&group))?,
        ];
        print("QEMU's TCG, in a cgroup", &theirs);
        println!("  QEMU's cgroup held at most {} MiB", group.most()? >> 20);
    }
    Ok(true)
}

fn print(name: &str, runs: &[[f64; 3]; 2]) {
    println!(
        "  {name:<26}{:>12}{:>12}{:>10}",
        "no limit", "limit", "ratio"
    );
    for ((phase, free), limited) in PHASES.iter().zip(runs[0]).zip(runs[1]) {
        println!(
            "    {phase:<24}{free:>12.2}{limited:>12.2}{:>10.2}",
            limited / free
        );
    }
}

fn mother(words: &[&str]) -> Result<[f64; 3]> {
    work(Guest::start(
        "bench-swap",
        &[&["--memory", MEMORY], words].concat(),
        LIMIT,
    )?)
}

fn in_qemu(qemu: &Qemu, guest: &DefaultGuest, group: Option<&Group>) -> Result<[f64; 3]> {
    let mut shell = Command::new("sh");
    let enter = match group {
        Some(group) => format!("echo $$ > {}/cgroup.procs && ", group.folder.display()),
        None => String::new(),
    };
    let qemu = qemu.command();
    shell
        .args(["-c", &format!("{enter}exec \"$@\""), "sh"])
        .arg(qemu.get_program())
        .args(qemu.get_args());
    shell.envs(
        qemu.get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let mut command = limited(&LIMIT.as_secs().to_string(), &shell);
    command.args(["-accel", "tcg,tb-size=32", "-cpu", "max"]);
    command.args([
        "-M",
        "q35",
        "-m",
        MEMORY,
        "-smp",
        "1",
        "-nodefaults",
        "-display",
        "none",
        "-monitor",
        "none",
    ]);
    command.args([
        "-serial",
        "stdio",
        "-no-reboot",
        "-append",
        "console=ttyS0 rdinit=/pipe panic=-1",
    ]);
    command
        .arg("-kernel")
        .arg(&guest.kernel)
        .arg("-initrd")
        .arg(&guest.initrd);
    let mut guest = Guest::spawn(command)?;
    // What is typed before somebody reads is lost here.
    guest.hear("mother: /init started")?;
    work(guest)
}

fn work(mut guest: Guest) -> Result<[f64; 3]> {
    guest.say(WORK)?;
    let said = guest.hear("took")?;
    guest.finish()?;
    let times: Vec<f64> = said
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    let &[a, b, c, d] = &times[..] else {
        bail!("the guest said \"{said}\" where times were expected")
    };
    Ok([b - a, c - b, d - c])
}

/// A memory cgroup of version 1 or 2, and swap for it. Both are gone when this is dropped.
struct Group {
    folder: PathBuf,
    swap: PathBuf,
}

impl Group {
    fn new() -> Result<Group> {
        let (root, limit) = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ]
        .into_iter()
        .find(|(root, _)| Path::new(root).join("cgroup.procs").exists())
        .context("there is no memory cgroup")?;
        let folder = Path::new(root).join(format!("mother-bench-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        let swap = std::env::temp_dir().join(format!("mother-bench-swap-{}", std::process::id()));
        let group = Group { folder, swap };
        let bytes = (LIMIT_BYTES + QEMU_BYTES).to_string();
        fs::write(group.folder.join(limit), bytes).with_context(|| format!("set {limit}"))?;
        group.swap_on()?;
        Ok(group)
    }

    fn swap_on(&self) -> Result<()> {
        let line = "fallocate -l \"$1\" \"$0\" && chmod 600 \"$0\" && mkswap \"$0\" >/dev/null && swapon \"$0\"";
        let mut command = Command::new("sh");
        command
            .args(["-c", line])
            .arg(&self.swap)
            .arg(SWAP_BYTES.to_string());
        ensure!(
            command.status()?.success(),
            "`swapon` does not take a file of {} MiB",
            SWAP_BYTES >> 20
        );
        Ok(())
    }

    /// The most that it held.
    fn most(&self) -> Result<u64> {
        let names = ["memory.max_usage_in_bytes", "memory.peak"];
        let text = names
            .iter()
            .find_map(|name| fs::read_to_string(self.folder.join(name)).ok());
        text.context("the cgroup does not say what it held")?
            .trim()
            .parse()
            .context("a number of bytes")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = Command::new("swapoff").arg(&self.swap).status();
        let _ = fs::remove_file(&self.swap);
        let _ = fs::remove_dir(&self.folder);
    }
}
