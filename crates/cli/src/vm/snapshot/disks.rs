//! Disks of a snapshot: of the same instant as its memory, and never copied unsaid.
//!
//! A file system that can share what two files have in common gives a copy at once and for nothing (`FICLONE`). Where it
//! cannot, what a VM has written into an overlay of its own is copied, since it is little; a disk of the user's own only
//! when that is asked for. A VM that is suspended leaves its user's disks where they are: nobody writes them any more, and
//! they are known again by what the file system says of them.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{SeekFrom, ioctl_ficlone, seek};
use rustix::io::Errno;
use snapshot::{Disk, DiskHow};

/// What is copied of what a run has written, without being asked for.
pub(super) const COPIED_BYTES_MAX: u64 = 1 << 30;

/// Bytes that are copied at once.
const PIECE_BYTES: usize = 1 << 20;

/// What files are known by as long as nobody writes them; none for no file.
pub(super) fn fingerprint<'a>(
    files: impl IntoIterator<Item = &'a File>,
) -> io::Result<Option<String>> {
    let one = |file: &File| {
        let found = file.metadata()?;
        Ok(format!(
            "{}-{}-{}-{}.{:09}",
            found.dev(),
            found.ino(),
            found.len(),
            found.mtime(),
            found.mtime_nsec()
        ))
    };
    let all = files.into_iter().map(one).collect::<io::Result<Vec<_>>>()?;
    Ok((!all.is_empty()).then(|| all.join("+")))
}

/// Has `to`, which is empty, be what `from` is; how it came about.
pub(super) fn duplicate(from: &File, to: &File) -> io::Result<DiskHow> {
    match ioctl_ficlone(to, from) {
        Ok(()) => Ok(DiskHow::Reflink),
        // Another file system, or one that cannot.
        Err(
            Errno::OPNOTSUPP
            | Errno::XDEV
            | Errno::INVAL
            | Errno::NOTTY
            | Errno::NOSYS
            | Errno::TXTBSY,
        ) => {
            copy(from, to)?;
            Ok(DiskHow::Copy)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Copies what is not a hole.
fn copy(from: &File, to: &File) -> io::Result<()> {
    let len = from.metadata()?.len();
    to.set_len(len)?;
    let mut at = 0;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let start = match seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let end = seek(from, SeekFrom::Hole(start))?;
        copy_range(from, to, start..end, &mut piece)?;
        at = end;
    }
}

fn copy_range(
    from: &File,
    to: &File,
    range: std::ops::Range<u64>,
    piece: &mut [u8],
) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut at = range.start;
    while at < range.end {
        let len = piece.len().min((range.end - at) as usize);
        from.read_exact_at(&mut piece[..len], at)?;
        to.write_all_at(&piece[..len], at)?;
        at += len as u64;
    }
    Ok(())
}

/// Whether a copy of `from` in `folder` costs nothing.
pub(super) fn is_free(from: &File, folder: &Path) -> bool {
    let Ok(probe) = tempfile_in(folder) else {
        return false;
    };
    ioctl_ficlone(&probe, from).is_ok()
}

/// A file without a name.
fn tempfile_in(folder: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(open(folder, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// What is said of a disk's copy.
pub(super) fn words(disk: &Disk, bytes: u64) -> String {
    let amount = insight::amounts::size_in_words(bytes);
    match disk.how {
        DiskHow::Reflink => format!("disk {}: shared with the file it was, {amount}", disk.slot),
        DiskHow::Copy => format!("disk {}: {amount} copied", disk.slot),
        DiskHow::Own => format!(
            "disk {}: stays where it is; whoever writes it makes the snapshot unusable",
            disk.slot
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_duplicate_is_the_same_and_has_holes_where_it_was_empty() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = folder.path().join(name);
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(true);
            options.open(path).unwrap()
        };
        let check = |pieces: &[(u64, &[u8])], len: u64| {
            let from = make("from");
            from.set_len(len).unwrap();
            for (at, bytes) in pieces {
                from.write_all_at(bytes, *at).unwrap();
            }
            let to = make("to");
            duplicate(&from, &to).unwrap();
            let all = |file: &File| {
                let mut bytes = vec![0; len as usize];
                file.read_exact_at(&mut bytes, 0).unwrap();
                bytes
            };
            assert!(all(&from) == all(&to), "{pieces:?}");
            assert!(to.metadata().unwrap().blocks() <= from.metadata().unwrap().blocks());
        };
        check(&[], 0);
        check(&[], 10 << 20);
        check(&[(0, b"first"), ((10 << 20) - 4, b"last")], 10 << 20);
        check(&[(3 << 20, &[7; 3 << 20])], 9 << 20);
    }

    #[test]
    fn a_file_that_was_written_is_another() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let other = tempfile::NamedTempFile::new().unwrap();
        let both = || fingerprint([file.as_file(), other.as_file()]).unwrap();
        let before = both();
        assert_eq!(both(), before);
        std::thread::sleep(std::time::Duration::from_millis(20));
        other.as_file().write_all_at(b"x", 0).unwrap();
        assert_ne!(both(), before);
        assert_eq!(fingerprint([]).unwrap(), None);
    }
}
