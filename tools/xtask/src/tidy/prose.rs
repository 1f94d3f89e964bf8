//! Every file says what it is; every note for later has a number.

use crate::source::Source;
use crate::workspace::Workspace;

/// Words for "later", spelled so that this file does not contain them.
const LATER: [&str; 2] = [concat!("TO", "DO"), concat!("FIX", "ME")];

/// Files without a module doc, notes without a number.
pub fn complaints(workspace: &Workspace) -> Vec<String> {
    workspace
        .sources
        .iter()
        .flat_map(|source| undocumented(source).into_iter().chain(unnumbered(source)))
        .collect()
}

fn undocumented(source: &Source) -> Option<String> {
    let is_documented = source.syntax.attrs.iter().any(|attribute| {
        matches!(attribute.style, syn::AttrStyle::Inner(_)) && attribute.path().is_ident("doc")
    });
    (!is_documented).then(|| format!("{} does not open with a `//!` doc", source.path))
}

fn unnumbered(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for word in LATER {
            let Some((_, rest)) = line.split_once(word) else {
                continue;
            };
            let number = rest.trim_start_matches(['(', '#', ' ']);
            if !number.starts_with(|first: char| first.is_ascii_digit()) {
                complaints.push(format!(
                    "{}:{}: {word} without a number",
                    source.path,
                    index + 1
                ));
            }
        }
    }
    complaints
}
