//! `$filter` (DSP0266, "The $filter query parameter"): comparisons of properties with values, joined by `and`, `or`,
//! `not` and parentheses.
//!
//! Comparisons are made as JSON has values: texts with texts, numbers with numbers; what cannot be compared is not equal,
//! and a property that is not there is `null`.

use std::cmp::Ordering;

use serde_json::Value;

/// Longest filter, in words; each level of parentheses is a call.
const WORDS_MAX: usize = 200;

/// A condition.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Filter {
    Compare(String, Comparison, Value),
    Not(Box<Filter>),
    And(Box<Filter>, Box<Filter>),
    Or(Box<Filter>, Box<Filter>),
}

/// How two values are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// A piece of the text.
#[derive(Clone, PartialEq, Debug)]
enum Word {
    Open,
    Close,
    Plain(String),
    Text(String),
}

impl Filter {
    /// What a text says; none if it says nothing.
    pub(super) fn of(text: &str) -> Option<Filter> {
        let words = words(text)?;
        if words.len() > WORDS_MAX {
            return None;
        }
        let mut words = words.as_slice();
        let filter = either(&mut words)?;
        words.is_empty().then_some(filter)
    }

    /// Whether it holds for a resource.
    pub(super) fn holds(&self, of: &Value) -> bool {
        match self {
            Filter::Compare(path, comparison, value) => compare(at(of, path), *comparison, value),
            Filter::Not(filter) => !filter.holds(of),
            Filter::And(one, other) => one.holds(of) && other.holds(of),
            Filter::Or(one, other) => one.holds(of) || other.holds(of),
        }
    }
}

fn either(words: &mut &[Word]) -> Option<Filter> {
    let mut filter = both(words)?;
    while take(words, "or") {
        filter = Filter::Or(Box::new(filter), Box::new(both(words)?));
    }
    Some(filter)
}

fn both(words: &mut &[Word]) -> Option<Filter> {
    let mut filter = one(words)?;
    while take(words, "and") {
        filter = Filter::And(Box::new(filter), Box::new(one(words)?));
    }
    Some(filter)
}

fn one(words: &mut &[Word]) -> Option<Filter> {
    if take(words, "not") {
        return Some(Filter::Not(Box::new(one(words)?)));
    }
    let (first, rest) = words.split_first()?;
    *words = rest;
    match first {
        Word::Open => {
            let filter = either(words)?;
            let (last, rest) = words.split_first()?;
            *words = rest;
            (*last == Word::Close).then_some(filter)
        }
        Word::Plain(path) => {
            let [Word::Plain(comparison), value, rest @ ..] = *words else {
                return None;
            };
            *words = rest;
            let value = match value {
                Word::Text(text) => Value::from(text.as_str()),
                Word::Plain(plain) => serde_json::from_str(plain).ok()?,
                Word::Open | Word::Close => return None,
            };
            Some(Filter::Compare(path.clone(), of_word(comparison)?, value))
        }
        Word::Text(_) | Word::Close => None,
    }
}

fn of_word(word: &str) -> Option<Comparison> {
    Some(match word {
        "eq" => Comparison::Equal,
        "ne" => Comparison::NotEqual,
        "gt" => Comparison::Greater,
        "ge" => Comparison::GreaterOrEqual,
        "lt" => Comparison::Less,
        "le" => Comparison::LessOrEqual,
        _ => return None,
    })
}

fn take(words: &mut &[Word], wanted: &str) -> bool {
    match *words {
        [Word::Plain(word), rest @ ..] if word == wanted => {
            *words = rest;
            true
        }
        _ => false,
    }
}

/// The words of a text. In quotes, two quotes are one.
fn words(text: &str) -> Option<Vec<Word>> {
    let mut words = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(it) = rest.next() {
        words.push(match it {
            ' ' => continue,
            '(' => Word::Open,
            ')' => Word::Close,
            '\'' => {
                let mut text = String::new();
                loop {
                    match rest.next()? {
                        '\'' if rest.next_if_eq(&'\'').is_some() => text.push('\''),
                        '\'' => break,
                        it => text.push(it),
                    }
                }
                Word::Text(text)
            }
            it => {
                let mut word = String::from(it);
                while let Some(it) = rest.next_if(|it| !matches!(it, ' ' | '(' | ')' | '\'')) {
                    word.push(it);
                }
                Word::Plain(word)
            }
        });
    }
    Some(words)
}

fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('/').fold(value, |value, key| &value[key])
}

fn compare(found: &Value, comparison: Comparison, wanted: &Value) -> bool {
    let order = match (found, wanted) {
        (Value::String(found), Value::String(wanted)) => Some(found.cmp(wanted)),
        (Value::Number(found), Value::Number(wanted)) => found
            .as_f64()
            .zip(wanted.as_f64())
            .and_then(|(found, wanted)| found.partial_cmp(&wanted)),
        (found, wanted) if found == wanted => Some(Ordering::Equal),
        _ => None,
    };
    match comparison {
        Comparison::Equal => order == Some(Ordering::Equal),
        Comparison::NotEqual => order != Some(Ordering::Equal),
        Comparison::Greater => order == Some(Ordering::Greater),
        Comparison::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
        Comparison::Less => order == Some(Ordering::Less),
        Comparison::LessOrEqual => order.is_some_and(Ordering::is_le),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_filter_holds_or_says_nothing() {
        let check = |text: &str, expected: Option<bool>| {
            let of =
                json!({ "Name": "it's", "Count": 2, "On": true, "Status": { "Health": "OK" } });
            let found = Filter::of(text).map(|filter| filter.holds(&of));
            assert_eq!(found, expected, "{text}");
        };
        check("Name eq 'it''s'", Some(true));
        check("Count gt 1.5 and Count le 2", Some(true));
        check("Count lt 2 or Status/Health eq 'OK'", Some(true));
        check("not (Count eq 2)", Some(false));
        check("not On eq true or Count eq 2", Some(true));
        check("Count eq 1 or Count eq 2 and Name eq 'x'", Some(false));
        check("(Count eq 1 or Count eq 2) and On eq true", Some(true));
        check("Missing eq null", Some(true));
        check("Missing ne 'a'", Some(true));
        check("Name gt 5", Some(false));
        check("Name", None);
        check("Name eq", None);
        check("Name is 'a'", None);
        check("(Name eq 'a'", None);
        check("Name eq 'a", None);
        check("Name eq 'a')", None);
        check("'a' eq Name", None);
        check("", None);
        check(&"(".repeat(10_000), None);
    }
}
