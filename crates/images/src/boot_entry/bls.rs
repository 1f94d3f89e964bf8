//! Entries of the Boot Loader Specification (uapi-group.org, "Type #1"): a file each in `/loader/entries`, as systemd-boot and
//! GRUB's `blscfg` read them.

use std::cmp::Ordering;

use super::volume::Files;
use super::{Found, Place, version};

/// Where entries lie: on a boot partition, and on a root file system that has `/boot` in it.
pub(super) const FOLDERS: [&str; 2] = ["/loader/entries", "/boot/loader/entries"];

/// Entries that are read of a folder.
const ENTRIES_MAX: usize = 256;

/// The machine types that an entry for this one may name.
const ARCHITECTURE: &str = "x64";

/// An entry as its file has it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Entry {
    /// The file's name without `.conf` and without the count of tries.
    pub(super) id: String,
    /// The menu's word for it.
    pub(super) title: String,
    /// The path of the kernel.
    pub(super) linux: String,
    /// The paths of initrds, which GRUB may have variables in.
    pub(super) initrds: Vec<String>,
    /// The command line, in pieces, which GRUB may have variables in.
    pub(super) options: Vec<String>,
    version: String,
    sort_key: String,
    machine_id: String,
    /// All tries were in vain.
    is_bad: bool,
}

/// Reads the entries of a folder that start a kernel on this machine.
pub(super) fn entries(files: &dyn Files, folder: &str) -> Vec<Entry> {
    let mut names = files.list(folder);
    names.sort();
    let names = names.iter().take(ENTRIES_MAX);
    let read = names.filter_map(|name| {
        let stem = name.strip_suffix(".conf")?;
        let text = files.read(&format!("{folder}/{name}"))?;
        entry(stem, &String::from_utf8_lossy(&text))
    });
    read.collect()
}

fn entry(stem: &str, text: &str) -> Option<Entry> {
    let (id, tries) = match stem.rsplit_once('+') {
        Some((id, tries))
            if tries
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'-') =>
        {
            (id, Some(tries))
        }
        _ => (stem, None),
    };
    let mut entry = Entry {
        id: id.to_owned(),
        is_bad: tries.is_some_and(|tries| tries.split('-').next() == Some("0")),
        ..Entry::default()
    };
    for line in text.lines() {
        let line = line.trim();
        let Some((key, value)) = line.split_once(char::is_whitespace) else {
            continue;
        };
        let value = value.trim();
        match key {
            "title" => value.clone_into(&mut entry.title),
            "version" => value.clone_into(&mut entry.version),
            "sort-key" => value.clone_into(&mut entry.sort_key),
            "machine-id" => value.clone_into(&mut entry.machine_id),
            "linux" => value.clone_into(&mut entry.linux),
            // GRUB lets one line name several.
            "initrd" => entry
                .initrds
                .extend(value.split_whitespace().map(str::to_owned)),
            "options" => entry.options.push(value.to_owned()),
            "architecture" if !value.eq_ignore_ascii_case(ARCHITECTURE) => return None,
            _ => {}
        }
    }
    if entry.title.is_empty() {
        entry.title.clone_from(&entry.id);
    }
    (!entry.linux.is_empty()).then_some(entry)
}

/// The newest first, as GRUB's `blscfg` has them: by the file's name alone.
pub(super) fn sort_as_grub(entries: &mut [Entry]) {
    entries.sort_by(|one, other| version::compare(&other.id, &one.id));
}

/// As the specification has it: what failed last, what has a key first, by that, the machine, and the version; then by name.
fn sort(entries: &mut [Entry]) {
    let order = |one: &Entry, other: &Entry| -> Ordering {
        let bad = one.is_bad.cmp(&other.is_bad);
        let keyed = one.sort_key.is_empty().cmp(&other.sort_key.is_empty());
        let by_key = || {
            let key = one.sort_key.cmp(&other.sort_key);
            let machine = || one.machine_id.cmp(&other.machine_id);
            let newest = || version::compare(&other.version, &one.version);
            key.then_with(machine).then_with(newest)
        };
        let by_name = || version::compare(&other.id, &one.id);
        bad.then(keyed).then_with(by_key).then_with(by_name)
    };
    entries.sort_by(order);
}

/// The place of a file that an entry names: a path from the root of its volume, or, on a root file system, within `/boot`.
pub(super) fn place(volumes: &[&dyn Files], volume: usize, path: &str) -> Place {
    let path = format!("/{}", path.trim_start_matches('/'));
    let in_boot = format!("/boot{path}");
    let is_there = |path: &str| volumes[volume].is_there(path);
    let path = if !is_there(&path) && is_there(&in_boot) {
        in_boot
    } else {
        path
    };
    Place { volume, path }
}

/// The entry that starts by itself on a volume without GRUB: what `loader.conf` says, or the first one.
pub(super) fn alone(volumes: &[&dyn Files], volume: usize) -> Option<(Found, Place)> {
    FOLDERS.iter().find_map(|folder| {
        let files = volumes[volume];
        let mut found = entries(files, folder);
        sort(&mut found);
        let config = format!("{}/loader.conf", folder.trim_end_matches("/entries"));
        let wanted = files.read(&config).and_then(|text| default(&text));
        let named = wanted.and_then(|pattern| {
            let is_it = |entry: &&Entry| {
                matches(&pattern, &entry.id) || matches(&pattern, &format!("{}.conf", entry.id))
            };
            found.iter().find(is_it)
        });
        let entry = named.or(found.first())?;
        let at = |path: &String| place(volumes, volume, path);
        let source = Place {
            volume,
            path: format!("{folder}/{}.conf", entry.id),
        };
        let started = Found {
            title: entry.title.clone(),
            kernel: at(&entry.linux),
            initrds: entry.initrds.iter().map(at).collect(),
            cmdline: entry.options.join(" "),
        };
        Some((started, source))
    })
}

/// What `loader.conf` has behind `default`.
fn default(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let mut values = text.lines().filter_map(|line| {
        let (key, value) = line.trim().split_once(char::is_whitespace)?;
        (key == "default").then(|| value.trim().to_owned())
    });
    values.next()
}

/// Whether a name is one of those that a pattern with `*` and `?` means.
fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.to_lowercase().chars().collect();
    let name: Vec<char> = name.to_lowercase().chars().collect();
    // One star is gone back to at a time: what is behind the last one decides.
    let mut p = 0;
    let mut n = 0;
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(one) if *one == '?' || *one == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|rest| *rest == '*')
}
