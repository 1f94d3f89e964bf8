//! Who is connected, and who has to go when there is no place.
//!
//! A VM serves so many clients at one time, so that nobody who connects and says nothing costs it threads without end.
//! They must not keep its owner out either: a newcomer gets the place of a client that has no request under way, first of
//! one that never asked anything, then of the one that has been silent for longest. Consoles and those who wait for the
//! end stay, and are therefore only given a part of the places.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use api::{Outcome, RefusalCode};
use host::lock::Lock;

use crate::server::lines::{refusal, reply};

/// Clients at one time.
pub(super) const CLIENTS_MAX: usize = 32;
/// Those of them that stay: consoles, and who waits for the end.
pub(super) const STAYING_MAX: usize = 24;

/// What a client is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doing {
    /// Nothing since then, after so many requests.
    Silent(Instant, u64),
    /// A request, the last of so many.
    Request(u64),
    /// It is at a console, or waits for the end.
    Stays,
}

struct Client {
    id: u64,
    stream: UnixStream,
    doing: Doing,
}

#[derive(Default)]
struct Book {
    next_id: u64,
    clients: Vec<Client>,
}

/// See the module's head.
#[derive(Default)]
pub(super) struct Clients(Lock<Book>);

/// A client's place, until it is dropped or given to another.
pub(super) struct Place {
    clients: Arc<Clients>,
    id: u64,
}

impl Clients {
    /// A place for a newcomer; what to say to it if there is none.
    pub(super) fn enter(clients: &Arc<Clients>, stream: &UnixStream) -> Result<Place, Outcome> {
        let full = || {
            let message = format!("{CLIENTS_MAX} clients are connected, and more are not served");
            refusal(RefusalCode::Busy, message)
        };
        let stream = stream.try_clone().map_err(|_| full())?;
        let (id, gone) = {
            let mut book = clients.0.lock();
            let gone = match book.clients.len() {
                0..CLIENTS_MAX => None,
                _ => Some(book.make_room().ok_or_else(full)?),
            };
            (book.add(stream), gone)
        };
        if let Some(gone) = gone {
            // Told without the lock: it may not be reading.
            let why = "another client needed the place of one that asked nothing";
            let _ = gone.set_write_timeout(Some(std::time::Duration::from_millis(1)));
            reply(&gone, refusal(RefusalCode::Busy, why));
            let _ = gone.shutdown(Shutdown::Both);
        }
        Ok(Place {
            clients: Arc::clone(clients),
            id,
        })
    }
}

impl Book {
    fn add(&mut self, stream: UnixStream) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.clients.push(Client {
            id,
            stream,
            doing: Doing::Silent(Instant::now(), 0),
        });
        id
    }

    /// Takes the place of the client that will be missed least.
    fn make_room(&mut self) -> Option<UnixStream> {
        let silent = self.clients.iter().enumerate().filter_map(|(at, client)| {
            let Doing::Silent(since, requests) = client.doing else {
                return None;
            };
            Some(((requests > 0, since), at))
        });
        let (_, at) = silent.min()?;
        Some(self.clients.swap_remove(at).stream)
    }
}

impl Place {
    fn with<T>(&self, of: impl FnOnce(&mut Client) -> T) -> Option<T> {
        let mut book = self.clients.0.lock();
        let own = book.clients.iter_mut().find(|client| client.id == self.id);
        own.map(of)
    }

    /// It has sent a request.
    pub(super) fn asks(&self) {
        self.with(|client| {
            let before = match client.doing {
                Doing::Silent(_, requests) | Doing::Request(requests) => requests,
                Doing::Stays => 0,
            };
            client.doing = Doing::Request(before + 1);
        });
    }

    /// Its request is answered.
    pub(super) fn is_answered(&self) {
        self.with(|client| {
            if let Doing::Request(requests) = client.doing {
                client.doing = Doing::Silent(Instant::now(), requests);
            }
        });
    }

    /// It stays from now on; false if too many do.
    pub(super) fn stays(&self) -> bool {
        let mut book = self.clients.0.lock();
        let staying = book
            .clients
            .iter()
            .filter(|client| client.doing == Doing::Stays);
        if staying.count() >= STAYING_MAX {
            return false;
        }
        let own = book.clients.iter_mut().find(|client| client.id == self.id);
        own.map(|client| client.doing = Doing::Stays).is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut book = self.clients.0.lock();
        book.clients.retain(|client| client.id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn client() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    /// Fills every place; what each client holds.
    fn full() -> (Arc<Clients>, Vec<(UnixStream, Place)>) {
        let clients = Arc::default();
        let places = (0..CLIENTS_MAX).map(|_| {
            let (here, there) = client();
            let place = Clients::enter(&clients, &there).ok().unwrap();
            (here, place)
        });
        let places = places.collect();
        (clients, places)
    }

    /// What a client hears, if it has been sent away.
    fn heard(stream: &mut UnixStream) -> Option<String> {
        stream.set_nonblocking(true).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).ok().map(|_| text)
    }

    #[test]
    fn a_newcomer_has_the_place_of_who_never_asked_and_then_of_the_most_silent() {
        let (clients, mut places) = full();
        for (_, place) in &places[..CLIENTS_MAX - 1] {
            place.asks();
            place.is_answered();
        }
        let (_first, there) = client();
        let _first_place = Clients::enter(&clients, &there).ok().unwrap();
        let said = heard(&mut places[CLIENTS_MAX - 1].0).unwrap();
        assert!(said.contains("another client needed the place"), "{said}");
        _first_place.asks();
        let (_second, there) = client();
        let _second_place = Clients::enter(&clients, &there).ok().unwrap();
        assert!(
            heard(&mut places[0].0).is_some(),
            "the one silent for longest"
        );
        assert!(heard(&mut places[1].0).is_none());
    }

    #[test]
    fn nobody_is_sent_away_in_the_middle_of_a_request() {
        let (clients, places) = full();
        for (_, place) in &places {
            place.asks();
        }
        let (_here, there) = client();
        let refused = Clients::enter(&clients, &there).err().unwrap();
        let said = format!("{refused:?}");
        assert!(said.contains("32 clients are connected"), "{said}");
        drop(places);
        assert!(Clients::enter(&clients, &there).is_ok());
    }

    #[test]
    fn consoles_never_take_all_places() {
        let (clients, places) = full();
        let staying = places.iter().filter(|(_, place)| place.stays()).count();
        assert_eq!(staying, STAYING_MAX);
        let (_here, there) = client();
        assert!(Clients::enter(&clients, &there).is_ok());
    }
}
