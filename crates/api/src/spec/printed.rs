//! A spec as TOML: what [`super::file`] reads, with the keys in the order of the fields.

use std::fmt::Write;

use serde_json::Value;

use super::{VmSpec, disk};

impl VmSpec {
    /// As a file that `mother run --config` reads: only what was said, tables of disks last, as TOML wants it.
    pub fn to_toml(&self) -> String {
        let said = self.said();
        let mut lines = String::new();
        let mut tables = String::new();
        let entries = VmSpec::keys()
            .iter()
            .filter_map(|key| Some((*key, said.get(*key)?)));
        for (key, value) in entries {
            match value {
                Value::Array(items) if items.iter().all(Value::is_object) => {
                    for item in items {
                        let _ = write!(tables, "\n[[{key}]]\n{}", inside(item, disk::keys()));
                    }
                }
                _ => line(&mut lines, key, value),
            }
        }
        lines + &tables
    }
}

fn inside(table: &Value, keys: &[&str]) -> String {
    let mut lines = String::new();
    for key in keys {
        if let Some(value) = table.get(key) {
            line(&mut lines, key, value);
        }
    }
    lines
}

fn line(lines: &mut String, key: &str, value: &Value) {
    let value = toml::Value::try_from(value).expect("texts, numbers, truths and lists of them");
    let _ = writeln!(lines, "{key} = {value}");
}
