//! What a reader of container images is given.

use std::fs::File;
use std::io;
use std::path::{Component, Path};

/// Opens a part of an image that is a folder, by its path in there, which leads nowhere else.
pub type OpenPart = Box<dyn Fn(&str) -> io::Result<File>>;

/// Where the parts of an image are.
pub enum Parts {
    /// All in one archive.
    Archive(File),
    /// Files of a folder.
    Folder(OpenPart),
}

impl Parts {
    /// Opens a part of a folder, by a path that comes from who reads the image: one that leads out is not there.
    ///
    /// # Errors
    /// What the host says; `NotFound` for an archive, which is read from within.
    pub fn open(&self, part: &str) -> io::Result<File> {
        match (self, normal(part)) {
            (Parts::Folder(open), Some(part)) => open(&part),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// An image that is to be read.
pub struct Input {
    /// Its parts.
    pub parts: Parts,
    /// What it is called if it does not say so itself.
    pub name: String,
    /// Which one, if it is several.
    pub wanted: Option<String>,
}

/// Where it is written to: two empty files.
#[derive(Debug)]
pub struct Onto {
    /// For what its layers unpack to.
    pub spool: File,
    /// For the disk that is made of that.
    pub disk: File,
}

/// A path without `.` and `..`; nothing if it leads out.
pub(super) fn normal(path: &str) -> Option<String> {
    let mut parts: Vec<String> = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => parts.push(name.to_str()?.to_owned()),
            Component::CurDir => {}
            Component::ParentDir => drop(parts.pop()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}
