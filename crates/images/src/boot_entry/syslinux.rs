//! The menus of SYSLINUX's family (isolinux on discs, extlinux on disks): labels, and which of them starts by itself.
//!
//! ```text
//! default live            UI vesamenu.c32
//! label live              label live
//!   kernel /live/vmlinuz    menu default
//!   append initrd=/live/initrd boot=live
//! ```

use super::volume::Files;
use super::{Found, Place};

/// Where its configuration lies, in the order in which isolinux and the others look for it, most special first.
const CONFIGS: [&str; 12] = [
    "/boot/isolinux/isolinux.cfg",
    "/isolinux/isolinux.cfg",
    "/isolinux.cfg",
    "/boot/syslinux/syslinux.cfg",
    "/syslinux/syslinux.cfg",
    "/syslinux.cfg",
    "/boot/isolinux/syslinux.cfg",
    "/isolinux/syslinux.cfg",
    "/boot/extlinux/extlinux.conf",
    "/boot/extlinux.conf",
    "/extlinux/extlinux.conf",
    "/extlinux.conf",
];

/// Files that are read, files within files, labels, and lines, at most.
const FILES_MAX: u32 = 64;
const DEPTH_MAX: u32 = 8;
const LABELS_MAX: usize = 512;
const LINES_MAX: u32 = 20_000;

/// A label, as its lines have it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Label {
    name: String,
    /// The menu's word for it.
    title: String,
    /// The kernel; nothing where it starts no Linux.
    linux: String,
    append: Option<String>,
    initrd: String,
    is_default: bool,
}

/// What a configuration says.
#[derive(Default)]
struct Menu {
    labels: Vec<Label>,
    /// `default`: a label, or a kernel with its command line.
    default: String,
    /// Whether a person sees a menu, whose own word for the default then counts.
    has_menu: bool,
    /// The command line of labels that have none.
    append: String,
    files_left: u32,
    lines_left: u32,
}

/// What starts by itself, and the file that says so.
pub(super) fn entry(volumes: &[&dyn Files]) -> Option<(Found, Place)> {
    for path in CONFIGS {
        for (volume, files) in volumes.iter().enumerate() {
            let place = Place {
                volume,
                path: path.to_owned(),
            };
            if !files.is_there(path) {
                continue;
            }
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            let mut menu = Menu {
                files_left: FILES_MAX,
                lines_left: LINES_MAX,
                ..Menu::default()
            };
            menu.read(*files, (folder, path), 0);
            if let Some(found) = menu.chosen(volume, folder) {
                return Some((found, place));
            }
        }
    }
    None
}

/// A path as SYSLINUX takes it: from the folder of its configuration on, unless it begins with `/`.
fn path_in(folder: &str, path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{folder}/{path}")
    }
}

impl Menu {
    fn read(&mut self, files: &dyn Files, (folder, path): (&str, &str), depth: u32) {
        if self.files_left == 0 || depth > DEPTH_MAX {
            return;
        }
        self.files_left -= 1;
        let Some(text) = files.read(path) else { return };
        for line in String::from_utf8_lossy(&text).lines() {
            if self.lines_left == 0 {
                return;
            }
            self.lines_left -= 1;
            let line = line.trim();
            let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let value = value.trim();
            match key.to_ascii_lowercase().as_str() {
                "include" => {
                    let first = value.split_whitespace().next().unwrap_or_default();
                    self.read(files, (folder, &path_in(folder, first)), depth + 1);
                }
                "menu" => self.menu(files, (folder, value), depth),
                key => self.line(key, value),
            }
        }
    }

    fn line(&mut self, key: &str, value: &str) {
        let value = value.to_owned();
        if key == "label" && self.labels.len() < LABELS_MAX {
            self.labels.push(Label {
                title: value.clone(),
                name: value,
                ..Label::default()
            });
            return;
        }
        match (key, self.labels.last_mut()) {
            ("default", _) => {
                self.has_menu |= is_module(&value);
                self.default = value;
            }
            ("ui", _) => self.has_menu = true,
            ("kernel" | "linux", Some(label)) if !is_module(&value) => label.linux = value,
            // What begins another system, another loader, or a module, starts no Linux.
            (
                "localboot" | "com32" | "boot" | "bss" | "fdimage" | "config" | "pxe" | "comboot",
                Some(label),
            ) => {
                label.linux.clear();
            }
            ("append", Some(label)) => label.append = Some(value),
            ("append", None) => self.append = value,
            ("initrd", Some(label)) => label.initrd = value,
            _ => {}
        }
    }

    /// `menu default`, `menu label TEXT`, `menu include FILE`; everything else of a menu is for the eye.
    fn menu(&mut self, files: &dyn Files, (folder, value): (&str, &str), depth: u32) {
        let (key, rest) = value.split_once(char::is_whitespace).unwrap_or((value, ""));
        match (key.to_ascii_lowercase().as_str(), self.labels.last_mut()) {
            ("default", Some(label)) => label.is_default = true,
            // `^` is before the letter that chooses it.
            ("label", Some(label)) => label.title = rest.trim().replace('^', ""),
            ("include", _) => {
                let first = rest.split_whitespace().next().unwrap_or_default();
                self.read(files, (folder, &path_in(folder, first)), depth + 1);
            }
            _ => {}
        }
    }

    /// What starts by itself: what the menu marks, what `default` names, or the first label; none where that is no Linux.
    fn chosen(&self, volume: usize, folder: &str) -> Option<Found> {
        let first = self.default.split_whitespace().next().unwrap_or_default();
        let named = self.labels.iter().find(|label| label.name == first);
        let marked = self.labels.iter().find(|label| label.is_default);
        let meant = match self.has_menu {
            true => marked.or(named).or(self.labels.first()),
            false if named.is_none() && !first.is_empty() && !is_module(first) => {
                return found(&typed(&self.default), "", volume, folder);
            }
            false => named.or(marked).or(self.labels.first()),
        };
        found(meant?, &self.append, volume, folder)
    }
}

/// Whether a file is a program for SYSLINUX itself, and no kernel.
fn is_module(path: &str) -> bool {
    let first = path.split_whitespace().next().unwrap_or_default();
    let lower = first.to_ascii_lowercase();
    let kinds = [".c32", ".com", ".cbt", ".0", ".bin", ".bss", ".bs", ".img"];
    kinds.iter().any(|kind| lower.ends_with(kind))
}

/// `default` with a kernel and its command line, as one could type them.
fn typed(words: &str) -> Label {
    let (linux, append) = words.split_once(char::is_whitespace).unwrap_or((words, ""));
    Label {
        name: linux.to_owned(),
        title: linux.to_owned(),
        linux: linux.to_owned(),
        append: Some(append.trim().to_owned()),
        ..Label::default()
    }
}

fn found(label: &Label, below: &str, volume: usize, folder: &str) -> Option<Found> {
    if label.linux.is_empty() {
        return None;
    }
    let cmdline = match label.append.as_deref() {
        Some("-") => "",
        Some(own) => own,
        None => below,
    };
    let place = |path: &str| Place {
        volume,
        path: path_in(folder, path),
    };
    let of_cmdline = cmdline
        .split_whitespace()
        .rev()
        .find_map(|word| word.strip_prefix("initrd="));
    let initrds = if label.initrd.is_empty() {
        of_cmdline.unwrap_or_default()
    } else {
        &label.initrd
    };
    Some(Found {
        title: label.title.clone(),
        kernel: place(&label.linux),
        initrds: initrds
            .split(',')
            .filter(|path| !path.is_empty())
            .map(place)
            .collect(),
        cmdline: cmdline.split_whitespace().collect::<Vec<_>>().join(" "),
    })
}
