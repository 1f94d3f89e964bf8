//! What the modules of one crate name, and which module defines it.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};

use crate::source::{Source, is_test_item};
use crate::workspace::Member;

/// A module as its path from the crate's root; the root is empty.
pub type Module = Vec<String>;

/// The modules of one crate that have a file.
pub struct Modules(BTreeMap<Module, Names>);

/// What one module names.
#[derive(Default)]
struct Names {
    /// Where the visitor stands: the module, or one inside its file.
    module: Module,
    /// How many modules inside the file the visitor is in.
    inline_depth: usize,
    /// Paths inside this crate, from its root.
    paths: BTreeSet<Vec<String>>,
    /// Paths that begin with a plain word: a child module, another crate, or a name brought in by a `use`.
    relative: BTreeSet<Vec<String>>,
    /// Names that this module brings in from elsewhere, perhaps for others to use.
    brought: BTreeMap<String, Vec<String>>,
    /// Those of them that a `*` elsewhere brings in too: they are not private.
    passed_on: BTreeSet<String>,
    /// Modules of which it brings in everything.
    globs: Vec<Vec<String>>,
    /// What it defines itself.
    defined: BTreeSet<String>,
}

impl Modules {
    /// The modules of `member`; tests and programs beside the library are none.
    pub fn of(member: &Member, sources: &[Source]) -> Modules {
        let sources = sources.iter().filter(|source| member.owns(&source.path));
        let names = |source: &Source| {
            let module = module_of(source, member)?;
            let mut names = Names {
                module: module.clone(),
                ..Names::default()
            };
            names.visit_file(&source.syntax);
            Some((module, names))
        };
        Modules(sources.filter_map(names).collect())
    }

    /// Every module with what it uses of others: the module that defines it, and the path by which it is named.
    pub fn uses(&self) -> impl Iterator<Item = (&Module, Module, String)> {
        self.0.iter().flat_map(move |(module, names)| {
            let beginning_at_child = names
                .relative
                .iter()
                .filter_map(|path| self.under_child(module, path));
            let paths = names.paths.iter().cloned().chain(beginning_at_child);
            paths.filter_map(move |path| {
                let definer = self.definer(&path)?;
                (definer != *module).then(|| (module, definer, path.join("::")))
            })
        })
    }

    fn under_child(&self, module: &Module, relative: &[String]) -> Option<Vec<String>> {
        let child = [module, &relative[..1]].concat();
        let path = || [module, relative].concat();
        self.0.contains_key(&child).then(path)
    }

    /// The module that defines what `path` names, following re-exports; `None` if it comes from another crate.
    fn definer(&self, path: &[String]) -> Option<Module> {
        let mut path = path.to_vec();
        // A re-export may name another; a chain longer than this would be a riddle anyway.
        for _ in 0..8 {
            let depth = (0..=path.len())
                .rev()
                .find(|&depth| self.0.contains_key(&path[..depth]))?;
            let (module, rest) = path.split_at(depth);
            let names = self.0.get(module)?;
            let Some(name) = rest.first().filter(|name| !names.defined.contains(*name)) else {
                return Some(module.to_vec());
            };
            let target = match names.brought.get(name) {
                Some(target) if self.is_elsewhere(module, target) => return None,
                Some(target) => target.clone(),
                None => match self.glob_with(names, name) {
                    Some(glob) => [glob.as_slice(), &rest[..1]].concat(),
                    // Perhaps a macro defines it.
                    None => return Some(module.to_vec()),
                },
            };
            path = [target.as_slice(), &rest[1..]].concat();
        }
        None
    }

    /// Whether what `module` brings in by `target` is another crate's.
    fn is_elsewhere(&self, module: &[String], target: &[String]) -> bool {
        let is_relative = target.len() > module.len() && target.starts_with(module);
        let known = |names: &Names| {
            let first = &target[module.len()];
            names.defined.contains(first) || names.brought.contains_key(first)
        };
        is_relative
            && !self.0.contains_key(&target[..=module.len()])
            && !self.0.get(module).is_some_and(known)
    }

    /// The module of whose names `names` brings in all, and `name` with them.
    fn glob_with(&self, names: &Names, name: &str) -> Option<Module> {
        let mut globs = names.globs.iter().filter_map(|glob| self.definer(glob));
        globs.find(|glob| self.has(glob, name))
    }

    fn has(&self, module: &[String], name: &str) -> bool {
        let names = self.0.get(module);
        names.is_some_and(|names| names.defined.contains(name) || names.passed_on.contains(name))
    }
}

/// Which module of `member` the file is.
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

impl Names {
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

    fn add_path(&mut self, words: Vec<String>) {
        match self.absolute(&words) {
            Some(path) => {
                self.paths.insert(path);
            }
            None if self.inline_depth == 0 && !words.is_empty() => {
                self.relative.insert(words);
            }
            None => {}
        }
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
                let called = match name.ident.to_string() {
                    this if this == "self" => before.last().cloned().unwrap_or_default(),
                    word => word,
                };
                words.push(name.ident.to_string());
                self.add_name(words, called);
            }
            syn::UseTree::Rename(rename) => {
                words.push(rename.ident.to_string());
                self.add_name(words, rename.rename.to_string());
            }
            syn::UseTree::Glob(_) => {
                if self.inline_depth == 0 {
                    self.globs.push(self.path_of(&words));
                }
                self.add_path(words);
            }
        }
    }

    fn add_name(&mut self, words: Vec<String>, name: String) {
        if self.inline_depth == 0 {
            self.brought.insert(name, self.path_of(&words));
        }
        self.add_path(words);
    }

    /// `words` as a path from the crate's root. One that begins with a plain word may start at a child module
    /// (`pub use address::Gpa`). If it names another crate instead, following it leads to nothing and does no harm.
    fn path_of(&self, words: &[String]) -> Vec<String> {
        let words: Vec<String> = words
            .iter()
            .filter(|word| *word != "self")
            .cloned()
            .collect();
        self.absolute(&words)
            .unwrap_or_else(|| [self.module.as_slice(), &words].concat())
    }

    fn define(&mut self, item: &syn::Item) {
        use syn::Item;
        let name = match item {
            Item::Const(item) => &item.ident,
            Item::Enum(item) => &item.ident,
            Item::Fn(item) => &item.sig.ident,
            Item::Static(item) => &item.ident,
            Item::Struct(item) => &item.ident,
            Item::Trait(item) => &item.ident,
            Item::Type(item) => &item.ident,
            Item::Union(item) => &item.ident,
            Item::Mod(syn::ItemMod {
                ident,
                content: Some(_),
                ..
            }) => ident,
            Item::Macro(syn::ItemMacro {
                ident: Some(ident), ..
            }) => ident,
            _ => return,
        };
        self.defined.insert(name.to_string());
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_file(&mut self, file: &'ast syn::File) {
        file.items.iter().for_each(|item| self.define(item));
        visit::visit_file(self, file);
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if is_test_item(&module.attrs) || module.content.is_none() {
            return;
        }
        self.module.push(module.ident.to_string());
        self.inline_depth += 1;
        visit::visit_item_mod(self, module);
        self.inline_depth -= 1;
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if is_test_item(&item.attrs) {
            return;
        }
        let before: BTreeSet<String> = self.brought.keys().cloned().collect();
        self.add_use(&item.tree, &[]);
        if !matches!(item.vis, syn::Visibility::Inherited) {
            let new = self.brought.keys().filter(|name| !before.contains(*name));
            self.passed_on.extend(new.cloned());
        }
    }

    /// `pub(crate)` names who may see, not what is used.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        self.add_path(words);
        visit::visit_path(self, path);
    }
}
