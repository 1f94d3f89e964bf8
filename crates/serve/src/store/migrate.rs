//! From what older versions wrote to what this one reads, a step for each version, in the transaction of the opening.
//!
//! | version | what changed |
//! |---|---|
//! | 1 | the first: a declaration alone under its name |
//! | 2 | a declaration has its version and counts of starts around it ([`crate::words::Declared`]) |

use redb::{ReadableTable, WriteTransaction};

use super::{DECLARED, META, SCHEMA, StoreError, bytes, failed, value};
use crate::words::{BootOverride, Declaration, Declared};

/// Brings what is there to [`SCHEMA`].
pub(super) fn migrate(transaction: &WriteTransaction) -> Result<(), StoreError> {
    let mut meta = transaction.open_table(META).map_err(failed("read"))?;
    let found = meta.get("schema").map_err(failed("read"))?;
    let found = found.map(|version| version.value().to_owned());
    let version = match found.as_deref() {
        // Nothing is there yet.
        None => SCHEMA,
        Some(text) => text
            .parse()
            .map_err(|_| StoreError::Damaged("schema".to_owned()))?,
    };
    if version > SCHEMA {
        return Err(StoreError::Newer(version));
    }
    if version < 2 {
        with_versions(transaction)?;
    }
    meta.insert("schema", SCHEMA.to_string().as_str())
        .map_err(failed("change"))?;
    Ok(())
}

/// To version 2.
fn with_versions(transaction: &WriteTransaction) -> Result<(), StoreError> {
    let mut table = transaction.open_table(DECLARED).map_err(failed("read"))?;
    let mut all: Vec<(String, Declaration)> = Vec::new();
    for entry in table.iter().map_err(failed("read"))? {
        let (name, old) = entry.map_err(failed("read"))?;
        all.push((name.value().to_owned(), value(name.value(), old.value())?));
    }
    for (name, what) in all {
        let declared = Declared {
            what,
            version: 1,
            wanted: 0,
            served: 0,
            medium: None,
            boot: BootOverride::default(),
        };
        table
            .insert(name.as_str(), bytes(&declared).as_slice())
            .map_err(failed("change"))?;
    }
    Ok(())
}
