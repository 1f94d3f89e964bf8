//! The folders of a language's runtime: those that bear the program's name, or the one that it lives in alone.
//!
//! `/usr/bin/python3` leads to `python3.11`, whose modules are in `/usr/lib/python3.11`; perl's are in
//! `/usr/lib/x86_64-linux-gnu/perl` and `/usr/share/perl`, node's in `/usr/share/nodejs`. The rule is the file
//! hierarchy's (FHS 4.7 and 4.11: a program's own files are in a folder of its name), so it needs no list of
//! languages and runs nothing.
//!
//! `/usr/bin/java` leads to `/usr/lib/jvm/java-17-openjdk-amd64/bin/java`, which finds its libraries and settings beside
//! its own folder. A prefix with `bin` and `lib` that is no common one is that program's home, and comes as a whole
//! (FHS 3.13: `/opt/PACKAGE` has all of a package). That holds for every name on the way: a virtual environment of
//! Python's has a link to the one interpreter in its own `bin`, and its packages in its own `lib`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where a prefix such as `/usr` has folders of programs.
const PLACES: [&str; 5] = ["lib", "lib64", "lib/x86_64-linux-gnu", "libexec", "share"];

/// Prefixes that many programs share, and those below a user's home.
const COMMON: [&str; 3] = ["/", "/usr", "/usr/local"];
const COMMON_OF_USER: [&str; 2] = ["", ".local"];

/// The folders that belong to a program, by all the names that it has along its symbolic links.
pub(super) fn folders(program: &Path) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    for path in names(program) {
        let Some((prefix, name)) = prefix_and_name(&path) else {
            continue;
        };
        for place in PLACES {
            for name in [
                name.clone(),
                format!("{name}-base"),
                format!("{name}js"),
                format!("{name}5"),
            ] {
                let folder = prefix.join(place).join(name);
                if folder.is_dir() {
                    found.insert(folder);
                }
            }
        }
    }
    found.extend(names(program).iter().filter_map(|path| home(path)));
    found.extend(
        std::fs::canonicalize(program)
            .ok()
            .and_then(|path| home(&path)),
    );
    found.into_iter().collect()
}

/// The prefix that a program has for itself, under this name of it.
fn home(path: &Path) -> Option<PathBuf> {
    let (prefix, _) = prefix_and_name(path)?;
    let user = std::env::var_os("HOME").map(PathBuf::from);
    let of_user = user
        .iter()
        .flat_map(|user| COMMON_OF_USER.map(|folder| user.join(folder)));
    let is_common = COMMON
        .map(PathBuf::from)
        .into_iter()
        .chain(of_user)
        .any(|common| common == prefix);
    (!is_common && prefix.join("lib").is_dir()).then_some(prefix)
}

/// The program's path and where its links lead, one after the other.
fn names(program: &Path) -> Vec<PathBuf> {
    let mut paths = vec![program.to_owned()];
    while let Ok(target) = std::fs::read_link(&paths[paths.len() - 1]) {
        let folder = paths[paths.len() - 1]
            .parent()
            .unwrap_or(Path::new("/"))
            .to_owned();
        paths.push(folder.join(target));
        if paths.len() > 8 {
            break;
        }
    }
    paths
}

/// `/usr` and `python3` of `/usr/bin/python3`. `/bin` is a part of `/usr` nowadays.
fn prefix_and_name(path: &Path) -> Option<(PathBuf, String)> {
    let folder = path.parent()?;
    let is_bin = folder
        .file_name()
        .is_some_and(|name| name == "bin" || name == "sbin");
    let prefix = folder.parent().filter(|_| is_bin)?;
    let prefix = if prefix == Path::new("/") {
        Path::new("/usr")
    } else {
        prefix
    };
    Some((prefix.to_owned(), path.file_name()?.to_str()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_runtime_is_found_by_every_name_of_its_program() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for folder in [
            "bin",
            "lib/tongue3",
            "lib/tongue3.1",
            "lib/other",
            "share/tongue3.1",
        ] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        fs::write(at("bin/tongue3.1"), "").unwrap();
        let with_home = |folders: &[PathBuf]| [&[root.path().to_owned()], folders].concat();
        symlink("tongue3.1", at("bin/tongue3")).unwrap();
        let expected = ["lib/tongue3", "lib/tongue3.1", "share/tongue3.1"].map(at);
        assert_eq!(folders(&at("bin/tongue3")), with_home(&expected));
        assert_eq!(folders(&at("bin/tongue3.1")), with_home(&expected[1..]));
        assert!(folders(&at("lib/tongue3.1")).is_empty());
        assert_eq!(home(Path::new("/bin/sh")), None);
        // A link to the same program out of a prefix of its own brings that along.
        fs::create_dir_all(at("env/bin")).unwrap();
        fs::create_dir_all(at("env/lib")).unwrap();
        symlink(at("bin/tongue3.1"), at("env/bin/tongue")).unwrap();
        let found = folders(&at("env/bin/tongue"));
        assert!(found.contains(&at("env")) && found.contains(&at("lib/tongue3.1")));
    }
}
