//! A Debian package: the program, its manual and completions, units for systemd, a profile for AppArmor.
//!
//! The program is static, so the package needs nothing; `dpkg-deb` of the building host packs it, with owners and times
//! that do not depend on it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::write;
use crate::workspace;

/// Where files of the release, or of the source, lie on a host.
const PLACES: &[(&str, &str)] = &[
    (
        "completions/mother.bash",
        "usr/share/bash-completion/completions/mother",
    ),
    (
        "completions/_mother",
        "usr/share/zsh/vendor-completions/_mother",
    ),
    (
        "completions/mother.fish",
        "usr/share/fish/vendor_completions.d/mother.fish",
    ),
    ("apparmor/mother", "usr/share/mother/apparmor/mother"),
    ("sbom.cdx.json", "usr/share/doc/mother/sbom.cdx.json"),
    ("LICENSE", "usr/share/doc/mother/copyright"),
];

/// The same of what is in `packaging`.
const PACKAGING: &[(&str, &str)] = &[
    (
        "systemd/mother.service",
        "usr/lib/systemd/system/mother.service",
    ),
    (
        "systemd/mother-vm.socket",
        "usr/lib/systemd/system/mother-vm.socket",
    ),
    (
        "systemd/mother-vm@.service",
        "usr/lib/systemd/system/mother-vm@.service",
    ),
    (
        "systemd/user/mother.service",
        "usr/lib/systemd/user/mother.service",
    ),
    (
        "systemd/user/mother-vm.socket",
        "usr/lib/systemd/user/mother-vm.socket",
    ),
    (
        "systemd/user/mother-vm@.service",
        "usr/lib/systemd/user/mother-vm@.service",
    ),
    (
        "systemd/user/mother.socket",
        "usr/lib/systemd/user/mother.socket",
    ),
    ("systemd/mother.sysusers", "usr/lib/sysusers.d/mother.conf"),
    (
        "prometheus/alerts.yml",
        "usr/share/doc/mother/prometheus/alerts.yml",
    ),
    (
        "grafana/mother.json",
        "usr/share/doc/mother/grafana/mother.json",
    ),
];

/// What is done when it is on the host: a user for the host's daemon, where systemd can make one, and the profile where
/// AppArmor can read it (an older one would refuse all profiles of the host for it). Nothing is started.
const AFTER_INSTALL: &str = "#!/bin/sh
set -e
if [ \"$1\" = configure ]; then
    if command -v systemd-sysusers >/dev/null; then systemd-sysusers mother.conf || true; fi
    if [ -e /etc/apparmor.d/abi/4.0 ]; then
        install -m 644 /usr/share/mother/apparmor/mother /etc/apparmor.d/mother
        if [ -d /sys/kernel/security/apparmor ]; then apparmor_parser -r /etc/apparmor.d/mother || true; fi
    fi
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload || true
        # A daemon that runs is replaced by the new one; its VMs go on.
        if [ -n \"$2\" ]; then systemctl try-restart mother.service || true; fi
    fi
fi
";

/// Before it goes: the daemon ends, VMs are left to their users.
const BEFORE_REMOVAL: &str = "#!/bin/sh
set -e
if [ \"$1\" = remove ] && [ -d /run/systemd/system ]; then
    systemctl disable --now mother.service || true
    systemctl stop mother-vm.socket || true
fi
";

/// When it has gone; purged, so are declared VMs, tokens and images of the host's daemon. VMs that still run keep what they
/// have open.
const AFTER_REMOVAL: &str = "#!/bin/sh
set -e
if [ \"$1\" = remove ] || [ \"$1\" = purge ]; then
    if [ -e /etc/apparmor.d/mother ]; then
        if [ -d /sys/kernel/security/apparmor ]; then apparmor_parser -R /etc/apparmor.d/mother || true; fi
        rm -f /etc/apparmor.d/mother
    fi
    if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
fi
if [ \"$1\" = purge ]; then rm -rf /var/lib/mother /var/cache/mother; fi
";

/// Packs what is in `release`; the package.
pub(super) fn package(release: &Path, number: &str) -> Result<PathBuf> {
    let root = workspace::target().join("releases/deb");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    copy(&release.join("mother"), &root.join("usr/bin/mother"), 0o755)?;
    for (from, to) in PLACES {
        copy(&release.join(from), &root.join(to), 0o644)?;
    }
    for (from, to) in PACKAGING {
        let from = workspace::root().join("packaging").join(from);
        copy(&from, &root.join(to), 0o644)?;
    }
    for entry in fs::read_dir(release.join("man"))? {
        let entry = entry?;
        let to = root.join("usr/share/man/man1").join(entry.file_name());
        copy(&entry.path(), &to, 0o644)?;
    }
    let kilobytes = size(&root)? / 1024;
    let control = format!(
        "Package: mother\nVersion: {number}\nArchitecture: amd64\nMaintainer: Mother <mother@localhost>\nInstalled-Size: {kilobytes}\n\
         Section: admin\nPriority: optional\nRecommends: passt\nDescription: hypervisor that knows its guests\n \
         Runs unmodified Linux guests on KVM or on a software CPU of its own, each in a jail,\n \
         and says of every guest what is true beside what it claims.\n"
    );
    write(&root.join("DEBIAN/control"), &control)?;
    let scripts = [
        ("postinst", AFTER_INSTALL),
        ("prerm", BEFORE_REMOVAL),
        ("postrm", AFTER_REMOVAL),
    ];
    for (name, text) in scripts {
        let path = root.join("DEBIAN").join(name);
        write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    let package = release.with_file_name(format!("mother_{number}_amd64.deb"));
    let status = Command::new("dpkg-deb")
        .args(["--root-owner-group", "--build"])
        .args([&root, &package])
        .env("SOURCE_DATE_EPOCH", "0")
        .stdout(std::process::Stdio::null())
        .status()
        .context("dpkg-deb")?;
    ensure!(status.success(), "dpkg-deb failed");
    fs::remove_dir_all(&root)?;
    Ok(package)
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to).with_context(|| from.display().to_string())?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true => size(&entry.path())?,
            false => entry.metadata()?.len(),
        };
    }
    Ok(bytes)
}
