//! Names as they were typed, and what a guest wrote as a person can read it.

use std::thread;
use std::time::{Duration, Instant};

use api::{VmEnd, VmName};
use fleet::{Inventory, Vm};

use crate::failure::Failure;

/// How long the kernel may take to bury a process that has said goodbye.
const BURIAL: Duration = Duration::from_secs(5);

/// Every name, or the first that is none.
pub(super) fn names(typed: &[String]) -> Result<Vec<VmName>, Failure> {
    let mut names: Vec<VmName> = Vec::new();
    for name in typed {
        let name = VmName::new(name).map_err(|source| Failure::Name {
            name: name.clone(),
            source,
        })?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// The one that is meant.
pub(super) fn find(inventory: &Inventory, typed: &str) -> Result<Vm, Failure> {
    let name = VmName::new(typed).map_err(|source| Failure::Name {
        name: typed.to_owned(),
        source,
    })?;
    Ok(inventory.find(&name)?)
}

/// Waits until nobody holds `name` any more; how its VM ended, if that is still known.
pub(super) fn buried(inventory: &Inventory, name: &VmName) -> Result<Option<VmEnd>, Failure> {
    let deadline = Instant::now() + BURIAL;
    while inventory.is_running(name)? && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    // What ran at a terminal leaves nothing, or somebody else has the name already.
    Ok(inventory.find(name).ok().and_then(|vm| vm.end))
}

/// What a guest wrote, as something that cannot move the cursor of whoever reads it.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// Rows under heads, each column as wide as it must be.
pub(super) fn columns<const N: usize>(heads: &[&str; N], rows: &[[String; N]]) -> String {
    let heads = heads.map(str::to_owned);
    let all: Vec<&[String; N]> = std::iter::once(&heads).chain(rows).collect();
    let width = |column: usize| {
        all.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &&[String; N]| {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    all.iter().map(line).collect()
}
