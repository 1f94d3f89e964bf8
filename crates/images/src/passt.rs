//! passt, the program behind a guest's network: the host's, or Debian's in the cache.
//!
//! Debian 12's passt never hands on that a server has closed a connection when the guest had closed its direction first
//! (`nc HOST PORT </dev/null` waits for ever); Debian 13's does. It is made for a newer C library than Debian 12 has, so
//! that one comes along, and its own loader starts it. So the host's own is taken if it is new enough, and says so, or if no
//! newer one can be had.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::apt::{self, Apt};
use crate::cache::{Cache, CacheError};
use crate::debian::{self, DebianRelease, SourceLine};
use crate::file::{create_folder, error, stem};
use crate::package::{self, Wanted};
use crate::progress::{OnProgress, Progress};
use crate::work::Work;

/// Package and program have one name.
const PASST: &str = "passt";

/// The first day of which a version is known that hands on every end of a connection.
const MENDED: u32 = 20_250_503;

/// The release that has it.
const MENDED_RELEASE: &str = "13";

/// A file that says when a newer one could not be had.
const TRIED: &str = "passt.tried";

/// How long that is believed.
const TRIED_TIME: Duration = Duration::from_secs(24 * 3600);

/// Starts the newer program. Its loader is named, for the host's is older.
const STARTER: &str = "#!/bin/sh
# passt of a newer release, with the C library that it is made for.
here=$(dirname \"$(readlink -f \"$0\")\")
program=passt.plain
[ ! -x \"$here/passt.avx2\" ] || ! grep -qw avx2 /proc/cpuinfo || program=passt.avx2
exec \"$here/ld-linux-x86-64.so.2\" --argv0 passt --library-path \"$here\" \"$here/$program\" \"$@\"
";

impl Cache {
    /// Where passt is, if nothing has to be downloaded: on the PATH or in the cache, the PATH first, an old one last.
    pub fn installed_passt(&self) -> Option<PathBuf> {
        let on_path = apt::on_path(PASST);
        match on_path.as_deref().is_some_and(is_mended) {
            true => on_path,
            false => self.mended_in_cache().or(on_path).or(self.in_cache()),
        }
    }

    fn in_cache(&self) -> Option<PathBuf> {
        let cached = self.folder().join(PASST);
        cached.is_file().then_some(cached)
    }

    fn mended_in_cache(&self) -> Option<PathBuf> {
        let cached = self.in_cache()?;
        let target = fs::read_link(&cached).unwrap_or_default();
        let is_old = date(&target.to_string_lossy()).is_some_and(|date| date < MENDED);
        (!is_old).then_some(cached)
    }

    /// passt; its package is downloaded if it is neither on the PATH nor in the cache, or only an old one is and the
    /// host's mirrors have a newer one.
    ///
    /// # Errors
    /// If the host has no apt, apt finds no such package, or the cache folder cannot be written.
    pub fn passt(&self, on_progress: OnProgress) -> Result<PathBuf, CacheError> {
        if let Some(passt) = self.good_passt() {
            return Ok(passt);
        }
        let lock = self.lock(on_progress);
        let old = self.installed_passt();
        let _lock = match (lock, &old) {
            (Ok(lock), _) => lock,
            // A cache that cannot be written keeps what it has.
            (Err(_), Some(old)) => return Ok(old.clone()),
            (Err(error), None) => return Err(error.into()),
        };
        if let Some(passt) = self.good_passt() {
            return Ok(passt);
        }
        // Where a newer one cannot be had, the host's own does nearly everything.
        if let Ok(Some(passt)) = self.newer_passt(on_progress) {
            return Ok(passt);
        }
        if let Some(old) = old {
            let tried = self.folder().join(TRIED);
            fs::write(&tried, "").map_err(error("write", &tried))?;
            return Ok(old);
        }
        let work = Work::new(self.folder().join("work"))?;
        let package = Apt::new(work.path())?.download_package(PASST, on_progress)?;
        on_progress(Progress::Unpacking);
        self.keep_passt(&work, &package)
    }

    /// One that is there, and the best that can be had as far as that is known.
    fn good_passt(&self) -> Option<PathBuf> {
        let installed = self.installed_passt()?;
        let is_good = Some(&installed) == self.mended_in_cache().as_ref()
            || Some(&installed) != self.in_cache().as_ref() && is_mended(&installed);
        let tried = fs::metadata(self.folder().join(TRIED)).and_then(|found| found.modified());
        let is_tried = tried.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < TRIED_TIME));
        (is_good || is_tried).then_some(installed)
    }

    /// A newer release's, where the host has Debian's mirrors and is older itself.
    fn newer_passt(&self, on_progress: OnProgress) -> Result<Option<PathBuf>, CacheError> {
        let Some(release) = DebianRelease::parse(MENDED_RELEASE) else {
            return Ok(None);
        };
        let work = Work::new(self.folder().join("work"))?;
        let apt = Apt::new(work.path())?;
        let sources = debian::source_lines(&apt.update_addresses()?, release);
        if sources.is_empty() || DebianRelease::of_host() == release {
            return Ok(None);
        }
        let has_keyring = SourceLine::has_keyring();
        let lines = sources.iter().map(|line| line.to_text(has_keyring));
        apt.use_sources(&lines.collect::<String>())?;
        let packages = apt.download_with_needs(&[PASST], on_progress)?;
        on_progress(Progress::Unpacking);
        self.keep_newer_passt(&work, &packages)
    }

    fn keep_newer_passt(
        &self,
        work: &Work,
        packages: &[PathBuf],
    ) -> Result<Option<PathBuf>, CacheError> {
        let named = |start: &str| {
            let name = |path: &Path| {
                path.file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned()
            };
            packages.iter().find(|path| name(path).starts_with(start))
        };
        let Some((passt, library)) = named("passt_").zip(named("libc6_")) else {
            return Ok(None);
        };
        let title = stem(passt);
        let made = work.path().join(&title);
        create_folder(&made)?;
        take(passt, Wanted::Passt, &made.join("passt.plain"))?;
        take_if_there(passt, Wanted::PasstAvx2, &made.join("passt.avx2"))?;
        take(library, Wanted::Loader, &made.join("ld-linux-x86-64.so.2"))?;
        take(library, Wanted::Library, &made.join("libc.so.6"))?;
        let starter = made.join(PASST);
        fs::write(&starter, STARTER).map_err(error("write", &starter))?;
        fs::set_permissions(&starter, Permissions::from_mode(0o755))
            .map_err(error("make executable", &starter))?;
        let target = Path::new(&title).join(PASST);
        Ok(Some(self.publish(work, &title, (PASST, &target))?))
    }

    /// Takes both programs out of the package; the one to start.
    fn keep_passt(&self, work: &Work, package: &Path) -> Result<PathBuf, CacheError> {
        let title = stem(package);
        let made = work.path().join(&title);
        create_folder(&made)?;
        take(package, Wanted::Passt, &made.join(PASST))?;
        take_if_there(package, Wanted::PasstAvx2, &made.join("passt.avx2"))?;
        Ok(self.publish(work, &title, (PASST, &Path::new(&title).join(PASST)))?)
    }
}

/// Whether this program says that it is of a day since which every end of a connection is handed on. Debian 12's does not know what
/// it is.
fn is_mended(program: &Path) -> bool {
    let said = Command::new(program).arg("--version").output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    said.is_ok_and(|said| day_said(&said).is_some_and(|day| day >= MENDED))
}

/// The day in what passt says of itself: `passt 2025_05_03.587980c` (its own releases) or `passt 0.0~git20250503.587980c-2` (Debian).
fn day_said(said: &str) -> Option<u32> {
    let version = said.lines().next()?.split_whitespace().nth(1)?;
    let own = version.get(..10).map(|day| day.replace('_', ""));
    let own = own
        .filter(|day| day.len() == 8)
        .and_then(|day| day.parse().ok());
    own.or_else(|| date(version))
}

/// The day of a version such as `0.0~git20230309.7c7625d-1`, as a number.
fn date(version: &str) -> Option<u32> {
    let (_, rest) = version.split_once("git")?;
    rest.get(..8)?.parse().ok()
}

/// One program out of a package, to be run.
fn take(package: &Path, wanted: Wanted, to: &Path) -> Result<(), CacheError> {
    package::extract(package, wanted, to)?;
    Ok(fs::set_permissions(to, Permissions::from_mode(0o755))
        .map_err(error("make executable", to))?)
}

/// Packages of other architectures and newer versions have one program for all CPUs.
fn take_if_there(package: &Path, wanted: Wanted, to: &Path) -> Result<(), CacheError> {
    match take(package, wanted, to) {
        Err(CacheError::Package(package::PackageError::Absent { .. })) | Ok(()) => Ok(()),
        Err(other) => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_knows_its_day() {
        let check = |text: &str, expected: Option<u32>| assert_eq!(date(text), expected, "{text}");
        check(
            "packages/passt_0.0~git20230309.7c7625d-1_amd64/passt",
            Some(20_230_309),
        );
        check(
            "passt_0.0~git20250503.587980c-2+deb13u1_amd64",
            Some(20_250_503),
        );
        check("passt_1.0-1_amd64", None);
        check("passt_0.0~git2023", None);
    }

    #[test]
    fn what_passt_says_of_itself_has_a_day() {
        let check = |text: &str, expected: Option<u32>| {
            assert_eq!(day_said(text), expected, "{text}");
        };
        check(
            "passt 2025_05_03.587980c\nCopyright Red Hat\n",
            Some(20_250_503),
        );
        check(
            "passt 0.0~git20250503.587980c-2+deb13u1\n",
            Some(20_250_503),
        );
        check("passt unknown version\nCopyright Red Hat\n", None);
        check("passt 2025_05\n", None);
        check("", None);
    }

    #[test]
    fn the_starter_is_a_script_that_a_shell_understands() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(PASST);
        fs::write(&path, STARTER).unwrap();
        let sh = std::process::Command::new("sh")
            .arg("-n")
            .arg(&path)
            .status();
        assert!(sh.unwrap().success());
        // It starts what lies beside it, by way of the loader beside it, from wherever it is linked.
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        };
        write(PASST, STARTER);
        write("ld-linux-x86-64.so.2", "#!/bin/sh\necho \"$@\"\n");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(PASST, &link).unwrap();
        let output = std::process::Command::new(&link)
            .arg("--quiet")
            .output()
            .unwrap();
        let here = folder.path().canonicalize().unwrap();
        let here = here.display();
        let expected = format!("--argv0 passt --library-path {here} {here}/passt.plain --quiet\n");
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    }
}
