//! Who the user is to a registry, from the files that container engines keep, and from programs that they name there.
//!
//! ```text
//! $REGISTRY_AUTH_FILE                       alone, if it is set
//! $XDG_RUNTIME_DIR/containers/auth.json     skopeo, podman, buildah (containers-auth.json(5))
//! ~/.config/containers/auth.json
//! ~/.docker/config.json                     docker; the folder is $DOCKER_CONFIG, if that is set
//! ```
//!
//! They are looked at when a registry asks who one is, and not before.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::error::RegistryError;
use crate::reference::{DOCKER_HUB, host};

/// What docker calls Docker Hub in its files.
const HUB_AS_DOCKER_HAS_IT: &str = "https://index.docker.io/v1/";

/// The longest file, and the longest answer of a program.
const LEN_MAX: u64 = 1 << 20;

/// What a program says as the user's name if what it has is a token (docker-credential-helpers).
const TOKEN_USER: &str = "<token>";

/// What says who one is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    /// A name and a password.
    Password(String, String),
    /// What is exchanged for tokens.
    Identity(String),
}

/// Where credentials are looked for, in this order.
#[derive(Clone, Debug)]
pub(crate) struct Credentials(Vec<PathBuf>);

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Store {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    auth: Option<String>,
    identitytoken: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Given {
    username: String,
    secret: String,
}

impl Credentials {
    /// Those of the user.
    pub(crate) fn of_user() -> Credentials {
        let set = |name: &str| {
            let value = std::env::var_os(name).filter(|it: &OsString| !it.is_empty());
            value.map(PathBuf::from)
        };
        if let Some(path) = set("REGISTRY_AUTH_FILE") {
            return Credentials(vec![path]);
        }
        let home = set("HOME");
        let config = set("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
        let docker = set("DOCKER_CONFIG").or_else(|| Some(home.as_ref()?.join(".docker")));
        let files = [
            set("XDG_RUNTIME_DIR").map(|it| it.join("containers/auth.json")),
            config.map(|it| it.join("containers/auth.json")),
            docker.map(|it| it.join("config.json")),
        ];
        Credentials(files.into_iter().flatten().collect())
    }

    #[cfg(test)]
    pub(crate) fn of(files: Vec<PathBuf>) -> Credentials {
        Credentials(files)
    }

    /// Those for a repository of a registry, if there are any.
    ///
    /// # Errors
    /// If a file is damaged, or a program does not give what it is named for.
    pub(crate) fn find(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Credential>, RegistryError> {
        for path in &self.0 {
            let bad = |what: String| RegistryError::Credentials {
                registry: registry.to_owned(),
                place: path.display().to_string(),
                what,
            };
            let store = match read(path) {
                Ok(bytes) => {
                    serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(bad(error.to_string())),
            };
            let found = in_store(&store, registry, repository, &bad)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(LEN_MAX)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn in_store(
    store: &Store,
    registry: &str,
    repository: &str,
    bad: &dyn Fn(String) -> RegistryError,
) -> Result<Option<Credential>, RegistryError> {
    let own = store
        .cred_helpers
        .iter()
        .find(|(name, _)| called(name) == registry);
    if let Some((name, helper)) = own {
        return given(helper, name, bad);
    }
    // The longest name that is a beginning of ours: who has several accounts with one registry writes repositories.
    let whole = format!("{registry}/{repository}");
    let is_of_ours = |name: &str| {
        let rest = whole.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let fitting = store
        .auths
        .iter()
        .map(|(name, entry)| (called(name), entry));
    let fitting = fitting.filter(|(name, _)| is_of_ours(name));
    let longest = fitting.max_by_key(|(name, _)| name.len());
    if let Some(credential) = longest
        .map(|(_, entry)| of_entry(entry, bad))
        .transpose()?
        .flatten()
    {
        return Ok(Some(credential));
    }
    let Some(helper) = &store.creds_store else {
        return Ok(None);
    };
    let name = if registry == DOCKER_HUB {
        HUB_AS_DOCKER_HAS_IT
    } else {
        registry
    };
    // One for everything often stands there without being installed; what is public does without.
    given(helper, name, bad).or_else(|error| {
        tracing::warn!("{error}");
        Ok(None)
    })
}

/// What a file calls a registry, as we do: docker has addresses there.
fn called(name: &str) -> String {
    let bare = name
        .strip_prefix("https://")
        .or_else(|| name.strip_prefix("http://"));
    let bare = bare.unwrap_or(name).trim_end_matches('/');
    let bare = bare
        .strip_suffix("/v1")
        .or_else(|| bare.strip_suffix("/v2"))
        .unwrap_or(bare);
    let (first, path) = bare
        .split_once('/')
        .map_or((bare, None), |(first, path)| (first, Some(path)));
    let first = host(first).unwrap_or_else(|_| first.to_owned());
    path.map_or(first.clone(), |path| format!("{first}/{path}"))
}

fn of_entry(
    entry: &Entry,
    bad: &dyn Fn(String) -> RegistryError,
) -> Result<Option<Credential>, RegistryError> {
    let is_there = |text: &&String| !text.is_empty();
    if let Some(token) = entry.identitytoken.as_ref().filter(is_there) {
        return Ok(Some(Credential::Identity(token.clone())));
    }
    if let Some(auth) = entry.auth.as_ref().filter(is_there) {
        let what = || bad("an `auth` in it is not NAME:PASSWORD in Base64".to_owned());
        let bytes = STANDARD.decode(auth.trim()).map_err(|_| what())?;
        let text = String::from_utf8(bytes).map_err(|_| what())?;
        let (name, password) = text.split_once(':').ok_or_else(what)?;
        // docker writes a zero behind some.
        let password = password.trim_end_matches('\0');
        return Ok(Some(Credential::Password(
            name.to_owned(),
            password.to_owned(),
        )));
    }
    Ok(match (&entry.username, &entry.password) {
        (Some(name), Some(password)) => Some(Credential::Password(name.clone(), password.clone())),
        _ => None,
    })
}

/// What a program of the user's gives (docker-credential-helpers, `get`).
fn given(
    helper: &str,
    name: &str,
    bad: &dyn Fn(String) -> RegistryError,
) -> Result<Option<Credential>, RegistryError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if helper.is_empty() || !helper.chars().all(is_plain) {
        return Err(bad(format!(
            "{helper:?} cannot be the ending of a program's name"
        )));
    }
    let program = format!("docker-credential-{helper}");
    let failed = |error: io::Error| bad(format!("{program}: {error}"));
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // One that does not listen says so with its status.
        let _ = input.write_all(name.as_bytes());
    }
    let mut answer = Vec::new();
    if let Some(output) = child.stdout.take() {
        output
            .take(LEN_MAX)
            .read_to_end(&mut answer)
            .map_err(failed)?;
    }
    let status = child.wait().map_err(failed)?;
    if !status.success() {
        let said = String::from_utf8_lossy(&answer).trim().to_owned();
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(bad(format!(
            "{program} get: {status}: {}",
            said.escape_debug()
        )));
    }
    let given: Given =
        serde_json::from_slice(&answer).map_err(|error| bad(format!("{program}: {error}")))?;
    Ok(Some(if given.username == TOKEN_USER {
        Credential::Identity(given.secret)
    } else {
        Credential::Password(given.username, given.secret)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(name: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password(name.to_owned(), password.to_owned()))
    }

    fn find(text: &str, registry: &str, repository: &str) -> Result<Option<Credential>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        fs::write(&path, text).unwrap();
        let absent = folder.path().join("absent.json");
        let all = Credentials::of(vec![absent, path]);
        all.find(registry, repository)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn files_of_docker_and_of_skopeo_are_read() {
        // user:secret, hub:word, other:x, and name:a:b with a zero behind it.
        let text = r#"{"auths": {
            "reg.example:5000": {"auth": "dXNlcjpzZWNyZXQ="},
            "https://index.docker.io/v1/": {"auth": "aHViOndvcmQ="},
            "reg.example:5000/team": {"auth": "b3RoZXI6eA=="},
            "zero.example": {"auth": "bmFtZTphOmIA"},
            "token.example": {"identitytoken": "t0ken"},
            "empty.example": {}
        }, "HttpHeaders": {"x": "y"}}"#;
        let check = |registry: &str, repository: &str, expected: Option<Credential>| {
            let found = find(text, registry, repository).unwrap();
            assert!(found == expected, "{registry}/{repository}");
        };
        check("reg.example:5000", "a/b", password("user", "secret"));
        check("reg.example:5000", "team/b", password("other", "x"));
        check("reg.example:5000", "teams/b", password("user", "secret"));
        check("reg.example", "a", None);
        check("docker.io", "library/alpine", password("hub", "word"));
        check("zero.example", "a", password("name", "a:b"));
        check(
            "token.example",
            "a",
            Some(Credential::Identity("t0ken".to_owned())),
        );
        check("empty.example", "a", None);
    }

    #[test]
    fn a_damaged_file_is_told_and_its_secrets_are_not() {
        let check = |text: &str, expected: &str| {
            let Err(error) = find(text, "reg.example", "a") else {
                panic!("{text}");
            };
            assert!(
                error.contains(expected) && !error.contains("c2VjcmV0"),
                "{error}"
            );
        };
        check(
            "{\"auths\": {\"reg.example\": {\"auth\": \"c2VjcmV0\"}}}",
            "NAME:PASSWORD",
        );
        check("{\"auths\"", "EOF");
        check(
            "{\"credHelpers\": {\"reg.example\": \"../../bin/sh\"}}",
            "cannot be the ending",
        );
        check(
            "{\"credHelpers\": {\"reg.example\": \"no-such-helper-here\"}}",
            "docker-credential-no-such-helper-here",
        );
        // One for everything that is not there is as good as none.
        assert!(
            find(
                "{\"credsStore\": \"no-such-helper-here\"}",
                "reg.example",
                "a"
            ) == Ok(None)
        );
    }
}
