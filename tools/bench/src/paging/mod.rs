//! `cargo xtask bench paging`: what it costs that pages of a guest lie somewhere else, part by part.

mod ahead;
mod codec;
mod fault;
mod guest;
mod hot;
mod many;
mod pages;
mod sampling;
mod swap;

use anyhow::{Result, bail};

pub use guest::{Guest, mother};

/// A part: how it is called on the command line, and what measures it.
type Part = (&'static str, fn() -> Result<bool>);

const PARTS: [Part; 7] = [
    ("codec", codec::compare),
    ("fault", fault::measure),
    ("ahead", ahead::measure),
    ("sampling", sampling::measure),
    ("hot", hot::measure),
    ("many", many::measure),
    ("swap", swap::compare),
];

/// Measures the part that is named, or every one; whether all keep their promises.
pub fn run(words: &[&str]) -> Result<bool> {
    let wanted: Vec<Part> = match words {
        [] => PARTS.to_vec(),
        [named] => PARTS
            .into_iter()
            .filter(|(name, _)| name == named)
            .collect(),
        _ => Vec::new(),
    };
    if wanted.is_empty() {
        bail!(
            "the parts of `bench paging` are {}",
            PARTS.map(|(name, _)| name).join(", ")
        );
    }
    crate::boot::build_mother()?;
    let mut is_kept = true;
    for (_, measure) in wanted {
        is_kept &= measure()?;
        println!();
    }
    Ok(is_kept)
}
