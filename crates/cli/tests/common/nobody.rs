//! The command as a user without any privilege, which the tests themselves often have.

use std::fs;
use std::os::unix::fs::{MetadataExt, lchown, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The user and the group that own nothing, on every Debian and most others.
const NOBODY: u32 = 65534;

/// Who a guest belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// Whoever runs the tests.
    Oneself,
    /// `nobody`, where that is somebody else.
    Nobody,
}

impl Who {
    /// Whether it is somebody: the tests may be run by a user without privilege anyway.
    pub fn is_there(self) -> bool {
        let is_there = self == Who::Oneself || rustix::process::geteuid().is_root();
        if !is_there {
            eprintln!("SKIPPED: whoever runs this has no privilege already");
        }
        is_there
    }
}

/// What `nobody` needs to run the command: a home with the default guest in its cache, and a program that it may reach.
pub struct Nobody {
    home: TempDir,
    program: PathBuf,
}

impl Nobody {
    /// Makes it, with what the cache of whoever runs this has of the default guest.
    pub fn new() -> Nobody {
        let home = tempfile::tempdir().unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_mother"));
        let program = if is_open_to_all(program) {
            program.to_owned()
        } else {
            let copy = home.path().join("mother");
            fs::copy(program, &copy).unwrap();
            copy
        };
        let cache = images::Cache::of_user().unwrap();
        let own = home.path().join("cache/mother");
        fs::create_dir_all(&own).unwrap();
        for name in ["packages", "initrd", "kernel", "busybox"] {
            copy_all(&cache.folder().join(name), &own.join(name));
        }
        give(home.path());
        Nobody { home, program }
    }

    /// Its user and group.
    pub fn id(&self) -> u32 {
        NOBODY
    }

    /// Its home, which has its cache.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The command.
    pub fn program(&self) -> &Path {
        &self.program
    }
}

/// Gives a folder and what is in it to `nobody`.
pub fn give(path: &Path) {
    lchown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        fs::read_dir(path)
            .unwrap()
            .flatten()
            .for_each(|entry| give(&entry.path()));
    }
}

/// Whether everybody may come to a program and run it.
fn is_open_to_all(program: &Path) -> bool {
    program
        .ancestors()
        .all(|path| path.metadata().is_ok_and(|found| found.mode() & 0o5 == 0o5))
}

fn copy_all(from: &Path, to: &Path) {
    let found = from.symlink_metadata().unwrap();
    if found.is_symlink() {
        symlink(fs::read_link(from).unwrap(), to).unwrap();
    } else if found.is_dir() {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap().flatten() {
            copy_all(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::copy(from, to).unwrap();
    }
}

/// Makes two tests of each function: as whoever runs them, and as `nobody`.
#[macro_export]
macro_rules! as_oneself_and_as_nobody {
    ($($name:ident),+ $(,)?) => {
        mod as_oneself {
            $(#[test] fn $name() { super::$name($crate::common::nobody::Who::Oneself); })+
        }
        mod as_nobody {
            $(#[test] fn $name() {
                if $crate::common::nobody::Who::Nobody.is_there() {
                    super::$name($crate::common::nobody::Who::Nobody);
                }
            })+
        }
    };
}
