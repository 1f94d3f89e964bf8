//! What a registry wants to know of who asks: `WWW-Authenticate` (RFC 9110, 11.6.1), and what a token is asked for with
//! (distribution, "Token Authentication Specification").

use std::collections::BTreeMap;

/// A way to say who one is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Challenge {
    /// In lower case: `bearer` or `basic`.
    pub(crate) scheme: String,
    /// Names in lower case.
    pub(crate) parameters: BTreeMap<String, String>,
}

/// The challenges of one header. What cannot be read ends them.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut all: Vec<Challenge> = Vec::new();
    let mut rest = header.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let (word, behind) = token(rest);
        if word.is_empty() {
            break;
        }
        let word = word.to_ascii_lowercase();
        rest = match (behind.trim_start().strip_prefix('='), all.last_mut()) {
            (Some(value), Some(last)) => {
                let Some((value, behind)) = value_of(value.trim_start()) else {
                    break;
                };
                last.parameters.insert(word, value);
                behind
            }
            // A parameter of nothing.
            (Some(_), None) => break,
            (None, _) => {
                all.push(Challenge {
                    scheme: word,
                    parameters: BTreeMap::new(),
                });
                behind
            }
        };
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    all
}

/// A token (RFC 9110, 5.6.2) and what is behind it.
fn token(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    text.split_at(end)
}

/// A token or a quoted text, and what is behind it.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut is_escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if is_escaped => {
                value.push(c);
                is_escaped = false;
            }
            '\\' => is_escaped = true,
            '"' => return Some((value, &quoted[at + 1..])),
            _ => value.push(c),
        }
    }
    None
}

/// A text as a part of a query: everything but letters, digits and `-._~` by its number (RFC 3986, 2.3).
pub(crate) fn query(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &str, expected: &[(&str, &[(&str, &str)])]) {
        let expected: Vec<Challenge> = expected
            .iter()
            .map(|(scheme, parameters)| Challenge {
                scheme: (*scheme).to_owned(),
                parameters: parameters
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect(),
            })
            .collect();
        assert_eq!(parse(header), expected, "{header}");
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        check(
            "Bearer realm=\"https://auth.example/token\",service=\"reg.example\",scope=\"repository:a/b:pull\"",
            &[(
                "bearer",
                &[
                    ("realm", "https://auth.example/token"),
                    ("scope", "repository:a/b:pull"),
                    ("service", "reg.example"),
                ],
            )],
        );
        check(
            "Basic realm=\"Registry, \\\"the\\\" one\"",
            &[("basic", &[("realm", "Registry, \"the\" one")])],
        );
        check(
            "Basic realm=\"a\", Bearer realm=\"b\" , service=c",
            &[
                ("basic", &[("realm", "a")]),
                ("bearer", &[("realm", "b"), ("service", "c")]),
            ],
        );
        check("BEARER Realm = \"b\"", &[("bearer", &[("realm", "b")])]);
        check("Negotiate", &[("negotiate", &[])]);
        check(
            "Negotiate, Basic realm=x",
            &[("negotiate", &[]), ("basic", &[("realm", "x")])],
        );
    }

    #[test]
    fn what_is_no_challenge_is_none() {
        check("", &[]);
        check(" , ,", &[]);
        check("realm=\"x\"", &[]);
        check("Bearer realm=\"never ends", &[("bearer", &[])]);
        check("\"Bearer\"", &[]);
        check("Bearer realm=\"x\"\u{1}", &[("bearer", &[("realm", "x")])]);
    }

    #[test]
    fn a_query_holds_any_text() {
        assert_eq!(query("repository:a/b:pull"), "repository%3Aa%2Fb%3Apull");
        assert_eq!(query("a b&c=d\u{e9}"), "a%20b%26c%3Dd%C3%A9");
    }
}
