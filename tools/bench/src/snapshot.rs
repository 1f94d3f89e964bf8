//! `cargo xtask bench snapshot`: a VM put on disk, brought back and forked, beside the same guest started again and beside
//! QEMU's `savevm` and `-loadvm`.
//!
//! The guest is Debian with systemd, logged in, with a warm page cache. Three clocks run from the moment at which a command is started:
//! until it returns, which is when the guest runs; until `mother exec` has had an answer; and until what is typed on the
//! console has been answered there. The last is the only one that QEMU has too.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::boot::build_mother;
use crate::login::Login;
use crate::memory::Memory;
use crate::qemu::qemu;
use crate::runs::median;

const IMAGE: &str = "debian:12";
const MEMORY: &str = "1G";
/// A guest that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(240);
/// Clones at once.
const CLONES: usize = 32;
/// How long a clone is left alone before its memory is looked at.
const IDLE: Duration = Duration::from_secs(2);
/// Reads much of the system once.
const WARM: &str = "cat /usr/bin/* /usr/lib/x86_64-linux-gnu/*.so* >/dev/null 2>&1; sync";
/// What is promised of the first answer, against a boot.
const SHARE_OF_A_BOOT: f64 = 0.01;

/// Prints the figures; whether the first answer comes soon enough.
pub fn run(run_count: usize) -> Result<bool> {
    let scene = Scene::new(build_mother()?)?;
    println!(
        "{IMAGE} with systemd, {MEMORY}, 1 vCPU, no network, engine soft; seconds, medians of {run_count}"
    );
    let begun = Instant::now();
    scene.well(&[
        "run", "-d", "--name", "base", "--engine", "soft", "--net", "none", "--memory", MEMORY,
        IMAGE,
    ])?;
    scene.well(&["wait", "base", "--for", "login", "--timeout", "240s"])?;
    scene.console("base")?.answer("true")?;
    let boot = begun.elapsed().as_secs_f64();
    row("start to the first answer on the console", boot);
    let private = scene.private_mib("base")?;
    scene.console("base")?.answer(WARM)?;
    thread::sleep(IDLE);
    let mut rests = Vec::new();
    for n in 1..=run_count {
        let name = format!("s{n}");
        let text = scene.well(&["snapshot", "base", "--to", &name, "--json"])?;
        let said: Value = serde_json::from_str(&text).context("read what snapshot says")?;
        let rested = said["rested_seconds"].as_f64();
        rests.push(
            rested.with_context(|| format!("snapshot does not say how long it took: {text}"))?,
        );
    }
    row("snapshot: the guest stands still", median(rests));
    let first = scene.restored(run_count)?;
    scene.forked(run_count)?;
    scene.many()?;
    row("memory of the VM that was started, MiB (PSS)", private);
    let qemu_first = scene.qemu(run_count)?;
    println!(
        "\nfirst answer / start to first answer: {:.4}; / QEMU's -loadvm: {:.3}",
        first / boot,
        first / qemu_first
    );
    let is_soon = first / boot <= SHARE_OF_A_BOOT;
    println!(
        "at most {SHARE_OF_A_BOOT} of a start: {}",
        if is_soon { "yes" } else { "NO" }
    );
    Ok(is_soon)
}

fn row(what: &str, value: f64) {
    println!("{what:<58}{value:>10.3}");
}

/// Folders of its own, so that nobody's VMs and snapshots are touched.
struct Scene {
    mother: PathBuf,
    folder: tempfile::TempDir,
}

impl Scene {
    fn new(mother: PathBuf) -> Result<Scene> {
        let folder = tempfile::tempdir().context("make a folder")?;
        Ok(Scene { mother, folder })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.mother);
        command.args(words);
        command.env("XDG_RUNTIME_DIR", self.folder.path());
        command.env("XDG_DATA_HOME", self.folder.path().join("data"));
        command
    }

    fn well(&self, words: &[&str]) -> Result<String> {
        let ran = self
            .command(words)
            .stdin(Stdio::null())
            .output()
            .context("start mother")?;
        let said = String::from_utf8_lossy(&ran.stderr);
        ensure!(
            ran.status.success(),
            "mother {} ended with {}: {said}",
            words.join(" "),
            ran.status
        );
        Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
    }

    fn console(&self, name: &str) -> Result<Typist> {
        let mut command = self.command(&["console", name, "--no-replay"]);
        Typist::start(&mut command)
    }

    /// What a VM costs alone, its launcher included.
    fn private_mib(&self, name: &str) -> Result<f64> {
        let list: Value = serde_json::from_str(&self.well(&["ps", "--json"])?)?;
        let vm = list
            .as_array()
            .into_iter()
            .flatten()
            .find(|vm| vm["name"] == name);
        let pid = vm
            .and_then(|vm| vm["pid"].as_u64())
            .with_context(|| format!("no process of {name}"))?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        let launcher: u32 = parent.context("it has a launcher")?.trim().parse()?;
        let memory = Memory::of_all(launcher)?;
        Ok((memory.guest + memory.beyond_guest()) as f64 / 1024.0)
    }

    fn restored(&self, run_count: usize) -> Result<f64> {
        let mut runs = Vec::new();
        let mut execs = Vec::new();
        let mut firsts = Vec::new();
        let mut private = Vec::new();
        for _ in 0..run_count {
            let begun = Instant::now();
            self.well(&["restore", "s1", "--name", "back"])?;
            runs.push(begun.elapsed().as_secs_f64());
            self.console("back")?.answer("true")?;
            firsts.push(begun.elapsed().as_secs_f64());
            thread::sleep(IDLE);
            private.push(self.private_mib("back")?);
            self.well(&["kill", "back"])?;
            let begun = Instant::now();
            self.well(&["restore", "s1", "--name", "back"])?;
            self.well(&["exec", "-n", "back", "true"])?;
            execs.push(begun.elapsed().as_secs_f64());
            self.well(&["kill", "back"])?;
        }
        row("restore: the guest runs", median(runs));
        row("restore: `mother exec` answered", median(execs));
        let first = median(firsts);
        row("restore: first answer on the console", first);
        row(
            "memory of one that was brought back and idles, MiB (PSS)",
            median(private),
        );
        Ok(first)
    }

    fn forked(&self, run_count: usize) -> Result<()> {
        let mut times = Vec::new();
        for _ in 0..run_count {
            let begun = Instant::now();
            self.well(&["fork", "base", "--name", "fork"])?;
            self.console("fork")?.answer("true")?;
            times.push(begun.elapsed().as_secs_f64());
            self.well(&["kill", "fork"])?;
        }
        row(
            "fork: first answer on the console of the fork",
            median(times),
        );
        Ok(())
    }

    fn many(&self) -> Result<()> {
        let begun = Instant::now();
        let count = CLONES.to_string();
        self.well(&["restore", "s1", "--name", "many", "--count", &count])?;
        let names: Vec<String> = (1..=CLONES).map(|n| format!("many-{n}")).collect();
        thread::scope(|scope| {
            let answers: Vec<_> = names
                .iter()
                .map(|name| scope.spawn(move || self.console(name)?.answer("true")))
                .collect();
            let joined = answers
                .into_iter()
                .map(|it| it.join().unwrap_or_else(|_| bail!("a thread ended")));
            joined.collect::<Result<()>>()
        })?;
        row(
            "32 clones: the last of them has answered on its console",
            begun.elapsed().as_secs_f64(),
        );
        thread::sleep(IDLE);
        let private: Result<Vec<f64>> = names.iter().map(|name| self.private_mib(name)).collect();
        row("memory of one of them, MiB (PSS)", median(private?));
        let all: Vec<&str> = ["kill"]
            .into_iter()
            .chain(names.iter().map(String::as_str))
            .collect();
        self.well(&all).map(drop)
    }

    /// The same guest in QEMU; its first answer after `-loadvm`.
    fn qemu(&self, run_count: usize) -> Result<f64> {
        let login = Login::prepare(&self.mother)?;
        login.lay_over()?;
        let qemu = qemu()?;
        let monitor = self.folder.path().join("monitor");
        let command = |more: &[&str]| {
            let mut command = login.qemu_with_disk(&qemu);
            let socket = format!("unix:{},server=on,wait=off", monitor.display());
            command.args(["-m", MEMORY, "-monitor", &socket]).args(more);
            command
        };
        let begun = Instant::now();
        let mut typist = Typist::start(&mut command(&[]))?;
        typist.until(":~#")?;
        typist.answer("true")?;
        row(
            "QEMU TCG: start to the first answer on the console",
            begun.elapsed().as_secs_f64(),
        );
        typist.answer(WARM)?;
        let begun = Instant::now();
        order(&monitor, "savevm one")?;
        row(
            "QEMU TCG: savevm, the guest stands still",
            begun.elapsed().as_secs_f64(),
        );
        drop(typist);
        let mut firsts = Vec::new();
        for _ in 0..run_count {
            let begun = Instant::now();
            let mut typist = Typist::start(&mut command(&["-loadvm", "one"]))?;
            typist.answer("true")?;
            firsts.push(begun.elapsed().as_secs_f64());
        }
        let first = median(firsts);
        row("QEMU TCG: -loadvm, first answer on the console", first);
        Ok(first)
    }
}

/// Has QEMU do something, and waits until it has.
fn order(monitor: &Path, words: &str) -> Result<()> {
    let mut stream = UnixStream::connect(monitor).context("reach QEMU's monitor")?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut prompts = 0;
    let mut bytes = [0; 4096];
    let mut text = String::new();
    loop {
        let count = stream.read(&mut bytes)?;
        ensure!(count > 0, "QEMU's monitor closed: {text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        while let Some(at) = text.find("(qemu) ") {
            text.drain(..at + 7);
            prompts += 1;
            if prompts == 1 {
                stream.write_all(format!("{words}\n").as_bytes())?;
            }
        }
        if prompts >= 2 {
            ensure!(!text.contains("Error"), "QEMU refuses {words}: {text}");
            return Ok(());
        }
    }
}

/// A guest's console on pipes.
struct Typist {
    child: Child,
    keys: ChildStdin,
    shown: ChildStdout,
    text: String,
}

impl Typist {
    fn start(command: &mut Command) -> Result<Typist> {
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = pipes
            .stderr(Stdio::null())
            .spawn()
            .context("start a console")?;
        let keys = child.stdin.take().context("keys are a pipe")?;
        let shown = child.stdout.take().context("what is shown is a pipe")?;
        Ok(Typist {
            child,
            keys,
            shown,
            text: String::new(),
        })
    }

    /// Types a command, and waits until it is done.
    fn answer(&mut self, command: &str) -> Result<()> {
        // What is typed is shown too, and must not look like the answer.
        self.keys
            .write_all(format!("{command}; echo do''ne$((6*7))\n").as_bytes())?;
        self.until("done42")
    }

    fn until(&mut self, text: &str) -> Result<()> {
        let begun = Instant::now();
        let mut bytes = [0; 4096];
        loop {
            if let Some(at) = self.text.find(text) {
                self.text.drain(..at + text.len());
                return Ok(());
            }
            let count = self.shown.read(&mut bytes).context("read a console")?;
            ensure!(
                count > 0 && begun.elapsed() < LIMIT,
                "no {text:?} in {:?}",
                self.text
            );
            self.text
                .push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }
}

impl Drop for Typist {
    fn drop(&mut self) {
        // A console leaves its guest running; QEMU is ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let listed = self.well(&["ps", "-q"]).unwrap_or_default();
        let names: Vec<&str> = ["kill"].into_iter().chain(listed.lines()).collect();
        if names.len() > 1 {
            let _ = self.well(&names);
        }
    }
}
