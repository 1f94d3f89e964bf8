//! `dist --try`: the Debian package in fresh trees of Debian's releases, from installing to purging it.
//!
//! Trees come from the host's mirror with mmdebstrap and are kept; each try unpacks one anew, in namespaces of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::workspace;

/// Releases that the package is for.
const RELEASES: [&str; 2] = ["bookworm", "trixie"];

/// What a tree has beside what every Debian has: a manual to read, and what units and guests' networks are for.
const PACKAGES: &str = "systemd,systemd-sysv,man-db,ca-certificates,kmod";

/// What is done in a tree.
const SCRIPT: &str = include_str!("trial.sh");

/// Tries the package that `dist` has made; whether it is as it should be everywhere.
pub fn run() -> Result<bool> {
    let package = newest()?;
    println!("{}", package.display());
    let mut is_well = true;
    for release in RELEASES {
        println!("{release}");
        is_well &= tries(release, &package)?;
    }
    Ok(is_well)
}

/// The package of the last `dist`.
pub(super) fn newest() -> Result<PathBuf> {
    let releases = workspace::target().join("releases");
    let none = || {
        format!(
            "no package in {}: `cargo xtask dist` makes one",
            releases.display()
        )
    };
    let mut packages = Vec::new();
    for entry in fs::read_dir(&releases).with_context(none)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|it| it == "deb") {
            packages.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    let newest = packages.into_iter().max();
    newest.map(|(_, path)| path).with_context(none)
}

fn tries(release: &str, package: &Path) -> Result<bool> {
    let trees = workspace::target().join("trees");
    fs::create_dir_all(&trees)?;
    let archive = archive(release, &trees)?;
    let script = trees.join("trial.sh");
    fs::write(&script, SCRIPT)?;
    let tree = trees.join(format!("{release}.{}", std::process::id()));
    fs::create_dir(&tree)?;
    // Within the namespaces, so that a tree of an ordinary user's is unpacked and removed by the users that it has.
    let text = "tar -xpf \"$1\" -C \"$2\" --exclude=./dev && mkdir -p \"$2/dev\" && status=0; \
                unshare --mount --pid --fork --kill-child sh \"$3\" \"$2\" \"$4\" || status=$?; rm -rf \"$2\"; exit $status";
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !is_root() {
        command.args(["--map-root-user", "--map-auto"]);
    }
    let status = command
        .args(["sh", "-c", text, "sh"])
        .args([&archive, &tree, &script])
        .arg(package)
        .status()
        .context("unshare")?;
    Ok(status.success())
}

/// Whether this is root, as the kernel says (proc_pid_status(5)).
fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1).map(|id| id == "0"))
        .unwrap_or(false)
}

/// A release's tree as an archive.
fn archive(release: &str, trees: &Path) -> Result<PathBuf> {
    let archive = trees.join(format!("{release}.tar"));
    if archive.exists() {
        return Ok(archive);
    }
    println!("   its tree is made");
    // Complete when it has its final name.
    let part = trees.join(format!("{release}.part.tar"));
    let output = Command::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase"])
        .arg(format!("--include={PACKAGES}"))
        .arg(release)
        .arg(&part)
        .output()
        .context("mmdebstrap, of Debian's package of that name")?;
    ensure!(
        output.status.success(),
        "mmdebstrap {release}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    fs::rename(&part, &archive)?;
    Ok(archive)
}
