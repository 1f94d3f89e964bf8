//! Patterns for texts, and conditions on what was seen, by the names of its fields.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A text in which `*` stands for any characters and `?` for one. With `!` before it, everything else matches.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pattern(pub String);

impl Pattern {
    /// Whether it begins with `!`.
    fn is_negative(&self) -> bool {
        self.0.starts_with('!')
    }

    /// Whether the text matches, `!` left out of account.
    fn fits(&self, text: &str) -> bool {
        let pattern = self.0.strip_prefix('!').unwrap_or(&self.0);
        glob(pattern.as_bytes(), text.as_bytes())
    }
}

/// Whether the text matches one of these patterns and none of those with `!`. Nothing but `!`: everything else does.
pub(crate) fn any(patterns: &[Pattern], text: &str) -> bool {
    let (not, one): (Vec<&Pattern>, Vec<&Pattern>) =
        patterns.iter().partition(|pattern| pattern.is_negative());
    !not.iter().any(|pattern| pattern.fits(text))
        && (one.is_empty() || one.iter().any(|pattern| pattern.fits(text)))
}

/// In time that is the product of both lengths, whatever they are: what follows the last `*` is tried at each place once.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let mut at = 0;
    let mut from = 0;
    let mut star: Option<(usize, usize)> = None;
    while from < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[from] => {
                at += 1;
                from += 1;
            }
            _ => {
                let Some((star_at, star_from)) = star else {
                    return false;
                };
                star = Some((star_at, star_from + 1));
                at = star_at + 1;
                from = star_from + 1;
            }
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

/// What a field has to be.
#[derive(Clone, PartialEq, Debug, JsonSchema, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Condition {
    /// A text that matches, or a list of which one does.
    Pattern(Pattern),
    /// One of these.
    Patterns(Vec<Pattern>),
    /// A truth.
    Is(bool),
    /// This number.
    Number(i64),
    /// A number above, below or between.
    Range(Range),
}

/// Where a number has to lie, the ends not included.
#[derive(Clone, Copy, PartialEq, Debug, Default, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// More than this.
    pub above: Option<f64>,
    /// Less than this.
    pub below: Option<f64>,
}

impl Range {
    pub(crate) fn has(&self, number: f64) -> bool {
        self.above.is_none_or(|above| number > above)
            && self.below.is_none_or(|below| number < below)
    }
}

impl Condition {
    /// Whether a field is as it has to be. Of a list, one element has to be; if only what it must not be is said, every one.
    fn holds(&self, field: &Value) -> bool {
        if let Value::Array(all) = field {
            return match self.only_forbids() {
                true => all.iter().all(|one| self.holds(one)),
                false => all.iter().any(|one| self.holds(one)),
            };
        }
        match self {
            Condition::Pattern(pattern) => {
                text(field).is_some_and(|text| any(std::slice::from_ref(pattern), &text))
            }
            Condition::Patterns(patterns) => text(field).is_some_and(|text| any(patterns, &text)),
            Condition::Is(is) => field.as_bool() == Some(*is),
            Condition::Number(number) => field.as_f64() == Some(*number as f64),
            Condition::Range(range) => field.as_f64().is_some_and(|number| range.has(number)),
        }
    }

    fn only_forbids(&self) -> bool {
        match self {
            Condition::Pattern(pattern) => pattern.is_negative(),
            Condition::Patterns(patterns) => patterns.iter().all(Pattern::is_negative),
            _ => false,
        }
    }
}

fn text(field: &Value) -> Option<String> {
    match field {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(is) => Some(is.to_string()),
        _ => None,
    }
}

/// Whether every condition holds. A field that is not there is as it has to be only for a condition that merely forbids.
pub(crate) fn all_hold(conditions: &BTreeMap<String, Condition>, seen: &Value) -> bool {
    conditions.iter().all(|(path, condition)| {
        let found = field(seen, path);
        match found.as_slice() {
            [] => condition.only_forbids(),
            some => match condition.only_forbids() {
                true => some.iter().all(|field| condition.holds(field)),
                false => some.iter().any(|field| condition.holds(field)),
            },
        }
    })
}

/// Every value at a path of names with dots between; in a list, of each element.
fn field<'a>(seen: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut found = vec![seen];
    for name in path.split('.') {
        let inner = found.into_iter().flat_map(|value| match value {
            Value::Array(all) => all.iter().collect(),
            one => vec![one],
        });
        found = inner.filter_map(|value| value.get(name)).collect();
    }
    found.retain(|value| !value.is_null());
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn stars_and_question_marks_stand_for_what_is_there() {
        let check = |pattern: &str, text: &str, expected| {
            let found = any(&[Pattern(pattern.to_owned())], text);
            assert_eq!(found, expected, "{pattern} {text}");
        };
        check("/bin/*sh", "/bin/sh", true);
        check("/bin/*sh", "/bin/bash", true);
        check("/bin/*sh", "/bin/shell", false);
        check("*", "", true);
        check("", "", true);
        check("", "x", false);
        check("a?c", "abc", true);
        check("a?c", "ac", false);
        check("*a*b*c", "xxaxxbxxc", true);
        check("*a*b*c", "xxaxxbxx", false);
        check("!nf_*", "nf_tables", false);
        check("!nf_*", "dummy", true);
        // Would take for ever where each star is tried with each other.
        check(&"*a".repeat(30), &"a".repeat(4000), true);
        check(&format!("{}b", "*a".repeat(30)), &"a".repeat(4000), false);
    }

    #[test]
    fn conditions_hold_of_fields_by_their_paths() {
        let seen = json!({
            "event": "exec",
            "executable": { "path": "/tmp/x", "is_nameless": true },
            "arguments": ["x", "-e"],
            "process": { "pid": 7, "ancestors": [{ "name": "nginx" }, { "name": "init" }], "container": null },
        });
        let check = |path: &str, condition: Value, expected| {
            let condition: Condition = serde_json::from_value(condition).unwrap();
            let conditions = [(path.to_owned(), condition.clone())].into();
            assert_eq!(
                all_hold(&conditions, &seen),
                expected,
                "{path} {condition:?}"
            );
        };
        check("executable.path", json!("/tmp/*"), true);
        check("executable.path", json!(["/usr/*", "/tmp/*"]), true);
        check("executable.path", json!(["/tmp/*", "!/tmp/x"]), false);
        check("executable.is_nameless", json!(true), true);
        check("executable.is_nameless", json!(false), false);
        check("process.ancestors.name", json!("nginx"), true);
        check("process.ancestors.name", json!("apache"), false);
        check("process.ancestors.name", json!("!nginx"), false);
        check("process.ancestors.name", json!("!apache"), true);
        check("arguments", json!("-e"), true);
        check("process.pid", json!(7), true);
        check("process.pid", json!({ "above": 6 }), true);
        check("process.pid", json!({ "above": 7 }), false);
        check("process.pid", json!({ "below": 8.5, "above": 1 }), true);
        check("process.container.id", json!("*"), false);
        check("process.container.id", json!("!abc"), true);
        check("nothing.here", json!("*"), false);
    }
}
