//! What the guest says of itself, a line at a time: `claim KEY VALUE`.
//!
//! A line comes through the virtio console's port `mother.claims`, which every guest has and a shell can write to, or
//! over vsock. Whoever sends is a guest, so nothing here is believed, answered or unbounded: lines have a greatest
//! length, keys a greatest number, characters that could move a cursor are dropped, and what is no claim is counted.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use api::{ClaimBook, GuestClaim};
use host::lock::Lock;
use host::rest::rest;

/// Longest line without its end.
const LINE_BYTES_MAX: usize = 256;
/// Longest key.
const KEY_BYTES_MAX: usize = 40;
/// Different keys that are kept.
const KEYS_MAX: usize = 64;
/// Connections over vsock at one time.
const CONNECTIONS_MAX: usize = 16;
/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(600);
/// Shortest time between two reads from one connection: whoever claims faster than that is slowed down.
const BREATH: Duration = Duration::from_millis(2);

/// The claims of one VM. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Claims(Arc<Lock<Kept>>);

#[derive(Default)]
struct Kept {
    claims: BTreeMap<String, Claim>,
    refused_lines: u64,
}

struct Claim {
    value: String,
    way: &'static str,
    at: Instant,
    times: u64,
}

impl Claims {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock()
    }

    /// A guest starts anew: what the one before it said is nothing any more.
    pub(crate) fn forget(&self) {
        *self.kept() = Kept::default();
    }

    /// What is known now.
    pub(crate) fn book(&self) -> ClaimBook {
        let kept = self.kept();
        let claim = |(key, claim): (&String, &Claim)| GuestClaim {
            key: key.clone(),
            value: claim.value.clone(),
            way: claim.way.to_owned(),
            age_ms: claim.at.elapsed().as_millis() as u64,
            times: claim.times,
        };
        ClaimBook {
            claims: kept.claims.iter().map(claim).collect(),
            refused_lines: kept.refused_lines,
        }
    }

    /// Goes on from what another process knew.
    pub(crate) fn go_on_from(&self, book: &ClaimBook) {
        let mut kept = self.kept();
        kept.refused_lines = book.refused_lines;
        let now = Instant::now();
        for claim in book.claims.iter().take(KEYS_MAX) {
            let age = Duration::from_millis(claim.age_ms);
            let known = Claim {
                value: claim.value.clone(),
                way: if claim.way == "port" { "port" } else { "vsock" },
                at: now.checked_sub(age).unwrap_or(now),
                times: claim.times,
            };
            kept.claims.insert(claim.key.clone(), known);
        }
    }

    fn hear(&self, line: &[u8], way: &'static str) {
        let mut kept = self.kept();
        let Some((key, value)) = parse(line) else {
            kept.refused_lines += 1;
            return;
        };
        let at = Instant::now();
        let known = kept.claims.len();
        match kept.claims.get_mut(&key) {
            Some(claim) => {
                *claim = Claim {
                    value,
                    way,
                    at,
                    times: claim.times.saturating_add(1),
                }
            }
            None if known < KEYS_MAX => {
                kept.claims.insert(
                    key,
                    Claim {
                        value,
                        way,
                        at,
                        times: 1,
                    },
                );
            }
            None => kept.refused_lines += 1,
        }
    }
}

/// Key and value of a line.
fn parse(line: &[u8]) -> Option<(String, String)> {
    let line = std::str::from_utf8(line).ok()?.trim();
    let (key, value) = line.strip_prefix("claim ")?.trim_start().split_once(' ')?;
    let is_key = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.chars().all(is_key) {
        return None;
    }
    let value: String = value.trim().chars().filter(|c| !c.is_control()).collect();
    (!value.is_empty()).then(|| (key.to_owned(), value))
}

/// Makes lines of what one way brings.
pub(crate) struct ClaimReader {
    claims: Claims,
    way: &'static str,
    line: Vec<u8>,
    /// The line is too long; its rest is passed over.
    is_too_long: bool,
}

impl ClaimReader {
    pub(crate) fn new(claims: Claims, way: &'static str) -> ClaimReader {
        ClaimReader {
            claims,
            way,
            line: Vec::new(),
            is_too_long: false,
        }
    }

    /// Takes bytes as they come.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' if self.is_too_long => self.claims.kept().refused_lines += 1,
                b'\n' if self.line.is_empty() => {}
                b'\n' => self.claims.hear(&self.line, self.way),
                _ if self.line.len() < LINE_BYTES_MAX => {
                    self.line.push(byte);
                    continue;
                }
                _ => {
                    self.is_too_long = true;
                    continue;
                }
            }
            self.line.clear();
            self.is_too_long = false;
        }
    }
}

/// Listens for claims over vsock.
pub(crate) struct ClaimListener {
    listener: UnixListener,
    accepting: Option<JoinHandle<()>>,
    /// Another process has the socket too: it is not shut down, and the thread ends with the process.
    is_anothers: bool,
}

impl ClaimListener {
    /// Hears what comes through `listener`.
    ///
    /// # Errors
    /// If the host gives no thread.
    pub(crate) fn start(
        listener: UnixListener,
        claims: &Claims,
        is_anothers: bool,
    ) -> io::Result<ClaimListener> {
        let accepted = listener.try_clone()?;
        let claims = claims.clone();
        let accept = move || accept(&accepted, &claims);
        let accepting = thread::Builder::new()
            .name("claims".to_owned())
            .spawn(accept)?;
        Ok(ClaimListener {
            listener,
            accepting: Some(accepting),
            is_anothers,
        })
    }
}

impl Drop for ClaimListener {
    fn drop(&mut self) {
        if self.is_anothers {
            return;
        }
        // A listening socket that is shut down fails whoever waits in accept(2).
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &UnixListener, claims: &Claims) {
    let connections = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            Err(_) => {
                rest(Duration::from_millis(100));
                continue;
            }
        };
        if connections.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            continue;
        }
        connections.fetch_add(1, Ordering::Relaxed);
        let counted = Arc::clone(&connections);
        let claims = claims.clone();
        let hear = move || {
            hear(stream, claims);
            counted.fetch_sub(1, Ordering::Relaxed);
        };
        if thread::Builder::new()
            .name("claims".to_owned())
            .spawn(hear)
            .is_err()
        {
            connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn hear(mut stream: UnixStream, claims: Claims) {
    let mut reader = ClaimReader::new(claims, "vsock");
    let mut bytes = [0; 1024];
    if stream.set_read_timeout(Some(SILENCE)).is_err() {
        return;
    }
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        reader.take(&bytes[..count]);
        rest(BREATH);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn heard(text: &[u8]) -> (Vec<(String, String, u64)>, u64) {
        let claims = Claims::default();
        let mut reader = ClaimReader::new(claims.clone(), "port");
        // However the bytes are cut.
        text.chunks(7).for_each(|piece| reader.take(piece));
        let book = claims.book();
        (
            book.claims
                .into_iter()
                .map(|claim| (claim.key, claim.value, claim.times))
                .collect(),
            book.refused_lines,
        )
    }

    #[test]
    fn a_line_is_a_claim_or_is_counted() {
        let check = |text: &str, expected: &[(&str, &str, u64)], refused| {
            let expected: Vec<_> = expected
                .iter()
                .map(|(key, value, times)| ((*key).to_owned(), (*value).to_owned(), *times))
                .collect();
            assert_eq!(heard(text.as_bytes()), (expected, refused), "{text:?}");
        };
        check(
            "claim memory_used_percent 95\n",
            &[("memory_used_percent", "95", 1)],
            0,
        );
        check(
            "claim a 1\r\nclaim a 2\n\nclaim b  two words \n",
            &[("a", "2", 2), ("b", "two words", 1)],
            0,
        );
        check("claim a 1", &[], 0);
        check("hello\nclaim\nclaim a\nclaim A 1\nclaim ../x 1\n", &[], 5);
        check("claim a \x1b[2J\x07x\n", &[("a", "[2Jx", 1)], 0);
        check(
            &format!("claim a {}\nclaim b 1\n", "x".repeat(5000)),
            &[("b", "1", 1)],
            1,
        );
        check(&format!("claim {} 1\n", "k".repeat(41)), &[], 1);
    }

    #[test]
    fn a_guest_cannot_fill_our_memory() {
        let many: String = (0..1000).map(|n| format!("claim key_{n} 1\n")).collect();
        let (claims, refused) = heard(many.as_bytes());
        assert_eq!((claims.len(), refused), (KEYS_MAX, 1000 - KEYS_MAX as u64));
        assert_eq!(heard(&[0xff, b'\n']).1, 1);
    }

    #[test]
    fn claims_come_over_vsock_too() {
        let folder = tempfile::tempdir().unwrap();
        let claims = Claims::default();
        let path = folder.path().join("v");
        let listener = UnixListener::bind(&path).unwrap();
        let listener = ClaimListener::start(listener, &claims, false).unwrap();
        UnixStream::connect(&path)
            .unwrap()
            .write_all(b"claim processes 12\n")
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while claims.book().claims.is_empty() {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(5));
        }
        drop(listener);
        assert!(UnixStream::connect(&path).is_err(), "nobody listens there");
    }
}
