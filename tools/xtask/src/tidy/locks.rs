//! What a panic under a lock leaves behind is answered once, in `host::lock`; whoever answers it differently has a reason.

use crate::tidy::allowances::Allowances;
use crate::workspace::Workspace;

/// The word that an answer to a poisoned lock cannot do without.
const WORD: &str = "PoisonError";

/// Files outside the list that answer a poisoned lock, and files in it that do not.
pub fn complaints(workspace: &Workspace, allowances: &Allowances) -> Vec<String> {
    let allowed = &allowances.poison;
    let mut complaints = Vec::new();
    for source in &workspace.sources {
        if allowed.contains(&source.path) {
            continue;
        }
        let path = &source.path;
        let lines = source.lines_of(WORD);
        complaints.extend(lines.iter().map(|line| {
            format!(
                "{path}:{line}: {WORD}; `host::lock::Lock` is the mutex that needs no such answer"
            )
        }));
    }
    for path in allowed {
        let mut sources = workspace.sources.iter();
        if !sources.any(|source| source.path == *path && !source.lines_of(WORD).is_empty()) {
            complaints.push(format!("tidy.toml: poison {path} answers no poisoned lock"));
        }
    }
    complaints
}
