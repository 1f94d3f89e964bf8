//! Runs a script: variables, decisions, and the few commands that say what is started.

use std::collections::BTreeMap;

use super::script::{Block, Statement, parse};
use super::test::Look;
use super::words::{Piece, Word};
use super::{Level, MenuEntry, Start, test};
use crate::boot_entry::volume::Files;
use crate::boot_entry::{Found, Place, bls};

/// Statements that are run, functions within functions, files that are read, entries, and bytes of a variable, at most.
const STEPS_MAX: u32 = 20_000;
const DEPTH_MAX: usize = 24;
const FILES_MAX: u32 = 64;
const ENTRIES_MAX: usize = 512;
const VALUE_BYTES_MAX: usize = 32 << 10;
const VARIABLES_MAX: usize = 1024;

/// What scripts of distributions look at before they set anything: a GRUB 2 on a PC, with all that it may have.
/// `initrdfail`: Ubuntu's images try a start without an initrd first, and would say so to themselves here if that failed.
const VARIABLES: [(&str, &str); 10] = [
    ("grub_platform", "pc"),
    ("grub_cpu", "i386"),
    ("feature_menuentry_id", "y"),
    ("feature_platform_search_hint", "y"),
    ("feature_default_font_path", "y"),
    ("feature_timeout_style", "y"),
    ("feature_all_video_module", "y"),
    ("feature_200_final", "y"),
    ("default", "0"),
    ("initrdfail", "1"),
];

/// Succeed and do nothing here.
const HARMLESS: [&str; 31] = [
    ":",
    "true",
    "insmod",
    "rmmod",
    "export",
    "echo",
    "save_env",
    "serial",
    "terminal",
    "terminal_input",
    "terminal_output",
    "terminfo",
    "clear",
    "sleep",
    "play",
    "loadfont",
    "background_image",
    "background_color",
    "gfxmode",
    "videoinfo",
    "keymap",
    "lsmod",
    "ls",
    "increment",
    "decrement",
    "set_vendor",
    "devicetree",
    "acpi",
    "authenticate",
    "password",
    "password_pbkdf2",
];

/// A script that runs.
pub(super) struct Run<'a> {
    volumes: &'a [&'a dyn Files],
    /// The volume of the menu's own file.
    home: usize,
    variables: BTreeMap<String, String>,
    functions: BTreeMap<String, Block>,
    /// Of the functions that are being run.
    arguments: Vec<Vec<String>>,
    pub(super) entries: Vec<MenuEntry>,
    /// The submenus that the script is in, and how many entries each has so far, the outermost first.
    menus: Vec<Level>,
    counts: Vec<usize>,
    linux: Option<(Place, String)>,
    initrds: Vec<Place>,
    steps_left: u32,
    files_left: u32,
    depth: usize,
    is_returning: bool,
}

impl<'a> Run<'a> {
    /// The script of this file's menu, before anything of it is run.
    pub(super) fn new(volumes: &'a [&'a dyn Files], place: &Place) -> Run<'a> {
        let mut variables: BTreeMap<String, String> = VARIABLES
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let device = volumes[place.volume].grub_name();
        let folder = place.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        variables.insert("prefix".to_owned(), format!("({device}){folder}"));
        variables.insert("cmdpath".to_owned(), format!("({device}){folder}"));
        variables.insert("root".to_owned(), device);
        Run {
            volumes,
            home: place.volume,
            variables,
            functions: BTreeMap::new(),
            arguments: Vec::new(),
            entries: Vec::new(),
            menus: Vec::new(),
            counts: vec![0],
            linux: None,
            initrds: Vec::new(),
            steps_left: STEPS_MAX,
            files_left: FILES_MAX,
            depth: 0,
            is_returning: false,
        }
    }

    /// Runs a script's text.
    pub(super) fn script(&mut self, text: &str) -> bool {
        self.block(&parse(text))
    }

    /// A variable's value; nothing, if it is not set.
    pub(super) fn variable(&self, name: &str) -> String {
        self.variables.get(name).cloned().unwrap_or_default()
    }

    /// What an entry of the menu starts, if that is a Linux.
    pub(super) fn start(&mut self, entry: &MenuEntry) -> Option<Found> {
        let block = match &entry.start {
            Start::Entry(found) => return Some((**found).clone()),
            Start::Script(block) => block,
        };
        self.linux = None;
        self.initrds.clear();
        self.is_returning = false;
        self.steps_left = STEPS_MAX;
        let last = entry.levels.last();
        let title = last.map(|level| level.title.clone()).unwrap_or_default();
        self.set("chosen", title.clone());
        self.block(block);
        let (kernel, cmdline) = self.linux.take()?;
        Some(Found {
            title,
            kernel,
            initrds: std::mem::take(&mut self.initrds),
            cmdline,
        })
    }

    /// Runs statements; whether the last one succeeded.
    fn block(&mut self, block: &Block) -> bool {
        if self.depth >= DEPTH_MAX {
            return false;
        }
        self.depth += 1;
        let mut is_good = true;
        for statement in block.iter() {
            if self.steps_left == 0 || self.is_returning {
                break;
            }
            self.steps_left -= 1;
            is_good = self.statement(statement);
            let sign = if is_good { "0" } else { "1" };
            self.set("?", sign.to_owned());
        }
        self.depth -= 1;
        is_good
    }

    fn statement(&mut self, statement: &Statement) -> bool {
        match statement {
            Statement::Function(name, block) => {
                if self.functions.len() < VARIABLES_MAX {
                    self.functions.insert(name.clone(), block.clone());
                }
                true
            }
            Statement::If(branches, otherwise) => {
                for (condition, then) in branches {
                    if self.block(condition) {
                        return self.block(then);
                    }
                }
                otherwise.as_ref().is_none_or(|block| self.block(block))
            }
            Statement::For(name, words, block) => {
                for value in self.expand(words) {
                    if self.steps_left == 0 {
                        return false;
                    }
                    self.set(name, value);
                    self.block(block);
                }
                true
            }
            Statement::While(is_until, condition, block) => {
                while self.steps_left > 0
                    && !self.is_returning
                    && self.block(condition) != *is_until
                {
                    self.steps_left = self.steps_left.saturating_sub(1);
                    self.block(block);
                }
                true
            }
            Statement::Command(words, block) => self.command(words, block.as_ref()),
        }
    }

    fn command(&mut self, words: &[Word], block: Option<&Block>) -> bool {
        if let Some((name, value)) = self.assignment(words) {
            self.set(&name, value);
            return true;
        }
        let expanded = self.expand(words);
        let Some((name, rest)) = expanded.split_first() else {
            return true;
        };
        if let Some(function) = self.functions.get(name).cloned() {
            self.arguments.push(rest.to_vec());
            let is_good = self.block(&function);
            self.arguments.pop();
            self.is_returning = false;
            return is_good;
        }
        match (name.as_str(), block) {
            ("menuentry", Some(block)) => self.add_entry(rest, block),
            ("submenu", Some(block)) => self.add_submenu(rest, block),
            ("set", _) => self.set_from(rest),
            ("unset", _) => {
                for name in rest {
                    self.variables.remove(name);
                }
                true
            }
            ("[", _) => {
                let end = rest.iter().rposition(|word| word == "]");
                test::holds(self, &rest[..end.unwrap_or(rest.len())])
            }
            ("test", _) => test::holds(self, rest),
            ("linux" | "linux16" | "linuxefi", _) => self.set_linux(rest),
            ("initrd" | "initrd16" | "initrdefi", _) => {
                let paths = rest.iter().filter(|word| !word.starts_with("--"));
                let places: Vec<Place> = paths.map(|path| self.place(path)).collect();
                self.initrds = places;
                true
            }
            ("load_env", _) => self.load_env(rest),
            ("blscfg", _) => self.add_bls(),
            ("configfile" | "source" | "." | "extract_entries_configfile", _) => self.include(rest),
            ("return" | "exit", _) => {
                self.is_returning = true;
                true
            }
            (name, _) if name == "search" || name.starts_with("search.") => self.search(name, rest),
            (name, _) => HARMLESS.contains(&name),
        }
    }

    /// `NAME=VALUE` as a command.
    fn assignment(&self, words: &[Word]) -> Option<(String, String)> {
        let [word] = words else { return None };
        let Some(Piece::Text(first)) = word.pieces.first() else {
            return None;
        };
        let (name, _) = first.split_once('=')?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(is_name) {
            return None;
        }
        let whole = self.text(word);
        let value = whole.split_once('=').map_or("", |(_, value)| value);
        Some((name.to_owned(), value.to_owned()))
    }

    fn set_from(&mut self, words: &[String]) -> bool {
        for word in words {
            if let Some((name, value)) = word.split_once('=') {
                self.set(name, value.to_owned());
            }
        }
        true
    }

    fn set(&mut self, name: &str, mut value: String) {
        if value.len() > VALUE_BYTES_MAX {
            value = String::new();
        }
        if self.variables.len() < VARIABLES_MAX || self.variables.contains_key(name) {
            self.variables.insert(name.to_owned(), value);
        }
    }

    /// What a variable or a function's argument is.
    fn value(&self, name: &str) -> String {
        let arguments = self.arguments.last();
        match (name, arguments) {
            ("@" | "*", Some(all)) => all.join(" "),
            ("#", Some(all)) => all.len().to_string(),
            (name, Some(all)) if name.parse::<usize>().is_ok_and(|at| at > 0) => {
                let at = name.parse::<usize>().unwrap_or(1);
                all.get(at - 1).cloned().unwrap_or_default()
            }
            _ => self.variable(name),
        }
    }

    /// A word with its values, as one text.
    fn text(&self, word: &Word) -> String {
        let mut text = String::new();
        for piece in &word.pieces {
            match piece {
                Piece::Text(part) => text.push_str(part),
                Piece::Variable { name, .. } => text.push_str(&self.value(name)),
            }
            if text.len() > VALUE_BYTES_MAX {
                return String::new();
            }
        }
        text
    }

    /// Words with their values; what a variable without quotes has is split where it has spaces.
    fn expand(&self, words: &[Word]) -> Vec<String> {
        let mut all = Vec::new();
        let mut total_bytes = 0;
        for word in words {
            let splits = |piece: &Piece| {
                matches!(
                    piece,
                    Piece::Variable {
                        is_quoted: false,
                        ..
                    }
                )
            };
            let text = self.text(word);
            total_bytes += text.len();
            if total_bytes > 4 * VALUE_BYTES_MAX {
                break;
            }
            if !word.pieces.iter().any(splits) {
                all.push(text);
            } else if word.is_quoted {
                // Quotes beside a variable without them: distributions write that for paths, which have no spaces.
                all.push(text);
            } else {
                all.extend(text.split_whitespace().map(str::to_owned));
            }
        }
        all
    }

    /// A file by GRUB's word for it: `(hd0,gpt1)/path`, or a path on the volume that `root` is.
    fn place(&self, path: &str) -> Place {
        let root = self.variable("root");
        let (device, path) = match path.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            Some((device, path)) => (device, path),
            None => (root.as_str(), path),
        };
        Place {
            volume: self.volume(device).unwrap_or(self.home),
            path: format!("/{}", path.trim_start_matches('/')),
        }
    }

    /// The volume that GRUB calls so; a partition's number may stand without its table's name.
    fn volume(&self, device: &str) -> Option<usize> {
        let plain = |name: &str| name.replace("gpt", "").replace("msdos", "");
        let is_it = |files: &&dyn Files| {
            let name = files.grub_name();
            name == device || plain(&name) == device
        };
        self.volumes.iter().position(is_it)
    }

    /// A file's bytes.
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        let Place { volume, path } = self.place(path);
        self.volumes[volume].read(&path)
    }

    fn set_linux(&mut self, words: &[String]) -> bool {
        let mut words = words.iter().skip_while(|word| word.starts_with("--"));
        let Some(path) = words.next() else {
            return false;
        };
        // As GRUB hands it over (`grub_create_loader_cmdline`).
        let quoted = |word: &String| match word.contains(' ') {
            true => format!("\"{word}\""),
            false => word.clone(),
        };
        let cmdline: Vec<String> = words.map(quoted).collect();
        self.linux = Some((self.place(path), cmdline.join(" ")));
        self.initrds.clear();
        true
    }

    /// Title and id of a menu's entry, from its words.
    fn level(&mut self, words: &[String]) -> Level {
        let mut title = None;
        let mut id = String::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--id" => id = words.next().cloned().unwrap_or_default(),
                "--class" | "--users" | "--hotkey" | "--source" => {
                    words.next();
                }
                option if option.starts_with("--id=") => {
                    option["--id=".len()..].clone_into(&mut id)
                }
                option if option.starts_with("--") => {}
                _ if title.is_none() => title = Some(word.clone()),
                _ => {}
            }
        }
        let count = self.counts.last_mut();
        let index = count.as_ref().map_or(0, |count| **count);
        if let Some(count) = count {
            *count += 1;
        }
        Level {
            index,
            title: title.unwrap_or_default(),
            id,
        }
    }

    fn add_entry(&mut self, words: &[String], block: &Block) -> bool {
        let level = self.level(words);
        self.add(level, Start::Script(block.clone()));
        true
    }

    fn add(&mut self, level: Level, start: Start) {
        if self.entries.len() < ENTRIES_MAX {
            let mut levels = self.menus.clone();
            levels.push(level);
            self.entries.push(MenuEntry { levels, start });
        }
    }

    fn add_submenu(&mut self, words: &[String], block: &Block) -> bool {
        let level = self.level(words);
        self.menus.push(level);
        self.counts.push(0);
        let is_good = self.block(block);
        self.menus.pop();
        self.counts.pop();
        is_good
    }

    /// `search --fs-uuid --set=root UUID`, and `search.fs_uuid UUID root`.
    fn search(&mut self, name: &str, words: &[String]) -> bool {
        let mut by = name.strip_prefix("search.").unwrap_or_default().to_owned();
        let mut variable = "root".to_owned();
        let mut names = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--fs-uuid" | "-u" => by = "fs_uuid".to_owned(),
                "--label" | "--fs-label" | "-l" => by = "fs_label".to_owned(),
                "--file" | "-f" => by = "fs_file".to_owned(),
                "--hint" => {
                    words.next();
                }
                other => match other.strip_prefix("--set=") {
                    Some(wanted) => wanted.clone_into(&mut variable),
                    None if other.starts_with('-') => {}
                    None => names.push(other),
                },
            }
        }
        let is_short_form = name != "search";
        let wanted = if is_short_form {
            if let Some(second) = names.get(1) {
                (*second).clone_into(&mut variable);
            }
            names.first()
        } else {
            names.last()
        };
        let Some(wanted) = wanted else { return false };
        let is_it = |files: &&&dyn Files| match by.as_str() {
            "fs_uuid" => files.uuid().eq_ignore_ascii_case(wanted),
            "fs_label" => files.label() == **wanted,
            _ => files.is_there(&format!("/{}", wanted.trim_start_matches('/'))),
        };
        let found = self
            .volumes
            .iter()
            .find(is_it)
            .map(|files| files.grub_name());
        match found {
            Some(device) => {
                self.set(&variable, device);
                true
            }
            None => false,
        }
    }

    /// `load_env [-f FILE] [NAME...]`: the variables of an environment block.
    fn load_env(&mut self, words: &[String]) -> bool {
        let mut file = format!("{}/grubenv", self.variable("prefix"));
        let mut only = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "-f" | "--file" => file = words.next().cloned().unwrap_or_default(),
                option if option.starts_with('-') => {}
                name => only.push(name.to_owned()),
            }
        }
        let Some(bytes) = self.read(&file) else {
            return false;
        };
        let text = String::from_utf8_lossy(&bytes);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, value)) = line.split_once('=')
                && (only.is_empty() || only.iter().any(|it| it == name))
            {
                self.set(name, value.to_owned());
            }
        }
        true
    }

    /// Another file's script, as if it stood here.
    fn include(&mut self, words: &[String]) -> bool {
        let Some(path) = words.first() else {
            return false;
        };
        if self.files_left == 0 {
            return false;
        }
        self.files_left -= 1;
        match self.read(path) {
            Some(text) => self.script(&String::from_utf8_lossy(&text)),
            None => false,
        }
    }

    /// `blscfg`: the entries of the boot volume, with the script's variables.
    fn add_bls(&mut self) -> bool {
        if self.files_left == 0 {
            return false;
        }
        self.files_left -= 1;
        let devices = [self.variable("boot"), self.variable("root")];
        let volumes = devices.iter().filter_map(|device| self.volume(device));
        let volumes: Vec<usize> = volumes.chain([self.home]).collect();
        let found = volumes.iter().find_map(|volume| {
            let of = |folder: &&str| bls::entries(self.volumes[*volume], folder);
            let found = bls::FOLDERS.iter().map(of).find(|it| !it.is_empty());
            found.map(|entries| (*volume, entries))
        });
        let Some((volume, mut entries)) = found else {
            return false;
        };
        bls::sort_as_grub(&mut entries);
        for entry in entries {
            let level = self.level(&[entry.title.clone(), "--id".to_owned(), entry.id.clone()]);
            let initrds = entry
                .initrds
                .iter()
                .flat_map(|path| self.variables_in(path));
            let initrds: Vec<String> = initrds.collect();
            let options = entry
                .options
                .iter()
                .flat_map(|text| self.variables_in(text));
            let found = Found {
                title: entry.title,
                kernel: bls::place(self.volumes, volume, &entry.linux),
                initrds: initrds
                    .iter()
                    .map(|path| bls::place(self.volumes, volume, path))
                    .collect(),
                cmdline: options.collect::<Vec<_>>().join(" "),
            };
            self.add(level, Start::Entry(Box::new(found)));
        }
        true
    }

    /// The words of a line of a BLS entry, with the script's variables.
    fn variables_in(&self, line: &str) -> Vec<String> {
        let words = super::words::tokens(&escaped(line));
        let words = words.into_iter().filter_map(|token| match token {
            super::words::Token::Word(word) => Some(word),
            super::words::Token::End => None,
        });
        self.expand(&words.collect::<Vec<_>>())
    }
}

/// A line of a BLS entry as a script's words: it knows `$` and nothing else, so quotes are kept.
fn escaped(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    for c in line.chars() {
        if matches!(c, '\'' | '"' | '\\' | ';' | '#') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

impl Look for Run<'_> {
    fn is_there(&self, path: &str) -> bool {
        let Place { volume, path } = self.place(path);
        self.volumes[volume].is_there(&path)
    }

    fn has_bytes(&self, path: &str) -> bool {
        self.read(path).is_some_and(|bytes| !bytes.is_empty())
    }
}
