//! Making a Debian image: what the host does before and after the guest that configures the packages.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::apt::{Apt, AptError};
use crate::debian::{self, AssembleError, DebianRelease, RECIPE, SourceLine};
use crate::ext4::{self, Ext4Error, Ext4Options, GROUP_BYTES};
use crate::file::{FileError, create_folder, error, stem};
use crate::package::{self, PackageError, Wanted};
use crate::progress::{Amount, OnProgress, Progress, Unit};
use crate::stamp::{now, uuid};
use crate::store::{Image, ImageKind, Store, StoreError};
use crate::tree::{Spool, Tree};
use crate::work::Work;
use crate::{disk_guest, modules};

/// The disk's size: 4 GiB, of which the image takes what its files need.
const DISK_BYTES: u64 = 32 * GROUP_BYTES;

/// The label that the system's fstab names.
const LABEL: &str = "mother-root";

/// Why there is no Debian image.
#[derive(Debug, Error)]
pub enum DebianError {
    /// apt.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// The host's sources have no Debian at all.
    #[error("this host's apt has no source with Debian's packages")]
    NoMirror,
    /// The mirror does not have the release, or nothing of it.
    #[error("the mirror has no {0}")]
    NoRelease(DebianRelease, #[source] AptError),
    /// The mirror gave nothing.
    #[error("cannot fetch {0} from this host's mirror")]
    Unreached(DebianRelease, #[source] AptError),
    /// A package.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The root file system.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// The disk.
    #[error("cannot write the disk {}", .path.display())]
    Disk {
        /// The image.
        path: PathBuf,
        /// What is wrong with the disk.
        source: Ext4Error,
    },
    /// A kernel module.
    #[error("cannot read the kernel's modules")]
    Modules(#[source] std::io::Error),
    /// A file of ours.
    #[error(transparent)]
    File(#[from] FileError),
    /// The place for it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The guest that was to configure the packages did not.
    #[error("the guest that configures the packages did not finish; its last words are above")]
    Unconfigured,
}

/// A disk whose packages are to be configured by a guest. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct DebianBuild {
    release: DebianRelease,
    folder_name: String,
    /// The folder that becomes the image.
    folder: PathBuf,
    what: String,
    /// How many packages there are, for a progress bar.
    pub package_count: usize,
    store: Store,
    _work: Work,
    _lock: File,
}

/// What of Debian the image is made of.
struct Downloaded {
    sources: Vec<SourceLine>,
    packages: Vec<PathBuf>,
    kernel: PathBuf,
    busybox: PathBuf,
}

/// Whose fault it is that packages of a release did not come.
fn not_downloaded(release: DebianRelease, error: AptError) -> DebianError {
    match &error {
        AptError::NoKernel => DebianError::NoRelease(release, error),
        AptError::Failed { said, .. } if says_absent(said) => {
            DebianError::NoRelease(release, error)
        }
        AptError::Failed { .. } => DebianError::Unreached(release, error),
        _ => error.into(),
    }
}

/// Whether apt was answered, and the answer is that there is no such thing. Its words, in the language C (apt-pkg and
/// apt's methods); what else goes wrong with a mirror is that it does not answer.
fn says_absent(said: &str) -> bool {
    let absent = [
        "404",
        "403",
        "does not have a Release file",
        "no longer has a Release file",
        "Unable to locate package",
        "has no installation candidate",
        "left no package",
        "unmet dependencies",
    ];
    absent.iter().any(|words| said.contains(words))
}

impl Downloaded {
    fn get(
        release: DebianRelease,
        work: &Work,
        on_progress: OnProgress,
    ) -> Result<Downloaded, DebianError> {
        let apt = Apt::new(work.path())?;
        let sources = debian::source_lines(&apt.update_addresses()?, release);
        if sources.is_empty() {
            return Err(DebianError::NoMirror);
        }
        let has_keyring = SourceLine::has_keyring();
        apt.use_sources(
            &sources
                .iter()
                .map(|line| line.to_text(has_keyring))
                .collect::<String>(),
        )?;
        let downloaded = apt.download_system(&debian::PACKAGES, on_progress);
        let (packages, [kernel, busybox]) =
            downloaded.map_err(|error| not_downloaded(release, error))?;
        Ok(Downloaded {
            sources,
            packages,
            kernel,
            busybox,
        })
    }
}

/// The whole tree as an ext4 file system.
fn write_disk(tree: &Tree, disk: &Path) -> Result<(), DebianError> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(disk);
    let file = file.map_err(error("create", disk))?;
    let options = Ext4Options {
        len_bytes: DISK_BYTES,
        label: LABEL,
        uuid: uuid(),
        made: now(),
    };
    ext4::write(tree, &options, &file).map_err(|source| DebianError::Disk {
        path: disk.to_owned(),
        source,
    })
}

impl DebianBuild {
    /// Downloads and unpacks a release's packages in `work`; whoever calls holds the `lock`.
    pub(crate) fn begin(
        release: DebianRelease,
        store: Store,
        work: Work,
        lock: File,
        on_progress: OnProgress,
    ) -> Result<DebianBuild, DebianError> {
        let Downloaded {
            sources,
            packages,
            kernel,
            busybox,
        } = Downloaded::get(release, &work, on_progress)?;
        let folder = work.path().join("image");
        create_folder(&folder)?;
        let spool_path = work.path().join("spool");
        let mut spool = Spool::new(&spool_path).map_err(error("create", &spool_path))?;
        let count = packages.len();
        let tree = debian::assemble(&packages, &kernel, &sources, &mut spool, &mut |done| {
            on_progress(Progress::Assembling(Amount::new(
                done,
                count,
                Unit::Packages,
            )));
        })?;
        let picked = modules::pick(&tree).map_err(DebianError::Modules)?;
        disk_guest::save_modules(&picked, &folder.join("modules"))?;
        package::extract(&kernel, Wanted::Kernel, &folder.join("vmlinuz"))?;
        package::extract(&busybox, Wanted::Busybox, &folder.join("busybox"))?;
        on_progress(Progress::WritingDisk);
        write_disk(&tree, &folder.join("disk.raw"))?;
        let kernel_name = stem(&kernel);
        let what = format!(
            "Debian {} ({}), {count} packages, {kernel_name}",
            release.number, release.codename
        );
        let folder_name = format!(
            "debian-{}-{:016x}",
            release.number,
            hash(&packages, &kernel)
        );
        Ok(DebianBuild {
            release,
            folder_name,
            folder,
            what,
            package_count: count,
            store,
            _work: work,
            _lock: lock,
        })
    }

    /// The kernel of the guest that configures.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// The disk that it writes to.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk.raw")
    }

    /// Its initrd.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn initrd(&self) -> Result<PathBuf, FileError> {
        let path = self._work.path().join("initrd");
        disk_guest::write(
            &self.folder.join("busybox"),
            &self.folder.join("modules"),
            None,
            &path,
        )?;
        Ok(path)
    }

    /// The guest has done its work: the image is complete and gets its place.
    ///
    /// # Errors
    /// If it cannot be put there.
    pub fn finish(self) -> Result<Image, DebianError> {
        let disk = self.disk();
        let file = File::open(&disk).map_err(error("open", &disk))?;
        file.sync_all().map_err(error("write", &disk))?;
        let name = self.release.to_string();
        Ok(self.store.add(
            &self.folder,
            &self.folder_name,
            (&name, &self.what, ImageKind::System),
            None,
        )?)
    }
}

/// What the image is made of: versions of packages, and our recipe.
fn hash(packages: &[PathBuf], kernel: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    RECIPE.hash(&mut hasher);
    for path in packages.iter().map(PathBuf::as_path).chain([kernel]) {
        path.file_name().hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_blamed_only_for_what_it_answered() {
        let check = |said: &str, expected: &str| {
            let error = AptError::Failed {
                program: "apt-get update",
                said: said.to_owned(),
            };
            let release = DebianRelease::parse("12").unwrap();
            assert_eq!(
                not_downloaded(release, error).to_string(),
                expected,
                "{said}"
            );
        };
        let unreached = "cannot fetch debian:12 from this host's mirror";
        let absent = "the mirror has no debian:12";
        check(
            "Failed to fetch http://mirror.example/debian/dists/bookworm/InRelease  Temporary failure resolving \
             'mirror.example'",
            unreached,
        );
        check(
            "Could not connect to mirror.example:80 (192.0.2.1), connection timed out",
            unreached,
        );
        check(
            "Failed to fetch http://mirror.example/debian/dists/bookworm/InRelease  404  Not Found [IP: 192.0.2.1 80]",
            absent,
        );
        check(
            "The repository 'http://mirror.example/debian bookworm Release' does not have a Release file.",
            absent,
        );
        check("Unable to locate package systemd", absent);
    }
}
