//! Why a snapshot cannot be written, found or used.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// What is wrong with a file of a snapshot.
#[derive(Debug, Error)]
pub enum Damage {
    /// It is not there.
    #[error("it is missing")]
    Missing,
    /// A link, a folder, a device.
    #[error("it is not a plain file")]
    NoPlainFile,
    /// Cut off, or longer than it was.
    #[error("it has {found} bytes where {expected} were written")]
    Length {
        /// What it has.
        found: u64,
        /// What was written.
        expected: u64,
    },
    /// Something else altogether, or never finished.
    #[error("it does not begin as such a file does: it is another one, or was never finished")]
    Magic,
    /// Bytes that were changed.
    #[error("{0} is not as it was written: its checksum differs")]
    Checksum(String),
    /// Numbers that contradict each other.
    #[error("{0}")]
    Layout(String),
    /// What was packed does not unpack to what it should.
    #[error("{0} does not unpack to as many bytes as it should")]
    Unpacking(String),
    /// No JSON, or another one.
    #[error("it cannot be understood")]
    Json(#[source] serde_json::Error),
}

/// Why a snapshot cannot be written, found or used.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The environment says no place.
    #[error("there is no place for snapshots: neither XDG_DATA_HOME nor HOME is set")]
    NoFolder,
    /// Nothing is called so.
    #[error("there is no snapshot {0:?}")]
    Unknown(String),
    /// A name that cannot be a folder's.
    #[error("{name:?} cannot be a snapshot's name")]
    BadName {
        /// What was given.
        name: String,
        /// What is wrong with it.
        source: api::NameError,
    },
    /// There is one of this name.
    #[error("there is a snapshot {0:?} already")]
    Taken(String),
    /// Somebody writes one of this name now.
    #[error("a snapshot {name:?} is being written by process {process}")]
    BeingWritten {
        /// Its name.
        name: String,
        /// Who writes it.
        process: String,
    },
    /// Somebody runs on it.
    #[error("snapshot {name:?} is in use{}", by_whom(.processes))]
    InUse {
        /// Its name.
        name: String,
        /// Processes that hold it, as far as they can be seen.
        processes: Vec<u32>,
    },
    /// A file that is not as it was written.
    #[error("the part {part:?} of {} is damaged", named(.snapshot))]
    Damaged {
        /// Which snapshot, where it is known.
        snapshot: Option<String>,
        /// Which file of it.
        part: String,
        /// What is wrong.
        #[source]
        damage: Damage,
    },
    /// Another version of ours wrote it.
    #[error(
        "the part {part:?} of {} has format {found}, and this version of Mother reads format {known}",
        named(.snapshot)
    )]
    OtherFormat {
        /// Which snapshot, where it is known.
        snapshot: Option<String>,
        /// Which file of it.
        part: String,
        /// The format that it has.
        found: u32,
        /// The one that is read here.
        known: u32,
    },
    /// A manifest that is not what lies in the draft.
    #[error("the snapshot {name:?} cannot be finished: {what}")]
    Unfinished {
        /// Its name.
        name: String,
        /// What does not fit.
        what: String,
    },
    /// The host refused something.
    #[error("cannot {act} {}", .path.display())]
    File {
        /// The verb.
        act: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// Whoever wanted it wants it no more.
    #[error("stopped when asked to")]
    Stopped,
}

impl SnapshotError {
    /// Says which snapshot it was, where that was not known.
    #[must_use]
    pub fn of_snapshot(mut self, name: &str) -> SnapshotError {
        if let SnapshotError::Damaged { snapshot, .. }
        | SnapshotError::OtherFormat { snapshot, .. } = &mut self
        {
            snapshot.get_or_insert_with(|| name.to_owned());
        }
        self
    }

    /// Whether what was asked for is wrong, and not the host.
    pub fn is_bad_input(&self) -> bool {
        match self {
            SnapshotError::Unknown(_)
            | SnapshotError::BadName { .. }
            | SnapshotError::Taken(_)
            | SnapshotError::Damaged { .. }
            | SnapshotError::OtherFormat { .. } => true,
            SnapshotError::NoFolder
            | SnapshotError::BeingWritten { .. }
            | SnapshotError::InUse { .. }
            | SnapshotError::Unfinished { .. }
            | SnapshotError::File { .. }
            | SnapshotError::Stopped => false,
        }
    }

    /// What to do.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            SnapshotError::NoFolder => {
                "set HOME, or XDG_DATA_HOME to a folder of your own: a service has neither unless it is told".to_owned()
            }
            SnapshotError::Unknown(_) => {
                "`mother snapshots` lists all there are; a folder elsewhere is named by its path, with a slash in it"
                    .to_owned()
            }
            SnapshotError::BadName { .. } => api::NameError::help(),
            SnapshotError::Taken(name) => {
                format!("take another name, or remove that one: `mother snapshots rm {name}`")
            }
            SnapshotError::BeingWritten { .. } => {
                "wait until it is done, or take another name".to_owned()
            }
            SnapshotError::InUse { .. } => {
                "stop the VMs that run on it; with --force it goes now, its room when they end".to_owned()
            }
            SnapshotError::Damaged { snapshot, .. } => {
                let name = snapshot.as_deref().unwrap_or("NAME");
                format!(
                    "nothing of it was used: take another snapshot, or a copy of this one; `mother snapshots rm {name}` \
                     removes it"
                )
            }
            SnapshotError::OtherFormat { found, known, .. } if found > known => {
                "use the Mother that made it, or a newer one than this".to_owned()
            }
            SnapshotError::OtherFormat { .. } => "use the Mother that made it".to_owned(),
            SnapshotError::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "nothing of it was kept: make room there (`mother snapshots prune`), or set XDG_DATA_HOME to a folder \
                 on a disk that has room"
                    .to_owned()
            }
            SnapshotError::Unfinished { .. } | SnapshotError::File { .. } | SnapshotError::Stopped => {
                return None;
            }
        })
    }
}

/// Says what was to be done with which file.
pub(crate) fn error(
    act: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> SnapshotError + use<> {
    let path = path.to_owned();
    move |source| SnapshotError::File { act, path, source }
}

/// A damaged part of a snapshot whose name is not known here.
pub(crate) fn damaged(part: &str, damage: Damage) -> SnapshotError {
    SnapshotError::Damaged {
        snapshot: None,
        part: part.to_owned(),
        damage,
    }
}

fn named(snapshot: &Option<String>) -> String {
    match snapshot {
        Some(name) => format!("snapshot {name:?}"),
        None => "the snapshot".to_owned(),
    }
}

fn by_whom(processes: &[u32]) -> String {
    match processes {
        [] => String::new(),
        [one] => format!(" by process {one}"),
        several => {
            let list: Vec<String> = several.iter().map(u32::to_string).collect();
            format!(" by processes {}", list.join(", "))
        }
    }
}
