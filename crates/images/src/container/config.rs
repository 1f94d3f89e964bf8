//! What a container image runs (image-spec, config.md).

use serde_json::Value;

use crate::container::manifest::{Manifest, parse, read_checked};
use crate::container::source::Source;
use crate::container::{ContainerError, damaged, digest, users};
use crate::guest_config::{GuestCommand, TERMINATE};
use crate::tree::{Attributes, Tree};

/// Where programs are looked for if the image does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Volumes that an image may declare.
const VOLUMES_MAX: usize = 1024;

/// The first of the signals that have no names of their own, as C libraries count them.
const SIGRTMIN: u32 = 34;

/// The last signal of Linux.
const SIGNAL_MAX: u32 = 64;

/// Signals by number, beginning with 1 (signal(7), x86).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

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

    /// Makes the folders of the volumes that the image declares, where no layer has them: what is mounted there by
    /// container engines is a folder too, and programs write to it.
    pub(super) fn put_volumes(&self, tree: &mut Tree) {
        let volumes = self.config["Volumes"].as_object();
        let paths = volumes.into_iter().flat_map(|volumes| volumes.keys());
        for path in paths.take(VOLUMES_MAX) {
            if tree.find(path.as_bytes(), true).is_none() {
                // A path that cannot be one is nobody's volume.
                let _ = tree.put_folder(path.as_bytes(), Attributes::of_root(0o755));
            }
        }
    }

    /// The command, with the user looked up in the image's own files.
    pub(super) fn command(&self, tree: &Tree) -> Result<GuestCommand, ContainerError> {
        let entrypoint = strings(&self.config["Entrypoint"]);
        let mut environment = strings(&self.config["Env"]);
        let user = users::find(tree, self.config["User"].as_str().unwrap_or_default())?;
        let mut default = |name: &str, value: &str| {
            let is_said = environment
                .iter()
                .any(|variable| variable.split('=').next() == Some(name));
            if !is_said {
                environment.push(format!("{name}={value}"));
            }
        };
        default("PATH", PATH);
        default("HOME", &user.home);
        let folder = self.config["WorkingDir"]
            .as_str()
            .filter(|folder| folder.starts_with('/'))
            .unwrap_or("/");
        Ok(GuestCommand {
            terminal: None,
            entrypoint_count: entrypoint.len(),
            arguments: [entrypoint, strings(&self.config["Cmd"])].concat(),
            environment,
            folder: folder.to_owned(),
            uid: user.uid,
            gid: user.gid,
            groups: user.groups,
            stop_signal: self.stop_signal()?,
            root: None,
        })
    }

    /// What asks the program to end.
    fn stop_signal(&self) -> Result<u32, ContainerError> {
        match self.config["StopSignal"].as_str().unwrap_or_default() {
            "" => Ok(TERMINATE),
            text => signal(text).ok_or_else(|| ContainerError::NoSignal(text.to_owned())),
        }
    }
}

/// The number of a signal that is written as container engines take it: `SIGQUIT`, `quit`, `3`, `SIGRTMIN+3`.
fn signal(text: &str) -> Option<u32> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = if let Ok(number) = name.parse() {
        number
    } else if let Some(rest) = name.strip_prefix("RTMIN") {
        let more = rest
            .strip_prefix('+')
            .map_or(Some(0), |more| more.parse().ok());
        SIGRTMIN.checked_add(more.filter(|_| rest.is_empty() || rest.starts_with('+'))?)?
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        let less = rest
            .strip_prefix('-')
            .map_or(Some(0), |less| less.parse().ok());
        SIGNAL_MAX.checked_sub(less.filter(|_| rest.is_empty() || rest.starts_with('-'))?)?
    } else {
        // Older names of two of them.
        let name = match name {
            "CLD" => "CHLD",
            "POLL" => "IO",
            name => name,
        };
        SIGNALS.iter().position(|known| *known == name)? as u32 + 1
    };
    (1..=SIGNAL_MAX).contains(&number).then_some(number)
}

/// Words in a list; one word alone is a list of one, as old images have it.
fn strings(list: &Value) -> Vec<String> {
    if let Some(word) = list.as_str().filter(|word| !word.is_empty()) {
        return vec![word.to_owned()];
    }
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_written_as_images_write_them() {
        let check =
            |text: &str, expected: Option<u32>| assert_eq!(signal(text), expected, "{text}");
        check("SIGQUIT", Some(3));
        check("int", Some(2));
        check("15", Some(15));
        check("SIGWINCH", Some(28));
        check("SIGRTMIN", Some(34));
        check("SIGRTMIN+3", Some(37));
        check("RTMAX-1", Some(63));
        for text in [
            "0",
            "65",
            "SIG",
            "SIGNO",
            "SIGRTMIN3",
            "SIGRTMIN+99",
            "RTMAX-x",
            "-9",
        ] {
            check(text, None);
        }
    }
}
