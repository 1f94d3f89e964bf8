//! A conversation with one registry about one repository: who one is, where it sends on to, and what its answers mean.

use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::Body;
use ureq::http::{Response, Uri, header};

use crate::challenge::{self, Challenge, query};
use crate::client::Client;
use crate::credentials::{Credential, Credentials};
use crate::endpoint::{Endpoint, resolve};
use crate::error::RegistryError;

/// How often a registry may send on.
const REDIRECTS_MAX: usize = 5;

/// The largest answer of who gives out tokens.
const TOKEN_BYTES_MAX: u64 = 1 << 20;

/// How often a registry that has a bad moment is asked again, and how long it is waited before, unless it says how long.
const RETRIES: u32 = 2;
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The longest wait that a registry may ask for without being refused.
const WAIT_SECONDS_MAX: u64 = 10;

/// What of a repository is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Behind the repository's address: `blobs/sha256:...`.
    pub(crate) what: &'a str,
    /// The types that are understood, if it is a manifest.
    pub(crate) accept: Option<&'a str>,
    /// The bytes from here on.
    pub(crate) from: u64,
}

/// See the module. Each thread that asks has its own.
#[derive(Clone)]
pub(crate) struct Session<'a> {
    client: &'a Client,
    credentials: &'a Credentials,
    pub(crate) endpoint: Endpoint,
    authorization: Option<String>,
    /// Whether there were credentials.
    is_known: bool,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        client: &'a Client,
        credentials: &'a Credentials,
        endpoint: Endpoint,
    ) -> Session<'a> {
        Session {
            client,
            credentials,
            endpoint,
            authorization: None,
            is_known: false,
        }
    }

    /// Asks, and once more if the registry has a bad moment.
    ///
    /// # Errors
    /// If there is no answer with a body.
    pub(crate) fn ask(&mut self, wanted: Wanted<'_>) -> Result<Response<Body>, RegistryError> {
        for _ in 0..RETRIES {
            match self.ask_once(wanted) {
                Err(RegistryError::TooMany { wait_seconds, .. })
                    if wait_seconds.unwrap_or(0) <= WAIT_SECONDS_MAX =>
                {
                    thread::sleep(wait_seconds.map_or(RETRY_AFTER, Duration::from_secs));
                }
                Err(RegistryError::Failing { .. }) => thread::sleep(RETRY_AFTER),
                answer => return answer,
            }
        }
        self.ask_once(wanted)
    }

    fn ask_once(&mut self, wanted: Wanted<'_>) -> Result<Response<Body>, RegistryError> {
        let answer = self.follow(wanted)?;
        if answer.status().as_u16() != 401 {
            return self.understand(answer, wanted.what);
        }
        self.authorize(&answer)?;
        let answer = self.follow(wanted)?;
        self.understand(answer, wanted.what)
    }

    /// Asks, and where it is sent on to. Who one is, is told to the registry alone.
    fn follow(&self, wanted: Wanted<'_>) -> Result<Response<Body>, RegistryError> {
        let range = format!("bytes={}-", wanted.from);
        let mut place: Uri = self
            .endpoint
            .url(wanted.what)
            .parse()
            .map_err(|_| self.strange("at no address"))?;
        for _ in 0..=REDIRECTS_MAX {
            let is_registry = place
                .authority()
                .is_some_and(|it| it.as_str() == self.endpoint.host);
            let mut headers: Vec<(&str, &str)> = Vec::new();
            headers.extend(wanted.accept.map(|accept| ("Accept", accept)));
            headers.extend((wanted.from > 0).then_some(("Range", range.as_str())));
            let authorization = self.authorization.as_deref().filter(|_| is_registry);
            headers.extend(authorization.map(|value| ("Authorization", value)));
            let answer = self.client.get(&place, &headers)?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let location = answer.headers().get(header::LOCATION);
            let location = location.and_then(|it| it.to_str().ok()).unwrap_or_default();
            let elsewhere = |why| RegistryError::Elsewhere {
                host: self.endpoint.host.clone(),
                to: shown(location),
                why,
            };
            place = resolve(&place, location).ok_or_else(|| elsewhere("it is no address"))?;
            self.endpoint.may_send_to(&place).map_err(elsewhere)?;
        }
        Err(self.strange("by sending on again and again"))
    }

    fn understand(
        &self,
        answer: Response<Body>,
        what: &str,
    ) -> Result<Response<Body>, RegistryError> {
        let host = self.endpoint.host.clone();
        let status = answer.status().as_u16();
        Err(match status {
            200 | 206 | 416 => return Ok(answer),
            401 | 403 => self.denied(),
            404 => RegistryError::NotFound {
                host,
                what: self.called(what),
            },
            429 => {
                let wait = answer.headers().get(header::RETRY_AFTER);
                RegistryError::TooMany {
                    host,
                    wait_seconds: wait.and_then(|it| it.to_str().ok()?.parse().ok()),
                }
            }
            500.. => RegistryError::Failing { host, status },
            _ => self.strange(&format!("with the status {status}")),
        })
    }

    /// What was asked for, as the user knows it.
    fn called(&self, what: &str) -> String {
        let repository = &self.endpoint.repository;
        match what.strip_prefix("manifests/") {
            Some(name) if name.contains(':') => format!("{repository}@{name}"),
            Some(name) => format!("{repository}:{name}"),
            None => format!("{what} of {repository}"),
        }
    }

    /// Gets what the registry wants to see, as its answer says.
    fn authorize(&mut self, answer: &Response<Body>) -> Result<(), RegistryError> {
        let headers = answer.headers().get_all(header::WWW_AUTHENTICATE);
        let challenges: Vec<Challenge> = headers
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        let of = |scheme: &str| challenges.iter().find(|it| it.scheme == scheme);
        let credential = self
            .credentials
            .find(&self.endpoint.registry, &self.endpoint.repository)?;
        self.is_known = credential.is_some();
        let authorization = match (of("bearer"), of("basic"), credential) {
            (Some(bearer), _, credential) => {
                let token = self.token(bearer, credential.as_ref())?;
                format!("Bearer {token}")
            }
            (None, Some(_), Some(Credential::Password(name, password))) => basic(&name, &password),
            (None, Some(_), _) => return Err(self.denied()),
            (None, None, _) => {
                return Err(self.strange("with 401, and does not say what it wants to see"));
            }
        };
        self.authorization = Some(authorization);
        Ok(())
    }

    /// A token for pulling this repository, and nothing else, whatever the registry would have us ask for.
    fn token(
        &self,
        bearer: &Challenge,
        credential: Option<&Credential>,
    ) -> Result<String, RegistryError> {
        let realm = bearer.parameters.get("realm").map_or("", String::as_str);
        let elsewhere = |why| RegistryError::Elsewhere {
            host: self.endpoint.host.clone(),
            to: shown(realm),
            why,
        };
        let place: Uri = realm.parse().map_err(|_| elsewhere("it is no address"))?;
        self.endpoint.may_send_to(&place).map_err(elsewhere)?;
        let scope = query(&format!("repository:{}:pull", self.endpoint.repository));
        let service = bearer.parameters.get("service").map(|it| query(it));
        let service = service.map_or(String::new(), |it| format!("service={it}&"));
        let wanted = format!("{service}scope={scope}");
        let answer = match credential {
            Some(Credential::Identity(token)) => {
                let token = query(token);
                let form = format!(
                    "grant_type=refresh_token&client_id=mother&{wanted}&refresh_token={token}"
                );
                self.client.post(&place, &form)?
            }
            _ => {
                let joint = if realm.contains('?') { '&' } else { '?' };
                let place: Uri = format!("{realm}{joint}{wanted}")
                    .parse()
                    .map_err(|_| elsewhere("it is no address"))?;
                let value = match credential {
                    Some(Credential::Password(name, password)) => Some(basic(name, password)),
                    _ => None,
                };
                let headers = value.iter().map(|value| ("Authorization", value.as_str()));
                self.client.get(&place, &headers.collect::<Vec<_>>())?
            }
        };
        let answer = match answer.status().as_u16() {
            // What gives out tokens has its own ways to say no.
            400 | 404 => return Err(self.denied()),
            300..400 => return Err(elsewhere("it sends on once more")),
            _ => self.understand(answer, "a token")?,
        };
        let limited = answer.into_body().into_with_config().limit(TOKEN_BYTES_MAX);
        let bytes = limited
            .read_to_vec()
            .map_err(|_| self.strange("with a token that cannot be read"))?;
        let token: Token =
            serde_json::from_slice(&bytes).map_err(|_| self.strange("with no token"))?;
        let is_sendable =
            |it: &String| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_graphic());
        let token = token.token.or(token.access_token).filter(is_sendable);
        token.ok_or_else(|| self.strange("with no token"))
    }

    fn denied(&self) -> RegistryError {
        RegistryError::Denied {
            host: self.endpoint.host.clone(),
            what: self.endpoint.repository.clone(),
            is_known: self.is_known,
        }
    }

    pub(crate) fn strange(&self, what: &str) -> RegistryError {
        RegistryError::Strange {
            host: self.endpoint.host.clone(),
            what: what.to_owned(),
        }
    }
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

/// An address of somebody else's for a message: without its query, which may be a secret, and not too long.
fn shown(address: &str) -> String {
    let bare = address.split('?').next().unwrap_or_default();
    bare.chars()
        .take(200)
        .flat_map(char::escape_debug)
        .collect()
}
