//! Asking a daemon, for the command line: on its Unix socket, or over TLS with a token.
//!
//! Whose certificate it is, is told by its SHA-256, as the daemon prints it when it starts: most hosts' certificates are
//! their own, and nobody else vouches for them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Request, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::trust::{self, OTHER, Taken};
use crate::words::Problem;

/// How long a daemon may take to be reached.
const REACH_TIME: Duration = Duration::from_secs(10);
/// How long an answer may take to begin: longer than the longest wait that can be asked for.
const ANSWER_TIME: Duration = Duration::from_secs(330);
/// Longest answer that is read as a whole.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Where a daemon is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// On this host.
    Socket(PathBuf),
    /// On another one.
    Tls {
        /// Its name or address.
        host: String,
        /// Its port.
        port: u16,
        /// Who one is.
        token: String,
        /// SHA-256 of its certificate, in hexadecimal without colons.
        fingerprint: String,
    },
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error("cannot reach the daemon at {place}")]
    Unreached {
        /// Where.
        place: String,
        /// What the host said.
        source: std::io::Error,
    },
    /// Its certificate is another one.
    #[error("the daemon at {place} has another certificate: its SHA-256 is {found}")]
    OtherCertificate {
        /// Where.
        place: String,
        /// What it has.
        found: String,
    },
    /// It does not speak as it should.
    #[error("the daemon at {place} does not answer as one")]
    Strange {
        /// Where.
        place: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It says no.
    #[error("{}", .0.message)]
    Refused(Box<Problem>),
}

/// An answer.
#[derive(Clone, PartialEq, Debug)]
pub struct Answer {
    /// The status of HTTP.
    pub status: u16,
    /// The version of what it is about.
    pub version: Option<u64>,
    /// What it says.
    pub body: Value,
}

impl Target {
    fn place(&self) -> String {
        match self {
            Target::Socket(path) => path.display().to_string(),
            Target::Tls { host, port, .. } => format!("https://{host}:{port}"),
        }
    }

    /// Whether somebody listens there.
    pub fn is_there(&self) -> bool {
        match self {
            Target::Socket(path) => std::os::unix::net::UnixStream::connect(path).is_ok(),
            Target::Tls { .. } => true,
        }
    }

    /// Asks, and waits for the whole answer.
    ///
    /// # Errors
    /// [`ClientError`], what the daemon refuses included.
    pub fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        version: Option<u64>,
    ) -> Result<Answer, ClientError> {
        self.run(async {
            let response = self.send(method, path, body, version).await?;
            let status = response.status().as_u16();
            let tag = response.headers().get(header::ETAG);
            let version = tag
                .and_then(|tag| tag.to_str().ok())
                .and_then(|tag| tag.trim_matches('"').parse().ok());
            let limited = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
            let bytes = limited
                .collect()
                .await
                .map_err(|source| self.strange(source))?
                .to_bytes();
            let body: Value = if bytes.is_empty() {
                Value::Null
            } else {
                serde_json::from_slice(&bytes).map_err(|error| self.strange(error))?
            };
            if status >= 400 {
                return Err(refused(status, &body));
            }
            Ok(Answer {
                status,
                version,
                body,
            })
        })
    }

    /// Asks, and has each line of the answer as it comes, until it ends or `on_line` has enough.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn follow(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        mut on_line: impl FnMut(&str) -> bool,
    ) -> Result<(), ClientError> {
        self.run(async {
            let response = self.send(method, path, body, None).await?;
            let status = response.status().as_u16();
            let mut incoming = response.into_body();
            let mut held = Vec::new();
            while let Some(frame) = incoming.frame().await {
                let frame = frame.map_err(|error| self.strange(error))?;
                let Some(data) = frame.data_ref() else {
                    continue;
                };
                held.extend_from_slice(data);
                if status >= 400 {
                    continue;
                }
                while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = held.drain(..=end).collect();
                    if !on_line(String::from_utf8_lossy(&line).trim_end()) {
                        return Ok(());
                    }
                }
            }
            if status >= 400 {
                let body = serde_json::from_slice(&held).unwrap_or_default();
                return Err(refused(status, &body));
            }
            Ok(())
        })
    }

    fn run<T>(&self, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| self.strange(source))?;
        runtime.block_on(work)
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        version: Option<u64>,
    ) -> Result<axum::http::Response<Incoming>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.host());
        if let Target::Tls { token, .. } = self {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(version) = version {
            request = request.header(header::IF_MATCH, format!("\"{version}\""));
        }
        let content = match body {
            Some(body) => {
                let json = HeaderValue::from_static("application/json");
                request = request.header(header::CONTENT_TYPE, json);
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        let request = request.body(content).map_err(|error| self.strange(error))?;
        let reached = async {
            match self {
                Target::Socket(path) => {
                    let stream = UnixStream::connect(path)
                        .await
                        .map_err(|source| self.unreached(source))?;
                    self.talk(stream, request).await
                }
                Target::Tls {
                    host,
                    port,
                    fingerprint,
                    ..
                } => {
                    let connect = TcpStream::connect((host.as_str(), *port));
                    let stream = timeout(REACH_TIME, connect)
                        .await
                        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
                        .map_err(|source| self.unreached(source))?;
                    let stream = self.secured(stream, host, fingerprint).await?;
                    self.talk(stream, request).await
                }
            }
        };
        match timeout(ANSWER_TIME, reached).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreached(std::io::ErrorKind::TimedOut.into())),
        }
    }

    fn host(&self) -> String {
        match self {
            Target::Socket(_) => "localhost".to_owned(),
            Target::Tls { host, port, .. } => format!("{host}:{port}"),
        }
    }

    async fn secured(
        &self,
        stream: TcpStream,
        host: &str,
        fingerprint: &str,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, ClientError> {
        let taken = Taken::Pinned(fingerprint.to_owned());
        let config = trust::config(taken).map_err(|error| self.strange(error))?;
        let name = ServerName::try_from(host.to_owned()).map_err(|error| self.strange(error))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await.map_err(|error| {
            let text = error.to_string();
            match text.split_once(OTHER) {
                Some((_, found)) => ClientError::OtherCertificate {
                    place: self.place(),
                    found: found.trim().to_owned(),
                },
                None => self.unreached(error),
            }
        })
    }

    async fn talk(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: Request<Body>,
    ) -> Result<axum::http::Response<Incoming>, ClientError> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.strange(error))?;
        tokio::spawn(connection);
        sender
            .send_request(request)
            .await
            .map_err(|error| self.strange(error))
    }

    fn unreached(&self, source: std::io::Error) -> ClientError {
        ClientError::Unreached {
            place: self.place(),
            source,
        }
    }

    fn strange(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Strange {
            place: self.place(),
            source: source.into(),
        }
    }
}

fn refused(status: u16, body: &Value) -> ClientError {
    let problem = serde_json::from_value(body["error"].clone());
    let unknown = |_| Problem {
        message: format!("the daemon answers with status {status}"),
        ..Problem::default()
    };
    ClientError::Refused(Box::new(problem.unwrap_or_else(unknown)))
}
