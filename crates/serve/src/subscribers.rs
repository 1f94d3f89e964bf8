//! Who wants to hear of events, and what is kept of it: a small file that a loss of power leaves whole.
//!
//! Listeners to whom events are pushed are kept with the service's UUID, so that they are there after the daemon was
//! started again. A stream is a subscription for as long as it is read, and is not kept.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, MutexGuard};

use host::lock::Lock;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::doors::random;

/// Subscriptions at the same time, streams included.
const SUBSCRIPTIONS_MAX: usize = 64;

/// Everybody who hears of events, and the UUID under which the service is known to them.
#[derive(Debug)]
pub(crate) struct Subscribers {
    /// Of the service, for as long as its state is there.
    pub(crate) uuid: String,
    path: PathBuf,
    subscriptions: Lock<BTreeMap<String, Subscription>>,
}

/// What is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    uuid: String,
    subscriptions: BTreeMap<String, Wish>,
}

/// Somebody who hears of events.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    pub(crate) wish: Wish,
    /// Whether the last event did not arrive.
    pub(crate) is_failing: Arc<AtomicBool>,
    /// Ends what serves it.
    pub(crate) end: watch::Sender<bool>,
}

/// What somebody wants to hear, and where.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Wish {
    /// None for a stream.
    pub(crate) destination: Option<String>,
    pub(crate) context: String,
    pub(crate) verify: bool,
    /// Sent along; they may be secrets, and nobody gets to see them.
    pub(crate) headers: BTreeMap<String, String>,
    /// Only these messages; all if there are none.
    pub(crate) message_ids: Vec<String>,
    /// Only what is about these; everything if there are none.
    pub(crate) origins: Vec<String>,
}

impl Subscribers {
    /// What is kept in this folder; the first time, a new UUID.
    pub(crate) fn new(folder: &Path) -> io::Result<Subscribers> {
        let path = folder.join("redfish.json");
        let kept = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept {
                uuid: uuid()?,
                subscriptions: BTreeMap::new(),
            },
            Err(error) => return Err(error),
        };
        let subscriptions = kept.subscriptions.into_iter();
        let all = Subscribers {
            uuid: kept.uuid,
            path,
            subscriptions: Lock::new(
                subscriptions
                    .map(|(id, wish)| (id, Subscription::new(wish)))
                    .collect(),
            ),
        };
        all.keep(&all.subscriptions.lock())?;
        Ok(all)
    }

    /// Writes what has to last, whole or not at all.
    fn keep(&self, all: &BTreeMap<String, Subscription>) -> io::Result<()> {
        let lasting = all.iter().filter(|(_, one)| one.wish.destination.is_some());
        let kept = Kept {
            uuid: self.uuid.clone(),
            subscriptions: lasting
                .map(|(id, one)| (id.clone(), one.wish.clone()))
                .collect(),
        };
        let new = self.path.with_extension("new");
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&serde_json::to_vec(&kept)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }

    /// All of them, by their numbers.
    pub(crate) fn all(&self) -> MutexGuard<'_, BTreeMap<String, Subscription>> {
        self.subscriptions.lock()
    }

    /// Adds a subscription; its number, and how its end is heard of. None if there are too many.
    pub(crate) fn add(&self, wish: Wish) -> io::Result<Option<(String, Subscription)>> {
        let id = random()?[..16].to_owned();
        let lasts = wish.destination.is_some();
        let subscription = Subscription::new(wish);
        let mut all = self.subscriptions.lock();
        if all.len() >= SUBSCRIPTIONS_MAX {
            return Ok(None);
        }
        all.insert(id.clone(), subscription.clone());
        if lasts && let Err(error) = self.keep(&all) {
            all.remove(&id);
            return Err(error);
        }
        Ok(Some((id, subscription)))
    }

    /// Ends a subscription; whether there was one.
    pub(crate) fn remove(&self, id: &str) -> io::Result<bool> {
        let mut all = self.subscriptions.lock();
        let Some(gone) = all.remove(id) else {
            return Ok(false);
        };
        gone.end.send_replace(true);
        if gone.wish.destination.is_some() {
            self.keep(&all)?;
        }
        Ok(true)
    }
}

impl Subscription {
    fn new(wish: Wish) -> Subscription {
        Subscription {
            wish,
            is_failing: Arc::default(),
            end: watch::channel(false).0,
        }
    }
}

/// A random UUID (RFC 9562, version 4).
fn uuid() -> io::Result<String> {
    let bits = random()?;
    let part = |from: usize, to: usize| &bits[from..to];
    Ok(format!(
        "{}-{}-4{}-8{}-{}",
        part(0, 8),
        part(8, 12),
        part(13, 16),
        part(17, 20),
        part(20, 32)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_and_the_uuid_last_and_streams_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let first = Subscribers::new(folder.path()).unwrap();
        let pushed = Wish {
            destination: Some("https://192.0.2.1/".to_owned()),
            ..Wish::default()
        };
        let (id, _) = first.add(pushed.clone()).unwrap().unwrap();
        first.add(Wish::default()).unwrap().unwrap();
        let again = Subscribers::new(folder.path()).unwrap();
        assert_eq!(again.uuid, first.uuid);
        assert_eq!(again.uuid.len(), 36);
        let all = again.subscriptions.lock();
        let found: Vec<_> = all
            .iter()
            .map(|(id, one)| (id.as_str(), &one.wish))
            .collect();
        assert_eq!(found, [(id.as_str(), &pushed)]);
        drop(all);
        assert!(again.remove(&id).unwrap() && !again.remove(&id).unwrap());
        assert!(
            Subscribers::new(folder.path())
                .unwrap()
                .subscriptions
                .lock()
                .is_empty()
        );
    }
}
