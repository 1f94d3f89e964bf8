//! What is configured about registries: mirrors, and which speak plain HTTP. One small file, and mostly none.
//!
//! ```toml
//! ["docker.io"]
//! mirrors = ["mirror.example", "harbor.example/hub"]
//!
//! ["registry.lan:5000"]
//! insecure = true
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Deserialize;
use thiserror::Error;

use crate::reference::{host, is_component, is_loopback};

/// The variable that names the file.
const VARIABLE: &str = "MOTHER_REGISTRIES";

/// The file, in the user's folder of configurations or in the host's.
const FILE: &str = "mother/registries.toml";

/// The longest file.
const LEN_MAX: u64 = 1 << 20;

/// Why what is configured cannot be followed.
#[derive(Debug, Error)]
pub enum ConfigurationError {
    /// The file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// It says nothing that can be.
    #[error("{} is no configuration of registries: {what}", .path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// What is configured.
#[derive(Clone, Default, Debug)]
pub struct Registries(BTreeMap<String, Entry>);

#[derive(Clone, Default, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    mirrors: Vec<String>,
    insecure: Option<bool>,
}

/// A mirror: a host, and what stands before the repository there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mirror {
    pub(crate) host: String,
    pub(crate) prefix: String,
}

impl Registries {
    /// What this user has configured, or else this host.
    ///
    /// # Errors
    /// If a file is there and is none, or one that was named is not.
    pub fn of_user() -> Result<Registries, ConfigurationError> {
        if let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
            return Registries::read(Path::new(&path));
        }
        let set =
            |name: &str| std::env::var_os(name).filter(|it: &OsString| Path::new(it).is_absolute());
        let own = set("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| set("HOME").map(|home| Path::new(&home).join(".config")));
        for folder in own.into_iter().chain([PathBuf::from("/etc")]) {
            match Registries::read(&folder.join(FILE)) {
                Err(ConfigurationError::Read { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                read => return read,
            }
        }
        Ok(Registries::default())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigurationError`].
    pub fn read(path: &Path) -> Result<Registries, ConfigurationError> {
        let failed = |source| ConfigurationError::Read {
            path: path.to_owned(),
            source,
        };
        let bad = |what: String| ConfigurationError::Bad {
            path: path.to_owned(),
            what,
        };
        if fs::metadata(path).map_err(failed)?.len() > LEN_MAX {
            return Err(bad("it is too large".to_owned()));
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        Registries::parse(&text).map_err(bad)
    }

    fn parse(text: &str) -> Result<Registries, String> {
        let read: BTreeMap<String, Entry> = toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .map(|span| text[..span.start].matches('\n').count() + 1);
            let place = line.map_or(String::new(), |line| format!("line {line}: "));
            format!("{place}{}", error.message())
        })?;
        let mut all = BTreeMap::new();
        for (name, entry) in read {
            let registry = host(&name).map_err(|what| format!("{name:?}: {what}"))?;
            for mirror in &entry.mirrors {
                place(mirror)
                    .map_err(|what| format!("the mirror {mirror:?} of {name:?}: {what}"))?;
            }
            all.insert(registry, entry);
        }
        Ok(Registries(all))
    }

    /// The mirrors of a registry, in the order in which they are asked.
    pub(crate) fn mirrors(&self, registry: &str) -> Vec<Mirror> {
        let written = self.0.get(registry).map(|entry| entry.mirrors.as_slice());
        let written = written.unwrap_or_default();
        written
            .iter()
            .filter_map(|mirror| place(mirror).ok())
            .collect()
    }

    /// Whether a host is spoken to without TLS: this host itself, unless the contrary is written, and those of which it is
    /// written.
    pub(crate) fn is_plain(&self, host: &str) -> bool {
        let written = self.0.get(host).and_then(|entry| entry.insecure);
        written.unwrap_or_else(|| is_loopback(host))
    }
}

/// `HOST[:PORT][/PREFIX]`.
fn place(text: &str) -> Result<Mirror, &'static str> {
    let (name, prefix) = text.split_once('/').unwrap_or((text, ""));
    if !prefix.is_empty() && !prefix.split('/').all(is_component) {
        return Err("behind the host stands the beginning of repositories");
    }
    Ok(Mirror {
        host: host(name)?,
        prefix: prefix.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_and_plain_registries_are_read() {
        let text = "[\"docker.io\"]\nmirrors = [\"mirror.example\", \"127.0.0.1:5000/hub\"]\n\
                    [\"registry.lan:5000\"]\ninsecure = true\n[localhost]\ninsecure = false\n";
        let read = Registries::parse(text).unwrap();
        let mirror = |host: &str, prefix: &str| Mirror {
            host: host.to_owned(),
            prefix: prefix.to_owned(),
        };
        let expected = [
            mirror("mirror.example", ""),
            mirror("127.0.0.1:5000", "hub"),
        ];
        assert_eq!(read.mirrors("docker.io"), expected);
        assert_eq!(read.mirrors("ghcr.io"), []);
        let check =
            |host: &str, expected: bool| assert_eq!(read.is_plain(host), expected, "{host}");
        check("registry.lan:5000", true);
        check("registry.lan", false);
        check("docker.io", false);
        check("127.0.0.1:5000", true);
        check("127.8.9.1", true);
        check("[::1]:5000", true);
        check("localhost:5000", true);
        check("localhost", false);
        check("128.0.0.1:5000", false);
        check("localhost.example", false);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let check = |text: &str, expected: &str| {
            let what = Registries::parse(text).unwrap_err();
            assert!(what.contains(expected), "{what}");
        };
        check(
            "[\"docker.io\"]\nmirors = []\n",
            "line 2: unknown field `mirors`",
        );
        check(
            "[\"docker.io\"]\nmirrors = [\"https://mirror.example\"]\n",
            "the mirror",
        );
        check("[\"a b\"]\ninsecure = true\n", "its host is none");
        check("insecure = true\n", "line 1");
    }
}
