//! `tools/xtask/tidy.toml`: what may break a rule, each with its reason.

use anyhow::{Context, Result, ensure};
use toml::{Table, Value};

/// The whole list.
#[derive(Default)]
pub struct Allowances {
    /// Files or folders (ending in `/`) that may hold unsafe code.
    pub unsafe_rooms: Vec<String>,
    /// Files that answer a poisoned lock themselves.
    pub poison: Vec<String>,
    /// Files over the limit.
    pub long_files: Vec<String>,
    /// Functions over the limit, as (file, function).
    pub long_functions: Vec<(String, String)>,
}

impl Allowances {
    /// Reads the list; an entry without a reason is an error.
    pub fn parse(text: &str) -> Result<Allowances> {
        let table: Table = text.parse()?;
        let functions = entries(&table, "long_function")?;
        let mut long_functions = Vec::new();
        for (path, entry) in functions {
            let name = entry.get("name").and_then(Value::as_str);
            let name = name.with_context(|| format!("long_function in {path} has no name"))?;
            long_functions.push((path, name.to_owned()));
        }
        Ok(Allowances {
            unsafe_rooms: paths(&table, "unsafe_room")?,
            poison: paths(&table, "poison")?,
            long_files: paths(&table, "long_file")?,
            long_functions,
        })
    }
}

fn paths(table: &Table, kind: &str) -> Result<Vec<String>> {
    Ok(entries(table, kind)?
        .into_iter()
        .map(|(path, _)| path)
        .collect())
}

fn entries<'t>(table: &'t Table, kind: &str) -> Result<Vec<(String, &'t Table)>> {
    let list = table
        .get(kind)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut entries = Vec::new();
    for entry in list {
        let entry = entry
            .as_table()
            .with_context(|| format!("{kind} is a list of tables"))?;
        let path = entry.get("path").and_then(Value::as_str);
        let path = path.with_context(|| format!("an entry of {kind} has no path"))?;
        let reason = entry
            .get("reason")
            .and_then(Value::as_str)
            .unwrap_or_default();
        ensure!(!reason.trim().is_empty(), "{kind} {path} has no reason");
        entries.push((path.to_owned(), entry));
    }
    Ok(entries)
}
