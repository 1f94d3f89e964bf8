//! `cargo xtask bench io`: what a guest's devices carry, part by part; each part compares with QEMU by itself.

use anyhow::{Result, bail};

use crate::runs::runs;
use crate::{disk, login, network, streams};

/// A part: how it is called on the command line, and what measures it.
type Part = (&'static str, fn(usize) -> Result<bool>);

const PARTS: [Part; 4] = [
    ("disk", disk::compare),
    ("network", network::compare),
    ("streams", streams::compare),
    ("login", login::compare),
];

/// Measures the part that is named, or every one; whether all keep their promises.
pub fn run(words: &[&str]) -> Result<bool> {
    let (named, options) = match words {
        [name, options @ ..] if !name.starts_with('-') => (Some(*name), options),
        options => (None, options),
    };
    let run_count = runs(options)?;
    let wanted: Vec<Part> = PARTS
        .into_iter()
        .filter(|(name, _)| named.is_none_or(|named| named == *name))
        .collect();
    if wanted.is_empty() {
        bail!("the parts of `bench io` are disk, network, streams and login");
    }
    let mut is_fast = true;
    for (_, compare) in wanted {
        is_fast &= compare(run_count)?;
        println!();
    }
    Ok(is_fast)
}
