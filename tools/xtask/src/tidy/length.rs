//! A file over 800 lines or a function over 70 needs a reason in the list.

use crate::tidy::allowances::Allowances;
use crate::workspace::Workspace;

/// Lines a file may have, tests included.
pub const FILE_LIMIT: usize = 800;

/// Lines a function may have, from signature to closing brace.
pub const FUNCTION_LIMIT: usize = 70;

/// What is too long without a reason, and reasons for what is not too long.
pub fn complaints(workspace: &Workspace, allowances: &Allowances) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut long_files = Vec::new();
    let mut long_functions = Vec::new();
    for source in &workspace.sources {
        if source.line_count() > FILE_LIMIT {
            long_files.push(source.path.clone());
            if !allowances.long_files.contains(&source.path) {
                let count = source.line_count();
                complaints.push(format!(
                    "{} has {count} lines, the limit is {FILE_LIMIT}",
                    source.path
                ));
            }
        }
        for function in source
            .functions()
            .into_iter()
            .filter(|function| function.line_count > FUNCTION_LIMIT)
        {
            let key = (source.path.clone(), function.name);
            if !allowances.long_functions.contains(&key) {
                let path = &key.0;
                let name = &key.1;
                let count = function.line_count;
                complaints.push(format!(
                    "{path}: fn {name} has {count} lines, the limit is {FUNCTION_LIMIT}"
                ));
            }
            long_functions.push(key);
        }
    }
    for stale in allowances
        .long_files
        .iter()
        .filter(|path| !long_files.contains(path))
    {
        complaints.push(format!("tidy.toml: long_file {stale} is not long"));
    }
    for (path, name) in allowances
        .long_functions
        .iter()
        .filter(|key| !long_functions.contains(key))
    {
        complaints.push(format!(
            "tidy.toml: long_function {name} in {path} is not long"
        ));
    }
    complaints
}
