//! Where the code grows: longest files and functions, unsafe blocks, dependencies.

use std::fmt;

use crate::source::Source;
use crate::workspace::Workspace;

/// Rows in a list of the longest.
const ROWS: usize = 10;

/// Prints the report.
pub fn print(workspace: &Workspace) {
    print_files(workspace);
    print_functions(workspace);
    print_members(workspace);
}

fn print_files(workspace: &Workspace) {
    let mut files: Vec<_> = workspace
        .sources
        .iter()
        .map(|source| (source.line_count(), &source.path))
        .collect();
    files.sort_by(|a, b| b.cmp(a));
    let lines: usize = files.iter().map(|(count, _)| count).sum();
    let median = files.get(files.len() / 2).map_or(0, |(count, _)| *count);
    println!(
        "{} files, {lines} lines, median {median}; longest:",
        files.len()
    );
    for (count, path) in files.iter().take(ROWS) {
        println!("{count:>6}  {path}");
    }
}

fn print_functions(workspace: &Workspace) {
    let mut functions = Vec::new();
    for source in &workspace.sources {
        functions.extend(
            source
                .functions()
                .into_iter()
                .map(|f| (f.line_count, f.name, &source.path)),
        );
    }
    functions.sort_by(|a, b| b.cmp(a));
    let at = |percent: usize| {
        functions
            .get(functions.len() * (100 - percent) / 100)
            .map_or(0, |f| f.0)
    };
    println!(
        "\n{} functions, median {} lines, p90 {}, p99 {}; longest:",
        functions.len(),
        at(50),
        at(90),
        at(99)
    );
    for (count, name, path) in functions.iter().take(ROWS) {
        println!("{count:>6}  {name}  {path}");
    }
}

/// How much of some sources is tests.
struct TestShare {
    tests: usize,
    all: usize,
}

impl TestShare {
    fn of<'s>(sources: impl IntoIterator<Item = &'s Source>) -> TestShare {
        let mut share = TestShare { tests: 0, all: 0 };
        for source in sources {
            share.tests += source.test_line_count();
            share.all += source.line_count();
        }
        share
    }
}

impl fmt::Display for TestShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!(
            "{} %",
            (100 * self.tests + self.all / 2) / self.all.max(1)
        ))
    }
}

fn print_members(workspace: &Workspace) {
    println!(
        "\n{:<14}{:>7}{:>8}{:>8}{:>15}{:>10}{:>11}",
        "crate", "files", "lines", "tests", "unsafe blocks", "ours", "external"
    );
    let ours = |name: &String| workspace.members.iter().any(|member| member.name == *name);
    for member in &workspace.members {
        let sources: Vec<_> = workspace
            .sources
            .iter()
            .filter(|source| member.owns(&source.path))
            .collect();
        let lines: usize = sources.iter().map(|source| source.line_count()).sum();
        let tests = TestShare::of(sources.iter().copied());
        let blocks: usize = sources
            .iter()
            .map(|source| source.unsafe_block_count())
            .sum();
        let inside = member.dependencies.iter().filter(|name| ours(name)).count();
        let outside = member.dependencies.len() - inside;
        println!(
            "{:<14}{:>7}{lines:>8}{:>8}{blocks:>15}{inside:>10}{outside:>11}",
            member.name,
            sources.len(),
            tests.to_string()
        );
    }
    let tests = TestShare::of(&workspace.sources);
    println!(
        "\n{} of {} lines are tests, {tests}",
        tests.tests, tests.all
    );
    println!(
        "{} external packages locked",
        workspace.locked_package_count
    );
}
