//! GRUB's menu: the script that distributions generate (`grub.cfg`) is run as far as it says what is started.
//!
//! Commands that show something, load modules or switch terminals do nothing here and succeed; what is not known fails, as it
//! would in a GRUB without that module. Entries that start no Linux are passed over, as are those that only UEFI can start.

mod run;
mod script;
mod test;
mod words;

use super::volume::Files;
use super::{Found, Place};
use run::Run;

/// Where an entry stands in the menu, from the top down: one for each submenu, and its own.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Level {
    index: usize,
    title: String,
    id: String,
}

/// What an entry does.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Start {
    /// A part of the script.
    Script(script::Block),
    /// What a BLS entry says.
    Entry(Box<Found>),
}

/// An entry of the menu.
#[derive(Clone, PartialEq, Eq, Debug)]
struct MenuEntry {
    levels: Vec<Level>,
    start: Start,
}

/// A menu with what its script has set.
pub(super) struct Menu<'a> {
    run: Run<'a>,
}

impl<'a> Menu<'a> {
    /// The menu of a file; `None` if there is no such file.
    pub(super) fn read(volumes: &'a [&'a dyn Files], place: &Place) -> Option<Menu<'a>> {
        let text = volumes[place.volume].read(&place.path)?;
        let mut run = Run::new(volumes, place);
        run.script(&String::from_utf8_lossy(&text));
        Some(Menu { run })
    }

    /// What starts by itself: the default entry, or the first one that starts a Linux.
    pub(super) fn chosen(mut self) -> Option<Found> {
        let entries = std::mem::take(&mut self.run.entries);
        let wanted = self.run.variable("default");
        let parts: Vec<&str> = wanted.split('>').collect();
        let is_default = |entry: &&MenuEntry| is_meant(&entry.levels, &parts);
        let default = entries.iter().find(is_default);
        let mut in_order = default.into_iter().chain(&entries);
        in_order.find_map(|entry| self.run.start(entry))
    }
}

/// Whether these words lead to an entry, or to a submenu that it is in.
fn is_meant(levels: &[Level], parts: &[&str]) -> bool {
    let is_it = |(level, part): (&Level, &&str)| {
        let is_index = part.parse() == Ok(level.index);
        !part.is_empty() && (is_index || *part == level.title || *part == level.id)
    };
    parts.len() <= levels.len() && levels.iter().zip(parts).all(is_it)
}
