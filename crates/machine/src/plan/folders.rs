//! Folders of the host that the guest shares: there, folders, and each at a place of its own.

use std::fs;
use std::path::{Path, PathBuf};

use api::FolderSpec;
use serde::{Deserialize, Serialize};

use super::{Complaints, Trouble, trouble};

/// Folders that a VM can share.
pub(crate) const FOLDERS_MAX: usize = 8;

/// A folder to be opened and served.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderPlan {
    /// What it is called in messages, and the tag by which the guest mounts it: `folder0` and so on.
    pub name: String,
    /// Where it is.
    #[serde(with = "api::host_path")]
    pub path: PathBuf,
    /// Whether the guest may not write.
    pub is_read_only: bool,
}

/// Every folder in order, or `None` after complaints.
pub(super) fn folders(
    specs: &[FolderSpec],
    complaints: &mut Complaints,
) -> Option<Vec<FolderPlan>> {
    if specs.len() > FOLDERS_MAX {
        let what = format!("{} folders are more than a guest can share", specs.len());
        let help = format!("name at most {FOLDERS_MAX}, or one that has them all");
        complaints.take("volume", trouble::<()>(what, help));
        return None;
    }
    let folders = specs.iter().enumerate().map(|(n, spec)| {
        let place = complaints.take("volume", place(spec, &specs[..n]));
        let folder = complaints.take("volume", folder(spec.host()));
        place.and(folder)?;
        Some(FolderPlan {
            name: FolderSpec::tag(n),
            path: spec.host().to_owned(),
            is_read_only: spec.is_read_only(),
        })
    });
    let folders: Vec<_> = folders.collect();
    folders.into_iter().collect()
}

fn place(spec: &FolderSpec, before: &[FolderSpec]) -> Result<(), Trouble> {
    match before.iter().any(|other| other.guest() == spec.guest()) {
        true => trouble(
            format!("two folders are to be at {} in the guest", spec.guest()),
            "give each a place of its own",
        ),
        false => Ok(()),
    }
}

fn folder(path: &Path) -> Result<(), Trouble> {
    let shown = path.display();
    match fs::canonicalize(path) {
        Err(error) => trouble(
            format!("there is no folder {shown}: {error}"),
            "name a folder that is there; it is looked for from the folder in which the command runs",
        ),
        Ok(found) if found == Path::new("/") => trouble(
            format!("{shown} is the root of this host"),
            "share a folder below it: what a guest may write, whoever takes it over may write",
        ),
        Ok(found) if !found.is_dir() => trouble(
            format!("{shown} is no folder"),
            "name the folder that it is in, or copy it with `mother cp`",
        ),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn folders_are_there_and_have_places_of_their_own() {
        let here = tempfile::tempdir().unwrap();
        let at = |name: &str| here.path().join(name);
        fs::create_dir(at("a")).unwrap();
        fs::write(at("file"), "").unwrap();
        symlink("/", at("root")).unwrap();
        symlink("a", at("link")).unwrap();
        let check = |texts: &[&str], expected: &[&str]| {
            let specs = texts.iter().map(|text| {
                let spec: FolderSpec = text.parse().unwrap();
                spec.looked_for_from(here.path())
            });
            let specs: Vec<_> = specs.collect();
            let mut complaints = Complaints::default();
            let plans = folders(&specs, &mut complaints);
            assert_eq!(plans.is_some(), expected.is_empty(), "{texts:?}");
            assert_eq!(complaints.0.len(), expected.len(), "{texts:?}");
            for (complaint, part) in complaints.0.iter().zip(expected) {
                let what = &complaint.what;
                assert!(what.contains(part), "{texts:?}: {what}");
                assert_eq!(complaint.key(), "volume");
            }
        };
        check(&[], &[]);
        check(&["a:/x", "link:/y:ro"], &[]);
        check(&["none:/x"], &["there is no folder"]);
        check(&["file:/x"], &["is no folder"]);
        check(&["root:/x", "/:/y"], &["is the root", "is the root"]);
        check(&["a:/x", "a:/x/", "a:/y"], &["two folders"]);
        check(&["a:/x"; 9], &["more than a guest can share"]);
    }
}
