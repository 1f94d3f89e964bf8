//! One program of the host as a guest: everything it needs in an initrd, at the paths it has on the host.
//!
//! What a program needs is found by looking, never by running it: the ELF file's interpreter and libraries as the
//! dynamic loader would find them (`libraries`), the program behind `#!`, for a language's runtime the folders
//! that bear its name or the one that is all its own (`runtime`), and what its environment names (`surroundings`). What
//! that leaves out can be named.

mod elf;
mod host_tree;
mod libraries;
mod library_cache;
mod runtime;
mod surroundings;

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use elf::{ElfError, Needs, ReadElf};

use crate::guest_config::GuestCommand;
use crate::tree::{Tree, TreeError};
use host_tree::HostTree;
use library_cache::LibraryCache;

/// Programs that start programs: `#!` to `#!`, as deep as Linux follows.
const INTERPRETERS_MAX: usize = 4;

/// Longest line behind `#!` (`BINPRM_BUF_SIZE`).
const INTERPRETER_LINE_BYTES: usize = 256;

/// What is to run, and what it needs beside what we find.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppRequest {
    /// The program: a path, or a name to be looked up in `PATH`.
    pub program: PathBuf,
    /// What follows its name on its command line.
    pub arguments: Vec<String>,
    /// `NAME=VALUE` for its environment.
    pub environment: Vec<String>,
    /// Further files and folders of the host.
    pub include: Vec<PathBuf>,
    /// The kind and the size of the terminal that its streams are, if they are one.
    pub terminal: Option<(String, (u16, u16))>,
    /// Where it starts; the root folder if nothing is said.
    pub folder: Option<PathBuf>,
}

/// Why a program cannot be a guest.
#[derive(Debug, Error)]
pub enum AppError {
    /// There is no such program.
    #[error("there is no program {}", .0.display())]
    Absent(PathBuf),
    /// It is there and no program.
    #[error("{} is neither an ELF program nor a script that starts with #!", .0.display())]
    NoProgram(PathBuf),
    /// It may not be executed.
    #[error("{} is not executable", .0.display())]
    NotExecutable(PathBuf),
    /// An ELF file is broken or for another machine.
    #[error("cannot use {}", .path.display())]
    Elf {
        /// The file.
        path: PathBuf,
        /// What is wrong with the program.
        source: ElfError,
    },
    /// A library is not on this host.
    #[error("{} needs {library}, which is not on this host", .needed_by.display())]
    MissingLibrary {
        /// Its name.
        library: String,
        /// Who needs it.
        needed_by: PathBuf,
    },
    /// `#!` leads to `#!` and so on.
    #[error("{} needs too many interpreters", .0.display())]
    TooManyInterpreters(PathBuf),
    /// A file of the host cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// A file cannot be where it is on the host.
    #[error("cannot put {} into the guest: {reason}", .path.display())]
    Place {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

impl AppError {
    /// Whether what was asked for is wrong, and not the host.
    pub fn is_bad_input(&self) -> bool {
        !matches!(
            self,
            AppError::Read { .. }
                | AppError::Place { .. }
                | AppError::Elf {
                    source: ElfError::Unread(_),
                    ..
                }
        )
    }
}

/// The guest's files, and what it shall run.
pub(crate) struct App {
    pub(crate) tree: Tree,
    pub(crate) command: GuestCommand,
}

impl AppRequest {
    /// Whether there is such a program, with all that interpret it: before anything is fetched for its guest.
    ///
    /// # Errors
    /// See [`AppError`].
    pub fn check(&self) -> Result<(), AppError> {
        programs(self).map(drop)
    }
}

/// The program, and a tree with it and what interprets it.
fn programs(request: &AppRequest) -> Result<(PathBuf, HostTree), AppError> {
    let program = look_up(&request.program)?;
    let mut tree = HostTree::new();
    let mut next = Some(program.clone());
    for depth in 0.. {
        let Some(path) = next.take() else { break };
        if depth > INTERPRETERS_MAX {
            return Err(AppError::TooManyInterpreters(program));
        }
        next = add_program(&mut tree, &path)?;
    }
    Ok((program, tree))
}

/// Gathers what the program needs.
///
/// # Errors
/// See [`AppError`].
pub(crate) fn gather(request: &AppRequest, reader: &dyn ReadElf) -> Result<App, AppError> {
    let (program, mut tree) = programs(request)?;
    for path in &request.include {
        let path = std::path::absolute(path).map_err(read_error(path))?;
        tree.add(&path)?;
    }
    for path in surroundings::files(&request.environment) {
        tree.add(&path)?;
    }
    libraries::add_for_all(&mut tree, reader)?;
    // Whatever the loader would look up on the host it looks up in the guest; of the host's libraries it is told no more
    // than those that come along.
    let musl = Path::new("/etc/ld-musl-x86_64.path");
    if musl.is_file() {
        tree.add(musl)?;
    }
    tree.add_library_cache(&LibraryCache::of_host())?;
    let mut arguments = vec![program.to_string_lossy().into_owned()];
    arguments.extend(request.arguments.iter().cloned());
    let command = GuestCommand {
        arguments,
        environment: request.environment.clone(),
        folder: request.folder.as_ref().map_or("/".to_owned(), |folder| {
            folder.to_string_lossy().into_owned()
        }),
        ..GuestCommand::default()
    };
    let terminal = request.terminal.as_ref();
    Ok(App {
        tree: tree.into_tree(),
        command: command.at_terminal(terminal.map(|(kind, size)| (kind.as_str(), *size))),
    })
}

/// Adds one program; its interpreter if it is a script.
fn add_program(tree: &mut HostTree, path: &Path) -> Result<Option<PathBuf>, AppError> {
    tree.add(path)?;
    for folder in runtime::folders(path) {
        tree.add(&folder)?;
    }
    let head = read_head(path)?;
    if elf::is_elf(&head) {
        return Ok(None);
    }
    let (interpreter, argument) =
        interpreter(&head).ok_or_else(|| AppError::NoProgram(path.to_owned()))?;
    let is_env = Path::new(&interpreter)
        .file_name()
        .is_some_and(|name| name == "env");
    match argument.filter(|_| is_env) {
        // `env` itself is a program that needs libraries; what it starts comes next.
        Some(name) => {
            tree.add(Path::new(&interpreter))?;
            let name = name.strip_prefix("-S ").unwrap_or(&name).trim().to_owned();
            let first = name
                .split_ascii_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned();
            look_up(Path::new(&first)).map(Some)
        }
        None => look_up(Path::new(&interpreter)).map(Some),
    }
}

/// The program and the one argument behind `#!` (execve(2)).
fn interpreter(head: &[u8]) -> Option<(String, Option<String>)> {
    let line = head.strip_prefix(b"#!")?;
    let line = line.split(|&byte| byte == b'\n').next().unwrap_or(line);
    let line = std::str::from_utf8(line).ok()?.trim();
    let (program, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let argument = Some(argument.trim().to_owned()).filter(|argument| !argument.is_empty());
    (!program.is_empty()).then(|| (program.to_owned(), argument))
}

fn read_head(path: &Path) -> Result<Vec<u8>, AppError> {
    use std::io::Read;
    let mut head = Vec::new();
    let file = std::fs::File::open(path).map_err(read_error(path))?;
    file.take(INTERPRETER_LINE_BYTES as u64)
        .read_to_end(&mut head)
        .map_err(read_error(path))?;
    Ok(head)
}

/// The absolute path of a program, which may be a name in `PATH`.
fn look_up(program: &Path) -> Result<PathBuf, AppError> {
    let is_name = program.components().count() == 1 && !program.to_string_lossy().contains('/');
    if is_name && !program.is_file() {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path)
            .map(|folder| folder.join(program))
            .find(|path| is_executable(path));
        return found.ok_or_else(|| AppError::Absent(program.to_owned()));
    }
    let absolute = std::path::absolute(program).map_err(read_error(program))?;
    match std::fs::metadata(&absolute) {
        Err(_) => Err(AppError::Absent(program.to_owned())),
        Ok(metadata) if !metadata.is_file() => Err(AppError::NoProgram(program.to_owned())),
        Ok(_) if !is_executable(&absolute) => Err(AppError::NotExecutable(program.to_owned())),
        Ok(_) => Ok(absolute),
    }
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn read_error(path: &Path) -> impl FnOnce(io::Error) -> AppError {
    let path = path.to_owned();
    move |source| AppError::Read { path, source }
}

fn place_error(path: &Path) -> impl FnOnce(TreeError) -> AppError {
    let path = path.to_owned();
    move |error| AppError::Place {
        path,
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::InThisProcess;

    #[test]
    fn the_interpreter_is_read_as_linux_reads_it() {
        let check = |head: &str, expected: Option<(&str, Option<&str>)>| {
            let expected = expected
                .map(|(program, argument)| (program.to_owned(), argument.map(str::to_owned)));
            assert_eq!(interpreter(head.as_bytes()), expected, "{head:?}");
        };
        check("#!/bin/sh\necho", Some(("/bin/sh", None)));
        check(
            "#! /usr/bin/env python3 -u \n",
            Some(("/usr/bin/env", Some("python3 -u"))),
        );
        check("#!/bin/sh", Some(("/bin/sh", None)));
        check("#!\n", None);
        check("echo", None);
    }

    #[test]
    fn what_is_no_program_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("text");
        std::fs::write(&text, "just words").unwrap();
        let check = |path: &Path, expected: &str| {
            let request = AppRequest {
                program: path.to_owned(),
                ..AppRequest::default()
            };
            let error = gather(&request, &InThisProcess).map(drop).unwrap_err();
            assert!(error.is_bad_input());
            assert!(error.to_string().contains(expected), "{error}");
        };
        check(&folder.path().join("absent"), "there is no program");
        check(
            Path::new("no-such-name-in-path"),
            "there is no program no-such-name-in-path",
        );
        check(&text, "is not executable");
        check(folder.path(), "is neither an ELF program nor a script");
    }

    #[test]
    fn a_dynamic_program_comes_with_its_loader_and_libraries() {
        let request = AppRequest {
            program: "/bin/ls".into(),
            ..AppRequest::default()
        };
        let app = gather(&request, &InThisProcess).unwrap();
        assert_eq!(app.command.arguments, ["/bin/ls"]);
        for path in ["/bin/ls", "/lib64/ld-linux-x86-64.so.2"] {
            let node = app.tree.find(path.as_bytes(), true);
            assert!(node.is_some_and(|node| !app.tree.is_folder(node)), "{path}");
        }
    }
}
