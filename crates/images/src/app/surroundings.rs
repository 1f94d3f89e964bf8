//! What a program's environment names: the data of its locale, and of its time zone.
//!
//! A variable that is passed on without the files behind it makes the guest's program worse than one without the
//! variable: it complains of a locale that is not there, or tells UTC under another zone's name.

use std::path::{Component, Path, PathBuf};

/// Where glibc looks for locales (locale(7)) and for time zones (tzset(3)).
const LOCALES: &str = "/usr/lib/locale";
const ZONES: &str = "/usr/share/zoneinfo";

/// Files and folders of the host that belong to this environment.
pub(super) fn files(environment: &[String]) -> Vec<PathBuf> {
    files_in(environment, Path::new(LOCALES), Path::new(ZONES))
}

fn files_in(environment: &[String], locales: &Path, zones: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for variable in environment {
        match variable.split_once('=') {
            Some(("TZ", value)) => found.extend(zone(value, zones)),
            Some((name, value)) if name == "LANG" || name.starts_with("LC_") => {
                found.extend(locale(value, locales));
            }
            _ => {}
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The folder of a locale by one of its names, or the archive that glibc keeps all in. There is neither for a locale that
/// the host has not.
fn locale(value: &str, locales: &Path) -> Option<PathBuf> {
    if matches!(value, "" | "C" | "POSIX") || value.contains('/') {
        return None;
    }
    let names = [value.to_owned(), normalized(value)];
    let folders = names.into_iter().map(|name| locales.join(name));
    let archive = locales.join("locale-archive");
    folders
        .into_iter()
        .find(|folder| folder.is_dir())
        .or_else(|| Some(archive).filter(|archive| archive.is_file()))
}

/// The name with its character set as glibc writes it in folders: small letters and digits, `UTF-8` as `utf8`.
fn normalized(value: &str) -> String {
    let (value, modifier) = match value.split_once('@') {
        Some((value, modifier)) => (value, format!("@{modifier}")),
        None => (value, String::new()),
    };
    let Some((language, charset)) = value.split_once('.') else {
        return format!("{value}{modifier}");
    };
    let plain = charset.chars().filter(char::is_ascii_alphanumeric);
    let charset: String = plain.map(|letter| letter.to_ascii_lowercase()).collect();
    format!("{language}.{charset}{modifier}")
}

/// The file of a time zone that is named and not described.
fn zone(value: &str, zones: &Path) -> Option<PathBuf> {
    let name = Path::new(value.strip_prefix(':').unwrap_or(value));
    let climbs = name.components().any(|part| part == Component::ParentDir);
    // An absolute name stands for itself.
    let path = zones.join(name);
    (!climbs && path.is_file()).then_some(path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_the_environment_names_comes_along_if_the_host_has_it() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for folder in ["locale/C.utf8", "locale/de_DE.utf8@euro", "zone/Europe"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        fs::write(at("zone/Europe/Berlin"), "").unwrap();
        let check = |variable: &str, expected: &[&str]| {
            let environment = ["A=b".to_owned(), variable.to_owned()];
            let found = files_in(&environment, &at("locale"), &at("zone"));
            let expected: Vec<PathBuf> = expected.iter().map(|name| at(name)).collect();
            assert_eq!(found, expected, "{variable}");
        };
        check("LANG=C.UTF-8", &["locale/C.utf8"]);
        check("LC_ALL=C.utf8", &["locale/C.utf8"]);
        check("LC_TIME=de_DE.UTF-8@euro", &["locale/de_DE.utf8@euro"]);
        check("LANG=C", &[]);
        check("LANG=../zone", &[]);
        check("LANG=fr_FR.UTF-8", &[]);
        check("TZ=Europe/Berlin", &["zone/Europe/Berlin"]);
        check("TZ=:Europe/Berlin", &["zone/Europe/Berlin"]);
        check("TZ=CET-1CEST", &[]);
        check("TZ=../zone/Europe/Berlin", &[]);
        check("LANGUAGE=de", &[]);
        fs::write(at("locale/locale-archive"), "").unwrap();
        check("LANG=fr_FR.UTF-8", &["locale/locale-archive"]);
        check("LANG=C.UTF-8", &["locale/C.utf8"]);
    }
}
