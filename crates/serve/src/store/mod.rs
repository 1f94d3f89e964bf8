//! What the daemon must not forget: one file, in which a change is there as a whole or not at all.
//!
//! ```text
//! $XDG_STATE_HOME/mother/serve/state.redb
//!   meta      "schema" -> version; "boot" -> the host's boot that was seen last; "first-event", ...
//!   declared  name  -> Declared       what VMs are wanted to be
//!   events    id    -> Event          the newest EVENTS_KEPT
//!   audit     id    -> Audited        the newest AUDITED_KEPT calls that changed something, or were refused
//!   reads     id    -> Audited        the newest AUDITED_KEPT of the others, which would push out those
//!   tokens    name  -> Token          hashes alone
//! ```
//!
//! Values are JSON, so that fields may be added; a change that old values do not fit gets a new schema version and a
//! step in [`migrate`]. A store of a newer version is refused, not guessed at.

mod migrate;
mod open;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use self::open::Kept;
use crate::words::{Audited, Declared, Event, Token};

/// The version that this code writes.
pub(crate) const SCHEMA: u64 = 2;
/// Events that are kept.
pub(crate) const EVENTS_KEPT: u64 = 10_000;
/// Calls that are kept.
pub(crate) const AUDITED_KEPT: u64 = 10_000;

const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
const DECLARED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("declared");
const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
const AUDIT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit");
const READS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("reads");
const TOKENS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tokens");

/// Why something is not kept, or not known any more.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The folder.
    #[error("cannot {act} {}", .path.display())]
    Folder {
        /// The verb.
        act: &'static str,
        /// Which one.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("another `mother serve` has {}", .0.display())]
    Taken(PathBuf),
    /// It cannot be opened.
    #[error("cannot open {}", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<DatabaseError>,
    },
    /// It cannot be read or written.
    #[error("cannot {act} what is kept")]
    Use {
        /// The verb.
        act: &'static str,
        /// Why.
        source: Box<redb::Error>,
    },
    /// A newer Mother has written it.
    #[error("what is kept has the form {0}, and this version of Mother knows forms up to {SCHEMA}")]
    Newer(u64),
    /// A value that this code did not write.
    #[error("what is kept of {0:?} is damaged")]
    Damaged(String),
}

/// The file.
#[derive(Debug)]
pub(crate) struct Store {
    database: Kept,
}

fn failed<E: Into<redb::Error>>(act: &'static str) -> impl FnOnce(E) -> StoreError {
    move |error| StoreError::Use {
        act,
        source: Box::new(error.into()),
    }
}

fn bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain values with texts as keys can be written")
}

fn value<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|_| StoreError::Damaged(name.to_owned()))
}

impl Store {
    /// Opens the store in `folder`, which is made if it is not there and is its user's alone.
    pub(crate) fn open(folder: &Path) -> Result<Store, StoreError> {
        let failed = |act| {
            let path = folder.to_owned();
            move |source| StoreError::Folder { act, path, source }
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(failed("make"))?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(failed("close"))?;
        let path = folder.join("state.redb");
        if !path.exists() {
            // A database whose making was cut off cannot be opened: what has its final name is complete.
            let unfinished = folder.join("state.new");
            let _ = fs::remove_file(&unfinished);
            drop(Store::at(&unfinished)?);
            fs::rename(&unfinished, &path).map_err(failed("finish"))?;
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(failed("finish"))?;
        }
        Store::at(&path)
    }

    fn at(path: &Path) -> Result<Store, StoreError> {
        let path = path.to_owned();
        Store::of(move || {
            Database::create(&path).map_err(|source| match source {
                DatabaseError::DatabaseAlreadyOpen => StoreError::Taken(path.clone()),
                source => StoreError::Open {
                    path: path.clone(),
                    source: Box::new(source),
                },
            })
        })
    }

    fn of(
        open: impl Fn() -> Result<Database, StoreError> + Send + Sync + 'static,
    ) -> Result<Store, StoreError> {
        let store = Store {
            database: Kept::new(open)?,
        };
        store.write(|transaction| {
            migrate::migrate(transaction)?;
            // What is read later is there.
            transaction.open_table(DECLARED).map_err(failed("read"))?;
            transaction.open_table(EVENTS).map_err(failed("read"))?;
            transaction.open_table(AUDIT).map_err(failed("read"))?;
            transaction.open_table(READS).map_err(failed("read"))?;
            transaction.open_table(TOKENS).map_err(failed("read"))?;
            Ok(())
        })?;
        Ok(store)
    }

    /// One change: when this returns well it is on the disk.
    fn write<T>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.database.with(|database| {
            let transaction = database.begin_write().map_err(failed("change"))?;
            let outcome = change(&transaction)?;
            transaction.commit().map_err(failed("write"))?;
            Ok(outcome)
        })
    }

    /// Something that only reads.
    fn read<T>(
        &self,
        look: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.database.with(|database| {
            let transaction = database.begin_read().map_err(failed("read"))?;
            look(&transaction)
        })
    }

    fn all<K, T>(&self, table: TableDefinition<'_, K, &[u8]>) -> Result<Vec<T>, StoreError>
    where
        K: redb::Key + 'static,
        for<'a> K::SelfType<'a>: std::fmt::Debug,
        T: DeserializeOwned,
    {
        self.read(|transaction| {
            let table = transaction.open_table(table).map_err(failed("read"))?;
            let mut all = Vec::new();
            for entry in table.iter().map_err(failed("read"))? {
                let (key, bytes) = entry.map_err(failed("read"))?;
                all.push(value(&format!("{:?}", key.value()), bytes.value())?);
            }
            Ok(all)
        })
    }

    /// Everything that is declared, by name.
    pub(crate) fn declared(&self) -> Result<Vec<Declared>, StoreError> {
        self.all(DECLARED)
    }

    /// Keeps what became of these names: a declaration, or nothing; all of it or none.
    pub(crate) fn declare(&self, changes: &[(String, Option<Declared>)]) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(DECLARED).map_err(failed("change"))?;
            for (name, declared) in changes {
                match declared {
                    Some(declared) => table
                        .insert(name.as_str(), bytes(declared).as_slice())
                        .map(drop),
                    None => table.remove(name.as_str()).map(drop),
                }
                .map_err(failed("change"))?;
            }
            Ok(())
        })
    }

    /// Everybody who may come in.
    pub(crate) fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        self.all(TOKENS)
    }

    /// Lets somebody in, or not any more.
    pub(crate) fn note_token(&self, name: &str, token: Option<&Token>) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(TOKENS).map_err(failed("change"))?;
            match token {
                Some(token) => table.insert(name, bytes(token).as_slice()).map(drop),
                None => table.remove(name).map(drop),
            }
            .map_err(failed("change"))
        })
    }

    /// Whether the host has booted since this was asked last.
    pub(crate) fn is_new_boot(&self, boot: &str) -> Result<bool, StoreError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(META).map_err(failed("change"))?;
            let is_new = table
                .get("boot")
                .map_err(failed("read"))?
                .is_none_or(|seen| seen.value() != boot);
            table.insert("boot", boot).map_err(failed("change"))?;
            Ok(is_new)
        })
    }

    /// The last event that a collector has, if one was ever sent to.
    pub(crate) fn exported(&self) -> Result<Option<u64>, StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(META).map_err(failed("read"))?;
            let kept = table.get("exported").map_err(failed("read"))?;
            Ok(kept.and_then(|kept| kept.value().parse().ok()))
        })
    }

    /// Notes that a collector has all events up to this one.
    pub(crate) fn note_exported(&self, last: u64) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(META).map_err(failed("change"))?;
            let noted = table.insert("exported", last.to_string().as_str());
            noted.map(drop).map_err(failed("change"))
        })
    }

    /// Adds events behind those that there are, and lets the oldest go; their numbers are given here.
    pub(crate) fn add_events(&self, events: &mut [Event]) -> Result<(), StoreError> {
        let number = |event: &mut Event, id| event.id = id;
        self.append(EVENTS, events, number, EVENTS_KEPT)
    }

    /// The same for calls, those that only read apart.
    pub(crate) fn add_audited(
        &self,
        calls: &mut [Audited],
        are_reads: bool,
    ) -> Result<(), StoreError> {
        let number = |call: &mut Audited, id| call.id = id;
        let table = if are_reads { READS } else { AUDIT };
        self.append(table, calls, number, AUDITED_KEPT)
    }

    fn append<T: Serialize>(
        &self,
        table: TableDefinition<'_, u64, &[u8]>,
        what: &mut [T],
        number: impl Fn(&mut T, u64),
        kept: u64,
    ) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(table).map_err(failed("change"))?;
            let last = table.last().map_err(failed("read"))?;
            let mut next = last.map_or(1, |(id, _)| id.value() + 1);
            for one in what {
                number(one, next);
                table
                    .insert(next, bytes(one).as_slice())
                    .map_err(failed("change"))?;
                next += 1;
            }
            let first_kept = next.saturating_sub(kept);
            table
                .retain_in(..first_kept, |_, _| false)
                .map_err(failed("change"))
        })
    }

    /// Calls, newest first.
    pub(crate) fn audited(&self, limit: usize, reads: bool) -> Result<Vec<Audited>, StoreError> {
        self.newest(if reads { READS } else { AUDIT }, limit)
    }

    /// Events, oldest first: the newest `limit`, or those behind `after`.
    pub(crate) fn events(
        &self,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Event>, StoreError> {
        if let Some(after) = after {
            return self.oldest(EVENTS, after, limit);
        }
        let mut events = self.newest(EVENTS, limit)?;
        events.reverse();
        Ok(events)
    }

    fn newest<T: DeserializeOwned>(
        &self,
        table: TableDefinition<'_, u64, &[u8]>,
        limit: usize,
    ) -> Result<Vec<T>, StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(table).map_err(failed("read"))?;
            let mut found = Vec::new();
            for entry in table.iter().map_err(failed("read"))?.rev().take(limit) {
                let (id, bytes) = entry.map_err(failed("read"))?;
                found.push(value(&id.value().to_string(), bytes.value())?);
            }
            Ok(found)
        })
    }

    fn oldest<T: DeserializeOwned>(
        &self,
        table: TableDefinition<'_, u64, &[u8]>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<T>, StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(table).map_err(failed("read"))?;
            let range = table
                .range(after.saturating_add(1)..)
                .map_err(failed("read"))?;
            let mut found = Vec::new();
            for entry in range.take(limit) {
                let (id, bytes) = entry.map_err(failed("read"))?;
                found.push(value(&id.value().to_string(), bytes.value())?);
            }
            Ok(found)
        })
    }

    /// Numbers of the oldest and the newest event; none if there are none.
    pub(crate) fn span_of_events(&self) -> Result<Option<(u64, u64)>, StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(EVENTS).map_err(failed("read"))?;
            let first = table.first().map_err(failed("read"))?;
            let last = table.last().map_err(failed("read"))?;
            Ok(first
                .zip(last)
                .map(|((first, _), (last, _))| (first.value(), last.value())))
        })
    }
}
