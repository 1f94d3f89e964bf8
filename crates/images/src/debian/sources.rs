//! Which mirrors a release comes from: the host's own, asked of apt, with the release's name in place of the host's.

use crate::debian::{DebianRelease, RELEASES};

/// Where Debian's keys are, on every Debian and on Ubuntu with the package of that name.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Names of suites that are not releases of their own.
const OTHER_SUITES: [&str; 7] = [
    "stable",
    "oldstable",
    "oldoldstable",
    "testing",
    "unstable",
    "sid",
    "bullseye",
];

/// A mirror and one of its suites.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceLine {
    /// Where the mirror is.
    pub uri: String,
    /// What of it.
    pub suite: String,
}

impl SourceLine {
    /// As apt's sources.list(5) has it.
    pub fn to_text(&self, has_keyring: bool) -> String {
        let options = if has_keyring {
            format!("[signed-by={KEYRING}] ")
        } else {
            String::new()
        };
        format!("deb {options}{} {} main\n", self.uri, self.suite)
    }

    /// Whether this host has Debian's keys where we expect them; else apt's own must do.
    pub fn has_keyring() -> bool {
        std::path::Path::new(KEYRING).is_file()
    }
}

/// The release's sources, from what an update of the host's would fetch (`apt-get update --print-uris`).
pub fn source_lines(addresses: &str, release: DebianRelease) -> Vec<SourceLine> {
    let mut lines: Vec<SourceLine> = addresses
        .lines()
        .filter_map(|line| source_line(line, release))
        .collect();
    lines.sort();
    lines.dedup();
    lines
}

/// Reads `'URI/dists/SUITE/main/binary-amd64/Packages.xz' FILE SIZE`.
fn source_line(line: &str, release: DebianRelease) -> Option<SourceLine> {
    let address = line.strip_prefix('\'')?.split('\'').next()?;
    let (uri, rest) = address.split_once("/dists/")?;
    let (suite, index) = rest.split_once("/main/binary-")?;
    if !index.contains("/Packages") {
        return None;
    }
    let base = suite.split(['-', '/']).next().unwrap_or_default();
    let is_debian =
        RELEASES.iter().any(|known| known.codename == base) || OTHER_SUITES.contains(&base);
    // Backports and proposals are nobody's default.
    let rest = &suite[base.len()..];
    if !is_debian || !matches!(rest, "" | "-updates" | "-security") {
        return None;
    }
    Some(SourceLine {
        uri: uri.to_owned(),
        suite: format!("{}{rest}", release.codename),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_mirrors_serve_every_release() {
        let line = |uri: &str, suite: &str, index: &str| {
            format!("'{uri}/dists/{suite}/{index}' some_file 0 \n")
        };
        let packages = "main/binary-amd64/Packages.xz";
        let addresses = [
            line("http://mirror/debian", "bookworm", "InRelease"),
            line("http://mirror/debian", "bookworm", packages),
            line(
                "http://mirror/debian",
                "bookworm",
                "main/binary-all/Packages.xz",
            ),
            line("http://mirror/debian", "bookworm-updates", packages),
            line("http://mirror/debian", "bookworm-backports", packages),
            line("http://mirror/security", "bookworm-security", packages),
            line(
                "http://mirror/security",
                "bookworm-security",
                "contrib/binary-amd64/Packages.xz",
            ),
            line("https://other/apt", "cloud-sdk-bookworm", packages),
            line("http://ubuntu", "noble", packages),
        ];
        let text = |addresses: &str, number: &str| -> Vec<String> {
            let lines = source_lines(addresses, DebianRelease::parse(number).unwrap());
            lines.iter().map(|line| line.to_text(false)).collect()
        };
        let expected = [
            "deb http://mirror/debian trixie main\n",
            "deb http://mirror/debian trixie-updates main\n",
            "deb http://mirror/security trixie-security main\n",
        ];
        assert_eq!(text(&addresses.concat(), "13"), expected);
        assert!(text(&addresses[8], "12").is_empty());
    }
}
