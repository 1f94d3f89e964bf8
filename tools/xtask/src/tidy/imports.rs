//! Modules of one crate never import each other mutually.
//!
//! A name is followed to the module that defines it, through re-exports too: `use crate::Gpa` where the crate's root
//! says `pub use address::Gpa` is an import of `address`. Two modules are compared where their paths part, so that
//! `engine::run` importing `tables::walk` counts for the pair `engine`, `tables`. A parent and its child may know
//! each other; that is what nesting is for. Tests do not count.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};

use crate::source::{Source, is_test_item};
use crate::workspace::{Member, Workspace};

/// A module as its path from the crate's root; the root is empty.
type Module = Vec<String>;

/// Every pair of sibling modules that import each other.
pub fn complaints(workspace: &Workspace) -> Vec<String> {
    workspace
        .members
        .iter()
        .flat_map(|member| mutual_pairs(workspace, member))
        .collect()
}

fn mutual_pairs(workspace: &Workspace, member: &Member) -> Vec<String> {
    let mut files: BTreeMap<Module, Imports> = BTreeMap::new();
    for source in workspace
        .sources
        .iter()
        .filter(|source| member.owns(&source.path))
    {
        if let Some(module) = module_of(source, member) {
            let mut imports = Imports {
                module: module.clone(),
                paths: Vec::new(),
                names: BTreeMap::new(),
            };
            imports.visit_file(&source.syntax);
            files.insert(module, imports);
        }
    }
    let mut edges = BTreeSet::new();
    for (module, imports) in &files {
        for path in &imports.paths {
            edges.extend(parting(module, &defining_module(path, &files)));
        }
    }
    let mutual = edges
        .iter()
        .filter(|(from, to)| from < to && edges.contains(&(to.clone(), from.clone())));
    mutual
        .map(|(from, to)| {
            let (from, to) = (from.join("::"), to.join("::"));
            format!(
                "`{}`: modules `{from}` and `{to}` import each other",
                member.name
            )
        })
        .collect()
}

/// Which module of `member` the file is; programs beside the library are not modules of it.
fn module_of(source: &Source, member: &Member) -> Option<Module> {
    let inside = source
        .path
        .strip_prefix(&member.folder)?
        .strip_prefix("/src/")?
        .strip_suffix(".rs")?;
    if source.is_test() || inside.starts_with("bin/") {
        return None;
    }
    let mut module: Module = inside.split('/').map(str::to_owned).collect();
    if ["lib", "main", "mod"].contains(&module.last()?.as_str()) {
        module.pop();
    }
    Some(module)
}

/// The module that defines what `path` names, following re-exports.
fn defining_module(path: &[String], files: &BTreeMap<Module, Imports>) -> Module {
    let mut path = path.to_vec();
    // A re-export may name another; a chain longer than this would be a riddle anyway.
    for _ in 0..8 {
        let depth = (0..=path.len())
            .rev()
            .find(|&depth| files.contains_key(&path[..depth]))
            .unwrap_or(0);
        let module = path[..depth].to_vec();
        let next = path
            .get(depth)
            .and_then(|name| files.get(&module)?.names.get(name));
        match next {
            Some(target) if *target != path => path = target.clone(),
            _ => return module,
        }
    }
    Vec::new()
}

/// The siblings at which the paths of the two modules part, if they do.
fn parting(from: &Module, to: &Module) -> Option<(Module, Module)> {
    let same = from.iter().zip(to).take_while(|(a, b)| a == b).count();
    (from.len() > same && to.len() > same).then(|| (from[..=same].to_vec(), to[..=same].to_vec()))
}

/// What one module names.
struct Imports {
    module: Module,
    /// Paths inside this crate, from its root.
    paths: Vec<Vec<String>>,
    /// Names that this module brings in from elsewhere in the crate, perhaps for others to use.
    names: BTreeMap<String, Vec<String>>,
}

impl Imports {
    /// `words` as a path from the crate's root, if it stays inside this crate for certain.
    fn absolute(&self, words: &[String]) -> Option<Vec<String>> {
        let first = words.first()?;
        let mut path = match first.as_str() {
            "crate" => Vec::new(),
            "self" => self.module.clone(),
            "super" => self.module[..self.module.len().checked_sub(1)?].to_vec(),
            _ => return None,
        };
        for word in &words[1..] {
            match word.as_str() {
                "super" => {
                    path.pop();
                }
                "self" => {}
                _ => path.push(word.clone()),
            }
        }
        Some(path)
    }

    fn add_use(&mut self, tree: &syn::UseTree, before: &[String]) {
        let mut words = before.to_vec();
        match tree {
            syn::UseTree::Path(path) => {
                words.push(path.ident.to_string());
                self.add_use(&path.tree, &words);
            }
            syn::UseTree::Group(group) => group
                .items
                .iter()
                .for_each(|item| self.add_use(item, before)),
            syn::UseTree::Name(name) => {
                words.push(name.ident.to_string());
                self.add_name(&words, name.ident.to_string());
            }
            syn::UseTree::Rename(rename) => {
                words.push(rename.ident.to_string());
                self.add_name(&words, rename.rename.to_string());
            }
            syn::UseTree::Glob(_) => self.paths.extend(self.absolute(&words)),
        }
    }

    fn add_name(&mut self, words: &[String], name: String) {
        let inside = self.absolute(words);
        self.paths.extend(inside.clone());
        // A relative path may start at a child module: `pub use address::Gpa`. If it names another crate instead,
        // following it leads to no module and does no harm.
        let relative = || self.module.iter().chain(words).cloned().collect();
        self.names.insert(name, inside.unwrap_or_else(relative));
    }
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_test_item(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_test_item(&item.attrs) {
            self.add_use(&item.tree, &[]);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words: Vec<String> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        self.paths.extend(self.absolute(&words));
        visit::visit_path(self, path);
    }
}
