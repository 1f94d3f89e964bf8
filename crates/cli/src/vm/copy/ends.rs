//! What was typed: where from, and where to.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::failure::Failure;

/// Where things come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sources {
    /// Files of this host.
    Here(Vec<OsString>),
    /// Files of one guest.
    Guest {
        /// The VM.
        name: String,
        /// Paths in its guest.
        paths: Vec<OsString>,
    },
    /// A tar stream on standard input.
    Pipe,
}

/// Where they go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// A path of this host.
    Here(OsString),
    /// One of a guest.
    Guest {
        /// The VM.
        name: String,
        /// The path in its guest.
        path: OsString,
    },
    /// A tar stream on standard output.
    Pipe,
}

/// Both.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ends {
    /// Where from.
    pub from: Sources,
    /// Where to.
    pub to: Destination,
}

/// One word: a guest's path has the VM's name before a colon, and no slash before that.
fn end(word: &OsStr) -> Destination {
    let bytes = word.as_bytes();
    if bytes == b"-" {
        return Destination::Pipe;
    }
    let colon = bytes.iter().position(|&byte| byte == b':');
    match colon.map(|at| (&bytes[..at], &bytes[at + 1..])) {
        Some((name, path)) if !name.is_empty() && !name.contains(&b'/') && name[0] != b'.' => {
            Destination::Guest {
                name: String::from_utf8_lossy(name).into_owned(),
                path: OsStr::from_bytes(path).to_owned(),
            }
        }
        _ => Destination::Here(word.to_owned()),
    }
}

fn bad(what: &str, help: &'static str) -> Failure {
    Failure::BadWord {
        act: "copy",
        what: what.to_owned(),
        help,
    }
}

impl Ends {
    /// What was typed, the last word being where to.
    pub fn new(words: &[OsString]) -> Result<Ends, Failure> {
        const GUESTS: &str = "a path in a guest is written NAME:PATH; `mother ps` lists names";
        let Some((last, first)) = words.split_last() else {
            return Err(bad("nothing was named", GUESTS));
        };
        let to = end(last);
        let mut from: Option<Sources> = None;
        for word in first {
            from = Some(match (from, end(word)) {
                (None, Destination::Pipe) => Sources::Pipe,
                (None, Destination::Here(path)) => Sources::Here(vec![path]),
                (None, Destination::Guest { name, path }) => Sources::Guest {
                    name,
                    paths: vec![path],
                },
                (Some(Sources::Here(mut paths)), Destination::Here(path)) => {
                    paths.push(path);
                    Sources::Here(paths)
                }
                (
                    Some(Sources::Guest { name, mut paths }),
                    Destination::Guest { name: same, path },
                ) if name == same => {
                    paths.push(path);
                    Sources::Guest { name, paths }
                }
                _ => {
                    return Err(bad(
                        "what is copied at once is all here, or all in one guest",
                        "copy it one after the other",
                    ));
                }
            });
        }
        let ends = Ends {
            from: from.ok_or_else(|| bad("only one path was named", GUESTS))?,
            to,
        };
        ends.check(GUESTS)?;
        Ok(ends)
    }

    fn check(&self, guests: &'static str) -> Result<(), Failure> {
        let is_none = |path: &OsString| path.is_empty();
        let has_none = match (&self.from, &self.to) {
            (Sources::Here(_) | Sources::Pipe, Destination::Here(_) | Destination::Pipe) => {
                return Err(bad("neither end is in a guest", guests));
            }
            (_, Destination::Guest { path, .. } | Destination::Here(path)) if is_none(path) => true,
            (Sources::Here(paths) | Sources::Guest { paths, .. }, _) => paths.iter().any(is_none),
            (Sources::Pipe, _) => false,
        };
        if has_none {
            return Err(bad("a path is empty", guests));
        }
        let all = |paths: &[OsString]| paths.iter().any(|path| path.as_bytes().contains(&0));
        let words_bytes = match &self.from {
            Sources::Guest { paths, .. } => paths.iter().map(|path| path.len() + 6).sum(),
            _ => 0,
        };
        if words_bytes > api::agent::MESSAGE_BYTES_MAX - 16 {
            return Err(bad(
                "more paths than fit into one request",
                "name the folder, or copy in parts",
            ));
        }
        match &self.from {
            Sources::Here(paths) | Sources::Guest { paths, .. } if all(paths) => {
                Err(bad("a path has a zero byte in it", guests))
            }
            _ => Ok(()),
        }
    }

    /// Whether what is copied needs a folder to go to.
    pub fn is_several(&self) -> bool {
        match &self.from {
            Sources::Here(paths) | Sources::Guest { paths, .. } => paths.len() > 1,
            // How many there are is seen when they come.
            Sources::Pipe => true,
        }
    }

    /// The VM that things come from.
    pub fn source(&self) -> Option<&str> {
        match &self.from {
            Sources::Guest { name, .. } => Some(name),
            _ => None,
        }
    }

    /// And the one that they go to.
    pub fn target(&self) -> Option<&str> {
        match &self.to {
            Destination::Guest { name, .. } => Some(name),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_ends_or_refused() {
        let guest = |name: &str, path: &str| (name.to_owned(), OsString::from(path));
        let check = |words: &[&str], expected: Result<(Sources, Destination), &str>| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            let got = Ends::new(&words).map(|ends| (ends.from, ends.to));
            match (got, expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{words:?}"),
                (Err(got), Err(expected)) => {
                    assert_eq!(got.to_string(), format!("cannot copy: {expected}"));
                }
                (got, expected) => panic!("{words:?}: {got:?}, not {expected:?}"),
            }
        };
        let here = |paths: &[&str]| Sources::Here(paths.iter().map(OsString::from).collect());
        let (name, path) = guest("web", "/srv");
        let to = Destination::Guest { name, path };
        check(&["a", "b", "web:/srv"], Ok((here(&["a", "b"]), to.clone())));
        check(&["./a:b", "web:/srv"], Ok((here(&["./a:b"]), to.clone())));
        check(&["/x/a:b", "web:/srv"], Ok((here(&["/x/a:b"]), to.clone())));
        check(&["-", "web:/srv"], Ok((Sources::Pipe, to.clone())));
        let from = Sources::Guest {
            name: "db".to_owned(),
            paths: vec!["x".into(), "a:b".into()],
        };
        let two = ["db:x", "db:a:b"];
        check(
            &[&two[..], &["."]].concat(),
            Ok((from.clone(), Destination::Here(".".into()))),
        );
        check(
            &[&two[..], &["-"]].concat(),
            Ok((from.clone(), Destination::Pipe)),
        );
        check(&[&two[..], &["web:/srv"]].concat(), Ok((from, to)));
        check(&["a", "b"], Err("neither end is in a guest"));
        check(&["-", "-"], Err("neither end is in a guest"));
        let mixed = "what is copied at once is all here, or all in one guest";
        check(&["a", "db:x", "web:/srv"], Err(mixed));
        check(&["db:x", "web:x", "."], Err(mixed));
        check(&["-", "a", "web:/srv"], Err(mixed));
        check(&["a", "web:"], Err("a path is empty"));
        check(&["web:", "a"], Err("a path is empty"));
        check(&["web:/srv"], Err("only one path was named"));
    }
}
