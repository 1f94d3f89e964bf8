//! The libraries of every ELF file in a tree, found as the dynamic loader finds them (ld.so(8)), without running
//! anything.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::app::elf::{Needs, ReadElf};
use crate::app::host_tree::HostTree;
use crate::app::library_cache::LibraryCache;
use crate::app::{AppError, read_error};

/// Folders that loaders look in by themselves: glibc's, Debian's glibc's, musl's.
const FOLDERS: [&str; 7] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/usr/local/lib",
];

/// A file whose libraries are still to be found, and the RPATHs of those who asked for it.
struct Wanting {
    path: PathBuf,
    rpath: Vec<String>,
    /// Whether it is a part of a runtime, that may never be loaded: what it lacks is then no error.
    is_optional: bool,
}

/// Adds the libraries of all ELF files that are in the tree, and theirs, and so on.
pub(super) fn add_for_all(tree: &mut HostTree, reader: &dyn ReadElf) -> Result<(), AppError> {
    let cache = LibraryCache::of_host();
    let mut seen: HashSet<PathBuf> = HashSet::new();
    let mut wanting: Vec<Wanting> = Vec::new();
    for (path, is_asked_for) in tree.elf_files() {
        wanting.push(Wanting {
            path,
            rpath: Vec::new(),
            is_optional: !is_asked_for,
        });
    }
    while let Some(Wanting {
        path,
        rpath,
        is_optional,
    }) = wanting.pop()
    {
        if !seen.insert(path.clone()) {
            continue;
        }
        let file = File::open(&path).map_err(read_error(&path))?;
        let needs = match reader.needs(&file) {
            Ok(needs) => needs,
            Err(_) if is_optional => continue,
            Err(source) => return Err(AppError::Elf { path, source }),
        };
        let mut rpath = rpath;
        rpath.splice(
            0..0,
            needs.rpath.iter().map(|folder| with_origin(folder, &path)),
        );
        let interpreter = needs
            .interpreter
            .iter()
            .map(PathBuf::from)
            .filter(|loader| loader.is_file());
        let mut found: Vec<PathBuf> = interpreter.collect();
        for library in &needs.libraries {
            match find(library, &needs, &rpath, &path, &cache) {
                Some(library) => found.push(library),
                None if is_optional => {}
                None => {
                    return Err(AppError::MissingLibrary {
                        library: library.clone(),
                        needed_by: path,
                    });
                }
            }
        }
        for library in found {
            tree.add(&library)?;
            wanting.push(Wanting {
                path: library,
                rpath: rpath.clone(),
                is_optional,
            });
        }
    }
    Ok(())
}

/// Where the loader would find a library.
fn find(
    library: &str,
    needs: &Needs,
    rpath: &[String],
    needed_by: &Path,
    cache: &LibraryCache,
) -> Option<PathBuf> {
    if library.contains('/') {
        return Some(PathBuf::from(with_origin(library, needed_by))).filter(|path| path.is_file());
    }
    let from_environment = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let folders = rpath.iter().cloned();
    let folders = folders.chain(from_environment.split(':').map(str::to_owned));
    let mut folders = folders.chain(
        needs
            .runpath
            .iter()
            .map(|folder| with_origin(folder, needed_by)),
    );
    let is_ours = |path: &PathBuf| path.is_file();
    folders
        .find_map(|folder| Some(Path::new(&folder).join(library)).filter(is_ours))
        .or_else(|| cache.find(library).filter(is_ours))
        .or_else(|| {
            FOLDERS
                .iter()
                .map(|folder| Path::new(folder).join(library))
                .find(is_ours)
        })
}

/// Replaces `$ORIGIN` by the folder of the file that says it.
fn with_origin(text: &str, file: &Path) -> String {
    let real = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let folder = real
        .parent()
        .unwrap_or(Path::new("/"))
        .to_string_lossy()
        .into_owned();
    text.replace("${ORIGIN}", &folder)
        .replace("$ORIGIN", &folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_asked_in_the_loaders_order() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["rpath", "runpath", "bin"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        let program = at("bin/program");
        std::fs::write(&program, "").unwrap();
        let needs = Needs {
            runpath: vec!["$ORIGIN/../runpath".to_owned()],
            ..Needs::default()
        };
        let rpath = [at("rpath").to_string_lossy().into_owned()];
        let look = || {
            find(
                "libx.so",
                &needs,
                &rpath,
                &program,
                &LibraryCache::default(),
            )
        };
        assert_eq!(look(), None);
        std::fs::write(at("runpath/libx.so"), "").unwrap();
        assert_eq!(
            look(),
            Some(
                folder
                    .path()
                    .canonicalize()
                    .unwrap()
                    .join("bin/../runpath/libx.so")
            )
        );
        std::fs::write(at("rpath/libx.so"), "").unwrap();
        assert_eq!(look(), Some(at("rpath/libx.so")));
    }
}
