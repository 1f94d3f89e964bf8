//! Names as they were typed, and numbers as people read them.

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

/// A time with its two largest units.
pub(super) fn time(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86400 => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{:02}h", whole / 86400, whole % 86400 / 3600),
    }
}

/// Bytes in units of 1024, three figures or so.
pub(super) fn size(bytes: u64) -> String {
    let units = [(30, "G"), (20, "M"), (10, "K")];
    match units.iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) if bytes.is_multiple_of(1 << shift) => {
            format!("{}{unit}", bytes >> shift)
        }
        Some((shift, unit)) => format!("{:.1}{unit}", bytes as f64 / f64::from(1_u32 << shift)),
        None => format!("{bytes}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_short() {
        assert_eq!(
            [0.04, 59.94, 61.0, 7300.0, 200_000.0].map(time),
            ["0.0s", "59.9s", "1m01s", "2h01m", "2d07h"]
        );
        assert_eq!(
            [0, 1023, 1024, 512 << 20, 87_300_000, 3 << 29].map(size),
            ["0", "1023", "1K", "512M", "83.3M", "1.5G"]
        );
    }
}
