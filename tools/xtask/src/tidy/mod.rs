//! House rules that neither rustc nor clippy knows, as code.
//!
//! Every rule is a function from the parsed workspace to complaints, so that its tests are a few lines of source
//! text. What may break a rule, and why, stands in `tools/xtask/tidy.toml`; an entry that nothing needs any more is
//! itself a complaint, so the list only ever describes the code as it is.

mod allowances;
mod circles;
mod examples;
mod glossary;
mod imports;
mod length;
mod locks;
mod names;
mod order;
mod pairs;
mod prose;
mod rooms;
#[cfg(test)]
mod tests;

use std::fs;

use anyhow::{Context, Result};

use crate::workspace::{self, Workspace};
use allowances::Allowances;

/// Prints every complaint and how many rules hold; `true` if all do.
pub fn print_complaints() -> Result<bool> {
    let path = workspace::root().join("tools/xtask/tidy.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let allowances = Allowances::parse(&text).context("parse tools/xtask/tidy.toml")?;
    let rules = rules(&Workspace::load()?, &allowances);
    for complaint in rules.iter().flatten() {
        println!("tidy: {complaint}");
    }
    let broken = rules
        .iter()
        .filter(|complaints| !complaints.is_empty())
        .count();
    println!("{} passed, {broken} failed", rules.len() - broken);
    Ok(broken == 0)
}

/// For each rule all that breaks it, one sentence each.
fn rules(workspace: &Workspace, allowances: &Allowances) -> [Vec<String>; 9] {
    [
        order::complaints(workspace),
        imports::complaints(workspace),
        prose::complaints(workspace),
        rooms::complaints(workspace, allowances),
        length::complaints(workspace, allowances),
        glossary::complaints(workspace),
        locks::complaints(workspace, allowances),
        pairs::complaints(workspace),
        examples::complaints(workspace),
    ]
}
