//! `cargo xtask cloud-init`: what Mother's disk for cloud-init says, carried out by cloud-init itself, of Debian 12 and 13.
//!
//! ```text
//! mmdebstrap ──> archive ──prepare.sh──> a disk as vendors have them, kept ──copied for each try──> `mother run`, and
//!                                                                          proof.sh tells in the guest what is true
//! ```
//!
//! The disks are like vendors' images in what matters here: their own boot entry, no name, no keys, cloud-init with Debian's
//! configuration. They are no vendor's images: those come from servers that not everybody who tests can reach.

mod image;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use images::DebianRelease;

use crate::boot::build_mother;
use crate::qemu::limited;

/// Releases that are tried.
const RELEASES: [&str; 2] = ["12", "13"];

/// A guest that takes longer hangs, in seconds.
const PATIENCE: &str = "400";

const HOSTNAME: &str = "web1";
const OTHER_HOSTNAME: &str = "web2";
/// Bits that make up no key of anybody's.
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@home";

const USER_DATA: &str = "\
#cloud-config
locale: C.UTF-8
users:
  - default
  - name: visitor
    lock_passwd: true
write_files:
  - path: /etc/proof
    permissions: '0640'
    content: |
      written by cloud-init
runcmd:
  - echo 'proof:' ran by cloud-init
  - echo once >>/var/log/proof-runs
";

/// What a guest told, by its first words.
type Told = BTreeMap<String, String>;

/// Tries every release; whether all is as it should be.
pub fn run(words: &[&str]) -> Result<bool> {
    let releases = if words.is_empty() { &RELEASES } else { words };
    let mother = build_mother()?;
    let mut passed = 0;
    let mut failed = 0;
    for release in releases {
        let release = DebianRelease::parse(release)
            .with_context(|| format!("{release} is no release of Debian that is known"))?;
        let disk = image::disk(release)?;
        for complaint in tries(&mother, &disk, release)? {
            match complaint {
                None => passed += 1,
                Some(complaint) => {
                    failed += 1;
                    println!("  wrong: {complaint}");
                }
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}

/// What was asked of one release: nothing, or what is wrong.
fn tries(mother: &Path, disk: &Path, release: DebianRelease) -> Result<Vec<Option<String>>> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("user-data"), USER_DATA)?;
    fs::write(folder.path().join("key.pub"), format!("{KEY}\n"))?;
    let copy = |name: &str| -> Result<PathBuf> {
        let path = folder.path().join(name);
        let status = Command::new("cp")
            .args(["--sparse=always", "--reflink=auto"])
            .args([disk, &path])
            .status()?;
        ensure!(status.success(), "cp: {status}");
        Ok(path)
    };
    let own = copy("own.raw")?;
    let boot = |disk: &Path, hostname: &str| told(mother, disk, hostname, folder.path());
    let first = boot(&own, HOSTNAME)?;
    let version = first.get("version").map_or("?", String::as_str);
    println!("{release}, cloud-init {version}");
    let mut asked = Asked::default();
    for (key, expected) in FIRST {
        asked.ask("the first start", &first, key, expected);
    }
    // The partition has 2 GiB of the disk's 3.
    let grown = first.get("root").and_then(|root| root.parse::<u64>().ok());
    asked.is_so(
        "its file system has grown",
        grown.is_some_and(|mib| mib > 2500),
    );

    let again = boot(&own, HOSTNAME)?;
    for key in ["instance", "hostkey", "runs", "hostname", "keys", "errors"] {
        let before = first.get(key).map_or("", String::as_str);
        asked.ask("started again", &again, key, before);
    }
    asked.ask("started again", &again, "ran", "");

    let changed = boot(&own, OTHER_HOSTNAME)?;
    for (key, expected) in [("hostname", OTHER_HOSTNAME), ("ran", RAN), ("runs", "2")] {
        asked.ask("with another name", &changed, key, expected);
    }

    let clone = boot(&copy("clone.raw")?, HOSTNAME)?;
    asked.ask("a copy", &clone, "ran", RAN);
    for key in ["instance", "hostkey"] {
        let what = format!("the {key} of a copy is another");
        asked.is_so(&what, clone.get(key) != first.get(key));
    }
    Ok(asked.0)
}

/// What is true after the first start; what ends with a star begins like that.
const FIRST: [(&str, &str); 15] = [
    ("id", "nocloud"),
    (
        "datasource",
        "DataSourceNoCloud: DataSourceNoCloud [seed=/dev/vdb]*",
    ),
    ("list", "datasource_list: [ NoCloud, None ]"),
    ("instance", "mother-*"),
    ("hostname", HOSTNAME),
    ("virt", "kvm"),
    ("product", "Mother Virtual Machine"),
    ("vendor", "Mother"),
    ("written", "640 root written by cloud-init"),
    ("user", "uid=*"),
    ("keys", KEY),
    ("ran", RAN),
    ("runs", "1"),
    ("errors", "[]"),
    ("failed", ""),
];

/// What `runcmd` says.
const RAN: &str = "by cloud-init";

/// What was asked: nothing, or what is wrong.
#[derive(Default)]
struct Asked(Vec<Option<String>>);

impl Asked {
    fn ask(&mut self, which: &str, of: &Told, key: &str, expected: &str) {
        let is = of.get(key).map_or("", String::as_str);
        let is_right = match expected.strip_suffix('*') {
            Some(start) => is.starts_with(start),
            None => is == expected,
        };
        let wrong = || format!("{which}: {key}: {is:?}, not {expected:?}");
        self.0.push((!is_right).then(wrong));
    }

    fn is_so(&mut self, what: &str, is_so: bool) {
        self.0
            .push((!is_so).then(|| format!("it is not so that {what}")));
    }
}

/// Starts a disk with these words for cloud-init, until the guest has told what is true in it and is off.
fn told(mother: &Path, disk: &Path, hostname: &str, folder: &Path) -> Result<Told> {
    let mut command = Command::new(mother);
    command.arg("run").arg(disk);
    command.args(["--engine", "soft", "--memory", "1G", "--net", "user"]);
    command.args(["--hostname", hostname]);
    command.arg("--user-data").arg(folder.join("user-data"));
    command.arg("--ssh-key").arg(folder.join("key.pub"));
    let output = limited(PATIENCE, &command)
        .stdin(Stdio::null())
        .output()
        .context("start `mother run`")?;
    let said = String::from_utf8_lossy(&output.stdout);
    // What a guest that did not come so far has said is what helps.
    let log = std::env::temp_dir().join("cloud-init-console.txt");
    let mut told = Told::new();
    for line in said.lines() {
        let words = line.split_once("proof: ").map(|(_, words)| words.trim());
        if let Some(words) = words {
            let (key, value) = words.split_once(' ').unwrap_or((words, ""));
            told.insert(key.to_owned(), value.trim().to_owned());
        }
    }
    if !output.status.success() || !told.contains_key("failed") {
        fs::write(&log, said.as_bytes())?;
        let errors = String::from_utf8_lossy(&output.stderr);
        anyhow::bail!(
            "the guest did not end well ({}): {errors}its console is in {}",
            output.status,
            log.display()
        );
    }
    Ok(told)
}
