//! The built command, run in a folder of its own with a cache of its own.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(dead_code, unreachable_pub, reason = "every test file uses its part")]

pub mod daemon;
pub mod host;
pub mod limited;
pub mod registry;
#[macro_use]
pub mod nobody;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use self::nobody::{Nobody, Who};

/// How long a whole guest may take, boot included, on a busy machine.
const LIMIT_SECONDS: &str = "120";

/// The command in a folder.
pub struct Mother {
    folder: PathBuf,
    has_own_cache: bool,
    path: Option<PathBuf>,
    /// Where its VMs are: apart from the user's, and from those of other tests.
    runtime: TempDir,
    nobody: Option<Nobody>,
}

fn runtime() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The command, or a loud word that there is no default guest.
pub fn with_guest() -> Option<Mother> {
    let cache = images::Cache::of_user()
        .ok()
        .filter(|cache| cache.kernel_package().is_some());
    if cache.is_none() {
        // Written, not printed: the test harness would keep what is printed to itself.
        let mut stderr = std::io::stderr();
        writeln!(
            stderr,
            "skipped: the default guest is not in the cache; `cargo xtask guest`"
        )
        .unwrap();
    }
    cache.map(|_| Mother::with_guest())
}

/// The command, or a loud word that no Debian image has been made here.
pub fn with_debian() -> Option<Mother> {
    let mother = with_guest()?;
    let is_there = images::Cache::of_user()
        .unwrap()
        .store()
        .find("debian:12")
        .unwrap()
        .is_some();
    if !is_there {
        // Written, not printed: the test harness would keep what is printed to itself.
        let mut stderr = std::io::stderr();
        writeln!(
            stderr,
            "skipped: there is no image debian:12; `mother run debian:12`"
        )
        .unwrap();
    }
    is_there.then_some(mother)
}

/// How it ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit status, if it exited.
    pub status: Option<i32>,
    /// Everything on standard output.
    pub stdout: String,
    /// Everything on standard error.
    pub stderr: String,
}

impl Mother {
    /// The command in `folder`, with an empty cache.
    pub fn new(folder: &Path) -> Mother {
        Mother {
            folder: folder.to_owned(),
            has_own_cache: true,
            path: None,
            runtime: runtime(),
            nobody: None,
        }
    }

    /// The command with the user's cache.
    pub fn with_guest() -> Mother {
        Mother {
            folder: "/".into(),
            has_own_cache: false,
            path: None,
            runtime: runtime(),
            nobody: None,
        }
    }

    /// The same, started in another folder.
    pub fn in_folder(self, folder: &Path) -> Mother {
        Mother {
            folder: folder.to_owned(),
            ..self
        }
    }

    /// The same on a host that has only the programs in `path`.
    pub fn with_path(self, path: &Path) -> Mother {
        Mother {
            path: Some(path.to_owned()),
            ..self
        }
    }

    /// The same for this user, who is given the folder.
    pub fn of(self, who: Who) -> Mother {
        if who == Who::Oneself {
            return self;
        }
        nobody::give(&self.folder);
        nobody::give(self.runtime.path());
        Mother {
            nobody: Some(Nobody::new()),
            ..self
        }
    }

    /// Gives what a test has made to the user of the command.
    pub fn give(&self, path: &Path) {
        if self.nobody.is_some() {
            nobody::give(path);
        }
    }

    /// The command itself.
    pub fn program(&self) -> &Path {
        let own = Path::new(env!("CARGO_BIN_EXE_mother"));
        self.nobody.as_ref().map_or(own, Nobody::program)
    }

    /// The folder of its VMs.
    pub fn vms(&self) -> PathBuf {
        self.runtime.path().join("mother")
    }

    /// `mother run` with these words.
    pub fn run(&self, words: &[&str]) -> Ran {
        self.type_into(words, "")
    }

    /// `mother run` with these words and this on standard input.
    pub fn type_into(&self, words: &[&str], input: &str) -> Ran {
        let mut command = self.command(self.program());
        command.arg("run").args(words);
        finish(command, input)
    }

    /// `mother` with these words and nothing on standard input.
    pub fn call(&self, words: &[&str]) -> Ran {
        let mut command = self.command(self.program());
        command.args(words);
        finish(command, "")
    }

    /// A line for bash in which `$MOTHER` is the command.
    pub fn shell(&self, line: &str) -> Ran {
        let mut command = self.command("bash");
        command.args(["-c", line]);
        finish(command, "")
    }

    /// `program`, to be ended after a while whatever happens.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.command_within(LIMIT_SECONDS, program)
    }

    /// The same for what takes hours.
    pub fn command_for_long(&self, program: impl AsRef<OsStr>) -> Command {
        self.command_within("3h", program)
    }

    fn command_within(&self, limit: &str, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("/usr/bin/timeout");
        command
            .args(["--kill-after=5", limit])
            .arg(program)
            .current_dir(&self.folder);
        command.env("XDG_RUNTIME_DIR", self.runtime.path());
        // What a test keeps is not among what the user keeps.
        command.env("XDG_DATA_HOME", self.runtime.path().join("data"));
        command.env("MOTHER", self.program());
        if let Some(nobody) = &self.nobody {
            command.uid(nobody.id()).gid(nobody.id());
            command.env("HOME", nobody.home());
            command.env("XDG_CACHE_HOME", nobody.home().join("cache"));
        }
        if self.has_own_cache {
            command.env("XDG_CACHE_HOME", self.folder.join("cache"));
        }
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        command
    }
}

fn finish(mut command: Command, input: &str) -> Ran {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A command that ends without reading everything is no surprise here.
    let writer = thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace('\r', "");
    Ran {
        status: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// A line for bash on a terminal of its own, which script(1) makes.
pub struct Terminal {
    child: Child,
    keys: ChildStdin,
    shown: Receiver<Vec<u8>>,
    text: String,
    read: usize,
}

impl Terminal {
    /// Starts `line`, in which `$MOTHER` is the command.
    pub fn new(mother: &Mother, line: &str) -> Terminal {
        let mut command = mother.command("script");
        // In the foreground, or `timeout` keeps script from its terminal.
        command.args([
            "--quiet",
            "--flush",
            "--return",
            "--command",
            line,
            "/dev/null",
        ]);
        command.env("SHELL", "/bin/bash").env("TERM", "xterm");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
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
        Terminal {
            child,
            keys,
            shown,
            text: String::new(),
            read: 0,
        }
    }

    /// Presses keys.
    pub fn send(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits until the terminal shows `text` behind what was waited for before.
    pub fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(at) = self.text[self.read..].find(text) {
                self.read += at + text.len();
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let bytes = self.shown.recv_timeout(left);
            let bytes =
                bytes.unwrap_or_else(|_| panic!("no {text:?} in: {}", &self.text[self.read..]));
            self.text.push_str(&String::from_utf8_lossy(&bytes));
        }
    }

    /// Waits for the end; everything that was shown.
    pub fn finish(mut self) -> String {
        while let Ok(bytes) = self.shown.recv_timeout(Duration::from_secs(30)) {
            self.text.push_str(&String::from_utf8_lossy(&bytes));
        }
        self.child.wait().unwrap();
        self.text.replace('\r', "")
    }
}

/// A terminal that showed its modes twice, as `stty -g` writes them, had the same ones both times.
pub fn assert_modes_came_back(shown: &str) {
    let is_modes = |line: &&str| line.matches(':').count() > 20;
    let modes: Vec<&str> = shown.lines().filter(is_modes).collect();
    assert_eq!(modes.len(), 2, "{shown}");
    assert_eq!(modes[0], modes[1], "the terminal is as it was");
}

/// A multiboot 1 kernel (specification 3.1, address fields given) of these instructions, loaded at 1 MiB.
pub fn multiboot(code: &[u8]) -> Vec<u8> {
    const LOAD: u32 = 0x10_0000;
    const HEADER_BYTES: u32 = 32;
    let end = LOAD + HEADER_BYTES + code.len() as u32;
    let magic = 0x1bad_b002_u32;
    let flags = 1_u32 << 16;
    let checksum = 0_u32.wrapping_sub(magic.wrapping_add(flags));
    let header = [
        magic,
        flags,
        checksum,
        LOAD,
        LOAD,
        end,
        end,
        LOAD + HEADER_BYTES,
    ];
    header
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .chain(code.iter().copied())
        .collect()
}

/// Names of everything in a folder.
pub fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Adds a file of root's to an archive.
pub fn add(builder: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    builder.append_data(&mut header, path, bytes).unwrap();
}
