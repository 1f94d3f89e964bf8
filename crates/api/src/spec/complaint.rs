//! What is wrong with a spec: all of it at once.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::text::BadText;

/// One thing that is wrong with a spec.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct Complaint {
    /// The field, as the command line and files name it; in a file with the line in front, such as `vm.toml:3: memory`.
    pub field: String,
    /// What is wrong, with the object and the reason.
    pub what: String,
    /// What to do.
    pub help: String,
}

impl Complaint {
    /// A value of `field` that is none.
    pub fn of(field: impl Into<String>, bad: BadText) -> Complaint {
        Complaint {
            field: field.into(),
            what: bad.what,
            help: bad.help,
        }
    }

    /// The field without file and line.
    pub fn key(&self) -> &str {
        self.field.rsplit(": ").next().unwrap_or(&self.field)
    }
}

/// Everything that is wrong with a spec. Prints itself without a leading `error:` and without a last newline.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct SpecErrors {
    /// The VM's name as it was asked for.
    pub name: String,
    /// At least one.
    pub complaints: Vec<Complaint>,
}

impl SpecErrors {
    /// Two lines for each complaint, below a first line that says what cannot be done.
    pub fn lines(&self) -> String {
        let line = |Complaint { field, what, help }: &Complaint| {
            let field = visible(field);
            let what = visible(what);
            format!("\n  {field}: {what}\n  help: {help}")
        };
        self.complaints.iter().map(line).collect()
    }
}

impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.escape_debug();
        write!(f, "cannot start VM \"{name}\"{}", self.lines())
    }
}

impl std::error::Error for SpecErrors {}

/// Control characters as escapes: the name of a file must not move the cursor of the person who reads about it.
fn visible(text: &str) -> String {
    let show = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_is_told_and_none_of_it_moves_the_cursor() {
        let complaint = |field: &str, what: &str| Complaint {
            field: field.to_owned(),
            what: what.to_owned(),
            help: "do this".to_owned(),
        };
        let errors = SpecErrors {
            name: "a\nb".to_owned(),
            complaints: vec![
                complaint("kernel", "no\u{1b}[31mwhere is größer"),
                complaint("f.toml:3: memory", "too little"),
            ],
        };
        let expected = "cannot start VM \"a\\nb\"\n  kernel: no\\u{1b}[31mwhere is größer\n  help: do this\n  \
                        f.toml:3: memory: too little\n  help: do this";
        assert_eq!(errors.to_string(), expected);
        let keys: Vec<&str> = errors.complaints.iter().map(Complaint::key).collect();
        assert_eq!(keys, ["kernel", "memory"]);
    }
}
