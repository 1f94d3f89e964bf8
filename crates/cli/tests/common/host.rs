//! A host with VMs of its own, handled from a second terminal.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::{Mother, Ran, multiboot, with_guest};

/// A host with its own VMs, which are gone when the test is over, however it went.
pub struct Host {
    /// The command.
    pub mother: Mother,
    folder: TempDir,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.mother.call(&["rm", "--all", "--force"]);
    }
}

impl Host {
    /// Nothing is in its cache; some small kernels are in its folder.
    pub fn new() -> Host {
        let folder = with_kernels();
        Host {
            mother: Mother::new(folder.path()),
            folder,
        }
    }

    /// The command with the user's cache, which has the default guest, or a loud word that there is none.
    pub fn with_guest() -> Option<Host> {
        let folder = with_kernels();
        with_guest().map(|mother| Host {
            mother: mother.in_folder(folder.path()),
            folder,
        })
    }

    /// Where the command is started.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `mother` with these words.
    pub fn call(&self, words: &[&str]) -> Ran {
        self.mother.call(words)
    }

    /// `mother run` of the echoing guest.
    pub fn run(&self, words: &[&str]) -> Ran {
        self.mother.run(
            &[
                &["--kernel", "echo", "--memory", "32M", "--timeout", "90s"],
                words,
            ]
            .concat(),
        )
    }

    /// A detached echoing guest.
    pub fn start(&self, name: &str) {
        let ran = self.run(&["-d", "--name", name]);
        assert_eq!(
            (ran.status, ran.stdout.as_str()),
            (Some(0), format!("{name}\n").as_str()),
            "{}",
            ran.stderr
        );
    }

    /// What the kernel's books say of each thread of a process (proc_pid_status(5)), line by line, blanks made one.
    pub fn books(process: &str) -> Vec<Vec<String>> {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
        // A thread of a client may have ended.
        let statuses = tasks
            .flatten()
            .filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let books: Vec<Vec<String>> = statuses
            .map(|status| status.lines().map(words).collect())
            .collect();
        assert!(!books.is_empty());
        books
    }

    /// What `ps -a --json` says about a VM.
    pub fn ps(&self, name: &str) -> Value {
        let ran = self.call(&["ps", "-a", "--json"]);
        let vms: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
        vms.into_iter()
            .find(|vm| vm["name"] == name)
            .unwrap_or(Value::Null)
    }

    /// Waits until what is logged has `text`.
    pub fn expect_log(&self, name: &str, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let log = self.call(&["logs", name]).stdout;
            if log.contains(text) {
                return;
            }
            assert!(Instant::now() < deadline, "no {text:?} in {log:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until a VM is in this state.
    pub fn wait_for(&self, name: &str, state: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.ps(name)["state"] != state {
            assert!(Instant::now() < deadline, "{name} is not {state}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Types into a VM through its control socket.
    pub fn attach(&self, name: &str) -> UnixStream {
        let mut stream = UnixStream::connect(self.mother.vms().join(name).join("control")).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let request = "{\"version\":1,\"command\":\"console\",\"replay_bytes\":0,\"types\":true}\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = [0; 29];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(
            std::str::from_utf8(&reply).unwrap(),
            "{\"version\":1,\"reply\":\"done\"}\n"
        );
        stream
    }
}

/// A folder with some small kernels.
fn with_kernels() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("echo"), multiboot(&echo())).unwrap();
    // ud2 without an interrupt table
    fs::write(folder.path().join("crash"), multiboot(&[0x0f, 0x0b])).unwrap();
    fs::write(folder.path().join("late"), multiboot(&late())).unwrap();
    folder
}

/// Prints `ready`, then echoes what is typed (COM1) until the power button is pressed (PM1 status bit 8), and powers
/// off through S5.
fn echo() -> Vec<u8> {
    // mov edx, 0x3f8; mov al, byte; out dx, al
    let mut code: Vec<u8> = b"ready\r\n"
        .iter()
        .flat_map(|&byte| [0xba, 0xf8, 3, 0, 0, 0xb0, byte, 0xee])
        .collect();
    // 1: mov edx, 0x3fd; in al, dx; test al, 1; jz 2f; mov edx, 0x3f8; in al, dx; out dx, al
    code.extend([
        0xba, 0xfd, 3, 0, 0, 0xec, 0xa8, 1, 0x74, 7, 0xba, 0xf8, 3, 0, 0, 0xec, 0xee,
    ]);
    // 2: mov edx, 0x600; in ax, dx; test ah, 1; jz 1b
    code.extend([0xba, 0, 6, 0, 0, 0x66, 0xed, 0xf6, 0xc4, 1, 0x74, 0xe3]);
    // mov edx, 0x604; mov ax, 0x3400; out dx, ax; hlt
    code.extend([0xba, 4, 6, 0, 0, 0x66, 0xb8, 0, 0x34, 0x66, 0xef, 0xf4]);
    code
}

/// Prints `ready`, clears the power button's first press as a kernel does that starts, and powers off at the second.
fn late() -> Vec<u8> {
    let mut code: Vec<u8> = b"ready\r\n"
        .iter()
        .flat_map(|&byte| [0xba, 0xf8, 3, 0, 0, 0xb0, byte, 0xee])
        .collect();
    // mov edx, 0x600; 1: in ax, dx; test ah, 1; jz 1b; mov ax, 0x100; out dx, ax
    code.extend([
        0xba, 0, 6, 0, 0, 0x66, 0xed, 0xf6, 0xc4, 1, 0x74, 0xf9, 0x66, 0xb8, 0, 1, 0x66, 0xef,
    ]);
    // 2: in ax, dx; test ah, 1; jz 2b; mov edx, 0x604; mov ax, 0x3400; out dx, ax; hlt
    code.extend([
        0x66, 0xed, 0xf6, 0xc4, 1, 0x74, 0xf9, 0xba, 4, 6, 0, 0, 0x66, 0xb8, 0, 0x34, 0x66, 0xef,
        0xf4,
    ]);
    code
}
