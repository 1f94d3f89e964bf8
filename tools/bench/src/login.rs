//! The part of `cargo xtask bench io` that everyone waits for: Debian with systemd, from the start of the process to the
//! login prompt, on the software CPU and on QEMU's TCG, turn and turn about.
//!
//! Both have the same kernel, initrd and command line, and every run has a fresh overlay over the same disk. Our initrd
//! logs root in on the console, and agetty says so on the line of the prompt.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use devices::virtio::blk::{ImageFormat, create_overlay};
use fixtures::Qemu;
use images::{Cache, DefaultGuest, Image, RunFolder};
use rustix::process::{Pid, Signal, kill_process};

use crate::boot::build_mother;
use crate::qemu::{MEMORY, limited, qemu, qemu_command};
use crate::runs::median;

const IMAGE: &str = "debian:12";
/// What `mother run` gives a system that a person starts at a terminal.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1";
const PROMPT: &str = " login: ";
/// A guest that takes longer than this hangs.
const LIMIT_SECONDS: &str = "180";
/// Our time over QEMU's, at most.
const TARGET: f64 = 0.7;

/// Debian and a place for what its runs write.
pub struct Login {
    guest: DefaultGuest,
    disk: PathBuf,
    overlay: PathBuf,
    name: String,
    /// Removed when nobody runs it any more.
    _run: RunFolder,
}

/// Prints the comparison; whether the promise holds.
pub fn compare(run_count: usize) -> Result<bool> {
    let mother = build_mother()?;
    let login = Login::prepare(&mother)?;
    let qemu = qemu()?;
    println!(
        "{} to its login prompt with \"{COMMAND_LINE}\", {MEMORY}, 1 vCPU, no network, {run_count} runs each, in turns",
        login.name
    );
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for run in 1..=run_count {
        let our = login
            .to_prompt(&mother)
            .context("on `mother`")?
            .as_secs_f64();
        let their = login
            .time(&mut login.qemu_with_disk(&qemu))
            .context("on QEMU")?
            .as_secs_f64();
        println!("run {run:<30}{our:>10.2}{their:>10.2}{:>12.2}", our / their);
        ours.push(our);
        theirs.push(their);
    }
    Ok(is_fast(median(ours), median(theirs)))
}

/// Prints what the runs come to; whether the promise holds.
fn is_fast(our: f64, their: f64) -> bool {
    let ratio = our / their;
    println!(
        "\n{:<34}{:>10}{:>10}{:>12}",
        "medians", "soft", "tcg", "soft / tcg"
    );
    println!(
        "{:<34}{our:>10.2}{their:>10.2}{ratio:>12.2}",
        "start to login prompt, s"
    );
    let is_fast = ratio <= TARGET;
    println!(
        "\nat most {TARGET} of tcg's time: {}",
        if is_fast { "yes" } else { "NO" }
    );
    is_fast
}

/// The image, made by the command itself if it is not there.
fn image(cache: &Cache, mother: &Path) -> Result<Image> {
    if let Some(image) = cache.store().find(IMAGE)? {
        return Ok(image);
    }
    let mut command = Command::new(mother);
    command
        .args(["run", IMAGE, "--net", "none", "--timeout", LIMIT_SECONDS])
        .stdin(Stdio::null());
    let status = command
        .stdout(Stdio::null())
        .status()
        .context("start `mother run`")?;
    ensure!(status.success(), "`mother run {IMAGE}` ended with {status}");
    cache
        .store()
        .find(IMAGE)?
        .with_context(|| format!("`mother run` made no {IMAGE}"))
}

impl Login {
    /// The image, which `mother` makes if it is not there, and an initrd for it.
    pub fn prepare(mother: &Path) -> Result<Login> {
        let cache = Cache::of_user()?;
        let image = image(&cache, mother)?;
        let run = cache.run_folder()?;
        let guest = DefaultGuest {
            kernel: image.kernel().context("the image has no kernel")?,
            initrd: cache.system_initrd(&image, None, &run)?,
            kernel_package: image.name.clone(),
        };
        Ok(Login {
            guest,
            disk: image.disk(),
            overlay: run.path().join("overlay.qcow2"),
            name: image.name,
            _run: run,
        })
    }

    /// How long Debian takes in this build of `mother`, which is ended then.
    pub fn to_prompt(&self, mother: &Path) -> Result<Duration> {
        self.time(&mut self.mother_command(mother))
    }

    fn mother_command(&self, mother: &Path) -> Command {
        let mut command = limited(LIMIT_SECONDS, &Command::new(mother));
        command.args([
            "run", "--engine", "soft", "--net", "none", "--memory", MEMORY,
        ]);
        command.args(["--cmdline", COMMAND_LINE]);
        command
            .arg("--kernel")
            .arg(&self.guest.kernel)
            .arg("--initrd")
            .arg(&self.guest.initrd);
        let overlay = self.overlay.display();
        let base = self.disk.display();
        let disk = format!("{overlay},format=qcow2,base={base},base-format=raw,serial=root");
        command.arg("--disk").arg(disk);
        command
    }

    /// QEMU with the same guest, on the overlay.
    pub fn qemu_with_disk(&self, qemu: &Qemu) -> Command {
        let mut command = limited(
            LIMIT_SECONDS,
            &qemu_command(qemu, &self.guest, COMMAND_LINE),
        );
        command.arg("-drive");
        let overlay = self.overlay.display();
        command.arg(format!(
            "file={overlay},format=qcow2,if=none,id=disk,cache=writeback"
        ));
        command.args([
            "-device",
            "virtio-blk-pci,drive=disk,disable-legacy=on,serial=root",
        ]);
        command
    }

    /// Start to prompt, on a disk that nobody has booted from.
    fn time(&self, command: &mut Command) -> Result<Duration> {
        self.lay_over()?;
        let start = Instant::now();
        let spawned = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child =
            spawned.with_context(|| format!("start {}", command.get_program().display()))?;
        let seen = watch(&mut child, start);
        end(child)?;
        seen
    }

    /// A fresh overlay in the place of the one before.
    pub fn lay_over(&self) -> Result<()> {
        let overlay = &self.overlay;
        if overlay.exists() {
            std::fs::remove_file(overlay)
                .with_context(|| format!("remove {}", overlay.display()))?;
        }
        let base = std::fs::File::open(&self.disk)
            .with_context(|| format!("open {}", self.disk.display()))?;
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(overlay);
        let file = file.with_context(|| format!("make {}", overlay.display()))?;
        let name = self.disk.to_string_lossy();
        create_overlay(file, &base, &name, ImageFormat::Raw, None).context("make the overlay")
    }
}

fn watch(child: &mut Child, start: Instant) -> Result<Duration> {
    let output = child
        .stdout
        .as_mut()
        .context("the output was asked for as a pipe")?;
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let count = output.read(&mut buffer)?;
        let now = start.elapsed();
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        if text.contains(PROMPT) {
            return Ok(now);
        }
        if count == 0 {
            let end: Vec<&str> = text.lines().rev().take(5).collect();
            bail!("the guest ended before its prompt; its last lines, newest first: {end:#?}");
        }
    }
}

/// Ends the guest, at once: SIGTERM would be its power button. What it still says is thrown away, or it would wait for us.
fn end(mut child: Child) -> Result<()> {
    let output = child.stdout.take();
    let reader = std::thread::spawn(move || {
        output.map(|mut output| std::io::copy(&mut output, &mut std::io::sink()))
    });
    kill_process(Pid::from_child(&child), Signal::INT).context("end the guest")?;
    child.wait()?;
    drop(reader.join());
    Ok(())
}
