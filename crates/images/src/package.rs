//! Debian packages: the few files we want out of each.
//!
//! The archive's own paths are only compared, never used to write, so a strange package can at worst lack the file.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::apt::{self, AptError};
use crate::modules;

/// Which file of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// `boot/vmlinuz-*`.
    Kernel,
    /// `bin/busybox` or `usr/bin/busybox`.
    Busybox,
    /// `usr/bin/passt`.
    Passt,
    /// `usr/bin/passt.avx2`, which the other one starts where the CPU has AVX2.
    PasstAvx2,
    /// The dynamic loader of the C library.
    Loader,
    /// The C library.
    Library,
}

impl Wanted {
    fn name(self) -> &'static str {
        match self {
            Wanted::Kernel => "kernel",
            Wanted::Busybox => "busybox",
            Wanted::Passt => "passt",
            Wanted::PasstAvx2 => "passt.avx2",
            Wanted::Loader => "loader",
            Wanted::Library => "C library",
        }
    }
}

/// The kernel's modules that drive our devices, and what these need. Those that a kernel has built in are not missed.
/// `button` and `evdev` let a guest's programs hear the power button.
pub(crate) const DRIVERS: [&str; 22] = [
    "button",
    "evdev",
    "failover",
    "fuse",
    "net_failover",
    "pps_core",
    "ptp",
    "ptp_vmclock",
    "virtio",
    "virtio-rng",
    "virtio_balloon",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "virtio_pci",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_ring",
    "virtiofs",
    "vmw_vsock_virtio_transport",
    "vmw_vsock_virtio_transport_common",
    "vsock",
];

/// Why a file did not come out of a package.
#[derive(Debug, Error)]
pub enum PackageError {
    /// The package cannot be opened.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// The archive or the copy broke.
    #[error("cannot unpack {}", .package.display())]
    Io {
        /// The package.
        package: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The file is not in there.
    #[error("{} has no {wanted} in it", .package.display())]
    Absent {
        /// The package.
        package: PathBuf,
        /// What was looked for.
        wanted: &'static str,
    },
}

/// Copies the wanted file of `package` to `to`.
pub(crate) fn extract(package: &Path, wanted: Wanted, to: &Path) -> Result<(), PackageError> {
    let found = apt::with_package_archive(package, |archive| {
        extract_from_tar(archive, wanted, to).map_err(|source| PackageError::Io {
            package: package.to_owned(),
            source,
        })
    })?;
    if found {
        Ok(())
    } else {
        Err(PackageError::Absent {
            package: package.to_owned(),
            wanted: wanted.name(),
        })
    }
}

/// Copies the drivers in a kernel's package into the folder `to`, which is there.
pub(crate) fn extract_drivers(package: &Path, to: &Path) -> Result<(), PackageError> {
    extract_modules(package, &DRIVERS, to)
}

/// Copies the modules of these names in a kernel's package into the folder `to`, which is there.
pub fn extract_modules(
    package: &Path,
    names: &[&'static str],
    to: &Path,
) -> Result<(), PackageError> {
    apt::with_package_archive(package, |archive| {
        modules_from_tar(archive, names, to).map_err(|source| PackageError::Io {
            package: package.to_owned(),
            source,
        })
    })
}

fn modules_from_tar(archive: &mut dyn Read, names: &[&'static str], to: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if let Some(driver) = module(&path, names).filter(|_| entry.header().entry_type().is_file())
        {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            let mut file = File::create(to.join(format!("{driver}.ko")))?;
            file.write_all(&modules::plain(bytes, &path)?)?;
            file.sync_all()?;
        }
    }
    Ok(())
}

/// Which of these modules lies at a path of the archive.
fn module(path: &str, names: &[&'static str]) -> Option<&'static str> {
    let path = path.trim_start_matches("./").trim_start_matches("usr/");
    let (_, file) = path.strip_prefix("lib/modules/")?.rsplit_once('/')?;
    let name = modules::module_name(file)?;
    names.iter().copied().find(|wanted| *wanted == name)
}

fn extract_from_tar(archive: &mut dyn Read, wanted: Wanted, to: &Path) -> io::Result<bool> {
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let is_file = entry.header().entry_type().is_file();
        if is_file && is_wanted(&String::from_utf8_lossy(&entry.path_bytes()), wanted) {
            let mut file = File::create(to)?;
            io::copy(&mut entry, &mut file)?;
            file.sync_all()?;
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_wanted(path: &str, wanted: Wanted) -> bool {
    let path = path.trim_start_matches("./");
    match wanted {
        Wanted::Kernel => path
            .strip_prefix("boot/vmlinuz-")
            .is_some_and(|rest| !rest.contains('/')),
        Wanted::Busybox => path == "bin/busybox" || path == "usr/bin/busybox",
        Wanted::Passt => path == "usr/bin/passt",
        Wanted::PasstAvx2 => path == "usr/bin/passt.avx2",
        Wanted::Loader => path == "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
        Wanted::Library => path == "usr/lib/x86_64-linux-gnu/libc.so.6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(paths: &[&str], wanted: Wanted, expected: Option<&str>) {
        let mut builder = tar::Builder::new(Vec::new());
        for path in paths {
            let mut header = tar::Header::new_gnu();
            header.set_size(path.len() as u64);
            builder
                .append_data(&mut header, path, path.as_bytes())
                .unwrap();
        }
        let archive = builder.into_inner().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("file");
        let found = extract_from_tar(&mut archive.as_slice(), wanted, &to).unwrap();
        assert_eq!(found, expected.is_some());
        assert_eq!(std::fs::read_to_string(to).ok().as_deref(), expected);
    }

    #[test]
    fn the_kernel_is_found_by_its_folder() {
        let kernel = "./boot/vmlinuz-6.1.0-56-cloud-amd64";
        check(
            &["./boot/config-6.1.0", kernel],
            Wanted::Kernel,
            Some("./boot/vmlinuz-6.1.0-56-cloud-amd64"),
        );
        check(&["./usr/share/boot/vmlinuz-6.1.0"], Wanted::Kernel, None);
    }

    #[test]
    fn busybox_is_found_where_old_and_new_releases_have_it() {
        check(&["./bin/busybox"], Wanted::Busybox, Some("./bin/busybox"));
        check(
            &["./usr/bin/busybox"],
            Wanted::Busybox,
            Some("./usr/bin/busybox"),
        );
        check(&["./usr/share/doc/busybox"], Wanted::Busybox, None);
    }

    #[test]
    fn a_broken_archive_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut rubbish: &[u8] = &[7; 2048];
        assert!(
            extract_from_tar(&mut rubbish, Wanted::Kernel, &folder.path().join("file")).is_err()
        );
    }

    #[test]
    fn drivers_are_found_among_the_modules_only() {
        let check = |path: &str, expected| assert_eq!(module(path, &DRIVERS), expected, "{path}");
        let folder = "lib/modules/6.1.0-56-cloud-amd64/kernel/drivers";
        check(
            &format!("./{folder}/block/virtio_blk.ko"),
            Some("virtio_blk"),
        );
        check(
            &format!("./usr/{folder}/block/virtio_blk.ko"),
            Some("virtio_blk"),
        );
        check(&format!("./{folder}/block/nbd.ko"), None);
        check(
            &format!("./{folder}/block/virtio_blk.ko.xz"),
            Some("virtio_blk"),
        );
        check(
            &format!("./{folder}/block/virtio_blk.ko.zst"),
            Some("virtio_blk"),
        );
        check(&format!("./{folder}/block/virtio_blk.ko.sig"), None);
        check("./usr/share/virtio_blk.ko", None);
    }
}
