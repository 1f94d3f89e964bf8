//! The cache folder: what is in it, and how it gets there.
//!
//! ```text
//! $XDG_CACHE_HOME/mother/
//!   lock                                 held while anything is made
//!   work/                                where it is made; emptied whenever the lock is taken
//!   packages/NAME_VERSION_ARCH/vmlinuz   one folder per package version, complete or absent; beside it
//!                                        modules/ with the drivers of our devices, and the file
//!                                        modules.wanted with the names that were looked for
//!   kernel, busybox, passt               links to the files in use
//!   initrd/guest-HASH.cpio               made of busybox, drivers and our scripts, named after its content
//! ```

use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FlockOperation;
use thiserror::Error;

use crate::app::{AppError, AppRequest, ReadElf};
use crate::apt::{Apt, AptError};
use crate::container::{self, ContainerError, Input, ReadContainer};
use crate::debian::DebianRelease;
use crate::debian_image::{DebianBuild, DebianError};
use crate::file::{FileError, create_folder, error, rename, stem};
use crate::guest_config::GuestCommand;
use crate::package::{self, PackageError, Wanted};
use crate::progress::{OnProgress, Progress};
use crate::runs::{self, RunFolder};
use crate::store::{Image, Store};
use crate::work::Work;
use crate::{app_guest, archive, disk_guest, initrd};

/// The folder of drivers beside a kernel.
const DRIVERS: &str = "modules";
/// Beside it: which drivers were looked for. A cache of a Mother that wanted fewer is a cold one.
const DRIVERS_WANTED: &str = "modules.wanted";

/// Why there is no default guest.
#[derive(Debug, Error)]
pub enum CacheError {
    /// Neither of the two variables that could tell where the cache is.
    #[error("there is no cache folder: neither XDG_CACHE_HOME nor HOME is set")]
    NoFolder,
    /// The host refused something about a file of the cache.
    #[error(transparent)]
    File(#[from] FileError),
    /// The packages did not come.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// A package came and is not what we need.
    #[error(transparent)]
    Package(#[from] PackageError),
}

/// A build, or what somebody else has built.
#[derive(Debug)]
pub enum Begun {
    /// There is one.
    Found(Image),
    /// It is to be configured.
    Build(DebianBuild),
}

/// Why a program of the host did not become an initrd.
#[derive(Debug, Error)]
pub enum AppImageError {
    /// The cache.
    #[error(transparent)]
    File(#[from] FileError),
    /// The program.
    #[error(transparent)]
    App(#[from] AppError),
}

/// The default guest's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultGuest {
    /// A bzImage.
    pub kernel: PathBuf,
    /// An initrd whose `/init` gives a shell and whose `/demo` introduces the guest.
    pub initrd: PathBuf,
    /// Package, version and architecture of the kernel.
    pub kernel_package: String,
}

/// The cache folder.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The user's cache, as the XDG base directory specification says: a relative path counts as not set.
    ///
    /// # Errors
    /// If the environment says neither the cache folder nor the home folder.
    pub fn of_user() -> Result<Cache, CacheError> {
        let absolute = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let base =
            absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
        base.map(|base| Cache {
            folder: base.join("mother"),
        })
        .ok_or(CacheError::NoFolder)
    }

    /// The cache in this folder.
    pub fn in_folder(folder: PathBuf) -> Cache {
        Cache { folder }
    }

    /// Whether `file` was made for one run of a VM, and goes with it.
    pub fn is_of_a_run(&self, file: &Path) -> bool {
        let is_in = |runs: &Path| file.starts_with(runs);
        is_in(&self.folder.join("runs")) || runs::elsewhere().is_ok_and(|runs| is_in(&runs))
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The kernel package in use, if the cache is warm.
    pub fn kernel_package(&self) -> Option<String> {
        if !self.folder.join("busybox").is_file() || !self.folder.join("kernel").is_file() {
            return None;
        }
        let target = fs::read_link(self.folder.join("kernel")).ok()?;
        let kernel = self.folder.join(&target);
        let wanted = fs::read_to_string(kernel.with_file_name(DRIVERS_WANTED)).ok()?;
        if wanted != package::DRIVERS.join("\n") || !kernel.with_file_name(DRIVERS).is_dir() {
            return None;
        }
        Some(target.parent()?.file_name()?.to_str()?.to_owned())
    }

    /// The default guest; its packages are downloaded if they are not here yet.
    ///
    /// # Errors
    /// If the host has no apt, apt finds no mirror, or the cache folder cannot be written.
    pub fn default_guest(&self, on_progress: OnProgress) -> Result<DefaultGuest, CacheError> {
        let package = match self.kernel_package() {
            Some(package) => package,
            None => self.fill(on_progress)?,
        };
        let initrd = self.initrd()?;
        Ok(DefaultGuest {
            kernel: self.folder.join("kernel"),
            initrd,
            kernel_package: package,
        })
    }

    /// Images and kept overlays.
    pub fn store(&self) -> Store {
        let absolute = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let data = absolute("XDG_DATA_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
            .map_or_else(|| self.folder.join("data"), |data| data.join("mother"));
        let at = |name: &str| self.folder.join(name);
        Store {
            images: at("images"),
            kept: data.join("kept"),
            runs: at("runs"),
        }
    }

    /// Begins to make an image of a release, or finds it made by another process in the meantime.
    ///
    /// # Errors
    /// If packages cannot be had, unpacked or written.
    pub fn begin_debian(
        &self,
        release: DebianRelease,
        on_progress: OnProgress,
    ) -> Result<Begun, DebianError> {
        let lock = self.lock(on_progress)?;
        if let Some(image) = self.store().find_system(&release.to_string())? {
            return Ok(Begun::Found(image));
        }
        let work = Work::new(self.folder.join("work"))?;
        DebianBuild::begin(release, self.store(), work, lock, on_progress).map(Begun::Build)
    }

    /// The initrd of a guest that starts from an image, written into `run`; `command` is what it runs in place of a login.
    ///
    /// # Errors
    /// If the image is damaged or `run` cannot be written.
    pub fn system_initrd(
        &self,
        image: &Image,
        command: Option<&GuestCommand>,
        run: &RunFolder,
    ) -> Result<PathBuf, FileError> {
        let path = run.path().join("initrd");
        let folder = image.folder();
        disk_guest::write(
            &folder.join("busybox"),
            &folder.join("modules"),
            command,
            &path,
        )?;
        Ok(path)
    }

    /// The initrd of a guest with the default kernel and a disk, written into `run`; `command` is what a container
    /// image runs. The default guest must be here already.
    ///
    /// # Errors
    /// If the cache or `run` cannot be read or written.
    pub fn disk_initrd(
        &self,
        command: Option<&GuestCommand>,
        run: &RunFolder,
    ) -> Result<PathBuf, CacheError> {
        let link = self.folder.join("kernel");
        let kernel = self
            .folder
            .join(fs::read_link(&link).map_err(error("read", &link))?);
        let path = run.path().join("initrd");
        disk_guest::write(
            &self.folder.join("busybox"),
            &kernel.with_file_name(DRIVERS),
            command,
            &path,
        )?;
        Ok(path)
    }

    /// The default guest's initrd with a program that `rdinit=/program` starts, written into `run`.
    ///
    /// # Errors
    /// If the cache or `run` cannot be read or written.
    pub fn program_initrd(
        &self,
        guest: &DefaultGuest,
        command: &GuestCommand,
        run: &RunFolder,
    ) -> Result<PathBuf, CacheError> {
        let mut bytes = fs::read(&guest.initrd).map_err(error("read", &guest.initrd))?;
        // An archive begins at a multiple of four bytes (kernel documentation, early-userspace/buffer-format).
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(initrd::command(command));
        let path = run.path().join("initrd");
        fs::write(&path, bytes).map_err(error("write", &path))?;
        Ok(path)
    }

    /// The image made of a container image: a layout folder or an archive, `wanted` if it holds several, which `reader`
    /// reads. Made once for each content.
    ///
    /// # Errors
    /// If it is no container image, is damaged, or cannot be written.
    pub fn container(
        &self,
        path: &Path,
        wanted: Option<&str>,
        reader: &dyn ReadContainer,
        on_progress: OnProgress,
    ) -> Result<Image, ContainerError> {
        self.container_of(container::input(path, wanted)?, reader, on_progress)
    }

    /// The same of parts that lie elsewhere.
    ///
    /// # Errors
    /// As [`Cache::container`].
    pub fn container_of(
        &self,
        input: Input,
        reader: &dyn ReadContainer,
        on_progress: OnProgress,
    ) -> Result<Image, ContainerError> {
        let opened = reader.open(input)?;
        let folder = container::folder_name(&*opened)?;
        if let Some(image) = self.store().find_folder(&folder)? {
            return Ok(image);
        }
        let _lock = self.lock(on_progress)?;
        let work = Work::new(self.folder.join("work"))?;
        container::make(opened, &self.store(), work.path(), on_progress)
    }

    /// A folder for one run, gone when the run has ended. A cache that was filled once and is only read now serves runs
    /// too: they have their folders elsewhere.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn run_folder(&self) -> Result<RunFolder, CacheError> {
        match RunFolder::new(&self.folder.join("runs")) {
            Err(error) if error.is_unwritable() => Ok(RunFolder::new(&runs::elsewhere()?)?),
            made => Ok(made?),
        }
    }

    /// An initrd in `run` whose `/init` starts one program of the host, and how long it is; `reader` looks into the program and
    /// its libraries. The default guest must be here already.
    ///
    /// # Errors
    /// If the program or what it needs cannot be read, or the initrd cannot be written.
    pub fn app_initrd(
        &self,
        request: &AppRequest,
        reader: &dyn ReadElf,
        run: &RunFolder,
    ) -> Result<(PathBuf, u64), AppImageError> {
        let busybox = self.folder.join("busybox");
        let busybox = fs::read(&busybox).map_err(error("read", &busybox))?;
        let tree = app_guest::tree(request, reader, busybox, self.drivers()?)?;
        let path = run.path().join("initrd");
        let file = File::create_new(&path).map_err(error("create", &path))?;
        let mut writer = io::BufWriter::with_capacity(1 << 20, file);
        let written =
            archive::write(&tree, &mut writer).and_then(|()| io::Write::flush(&mut writer));
        written.map_err(error("write", &path))?;
        let len = fs::metadata(&path).map_err(error("read", &path))?.len();
        Ok((path, len))
    }

    /// Downloads what is missing; the kernel package.
    fn fill(&self, on_progress: OnProgress) -> Result<String, CacheError> {
        let _lock = self.lock(on_progress)?;
        if let Some(package) = self.kernel_package() {
            return Ok(package);
        }
        let work = Work::new(self.folder.join("work"))?;
        let [kernel, busybox] = Apt::new(work.path())?.download(on_progress)?;
        on_progress(Progress::Unpacking);
        let package = self.keep(&work, &kernel, Wanted::Kernel, ("vmlinuz", "kernel"))?;
        self.keep(&work, &busybox, Wanted::Busybox, ("busybox", "busybox"))?;
        Ok(package)
    }

    /// Takes `wanted` out of `package` as `name` and lets `link` point to it; the package's name and version.
    fn keep(
        &self,
        work: &Work,
        package: &Path,
        wanted: Wanted,
        (name, link): (&str, &str),
    ) -> Result<String, CacheError> {
        let title = stem(package);
        let made = work.path().join(&title);
        create_folder(&made)?;
        package::extract(package, wanted, &made.join(name))?;
        if wanted == Wanted::Kernel {
            create_folder(&made.join(DRIVERS))?;
            package::extract_drivers(package, &made.join(DRIVERS))?;
            let wanted = made.join(DRIVERS_WANTED);
            fs::write(&wanted, package::DRIVERS.join("\n")).map_err(error("write", &wanted))?;
        }
        self.publish(work, &title, (link, &Path::new(&title).join(name)))?;
        Ok(title)
    }

    /// Gives the folder `title` that was made in `work` its place among the packages, and lets `link` point to `target`
    /// in there. The link changes at once, so nobody sees half a thing. Where the link is.
    pub fn publish(
        &self,
        work: &Work,
        title: &str,
        (link, target): (&str, &Path),
    ) -> Result<PathBuf, FileError> {
        let packages = self.folder.join("packages");
        create_folder(&packages)?;
        let kept = packages.join(title);
        if kept.exists() {
            fs::remove_dir_all(&kept).map_err(error("remove", &kept))?;
        }
        rename(&work.path().join(title), &kept)?;
        let new_link = work.path().join(format!("{link}.link"));
        symlink(Path::new("packages").join(target), &new_link)
            .map_err(error("create", &new_link))?;
        let link = self.folder.join(link);
        rename(&new_link, &link)?;
        Ok(link)
    }

    /// The drivers that lie beside the kernel: file names and bytes.
    fn drivers(&self) -> Result<Vec<(String, Vec<u8>)>, FileError> {
        let link = self.folder.join("kernel");
        let kernel = self
            .folder
            .join(fs::read_link(&link).map_err(error("read", &link))?);
        let folder = kernel.with_file_name(DRIVERS);
        let mut drivers = Vec::new();
        for entry in fs::read_dir(&folder).map_err(error("read", &folder))? {
            let entry = entry.map_err(error("read", &folder))?;
            let bytes = fs::read(entry.path()).map_err(error("read", &entry.path()))?;
            drivers.push((entry.file_name().to_string_lossy().into_owned(), bytes));
        }
        drivers.sort();
        Ok(drivers)
    }

    /// The initrd, made anew when busybox, the drivers or our scripts have changed.
    fn initrd(&self) -> Result<PathBuf, CacheError> {
        let busybox = self.folder.join("busybox");
        let busybox = fs::read(&busybox).map_err(error("read", &busybox))?;
        let archive = initrd::build(&busybox, &self.drivers()?);
        let folder = self.folder.join("initrd");
        let path = folder.join(format!("guest-{:016x}.cpio", hash(&archive)));
        let is_whole =
            fs::metadata(&path).is_ok_and(|metadata| metadata.len() == archive.len() as u64);
        if !is_whole {
            create_folder(&folder)?;
            // Two threads of one process may make it at the same time, as two processes may.
            static TURN: AtomicU64 = AtomicU64::new(0);
            let turn = TURN.fetch_add(1, Ordering::Relaxed);
            let new = folder.join(format!("new-{}-{turn}", std::process::id()));
            fs::write(&new, &archive).map_err(error("write", &new))?;
            rename(&new, &path)?;
        }
        Ok(path)
    }

    /// Waits until no other process makes anything. The lock ends with the file.
    pub fn lock(&self, on_progress: OnProgress) -> Result<File, FileError> {
        create_folder(&self.folder)?;
        let path = self.folder.join("lock");
        let open = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let file = open.map_err(error("open", &path))?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            on_progress(Progress::Waiting);
            rustix::fs::flock(&file, FlockOperation::LockExclusive)
                .map_err(|errno| error("lock", &path)(errno.into()))?;
        }
        Ok(file)
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn cache_in(folder: &Path) -> Cache {
        Cache::in_folder(folder.to_owned())
    }

    /// What a finished download leaves.
    fn warm(folder: &Path) {
        for (title, file, link) in [
            ("linux-image-6_1_amd64", "vmlinuz", "kernel"),
            ("busybox_1", "busybox", "busybox"),
        ] {
            fs::create_dir_all(folder.join("packages").join(title).join("modules")).unwrap();
            fs::write(folder.join("packages").join(title).join(file), file).unwrap();
            fs::write(
                folder.join("packages").join(title).join(DRIVERS_WANTED),
                package::DRIVERS.join("\n"),
            )
            .unwrap();
            symlink(
                Path::new("packages").join(title).join(file),
                folder.join(link),
            )
            .unwrap();
        }
    }

    fn warm_again(folder: &Path) {
        fs::remove_dir_all(folder).unwrap();
        warm(folder);
    }

    #[test]
    fn a_warm_cache_needs_no_apt() {
        let folder = tempfile::tempdir().unwrap();
        warm(folder.path());
        let mut seen = Vec::new();
        let guest = cache_in(folder.path())
            .default_guest(&mut |progress| seen.push(progress))
            .unwrap();
        assert_eq!(guest.kernel_package, "linux-image-6_1_amd64");
        assert_eq!(fs::read_to_string(guest.kernel).unwrap(), "vmlinuz");
        assert!(guest.initrd.is_file());
        assert_eq!(seen, []);
    }

    #[test]
    fn the_same_initrd_is_made_once_and_a_cut_one_again() {
        let folder = tempfile::tempdir().unwrap();
        warm(folder.path());
        let cache = cache_in(folder.path());
        let path = cache.initrd().unwrap();
        let whole = fs::read(&path).unwrap();
        fs::write(&path, "cut").unwrap();
        assert_eq!(cache.initrd().unwrap(), path);
        assert_eq!(fs::read(&path).unwrap(), whole);
        assert_eq!(
            fs::read_dir(folder.path().join("initrd")).unwrap().count(),
            1
        );
    }

    #[test]
    fn guests_that_start_together_make_one_initrd() {
        let folder = tempfile::tempdir().unwrap();
        warm(folder.path());
        for _ in 0..20 {
            thread::scope(|scope| {
                let make = || cache_in(folder.path()).initrd().unwrap();
                let made: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
                made.into_iter().for_each(|made| drop(made.join().unwrap()));
            });
            let made = fs::read_dir(folder.path().join("initrd")).unwrap();
            assert_eq!(made.count(), 1);
            fs::remove_dir_all(folder.path().join("initrd")).unwrap();
        }
    }

    #[test]
    fn half_a_download_is_a_cold_cache() {
        let folder = tempfile::tempdir().unwrap();
        warm(folder.path());
        fs::remove_file(folder.path().join("busybox")).unwrap();
        assert_eq!(cache_in(folder.path()).kernel_package(), None);
        warm_again(folder.path());
        assert!(cache_in(folder.path()).kernel_package().is_some());
        let wanted = folder
            .path()
            .join("packages/linux-image-6_1_amd64")
            .join(DRIVERS_WANTED);
        fs::write(&wanted, "virtio").unwrap();
        assert_eq!(
            cache_in(folder.path()).kernel_package(),
            None,
            "a cache of a Mother that wanted less"
        );
        fs::write(&wanted, package::DRIVERS.join("\n")).unwrap();
        fs::remove_dir(folder.path().join("packages/linux-image-6_1_amd64/modules")).unwrap();
        assert_eq!(
            cache_in(folder.path()).kernel_package(),
            None,
            "a cache from before there were drivers"
        );
        fs::remove_dir_all(folder.path().join("packages")).unwrap();
        assert_eq!(cache_in(folder.path()).kernel_package(), None);
    }
}
