//! `cargo xtask test-kvm`: the KVM engine, on a machine that has no virtualization.
//!
//! QEMU's software CPU emulates a processor with SVM and nested paging. On it boots Debian's kernel with `kvm-amd`, and
//! in that, `mother` and her guests: once with `--engine kvm`, and beside it with `--engine soft`, with the same words. What
//! the two print must be the same. Then a guest moves between them while it works.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use images::{AppRequest, Cache};

use crate::bench;
use crate::steps::cargo;
use crate::workspace;

/// How long the nested machine may take.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// What the guest that measures exits leaves with.
const EXITS_STATUS: i32 = 0x21;

/// The files that the nested machine's tests consist of.
const SCRIPTS: [(&str, &str); 2] =
    [("commands", include_str!("commands.sh")), ("worker", include_str!("worker.sh"))];

/// Which tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Set {
    /// All of them.
    All,
    /// Without moving between engines.
    Quick,
    /// No tests: what it costs to leave the guest.
    Exits,
}

/// Runs the tests and prints what came of them; `true` if none failed.
pub fn run(set: Set) -> Result<bool> {
    let cache = Cache::of_user()?;
    let host = match cache.kvm_host(&mut |_| {}) {
        Ok(host) => host,
        Err(error) => {
            println!("skipped: no mirror for the kernel with KVM: {error}\n0 passed, 0 failed, 1 skipped");
            return Ok(true);
        }
    };
    let guest = cache.default_guest(&mut |_| {})?;
    bench::ensure_qemu()?;
    let mother = bench::build_mother()?;
    let folder = workspace::root().join("target/xtask/nest");
    fs::create_dir_all(&folder)?;
    fill(&folder, &mother, &host.modules, &[(&guest.kernel, "kernel"), (&guest.initrd, "initrd")])?;
    let run = cache.run_folder()?;
    let request = AppRequest { program: mother, include: vec![folder.clone()], ..AppRequest::default() };
    let (initrd, _) = cache.app_initrd(&request, &run)?;
    watch(&mut qemu(&host.kernel, &initrd, &folder.join("init"), set))
}

/// `cargo xtask bench exits`: what it costs to leave the guest, on this host's engines, or with `--nested` in QEMU.
pub fn bench_exits(words: &[&str]) -> Result<bool> {
    match words {
        [] => {}
        ["--nested"] => return run(Set::Exits),
        _ => bail!("the only option is --nested"),
    }
    let mother = bench::build_mother()?;
    let folder = workspace::root().join("target/xtask/nest");
    fs::create_dir_all(&folder)?;
    build_guests(&folder)?;
    for engine in ["kvm", "soft"] {
        println!("{engine}, ticks of the TSC for each:");
        let mut command = Command::new(&mother);
        command.args(["run", "--engine", engine, "--debug-exit", "--memory", "32M", "--kernel"]);
        command.arg(folder.join("exits.bin")).stdin(Stdio::null());
        let output = command.output().context("start `mother`")?;
        let (said, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        match output.status.code() {
            Some(EXITS_STATUS) => print!("{}", said.replace("ticks ", "  ").replace('\r', "")),
            _ => print!("  not here: {why}"),
        }
    }
    Ok(true)
}

/// Everything that the tests need, in one folder that lies at the same place in the nested machine.
fn fill(folder: &Path, mother: &Path, modules: &[PathBuf], files: &[(&PathBuf, &str)]) -> Result<()> {
    let init = include_str!("init.sh").replace("@NEST@", &folder.to_string_lossy());
    fs::write(folder.join("init"), init)?;
    make_executable(&folder.join("init"))?;
    for (name, text) in SCRIPTS {
        fs::write(folder.join(name), text)?;
    }
    let places = format!("NEST='{}'\nMOTHER='{}'\n", folder.display(), mother.display());
    fs::write(folder.join("places"), places)?;
    for (from, name) in files {
        fs::copy(from, folder.join(name)).with_context(|| format!("copy {}", from.display()))?;
    }
    for module in modules {
        let name = module.file_name().context("a module has a name")?;
        fs::copy(module, folder.join(name)).with_context(|| format!("copy {}", module.display()))?;
    }
    build_guests(folder)
}

fn build_guests(folder: &Path) -> Result<()> {
    let build = ["run", "--quiet", "--release", "--package", "proof", "--bin", "guest", "--", "--build"];
    let status = cargo(&build).arg(folder).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "the bare guests do not build");
    Ok(())
}

fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// The machine: two CPUs on two threads of ours. Its TSC is the host's on both, which the kernel cannot know.
fn qemu(kernel: &Path, initrd: &Path, init: &Path, set: Set) -> Command {
    let set = match set {
        Set::All => "all",
        Set::Quick => "quick",
        Set::Exits => "exits",
    };
    let append = format!(
        "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable rdinit={} mother.set={set} ",
        init.display()
    );
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", &LIMIT.as_secs().to_string(), bench::QEMU]);
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-M", "q35", "-m", "2G", "-smp", "2"]);
    command.args(["-nodefaults", "-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd).args(["-append", &append]);
    command
}

/// Shows what the machine says and counts.
fn watch(command: &mut Command) -> Result<bool> {
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start QEMU")?;
    let output = child.stdout.take().context("the output was asked for as a pipe")?;
    let (mut passed, mut failed, mut is_done) = (0_u32, 0_u32, false);
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        passed += u32::from(line.starts_with("PASS "));
        failed += u32::from(line.starts_with("FAIL "));
        is_done |= line == "DONE";
        println!("{line}");
    }
    child.wait()?;
    if !is_done {
        println!("the nested machine ended before its tests were done, after {:.0?}", start.elapsed());
        failed += 1;
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}
