//! `cargo xtask bench boot`: the same kernel and initrd on the software CPU and on QEMU's TCG, turn and turn about.
//!
//! Both are watched in the same way from outside: the clock starts before the process does and stops when its
//! console shows the landmark. Nothing that the VMM says about itself enters the times.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use images::{Cache, DefaultGuest};

use crate::qemu::{MEMORY, limited, qemu, qemu_command};
use crate::runs::median;
use crate::watch::{self, Boot};
use crate::workspace;
use crate::workspace::cargo;

const COMMAND_LINE: &str = "console=ttyS0 rdinit=/bench";
/// The kernel hands on what stands behind the two dashes.
const POWER_OFF: &str = "console=ttyS0 rdinit=/bin/busybox -- poweroff -f";
/// What the kernel says last.
const DOWN: &str = "Power down";
const LIMIT: Duration = Duration::from_secs(180);

/// Memory beyond guest pages that `/init` may cost, in KiB.
const MEMORY_LIMIT_KIB: u64 = 96 * 1024;

/// Prints the comparison; `true` if both promises hold: not slower, and not over the memory limit.
pub fn run(run_count: usize) -> Result<bool> {
    let qemu = qemu()?;
    let mother = build_mother()?;
    let guest = Cache::of_user()?.default_guest(&mut |_| {})?;
    println!(
        "{} with \"{COMMAND_LINE}\", {MEMORY}, 1 vCPU, {run_count} runs each",
        guest.kernel_package
    );
    println!(
        "{:<5}{:>26}{:>26}",
        "run", "soft: kernel / init", "tcg: kernel / init"
    );
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for run in 1..=run_count {
        let our = watch::boot(&mut mother_command(&mother, &guest, COMMAND_LINE), LIMIT)
            .context("boot on `mother`")?;
        let their = watch::boot(&mut qemu_command(&qemu, &guest, COMMAND_LINE), LIMIT)
            .context("boot on QEMU")?;
        println!(
            "{run:<5}{:>26}{:>26}",
            pair(our.kernel, our.init),
            pair(their.kernel, their.init)
        );
        ours.push(our);
        theirs.push(their);
    }
    Ok(summarize(&ours, &theirs))
}

/// One of a boot's times.
type Landmark = fn(&Boot) -> Duration;

fn summarize(ours: &[Boot], theirs: &[Boot]) -> bool {
    let seconds = |boots: &[Boot], of: fn(&Boot) -> Duration| {
        median(boots.iter().map(|b| of(b).as_secs_f64()).collect())
    };
    println!(
        "\n{:<34}{:>9}{:>9}{:>12}",
        "medians", "soft", "tcg", "soft / tcg"
    );
    let mut ratio = 0.0;
    let landmarks: [(&str, Landmark); 2] = [
        ("start to first kernel line, s", |boot| boot.kernel),
        ("start to /init, s", |boot| boot.init),
    ];
    for (name, of) in landmarks {
        let our = seconds(ours, of);
        let their = seconds(theirs, of);
        ratio = our / their;
        println!("{name:<34}{our:>9.2}{their:>9.2}{ratio:>12.2}");
    }
    let mut boots = ours.to_vec();
    boots.sort_by_key(|boot| boot.memory.beyond_guest());
    let memory = boots[boots.len() / 2].memory;
    println!("\nmemory of `mother` at /init (the median run), MiB");
    let mib = |kib: u64| kib as f64 / 1024.0;
    println!("{:<34}{:>9.1}", "guest pages", mib(memory.guest));
    println!(
        "{:<34}{:>9.1}",
        "beyond guest pages",
        mib(memory.beyond_guest())
    );
    let parts = [
        ("code cache", memory.code_cache),
        ("heap and tables", memory.heap),
        ("program and libraries", memory.program),
        ("main stack", memory.stacks),
    ];
    for (name, kib) in parts {
        println!("  {name:<32}{:>9.1}", mib(kib));
    }
    let fast = ratio <= 1.0;
    let small = memory.beyond_guest() < MEMORY_LIMIT_KIB;
    println!("\nnot slower than tcg: {}", yes_or_no(fast));
    println!(
        "under {} MiB beyond guest pages: {}",
        MEMORY_LIMIT_KIB / 1024,
        yes_or_no(small)
    );
    fast && small
}

fn yes_or_no(holds: bool) -> &'static str {
    if holds { "yes" } else { "NO" }
}

fn pair(kernel: Duration, init: Duration) -> String {
    format!("{:.2} / {:.2} s", kernel.as_secs_f64(), init.as_secs_f64())
}

/// Builds the command as users get it.
pub fn build_mother() -> Result<PathBuf> {
    let status = cargo(&["build", "--release", "--quiet", "--package", "cli"]).status()?;
    ensure!(status.success(), "`mother` does not build");
    Ok(workspace::root().join("target/release/mother"))
}

/// A boot of the default guest on the software CPU.
pub fn mother_command(mother: &Path, guest: &DefaultGuest, cmdline: &str) -> Command {
    let mut command = Command::new(mother);
    command.args(["run", "--engine", "soft", "--memory", MEMORY]);
    command.args(["--cmdline", cmdline]);
    command
        .arg("--kernel")
        .arg(&guest.kernel)
        .arg("--initrd")
        .arg(&guest.initrd);
    command
}

/// How long the default guest takes in this build of `mother` from the start of the process to its end, when the guest powers
/// off as soon as it can.
pub fn to_power_off(mother: &Path, guest: &DefaultGuest) -> Result<Duration> {
    let mut command = limited(
        &LIMIT.as_secs().to_string(),
        &mother_command(mother, guest, POWER_OFF),
    );
    let start = Instant::now();
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("start {}", mother.display()))?;
    let wall = start.elapsed();
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && said.contains(DOWN),
        "the guest did not power off ({}); it said: {said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(wall)
}
