//! GRUB's script as words and signs (GRUB manual, 6.3: "Writing full configuration files directly").

use std::iter::Peekable;
use std::str::Chars;

/// A piece of a word.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Piece {
    /// As it stands there.
    Text(String),
    /// A variable; in double quotes its value is not split into words.
    Variable {
        /// Its name.
        name: String,
        /// Whether it stands in quotes.
        is_quoted: bool,
    },
}

/// A word of a command.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Word {
    /// Its pieces.
    pub(super) pieces: Vec<Piece>,
    /// It is a word even if nothing is left of it.
    pub(super) is_quoted: bool,
}

impl Word {
    /// The word, if it is written as nothing but this text, without quotes: only such a one can be a keyword.
    pub(super) fn plain(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [Piece::Text(text)] if !self.is_quoted => Some(text),
            _ => None,
        }
    }
}

/// What a script is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Token {
    /// A word.
    Word(Word),
    /// The end of a line, or `;`.
    End,
}

/// A script's tokens. What is never closed ends with the script.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut rest = text.chars().peekable();
    let mut tokens = Vec::new();
    while let Some(&next) = rest.peek() {
        match next {
            '\n' | ';' => {
                rest.next();
                tokens.push(Token::End);
            }
            '#' => while rest.next_if(|c| *c != '\n').is_some() {},
            c if c.is_whitespace() => {
                rest.next();
            }
            _ => {
                if let Some(word) = word(&mut rest) {
                    tokens.push(Token::Word(word));
                }
            }
        }
    }
    tokens
}

/// The next word; `None` if it was nothing but the end of a line that goes on.
fn word(rest: &mut Peekable<Chars<'_>>) -> Option<Word> {
    let mut word = Word::default();
    let mut text = String::new();
    while let Some(&next) = rest.peek() {
        match next {
            '\n' | ';' => break,
            c if c.is_whitespace() => break,
            '\'' => {
                rest.next();
                word.is_quoted = true;
                text.extend(std::iter::from_fn(|| rest.next_if(|c| *c != '\'')));
                rest.next();
            }
            '"' => {
                rest.next();
                word.is_quoted = true;
                in_double_quotes(rest, &mut word, &mut text);
            }
            '\\' => {
                rest.next();
                match rest.next() {
                    // The line goes on.
                    Some('\n') | None => {}
                    Some(other) => text.push(other),
                }
            }
            '$' => {
                rest.next();
                variable(rest, &mut word, &mut text, false);
            }
            other => {
                rest.next();
                text.push(other);
            }
        }
    }
    flush(&mut word, &mut text);
    (word.is_quoted || !word.pieces.is_empty()).then_some(word)
}

fn in_double_quotes(rest: &mut Peekable<Chars<'_>>, word: &mut Word, text: &mut String) {
    while let Some(next) = rest.next() {
        match next {
            '"' => return,
            '\\' => match rest.next() {
                Some('\n') | None => {}
                Some(other @ ('$' | '"' | '\\')) => text.push(other),
                Some(other) => text.extend(['\\', other]),
            },
            '$' => variable(rest, word, text, true),
            other => text.push(other),
        }
    }
}

/// What follows a `$`; one that no name follows is itself.
fn variable(rest: &mut Peekable<Chars<'_>>, word: &mut Word, text: &mut String, is_quoted: bool) {
    let in_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    let name: String = if rest.next_if_eq(&'{').is_some() {
        let name = std::iter::from_fn(|| rest.next_if(|c| !matches!(c, '}' | '\n'))).collect();
        rest.next_if_eq(&'}');
        name
    } else if let Some(special) = rest.next_if(|c| matches!(c, '?' | '@' | '*' | '#' | '0'..='9')) {
        special.to_string()
    } else {
        std::iter::from_fn(|| rest.next_if(in_name)).collect()
    };
    if name.is_empty() {
        text.push('$');
        return;
    }
    flush(word, text);
    word.pieces.push(Piece::Variable { name, is_quoted });
}

fn flush(word: &mut Word, text: &mut String) {
    if !text.is_empty() {
        word.pieces.push(Piece::Text(std::mem::take(text)));
    }
}
