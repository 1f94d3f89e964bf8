//! Kernels of Debian's that tests boot beside the default one: every cloud kernel that the mirrors offer.
//!
//! ```text
//! $XDG_CACHE_HOME/mother/kernels/
//!   apt/                  apt's state for the suites of all releases; asked again when a day old
//!   RELEASE/vmlinuz       one folder per kernel, complete or absent; beside it
//!   RELEASE/initrd.cpio   the default guest's initrd with this kernel's drivers
//! ```

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lzma_rust2::XzReader;

use crate::apt::{self, Apt};
use crate::cache::{Cache, CacheError, DefaultGuest};
use crate::debian::{DebianRelease, SourceLine, source_lines};
use crate::file::{create_folder, error, rename};
use crate::initrd;
use crate::package::PackageError;
use crate::progress::OnProgress;

/// Suites with cloud kernels, and whether a security mirror has them.
const SUITES: [(&str, bool); 9] = [
    ("bullseye", false),
    ("bullseye-security", true),
    ("bookworm", false),
    ("bookworm-security", true),
    ("bookworm-backports", false),
    ("trixie", false),
    ("trixie-security", true),
    ("trixie-backports", false),
    ("forky", false),
];

/// How long what the mirrors offer is believed.
const LIST_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// How the names of kernel packages begin.
const PREFIX: &str = "linux-image-";
/// Kernels for virtual machines, and kernels for everything.
const FLAVOURS: [&str; 2] = ["-cloud-amd64", "-amd64"];
/// Modules that a guest of tests loads: something that a kernel has not built in, and needs nothing else.
const MODULES: [&str; 7] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio-rng",
    "dummy",
];

impl Cache {
    /// Releases of kernels that the mirrors offer, `6.1.0-56-cloud-amd64`; the oldest first.
    ///
    /// # Errors
    /// If the host has no apt or no mirror of Debian's.
    pub fn offered_kernels(&self, on_progress: OnProgress) -> Result<Vec<String>, CacheError> {
        let (_lock, apt) = self.kernel_apt(on_progress)?;
        let mut releases: Vec<String> = apt
            .names(PREFIX)?
            .into_iter()
            .filter_map(|name| Some(name.strip_prefix(PREFIX)?.to_owned()))
            .filter(|release| release.starts_with(|first: char| first.is_ascii_digit()))
            // Not the metapackages, which name a series.
            .filter(|release| release.matches('.').count() >= 2)
            .filter(|release| FLAVOURS.iter().any(|flavour| is_flavour(release, flavour)))
            .collect();
        releases.sort_by_key(|release| version(release));
        Ok(releases)
    }

    /// The default guest with another kernel, which is downloaded if it is not here yet. The default guest must be here.
    ///
    /// # Errors
    /// If the mirrors have no such kernel, or the cache folder cannot be written.
    pub fn kernel_guest(
        &self,
        release: &str,
        on_progress: OnProgress,
    ) -> Result<DefaultGuest, CacheError> {
        let folder = self.folder().join("kernels").join(release);
        let guest = DefaultGuest {
            kernel: folder.join("vmlinuz"),
            initrd: folder.join("initrd.cpio"),
            kernel_package: format!("{PREFIX}{release}"),
        };
        if folder.is_dir() {
            return Ok(guest);
        }
        let (_lock, apt) = self.kernel_apt(on_progress)?;
        let package = format!("{PREFIX}{release}");
        let mut names = vec![package.clone()];
        // Newer releases have the kernel and its modules in packages of their own.
        for part in ["linux-binary-", "linux-modules-"] {
            names.extend(
                apt.names(&format!("{part}{release}"))?
                    .into_iter()
                    .filter(|name| name.ends_with(release)),
            );
        }
        let files = apt.download_named(&names, on_progress)?;
        let work = self
            .folder()
            .join("kernels")
            .join(format!("{release}.work"));
        if work.exists() {
            fs::remove_dir_all(&work).map_err(error("empty", &work))?;
        }
        create_folder(&work)?;
        let mut modules = Vec::new();
        for file in &files {
            take(file, &work.join("vmlinuz"), &mut modules)?;
            fs::remove_file(file).map_err(error("remove", file))?;
        }
        if !work.join("vmlinuz").is_file() {
            return Err(PackageError::Absent {
                package: package.into(),
                wanted: "kernel",
            }
            .into());
        }
        modules.sort();
        let busybox = self.folder().join("busybox");
        let busybox = fs::read(&busybox).map_err(error("read", &busybox))?;
        let path = work.join("initrd.cpio");
        fs::write(&path, initrd::build(&busybox, &modules)).map_err(error("write", &path))?;
        rename(&work, &folder)?;
        Ok(guest)
    }

    /// apt for the suites of all releases, with a list that is not old, and the lock that makes it ours.
    fn kernel_apt(&self, on_progress: OnProgress) -> Result<(File, Apt), CacheError> {
        let lock = self.lock(on_progress)?;
        let folder = self.folder().join("kernels/apt");
        create_folder(&folder)?;
        let apt = Apt::new(&folder)?;
        let release = DebianRelease::all()[0];
        let mirrors = source_lines(&apt.update_addresses()?, release);
        let mirror = |is_security: bool| {
            let suite = format!(
                "{}{}",
                release.codename,
                if is_security { "-security" } else { "" }
            );
            mirrors
                .iter()
                .find(|line| line.suite == suite)
                .map(|line| line.uri.clone())
        };
        let lines = SUITES.iter().filter_map(|(suite, is_security)| {
            Some(SourceLine {
                uri: mirror(*is_security)?,
                suite: (*suite).to_owned(),
            })
        });
        let has_keyring = SourceLine::has_keyring();
        apt.use_sources(
            &lines
                .map(|line| line.to_text(has_keyring))
                .collect::<String>(),
        )?;
        let stamp = folder.join("listed");
        let is_fresh = fs::metadata(&stamp)
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|time| {
                SystemTime::now()
                    .duration_since(time)
                    .is_ok_and(|age| age < LIST_AGE)
            });
        if !is_fresh {
            // A release that has left the mirrors is no reason to do without the others.
            let _ = apt.update(on_progress);
            fs::write(&stamp, "").map_err(error("write", &stamp))?;
        }
        Ok((lock, apt))
    }
}

/// Whether a release is of this flavour and not of a longer-named one.
fn is_flavour(release: &str, flavour: &str) -> bool {
    let rest = release.strip_suffix(flavour);
    rest.is_some_and(|rest| rest.ends_with(|last: char| last.is_ascii_digit()))
}

/// Numbers of a release in the order of their weight.
fn version(release: &str) -> Vec<u32> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

/// Takes the kernel and the modules out of a package, whichever it has.
fn take(
    package: &Path,
    kernel: &Path,
    modules: &mut Vec<(String, Vec<u8>)>,
) -> Result<(), PackageError> {
    let broken = |source| PackageError::Io {
        package: package.to_owned(),
        source,
    };
    apt::with_package_archive(package, |archive| {
        take_from_tar(archive, kernel, modules).map_err(broken)
    })
}

fn take_from_tar(
    archive: &mut dyn Read,
    kernel: &Path,
    modules: &mut Vec<(String, Vec<u8>)>,
) -> io::Result<()> {
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = PathBuf::from(String::from_utf8_lossy(&entry.path_bytes()).into_owned());
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if name == "vmlinuz" || name.starts_with("vmlinuz-") {
            io::copy(&mut entry, &mut File::create(kernel)?)?;
        } else if let Some((module, packed)) = name.split_once(".ko")
            && MODULES.contains(&module)
        {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            if packed == ".xz" {
                let mut plain = Vec::new();
                XzReader::new(bytes.as_slice(), false).read_to_end(&mut plain)?;
                bytes = plain;
            }
            modules.push((format!("{module}.ko"), bytes));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_in_the_order_of_their_versions() {
        let mut releases = [
            "6.12.117+deb12-cloud-amd64",
            "6.1.0-56-cloud-amd64",
            "6.12.43+deb12-cloud-amd64",
        ];
        releases.sort_by_key(|release| version(release));
        assert_eq!(releases[0], "6.1.0-56-cloud-amd64");
        assert_eq!(releases[1], "6.12.43+deb12-cloud-amd64");
    }

    #[test]
    fn flavours_are_told_apart() {
        let check = |release, flavour, expected| {
            assert_eq!(is_flavour(release, flavour), expected, "{release}")
        };
        check("6.1.0-56-cloud-amd64", "-cloud-amd64", true);
        check("6.1.0-56-cloud-amd64", "-amd64", false);
        check("6.1.0-56-amd64", "-amd64", true);
        check("6.1.0-56-rt-amd64", "-amd64", false);
    }
}
