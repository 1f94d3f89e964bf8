//! Packages into a tree: as dpkg leaves them after unpacking, with what makes a machine of them.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::apt::{self, AptError};
use crate::debian::SourceLine;
use crate::debian::database::{Control, Database, NEW_SUFFIX};
use crate::tree::{Attributes, Spool, Tree, TreeError, UnpackError, Unpacker};

/// Largest file in a package's control part.
const CONTROL_BYTES_MAX: u64 = 16 << 20;

/// Folders that are links into `/usr` since Debian 12 (base-files; debian-policy 10.1).
const MERGED: [&str; 3] = ["bin", "sbin", "lib"];

/// Files of the machine that no package brings. The network asks for an address and is not waited for.
const FILES: [(&str, &str); 6] = [
    ("/etc/hostname", "debian\n"),
    (
        "/etc/hosts",
        "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
    ),
    (
        "/etc/fstab",
        "LABEL=mother-root / ext4 errors=remount-ro 0 0\n",
    ),
    ("/etc/machine-id", ""),
    (
        "/etc/systemd/network/80-dhcp.network",
        "[Match]\nType=ether\n\n[Network]\nDHCP=yes\n",
    ),
    (
        "/etc/apt/apt.conf.d/80mother",
        "APT::Install-Recommends \"false\";\nAcquire::Languages \"none\";\n",
    ),
];

/// Why packages did not become a root file system.
#[derive(Debug, Error)]
pub enum AssembleError {
    /// dpkg-deb cannot be called.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// A package is broken or the spool is full.
    #[error("cannot unpack {}", .package.display())]
    Unpack {
        /// The package.
        package: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// A file cannot be where it should.
    #[error("cannot put the root file system together: {0}")]
    Place(String),
}

impl From<TreeError> for AssembleError {
    fn from(error: TreeError) -> AssembleError {
        AssembleError::Place(error.to_string())
    }
}

/// Unpacks packages; `kernel` gives nothing but its modules.
pub(crate) fn assemble(
    packages: &[PathBuf],
    kernel: &Path,
    sources: &[SourceLine],
    spool: &mut Spool,
    on_unpacked: &mut dyn FnMut(usize),
) -> Result<Tree, AssembleError> {
    let mut tree = Tree::new();
    for name in MERGED {
        tree.put_folder(format!("usr/{name}").as_bytes(), Attributes::of_root(0o755))?;
        tree.put_symlink(name, &format!("usr/{name}"))?;
    }
    tree.put_folder(b"usr/lib64", Attributes::of_root(0o755))?;
    tree.put_symlink("lib64", "usr/lib64")?;
    let mut database = Database::default();
    for (count, package) in packages.iter().enumerate() {
        on_unpacked(count);
        let control = control(package)?;
        let configuration_files = control.configuration_files();
        let rename = |path: &[u8]| {
            let path = String::from_utf8_lossy(path);
            let absolute = path.trim_start_matches('.');
            configuration_files
                .contains(absolute)
                .then(|| format!("{absolute}{NEW_SUFFIX}").into_bytes())
        };
        let paths = unpack(package, &mut tree, spool, &rename)?;
        database.add(&mut tree, &control, &paths)?;
    }
    database.finish(&mut tree)?;
    add_modules(kernel, &mut tree, spool)?;
    for (path, text) in FILES {
        tree.put_bytes(path, 0o644, text.as_bytes())?;
    }
    let sources: String = sources.iter().map(|line| line.to_text(true)).collect();
    tree.put_bytes("/etc/apt/sources.list", 0o644, sources.into_bytes())?;
    // Nothing is waited for that a guest without a network would wait for in vain.
    tree.put_symlink(
        "/etc/systemd/system/systemd-networkd-wait-online.service",
        "/dev/null",
    )?;
    Ok(tree)
}

fn unpack(
    package: &Path,
    tree: &mut Tree,
    spool: &mut Spool,
    rename: &dyn Fn(&[u8]) -> Option<Vec<u8>>,
) -> Result<Vec<Vec<u8>>, AssembleError> {
    apt::with_package_archive(package, |archive| {
        let unpacked = Unpacker::of_package(tree, spool, rename).unpack(archive);
        unpacked.map_err(|error| unpack_error(package, error))
    })
}

fn unpack_error(package: &Path, error: UnpackError) -> AssembleError {
    let source = match error {
        UnpackError::Io(source) | UnpackError::Spool(source) => source,
        UnpackError::Tree(error) => io::Error::other(error),
    };
    AssembleError::Unpack {
        package: package.to_owned(),
        source,
    }
}

/// A kernel's modules; its image is loaded by Mother and its other files are nobody's concern.
fn add_modules(kernel: &Path, tree: &mut Tree, spool: &mut Spool) -> Result<(), AssembleError> {
    let mut scratch = Tree::new();
    unpack(kernel, &mut scratch, spool, &|_| None)?;
    for from in ["lib/modules", "usr/lib/modules"] {
        if let Some(node) = scratch.find(from.as_bytes(), true) {
            tree.graft("usr/lib/modules", &scratch, node)?;
        }
    }
    Ok(())
}

fn control(package: &Path) -> Result<Control, AssembleError> {
    let broken = |source| AssembleError::Unpack {
        package: package.to_owned(),
        source,
    };
    apt::with_control_archive(package, |archive| {
        let mut control = Control::default();
        let mut archive = tar::Archive::new(archive);
        for entry in archive.entries().map_err(broken)? {
            let entry = entry.map_err(broken)?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let name = path.trim_start_matches("./").to_owned();
            let mut bytes = Vec::new();
            entry
                .take(CONTROL_BYTES_MAX)
                .read_to_end(&mut bytes)
                .map_err(broken)?;
            if name == "control" {
                control.fields = String::from_utf8_lossy(&bytes).into_owned();
            } else if !name.contains('/') {
                control.files.insert(name, bytes);
            }
        }
        Ok(control)
    })
}
