//! `cargo xtask test-kvm`: the KVM engine, on a machine that has no virtualization.
//!
//! QEMU's software CPU emulates a processor with SVM and nested paging. On it boots Debian's kernel with `kvm-amd`, and
//! in that, `mother` and her guests: once with `--engine kvm`, and beside it with `--engine soft`, with the same words. What
//! the two print must be the same. Then a guest moves between them while it works.

mod folder;
mod outcome;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fixtures::{KvmHost, Qemu};
use images::{AppRequest, Cache, CacheError, DefaultGuest, InThisProcess};

pub use folder::build_for_tests;

use crate::boot::build_mother;
use crate::qemu;
use outcome::Outcome;

/// How long the nested machine may take.
const LIMIT: Duration = Duration::from_secs(25 * 60);

/// What the guest that measures exits leaves with.
const EXITS_STATUS: i32 = 0x21;

/// Which tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Set<'a> {
    /// All of them.
    All,
    /// Those that `cargo xtask test` has time for.
    Quick,
    /// Those that are named, with commas between.
    Named(&'a str),
    /// No tests: what it costs to leave the guest.
    Exits,
}

/// What comes from Debian.
struct Parts {
    host: KvmHost,
    guest: DefaultGuest,
    qemu: Qemu,
}

impl Parts {
    fn get(cache: &Cache) -> Result<Parts, CacheError> {
        let guest = cache.default_guest(&mut |_| {})?;
        // The nested machine's guests have a network; passt is found in the cache.
        cache.passt(&mut |_| {})?;
        Ok(Parts {
            host: fixtures::kvm_host(cache, &mut |_| {})?,
            guest,
            qemu: fixtures::qemu(cache, &mut |_| {})?,
        })
    }
}

/// Runs the tests and prints what came of them; `true` if none failed.
pub fn run(set: Set<'_>) -> Result<bool> {
    let cache = Cache::of_user()?;
    let parts = match Parts::get(&cache) {
        Ok(parts) => parts,
        Err(error) => {
            let error = anyhow::Error::from(error);
            println!(
                "skipped: no mirror for QEMU, its kernel or its guests: {error:#}\n0 passed, 0 failed, 1 skipped"
            );
            return Ok(true);
        }
    };
    let is_measurement = matches!(set, Set::Exits | Set::Named("boots"));
    let mother = if is_measurement {
        build_mother()?
    } else {
        build_for_tests()?
    };
    let folder = folder::empty()?;
    folder::fill(&folder, &mother, &parts.host, &parts.guest)?;
    let passt = cache.passt(&mut |_| {})?.canonicalize()?;
    folder::add_to_path(&folder, passt.parent().context("passt lies in a folder")?)?;
    if is_measurement {
        folder::add_qemu(&folder, &parts.qemu)?;
    }
    let run = cache.run_folder()?;
    let mut include = folder::of_passt(&cache, &passt)?;
    include.push(folder.clone());
    let request = AppRequest {
        program: folder.join("mother"),
        include,
        ..AppRequest::default()
    };
    let (initrd, _) = cache.app_initrd(&request, &InThisProcess, &run)?;
    let run = |set| watch(&mut machine(&parts, &initrd, &folder.join("init"), set));
    let mut outcome = run(set)?;
    if let Some(groups) = outcome.again() {
        println!("once more: {groups}");
        outcome.replace(run(Set::Named(&groups))?);
    }
    Ok(sum_up(&outcome))
}

/// Prints what failed once more, since its place is far above and a summary shows the last lines, and the count.
fn sum_up(outcome: &Outcome) -> bool {
    let mut failed: Vec<&str> = outcome.failed().collect();
    if !outcome.is_done() {
        failed.push("FAIL the nested machine ended before its tests were done");
    }
    for line in &failed {
        println!("{line}");
    }
    println!("{} passed, {} failed", outcome.passed(), failed.len());
    failed.is_empty()
}

/// `cargo xtask bench exits`: what it costs to leave the guest, on this host's engines, or with `--nested` in QEMU.
pub fn bench_exits(words: &[&str]) -> Result<bool> {
    match words {
        [] => {}
        ["--nested"] => return Ok(run(Set::Exits)? & run(Set::Named("boots"))?),
        _ => bail!("the only option is --nested"),
    }
    let mother = build_mother()?;
    let folder = folder::empty()?;
    folder::build_guests(&folder)?;
    for engine in ["kvm", "soft"] {
        println!("{engine}, ticks of the TSC for each:");
        let mut command = Command::new("timeout");
        command.arg("60").arg(&mother);
        command.args([
            "run",
            "--engine",
            engine,
            "--cpus",
            "2",
            "--debug-exit",
            "--memory",
            "32M",
            "--kernel",
        ]);
        command.arg(folder.join("exits.bin")).stdin(Stdio::null());
        let output = command.output().context("start `mother`")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let why = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(EXITS_STATUS) => print!("{}", said.replace("ticks ", "  ").replace('\r', "")),
            _ => print!("  not here: {why}"),
        }
    }
    Ok(true)
}

/// The machine. One CPU with a periodic tick: with more, QEMU delivers some interrupts twice, and with one-shot timers it
/// stood still (`docs/engines.md`). Where two vCPUs are to run at once and timers are measured, two that take turns on one
/// thread of QEMU's.
fn machine(parts: &Parts, initrd: &Path, init: &Path, set: Set<'_>) -> Command {
    let (cpus, timers) = if set == Set::Exits {
        ("2", "")
    } else {
        ("1", "nohz=off highres=off ")
    };
    let set = match set {
        Set::All => "all",
        Set::Quick => "quick",
        Set::Named(names) => names,
        Set::Exits => "exits",
    };
    let append = format!(
        "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable {timers}rdinit={} mother.set={set} ",
        init.display()
    );
    let mut command = qemu::limited(&LIMIT.as_secs().to_string(), &parts.qemu.command());
    command.args([
        "-accel",
        "tcg,thread=single",
        "-cpu",
        "max",
        "-M",
        "q35",
        "-m",
        "2G",
        "-smp",
        cpus,
    ]);
    command.args([
        "-nodefaults",
        "-display",
        "none",
        "-monitor",
        "none",
        "-serial",
        "stdio",
        "-no-reboot",
    ]);
    command
        .arg("-kernel")
        .arg(&parts.host.kernel)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", &append]);
    command
}

/// Shows what the machine says and counts.
fn watch(command: &mut Command) -> Result<Outcome> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start QEMU")?;
    let output = child
        .stdout
        .take()
        .context("the output was asked for as a pipe")?;
    let mut outcome = Outcome::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        outcome.take(&line);
        println!("{line}");
    }
    child.wait()?;
    println!("the nested machine ended after {:.0?}", start.elapsed());
    Ok(outcome)
}
