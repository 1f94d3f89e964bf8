//! Who may come in, and what they asked for.
//!
//! | through | is | because |
//! |---|---|---|
//! | the Unix socket | Administrator | the kernel says that it is the daemon's own user, or root; its folder is closed to others |
//! | TLS, `Authorization: Bearer TOKEN` | what the token says | the SHA-256 of the token is kept |
//! | TLS, Basic | the same | tools that know nothing else send NAME:TOKEN |
//! | TLS, a cookie or `X-Auth-Token` | the same | a session that a token has opened |
//!
//! Tokens are 256 random bits (or long ones that a Redfish client has chosen), so their plain hash is kept, and all kept
//! hashes are compared in full. Who is wrong too often from one address waits: [`WRONG_MAX`] a minute, right tokens included, so
//! that guessing gains nothing. But nobody locks out who is in already: open sessions, whose secrets are random, and a token that
//! was right at that very address within [`KNOWN_TIME`] are no guesses.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use host::lock::Lock;
use sha2::{Digest, Sha256};

use crate::orders::problem;
use crate::store::{Store, StoreError};
use crate::words::{Audited, Problem, Role, Token, now};

/// Wrong tokens from one address in a minute.
const WRONG_MAX: u32 = 20;
/// How long they are remembered.
const WRONG_TIME: Duration = Duration::from_secs(60);
/// Addresses that are remembered for it, and as many with tokens that were right there.
const ADDRESSES_MAX: usize = 10_000;
/// How long a token that was right at an address is no guess there.
const KNOWN_TIME: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a session lives without being used.
pub(crate) const SESSION_IDLE: Duration = Duration::from_secs(30 * 60);
/// Sessions at the same time.
const SESSIONS_MAX: usize = 1000;
/// Calls that are kept in memory until they are written; more are written at once.
const QUEUE_MAX: usize = 4096;
/// What a browser's cookie is called.
pub(crate) const COOKIE: &str = "__Host-mother";

/// Where a call comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum From {
    /// The Unix socket, and the user who has connected.
    Socket(u32),
    /// TLS.
    Tls(IpAddr),
}

/// Who calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Who {
    /// For the audit log.
    pub(crate) name: String,
    /// What they may do.
    pub(crate) role: Role,
    /// How they came in.
    pub(crate) by: By,
}

/// How somebody came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum By {
    /// The kernel says who it is.
    Socket,
    /// Each call has its token.
    Token,
    /// A session, by its header.
    Session,
    /// A session, by a browser's cookie: other pages may make the browser send it.
    Cookie,
}

/// An open session.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// Its public number.
    pub(crate) id: String,
    /// Whose.
    pub(crate) who: String,
    /// What they may do.
    pub(crate) role: Role,
    used: Instant,
}

/// The doors.
pub(crate) struct Doors {
    tokens: Lock<Vec<Token>>,
    /// By the hash of what the client holds.
    sessions: Lock<HashMap<String, Session>>,
    wrong: Lock<HashMap<IpAddr, (u32, Instant)>>,
    /// Where tokens were right, by their hashes, and when last.
    known: Lock<HashMap<(IpAddr, String), Instant>>,
    calls: Lock<Calls>,
    /// One change of who may come in at a time: what is compared is still so when it is kept.
    changing: Lock<()>,
}

#[derive(Default)]
struct Calls {
    changes: Vec<Audited>,
    reads: Vec<Audited>,
}

/// Why nobody comes in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Closed {
    /// There was no token, or a wrong one.
    Unknown,
    /// Too many wrong ones came from there.
    Wait,
    /// Another page has made a browser ask.
    Foreign,
}

impl Closed {
    /// What is said.
    pub(crate) fn problem(&self) -> Problem {
        let (code, message, help) = match self {
            Closed::Unknown => (
                "unauthorized",
                "this needs a token that is right",
                "`mother token add NAME` on the host makes one; send it as `Authorization: Bearer TOKEN`",
            ),
            Closed::Wait => (
                "too-many-wrong-tokens",
                "too many wrong tokens came from your address",
                "wait a minute",
            ),
            Closed::Foreign => (
                "foreign-origin",
                "the call comes from a page of another site",
                "use the page that this host serves, or a token",
            ),
        };
        Problem {
            help: Some(help.to_owned()),
            ..problem(code, message)
        }
    }
}

/// The hash of a token, in hexadecimal.
pub(crate) fn hash(token: &str) -> String {
    let digest = Sha256::digest(token.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 256 random bits in hexadecimal.
pub(crate) fn random() -> std::io::Result<String> {
    let mut bytes = [0u8; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether two hashes are the same, without saying where they differ.
fn is_same(one: &str, other: &str) -> bool {
    let differences = one.bytes().zip(other.bytes()).map(|(a, b)| a ^ b);
    one.len() == other.len() && differences.fold(0, |all, difference| all | difference) == 0
}

impl Doors {
    pub(crate) fn new(tokens: Vec<Token>) -> Doors {
        Doors {
            tokens: Lock::new(tokens),
            sessions: Lock::new(HashMap::new()),
            wrong: Lock::new(HashMap::new()),
            known: Lock::new(HashMap::new()),
            calls: Lock::new(Calls::default()),
            changing: Lock::new(()),
        }
    }

    /// Who calls with these headers; `is_safe` of a call that changes nothing.
    pub(crate) fn enter(
        &self,
        from: From,
        headers: &HeaderMap,
        is_safe: bool,
    ) -> Result<Who, Closed> {
        let address = match from {
            From::Socket(user) => {
                return Ok(Who {
                    name: format!("user {user}"),
                    role: Role::Administrator,
                    by: By::Socket,
                });
            }
            From::Tls(address) => address,
        };
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(given) = text("authorization") {
            let Some((name, token)) = token_of(given) else {
                return Err(self.wrong_at(address));
            };
            return self.by_token_at(address, name.as_deref(), &token);
        }
        if let Some(given) = text("x-auth-token") {
            let found = self.by_session(given, By::Session);
            return found.ok_or_else(|| self.wrong_at(address));
        }
        let cookies = text("cookie").unwrap_or_default();
        let cookie = cookies.split(';').find_map(|cookie| {
            let (name, value) = cookie.trim().split_once('=')?;
            (name == COOKIE).then_some(value)
        });
        // A session that is over is no guess: a page left open would lock its user out.
        let who = cookie.and_then(|cookie| self.by_session(cookie, By::Cookie));
        match who {
            Some(_) if !(is_safe || is_from_here(headers)) => Err(Closed::Foreign),
            Some(who) => Ok(who),
            None => Err(Closed::Unknown),
        }
    }

    /// Whoever this token is, of somebody at this place: the socket is of those who need none.
    pub(crate) fn by_token_from(
        &self,
        from: From,
        name: Option<&str>,
        token: &str,
    ) -> Result<Who, Closed> {
        match from {
            From::Socket(_) => self.by_token(name, token).ok_or(Closed::Unknown),
            From::Tls(address) => self.by_token_at(address, name, token),
        }
    }

    fn by_token_at(&self, address: IpAddr, name: Option<&str>, token: &str) -> Result<Who, Closed> {
        let here = (address, hash(token));
        if self.must_wait(address) && !self.was_right(&here) {
            return Err(Closed::Wait);
        }
        match self.by_token(name, token) {
            Some(who) => {
                self.note_right(here);
                Ok(who)
            }
            None => Err(self.wrong_at(address)),
        }
    }

    fn was_right(&self, here: &(IpAddr, String)) -> bool {
        let known = self.known.lock();
        known
            .get(here)
            .is_some_and(|when| when.elapsed() < KNOWN_TIME)
    }

    fn note_right(&self, here: (IpAddr, String)) {
        let mut known = self.known.lock();
        if known.len() >= ADDRESSES_MAX {
            known.retain(|_, when| when.elapsed() < KNOWN_TIME);
        }
        if known.len() < ADDRESSES_MAX || known.contains_key(&here) {
            known.insert(here, Instant::now());
        }
    }

    /// Whoever this token is; none if it is nobody.
    fn by_token(&self, name: Option<&str>, token: &str) -> Option<Who> {
        let hash = hash(token);
        let mut found = None;
        for known in self.tokens.lock().iter() {
            let is_named = name.is_none_or(|name| name == known.name);
            if is_same(&known.sha256, &hash) && is_named {
                found = Some(Who {
                    name: known.name.clone(),
                    role: known.role,
                    by: By::Token,
                });
            }
        }
        found
    }

    fn by_session(&self, secret: &str, by: By) -> Option<Who> {
        let mut sessions = self.sessions.lock();
        sessions.retain(|_, session| session.used.elapsed() < SESSION_IDLE);
        let session = sessions.get_mut(&hash(secret))?;
        session.used = Instant::now();
        Some(Who {
            name: session.who.clone(),
            role: session.role,
            by,
        })
    }

    /// Opens a session for a token; its secret and its number. None if there are too many.
    pub(crate) fn open_session(&self, who: &Who) -> std::io::Result<Option<(String, String)>> {
        let mut sessions = self.sessions.lock();
        sessions.retain(|_, session| session.used.elapsed() < SESSION_IDLE);
        if sessions.len() >= SESSIONS_MAX {
            return Ok(None);
        }
        let secret = random()?;
        let id = random()?[..16].to_owned();
        let session = Session {
            id: id.clone(),
            who: who.name.clone(),
            role: who.role,
            used: Instant::now(),
        };
        sessions.insert(hash(&secret), session);
        Ok(Some((secret, id)))
    }

    /// Every open session.
    pub(crate) fn sessions(&self) -> Vec<Session> {
        let mut sessions = self.sessions.lock();
        sessions.retain(|_, session| session.used.elapsed() < SESSION_IDLE);
        let mut all: Vec<_> = sessions.values().cloned().collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// Ends sessions: this one by its number, or that of a browser by its cookie.
    pub(crate) fn end_session(&self, is_meant: impl Fn(&str, &Session) -> bool) -> bool {
        let mut sessions = self.sessions.lock();
        let before = sessions.len();
        sessions.retain(|hash, session| !is_meant(hash, session));
        sessions.len() < before
    }

    /// Everybody who may come in.
    pub(crate) fn tokens(&self) -> Vec<Token> {
        self.tokens.lock().clone()
    }

    /// Who may come in from now on; it has been kept. Sessions of who may not any more are over.
    pub(crate) fn set_tokens(&self, tokens: Vec<Token>) {
        let holds = |session: &Session| {
            tokens
                .iter()
                .any(|token| token.name == session.who && token.role == session.role)
        };
        self.sessions.lock().retain(|_, session| holds(session));
        *self.tokens.lock() = tokens;
    }

    /// Holds back other changes of who may come in.
    pub(crate) fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock()
    }

    /// Whether too many wrong tokens came from there.
    fn must_wait(&self, address: IpAddr) -> bool {
        let wrong = self.wrong.lock();
        wrong
            .get(&address)
            .is_some_and(|(count, since)| *count >= WRONG_MAX && since.elapsed() < WRONG_TIME)
    }

    /// One more wrong token from there, unless nobody looks at those any more.
    fn wrong_at(&self, address: IpAddr) -> Closed {
        if self.must_wait(address) {
            return Closed::Wait;
        }
        let mut wrong = self.wrong.lock();
        if wrong.len() >= ADDRESSES_MAX {
            wrong.retain(|_, (_, since)| since.elapsed() < WRONG_TIME);
        }
        if wrong.len() < ADDRESSES_MAX {
            let entry = wrong.entry(address).or_insert((0, Instant::now()));
            if entry.1.elapsed() >= WRONG_TIME {
                *entry = (0, Instant::now());
            }
            entry.0 += 1;
        }
        Closed::Unknown
    }

    /// A call was answered; whether it has to be written now.
    pub(crate) fn note(&self, call: Audited, is_read: bool) -> bool {
        let mut calls = self.calls.lock();
        let queue = if is_read {
            &mut calls.reads
        } else {
            &mut calls.changes
        };
        queue.push(call);
        !is_read || queue.len() >= QUEUE_MAX
    }

    /// Writes the calls that wait for it.
    pub(crate) fn flush(&self, store: &Store) -> Result<(), StoreError> {
        let Calls {
            mut changes,
            mut reads,
        } = std::mem::take(&mut *self.calls.lock());
        if !changes.is_empty() {
            store.add_audited(&mut changes, false)?;
        }
        if !reads.is_empty() {
            store.add_audited(&mut reads, true)?;
        }
        Ok(())
    }
}

/// Name and token of an `Authorization` header: `Bearer TOKEN`, or Basic with NAME:TOKEN (RFC 6750, RFC 7617).
fn token_of(given: &str) -> Option<(Option<String>, String)> {
    let (scheme, rest) = given.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some((None, rest.to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(BASE64_STANDARD.decode(rest).ok()?).ok()?;
    let (name, token) = text.split_once(':')?;
    Some((Some(name.to_owned()), token.to_owned()))
}

/// Whether a browser says that the page which asks is this host's own.
fn is_from_here(headers: &HeaderMap) -> bool {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let site = headers
        .get("sec-fetch-site")
        .and_then(|it| it.to_str().ok());
    if let Some(site) = site {
        return site == "same-origin";
    }
    let origin = text(header::ORIGIN).and_then(|origin| origin.split_once("://"));
    match (origin, text(header::HOST)) {
        (Some((_, origin)), Some(host)) => origin == host,
        _ => false,
    }
}

/// A call, for the audit log.
pub(crate) fn call(who: &str, from: From, method: &str, path: &str, status: u16) -> Audited {
    let from = match from {
        From::Socket(_) => "socket".to_owned(),
        From::Tls(address) => address.to_string(),
    };
    Audited {
        id: 0,
        at: now(),
        who: who.to_owned(),
        from,
        method: method.to_owned(),
        path: path.chars().take(1000).collect(),
        status,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const THERE: From = From::Tls(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)));

    fn doors() -> Doors {
        let token = |name: &str, role| Token {
            name: name.to_owned(),
            role,
            sha256: hash(&format!("secret of {name}")),
            made_at: 0.0,
        };
        Doors::new(vec![
            token("eve", Role::ReadOnly),
            token("otto", Role::Operator),
        ])
    }

    fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
        let value = |(name, value): &(&'static str, &str)| {
            let name = header::HeaderName::from_static(name);
            (name, HeaderValue::from_str(value).unwrap())
        };
        given.iter().map(value).collect()
    }

    #[test]
    fn who_has_a_right_token_comes_in_as_who_they_are() {
        let check = |given: &[(&'static str, &str)], expected: Result<(&str, Role), Closed>| {
            let found = doors().enter(THERE, &headers(given), false);
            let found = found.map(|who| (who.name, who.role));
            let expected = expected.map(|(name, role)| (name.to_owned(), role));
            assert_eq!(found, expected, "{given:?}");
        };
        let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
        check(
            &[("authorization", "Bearer secret of eve")],
            Ok(("eve", Role::ReadOnly)),
        );
        check(
            &[("authorization", "bearer  secret of otto")],
            Ok(("otto", Role::Operator)),
        );
        check(
            &[("authorization", &basic("otto:secret of otto"))],
            Ok(("otto", Role::Operator)),
        );
        // The token is right, the name is not.
        check(
            &[("authorization", &basic("eve:secret of otto"))],
            Err(Closed::Unknown),
        );
        check(
            &[("authorization", "Bearer secret of")],
            Err(Closed::Unknown),
        );
        check(&[("authorization", "Basic !")], Err(Closed::Unknown));
        check(&[("authorization", "x")], Err(Closed::Unknown));
        check(&[], Err(Closed::Unknown));
        check(&[("x-auth-token", "secret of otto")], Err(Closed::Unknown));
    }

    #[test]
    fn a_page_of_another_site_cannot_act_with_a_browsers_session() {
        let doors = doors();
        let who = doors.by_token(None, "secret of otto").unwrap();
        let (secret, _) = doors.open_session(&who).unwrap().unwrap();
        let cookie = format!("a=b; {COOKIE}={secret}");
        let check = |more: &[(&'static str, &str)], is_safe: bool, expected: Result<By, Closed>| {
            let given = [&[("cookie", cookie.as_str()), ("host", "h:1")], more].concat();
            let found = doors.enter(THERE, &headers(&given), is_safe);
            assert_eq!(found.map(|who| who.by), expected, "{given:?}");
        };
        check(&[], true, Ok(By::Cookie));
        check(&[], false, Err(Closed::Foreign));
        check(&[("origin", "https://h:1")], false, Ok(By::Cookie));
        check(&[("origin", "https://h:2")], false, Err(Closed::Foreign));
        check(&[("origin", "null")], false, Err(Closed::Foreign));
        check(&[("sec-fetch-site", "same-origin")], false, Ok(By::Cookie));
        let lies = [("sec-fetch-site", "cross-site"), ("origin", "https://h:1")];
        check(&lies, false, Err(Closed::Foreign));
        doors.set_tokens(Vec::new());
        check(&[], true, Err(Closed::Unknown));
    }

    #[test]
    fn who_guesses_waits_and_nobody_else() {
        let doors = doors();
        let wrong = headers(&[("authorization", "Bearer guess")]);
        let right = headers(&[("authorization", "Bearer secret of eve")]);
        for _ in 0..WRONG_MAX {
            assert_eq!(doors.enter(THERE, &wrong, true), Err(Closed::Unknown));
        }
        assert_eq!(doors.enter(THERE, &right, true), Err(Closed::Wait));
        assert_eq!(doors.enter(THERE, &wrong, true), Err(Closed::Wait));
        let nothing = doors.enter(THERE, &HeaderMap::new(), true);
        assert_eq!(nothing, Err(Closed::Unknown), "that is no guess");
        let elsewhere = From::Tls(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 8)));
        assert!(doors.enter(elsewhere, &right, true).is_ok());
        assert!(
            doors
                .enter(From::Socket(0), &HeaderMap::new(), false)
                .is_ok()
        );
    }

    #[test]
    fn who_guesses_locks_out_nobody_who_is_in() {
        let doors = doors();
        let wrong = headers(&[("authorization", "Bearer guess")]);
        let eve = headers(&[("authorization", "Bearer secret of eve")]);
        let otto = headers(&[("authorization", "Bearer secret of otto")]);
        let who = doors.enter(THERE, &eve, true).unwrap();
        let (secret, _) = doors.open_session(&who).unwrap().unwrap();
        let session = headers(&[("x-auth-token", &secret)]);
        let page = headers(&[("cookie", &format!("{COOKIE}={secret}"))]);
        for _ in 0..=WRONG_MAX {
            let _ = doors.enter(THERE, &wrong, true);
        }
        let came = |given: &HeaderMap| doors.enter(THERE, given, true).map(|who| who.by);
        assert_eq!(came(&eve), Ok(By::Token));
        assert_eq!(came(&session), Ok(By::Session));
        assert_eq!(came(&page), Ok(By::Cookie));
        assert_eq!(came(&otto), Err(Closed::Wait), "never seen there");
        // What was right once is compared all the same.
        doors.set_tokens(Vec::new());
        assert_eq!(came(&eve), Err(Closed::Wait));
        assert_eq!(came(&session), Err(Closed::Wait));
    }
}
