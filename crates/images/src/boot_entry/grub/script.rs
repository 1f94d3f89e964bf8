//! GRUB's script as commands in their order: what is run, and what is decided.

use std::rc::Rc;

use super::words::{Token, Word, tokens};

/// Deepest nesting of blocks. Distributions' scripts have four.
const DEPTH_MAX: usize = 32;

/// Commands one after the other.
pub(super) type Block = Rc<[Statement]>;

/// A statement of a script.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Statement {
    /// A command with its words; `menuentry` and `submenu` have a block.
    Command(Vec<Word>, Option<Block>),
    /// Conditions with what is done, in their order, and what is done if none holds.
    If(Vec<(Block, Block)>, Option<Block>),
    /// A function.
    Function(String, Block),
    /// `for NAME in WORDS`.
    For(String, Vec<Word>, Block),
    /// `while CONDITION`; with `true` it is `until`.
    While(bool, Block, Block),
}

/// Reads a script. What makes no sense is passed over, as GRUB goes on after an error.
pub(super) fn parse(text: &str) -> Block {
    let mut reader = Reader {
        tokens: tokens(text),
        at: 0,
        depth: 0,
    };
    let mut all = Vec::new();
    while reader.at < reader.tokens.len() {
        all.extend_from_slice(&reader.block(&[]));
        // An end of something that was never begun.
        reader.at += 1;
    }
    all.into()
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Reader {
    /// The next word, if it is written plainly.
    fn keyword(&self) -> Option<&str> {
        match self.tokens.get(self.at) {
            Some(Token::Word(word)) => word.plain(),
            _ => None,
        }
    }

    fn skip_ends(&mut self) {
        while self.tokens.get(self.at) == Some(&Token::End) {
            self.at += 1;
        }
    }

    /// Goes on behind this keyword, if it is next.
    fn take(&mut self, keyword: &str) {
        self.skip_ends();
        if self.keyword() == Some(keyword) {
            self.at += 1;
        }
    }

    /// Statements up to one of these keywords, which stays, or the end.
    fn block(&mut self, ends: &[&str]) -> Block {
        const ENDS: [&str; 8] = ["}", "fi", "done", "then", "else", "elif", "do", "esac"];
        let mut statements = Vec::new();
        self.depth += 1;
        loop {
            self.skip_ends();
            if self.at >= self.tokens.len() || self.depth > DEPTH_MAX {
                break;
            }
            let is_end = self
                .keyword()
                .is_some_and(|word| ends.contains(&word) || ENDS.contains(&word));
            if is_end {
                break;
            }
            let before = self.at;
            statements.extend(self.statement());
            if self.at == before {
                self.at += 1;
            }
        }
        self.depth -= 1;
        statements.into()
    }

    fn statement(&mut self) -> Option<Statement> {
        match self.keyword() {
            Some("if") => Some(self.conditional()),
            Some("function") => {
                self.at += 1;
                let name = self.keyword().unwrap_or_default().to_owned();
                self.at += 1;
                Some(Statement::Function(name, self.braces()))
            }
            Some("for") => {
                self.at += 1;
                let name = self.keyword().unwrap_or_default().to_owned();
                self.at += 1;
                self.take("in");
                let words = self.words(false);
                Some(Statement::For(name, words, self.body()))
            }
            Some(word @ ("while" | "until")) => {
                let is_until = word == "until";
                self.at += 1;
                let condition = self.block(&["do"]);
                Some(Statement::While(is_until, condition, self.body()))
            }
            _ => {
                let words = self.words(true);
                let takes_block = words
                    .first()
                    .and_then(Word::plain)
                    .is_some_and(|name| matches!(name, "menuentry" | "submenu"));
                let block = takes_block.then(|| self.braces());
                (!words.is_empty()).then_some(Statement::Command(words, block))
            }
        }
    }

    /// The words of a command, or of a list, up to the line's end or the block that belongs to it.
    fn words(&mut self, stops_at_brace: bool) -> Vec<Word> {
        let mut words: Vec<Word> = Vec::new();
        while let Some(Token::Word(word)) = self.tokens.get(self.at) {
            if stops_at_brace && word.plain() == Some("{") {
                break;
            }
            words.push(word.clone());
            self.at += 1;
        }
        words
    }

    fn braces(&mut self) -> Block {
        self.take("{");
        let block = self.block(&["}"]);
        self.take("}");
        block
    }

    fn body(&mut self) -> Block {
        self.take("do");
        let block = self.block(&["done"]);
        self.take("done");
        block
    }

    fn conditional(&mut self) -> Statement {
        let mut branches = Vec::new();
        let mut otherwise = None;
        loop {
            // `if` or `elif`.
            self.at += 1;
            let condition = self.block(&["then"]);
            self.take("then");
            branches.push((condition, self.block(&["elif", "else", "fi"])));
            match self.keyword() {
                Some("elif") => {}
                Some("else") => {
                    self.at += 1;
                    otherwise = Some(self.block(&["fi"]));
                    break;
                }
                _ => break,
            }
        }
        self.take("fi");
        Statement::If(branches, otherwise)
    }
}
