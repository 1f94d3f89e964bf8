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
    /// Whether it is in a menu below the first one.
    is_below: bool,
}

/// What a configuration says.
#[derive(Default)]
struct Menu {
    labels: Vec<Label>,
    /// `default`: a label, or a kernel with its command line.
    default: String,
    /// Whether a person sees a menu, whose own word for the default then counts.
    has_menu: bool,
    /// `ontimeout`: what starts instead when nobody has chosen in time.
    on_timeout: String,
    /// What `ui`, or a `default` that is a module, has the menu read in place of this file; `~` is this file.
    others: Vec<String>,
    /// The command line of labels that have none.
    append: String,
    /// Whether lines are of the last label; a menu that begins or ends, or a line between entries, ends it.
    is_in_label: bool,
    /// How many menus have begun and not ended.
    depth: u32,
    /// Whether lines are a text for people, until `endtext`.
    is_in_text: bool,
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
            menu.read_others(*files, (folder, path));
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
            let (key, value) = key_of(line);
            match key.as_str() {
                "endtext" => self.is_in_text = false,
                _ if self.is_in_text => {}
                "text" => self.is_in_text = true,
                "include" => {
                    let first = value.split_whitespace().next().unwrap_or_default();
                    self.read(files, (folder, &path_in(folder, first)), depth + 1);
                }
                "menu" => self.menu(files, (folder, value), depth),
                key => self.line(key, value),
            }
        }
        // A text ends with its file at the latest.
        self.is_in_text = false;
    }

    /// What the menu's program is told to read is the menu, and not what told it.
    fn read_others(&mut self, files: &dyn Files, (folder, path): (&str, &str)) {
        let others = std::mem::take(&mut self.others);
        if others.is_empty() {
            return;
        }
        *self = Menu {
            has_menu: true,
            files_left: self.files_left,
            lines_left: self.lines_left,
            ..Menu::default()
        };
        for other in others {
            let other = match other.as_str() {
                "~" => path.to_owned(),
                other => path_in(folder, other),
            };
            self.read(files, (folder, &other), 0);
        }
    }

    /// What shows the entries to a person.
    fn ui(&mut self, value: &str) {
        self.has_menu = true;
        let mut words = value.split_whitespace();
        let program = words.next().unwrap_or_default().to_ascii_lowercase();
        if program.ends_with("menu.c32") {
            self.others = words.map(str::to_owned).collect();
        }
    }

    fn line(&mut self, key: &str, value: &str) {
        let value = value.to_owned();
        if key == "label" {
            self.is_in_label = self.labels.len() < LABELS_MAX;
            if self.is_in_label {
                let name = value.split_whitespace().next().unwrap_or_default();
                self.labels.push(Label {
                    name: name.to_owned(),
                    // One that says nothing else starts the kernel of its name.
                    linux: name.to_owned(),
                    title: value,
                    is_below: self.depth > 0,
                    ..Label::default()
                });
            }
            return;
        }
        match (key, self.labels.last_mut().filter(|_| self.is_in_label)) {
            ("default", _) => {
                if is_module(&value) {
                    self.ui(&value);
                }
                self.default = value;
            }
            ("ui", _) => self.ui(&value),
            ("ontimeout", _) => self.on_timeout = value,
            ("kernel", Some(label)) if is_module(&value) => label.linux.clear(),
            ("kernel" | "linux", Some(label)) => label.linux = value,
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

    /// `menu default`, `menu label TEXT`, `menu include FILE`, menus below this one, and what leads to those; everything else of
    /// a menu is for the eye.
    fn menu(&mut self, files: &dyn Files, (folder, value): (&str, &str), depth: u32) {
        let (key, rest) = key_of(value);
        let label = self.labels.last_mut().filter(|_| self.is_in_label);
        match (key.as_str(), label) {
            ("default", Some(label)) => label.is_default = true,
            // `^` is before the letter that chooses it.
            ("label", Some(label)) => label.title = rest.replace('^', ""),
            ("goto" | "exit" | "quit" | "disabled", Some(label)) => label.linux.clear(),
            ("separator", _) => self.is_in_label = false,
            ("begin", _) => {
                self.is_in_label = false;
                self.depth += 1;
            }
            ("end", _) => {
                self.is_in_label = false;
                self.depth = self.depth.saturating_sub(1);
            }
            ("include", _) => {
                let first = rest.split_whitespace().next().unwrap_or_default();
                self.read(files, (folder, &path_in(folder, first)), depth + 1);
            }
            _ => {}
        }
    }

    /// What starts by itself: when the time has come, what `ontimeout` says if anything; else what `default` names, what the
    /// menu marks, or its first label; none where that is no Linux.
    fn chosen(&self, volume: usize, folder: &str) -> Option<Found> {
        if !self.on_timeout.is_empty() {
            return self.said(&self.on_timeout, volume, folder);
        }
        let has_default = !self.default.is_empty() && !is_module(&self.default);
        let is_label = self.named(&self.default).is_some();
        // A menu knows labels alone.
        if has_default && (is_label || !self.has_menu) {
            return self.said(&self.default, volume, folder);
        }
        let mut own = self.labels.iter().filter(|label| !label.is_below);
        let marked = own.clone().find(|label| label.is_default);
        found(marked.or_else(|| own.next())?, &self.append, volume, folder)
    }

    /// The label that words begin with.
    fn named(&self, words: &str) -> Option<&Label> {
        let first = words.split_whitespace().next().unwrap_or_default();
        self.labels.iter().find(|label| label.name == first)
    }

    /// What words start, as one could type them: a label or a kernel, with more for its command line.
    fn said(&self, words: &str, volume: usize, folder: &str) -> Option<Found> {
        let (first, more) = words.split_once(char::is_whitespace).unwrap_or((words, ""));
        if let Some(label) = self.named(first) {
            let mut found = found(label, &self.append, volume, folder)?;
            for word in more.split_whitespace() {
                let space = if found.cmdline.is_empty() { "" } else { " " };
                found.cmdline.push_str(space);
                found.cmdline.push_str(word);
            }
            return Some(found);
        }
        if is_module(first) {
            return None;
        }
        found(&typed(first, more), "", volume, folder)
    }
}

/// A line's first word, however it is written, and what follows.
fn key_of(line: &str) -> (String, &str) {
    let line = line.trim();
    let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    (key.to_ascii_lowercase(), value.trim())
}

/// Whether a file is a program for SYSLINUX itself, and no kernel.
fn is_module(path: &str) -> bool {
    let first = path.split_whitespace().next().unwrap_or_default();
    let lower = first.to_ascii_lowercase();
    let kinds = [".c32", ".com", ".cbt", ".0", ".bin", ".bss", ".bs", ".img"];
    kinds.iter().any(|kind| lower.ends_with(kind))
}

/// A kernel with its command line, as one could type them.
fn typed(linux: &str, append: &str) -> Label {
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
