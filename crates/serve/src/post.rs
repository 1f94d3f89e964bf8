//! A request to a server of somebody else's: events to Redfish's listeners, numbers and events to a collector, webhooks, and
//! files that are fetched.
//!
//! A server's certificate is compared with those that the host trusts, or with those of a file. An answer has a time and
//! a size; a redirection is an answer like others and is not followed, for what is sent may be a secret.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::request::Builder;
use axum::http::uri::Scheme;
use axum::http::{Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::trust::{self, Taken};

/// How long a server may take, from looking up its name to the end of its answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Of an answer, no more is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Whose certificates are taken.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Trusted {
    /// Those that the host trusts.
    #[default]
    Host,
    /// Those of a file, PEM.
    File(PathBuf),
    /// All.
    Any,
}

/// Where something is sent, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// `http://HOST[:PORT]/PATH` or `https://`.
    pub uri: Uri,
    /// Sent along; they may be secrets.
    pub headers: Vec<(String, String)>,
    /// Whose certificates are taken.
    pub trusted: Trusted,
}

/// What a server answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answered {
    /// The status of HTTP.
    pub status: StatusCode,
    /// After how long it wants to be asked again, if it says so.
    pub again: Option<Duration>,
    /// What else it says.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum PostError {
    /// The place is none that something can be sent to.
    #[error("\"{0}\" is no address: write http://HOST[:PORT]/PATH or https://")]
    Place(String),
    /// A file of certificates cannot be read.
    #[error("cannot read the certificates in {}", .path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls_pki_types::pem::Error,
    },
    /// Nobody is there.
    #[error("cannot reach {place}")]
    Unreached {
        /// Host and port.
        place: String,
        /// What the host said.
        source: io::Error,
    },
    /// Somebody is there who is not asked.
    #[error(
        "{place} is at an address that nothing is fetched from: this host's own, where another server leads to it, or link-local"
    )]
    Refused {
        /// Host and port.
        place: String,
    },
    /// What is there does not speak HTTP as it should.
    #[error("no answer in HTTP from {place}")]
    Strange {
        /// Host and port.
        place: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There was no answer in time.
    #[error("{place} did not answer within {} s", ANSWER_TIME.as_secs())]
    Late {
        /// Host and port.
        place: String,
    },
}

impl Place {
    /// The place that a text names.
    ///
    /// # Errors
    /// [`PostError::Place`].
    pub fn new(text: &str) -> Result<Place, PostError> {
        let bad = || PostError::Place(text.escape_debug().to_string());
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let is_http = uri.scheme() == Some(&Scheme::HTTP) || uri.scheme() == Some(&Scheme::HTTPS);
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        // A password in an address would be seen in lists of processes and in logs.
        let has_user = uri.authority().is_some_and(|it| it.as_str().contains('@'));
        if text.len() > 2000 || !is_http || !has_host || has_user {
            return Err(bad());
        }
        Ok(Place {
            uri,
            headers: Vec::new(),
            trusted: Trusted::Host,
        })
    }

    /// Reads the file of certificates, so that what is wrong with it is known before anything is sent.
    ///
    /// # Errors
    /// [`PostError::Certificates`].
    pub fn check(&self) -> Result<(), PostError> {
        self.config().map(drop)
    }

    fn is_tls(&self) -> bool {
        self.uri.scheme() == Some(&Scheme::HTTPS)
    }

    /// Its host without brackets, and its port.
    fn server(&self) -> (&str, u16) {
        let usual = if self.is_tls() { 443 } else { 80 };
        let host = self.uri.host().unwrap_or_default();
        let port = self.uri.port_u16().unwrap_or(usual);
        (host.trim_matches(['[', ']']), port)
    }

    fn name(&self) -> String {
        let authority = self.uri.authority().map(ToString::to_string);
        authority.unwrap_or_default()
    }

    /// Sends `body`, and waits for the answer for as long as is reasonable, without a runtime of one's own.
    ///
    /// # Errors
    /// [`PostError`]; an answer of any status is none.
    pub fn post_and_wait(&self, media_type: &str, body: Bytes) -> Result<Answered, PostError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| self.unreached(source))?;
        runtime.block_on(self.post(media_type, body))
    }

    /// Sends `body`, and waits for the answer.
    pub(crate) async fn post(&self, media_type: &str, body: Bytes) -> Result<Answered, PostError> {
        let answered = timeout(ANSWER_TIME, self.exchange(media_type, body)).await;
        answered.unwrap_or_else(|_| Err(PostError::Late { place: self.name() }))
    }

    /// Asks for what is there, with its headers and no body, at one of the host's addresses that `may` allows; what of the
    /// answer's body is read is the caller's, and how long it takes. Who answered is known too.
    pub(crate) async fn get(
        &self,
        may: impl Fn(IpAddr) -> bool,
    ) -> Result<(Response<Incoming>, SendRequest<Body>, IpAddr), PostError> {
        let asked = timeout(ANSWER_TIME, async {
            let (mut sender, peer) = self.open(may).await?;
            let request = self.request(Request::get(self.path()));
            let request = request.body(Body::empty());
            let request = request.map_err(|error| self.strange(error))?;
            let response = sender.send_request(request).await;
            let response = response.map_err(|error| self.strange(error))?;
            Ok((response, sender, peer))
        });
        asked
            .await
            .unwrap_or_else(|_| Err(PostError::Late { place: self.name() }))
    }

    async fn exchange(&self, media_type: &str, body: Bytes) -> Result<Answered, PostError> {
        let (sender, _) = self.open(|_| true).await?;
        self.talk(sender, media_type, body).await
    }

    /// A connection, to an address that `may` allows; what a name means is asked once, so that it is the address that was
    /// looked at.
    async fn open(
        &self,
        may: impl Fn(IpAddr) -> bool,
    ) -> Result<(SendRequest<Body>, IpAddr), PostError> {
        let (host, port) = self.server();
        let unreached = |source| self.unreached(source);
        let all = lookup_host((host, port)).await.map_err(unreached)?;
        let (allowed, refused): (Vec<_>, Vec<_>) = all.partition(|address| may(address.ip()));
        if allowed.is_empty() && !refused.is_empty() {
            return Err(PostError::Refused { place: self.name() });
        }
        let stream = TcpStream::connect(allowed.as_slice()).await;
        let stream = stream.map_err(unreached)?;
        let peer = stream.peer_addr().map_err(unreached)?.ip();
        if !self.is_tls() {
            return Ok((self.greet(stream).await?, peer));
        }
        let connector = tokio_rustls::TlsConnector::from(Arc::new(self.config()?));
        let name = ServerName::try_from(host.to_owned()).map_err(|error| self.strange(error))?;
        let stream = connector.connect(name, stream).await;
        let stream = stream.map_err(unreached)?;
        Ok((self.greet(stream).await?, peer))
    }

    async fn greet(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<SendRequest<Body>, PostError> {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.strange(error))?;
        // It ends when nobody asks or reads any more.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn path(&self) -> &str {
        self.uri.path_and_query().map_or("/", |path| path.as_str())
    }

    fn request(&self, request: Builder) -> Builder {
        let headers = self.headers.iter();
        headers.fold(
            request.header(header::HOST, self.name()),
            |request, (name, value)| request.header(name, value),
        )
    }

    async fn talk(
        &self,
        mut sender: SendRequest<Body>,
        media_type: &str,
        body: Bytes,
    ) -> Result<Answered, PostError> {
        let strange = |error: hyper::Error| self.strange(error);
        let request = Request::post(self.path()).header(header::CONTENT_TYPE, media_type);
        let request = self.request(request).body(Body::from(body));
        let request = request.map_err(|error| self.strange(error))?;
        let response = sender.send_request(request).await.map_err(strange)?;
        let status = response.status();
        let again = response.headers().get(header::RETRY_AFTER);
        let again = again.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let whole = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        // The status is the answer; of one that says too much the rest is left.
        let said = whole.collect().await.map(|said| said.to_bytes());
        Ok(Answered {
            status,
            again: again.map(Duration::from_secs),
            body: said.unwrap_or_default(),
        })
    }

    fn config(&self) -> Result<ClientConfig, PostError> {
        let mut roots = RootCertStore::empty();
        match &self.trusted {
            Trusted::Any => {
                return trust::config(Taken::Any).map_err(|error| self.strange(error));
            }
            Trusted::Host => {
                let found = host::certificates::trusted();
                let found = found.and_then(|path| certificates(&path).ok());
                roots.add_parsable_certificates(found.unwrap_or_default());
            }
            Trusted::File(path) => {
                let unread = |source| PostError::Certificates {
                    path: path.clone(),
                    source,
                };
                roots.add_parsable_certificates(certificates(path).map_err(unread)?);
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| self.strange(error))?;
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }

    fn unreached(&self, source: io::Error) -> PostError {
        PostError::Unreached {
            place: self.name(),
            source,
        }
    }

    fn strange(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> PostError {
        PostError::Strange {
            place: self.name(),
            source: source.into(),
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, rustls_pki_types::pem::Error> {
    // One that cannot be read does not take away the others.
    let all: Vec<_> = CertificateDer::pem_file_iter(path)?.flatten().collect();
    if all.is_empty() {
        return Err(rustls_pki_types::pem::Error::NoItemsFound);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_address_of_a_server() {
        let check = |text: &str, expected: Option<(&str, u16)>| {
            let place = Place::new(text);
            let found = place.as_ref().ok().map(Place::server);
            assert_eq!(found, expected, "{text}");
        };
        check("https://192.0.2.1/x?y=z", Some(("192.0.2.1", 443)));
        check("https://[2001:db8::1]:8443", Some(("2001:db8::1", 8443)));
        check("http://collector:4318", Some(("collector", 4318)));
        check("http://collector", Some(("collector", 80)));
        check("ftp://192.0.2.1/x", None);
        check("https://eve:secret@192.0.2.1/", None);
        check("collector:4318", None);
        check("/x", None);
        check("", None);
    }
}
