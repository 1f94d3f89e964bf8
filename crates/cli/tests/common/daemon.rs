//! A daemon with VMs of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use serve::Target;
use tempfile::TempDir;

use super::{Mother, Ran, with_guest};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon and VMs of its own, which are gone when the test is over, however it went.
pub struct Daemon {
    /// The command.
    pub mother: Mother,
    /// Where it is started.
    pub folder: TempDir,
    /// `timeout`, which has the daemon below it.
    pub process: Option<Child>,
    /// SHA-256 of its certificate.
    pub fingerprint: String,
    /// Where it listens.
    pub address: String,
    /// More words behind `mother serve`.
    words: Vec<String>,
    /// Variables of its environment.
    variables: Vec<(String, String)>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        self.mother.call(&["rm", "--all", "--force"]);
    }
}

impl Daemon {
    /// With the default guest in its cache, or a loud word that there is none.
    pub fn start() -> Option<Daemon> {
        Daemon::start_with(&[])
    }

    /// The same with more words behind `mother serve`.
    pub fn start_with(words: &[&str]) -> Option<Daemon> {
        Daemon::start_in(words, &[])
    }

    /// The same with these variables.
    pub fn start_in(words: &[&str], variables: &[(&str, &str)]) -> Option<Daemon> {
        let variables = variables.iter();
        let folder = tempfile::tempdir().unwrap();
        let mut daemon = Daemon {
            mother: with_guest()?.in_folder(folder.path()),
            folder,
            process: None,
            fingerprint: String::new(),
            address: String::new(),
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            variables: variables
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        };
        daemon.begin();
        Some(daemon)
    }

    /// Starts it, and reads where it answers.
    pub fn begin(&mut self) {
        let mut command = self.mother.command_for_long(self.mother.program());
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--state"])
            .arg(self.folder.path().join("state"))
            .args(&self.words)
            .envs(self.variables.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        for line in lines.by_ref() {
            let line = line.unwrap();
            if let Some((_, rest)) = line.split_once("https://") {
                let (address, rest) = rest.split_once(',').unwrap();
                address.clone_into(&mut self.address);
                self.fingerprint = rest
                    .rsplit(' ')
                    .next()
                    .unwrap()
                    .replace(':', "")
                    .to_lowercase();
            }
            if line.contains("answers at") {
                break;
            }
        }
        assert!(!self.fingerprint.is_empty());
        thread::spawn(move || lines.for_each(drop));
        self.process = Some(process);
    }

    /// Ends it without a word.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // `timeout` is its parent: both.
            let children = format!("/proc/{0}/task/{0}/children", process.id());
            for child in fs::read_to_string(children)
                .unwrap_or_default()
                .split_whitespace()
            {
                self.mother.shell(&format!("kill -9 {child}"));
            }
            let _ = process.kill();
            process.wait().unwrap();
        }
    }

    /// Where it answers its own user.
    pub fn socket(&self) -> PathBuf {
        self.mother.vms().join("api.sock")
    }

    /// The same for a client.
    pub fn local(&self) -> Target {
        Target::Socket(self.socket())
    }

    /// Over TLS.
    pub fn with_token(&self, token: &str) -> Target {
        let (host, port) = self.address.rsplit_once(':').unwrap();
        Target::Tls {
            host: host.to_owned(),
            port: port.parse().unwrap(),
            token: token.to_owned(),
            fingerprint: self.fingerprint.clone(),
        }
    }

    /// What it answers.
    pub fn get(&self, path: &str) -> Value {
        self.local().ask("GET", path, None, None).unwrap().body
    }

    /// One VM; null if there is none.
    pub fn vm(&self, name: &str) -> Value {
        let answer = self
            .local()
            .ask("GET", &format!("/v1/vms/{name}"), None, None);
        answer.map_or(Value::Null, |answer| answer.body)
    }

    /// `mother` with these words.
    pub fn call(&self, words: &[&str]) -> Ran {
        self.mother.call(words)
    }

    /// The same, which must be well; what it prints.
    pub fn well(&self, words: &[&str]) -> String {
        let ran = self.call(words);
        assert_eq!(ran.status, Some(0), "{words:?}: {}", ran.stderr);
        ran.stdout
    }

    /// Waits for something.
    pub fn until(&self, what: &str, done: impl Fn(&Daemon) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(
                Instant::now() < deadline,
                "{what}: not in time; {}",
                self.get("/v1/vms")
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits for a VM's state.
    pub fn until_state(&self, name: &str, state: &str) {
        self.until(&format!("{name} {state}"), |daemon| {
            daemon.vm(name)["state"] == state
        });
    }
}
