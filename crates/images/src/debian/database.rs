//! dpkg's database as it stands when packages have been unpacked and not yet configured (dpkg(1), "Package states";
//! deb-triggers(5)).

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::tree::{Tree, TreeError, text};

/// What dpkg calls a configuration file that it has not put in place yet.
pub(super) const NEW_SUFFIX: &str = ".dpkg-new";

/// The control part of one package.
#[derive(Clone, Debug, Default)]
pub(super) struct Control {
    /// Its `control` file.
    pub(super) fields: String,
    /// The other files, by name.
    pub(super) files: BTreeMap<String, Vec<u8>>,
}

impl Control {
    /// The value of a field that has one line.
    fn field(&self, name: &str) -> Option<&str> {
        let line = self
            .fields
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim)
    }

    /// What dpkg names the package's files after: with its architecture if there may be several.
    fn key(&self) -> String {
        let name = self.field("Package").unwrap_or_default();
        let is_same = self.field("Multi-Arch") == Some("same");
        match self.field("Architecture").filter(|_| is_same) {
            Some(architecture) => format!("{name}:{architecture}"),
            None => name.to_owned(),
        }
    }

    /// Absolute paths of configuration files. Those that the package wants removed are not there.
    pub(super) fn configuration_files(&self) -> BTreeSet<String> {
        let list = self
            .files
            .get("conffiles")
            .map(|bytes| text(bytes))
            .unwrap_or_default();
        list.lines()
            .map(str::trim)
            .filter(|line| line.starts_with('/'))
            .map(str::to_owned)
            .collect()
    }

    /// The package's paragraph in dpkg's status file.
    fn status(&self) -> String {
        let mut status = String::new();
        for line in self
            .fields
            .trim_end()
            .lines()
            .filter(|line| !line.trim().is_empty())
        {
            status.push_str(line);
            status.push('\n');
            if line.starts_with("Package:") {
                status.push_str("Status: install ok unpacked\n");
            }
        }
        let files = self.configuration_files();
        if !files.is_empty() {
            status.push_str("Conffiles:\n");
            files
                .iter()
                .for_each(|file| status.push_str(&format!(" {file} newconffile\n")));
        }
        status + "\n"
    }

    /// What the package wants to be told of: the name of each trigger and who is interested.
    fn interests(&self) -> Vec<(String, String)> {
        let list = self
            .files
            .get("triggers")
            .map(|bytes| text(bytes))
            .unwrap_or_default();
        let interest = |line: &str| {
            let (verb, trigger) = line.trim().split_once(char::is_whitespace)?;
            let suffix = match verb {
                "interest" | "interest-await" => "",
                "interest-noawait" => "/noawait",
                _ => return None,
            };
            Some((trigger.trim().to_owned(), format!("{}{suffix}", self.key())))
        };
        list.lines().filter_map(interest).collect()
    }
}

/// The whole database in the making.
#[derive(Default)]
pub(super) struct Database {
    status: String,
    file_triggers: String,
    named_triggers: BTreeMap<String, String>,
}

impl Database {
    /// Enters a package that brought these paths.
    pub(super) fn add(
        &mut self,
        tree: &mut Tree,
        control: &Control,
        paths: &[Vec<u8>],
    ) -> Result<(), TreeError> {
        self.status.push_str(&control.status());
        let info = |name: &str| format!("/var/lib/dpkg/info/{}.{name}", control.key());
        for (name, bytes) in &control.files {
            let mode = if matches!(
                name.as_str(),
                "preinst" | "postinst" | "prerm" | "postrm" | "config"
            ) {
                0o755
            } else {
                0o644
            };
            tree.put_bytes(&info(name), mode, bytes.as_slice())?;
        }
        let mut list = String::new();
        for path in paths {
            let path = text(path);
            let path = path.trim_start_matches('.').trim_end_matches('/');
            list.push_str(if path.is_empty() { "/." } else { path });
            list.push('\n');
        }
        tree.put_bytes(&info("list"), 0o644, list.into_bytes())?;
        for (trigger, who) in control.interests() {
            if trigger.starts_with('/') {
                self.file_triggers.push_str(&format!("{trigger} {who}\n"));
            } else {
                self.named_triggers
                    .entry(trigger)
                    .or_default()
                    .push_str(&format!("{who}\n"));
            }
        }
        Ok(())
    }

    /// Writes what is about all packages.
    pub(super) fn finish(self, tree: &mut Tree) -> Result<(), TreeError> {
        let mut put = |name: &str, text: String| {
            tree.put_bytes(&format!("/var/lib/dpkg/{name}"), 0o644, text.into_bytes())
        };
        put("status", self.status)?;
        put("available", String::new())?;
        put("diversions", String::new())?;
        put("statoverride", String::new())?;
        put("info/format", "1\n".to_owned())?;
        put("triggers/File", self.file_triggers)?;
        put("triggers/Unincorp", String::new())?;
        for (name, who) in self.named_triggers {
            put(&format!("triggers/{name}"), who)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control() -> Control {
        let files = [
            ("conffiles", "/etc/a\nremove-on-upgrade /etc/old\n"),
            (
                "triggers",
                "# why\ninterest-noawait /usr/lib\ninterest reload\nactivate other\n",
            ),
            ("postinst", "#!/bin/sh\n"),
        ];
        Control {
            fields:
                "Package: libx\nVersion: 1\nArchitecture: amd64\nMulti-Arch: same\nDescription: x\n more\n"
                    .into(),
            files: files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec())).into(),
        }
    }

    #[test]
    fn dpkg_reads_what_it_would_have_written() {
        let mut tree = Tree::new();
        let mut database = Database::default();
        database
            .add(
                &mut tree,
                &control(),
                &[b"./".to_vec(), b"./etc/a".to_vec(), b"./usr/".to_vec()],
            )
            .unwrap();
        database.finish(&mut tree).unwrap();
        let read = |path: &str| {
            let node = tree.find(path.as_bytes(), false).unwrap();
            let crate::tree::Kind::File(content) = &tree.node(node).kind else {
                panic!("{path}")
            };
            let mut bytes = Vec::new();
            content
                .read(|part| {
                    bytes.extend_from_slice(part);
                    Ok(())
                })
                .unwrap();
            String::from_utf8(bytes).unwrap()
        };
        let status = read("/var/lib/dpkg/status");
        assert!(
            status.starts_with("Package: libx\nStatus: install ok unpacked\nVersion: 1\n"),
            "{status}"
        );
        assert!(
            status.ends_with("\n more\nConffiles:\n /etc/a newconffile\n\n"),
            "{status}"
        );
        assert_eq!(
            read("/var/lib/dpkg/info/libx:amd64.list"),
            "/.\n/etc/a\n/usr\n"
        );
        assert_eq!(
            read("/var/lib/dpkg/info/libx:amd64.postinst"),
            "#!/bin/sh\n"
        );
        assert_eq!(
            read("/var/lib/dpkg/triggers/File"),
            "/usr/lib libx:amd64/noawait\n"
        );
        assert_eq!(read("/var/lib/dpkg/triggers/reload"), "libx:amd64\n");
    }
}
