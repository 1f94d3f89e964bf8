//! The glossary leads to what it names: every file in a row's last column is there, and defines the types beside it.

use crate::source::Source;
use crate::workspace::Workspace;

/// Rows of `docs/glossary.md` that lead nowhere.
pub fn complaints(workspace: &Workspace) -> Vec<String> {
    let mut complaints = Vec::new();
    for row in workspace.glossary.lines().filter_map(place) {
        let Some((path, types)) = row.split_last() else {
            continue;
        };
        let Some(source) = workspace.sources.iter().find(|source| source.path == *path) else {
            complaints.push(format!("docs/glossary.md: there is no file {path}"));
            continue;
        };
        let defined = types_of(source);
        let missing = types.iter().filter(|name| !defined.contains(*name));
        complaints
            .extend(missing.map(|name| format!("docs/glossary.md: {path} defines no {name}")));
    }
    complaints
}

/// What stands in backticks in the last column of a table's row.
fn place(line: &str) -> Option<Vec<String>> {
    let cells: Vec<&str> = line.strip_prefix('|')?.split('|').collect();
    let cell = cells.get(cells.len().checked_sub(2)?)?;
    let words = cell.split('`').skip(1).step_by(2);
    Some(words.map(str::to_owned).collect())
}

fn types_of(source: &Source) -> Vec<String> {
    let name = |item: &syn::Item| match item {
        syn::Item::Struct(item) => Some(item.ident.to_string()),
        syn::Item::Enum(item) => Some(item.ident.to_string()),
        syn::Item::Trait(item) => Some(item.ident.to_string()),
        syn::Item::Type(item) => Some(item.ident.to_string()),
        _ => None,
    };
    source.syntax.items.iter().filter_map(name).collect()
}
