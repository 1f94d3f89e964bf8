//! One `let` binds one thing: `let (a, b) = (x, y);` saves a line and hides the second name.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::source::Source;
use crate::workspace::Workspace;

/// Tuples that are made to be taken apart at once.
pub fn complaints(workspace: &Workspace) -> Vec<String> {
    let tell = |source: &Source| {
        let mut pairs = Pairs(Vec::new());
        pairs.visit_file(&source.syntax);
        let tell = |line| {
            format!(
                "{}:{line}: a tuple made to be taken apart; write a `let` for each",
                source.path
            )
        };
        pairs.0.into_iter().map(tell).collect::<Vec<String>>()
    };
    workspace.sources.iter().flat_map(tell).collect()
}

/// The lines on which one stands.
struct Pairs(Vec<usize>);

impl<'ast> Visit<'ast> for Pairs {
    fn visit_local(&mut self, local: &'ast syn::Local) {
        // With `else` it asks whether both are there, which is one question.
        let is_made = |init: &syn::LocalInit| {
            matches!(*init.expr, syn::Expr::Tuple(_)) && init.diverge.is_none()
        };
        if is_tuple(&local.pat) && local.init.as_ref().is_some_and(is_made) {
            self.0.push(local.span().start().line);
        }
        visit::visit_local(self, local);
    }
}

fn is_tuple(pattern: &syn::Pat) -> bool {
    match pattern {
        syn::Pat::Tuple(_) => true,
        syn::Pat::Type(typed) => is_tuple(&typed.pat),
        _ => false,
    }
}
