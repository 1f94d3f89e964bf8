//! The built command, run in a folder of its own with a cache of its own.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(dead_code, unreachable_pub, reason = "every test file uses its part")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The command in a folder.
pub struct Mother {
    folder: PathBuf,
    path: Option<PathBuf>,
}

/// How it ended.
pub struct Ran {
    /// Exit status, if it exited.
    pub status: Option<i32>,
    /// Everything on standard output.
    pub stdout: String,
    /// Everything on standard error.
    pub stderr: String,
}

impl Mother {
    /// The command in `folder`, with an empty cache.
    pub fn new(folder: &Path) -> Mother {
        Mother { folder: folder.to_owned(), path: None }
    }

    /// The same on a host that has only the programs in `path`.
    pub fn with_path(self, path: &Path) -> Mother {
        Mother { path: Some(path.to_owned()), ..self }
    }

    /// `mother run` with these words.
    pub fn run(&self, words: &[&str]) -> Ran {
        let mut all = vec!["run"];
        all.extend(words);
        self.call(&all)
    }

    /// `mother` with these words and nothing on standard input; ended after a minute.
    pub fn call(&self, words: &[&str]) -> Ran {
        let mut command = Command::new("/usr/bin/timeout");
        command.args(["--kill-after=5", "60", env!("CARGO_BIN_EXE_mother")]).args(words);
        command.current_dir(&self.folder).stdin(Stdio::null());
        command.env("XDG_CACHE_HOME", self.folder.join("cache"));
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// Names of everything in a folder.
pub fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
