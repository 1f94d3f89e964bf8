//! What a container image runs (image-spec, config.md).

use serde_json::Value;

use crate::container::manifest::{Manifest, damaged, parse, read_checked};
use crate::container::source::Source;
use crate::container::{ContainerError, digest};
use crate::guest_config::GuestCommand;
use crate::tree::{Kind, Tree};

/// Where programs are looked for if the image does not say.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Longest `/etc/passwd` that is read.
const USERS_BYTES_MAX: u64 = 1 << 20;

/// The configuration.
pub(super) struct Config {
    /// Its own SHA-256, which names the image.
    pub(super) digest: String,
    /// The SHA-256 of each layer before compression.
    pub(super) layers: Vec<String>,
    config: Value,
}

impl Config {
    pub(super) fn read(source: &Source, manifest: &Manifest) -> Result<Config, ContainerError> {
        let (path, expected) = &manifest.config;
        let bytes = read_checked(source, path, expected.as_ref())?;
        let text = parse(path, &bytes)?;
        let os = text["os"].as_str();
        let architecture = text["architecture"].as_str();
        if os.is_some_and(|os| os != "linux") || architecture.is_some_and(|name| name != "amd64") {
            let machine = format!("{}/{}", os.unwrap_or("?"), architecture.unwrap_or("?"));
            return Err(ContainerError::OtherMachine(machine));
        }
        let layers = strings(&text["rootfs"]["diff_ids"]);
        let layers: Vec<String> = layers
            .iter()
            .map(|layer| layer.trim_start_matches("sha256:").to_owned())
            .collect();
        if !layers.is_empty() && layers.len() != manifest.layers.len() {
            return Err(damaged(
                path,
                "it tells of another number of layers than the manifest",
            ));
        }
        Ok(Config {
            digest: digest::sha256(&bytes),
            layers,
            config: text["config"].clone(),
        })
    }

    /// The command, with the user looked up in the image's own files.
    pub(super) fn command(&self, tree: &Tree) -> Result<GuestCommand, ContainerError> {
        let entrypoint = strings(&self.config["Entrypoint"]);
        let mut environment = strings(&self.config["Env"]);
        if !environment
            .iter()
            .any(|variable| variable.starts_with("PATH="))
        {
            environment.push(PATH.to_owned());
        }
        let (uid, gid, home) = self.user(tree)?;
        if !environment
            .iter()
            .any(|variable| variable.starts_with("HOME="))
        {
            environment.push(format!("HOME={home}"));
        }
        let folder = self.config["WorkingDir"]
            .as_str()
            .filter(|folder| folder.starts_with('/'))
            .unwrap_or("/");
        Ok(GuestCommand {
            entrypoint_count: entrypoint.len(),
            arguments: [entrypoint, strings(&self.config["Cmd"])].concat(),
            environment,
            folder: folder.to_owned(),
            uid,
            gid,
            root: None,
        })
    }

    /// `user`, `uid`, `user:group` and so on; the numbers and the home folder.
    fn user(&self, tree: &Tree) -> Result<(u32, u32, String), ContainerError> {
        let text = self.config["User"].as_str().unwrap_or_default();
        let (user, group) = text
            .split_once(':')
            .map_or((text, None), |(user, group)| (user, Some(group)));
        let user = if user.is_empty() { "0" } else { user };
        let no_user = || ContainerError::NoUser(text.to_owned());
        let line = find_line(tree, "etc/passwd", user);
        let field = |at: usize| line.as_ref().and_then(|fields| fields.get(at)).cloned();
        let uid = match user.parse() {
            Ok(uid) => uid,
            Err(_) => field(2)
                .and_then(|uid| uid.parse().ok())
                .ok_or_else(no_user)?,
        };
        let gid = match group.filter(|group| !group.is_empty()) {
            None => field(3).and_then(|gid| gid.parse().ok()).unwrap_or(0),
            Some(group) => match group.parse() {
                Ok(gid) => gid,
                Err(_) => {
                    let line = find_line(tree, "etc/group", group).ok_or_else(no_user)?;
                    line.get(2)
                        .and_then(|gid| gid.parse().ok())
                        .ok_or_else(no_user)?
                }
            },
        };
        Ok((
            uid,
            gid,
            field(5).unwrap_or_else(|| if uid == 0 { "/root" } else { "/" }.to_owned()),
        ))
    }
}

/// The line of a colon-separated file whose first or third field is this.
fn find_line(tree: &Tree, path: &str, key: &str) -> Option<Vec<String>> {
    let Kind::File(content) = &tree.node(tree.find(path.as_bytes(), true)?).kind else {
        return None;
    };
    let mut bytes = Vec::new();
    if content.len() <= USERS_BYTES_MAX {
        let read = content.read(|part| {
            bytes.extend_from_slice(part);
            Ok(())
        });
        read.ok()?;
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut lines = text
        .lines()
        .map(|line| line.split(':').map(str::to_owned).collect::<Vec<String>>());
    lines.find(|fields| {
        fields.first().is_some_and(|name| name == key) || fields.get(2).is_some_and(|id| id == key)
    })
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}
