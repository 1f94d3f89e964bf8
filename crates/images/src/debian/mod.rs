//! A Debian root file system, made without privilege.
//!
//! ```text
//! the host's apt   resolves and downloads the packages of a release into folders of ours
//! `assemble`       unpacks them in memory, with dpkg's database as it stands after unpacking
//! `ext4`           writes that as a disk
//! a guest of ours  runs the packages' own scripts (`dpkg --configure -a`) on that disk, as root of its own machine
//! ```
//!
//! So nothing on the host needs root, subordinate users, namespaces, or a program that is not on every Debian.

mod assemble;
mod database;
mod sources;

pub use assemble::AssembleError;
pub(crate) use assemble::assemble;
pub use sources::{SourceLine, source_lines};

use std::fmt;

/// What an image has beside what is essential: a machine that boots, logs in, resolves names and installs packages.
pub(crate) const PACKAGES: [&str; 28] = [
    "?essential",
    "?priority(required)",
    "apt",
    "ca-certificates",
    "dbus",
    "e2fsprogs",
    "ethtool",
    "fdisk",
    "iproute2",
    "iputils-ping",
    "kmod",
    "less",
    "libnss-myhostname",
    "login",
    "nano-tiny",
    "netbase",
    "passwd",
    "pciutils",
    "procps",
    "systemd",
    "systemd-resolved",
    "systemd-sysv",
    "tzdata",
    "udev",
    "usr-is-merged",
    "util-linux",
    "wget",
    "whiptail",
];

/// Goes into the name of what is made, so that a new recipe makes a new image.
pub(crate) const RECIPE: u32 = 1;

/// What the configuring guest says last when all went well.
pub const CONFIGURED_MARKER: &str = "mother: configured";

/// A release of Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebianRelease {
    /// Such as 12.
    pub number: u32,
    /// Such as `bookworm`.
    pub codename: &'static str,
}

/// Releases with a merged `/usr` and a cloud kernel.
const RELEASES: [DebianRelease; 3] = [
    DebianRelease {
        number: 12,
        codename: "bookworm",
    },
    DebianRelease {
        number: 13,
        codename: "trixie",
    },
    DebianRelease {
        number: 14,
        codename: "forky",
    },
];

/// What plain `debian` means where the host does not tell.
const DEFAULT_RELEASE: DebianRelease = RELEASES[0];

impl DebianRelease {
    /// Reads `12`, `bookworm`.
    pub fn parse(text: &str) -> Option<DebianRelease> {
        RELEASES
            .into_iter()
            .find(|release| release.codename == text || text.parse() == Ok(release.number))
    }

    /// The host's own release, or the oldest that we know.
    pub fn of_host() -> DebianRelease {
        let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let value = |key: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.map(|value| value.trim_matches('"').to_owned())
        };
        let is_debian = value("ID").as_deref() == Some("debian");
        let own = value("VERSION_CODENAME")
            .filter(|_| is_debian)
            .and_then(|name| DebianRelease::parse(&name));
        own.unwrap_or(DEFAULT_RELEASE)
    }

    /// All that can be asked for.
    pub fn all() -> &'static [DebianRelease] {
        &RELEASES
    }
}

impl fmt::Display for DebianRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "debian:{}", self.number)
    }
}
