//! A folder of this host, which files of a guest are written to.
//!
//! What the user typed is looked up with the user's rights, once, before a guest has said anything. From then on there are only names
//! below an open folder, which the kernel follows through no link and not out of it (`openat2`, `RESOLVE_BENEATH` and
//! `RESOLVE_NO_SYMLINKS`), and Landlock around all of it. A file gets its name when it is whole.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use api::{Entry, EntryKind};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, Uid,
    chownat, fchmod, fchown, fstatvfs, ftruncate, futimens, mkdirat, openat2, renameat, statat,
    symlinkat, unlinkat, utimensat,
};
use rustix::io::{Errno, pwrite};

use super::pour::{Stop, Taker, Told};
use crate::failure::Failure;

/// What is kept of a mode.
const RIGHTS: u32 = 0o777;
/// Rights of what is not whole yet.
const PRIVATE: u32 = 0o700;

/// The place that was typed.
pub struct Target {
    /// What it is called in sentences.
    path: PathBuf,
    /// Itself, if it is a folder, or the folder that it is in.
    folder: OwnedFd,
    /// Its name in that folder, if it is none.
    name: Option<Vec<u8>>,
    is_there: bool,
    /// A slash behind the name says that a folder is meant.
    is_folder_meant: bool,
}

fn bad(what: String) -> Stop {
    Stop::from(Failure::BadWord {
        act: "copy",
        what,
        help: "where things go is a folder that is there, a file, or a name that is new in a folder",
    })
}

impl Target {
    /// Looks at what was typed.
    pub fn find(path: &OsString, is_several: bool) -> Result<Target, Stop> {
        let is_folder_meant = path.as_bytes().ends_with(b"/") || path.as_bytes().ends_with(b"/.");
        let path = PathBuf::from(path);
        let shown = path.display();
        let found = match fs::metadata(&path) {
            Ok(found) => Some(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(bad(format!("{shown}: {error}"))),
        };
        let (parent, name) = match &found {
            Some(found) if found.is_dir() => (path.clone(), None),
            _ if is_several => return Err(bad(format!("{shown} is no folder"))),
            Some(found) if !found.is_file() => {
                return Err(bad(format!("{shown} is no file; `-` is standard output")));
            }
            found => {
                // Through a link that is there to the file that it means.
                let path = match found {
                    Some(_) => fs::canonicalize(&path),
                    None => Ok(path.clone()),
                };
                let path = path.map_err(|error| bad(format!("{shown}: {error}")))?;
                let name = path.file_name().map(|name| name.as_bytes().to_vec());
                let name = name.ok_or_else(|| bad(format!("{shown} is no place for a file")))?;
                let parent = match path.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
                    _ => PathBuf::from("."),
                };
                (parent, Some(name))
            }
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&parent, flags, Mode::empty());
        let folder = folder.map_err(|error| bad(format!("{}: {error}", parent.display())))?;
        Ok(Target {
            is_there: found.is_some(),
            path,
            folder,
            name,
            is_folder_meant,
        })
    }

    /// The folder that everything is below.
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// Bytes that this user may still put there.
    pub fn room(&self) -> Result<u64, Stop> {
        let held = fstatvfs(&self.folder);
        let held = held.map_err(|error| Stop::Here(self.path.clone(), error.into()))?;
        Ok(held.f_bavail.saturating_mul(held.f_frsize))
    }
}

/// A folder that gets its attributes when everything is in it.
struct Made {
    folder: OwnedFd,
    entry: Entry,
}

/// A file on its way.
struct Open {
    file: OwnedFd,
    folder: OwnedFd,
    unfinished: String,
    name: Vec<u8>,
    entry: Entry,
}

impl Drop for Open {
    fn drop(&mut self) {
        // One that is whole has its name.
        let _ = unlinkat(&self.folder, &self.unfinished, AtFlags::empty());
    }
}

/// Where things go, once the first is known.
struct Place {
    base: OwnedFd,
    /// It was made just now.
    is_new: bool,
    /// What the first part of each name becomes.
    renamed: Option<Vec<u8>>,
    /// The folder below it that was used last.
    last: (Vec<u8>, Option<OwnedFd>),
}

/// See the module.
pub struct ToFolder {
    target: Target,
    keeps_owners: bool,
    place: Option<Place>,
    open: Option<Open>,
    made: Vec<Made>,
    files: u64,
}

fn open_below(at: impl AsFd, name: &[u8], flags: OFlags, mode: u32) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    openat2(at, name, flags, Mode::from_raw_mode(mode), resolve)
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

impl ToFolder {
    /// Nothing is there yet.
    pub fn new(target: Target, keeps_owners: bool) -> ToFolder {
        ToFolder {
            target,
            keeps_owners,
            place: None,
            open: None,
            made: Vec::new(),
            files: 0,
        }
    }

    /// As cp(1) has it.
    fn find_place(&self, first: &Entry) -> Result<Place, Stop> {
        let target = &self.target;
        let shown = target.path.display();
        let here = |error: Errno| Stop::Here(target.path.clone(), error.into());
        let base = target.folder.try_clone();
        let base = base.map_err(|error| Stop::Here(target.path.clone(), error))?;
        let place = |base, is_new, renamed| Place {
            base,
            is_new,
            renamed,
            last: (Vec::new(), None),
        };
        let Some(name) = &target.name else {
            return Ok(place(base, false, None));
        };
        let is_folder = first.kind == EntryKind::Folder;
        if is_folder && target.is_there {
            return Err(bad(format!("{shown} is no folder")));
        }
        if target.is_folder_meant && !is_folder {
            return Err(bad(format!("there is no folder {shown}")));
        }
        if first.name == b"." {
            mkdirat(&base, name.as_slice(), Mode::from_raw_mode(PRIVATE)).map_err(here)?;
            let made = open_below(&base, name, FOLDER, 0).map_err(here)?;
            return Ok(place(made, true, None));
        }
        Ok(place(base, false, Some(name.clone())))
    }

    fn put(&mut self, entry: &Entry, told: &mut Told) -> Result<(), Stop> {
        self.finish_folders(Some(&entry.name), told);
        let Some(place) = &mut self.place else {
            return Ok(());
        };
        let is_new = place.is_new;
        let found = place.find(&entry.name);
        let done = match found {
            Ok((folder, None)) => {
                // The folder itself, which is there.
                if is_new {
                    let entry = entry.clone();
                    self.made.push(Made { folder, entry });
                }
                Ok(())
            }
            Ok((folder, Some(name))) => match entry.kind {
                EntryKind::Folder => self.make_folder(&folder, &name, entry),
                EntryKind::Link => self.make_link(&folder, &name, entry),
                EntryKind::File => self.begin_file(folder, name, entry),
            },
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => {
                note(entry, told);
                Ok(())
            }
            Err(error) => self.not_done(&entry.name, error.into(), told),
        }
    }

    /// A disk that is full ends it, anything else is told.
    fn not_done(&self, name: &[u8], error: io::Error, told: &mut Told) -> Result<(), Stop> {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Err(Stop::Here(self.target.path.clone(), error))
            }
            _ => {
                let why = match error.raw_os_error().map(Errno::from_raw_os_error) {
                    Some(Errno::LOOP) => "a symbolic link is in its way here".to_owned(),
                    Some(Errno::XDEV) => "its name leads out of the folder".to_owned(),
                    _ => error.to_string(),
                };
                told.leave_out(name, &why);
                Ok(())
            }
        }
    }

    fn make_folder(
        &mut self,
        folder: &OwnedFd,
        name: &[u8],
        entry: &Entry,
    ) -> rustix::io::Result<()> {
        match mkdirat(folder, name, Mode::from_raw_mode(PRIVATE)) {
            // What is there stays as it is.
            Err(Errno::EXIST) => open_below(folder, name, FOLDER, 0).map(drop),
            Err(error) => Err(error),
            Ok(()) => {
                let folder = open_below(folder, name, FOLDER, 0)?;
                let entry = entry.clone();
                self.made.push(Made { folder, entry });
                Ok(())
            }
        }
    }

    fn make_link(&self, folder: &OwnedFd, name: &[u8], entry: &Entry) -> rustix::io::Result<()> {
        check_replaceable(folder, name)?;
        match unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        symlinkat(entry.target.as_slice(), folder, name)?;
        if self.keeps_owners {
            let (user, group) = owners(entry);
            chownat(folder, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        utimensat(folder, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
    }

    fn begin_file(
        &mut self,
        folder: OwnedFd,
        name: Vec<u8>,
        entry: &Entry,
    ) -> rustix::io::Result<()> {
        check_replaceable(&folder, &name)?;
        self.files += 1;
        let unfinished = format!(".mother-{}-{}", std::process::id(), self.files);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = open_below(&folder, unfinished.as_bytes(), flags, PRIVATE & 0o600)?;
        self.open = Some(Open {
            file,
            folder,
            unfinished,
            name,
            entry: entry.clone(),
        });
        Ok(())
    }

    /// The file has all its bytes: it gets its attributes, and then its name.
    fn finish_file(&mut self, told: &mut Told) -> Result<(), Stop> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let done = ftruncate(&open.file, open.entry.len)
            .and_then(|()| self.dress(&open.file, &open.entry))
            .and_then(|()| {
                let name = open.name.as_slice();
                renameat(&open.folder, &open.unfinished, &open.folder, name)
            });
        match done {
            Ok(()) => Ok(()),
            Err(error) => self.not_done(&open.entry.name, error.into(), told),
        }
    }

    /// From the innermost on, those that `next` is not in: each is changed by what is made in it.
    fn finish_folders(&mut self, next: Option<&[u8]>, told: &mut Told) {
        while let Some(Made { folder, entry }) = self.made.pop() {
            if next.is_some_and(|next| is_below(next, &entry.name)) {
                self.made.push(Made { folder, entry });
                return;
            }
            if let Err(error) = self.dress(&folder, &entry) {
                told.leave_out(&entry.name, &format!("its attributes: {error}"));
            }
        }
    }

    fn dress(&self, file: &OwnedFd, entry: &Entry) -> rustix::io::Result<()> {
        if self.keeps_owners {
            let (user, group) = owners(entry);
            fchown(file, user, group)?;
        }
        fchmod(file, Mode::from_raw_mode(entry.mode & RIGHTS))?;
        futimens(file, &times(entry))
    }
}

fn is_below(name: &[u8], folder: &[u8]) -> bool {
    let rest = name.strip_prefix(folder);
    folder == b"." || rest.is_some_and(|rest| rest.starts_with(b"/"))
}

/// `u32::MAX` is nobody's number: to the kernel it says that nothing is to change.
fn owners(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    let user = Some(entry.uid).filter(|&uid| uid != u32::MAX);
    let group = Some(entry.gid).filter(|&gid| gid != u32::MAX);
    (user.map(Uid::from_raw), group.map(Gid::from_raw))
}

fn times(entry: &Entry) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: entry.seconds,
            tv_nsec: entry.nanoseconds.into(),
        },
    }
}

/// A device or a folder that is there is not replaced by a file.
fn check_replaceable(folder: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
        Ok(there) => match FileType::from_raw_mode(there.st_mode) {
            FileType::RegularFile | FileType::Symlink => Ok(()),
            FileType::Directory => Err(Errno::ISDIR),
            _ => Err(Errno::EXIST),
        },
    }
}

/// What a user should know of what was taken.
fn note(entry: &Entry, told: &mut Told) {
    match entry.kind {
        EntryKind::File if entry.mode & !RIGHTS != 0 => told.stripped += 1,
        EntryKind::Link if leads_out(&entry.name, &entry.target) => told.leading_out += 1,
        _ => {}
    }
}

/// Whether a link leads somewhere else than to what was copied with it.
fn leads_out(name: &[u8], target: &[u8]) -> bool {
    if target.starts_with(b"/") {
        return true;
    }
    let mut depth = name.iter().filter(|&&byte| byte == b'/').count();
    for part in Path::new(&OsString::from_vec(target.to_vec())).iter() {
        match part.as_bytes() {
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            b"." => {}
            _ => depth += 1,
        }
    }
    false
}

impl Place {
    /// The folder of a name, and the name in it; none of the place itself.
    fn find(&mut self, name: &[u8]) -> rustix::io::Result<(OwnedFd, Option<Vec<u8>>)> {
        let clone = |file: &OwnedFd| {
            let cloned = file.try_clone();
            cloned.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))
        };
        if name == b"." {
            return Ok((clone(&self.base)?, None));
        }
        let mut parts: Vec<&[u8]> = name.split(|&byte| byte == b'/').collect();
        if let Some(renamed) = &self.renamed {
            parts[0] = renamed;
        }
        let last = parts.pop().unwrap_or_default().to_vec();
        let above = parts.join(&b'/');
        if above.is_empty() {
            return Ok((clone(&self.base)?, Some(last)));
        }
        let folder = match &self.last {
            (path, Some(folder)) if *path == above => clone(folder)?,
            _ => {
                let folder = open_below(&self.base, &above, OFlags::PATH | OFlags::DIRECTORY, 0)?;
                self.last = (above, Some(clone(&folder)?));
                folder
            }
        };
        Ok((folder, Some(last)))
    }
}

impl Taker for ToFolder {
    fn entry(&mut self, entry: &Entry, told: &mut Told) -> Result<(), Stop> {
        self.finish_file(told)?;
        if self.place.is_none() {
            self.place = Some(self.find_place(entry)?);
        }
        self.put(entry, told)
    }

    fn data(&mut self, at: u64, bytes: &[u8], told: &mut Told) -> Result<(), Stop> {
        // What could not be made is told already.
        let Some(open) = &self.open else {
            return Ok(());
        };
        let mut done = 0;
        while done < bytes.len() {
            match pwrite(&open.file, &bytes[done..], at + done as u64) {
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(error) => {
                    let name = open.entry.name.clone();
                    self.open = None;
                    return self.not_done(&name, error.into(), told);
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, told: &mut Told) -> Result<(), Stop> {
        self.finish_file(told)?;
        self.finish_folders(None, told);
        Ok(())
    }
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
