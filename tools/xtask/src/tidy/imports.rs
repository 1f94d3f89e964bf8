//! Modules of one crate never import each other in a circle, however long.
//!
//! A name is followed to the module that defines it, through re-exports too: `use crate::Gpa` where the crate's root
//! says `pub use address::Gpa` is an import of `address`. Two modules are compared where their paths part, so that
//! `engine::run` importing `tables::walk` is an arrow from `engine` to `tables`. A parent and its child may know each
//! other; that is what nesting is for. The crate's root is no such parent but one more module, a table of contents:
//! what a module imports of the root's own definitions must not lead back to it, and a re-export in the root leads to
//! the module behind it. Tests do not count.

use std::collections::{BTreeMap, BTreeSet};

use crate::tidy::circles::circles;
use crate::tidy::names::{Module, Modules};
use crate::workspace::{Member, Workspace};

/// For every knot of modules that import each other one circle, with what each takes of the next.
pub fn complaints(workspace: &Workspace) -> Vec<String> {
    workspace
        .members
        .iter()
        .flat_map(|member| circles_of(workspace, member))
        .collect()
}

fn circles_of(workspace: &Workspace, member: &Member) -> Vec<String> {
    let modules = Modules::of(member, &workspace.sources);
    // For each arrow one path by which a module names what is in the other.
    let mut arrows: BTreeMap<(Module, Module), String> = BTreeMap::new();
    for (from, to, path) in modules.uses() {
        if let Some(arrow) = parting(from, &to) {
            arrows.entry(arrow).or_insert(path);
        }
    }
    let edges: BTreeSet<_> = arrows.keys().cloned().collect();
    let tell = |circle: Vec<&Module>| {
        let next = circle.iter().cycle().skip(1);
        let steps = circle.iter().zip(next).map(|(&from, &to)| {
            let path = &arrows[&(from.clone(), to.clone())];
            format!("`{}` uses `{path}`", name_of(from))
        });
        let steps: Vec<String> = steps.collect();
        format!(
            "`{}`: a circle of imports: {}",
            member.name,
            steps.join(", ")
        )
    };
    circles(&edges).into_iter().map(tell).collect()
}

fn name_of(module: &Module) -> String {
    match module.as_slice() {
        [] => "crate".to_owned(),
        words => words.join("::"),
    }
}

/// The siblings at which the paths of the two modules part, or a module at the top and the crate's root.
fn parting(from: &Module, to: &Module) -> Option<(Module, Module)> {
    let same = from.iter().zip(to).take_while(|(a, b)| a == b).count();
    let is_root = from.is_empty() || to.is_empty();
    let at_parting = |module: &Module| module[..module.len().min(same + 1)].to_vec();
    (is_root || from.len() > same && to.len() > same).then(|| (at_parting(from), at_parting(to)))
}
