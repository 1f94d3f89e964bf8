//! TOML as nodes with lines.

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Kind, NoFile, Node, line_of};

/// The entries of the file.
pub(super) fn parse(text: &str) -> Result<Vec<(String, Node)>, NoFile> {
    let table = DeTable::parse(text).map_err(|error| NoFile {
        line: line_of(text, error.span().map_or(0, |span| span.start)),
        what: error.message().to_owned(),
    })?;
    Ok(entries(text, table.get_ref()))
}

fn entries(text: &str, table: &DeTable<'_>) -> Vec<(String, Node)> {
    let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let key: &Spanned<std::borrow::Cow<'_, str>> = key;
        let mut node = node(text, value);
        // A table that is spread over lines has its own; what a person looks for is the key.
        node.line = line_of(text, key.span().start);
        (key.get_ref().to_string(), node)
    };
    table.iter().map(entry).collect()
}

fn node(text: &str, value: &Spanned<DeValue<'_>>) -> Node {
    let leaf = |value: Value| Kind::Leaf(value);
    let kind = match value.get_ref() {
        DeValue::String(string) => leaf(string.as_ref().into()),
        DeValue::Integer(number) => {
            let read = i64::from_str_radix(number.as_str(), number.radix());
            // One that no field could hold is refused as a text, in the field's own words.
            leaf(read.map_or_else(|_| number.as_str().into(), Value::from))
        }
        DeValue::Float(number) => leaf(
            number
                .as_str()
                .parse::<f64>()
                .map_or_else(|_| number.as_str().into(), Value::from),
        ),
        DeValue::Boolean(is_true) => leaf((*is_true).into()),
        DeValue::Datetime(time) => leaf(time.to_string().into()),
        DeValue::Array(parts) => Kind::List(parts.iter().map(|part| node(text, part)).collect()),
        DeValue::Table(table) => Kind::Table(entries(text, table)),
    };
    Node {
        line: line_of(text, value.span().start),
        kind,
    }
}
