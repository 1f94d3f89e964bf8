//! A file that a command writes: it has its name when it is complete, and until then it is nobody's to find.
//!
//! While it is written the file has no name at all (`O_TMPFILE`), so that whoever is killed leaves nothing. Where a file
//! system knows no such files it has another name, and is removed by who fails, though not by who is killed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};
use rustix::io::Errno;

use crate::failure::Failure;
use crate::observed::{self, Unnamed};

/// What is in a guest's memory is for its owner's eyes.
const MODE: u32 = 0o600;

/// See the module's head.
#[derive(Debug)]
pub struct WholeFile {
    path: PathBuf,
    is_to_replace: bool,
    /// The name until it is complete, if it needs one.
    part: Option<PathBuf>,
    /// Who may give it its name is asked to.
    is_asked: bool,
}

impl WholeFile {
    /// A new file that will be `path`, open for writing and reading.
    ///
    /// # Errors
    /// If there is something at `path` that is not to be replaced, or the host refuses.
    pub fn create(path: &Path, is_to_replace: bool) -> Result<(WholeFile, File), Failure> {
        if observed::about().is_some() {
            let whole = WholeFile {
                path: path.to_owned(),
                is_to_replace,
                part: None,
                is_asked: true,
            };
            let file = observed::output().map_err(|source| whole.failed(source))?;
            return Ok((whole, file));
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !found.is_file() => return Err(Failure::NoPlainFile(path.to_owned())),
            Ok(_) if !is_to_replace => return Err(Failure::Exists(path.to_owned())),
            _ => {}
        }
        let failed = |source| Failure::Write {
            path: path.to_owned(),
            source,
        };
        if path.file_name().is_none() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        let mut whole = WholeFile {
            path: path.to_owned(),
            is_to_replace,
            part: None,
            is_asked: false,
        };
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = match open(folder(path), flags, Mode::from_raw_mode(MODE)) {
            Ok(file) => File::from(file),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {
                let part = whole.beside();
                let mut options = OpenOptions::new();
                options.read(true).write(true).create_new(true).mode(MODE);
                let file = options.open(&part).map_err(failed)?;
                whole.part = Some(part);
                file
            }
            Err(errno) => return Err(failed(errno.into())),
        };
        Ok((whole, file))
    }

    /// Gives it its name, with everything that was written to `file` on its disk.
    ///
    /// # Errors
    /// As [`WholeFile::create`]; then there is no such file.
    pub fn keep(self, file: &File) -> Result<(), Failure> {
        let path = self.path.clone();
        let kept = match self.is_asked {
            true => observed::keep_output(),
            false => self.name_it(file),
        };
        kept.map_err(|source| failed(path, source))
    }

    /// The same in the host's words.
    ///
    /// # Errors
    /// What the host says.
    fn name_it(mut self, file: &File) -> io::Result<()> {
        file.sync_data().and_then(|()| self.name(file))
    }

    fn failed(&self, source: io::Error) -> Failure {
        failed(self.path.clone(), source)
    }

    fn name(&mut self, file: &File) -> io::Result<()> {
        let own = format!("/proc/self/fd/{}", file.as_raw_fd());
        let link = |to: &Path| linkat(CWD, &own, CWD, to, AtFlags::SYMLINK_FOLLOW);
        match (&self.part, self.is_to_replace) {
            (None, false) => return Ok(link(&self.path)?),
            // A hard link never replaces what is there, which is what is wanted.
            (Some(part), false) => return fs::hard_link(part, &self.path),
            (Some(_), true) => {}
            (None, true) => {
                let part = self.beside();
                link(&part)?;
                self.part = Some(part);
            }
        }
        let part = self.part.as_deref().unwrap_or(&self.path);
        fs::rename(part, &self.path)?;
        self.part = None;
        Ok(())
    }

    /// A name of our own in the same folder.
    fn beside(&self) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let process = std::process::id();
        self.path.with_file_name(format!(".{name}.{process}.part"))
    }
}

/// What is written to it by somebody in a jail.
pub struct Opened(WholeFile, File);

impl Opened {
    /// As [`WholeFile::create`].
    ///
    /// # Errors
    /// So too.
    pub fn create(path: &Path, is_to_replace: bool) -> Result<Box<dyn Unnamed>, Failure> {
        let (whole, file) = WholeFile::create(path, is_to_replace)?;
        Ok(Box::new(Opened(whole, file)))
    }
}

impl Unnamed for Opened {
    fn file(&self) -> io::Result<File> {
        self.1.try_clone()
    }

    fn keep(self: Box<Self>) -> io::Result<()> {
        let Opened(whole, file) = *self;
        whole.name_it(&file)
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if let Some(part) = &self.part {
            let _ = fs::remove_file(part);
        }
    }
}

fn failed(path: PathBuf, source: io::Error) -> Failure {
    match source.kind() {
        io::ErrorKind::AlreadyExists => Failure::Exists(path),
        _ => Failure::Write { path, source },
    }
}

fn folder(path: &Path) -> &Path {
    let folder = path.parent().unwrap_or(Path::new("."));
    if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string();
        entries.map(|entry| name(entry).unwrap()).collect()
    }

    #[test]
    fn a_file_has_its_name_when_it_is_complete_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump");
        let (whole, mut file) = WholeFile::create(&path, false).unwrap();
        file.write_all(b"half").unwrap();
        assert!(!path.exists());
        drop(whole);
        assert_eq!(names(folder.path()), [""; 0], "given up");
        let (whole, mut file) = WholeFile::create(&path, false).unwrap();
        file.write_all(b"whole").unwrap();
        whole.keep(&file).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "for its owner alone");
        assert_eq!(names(folder.path()), ["dump"]);
    }

    #[test]
    fn what_is_there_is_replaced_only_on_demand() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump");
        // Somebody was faster.
        let (late, file) = WholeFile::create(&path, false).unwrap();
        fs::write(&path, "old").unwrap();
        assert!(matches!(late.keep(&file), Err(Failure::Exists(_))));
        let refused = WholeFile::create(&path, false).unwrap_err();
        assert!(matches!(refused, Failure::Exists(_)), "{refused}");
        let (given_up, _) = WholeFile::create(&path, true).unwrap();
        drop(given_up);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let (whole, mut file) = WholeFile::create(&path, true).unwrap();
        file.write_all(b"new").unwrap();
        whole.keep(&file).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["dump"]);
    }

    #[test]
    fn what_is_no_plain_file_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        for path in [folder.path(), Path::new("/dev/null"), &link] {
            let refused = WholeFile::create(path, true).unwrap_err();
            assert!(matches!(refused, Failure::NoPlainFile(_)), "{refused}");
        }
        let missing = folder.path().join("no/such/folder");
        let refused = WholeFile::create(&missing, false).unwrap_err();
        assert!(matches!(refused, Failure::Write { .. }), "{refused}");
    }
}
