//! Files of the host in a guest's tree, at the paths they have on the host.

use std::fs::{self, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::app::library_cache::LibraryCache;
use crate::app::{AppError, elf, place_error, read_error};
use crate::tree::{Attributes, Content, Kind, Tree};

/// A tree of files that are the host's.
pub(super) struct HostTree {
    tree: Tree,
    /// Files that may be programs or libraries, and whether they were asked for by themselves.
    candidates: Vec<(PathBuf, bool)>,
}

impl HostTree {
    pub(super) fn new() -> HostTree {
        HostTree {
            tree: Tree::new(),
            candidates: Vec::new(),
        }
    }

    pub(super) fn into_tree(self) -> Tree {
        self.tree
    }

    /// Adds a file, or a folder with all that is in it; links on the way and at the end come with what they lead to.
    pub(super) fn add(&mut self, path: &Path) -> Result<(), AppError> {
        let real = self.add_links(path)?;
        let metadata = fs::symlink_metadata(&real).map_err(read_error(path))?;
        if metadata.is_dir() {
            self.add_folder(&real)
        } else {
            self.add_file(&real, &metadata, true)
        }
    }

    /// Adds glibc's list of libraries, as far as they are in the tree; not if the host's own list was asked for.
    pub(super) fn add_library_cache(&mut self, host: &LibraryCache) -> Result<(), AppError> {
        let path = "/etc/ld.so.cache";
        if self.tree.find(path.as_bytes(), true).is_some() {
            return Ok(());
        }
        let file = host.file_of(|path| self.tree.find(path.as_bytes(), true).is_some());
        self.tree
            .put_bytes(path, 0o644, file)
            .map_err(place_error(Path::new(path)))
    }

    /// ELF files in the tree, and whether each was asked for by itself.
    pub(super) fn elf_files(&self) -> Vec<(PathBuf, bool)> {
        let is_elf = |path: &Path| {
            let mut head = [0; 4];
            fs::File::open(path)
                .and_then(|mut file| file.read_exact(&mut head))
                .is_ok()
                && elf::is_elf(&head)
        };
        self.candidates
            .iter()
            .filter(|(path, _)| is_elf(path))
            .cloned()
            .collect()
    }

    /// Puts every symbolic link along a path into the tree; the path without links.
    fn add_links(&mut self, path: &Path) -> Result<PathBuf, AppError> {
        let mut real = PathBuf::from("/");
        let mut left: Vec<PathBuf> = parts(path);
        let mut links = 0;
        while let Some(part) = left.pop() {
            if part == Path::new("..") {
                real.pop();
                continue;
            }
            let next = real.join(&part);
            let metadata = fs::symlink_metadata(&next).map_err(read_error(&next))?;
            if !metadata.is_symlink() {
                real = next;
                continue;
            }
            links += 1;
            if links > 40 {
                let source = std::io::Error::from(rustix::io::Errno::LOOP);
                return Err(read_error(path)(source));
            }
            let target = fs::read_link(&next).map_err(read_error(&next))?;
            let kind = Kind::Symlink(target.as_os_str().as_bytes().to_vec());
            self.put(&next, &metadata, kind)?;
            if target.is_absolute() {
                real = PathBuf::from("/");
            }
            left.extend(parts(&target));
        }
        Ok(real)
    }

    fn add_folder(&mut self, folder: &Path) -> Result<(), AppError> {
        let metadata = fs::metadata(folder).map_err(read_error(folder))?;
        let path = folder.as_os_str().as_bytes();
        self.tree
            .put_folder(path, attributes(&metadata))
            .map_err(place_error(folder))?;
        for entry in fs::read_dir(folder).map_err(read_error(folder))? {
            let path = entry.map_err(read_error(folder))?.path();
            let metadata = fs::symlink_metadata(&path).map_err(read_error(&path))?;
            if metadata.is_symlink() {
                let target = fs::read_link(&path).map_err(read_error(&path))?;
                let kind = Kind::Symlink(target.as_os_str().as_bytes().to_vec());
                self.put(&path, &metadata, kind)?;
                // A file comes along; a folder somewhere else may be anything, and large.
                if fs::metadata(&path).is_ok_and(|target| target.is_file()) {
                    let real = self.add_links(&path)?;
                    let metadata = fs::symlink_metadata(&real).map_err(read_error(&path))?;
                    self.add_file(&real, &metadata, false)?;
                }
            } else if metadata.is_dir() {
                self.add_folder(&path)?;
            } else {
                self.add_file(&path, &metadata, false)?;
            }
        }
        Ok(())
    }

    fn add_file(
        &mut self,
        path: &Path,
        metadata: &Metadata,
        is_asked_for: bool,
    ) -> Result<(), AppError> {
        // Sockets and the like are nothing that a copy of would be of use.
        if !metadata.is_file() {
            return Ok(());
        }
        // What we may not read inside a folder is left out, as the program could not read it either.
        if !is_asked_for && fs::File::open(path).is_err() {
            return Ok(());
        }
        let content = Content::Path {
            path: path.to_owned(),
            len: metadata.len(),
        };
        self.put(path, metadata, Kind::File(content))?;
        self.candidates.push((path.to_owned(), is_asked_for));
        Ok(())
    }

    fn put(&mut self, path: &Path, metadata: &Metadata, kind: Kind) -> Result<(), AppError> {
        let bytes = path.as_os_str().as_bytes();
        self.tree
            .put(bytes, attributes(metadata), kind)
            .map(drop)
            .map_err(place_error(path))
    }
}

/// The names of a path, last first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        _ => None,
    });
    let mut names: Vec<PathBuf> = names.collect();
    names.reverse();
    names
}

/// The guest has root alone: what the owner may do, root may.
fn attributes(metadata: &Metadata) -> Attributes {
    Attributes {
        mtime: metadata.mtime(),
        ..Attributes::of_root((metadata.mode() & 0o7777) as u16)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_come_with_what_they_lead_to() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        fs::create_dir(root.join("real")).unwrap();
        fs::write(root.join("real/file"), "x").unwrap();
        symlink("real", root.join("folder")).unwrap();
        symlink(root.join("folder/file"), root.join("link")).unwrap();
        fs::create_dir(root.join("other")).unwrap();
        for (to, name) in [("../real/file", "in"), ("../real", "out"), ("gone", "gone")] {
            symlink(to, root.join("other").join(name)).unwrap();
        }
        let mut tree = HostTree::new();
        tree.add(&root.join("link")).unwrap();
        let tree = tree.into_tree();
        let path = |name: &str| root.join(name).into_os_string().into_encoded_bytes();
        let node = tree.find(&path("link"), true).unwrap();
        assert_eq!(tree.find(&path("real/file"), false), Some(node));
        assert_eq!(tree.find(&path("folder/file"), false), Some(node));
        let mut tree = HostTree::new();
        tree.add(&root.join("other")).unwrap();
        let tree = tree.into_tree();
        assert!(tree.find(&path("other/in"), true).is_some());
        assert_eq!(tree.find(&path("other/gone"), true), None);
    }
}
