//! Documentation has no examples that would have to be run: to look for some, rustdoc compiles every crate once more, for
//! minutes. What an example shows, a test shows.

use crate::workspace::Workspace;

/// Words behind an opening fence with which rustdoc takes what follows for Rust (rustdoc book, "Documentation tests").
const RUST: [&str; 6] = [
    "",
    "rust",
    "should_panic",
    "no_run",
    "compile_fail",
    "ignore",
];

/// Blocks of code in documentation that rustdoc would run.
pub fn complaints(workspace: &Workspace) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in &workspace.sources {
        let mut is_open = false;
        for (line, number) in source.text.lines().zip(1..) {
            let line = line.trim_start();
            let text = line.strip_prefix("//!").or(line.strip_prefix("///"));
            let Some(tag) = text.and_then(|text| text.trim().strip_prefix("```")) else {
                continue;
            };
            let first = tag.split(',').next().unwrap_or_default().trim();
            if !is_open && RUST.contains(&first) {
                let path = &source.path;
                complaints.push(format!(
                    "{path}:{number}: an example that nobody runs; write a test, or say ```text"
                ));
            }
            is_open = !is_open;
        }
    }
    complaints
}
