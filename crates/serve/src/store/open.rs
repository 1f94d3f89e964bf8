//! The database, opened again after the host has failed it.
//!
//! redb answers nothing more once a write has failed, also not when the disk has room again: what it holds in memory may
//! not be what is on the disk. It has to be closed and opened anew, and then goes on from the last change that was kept.
//! A daemon must not be started again for a disk that was full for a minute.

use host::lock::Lock;
use redb::Database;

use super::StoreError;

type Opening = Box<dyn Fn() -> Result<Database, StoreError> + Send + Sync>;

/// A database that is open, or will be when it is used next.
pub(super) struct Kept {
    open: Opening,
    database: Lock<Option<Database>>,
}

impl Kept {
    /// Opens it by `open`, now and whenever that is needed.
    pub(super) fn new(
        open: impl Fn() -> Result<Database, StoreError> + Send + Sync + 'static,
    ) -> Result<Kept, StoreError> {
        let database = Lock::new(Some(open()?));
        let open = Box::new(open);
        Ok(Kept { open, database })
    }

    /// Does something with it, one at a time.
    pub(super) fn with<T>(
        &self,
        act: impl FnOnce(&Database) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut held = self.database.lock();
        let database = match held.take() {
            Some(database) => database,
            None => (self.open)()?,
        };
        let outcome = act(&database);
        if !outcome.as_ref().is_err_and(is_of_host) {
            *held = Some(database);
        }
        outcome
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept")
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

/// Whether the host failed, and not what was asked.
fn is_of_host(error: &StoreError) -> bool {
    let StoreError::Use { source, .. } = error else {
        return false;
    };
    matches!(**source, redb::Error::Io(_) | redb::Error::PreviousIo)
}
