//! An image with all its parts, from whoever has it: mirrors one after the other, then its registry.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use images::{Amount, Cache, OnProgress, Progress, Unit};

use crate::blob;
use crate::client::Client;
use crate::configuration::Registries;
use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::endpoint::Endpoint;
use crate::error::RegistryError;
use crate::manifest::{self, ACCEPT, Described, MANIFEST_BYTES_MAX, Part};
use crate::reference::Reference;
use crate::session::{Session, Wanted};
use crate::shelf::{Pulled, Shelf};

/// Parts that come at once.
const AT_ONCE: usize = 3;

/// Indexes within indexes that are followed.
const INDEXES_MAX: usize = 4;

/// When the registry is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum When {
    /// Always, so that what it has under the name now is run.
    Always,
    /// If the image is not here.
    #[default]
    Missing,
    /// Never.
    Never,
}

/// An image with all its parts in the cache; what is there already does not come again, and an image that is named by a
/// digest is asked for only if something of it is missing.
///
/// # Errors
/// [`RegistryError`].
pub fn pull(
    cache: &Cache,
    reference: &Reference,
    when: When,
    on_progress: OnProgress,
) -> Result<Pulled, RegistryError> {
    let shelf = Shelf::of(cache);
    // A digest leads to the same for ever.
    let is_asked = when == When::Always && reference.digest().is_none();
    if !is_asked && let Some(pulled) = shelf.find(reference) {
        return Ok(pulled);
    }
    if when == When::Never {
        return Err(RegistryError::NotHere);
    }
    let registries = Registries::of_user()?;
    let credentials = Credentials::of_user();
    let _lock = shelf.lock(|| on_progress(Progress::Waiting))?;
    // Who was waited for may have pulled it.
    if !is_asked && let Some(pulled) = shelf.find(reference) {
        return Ok(pulled);
    }
    from_any(&shelf, reference, (&registries, &credentials), on_progress)
}

/// The same from the first that has it, who holds the lock.
pub(crate) fn from_any(
    shelf: &Shelf,
    reference: &Reference,
    (registries, credentials): (&Registries, &Credentials),
    on_progress: OnProgress,
) -> Result<Pulled, RegistryError> {
    let mut endpoints = Endpoint::all(reference, registries).into_iter().peekable();
    loop {
        let Some(endpoint) = endpoints.next() else {
            return Err(RegistryError::NotHere);
        };
        let host = endpoint.host.clone();
        let client = Client::new(&endpoint.registry);
        let session = Session::new(&client, credentials, endpoint);
        match from_one(shelf, reference, session, on_progress) {
            Err(error) if endpoints.peek().is_some() && !error.is_ours() => {
                tracing::warn!("the mirror {host} does not give {reference}: {error}");
            }
            done => return done,
        }
    }
}

fn from_one(
    shelf: &Shelf,
    reference: &Reference,
    mut session: Session<'_>,
    on_progress: OnProgress,
) -> Result<Pulled, RegistryError> {
    on_progress(Progress::Asking);
    let (digest, mut bytes) = match reference.digest() {
        Some(digest) => (digest.clone(), description(shelf, &mut session, digest)?),
        None => tagged(shelf, &mut session, reference.tag().unwrap_or("latest"))?,
    };
    let mut described = Part {
        digest: digest.clone(),
        size_bytes: bytes.len() as u64,
    };
    let mut indexes = Vec::new();
    for _ in 0..INDEXES_MAX {
        match manifest::read(&bytes)? {
            Described::Image(parts) => {
                download(shelf, &session, &parts, on_progress)?;
                let all = indexes.into_iter().chain(parts).collect();
                let mut pulled = Pulled::new(reference, digest, described, all);
                // The same image is not made anew.
                let known = shelf
                    .find(reference)
                    .filter(|known| known.is_same_image(&pulled));
                pulled.made = known.and_then(|known| known.made);
                shelf.keep(&pulled)?;
                return Ok(pulled);
            }
            Described::Index(chosen) => {
                bytes = description(shelf, &mut session, &chosen.digest)?;
                if bytes.len() as u64 != chosen.size_bytes {
                    let size_bytes = chosen.size_bytes;
                    let part = chosen.digest;
                    return Err(RegistryError::TooLong { part, size_bytes });
                }
                indexes.push(std::mem::replace(&mut described, chosen));
            }
        }
    }
    Err(RegistryError::NoImage(
        "its indexes lead to indexes again and again".to_owned(),
    ))
}

/// What is under a tag now.
fn tagged(
    shelf: &Shelf,
    session: &mut Session<'_>,
    tag: &str,
) -> Result<(Digest, Vec<u8>), RegistryError> {
    let bytes = ask(session, tag)?;
    let digest = Digest::of(&bytes);
    shelf.put(&digest, &bytes)?;
    Ok((digest, bytes))
}

/// An index or a manifest of this digest.
fn description(
    shelf: &Shelf,
    session: &mut Session<'_>,
    digest: &Digest,
) -> Result<Vec<u8>, RegistryError> {
    if let Ok(bytes) = std::fs::read(shelf.blob(digest)) {
        return Ok(bytes);
    }
    let bytes = ask(session, &digest.to_string())?;
    let found = Digest::of(&bytes);
    if found != *digest {
        let part = digest.clone();
        return Err(RegistryError::Damaged { part, found });
    }
    shelf.put(digest, &bytes)?;
    Ok(bytes)
}

fn ask(session: &mut Session<'_>, name: &str) -> Result<Vec<u8>, RegistryError> {
    let answer = session.ask(Wanted {
        what: &format!("manifests/{name}"),
        accept: Some(ACCEPT),
        from: 0,
    })?;
    if answer.status().as_u16() != 200 {
        return Err(session.strange("with a piece of a manifest"));
    }
    let limited = answer
        .into_body()
        .into_with_config()
        .limit(MANIFEST_BYTES_MAX);
    let host = session.endpoint.host.clone();
    limited.read_to_vec().map_err(|error| match error {
        ureq::Error::BodyExceedsLimit(max_bytes) => RegistryError::TooLarge {
            what: format!("the manifest {name}"),
            max_bytes,
        },
        other => RegistryError::Unreached {
            host,
            source: other.into_io(),
        },
    })
}

/// Has all these parts on the shelf, some of them at once.
fn download(
    shelf: &Shelf,
    session: &Session<'_>,
    parts: &[Part],
    on_progress: OnProgress,
) -> Result<(), RegistryError> {
    let missing: Vec<&Part> = parts.iter().filter(|part| !shelf.has(part)).collect();
    let total: u64 = missing.iter().map(|part| part.size_bytes).sum();
    check_room(shelf, &missing, total)?;
    if missing.is_empty() {
        return Ok(());
    }
    let queue = Queue {
        shelf,
        missing,
        next: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
    };
    let (told, tellings) = mpsc::channel::<i64>();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE.min(queue.missing.len()))
            .map(|_| {
                let told = told.clone();
                let session = session.clone();
                let queue = &queue;
                scope.spawn(move || queue.work(session, &told))
            })
            .collect();
        drop(told);
        let mut done = 0_u64;
        for bytes in tellings {
            done = done.saturating_add_signed(bytes);
            let unit = Unit::Bytes;
            on_progress(Progress::Downloading(Amount { done, total, unit }));
        }
        let mut ended = workers.into_iter().map(|worker| match worker.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        // The others are waited for by the scope.
        ended.find(Result::is_err).unwrap_or(Ok(()))
    })
}

/// Parts that are still to come.
struct Queue<'a> {
    shelf: &'a Shelf,
    missing: Vec<&'a Part>,
    next: AtomicUsize,
    /// Whether one of them does not come.
    is_over: AtomicBool,
}

impl Queue<'_> {
    /// Has one after the other come, beside others who do.
    fn work(
        &self,
        mut session: Session<'_>,
        told: &mpsc::Sender<i64>,
    ) -> Result<(), RegistryError> {
        let on_bytes = |bytes: i64| {
            // Who listens is there as long as anybody works.
            let _ = told.send(bytes);
            !self.is_over.load(Ordering::Relaxed)
        };
        while !self.is_over.load(Ordering::Relaxed) {
            let Some(part) = self.missing.get(self.next.fetch_add(1, Ordering::Relaxed)) else {
                break;
            };
            let done = blob::fetch(&mut session, self.shelf, part, &on_bytes);
            self.is_over.fetch_or(done.is_err(), Ordering::Relaxed);
            done?;
        }
        Ok(())
    }
}

/// Nothing is begun that cannot end.
fn check_room(shelf: &Shelf, missing: &[&Part], total: u64) -> Result<(), RegistryError> {
    let begun = missing
        .iter()
        .filter_map(|part| std::fs::metadata(shelf.partial(&part.digest)).ok());
    let needed_bytes = total.saturating_sub(begun.map(|it| it.len()).sum());
    match shelf.free_bytes() {
        Some(free_bytes) if free_bytes < needed_bytes => Err(RegistryError::NoRoom {
            needed_bytes,
            free_bytes,
            folder: shelf.folder().to_owned(),
            source: io::ErrorKind::StorageFull.into(),
        }),
        _ => Ok(()),
    }
}
