//! The host's apt as a downloader: its sources, keys and proxies, our own state and cache folders.
//!
//! The host's hooks after an update are switched off: they would touch the host's own package cache.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use thiserror::Error;

use crate::progress::{Amount, OnProgress, Progress, Unit};

/// Metapackages that lead to a kernel for virtual machines, Debian's first; the others are what Ubuntu has.
const KERNEL_PACKAGES: [&str; 3] = [
    "linux-image-cloud-amd64",
    "linux-image-virtual",
    "linux-image-generic",
];

/// The package with a statically linked busybox.
const BUSYBOX_PACKAGE: &str = "busybox-static";

/// Why packages did not come.
#[derive(Debug, Error)]
pub enum AptError {
    /// This host has no apt.
    #[error("this host has no `{0}`")]
    Missing(&'static str),
    /// A program of apt's did not start or our folder could not be prepared.
    #[error("cannot {act}")]
    Io {
        /// What was to be done.
        act: String,
        /// What the host said.
        source: io::Error,
    },
    /// apt says no.
    #[error("`{program}` failed: {said}")]
    Failed {
        /// Which program and verb.
        program: &'static str,
        /// Its first complaint.
        said: String,
    },
    /// No source offers a kernel.
    #[error("apt's sources offer none of {}", KERNEL_PACKAGES.join(", "))]
    NoKernel,
}

/// Whether this host has the programs we call.
pub fn has_apt() -> bool {
    ["apt-get", "apt-cache", "dpkg-deb"]
        .iter()
        .all(|program| is_installed(program))
}

fn is_installed(program: &str) -> bool {
    on_path(program).is_some()
}

/// Where a program of the host is.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// apt with private folders.
pub struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Prepares `folder`, which must be empty.
    pub fn new(folder: &Path) -> Result<Apt, AptError> {
        let make = |name: &str| {
            let path = folder.join(name);
            fs::create_dir_all(&path)
                .map_err(|source| io_error(format!("create {}", path.display()), source))
        };
        for name in ["state/lists/partial", "cache/archives/partial", "packages"] {
            make(name)?;
        }
        let apt = Apt {
            folder: folder.to_owned(),
        };
        // Nothing is installed; apt also locks the folder of this file, which must be ours for that.
        let status = folder.join("state/status");
        fs::write(&status, "")
            .map_err(|source| io_error(format!("write {}", status.display()), source))?;
        let path = apt.configuration();
        fs::write(&path, configuration(folder))
            .map_err(|source| io_error(format!("write {}", path.display()), source))?;
        Ok(apt)
    }

    /// What an update of the host's sources would fetch, one quoted address on each line. Nothing is fetched.
    pub fn update_addresses(&self) -> Result<String, AptError> {
        let output = self
            .command("apt-get")
            .args(["update", "--print-uris"])
            .output()
            .map_err(|source| start_error("apt-get", source))?;
        let said = String::from_utf8_lossy(&output.stderr);
        check("apt-get update --print-uris", output.status, &said)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Uses these sources (sources.list(5)) and none of the host's.
    pub fn use_sources(&self, text: &str) -> Result<(), AptError> {
        let list = self.folder.join("sources.list");
        fs::write(&list, text)
            .map_err(|source| io_error(format!("write {}", list.display()), source))?;
        let path = self.configuration();
        let more = format!(
            "Dir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"/dev/null\";\nDir::Etc::preferencesparts \"/dev/null\";\n",
            list.display()
        );
        let mut file = File::options()
            .append(true)
            .open(&path)
            .map_err(|source| io_error(format!("open {}", path.display()), source))?;
        io::Write::write_all(&mut file, more.as_bytes())
            .map_err(|source| io_error(format!("write {}", path.display()), source))
    }

    /// Downloads packages with all that they depend on, as for an empty machine; the files, and beside them the
    /// kernel's and busybox's.
    pub(crate) fn download_system(
        &self,
        packages: &[&str],
        on_progress: OnProgress,
    ) -> Result<(Vec<PathBuf>, [PathBuf; 2]), AptError> {
        self.update(on_progress)?;
        let kernel = self.kernel_package()?;
        let needs = needs(packages);
        self.fetch(
            &[&needs, &["download", &kernel, BUSYBOX_PACKAGE]],
            on_progress,
        )?;
        Ok((
            self.downloaded()?,
            [
                self.package_file(&kernel)?,
                self.package_file(BUSYBOX_PACKAGE)?,
            ],
        ))
    }

    /// Downloads packages with all that they depend on, as for an empty machine; the files.
    pub fn download_with_needs(
        &self,
        packages: &[&str],
        on_progress: OnProgress,
    ) -> Result<Vec<PathBuf>, AptError> {
        self.update(on_progress)?;
        self.fetch(&[&needs(packages)], on_progress)?;
        self.downloaded()
    }

    /// Packages that were downloaded with what they need.
    fn downloaded(&self) -> Result<Vec<PathBuf>, AptError> {
        let folder = self.folder.join("cache/archives");
        let entries = fs::read_dir(&folder)
            .map_err(|source| io_error(format!("read {}", folder.display()), source))?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
        files.sort();
        Ok(files)
    }

    /// Downloads the newest kernel and busybox packages; the two files.
    pub fn download(&self, on_progress: OnProgress) -> Result<[PathBuf; 2], AptError> {
        self.update(on_progress)?;
        let kernel = self.kernel_package()?;
        self.fetch(&[&["download", &kernel, BUSYBOX_PACKAGE]], on_progress)?;
        Ok([
            self.package_file(&kernel)?,
            self.package_file(BUSYBOX_PACKAGE)?,
        ])
    }

    /// Downloads the newest version of one package; the file.
    pub(crate) fn download_package(
        &self,
        package: &str,
        on_progress: OnProgress,
    ) -> Result<PathBuf, AptError> {
        self.update(on_progress)?;
        self.fetch(&[&["download", package]], on_progress)?;
        self.package_file(package)
    }

    /// Reads anew what the sources offer.
    pub fn update(&self, on_progress: OnProgress) -> Result<(), AptError> {
        self.get(&["update"], &mut |percent| {
            on_progress(Progress::Listing(Amount::percent(percent)));
        })
    }

    /// Downloads with each of these words of `apt-get`, one after the other, and tells how much of all there is.
    fn fetch(&self, calls: &[&[&str]], on_progress: OnProgress) -> Result<(), AptError> {
        let sizes: Vec<u64> = calls.iter().map(|words| self.len_of(words)).collect();
        let total = sizes.iter().sum();
        let mut before = 0;
        for (words, len) in calls.iter().zip(sizes) {
            self.get(words, &mut |percent| {
                let done = before + (percent / 100.0 * len as f64) as u64;
                on_progress(Progress::Downloading(match total {
                    0 => Amount::percent(percent),
                    total => Amount {
                        done,
                        total,
                        unit: Unit::Bytes,
                    },
                }));
            })?;
            before += len;
        }
        Ok(())
    }

    /// How many bytes `apt-get` would download with these words; 0 where it does not say.
    fn len_of(&self, words: &[&str]) -> u64 {
        let mut command = self.command("apt-get");
        command.args(["-q", "--print-uris"]).args(words);
        command.current_dir(self.folder.join("packages"));
        let output = command.output();
        output.map_or(0, |output| {
            parse_sizes(&String::from_utf8_lossy(&output.stdout))
        })
    }

    /// Names of packages that begin with `prefix`.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>, AptError> {
        let output = self
            .command("apt-cache")
            .args(["pkgnames", prefix])
            .output()
            .map_err(|source| start_error("apt-cache", source))?;
        let said = String::from_utf8_lossy(&output.stderr);
        check("apt-cache pkgnames", output.status, &said)?;
        Ok(String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned)
            .collect())
    }

    /// Downloads the newest version of each package; the files.
    pub fn download_named(
        &self,
        packages: &[String],
        on_progress: OnProgress,
    ) -> Result<Vec<PathBuf>, AptError> {
        let words: Vec<&str> = ["download"]
            .into_iter()
            .chain(packages.iter().map(String::as_str))
            .collect();
        self.fetch(&[&words], on_progress)?;
        packages
            .iter()
            .map(|package| self.package_file(package))
            .collect()
    }

    fn configuration(&self) -> PathBuf {
        self.folder.join("apt.conf")
    }

    /// `apt-get` with these words, telling its progress.
    fn get(&self, words: &[&str], on_percent: &mut dyn FnMut(f64)) -> Result<(), AptError> {
        let is_update = words.contains(&"update");
        let program = if is_update {
            "apt-get update"
        } else {
            "apt-get download"
        };
        on_percent(0.0);
        let log = self.folder.join("apt.log");
        let stderr = File::create(&log)
            .map_err(|source| io_error(format!("create {}", log.display()), source))?;
        let mut child = self
            .command("apt-get")
            .args(["-q", "-o", "APT::Status-Fd=1"])
            .args(words)
            .current_dir(self.folder.join("packages"))
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(|source| start_error("apt-get", source))?;
        if let Some(output) = child.stdout.take() {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                if let Some(percent) = parse_percent(&String::from_utf8_lossy(&line)) {
                    on_percent(percent);
                }
            }
        }
        let status = child
            .wait()
            .map_err(|source| io_error(format!("wait for {program}"), source))?;
        let said = fs::read(&log).unwrap_or_default();
        check(program, status, &String::from_utf8_lossy(&said))
    }

    /// The real package behind the first metapackage that exists.
    fn kernel_package(&self) -> Result<String, AptError> {
        for metapackage in KERNEL_PACKAGES {
            let output = self
                .command("apt-cache")
                .args(["depends", "--no-recommends", "--no-suggests", metapackage])
                .output()
                .map_err(|source| start_error("apt-cache", source))?;
            if let Some(package) = parse_kernel_package(&String::from_utf8_lossy(&output.stdout)) {
                return Ok(package);
            }
        }
        Err(AptError::NoKernel)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // Messages are read below, so they must be in one language.
        command
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .arg("-c")
            .arg(self.configuration());
        command
    }

    /// Where apt put `package`.
    fn package_file(&self, package: &str) -> Result<PathBuf, AptError> {
        let folder = self.folder.join("packages");
        let entries = fs::read_dir(&folder)
            .map_err(|source| io_error(format!("read {}", folder.display()), source))?;
        let is_wanted = |path: &PathBuf| {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            name.ends_with(".deb") && name.split('_').next() == Some(package)
        };
        entries
            .flatten()
            .map(|entry| entry.path())
            .find(is_wanted)
            .ok_or_else(|| AptError::Failed {
                program: "apt-get download",
                said: format!("it left no package {package}"),
            })
    }
}

/// The words for packages with all that they depend on.
fn needs<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let words = [
        "--yes",
        "--no-install-recommends",
        "--download-only",
        "install",
    ];
    [&words[..], packages].concat()
}

/// Unpacks all files of a package into the folder `to`, without installing it.
pub fn unpack(package: &Path, to: &Path) -> Result<(), AptError> {
    let mut command = Command::new("dpkg-deb");
    command
        .arg("--extract")
        .arg(package)
        .arg(to)
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    let output = command
        .output()
        .map_err(|source| start_error("dpkg-deb", source))?;
    check(
        "dpkg-deb --extract",
        output.status,
        &String::from_utf8_lossy(&output.stderr),
    )
}

/// Opens the tar archive inside a package and gives it to `read`.
pub fn with_package_archive<T, E: From<AptError>>(
    package: &Path,
    read: impl FnOnce(&mut dyn Read) -> Result<T, E>,
) -> Result<T, E> {
    with_archive("--fsys-tarfile", package, read)
}

/// Opens the tar archive with a package's scripts and fields and gives it to `read`.
pub(crate) fn with_control_archive<T, E: From<AptError>>(
    package: &Path,
    read: impl FnOnce(&mut dyn Read) -> Result<T, E>,
) -> Result<T, E> {
    with_archive("--ctrl-tarfile", package, read)
}

fn with_archive<T, E: From<AptError>>(
    verb: &str,
    package: &Path,
    read: impl FnOnce(&mut dyn Read) -> Result<T, E>,
) -> Result<T, E> {
    let mut child = Command::new("dpkg-deb")
        .arg(verb)
        .arg(package)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|source| start_error("dpkg-deb", source))?;
    let mut output = child
        .stdout
        .take()
        .expect("the output was asked for as a pipe");
    let result = read(&mut output);
    // The rest is not wanted; a closed pipe ends dpkg-deb, and its status then says only that.
    drop(output);
    let _ = child.wait();
    result
}

fn io_error(act: String, source: io::Error) -> AptError {
    AptError::Io { act, source }
}

fn start_error(program: &'static str, source: io::Error) -> AptError {
    match source.kind() {
        io::ErrorKind::NotFound => AptError::Missing(program),
        _ => io_error(format!("start `{program}`"), source),
    }
}

/// What apt reads after the host's own configuration (apt.conf(5)).
fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r##"#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
// A mirror that is only half there is an error, not a warning.
APT::Update::Error-Mode "any";
// The download user could not write into a folder of the caller's.
APT::Sandbox::User "root";
Dir::State "{folder}/state";
Dir::State::status "{folder}/state/status";
Dir::Cache "{folder}/cache";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::IndexTargets::deb::CNF::DefaultEnabled "false";
Acquire::IndexTargets::deb-src::Sources::DefaultEnabled "false";
"##
    )
}

fn check(program: &'static str, status: ExitStatus, said: &str) -> Result<(), AptError> {
    if status.success() {
        return Ok(());
    }
    let complaint = said
        .lines()
        .find(|line| line.starts_with("E: ") || line.starts_with("W: "));
    let said = complaint.map_or_else(|| status.to_string(), |line| line[3..].trim().to_owned());
    Err(AptError::Failed { program, said })
}

/// Reads a line like `dlstatus:2:12.6863:Retrieving file 2 of 2`.
fn parse_percent(line: &str) -> Option<f64> {
    line.strip_prefix("dlstatus:")?
        .split(':')
        .nth(1)?
        .parse()
        .ok()
}

/// The sizes of all files in what `apt-get --print-uris` prints: `'http://.../a.deb' a.deb 4711 SHA256:...`.
fn parse_sizes(output: &str) -> u64 {
    let files = output.lines().filter(|line| line.starts_with('\''));
    let sizes = files.filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    sizes.sum()
}

/// The kernel that a metapackage depends on, from what `apt-cache depends` prints.
fn parse_kernel_package(output: &str) -> Option<String> {
    let packages = output
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    packages
        .map(str::trim)
        .find(|package| package.starts_with("linux-image-"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_status_lines() {
        let check = |line, expected| assert_eq!(parse_percent(line), expected);
        check("dlstatus:2:12.6863:Retrieving file 2 of 2", Some(12.6863));
        check("Get:1 bookworm InRelease", None);
        check("dlstatus:2", None);
    }

    #[test]
    fn sizes_of_what_would_be_downloaded_add_up() {
        let output = "Reading package lists...\n'http://mirror/a.deb' a_1_amd64.deb 1000 SHA256:00\n\
                      'http://mirror/b.deb' b_1_amd64.deb 234 MD5Sum:00\nInst a [1]\n";
        assert_eq!(parse_sizes(output), 1234);
        assert_eq!(parse_sizes("E: Unable to locate package a\n"), 0);
    }

    #[test]
    fn the_metapackage_leads_to_the_real_kernel() {
        let check = |output, expected: Option<&str>| {
            assert_eq!(parse_kernel_package(output).as_deref(), expected)
        };
        let debian = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        check(debian, Some("linux-image-6.1.0-56-cloud-amd64"));
        let ubuntu = "linux-image-virtual\n  Depends: linux-firmware\n  Depends: linux-image-6.8.0-71-generic\n";
        check(ubuntu, Some("linux-image-6.8.0-71-generic"));
        check("<linux-image-virtual>\n", None);
    }

    #[test]
    fn the_hosts_hooks_do_not_run() {
        let text = configuration(Path::new("/cache"));
        assert!(text.contains("#clear APT::Update::Post-Invoke;"));
        assert!(text.contains("Dir::State \"/cache/state\";"));
    }
}
