//! Profiles of kernel files for observers, made by a process that has read nothing else.
//!
//! ```text
//! observer ──Make, kernel file──> broker: a copy, whose SHA-256 is the one that was said
//!                                  └──> a process in a jail: reads the copy, says Put ──> the cache
//! ```
//!
//! So an observer that its guest has taken over gets nothing into the cache but what that very kernel file says, and a kernel
//! file that breaks its reader gets nothing in under another one's name.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use api::JailWish;
use host::MemFd;
use host::lock::Lock;
use insight::kept::{self, Entry};
use runner::{Observer, ObserverEnd};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::handed::contents;
use super::requests::{About, Answered, Asked, Place, Work};

/// Has the profile made, and kept in `folder`.
pub(super) fn make(folder: &Path, digest: [u8; 32], kernel: &File) -> io::Result<()> {
    let bytes = contents(kernel)?;
    if Sha256::digest(&bytes).as_slice() != digest {
        return Err(Errno::INVAL.into());
    }
    let copy = MemFd::sealable(c"kernel", bytes.len() as u64)?;
    copy.file().write_all(&bytes)?;
    copy.seal()?;
    let about = About {
        folder: folder.to_owned(),
        profiles: Some(folder.to_owned()),
        ..About::of_work(Work::Profile)
    };
    let maker = Observer::start_mute(about.to_text(), JailWish::Auto);
    let maker = maker.map_err(io::Error::other)?;
    let kept = Lock::new(Vec::new());
    let end = maker.serve(|asked, files: Vec<OwnedFd>| {
        let file = files.into_iter().next().map(File::from);
        answer(digest, &copy, &kept, asked, file).unwrap_or_else(|error| {
            let number = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
            (Answered::Refused(number), Vec::new())
        })
    });
    match end.map_err(io::Error::other)? {
        ObserverEnd::Status(0) => {}
        end => return Err(io::Error::other(end.words())),
    }
    // The code first: whoever finds a profile finds its code.
    let mut kept = std::mem::take(&mut *kept.lock());
    kept.sort_by_key(|(entry, _)| matches!(entry, Entry::Profile(_)));
    kept.iter()
        .try_for_each(|(entry, bytes)| kept::put_here(folder, *entry, bytes))
}

/// It may have its kernel file, and say what is to be kept of it.
fn answer(
    digest: [u8; 32],
    kernel: &MemFd,
    kept: &Lock<Vec<(Entry, Vec<u8>)>>,
    asked: Asked,
    file: Option<File>,
) -> io::Result<(Answered, Vec<OwnedFd>)> {
    match (asked, file) {
        (Asked::Kernel, _) => {
            let file = kernel.file().try_clone()?;
            Ok((Answered::Done, vec![file.into()]))
        }
        (Asked::Put(Place::Profiles, entry), Some(file))
            if entry == Entry::Profile(digest) || entry == Entry::Code(digest) =>
        {
            let bytes = contents(&file)?;
            let mut kept = kept.lock();
            kept.retain(|(known, _)| *known != entry);
            kept.push((entry, bytes));
            Ok((Answered::Done, Vec::new()))
        }
        _ => Err(Errno::PERM.into()),
    }
}
