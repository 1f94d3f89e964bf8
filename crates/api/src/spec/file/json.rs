//! JSON as nodes with lines.
//!
//! serde_json tells lines of errors alone. But a raw value is a piece of the text that it was found in, and where the
//! piece begins is where the value stands.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Kind, NoFile, Node, line_of};

/// An object with its values still text.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
                let mut entries: Vec<(String, &RawValue)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
                    if entries.iter().any(|(known, _)| *known == key) {
                        let what = format!("the key \"{}\" is there twice", key.escape_debug());
                        return Err(serde::de::Error::custom(what));
                    }
                    entries.push((key, value));
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// The entries of the file.
pub(super) fn parse(text: &str) -> Result<Vec<(String, Node)>, NoFile> {
    let no_file = |error: &serde_json::Error| {
        let what = error.to_string();
        let at = format!(" at line {} column", error.line());
        NoFile {
            line: error.line().max(1),
            what: what.split(&at).next().unwrap_or_default().to_owned(),
        }
    };
    let Entries(entries) = serde_json::from_str(text).map_err(|error| no_file(&error))?;
    Ok(nodes(text, entries))
}

fn nodes(text: &str, entries: Vec<(String, &RawValue)>) -> Vec<(String, Node)> {
    let entries = entries.into_iter();
    entries
        .map(|(key, value)| (key, node(text, value)))
        .collect()
}

fn node(text: &str, raw: &RawValue) -> Node {
    let piece = raw.get();
    let offset = piece.as_ptr().addr().saturating_sub(text.as_ptr().addr());
    let kind = if let Ok(Entries(entries)) = serde_json::from_str(piece) {
        Kind::Table(nodes(text, entries))
    } else if let Ok(parts) = serde_json::from_str::<Vec<&RawValue>>(piece) {
        Kind::List(parts.into_iter().map(|part| node(text, part)).collect())
    } else {
        Kind::Leaf(serde_json::from_str(piece).unwrap_or_default())
    };
    Node {
        line: line_of(text, offset),
        kind,
    }
}
