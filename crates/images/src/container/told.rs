//! An error of a reader in another process, as it is told to who asked: the same variant, with what the host said as its number
//! where it has one, so that whoever looks for a full disk finds it.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::container::ContainerError;
use crate::ext4::Ext4Error;

/// Longest text that is told.
const TEXT_BYTES_MAX: usize = 4096;

/// Names that are told of an image that holds several.
const NAMES_MAX: usize = 256;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ToldError {
    /// [`ContainerError::NoImage`].
    NoImage,
    /// [`ContainerError::OldManifest`].
    OldManifest,
    /// [`ContainerError::Several`].
    Several(Vec<String>),
    /// [`ContainerError::NotAmong`]: what was asked for, and what it has.
    NotAmong(String, Vec<String>),
    /// [`ContainerError::Read`]: the part, and why.
    Read(String, ToldIo),
    /// [`ContainerError::Damaged`]: the part, and what is wrong.
    Damaged(String, String),
    /// [`ContainerError::OtherMachine`].
    OtherMachine(String),
    /// [`ContainerError::Layer`]: which one, counted from 1, and why.
    Layer(usize, ToldIo),
    /// [`ContainerError::Spool`]: which layer, counted from 1, what all so far take, and why.
    Spool(usize, u64, ToldIo),
    /// [`ContainerError::NoUser`].
    NoUser(String),
    /// [`ContainerError::NoSignal`].
    NoSignal(String),
    /// [`ContainerError::Disk`], for want of room among inodes or blocks: in words.
    DiskFull(String),
    /// [`ContainerError::Disk`], by the host.
    Disk(ToldIo),
    /// What is no reader's to say.
    Other(String),
}

/// What the host, or a library, said.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ToldIo {
    /// The host's number.
    Host(i32),
    /// In words.
    Words(String),
}

impl From<&io::Error> for ToldIo {
    fn from(error: &io::Error) -> ToldIo {
        match error.raw_os_error() {
            Some(number) => ToldIo::Host(number),
            None => ToldIo::Words(chain(error)),
        }
    }
}

impl From<ToldIo> for io::Error {
    fn from(told: ToldIo) -> io::Error {
        match told {
            ToldIo::Host(number) => io::Error::from_raw_os_error(number),
            ToldIo::Words(words) => io::Error::other(short(&words)),
        }
    }
}

/// An error and its causes in one line, each said once.
fn chain(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !words.contains(&said) {
            words = format!("{words}: {said}");
        }
        cause = error.source();
    }
    short(&words)
}

fn short(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

fn some(names: &[String]) -> Vec<String> {
    let short_ones = names
        .iter()
        .filter(|name| name.len() <= TEXT_BYTES_MAX / 16);
    short_ones.take(NAMES_MAX).cloned().collect()
}

impl From<&ContainerError> for ToldError {
    fn from(error: &ContainerError) -> ToldError {
        match error {
            ContainerError::NoImage => ToldError::NoImage,
            ContainerError::OldManifest => ToldError::OldManifest,
            ContainerError::Several(names) => ToldError::Several(some(names)),
            ContainerError::NotAmong { wanted, all } => {
                ToldError::NotAmong(short(wanted), some(all))
            }
            ContainerError::Read { part, source } => ToldError::Read(short(part), source.into()),
            ContainerError::Damaged { part, what } => ToldError::Damaged(short(part), short(what)),
            ContainerError::OtherMachine(machines) => ToldError::OtherMachine(short(machines)),
            ContainerError::Layer { number, source } => ToldError::Layer(*number, source.into()),
            ContainerError::Spool {
                number,
                needed_bytes,
                source,
                ..
            } => ToldError::Spool(*number, *needed_bytes, source.into()),
            ContainerError::NoUser(user) => ToldError::NoUser(short(user)),
            ContainerError::NoSignal(signal) => ToldError::NoSignal(short(signal)),
            ContainerError::Disk { source, .. } => match source {
                Ext4Error::Io(source) => ToldError::Disk(source.into()),
                other => ToldError::DiskFull(chain(other)),
            },
            other => ToldError::Other(chain(other)),
        }
    }
}

impl From<ToldError> for ContainerError {
    fn from(told: ToldError) -> ContainerError {
        match told {
            ToldError::NoImage => ContainerError::NoImage,
            ToldError::OldManifest => ContainerError::OldManifest,
            ToldError::Several(names) => ContainerError::Several(some(&names)),
            ToldError::NotAmong(wanted, all) => ContainerError::NotAmong {
                wanted: short(&wanted),
                all: some(&all),
            },
            ToldError::Read(part, why) => ContainerError::Read {
                part: short(&part),
                source: why.into(),
            },
            ToldError::Damaged(part, what) => ContainerError::Damaged {
                part: short(&part),
                what: short(&what),
            },
            ToldError::OtherMachine(machines) => ContainerError::OtherMachine(short(&machines)),
            ToldError::Layer(number, why) => ContainerError::Layer {
                number,
                source: why.into(),
            },
            ToldError::Spool(number, needed_bytes, why) => ContainerError::Spool {
                number,
                needed_bytes,
                folder: PathBuf::new(),
                source: why.into(),
            },
            ToldError::NoUser(user) => ContainerError::NoUser(short(&user)),
            ToldError::NoSignal(signal) => ContainerError::NoSignal(short(&signal)),
            ToldError::DiskFull(words) => ContainerError::Disk {
                path: PathBuf::new(),
                source: Ext4Error::Io(io::Error::other(short(&words))),
            },
            ToldError::Disk(why) => ContainerError::Disk {
                path: PathBuf::new(),
                source: Ext4Error::Io(why.into()),
            },
            ToldError::Other(words) => ContainerError::Reader(io::Error::other(short(&words))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it is after it was told.
    fn told(error: &ContainerError) -> ContainerError {
        let told = ToldError::from(error);
        let sent = serde_json::to_vec(&told).unwrap();
        serde_json::from_slice::<ToldError>(&sent).unwrap().into()
    }

    #[test]
    fn an_error_says_the_same_on_the_other_side() {
        let full = || io::Error::from_raw_os_error(28);
        let folder = PathBuf::new;
        let all = vec!["a:1".to_owned(), "b".to_owned()];
        let number = 2;
        for error in [
            ContainerError::NoImage,
            ContainerError::OldManifest,
            ContainerError::Several(all.clone()),
            ContainerError::NotAmong {
                wanted: "c".to_owned(),
                all,
            },
            ContainerError::Read {
                part: "index.json".to_owned(),
                source: full(),
            },
            ContainerError::Damaged {
                part: "layer 1".to_owned(),
                what: "it is cut".to_owned(),
            },
            ContainerError::OtherMachine("linux/arm64".to_owned()),
            ContainerError::Layer {
                number,
                source: io::Error::other("a library's words"),
            },
            ContainerError::Spool {
                number,
                needed_bytes: 7 << 20,
                folder: folder(),
                source: full(),
            },
            ContainerError::NoUser("app".to_owned()),
            ContainerError::NoSignal("SIGNO".to_owned()),
            ContainerError::Disk {
                path: folder(),
                source: Ext4Error::Io(full()),
            },
        ] {
            let other = told(&error);
            assert_eq!(chain(&other), chain(&error));
            assert_eq!(other.is_bad_input(), error.is_bad_input(), "{error}");
        }
    }

    #[test]
    fn what_is_told_has_an_end() {
        let long = "\u{e4}".repeat(1 << 20);
        let many = vec!["x".repeat(200); 1 << 16];
        for error in [
            ContainerError::NoUser(long.clone()),
            ContainerError::Several(many),
            ContainerError::Layer {
                number: 1,
                source: io::Error::other(long),
            },
        ] {
            let sent = serde_json::to_vec(&ToldError::from(&error)).unwrap();
            assert!(sent.len() < 100_000, "{}", sent.len());
        }
    }
}
