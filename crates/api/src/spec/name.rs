//! The name of a VM: one word that can stand in a path, in a message and on a kernel's command line.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::text::{BadText, Text, written_as_text};

/// Longest name, so that it fits into messages, thread names and the path of a socket.
const BYTES_MAX: usize = 63;

/// A name that has been checked: 1 to 63 of `a-z A-Z 0-9 - _ .`, the first a letter or digit. So it is never empty,
/// never `..`, has no slash, and cannot be taken for an option.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VmName(String);

/// What is wrong with a name.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{what}")]
pub struct NameError {
    /// What is wrong, with the name where it can be shown.
    pub what: String,
}

impl NameError {
    /// What a name may be.
    pub fn help() -> String {
        format!(
            "use 1 to {BYTES_MAX} of a-z, A-Z, 0-9, `-`, `_` and `.`, the first a letter or digit"
        )
    }
}

impl VmName {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`NameError`] for whatever is no name.
    pub fn new(name: &str) -> Result<VmName, NameError> {
        let shown = name.escape_debug();
        let bad = |what: String| Err(NameError { what });
        if name.is_empty() {
            return bad("the name is empty".to_owned());
        }
        if name.len() > BYTES_MAX {
            return bad(format!(
                "the name has {} bytes, more than {BYTES_MAX}",
                name.len()
            ));
        }
        if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return bad(format!("\"{shown}\" does not start with a letter or digit"));
        }
        match name
            .chars()
            .find(|c| !c.is_ascii_alphanumeric() && !"-_.".contains(*c))
        {
            Some(c) => bad(format!("\"{shown}\" has the character {c:?}")),
            None => Ok(VmName(name.to_owned())),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for VmName {
    type Err = BadText;

    fn from_str(name: &str) -> Result<VmName, BadText> {
        VmName::new(name).map_err(|NameError { what }| BadText {
            what,
            help: NameError::help(),
        })
    }
}

impl Text for VmName {
    const NAME: &'static str = "VmName";
    const EXAMPLES: &'static [&'static str] = &["web1"];
}

written_as_text!(VmName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_harmless_word() {
        let check = |name: &str, expected: Result<(), &str>| {
            let got = VmName::new(name).map(drop).map_err(|error| error.what);
            assert_eq!(got, expected.map_err(str::to_owned), "{name:?}");
            let json = serde_json::to_string(name).unwrap();
            assert_eq!(
                serde_json::from_str::<VmName>(&json).is_ok(),
                expected.is_ok()
            );
        };
        check("web1", Ok(()));
        check("a", Ok(()));
        check("9-lives_of.cats", Ok(()));
        check(&"n".repeat(63), Ok(()));
        check("", Err("the name is empty"));
        check(
            &"n".repeat(300),
            Err("the name has 300 bytes, more than 63"),
        );
        check("..", Err("\"..\" does not start with a letter or digit"));
        check("-rf", Err("\"-rf\" does not start with a letter or digit"));
        check(
            "/etc",
            Err("\"/etc\" does not start with a letter or digit"),
        );
        check("a/../b", Err("\"a/../b\" has the character '/'"));
        check("a b", Err("\"a b\" has the character ' '"));
        check(
            "a\u{1b}[2J",
            Err("\"a\\u{1b}[2J\" has the character '\\u{1b}'"),
        );
        check("größe", Err("\"größe\" has the character 'ö'"));
    }
}
