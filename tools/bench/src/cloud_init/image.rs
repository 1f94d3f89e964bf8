//! The disks: made once for each release, and kept beside the default guest.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use images::fetch::{Apt, SourceLine, create_folder, source_lines};
use images::{Cache, DebianRelease};
use rustix::process::geteuid;

/// What Debian's own cloud images have, as far as it is used here.
const PACKAGES: &str = "linux-image-cloud-amd64,systemd-sysv,cloud-init,cloud-guest-utils,fdisk,e2fsprogs,locales,openssh-server,\
                        dmidecode,netplan.io,systemd-resolved,dbus,iproute2";

const PREPARE: &str = include_str!("prepare.sh");
const PROOF: &str = include_str!("proof.sh");

const SECTOR_BYTES: u64 = 512;
/// Where the partition begins.
const START_BYTES: u64 = 1 << 20;
/// Bytes of the partition and of the disk, so that there is room to grow into.
const PARTITION_BYTES: u64 = 2 << 30;
const DISK_BYTES: u64 = 3 << 30;

/// The disk of a release.
pub(super) fn disk(release: DebianRelease) -> Result<PathBuf> {
    let cache = Cache::of_user()?;
    let folder = cache.folder().join("cloud-init");
    create_folder(&folder)?;
    let disk = folder.join(format!("debian-{}.raw", release.number));
    if disk.exists() {
        return Ok(disk);
    }
    let archive = folder.join(format!("debian-{}.tar", release.number));
    if !archive.exists() {
        println!("{release}: its tree is made");
        let part = folder.join(format!("debian-{}.part.tar", release.number));
        make_archive(release, &part)?;
        fs::rename(&part, &archive)?;
    }
    // Complete when it has its final name.
    let part = disk.with_extension("part");
    lay_table(&part)?;
    make_system(&archive, &part, &folder)?;
    fs::rename(&part, &disk)?;
    fs::remove_file(&archive)?;
    Ok(disk)
}

/// Has mmdebstrap make a tree from the host's mirrors.
fn make_archive(release: DebianRelease, archive: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let apt = Apt::new(folder.path())?;
    let lines = source_lines(&apt.update_addresses()?, release);
    ensure!(!lines.is_empty(), "the host's apt has no mirror of Debian");
    let has_keyring = SourceLine::has_keyring();
    let sources: String = lines.iter().map(|line| line.to_text(has_keyring)).collect();
    let list = folder.path().join("sources.list");
    fs::write(&list, sources)?;
    let output = Command::new("mmdebstrap")
        .args(["--quiet", "--variant=apt"])
        .arg(format!("--include={PACKAGES}"))
        .arg(release.codename)
        .arg(archive)
        .arg(&list)
        .output()
        .context("mmdebstrap, of Debian's package of that name")?;
    ensure!(
        output.status.success(),
        "mmdebstrap {release}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// A disk of one partition: the first sector says so, as a PC's do.
fn lay_table(disk: &Path) -> Result<()> {
    let mut sector = [0; SECTOR_BYTES as usize];
    let entry = &mut sector[446..462];
    // Active, Linux; no cylinders.
    entry[0] = 0x80;
    entry[4] = 0x83;
    let sectors = |bytes: u64| ((bytes / SECTOR_BYTES) as u32).to_le_bytes();
    entry[8..12].copy_from_slice(&sectors(START_BYTES));
    entry[12..16].copy_from_slice(&sectors(PARTITION_BYTES));
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let mut file = File::create(disk)?;
    file.write_all(&sector)?;
    file.set_len(DISK_BYTES)?;
    Ok(())
}

/// Has `prepare.sh` lay the tree onto the disk, as root or as who is root in a namespace.
fn make_system(archive: &Path, disk: &Path, folder: &Path) -> Result<()> {
    let scripts = tempfile::tempdir()?;
    let prepare = scripts.path().join("prepare.sh");
    let proof = scripts.path().join("proof.sh");
    fs::write(&prepare, PREPARE)?;
    fs::write(&proof, PROOF)?;
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !geteuid().is_root() {
        command.args(["--map-root-user", "--map-auto"]);
    }
    let output = command
        .args(["sh", "-e"])
        .arg(&prepare)
        .args([archive, disk, &folder.join("tree"), &proof])
        .arg((PARTITION_BYTES >> 10).to_string())
        .output()
        .context("unshare, of the package util-linux")?;
    ensure!(
        output.status.success(),
        "the disk cannot be made: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
