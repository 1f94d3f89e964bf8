//! One Rust file, parsed: its functions with their lengths, its `unsafe`, the modules it names.

use std::str::FromStr;

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// A parsed file.
pub struct Source {
    /// Path relative to the workspace's root.
    pub path: String,
    /// The text.
    pub text: String,
    /// The same as a syntax tree.
    pub syntax: syn::File,
}

/// A function outside tests.
pub struct Function {
    /// Its name.
    pub name: String,
    /// Lines from its signature to its closing brace.
    pub line_count: usize,
}

impl Source {
    /// Parses the file at `path`.
    pub fn parse(path: &str, text: String) -> Result<Source> {
        let syntax = syn::parse_file(&text)
            .map_err(|error| anyhow!("{path}:{}: {error}", error.span().start().line))?;
        Ok(Source {
            path: path.to_owned(),
            text,
            syntax,
        })
    }

    /// Number of lines, tests included.
    pub fn line_count(&self) -> usize {
        self.text.lines().count()
    }

    /// Number of lines that exist for tests alone: of a test file all, elsewhere those of `#[cfg(test)]` items.
    pub fn test_line_count(&self) -> usize {
        if self.is_test() {
            return self.line_count();
        }
        let mut visitor = TestItems(0);
        visitor.visit_file(&self.syntax);
        visitor.0
    }

    /// Functions outside `#[cfg(test)]` and outside test folders.
    pub fn functions(&self) -> Vec<Function> {
        if self.is_test() {
            return Vec::new();
        }
        let mut visitor = Functions(Vec::new());
        visitor.visit_file(&self.syntax);
        visitor.0
    }

    /// Whether the whole file is a test.
    pub fn is_test(&self) -> bool {
        self.path
            .split('/')
            .any(|part| part == "tests" || part == "tests.rs")
            || self.path.ends_with("_tests.rs")
    }

    /// Lines on which the keyword `unsafe` stands, in macros too.
    pub fn unsafe_lines(&self) -> Vec<usize> {
        self.lines_of("unsafe")
    }

    /// Lines on which this word of the language stands, in macros too, and not in comments or text.
    pub fn lines_of(&self, word: &str) -> Vec<usize> {
        let mut lines = Vec::new();
        walk_tokens(self.tokens(), &mut |tree, _| {
            if matches!(tree, TokenTree::Ident(ident) if ident == word) {
                lines.push(tree.span().start().line);
            }
        });
        lines
    }

    /// Number of `unsafe { .. }` blocks.
    pub fn unsafe_block_count(&self) -> usize {
        let mut count = 0;
        walk_tokens(self.tokens(), &mut |tree, next| {
            let opens = matches!(next, Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace);
            if opens && matches!(tree, TokenTree::Ident(ident) if ident == "unsafe") {
                count += 1;
            }
        });
        count
    }

    fn tokens(&self) -> TokenStream {
        TokenStream::from_str(&self.text).expect("syn has parsed the same text")
    }
}

/// Whether an item exists in test builds only.
pub fn is_test_item(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && attribute
                    .parse_args::<syn::Path>()
                    .is_ok_and(|path| path.is_ident("test"))
    })
}

fn walk_tokens(stream: TokenStream, visit: &mut impl FnMut(&TokenTree, Option<&TokenTree>)) {
    let trees: Vec<TokenTree> = stream.into_iter().collect();
    for (index, tree) in trees.iter().enumerate() {
        visit(tree, trees.get(index + 1));
        if let TokenTree::Group(group) = tree {
            walk_tokens(group.stream(), visit);
        }
    }
}

/// Lines of items for tests, attributes included.
struct TestItems(usize);

impl<'ast> Visit<'ast> for TestItems {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if is_test_item(attributes(item)) {
            let span = item.span();
            self.0 += (span.start().line..=span.end().line).count();
        } else {
            visit::visit_item(self, item);
        }
    }
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

struct Functions(Vec<Function>);

impl Functions {
    fn add(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let lines = signature.span().start().line..=block.span().end().line;
        self.0.push(Function {
            name: signature.ident.to_string(),
            line_count: lines.count(),
        });
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_test_item(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        if !is_test_item(&function.attrs) {
            self.add(&function.sig, &function.block);
            visit::visit_item_fn(self, function);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.add(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.add(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}
