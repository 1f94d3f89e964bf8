//! One part, from the registry into the shelf: it goes on where it broke off, and has its name only when its digest is right.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use images::fetch::error;
use ureq::Body;
use ureq::http::{Response, header};

use crate::digest::Hasher;
use crate::error::RegistryError;
use crate::manifest::Part;
use crate::session::{Session, Wanted};
use crate::shelf::Shelf;

/// How much is read at once.
const CHUNK_BYTES: usize = 128 << 10;

/// How often a transfer is taken up again that got no further, and how long is waited before.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(3),
];

/// Told how many bytes have come, negative if they were for nothing; says whether to go on.
pub(crate) type OnBytes<'a> = &'a dyn Fn(i64) -> bool;

/// What there is of a part.
struct Partial<'a> {
    part: &'a Part,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    done_bytes: u64,
}

/// Whether a transfer came to its end.
#[derive(PartialEq, Eq)]
enum Came {
    Whole,
    Stopped,
}

/// Has a part on the shelf.
///
/// # Errors
/// If it does not come, or is not what its digest says.
pub(crate) fn fetch(
    session: &mut Session<'_>,
    shelf: &Shelf,
    part: &Part,
    on_bytes: OnBytes<'_>,
) -> Result<(), RegistryError> {
    if shelf.has(part) {
        on_bytes(signed(part.size_bytes));
        return Ok(());
    }
    let mut partial = Partial::open(shelf, part)?;
    let resumed_bytes = partial.done_bytes;
    on_bytes(signed(resumed_bytes));
    if transfer(session, &mut partial, on_bytes)? == Came::Stopped {
        return Ok(());
    }
    match partial.finish(shelf) {
        // What was there of it may be what is wrong with it.
        Err(RegistryError::Damaged { .. }) if resumed_bytes > 0 => {
            on_bytes(-signed(part.size_bytes));
            let mut partial = Partial::open(shelf, part)?;
            match transfer(session, &mut partial, on_bytes)? {
                Came::Whole => partial.finish(shelf),
                Came::Stopped => Ok(()),
            }
        }
        finished => finished,
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Asks until all is there. Who gets further each time may go on for ever; who does not is left after some tries.
fn transfer(
    session: &mut Session<'_>,
    partial: &mut Partial<'_>,
    on_bytes: OnBytes<'_>,
) -> Result<Came, RegistryError> {
    let mut in_vain = 0;
    while partial.done_bytes < partial.part.size_bytes {
        let before = partial.done_bytes;
        let broke = match once(session, partial, on_bytes) {
            Ok(Came::Whole) => break,
            Ok(Came::Stopped) => return Ok(Came::Stopped),
            Err(error) if error.is_passing() => error,
            Err(error) => return Err(error),
        };
        in_vain = if partial.done_bytes > before {
            0
        } else {
            in_vain + 1
        };
        let Some(pause) = PAUSES.get(in_vain) else {
            return Err(RegistryError::BrokeOff {
                part: partial.part.digest.clone(),
                done_bytes: partial.done_bytes,
                size_bytes: partial.part.size_bytes,
                source: Box::new(broke),
            });
        };
        tracing::debug!(
            "{} broke off at {}: {broke}",
            partial.part.digest,
            partial.done_bytes
        );
        thread::sleep(*pause);
    }
    Ok(Came::Whole)
}

/// One request for what is missing.
fn once(
    session: &mut Session<'_>,
    partial: &mut Partial<'_>,
    on_bytes: OnBytes<'_>,
) -> Result<Came, RegistryError> {
    let wanted = Wanted {
        what: &format!("blobs/{}", partial.part.digest),
        accept: None,
        from: partial.done_bytes,
    };
    let answer = session.ask(wanted)?;
    match answer.status().as_u16() {
        206 if begins_at(&answer) == Some(partial.done_bytes) => {}
        // Who does not know of ranges begins anew.
        200 => partial.begin_anew(on_bytes)?,
        status => {
            partial.begin_anew(on_bytes)?;
            let host = session.endpoint.host.clone();
            return Err(RegistryError::Failing { host, status });
        }
    }
    let host = session.endpoint.host.clone();
    let mut body = answer.into_body().into_reader();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = match body.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(RegistryError::Unreached { host, source }),
        };
        partial.take(&chunk[..count])?;
        if !on_bytes(signed(count as u64)) {
            return Ok(Came::Stopped);
        }
    }
    if partial.done_bytes < partial.part.size_bytes {
        let source = io::ErrorKind::UnexpectedEof.into();
        return Err(RegistryError::Unreached { host, source });
    }
    Ok(Came::Whole)
}

/// Where a part of a whole begins (RFC 9110, 14.4).
fn begins_at(answer: &Response<Body>) -> Option<u64> {
    let range = answer.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    let range = range.strip_prefix("bytes ")?.trim();
    range.split('-').next()?.parse().ok()
}

impl<'a> Partial<'a> {
    fn open(shelf: &Shelf, part: &'a Part) -> Result<Partial<'a>, RegistryError> {
        let path = shelf.partial(&part.digest);
        let mut options = File::options();
        let opened = options
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path);
        let mut partial = Partial {
            file: opened.map_err(error("open", &path))?,
            path,
            part,
            hasher: Hasher::default(),
            done_bytes: 0,
        };
        partial.take_up()?;
        Ok(partial)
    }

    /// Reads what there is; more than there can be is nothing.
    fn take_up(&mut self) -> Result<(), RegistryError> {
        let failed = |source| RegistryError::File(error("read", &self.path)(source));
        if self.file.metadata().map_err(failed)?.len() > self.part.size_bytes {
            return self.empty();
        }
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = self
                .file
                .read(&mut chunk)
                .map_err(error("read", &self.path))?;
            if count == 0 {
                return Ok(());
            }
            self.hasher.take(&chunk[..count]);
            self.done_bytes += count as u64;
        }
    }

    fn empty(&mut self) -> Result<(), RegistryError> {
        self.hasher = Hasher::default();
        self.done_bytes = 0;
        let emptied = self
            .file
            .set_len(0)
            .and_then(|()| io::Seek::rewind(&mut self.file));
        Ok(emptied.map_err(error("empty", &self.path))?)
    }

    fn begin_anew(&mut self, on_bytes: OnBytes<'_>) -> Result<(), RegistryError> {
        on_bytes(-signed(self.done_bytes));
        self.empty()
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), RegistryError> {
        if self.done_bytes + bytes.len() as u64 > self.part.size_bytes {
            // Nothing of it can be right.
            let _ = fs::remove_file(&self.path);
            return Err(RegistryError::TooLong {
                part: self.part.digest.clone(),
                size_bytes: self.part.size_bytes,
            });
        }
        self.file
            .write_all(bytes)
            .map_err(error("write", &self.path))?;
        self.hasher.take(bytes);
        self.done_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Checks it, and gives it its name. Nothing is left of what is damaged.
    fn finish(self, shelf: &Shelf) -> Result<(), RegistryError> {
        let found = self.hasher.finish();
        if found != self.part.digest {
            fs::remove_file(&self.path).map_err(error("remove", &self.path))?;
            return Err(RegistryError::Damaged {
                part: self.part.digest.clone(),
                found,
            });
        }
        self.file.sync_all().map_err(error("write", &self.path))?;
        Ok(shelf.finish(&self.part.digest)?)
    }
}
