//! A spec from a file, TOML or JSON, with everything that is wrong with it at once.
//!
//! serde stops at the first value that it cannot read, and knows no lines any more by then. So a file is first read as
//! a [`Node`] that knows its line, and then each key, and each part of a list, is made a spec of its own: what is wrong
//! with one says nothing about the others.

mod json;
mod toml;

use serde_json::{Map, Value, json};

use super::text::BadText;
use super::{Complaint, VmSpec, disk};

/// What was understood of what somebody wrote, and what was not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PartialSpec {
    /// Everything that was understood.
    pub spec: VmSpec,
    /// Everything else.
    pub complaints: Vec<Complaint>,
    /// The name as it was written, if it is none.
    pub bad_name: Option<String>,
}

/// A value of a file, and where it stands.
struct Node {
    /// From 1.
    line: usize,
    kind: Kind,
}

enum Kind {
    Leaf(Value),
    List(Vec<Node>),
    Table(Vec<(String, Node)>),
}

impl Node {
    fn value(&self) -> Value {
        match &self.kind {
            Kind::Leaf(value) => value.clone(),
            Kind::List(nodes) => nodes.iter().map(Node::value).collect(),
            Kind::Table(entries) => {
                let entries = entries.iter();
                Value::Object(
                    entries
                        .map(|(key, node)| (key.clone(), node.value()))
                        .collect(),
                )
            }
        }
    }
}

/// A file that is neither TOML nor JSON.
struct NoFile {
    line: usize,
    what: String,
}

/// The line, from 1, of the byte at `offset`.
fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

const SHOWN: &str = "`mother run ... --print-config` shows how options look in a file";

impl PartialSpec {
    /// Reads `text`, which is JSON if it begins with a brace and TOML otherwise; `file` is its name in complaints.
    pub fn from_file(text: &str, file: &str) -> PartialSpec {
        let root = if text.trim_start().starts_with('{') {
            json::parse(text)
        } else {
            toml::parse(text)
        };
        let mut reader = Reader {
            file,
            good: Map::new(),
            complaints: Vec::new(),
            bad_name: None,
        };
        match root {
            Ok(mut entries) => {
                entries.sort_by_key(|(_, node)| node.line);
                for (key, node) in &entries {
                    reader.entry(key, node);
                }
            }
            Err(NoFile { line, what }) => reader.complain(line, None, what, SHOWN.to_owned()),
        }
        let spec = Value::Object(reader.good);
        PartialSpec {
            spec: serde_json::from_value(spec).expect("each value was one of a spec"),
            complaints: reader.complaints,
            bad_name: reader.bad_name,
        }
    }

    /// What this says, and where it says nothing what `below` says; the complaints of both, those of `below` first.
    #[must_use]
    pub fn over(self, below: PartialSpec) -> PartialSpec {
        let mut complaints = below.complaints;
        complaints.extend(self.complaints);
        PartialSpec {
            spec: self.spec.over(&below.spec),
            complaints,
            bad_name: self.bad_name.or(below.bad_name),
        }
    }

    /// What the VM is called in messages, by the name that was asked for even if it is none.
    pub fn shown_name(&self) -> &str {
        let name = self.bad_name.as_deref();
        name.unwrap_or_else(|| self.spec.shown_name())
    }
}

struct Reader<'a> {
    file: &'a str,
    /// What has been found to be right, by key.
    good: Map<String, Value>,
    complaints: Vec<Complaint>,
    bad_name: Option<String>,
}

impl Reader<'_> {
    fn entry(&mut self, key: &str, node: &Node) {
        if !VmSpec::keys().contains(&key) {
            return self.unknown(node.line, key, VmSpec::keys());
        }
        match &node.kind {
            Kind::List(parts) => {
                for part in parts {
                    self.part(key, part, &json!([part.value()]));
                }
            }
            _ => self.part(key, node, &node.value()),
        }
    }

    /// Takes one value, which is that of `key` or a list with one part of it.
    fn part(&mut self, key: &str, part: &Node, value: &Value) {
        if let ("disk", Kind::Table(entries)) = (key, &part.kind) {
            let unknown = entries
                .iter()
                .filter(|(key, _)| !disk::keys().contains(&key.as_str()));
            let unknown: Vec<_> = unknown.collect();
            for (key, node) in &unknown {
                self.unknown(node.line, key, disk::keys());
            }
            if !unknown.is_empty() {
                return;
            }
        }
        match serde_json::from_value::<VmSpec>(json!({ key: value })) {
            Err(error) => {
                if let ("name", Some(name)) = (key, value.as_str()) {
                    self.bad_name = Some(name.to_owned());
                }
                let text = error.to_string();
                let bad = BadText::apart(&text).unwrap_or(BadText {
                    what: text,
                    help: SHOWN.to_owned(),
                });
                self.complain(part.line, Some(key), bad.what, bad.help);
            }
            Ok(_) => match (self.good.get_mut(key), value) {
                (Some(Value::Array(parts)), Value::Array(more)) => {
                    parts.extend(more.iter().cloned());
                }
                _ => {
                    self.good.insert(key.to_owned(), value.clone());
                }
            },
        }
    }

    fn unknown(&mut self, line: usize, key: &str, keys: &[&str]) {
        let what = format!("there is no key \"{}\"", key.escape_debug());
        let help = match nearest(key, keys.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the keys are {}", keys.join(", ")),
        };
        self.complain(line, Some(key), what, help);
    }

    fn complain(&mut self, line: usize, key: Option<&str>, what: String, help: String) {
        let key = key.map_or(String::new(), |key| format!(": {}", key.escape_debug()));
        self.complaints.push(Complaint {
            field: format!("{}:{line}{key}", self.file),
            what,
            help,
        });
    }
}

/// The word of `words` that `word` is likely to have been meant as.
pub fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // As clap has it for options.
    const LIKELY: f64 = 0.7;
    let plain = |text: &str| text.to_lowercase().replace('_', "-");
    let near = |other: &'a str| (strsim::jaro_winkler(&plain(word), &plain(other)), other);
    let best = words
        .into_iter()
        .map(near)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (best.0 > LIKELY).then_some(best.1)
}

#[cfg(test)]
mod tests;
