//! A guest that runs detached and is given less memory than it believes to have.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use api::VmName;
use fleet::{Client, ClientError, Inventory};
use serde_json::Value;
use tempfile::TempDir;

use super::nobody::Who;
use super::{Mother, Ran, with_guest};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Gone when this is dropped, however the test went.
pub struct Limited {
    pub mother: Mother,
    pub folder: TempDir,
    name: &'static str,
}

impl Drop for Limited {
    fn drop(&mut self) {
        self.call(&["rm", "--all", "--force"]);
    }
}

impl Limited {
    /// A place for such a guest of this user; `None`, said aloud, where there can be none.
    pub fn new(name: &'static str, who: Who) -> Option<Limited> {
        let mother = with_guest()?;
        if !machine::paging_finding().usable {
            eprintln!("SKIPPED: guest memory cannot be paged here");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let mother = mother.in_folder(folder.path()).of(who);
        Some(Limited {
            mother,
            folder,
            name,
        })
    }

    pub fn call(&self, words: &[&str]) -> Ran {
        self.mother.call(words)
    }

    /// Starts it, without waiting for anything.
    pub fn launch(&self, words: &[&str]) -> String {
        let always = [
            "-d",
            "--name",
            self.name,
            "--memory",
            "160M",
            "--timeout",
            "115s",
        ];
        let ran = self.mother.run(&[&always, words].concat());
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        ran.stderr
    }

    /// Starts it and waits for its shell; what Mother said.
    pub fn start(&self, words: &[&str]) -> String {
        let said = self.launch(words);
        self.until("the shell", || self.log().contains("guest:~#"));
        said
    }

    pub fn log(&self) -> String {
        self.call(&["logs", self.name]).stdout
    }

    pub fn client(&self) -> Client {
        self.connect().unwrap()
    }

    fn connect(&self) -> Result<Client, ClientError> {
        let name = VmName::new(self.name).unwrap();
        Client::connect(&Inventory::at(&self.mother.vms()).record(&name))
    }

    /// Types a line into its console.
    pub fn type_line(&self, line: &str) {
        self.type_into(self.client(), line).unwrap();
    }

    /// The same for a guest that may have ended by now.
    pub fn type_line_if_alive(&self, line: &str) {
        let _ended = self
            .connect()
            .and_then(|client| self.type_into(client, line));
    }

    fn type_into(&self, mut client: Client, line: &str) -> Result<(), ClientError> {
        client.order(api::Command::Console {
            replay_bytes: 0,
            types: true,
        })?;
        let (_, mut stream) = client.into_console()?;
        stream
            .write_all(format!("{line}\n").as_bytes())
            .map_err(ClientError::Connection)?;
        thread::sleep(Duration::from_millis(200));
        Ok(())
    }

    pub fn until(&self, what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            assert!(
                Instant::now() < deadline,
                "{what}: not in time; {}",
                self.log()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// What `ps -a --json` says of it.
    pub fn ps(&self) -> Value {
        let vms: Vec<Value> =
            serde_json::from_str(&self.call(&["ps", "-a", "--json"]).stdout).unwrap();
        vms.into_iter()
            .find(|vm| vm["name"] == self.name)
            .unwrap_or(Value::Null)
    }

    pub fn pid(&self) -> String {
        self.ps()["pid"].to_string()
    }

    /// The page file of its process: a file in `folder` that has no name.
    pub fn page_file(&self, folder: &Path) -> PathBuf {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        let is_it = |fd: &PathBuf| {
            fs::read_link(fd)
                .is_ok_and(|to| to.starts_with(folder) && to.to_string_lossy().contains("deleted"))
        };
        fds.flatten().map(|fd| fd.path()).find(is_it).unwrap()
    }
}
