//! QEMU, for tests and measurements that have it as a machine or as a yardstick: the host's, or Debian's in the cache.
//!
//! The cached one is its packages, all that they depend on included, unpacked into a folder and never installed: it
//! runs with its own dynamic loader and its own libraries, whatever the host has.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::{self, Apt};
use crate::cache::{Cache, CacheError};
use crate::file::create_folder;
use crate::progress::{OnProgress, Progress};
use crate::work::Work;

/// The link to the folder in use.
const LINK: &str = "qemu";
const PACKAGE: &str = "qemu-system-x86";
const PROGRAM: &str = "qemu-system-x86_64";
/// The dynamic loader of an installed system.
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
/// Where packages have libraries: older releases have some of them outside of `usr`.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// Where QEMU is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qemu {
    /// The program.
    pub program: PathBuf,
    /// Its packages, unpacked, if it is not the host's.
    pub folder: Option<PathBuf>,
}

impl Qemu {
    /// A command that starts it; options follow.
    pub fn command(&self) -> Command {
        let Some(folder) = &self.folder else {
            return Command::new(&self.program);
        };
        let mut command = loader(folder);
        command
            .arg(&self.program)
            .env("QEMU_MODULE_DIR", folder.join(LIBRARIES[0]).join("qemu"));
        for firmware in self.firmware_folders() {
            command.arg("-L").arg(firmware);
        }
        command
    }

    /// The libraries that the program is linked with, and its loader.
    ///
    /// # Errors
    /// If the loader does not start.
    pub fn libraries(&self) -> io::Result<Vec<PathBuf>> {
        let mut command = match &self.folder {
            Some(folder) => loader(folder),
            None => Command::new(LOADER),
        };
        let output = command.arg("--list").arg(&self.program).output()?;
        Ok(parse_libraries(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Where its firmware lies.
    pub fn firmware_folders(&self) -> [PathBuf; 2] {
        let root = self.folder.as_deref().unwrap_or(Path::new("/"));
        FIRMWARE.map(|folder| root.join(folder))
    }
}

/// The loader of unpacked packages, with their libraries.
fn loader(folder: &Path) -> Command {
    let name = Path::new(LOADER).file_name().unwrap_or_default();
    let folders = LIBRARIES.map(|libraries| folder.join(libraries));
    let found = folders
        .iter()
        .map(|libraries| libraries.join(name))
        .find(|path| path.is_file());
    let mut command = Command::new(found.unwrap_or_else(|| PathBuf::from(LOADER)));
    // Some have folders of their own, to which an installation has links.
    let path = folders.iter().flat_map(|libraries| {
        ["", "pulseaudio", "blas", "lapack"].map(|name| libraries.join(name).display().to_string())
    });
    command
        .arg("--library-path")
        .arg(path.collect::<Vec<_>>().join(":"));
    command
}

/// Reads lines like `libz.so.1 => /lib/libz.so.1 (0x00007f...)` and that of the loader, which has no arrow.
fn parse_libraries(output: &str) -> Vec<PathBuf> {
    let place = |line: &str| {
        let line = line.trim();
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        path.starts_with('/')
            .then(|| PathBuf::from(path.split(' ').next().unwrap_or_default()))
    };
    output.lines().filter_map(place).collect()
}

impl Cache {
    /// QEMU; its packages are downloaded if it is neither on the PATH nor in the cache.
    ///
    /// # Errors
    /// If the host has no apt, apt finds no such package, or the cache folder cannot be written.
    pub fn qemu(&self, on_progress: OnProgress) -> Result<Qemu, CacheError> {
        if let Some(program) = apt::on_path(PROGRAM) {
            return Ok(Qemu {
                program,
                folder: None,
            });
        }
        self.cached_qemu(on_progress)
    }

    /// The one in the cache, also where the host has its own.
    ///
    /// # Errors
    /// As [`Cache::qemu`].
    pub fn cached_qemu(&self, on_progress: OnProgress) -> Result<Qemu, CacheError> {
        let folder = self.folder().join(LINK);
        let program = folder.join("usr/bin").join(PROGRAM);
        if !program.is_file() {
            let _lock = self.lock(on_progress)?;
            if !program.is_file() {
                let work = Work::new(self.folder().join("work"))?;
                let packages =
                    Apt::new(work.path())?.download_with_needs(&[PACKAGE], on_progress)?;
                on_progress(Progress::Unpacking);
                self.keep_qemu(&work, &packages)?;
            }
        }
        Ok(Qemu {
            program,
            folder: Some(folder),
        })
    }

    fn keep_qemu(&self, work: &Work, packages: &[PathBuf]) -> Result<(), CacheError> {
        let is_it = |path: &&PathBuf| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("qemu-system-x86_"))
        };
        let title = packages
            .iter()
            .find(is_it)
            .and_then(|path| path.file_stem());
        let title = title.map_or(PACKAGE.to_owned(), |title| {
            title.to_string_lossy().into_owned()
        });
        let made = work.path().join(&title);
        create_folder(&made)?;
        for package in packages {
            apt::unpack(package, &made)?;
        }
        self.publish(work, &title, (LINK, Path::new(&title)))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_read_from_what_the_loader_lists() {
        let output = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f)\n\
                      \tlibx.so => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libz.so.1",
            "/lib64/ld-linux-x86-64.so.2",
        ]
        .map(PathBuf::from);
        assert_eq!(parse_libraries(output), expected);
    }
}
