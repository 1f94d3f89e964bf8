//! Files from the host.
//!
//! The host is believed, and the guest's users are not: a link that one of them has put into the way leads root nowhere. Each folder
//! is opened by its name in the one above, never through a link, and everything is done by a name in an open folder
//! (`/proc/self/fd/NUMBER/NAME`, which is what the standard library has for the calls that take a folder).

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, fchown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::super::{DATA, DONE, END, ENTRY, NOT_DONE, Sink, fail, receive, send};
use super::entry::{Entry, Kind};
use super::{LeftOut, words};

/// `O_DIRECTORY` and `O_NOFOLLOW`.
const FOLDER: i32 = 0o200_000;
const NO_LINK: i32 = 0o400_000;

/// Rights of a file while it is written, and of what is given to nobody else.
const PRIVATE: u32 = 0o600;
/// What is kept of a mode if owners are not: set-user-ID is somebody's.
const RIGHTS: u32 = 0o777;

/// A folder whose attributes are set when everything is in it.
struct Made {
    folder: File,
    entry: Entry,
}

/// Where things go.
struct Place {
    base: File,
    /// It was made just now.
    is_new: bool,
    /// What the first part of each name becomes.
    renamed: Option<Vec<u8>>,
    /// The folder below it that was used last.
    last: (Vec<u8>, Option<File>),
}

/// A file on its way.
struct Open {
    file: File,
    folder: File,
    name: Vec<u8>,
    entry: Entry,
}

struct Taking<'a> {
    sink: &'a Sink,
    to: Vec<u8>,
    is_several: bool,
    keeps_owners: bool,
    place: Option<Place>,
    open: Option<Open>,
    made: Vec<Made>,
    left_out: LeftOut,
}

/// Why nothing more is taken.
enum Stop {
    Connection(io::Error),
    Guest(String),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Connection(error)
    }
}

/// Puts what comes where it belongs.
pub(in super::super) fn take(request: &[u8], mut stream: File, sink: &Sink) -> io::Result<()> {
    let value = |wanted: &[u8]| words(request).find(|(key, _)| *key == wanted);
    let mut taking = Taking {
        sink,
        to: value(b"to").map(|(_, to)| to.to_vec()).unwrap_or_default(),
        is_several: value(b"several").is_some(),
        keeps_owners: value(b"owners").is_some(),
        place: None,
        open: None,
        made: Vec::new(),
        left_out: LeftOut::default(),
    };
    match taking.take(&mut stream) {
        Ok(()) => send(sink, DONE, &taking.left_out.0.to_le_bytes()),
        Err(Stop::Connection(error)) => Err(error),
        Err(Stop::Guest(why)) => {
            fail(sink, NOT_DONE, &why)?;
            // What is under way would keep the host from hearing that.
            while receive(&mut stream).is_ok() {}
            Ok(())
        }
    }
}

fn path(bytes: &[u8]) -> PathBuf {
    Path::new("/").join(Path::new(OsStr::from_bytes(bytes)))
}

/// A name in an open folder.
fn within(folder: &File, name: &[u8]) -> PathBuf {
    let folder = format!("/proc/self/fd/{}", folder.as_raw_fd());
    Path::new(&folder).join(Path::new(OsStr::from_bytes(name)))
}

fn open_folder(path: &Path, flags: i32) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags(FOLDER | flags)
        .open(path)
}

impl Taking<'_> {
    fn take(&mut self, stream: &mut File) -> Result<(), Stop> {
        loop {
            let (kind, payload) = receive(stream)?;
            match (kind, payload.split_at_checked(8)) {
                (ENTRY, _) => {
                    self.finish_file();
                    let entry = Entry::decode(&payload);
                    let entry = entry.ok_or_else(|| Stop::Guest("an entry is none".to_owned()))?;
                    if self.place.is_none() {
                        self.place = Some(self.find_place(&entry).map_err(Stop::Guest)?);
                    }
                    self.put(entry)?;
                }
                (DATA, Some((at, bytes))) => {
                    let at = u64::from_le_bytes(at.try_into().unwrap_or_default());
                    self.write(at, bytes)?;
                }
                (END, _) => {
                    self.finish_file();
                    self.finish_folders(None);
                    return Ok(());
                }
                _ => return Err(Stop::Guest(format!("there is no part {kind} of a copy"))),
            }
        }
    }

    /// Where everything goes, now that the first is known: as cp(1) has it.
    fn find_place(&self, first: &Entry) -> Result<Place, String> {
        let to = path(&self.to);
        let shown = to.display().to_string();
        let is_folder_meant = self.to.ends_with(b"/") || self.to.ends_with(b"/.");
        let at = |base: &Path, is_new, renamed| {
            let base = open_folder(base, 0);
            let base = base.map_err(|error| format!("{shown}: {error}"))?;
            Ok(Place {
                base,
                is_new,
                renamed,
                last: (Vec::new(), None),
            })
        };
        let found = match fs::metadata(&to) {
            Ok(found) => Some(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(format!("{shown}: {error}")),
        };
        if found.as_ref().is_some_and(fs::Metadata::is_dir) {
            return at(&to, false, None);
        }
        if self.is_several || (is_folder_meant && first.kind != Kind::Folder) {
            return Err(match found {
                Some(_) => format!("{shown} is no folder"),
                None => format!("there is no folder {shown}"),
            });
        }
        if found.is_some() && first.kind == Kind::Folder {
            return Err(format!("{shown} is no folder"));
        }
        // Through a link that is there to what it means.
        let to = match found {
            Some(_) => fs::canonicalize(&to).map_err(|error| format!("{shown}: {error}"))?,
            None => to,
        };
        if first.name == b"." {
            fs::create_dir(&to).map_err(|error| format!("{}: {error}", to.display()))?;
            return at(&to, true, None);
        }
        match (to.parent(), to.file_name()) {
            (Some(parent), Some(name)) => at(parent, false, Some(name.as_bytes().to_vec())),
            _ => Err(format!("{shown} is no place for a file")),
        }
    }

    fn leave_out(&mut self, name: &[u8], why: &str) {
        self.left_out.tell(self.sink, name, why);
    }

    /// An error of the guest's is told; a disk that is full ends it.
    fn put(&mut self, entry: Entry) -> Result<(), Stop> {
        self.finish_folders(Some(&entry.name));
        let Some(place) = &mut self.place else {
            return Ok(());
        };
        let is_new = place.is_new;
        let (folder, name) = match place.find(&entry.name) {
            Ok(found) => found,
            Err(error) => {
                self.leave_out(&entry.name.clone(), &error.to_string());
                return Ok(());
            }
        };
        let Some(name) = name else {
            // The folder itself, which is there.
            if is_new {
                self.made.push(Made { folder, entry });
            }
            return Ok(());
        };
        let shown = entry.name.clone();
        let done = match entry.kind {
            Kind::Folder => self.make_folder(&folder, &name, entry),
            Kind::Link => self.make_link(&folder, &name, &entry),
            Kind::File => begin_file(folder, name, entry).map(|open| self.open = Some(open)),
        };
        match done {
            Err(error) if is_full(&error) => Err(Stop::Guest(format!("the guest's disk: {error}"))),
            Err(error) => {
                self.leave_out(&shown, &error.to_string());
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn make_folder(&mut self, folder: &File, name: &[u8], entry: Entry) -> io::Result<()> {
        let path = within(folder, name);
        match fs::create_dir(&path) {
            // What is there stays as it is.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                open_folder(&path, NO_LINK).map(drop)
            }
            Err(error) => Err(error),
            Ok(()) => {
                let folder = open_folder(&path, NO_LINK)?;
                self.made.push(Made { folder, entry });
                Ok(())
            }
        }
    }

    fn make_link(&self, folder: &File, name: &[u8], entry: &Entry) -> io::Result<()> {
        let path = within(folder, name);
        check_replaceable(&path)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(OsStr::from_bytes(&entry.target), &path)?;
        if self.keeps_owners {
            lchown(&path, Some(entry.uid), Some(entry.gid))?;
        }
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Stop> {
        // What could not be made is told already.
        let Some(open) = &self.open else {
            return Ok(());
        };
        match open.file.write_all_at(bytes, at) {
            Ok(()) => Ok(()),
            Err(error) if is_full(&error) => Err(Stop::Guest(format!("the guest's disk: {error}"))),
            Err(error) => {
                let name = open.entry.name.clone();
                self.open = None;
                self.leave_out(&name, &error.to_string());
                Ok(())
            }
        }
    }

    /// The file has all its bytes: it gets its attributes, and then its name.
    fn finish_file(&mut self) {
        let Some(open) = self.open.take() else { return };
        let done = open
            .file
            .set_len(open.entry.len)
            .and_then(|()| self.dress(&open.file, &open.entry))
            .and_then(|()| open.give_name());
        if let Err(error) = done {
            self.leave_out(&open.entry.name, &error.to_string());
        }
    }

    /// From the innermost on, those that `next` is not in: each is changed by what is made in it.
    fn finish_folders(&mut self, next: Option<&[u8]>) {
        while let Some(Made { folder, entry }) = self.made.pop() {
            if next.is_some_and(|next| is_below(next, &entry.name)) {
                self.made.push(Made { folder, entry });
                return;
            }
            if let Err(error) = self.dress(&folder, &entry) {
                self.leave_out(&entry.name, &error.to_string());
            }
        }
    }

    fn dress(&self, file: &File, entry: &Entry) -> io::Result<()> {
        let mut mode = entry.mode & RIGHTS;
        if self.keeps_owners {
            fchown(file, Some(entry.uid), Some(entry.gid))?;
            mode = entry.mode;
        }
        file.set_permissions(Permissions::from_mode(mode))?;
        let since = Duration::new(entry.seconds.unsigned_abs(), 0);
        let time = match entry.seconds < 0 {
            true => SystemTime::UNIX_EPOCH.checked_sub(since),
            false => SystemTime::UNIX_EPOCH.checked_add(since),
        };
        let nanoseconds = Duration::from_nanos(entry.nanoseconds.into());
        match time.and_then(|time| time.checked_add(nanoseconds)) {
            // A time that no file can have is no reason to have no file.
            None => Ok(()),
            Some(time) => file.set_times(FileTimes::new().set_modified(time)),
        }
    }
}

fn is_below(name: &[u8], folder: &[u8]) -> bool {
    let rest = name.strip_prefix(folder);
    folder == b"." || rest.is_some_and(|rest| rest.starts_with(b"/"))
}

/// Whether there is no room for more: nothing that follows would fit either.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// A device that is there is not replaced by a file.
fn check_replaceable(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => Err(io::Error::other("there is a folder of that name")),
        Ok(there) if !there.is_file() && !there.is_symlink() => Err(io::Error::other(
            "something of that name is there that is no file",
        )),
        _ => Ok(()),
    }
}

fn begin_file(folder: File, name: Vec<u8>, entry: Entry) -> io::Result<Open> {
    check_replaceable(&within(&folder, &name))?;
    let mut options = File::options();
    options.write(true).create_new(true).mode(PRIVATE);
    let path = within(&folder, &unfinished(&folder));
    let file = options.open(path)?;
    Ok(Open {
        file,
        folder,
        name,
        entry,
    })
}

/// What a file is called until it is whole: one at a time is written into a folder by a thread, which has that folder's number.
fn unfinished(folder: &File) -> Vec<u8> {
    format!(".mother-{}-{}", std::process::id(), folder.as_raw_fd()).into_bytes()
}

impl Open {
    fn give_name(&self) -> io::Result<()> {
        let path = within(&self.folder, &self.name);
        fs::rename(within(&self.folder, &unfinished(&self.folder)), path)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // One that is whole has its name.
        let _ = fs::remove_file(within(&self.folder, &unfinished(&self.folder)));
    }
}

impl Place {
    /// The folder of a name, and the name in it; none of the place itself.
    fn find(&mut self, name: &[u8]) -> io::Result<(File, Option<Vec<u8>>)> {
        if name == b"." && self.renamed.is_none() {
            return Ok((self.base.try_clone()?, None));
        }
        let mut parts: Vec<&[u8]> = name.split(|&byte| byte == b'/').collect();
        let is_strange = |part: &&[u8]| matches!(*part, b"" | b"." | b"..");
        if parts.iter().any(is_strange) {
            return Err(io::Error::other("its name leads out of the folder"));
        }
        if let Some(renamed) = &self.renamed {
            parts[0] = renamed;
        }
        let last = parts.pop().unwrap_or_default().to_vec();
        let above = parts.join(&b'/');
        if self.last.0 != above || self.last.1.is_none() {
            let mut folder = self.base.try_clone()?;
            for part in &parts {
                folder = open_folder(&within(&folder, part), NO_LINK)?;
            }
            self.last = (above, Some(folder));
        }
        let folder = match &self.last.1 {
            Some(folder) => folder.try_clone()?,
            None => self.base.try_clone()?,
        };
        Ok((folder, Some(last)))
    }
}
