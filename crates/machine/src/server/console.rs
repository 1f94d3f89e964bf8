//! A client at the console: what the guest prints goes out, what comes in is typed.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use api::Outcome;

use crate::console::recent::Reader;
use crate::server::lines::reply;
use crate::server::{Counted, Shared};

/// Turns the connection into the console until the client or the VM goes. `typed` is what has been read already of
/// what is to be typed, or `None` for one that only looks.
pub(super) fn attach(
    shared: &Arc<Shared>,
    stream: UnixStream,
    replay_bytes: u64,
    typed: Option<Vec<u8>>,
) {
    let reader = shared.recent.reader(replay_bytes);
    if !reply(&stream, Outcome::Done) {
        return;
    }
    let Ok(shown) = stream.try_clone() else {
        return;
    };
    // A terminal may be held for as long as its user likes; that holds up nobody but this client.
    let is_prepared = stream
        .set_read_timeout(None)
        .and_then(|()| stream.set_write_timeout(None));
    if is_prepared.is_err() {
        return;
    }
    let here = Arc::new(AtomicBool::new(true));
    let counted = Counted::new(shared, |shared| &shared.consoles);
    let present = Arc::clone(&here);
    let show = move || {
        show(reader, &shown, &present);
        drop(counted);
    };
    let showing = thread::Builder::new()
        .name("client-console".to_owned())
        .spawn(show);
    if showing.is_ok() {
        take(shared, &stream, typed);
    }
    here.store(false, Ordering::Release);
    let _ = stream.shutdown(Shutdown::Both);
    shared.recent.call();
}

fn show(mut reader: Reader, mut to: &UnixStream, here: &AtomicBool) {
    while let Some(piece) = reader.next(|| here.load(Ordering::Acquire)) {
        let note = match piece.missed {
            0 => String::new(),
            missed => format!("\r\n[{missed} bytes of the console were not shown]\r\n"),
        };
        if to
            .write_all(note.as_bytes())
            .and_then(|()| to.write_all(&piece.bytes))
            .is_err()
        {
            break;
        }
    }
    // Also ends the reading of what is typed.
    let _ = to.shutdown(Shutdown::Both);
}

/// Types what comes until the client or the VM goes.
fn take(shared: &Shared, mut from: &UnixStream, typed: Option<Vec<u8>>) {
    let types = typed.is_some();
    if shared.input.send(&typed.unwrap_or_default()).is_err() {
        return;
    }
    let mut bytes = [0; 4096];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) if types && shared.input.send(&bytes[..count]).is_err() => {
                return wait_for_close(from);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// The guest reads no more, but the last that it printed may still be on its way to the client.
fn wait_for_close(mut from: &UnixStream) {
    let mut bytes = [0; 4096];
    while matches!(from.read(&mut bytes), Ok(1..)) {}
}
