//! A guest with a shell on a pipe that is asked one thing after the other, and looked at from outside.

#![allow(dead_code, reason = "every test file uses its part")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use api::VmName;
use fleet::{Client, Inventory};
use images::DefaultGuest;
use insight::{FileMemory, FileSlot, Kernel, Loaded, NotRecognised, Registers, attach};
use tempfile::TempDir;
use x86::Gpa;

/// How long a guest may take for anything, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const NAME: &str = "seen";

/// The guest. It is gone when this is dropped.
pub struct Guest {
    child: Child,
    keys: ChildStdin,
    shown: Receiver<Vec<u8>>,
    text: String,
    asked: usize,
    runtime: TempDir,
}

impl Guest {
    /// Boots a kernel to its shell.
    pub fn boot(files: &DefaultGuest, words: &[&str]) -> Guest {
        Guest::boot_with("", files, words)
    }

    /// The same with more words for the kernel.
    pub fn boot_with(options: &str, files: &DefaultGuest, words: &[&str]) -> Guest {
        let runtime = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mother"));
        command.args(["run", "--name", NAME, "--engine", "soft"]);
        if !words.contains(&"--timeout") {
            command.args(["--timeout", "2400s"]);
        }
        command
            .arg("--kernel")
            .arg(&files.kernel)
            .arg("--initrd")
            .arg(&files.initrd);
        let line = format!("console=ttyS0 rdinit=/pipe mother.name=seen {options}");
        command.args(["--cmdline", line.trim_end()]).args(words);
        command
            .env("XDG_RUNTIME_DIR", runtime.path())
            .env("XDG_STATE_HOME", runtime.path());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let keys = child.stdin.take().unwrap();
        let mut output = child.stdout.take().unwrap();
        let (sender, shown) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut guest = Guest {
            child,
            keys,
            shown,
            text: String::new(),
            asked: 0,
            runtime,
        };
        guest.expect("mother: /init started");
        guest.ask("dmesg -n 1; echo 0 >/proc/sys/kernel/kptr_restrict");
        guest
    }

    /// Types without waiting for anything.
    pub fn send(&mut self, line: &str) {
        self.keys.write_all(format!("{line}\n").as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits for `text`; everything that came before it.
    pub fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.text.find(text) {
                let before = self.text[..at].to_owned();
                self.text.drain(..at + text.len());
                return before;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let bytes = self.shown.recv_timeout(left);
            let bytes =
                bytes.unwrap_or_else(|_| panic!("the guest does not say {text:?}: {}", self.text));
            self.text
                .push_str(&String::from_utf8_lossy(&bytes).replace('\r', ""));
        }
    }

    /// What a command prints.
    pub fn ask(&mut self, line: &str) -> String {
        self.asked += 1;
        let number = self.asked;
        self.send(&format!("echo begin {number}; {line}\necho end {number}"));
        self.expect(&format!("begin {number}\n"));
        self.expect(&format!("end {number}\n"))
    }

    /// Talks to the VM's process.
    pub fn client(&self) -> Client {
        let vms = self.runtime.path().join("mother");
        Client::connect(&Inventory::at(&vms).record(&VmName::new(NAME).unwrap())).unwrap()
    }

    /// The guest's memory.
    pub fn memory(&self) -> Arc<FileMemory> {
        let files = self.client().memory().unwrap();
        let slot = |slot: &api::SlotView| FileSlot {
            gpa: Gpa(slot.gpa),
            len_bytes: slot.len_bytes,
            file_offset: slot.file_offset,
        };
        Arc::new(FileMemory::new(
            files.memory,
            files.view.slots.iter().map(slot).collect(),
        ))
    }

    /// The file of the guest's memory as the VM's process has it, for a harness that plays the rootkit. Guest memory
    /// below 3 GiB lies in it from its beginning.
    pub fn memory_for_writing(&self) -> File {
        let pid = self.client().status().unwrap().info.pid;
        let folder = format!("/proc/{pid}/fd");
        let is_memory = |path: &PathBuf| {
            fs::read_link(path)
                .is_ok_and(|target| target.to_string_lossy().contains("mother-guest-memory"))
        };
        let path = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(is_memory)
            .unwrap();
        File::options().read(true).write(true).open(path).unwrap()
    }

    /// `mother truth --watch --json`, reading by reading.
    pub fn watch(&self) -> Watch {
        let mut command = Command::new("/usr/bin/timeout");
        command.args([
            "90",
            env!("CARGO_BIN_EXE_mother"),
            "truth",
            "--watch",
            "--json",
            NAME,
        ]);
        command
            .env("XDG_RUNTIME_DIR", self.runtime.path())
            .env("XDG_STATE_HOME", self.runtime.path());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = child
            .stdout
            .take()
            .map(|output| BufReader::new(output).lines());
        Watch { child, lines }
    }

    /// What `mother` with these words says.
    pub fn mother(&self, words: &[&str]) -> String {
        self.say(words, |command| command)
    }

    /// `mother` with these words, beside what the guest is asked meanwhile.
    pub fn start(&self, words: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mother"));
        command
            .args(words)
            .env("XDG_RUNTIME_DIR", self.runtime.path())
            .env("XDG_STATE_HOME", self.state());
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Where the command keeps what it writes for this guest's user.
    pub fn state(&self) -> PathBuf {
        let folder = self.runtime.path().join("state");
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// The same where nothing is known of kernels but what is in this folder.
    pub fn mother_with_cache(&self, words: &[&str], cache: &Path) -> String {
        self.say(words, |command| command.env("XDG_CACHE_HOME", cache))
    }

    fn say(&self, words: &[&str], change: impl FnOnce(&mut Command) -> &mut Command) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mother"));
        command
            .args(words)
            .env("XDG_RUNTIME_DIR", self.runtime.path());
        change(&mut command);
        let output = command
            .env("XDG_STATE_HOME", self.runtime.path())
            .output()
            .unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// `mother truth --watch` for so long, and what share of a core it takes once it has looked around.
    pub fn watched_for(&self, time: Duration) -> f64 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mother"));
        command
            .args(["truth", "--watch", "--json", NAME])
            .stdout(Stdio::null());
        command
            .env("XDG_RUNTIME_DIR", self.runtime.path())
            .env("XDG_STATE_HOME", self.runtime.path());
        let mut watcher = command.spawn().unwrap();
        thread::sleep(Duration::from_secs(5));
        let start = Instant::now();
        let before = cpu_seconds(watcher.id());
        thread::sleep(time);
        let share = (cpu_seconds(watcher.id()) - before) / start.elapsed().as_secs_f64();
        watcher.kill().unwrap();
        watcher.wait().unwrap();
        share
    }

    /// The registers of its vCPUs.
    pub fn registers(&self) -> Vec<Registers> {
        let (_, vcpus) = self.client().registers().unwrap();
        let registers = vcpus
            .into_iter()
            .filter(|vcpu| !vcpu.waits_for_startup)
            .map(|vcpu| Registers {
                vcpu_id: vcpu.vcpu_id,
                cr0: vcpu.cr0,
                cr2: vcpu.cr2,
                cr3: vcpu.cr3,
                cr4: vcpu.cr4,
                efer: vcpu.efer,
                idt_base: vcpu.idtr.base,
                idt_limit: vcpu.idtr.limit,
                gdt_base: vcpu.gdtr.base,
                gdt_limit: vcpu.gdtr.limit,
                fs_base: vcpu.fs_base,
                gs_base: vcpu.gs_base,
                kernel_gs_base: vcpu.kernel_gs_base,
                lstar: vcpu.lstar,
                cstar: vcpu.cstar,
                star: vcpu.star,
                sysenter_eip: vcpu.sysenter_eip,
                breakpoints: vcpu.breakpoints,
                dr7: vcpu.dr7,
                rip: vcpu.rip,
                rsp: vcpu.rsp,
                rflags: vcpu.rflags,
                cpl: vcpu.cpl,
                is_halted: vcpu.halted,
                age_ms: vcpu.age_ms,
            });
        registers.collect()
    }

    /// Recognises its kernel: with a folder for what is kept by its file, without one by its own memory alone.
    pub fn attach(&self, cache: Option<&Path>) -> Result<Kernel, NotRecognised> {
        let loaded = cache.map(|_| self.loaded(cache));
        attach(self.memory(), &self.registers(), loaded.as_ref())
    }

    /// What the kernel file says that its process loaded.
    pub fn loaded(&self, cache: Option<&Path>) -> Loaded {
        let (file, digest) = self.client().memory().unwrap().kernel.unwrap();
        Loaded::open(&file, digest, cache).unwrap()
    }
}

/// Somebody who watches. When this is dropped, the next reading has nowhere to go and ends it.
pub struct Watch {
    child: Child,
    lines: Option<Lines<BufReader<ChildStdout>>>,
}

impl Iterator for Watch {
    type Item = serde_json::Value;

    fn next(&mut self) -> Option<serde_json::Value> {
        Some(serde_json::from_str(&self.lines.as_mut()?.next()?.unwrap()).unwrap())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.lines = None;
        let _ = self.child.wait();
    }
}

/// CPU time of a process so far: what its threads ran, to the nanosecond (Documentation/scheduler/sched-stats.rst).
fn cpu_seconds(pid: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let run = |thread: std::io::Result<fs::DirEntry>| {
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    };
    threads.filter_map(run).sum::<f64>() / 1e9
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
