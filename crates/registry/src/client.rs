//! HTTP to registries: one request after the other, nothing followed, every answer's head bounded.
//!
//! What TLS trusts are the certificates that the host trusts, and those that container engines keep for one registry
//! (`/etc/docker/certs.d/HOST/*.crt`, `/etc/containers/certs.d`). Proxies are the environment's; this host is asked without one.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use ureq::http::{Response, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body, Proxy};

use crate::error::RegistryError;
use crate::reference::is_loopback;

/// Where container engines keep those of one registry.
const OF_REGISTRIES: [&str; 2] = ["/etc/docker/certs.d", "/etc/containers/certs.d"];

/// How long it may take to find a host, to reach it, to have the head of its answer, and the next bytes of a body.
const RESOLVE_TIME: Duration = Duration::from_secs(10);
const REACH_TIME: Duration = Duration::from_secs(20);
const ANSWER_TIME: Duration = Duration::from_secs(60);
const READ_TIME: Duration = Duration::from_secs(60);

/// The longest head of an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Asks.
pub(crate) struct Client {
    /// Whose own certificates are trusted too.
    registry: String,
    /// For this host.
    near: Agent,
    /// For others, without TLS.
    open: Agent,
    /// With TLS.
    secure: OnceLock<Agent>,
}

impl Client {
    pub(crate) fn new(registry: &str) -> Client {
        Client {
            registry: registry.to_owned(),
            near: agent(None, None),
            open: agent(Proxy::try_from_env(), None),
            secure: OnceLock::new(),
        }
    }

    /// Gets what is at an address. Whatever the answer is, it is one.
    ///
    /// # Errors
    /// If nobody answers.
    pub(crate) fn get(
        &self,
        from: &Uri,
        headers: &[(&str, &str)],
    ) -> Result<Response<Body>, RegistryError> {
        let mut request = self.agent(from)?.get(from);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.call().map_err(|error| unreached(from, error))
    }

    /// Posts a form.
    ///
    /// # Errors
    /// If nobody answers.
    pub(crate) fn post(&self, to: &Uri, form: &str) -> Result<Response<Body>, RegistryError> {
        let request = self.agent(to)?.post(to);
        let request = request.header("Content-Type", "application/x-www-form-urlencoded");
        request.send(form).map_err(|error| unreached(to, error))
    }

    fn agent(&self, place: &Uri) -> Result<&Agent, RegistryError> {
        let host = place.host().unwrap_or_default();
        if place.scheme_str() != Some("https") {
            return Ok(if is_loopback(host) {
                &self.near
            } else {
                &self.open
            });
        }
        if let Some(agent) = self.secure.get() {
            return Ok(agent);
        }
        let roots = roots(&self.registry);
        if roots.is_empty() {
            return Err(RegistryError::NoRoots {
                host: host.to_owned(),
            });
        }
        let proxy = Proxy::try_from_env().filter(|_| !is_loopback(host));
        Ok(self.secure.get_or_init(|| agent(proxy, Some(roots))))
    }
}

fn agent(proxy: Option<Proxy>, roots: Option<Vec<Certificate<'static>>>) -> Agent {
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("mother/", env!("CARGO_PKG_VERSION")))
        .proxy(proxy)
        .timeout_resolve(Some(RESOLVE_TIME))
        .timeout_connect(Some(REACH_TIME))
        .timeout_recv_response(Some(ANSWER_TIME))
        .timeout_per_read(Some(READ_TIME))
        .max_response_header_size(HEAD_BYTES_MAX);
    if let Some(roots) = roots {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&roots))
            .unversioned_rustls_crypto_provider(provider);
        config = config.tls_config(tls.build());
    }
    config.build().new_agent()
}

/// The certificates that are trusted for a registry.
fn roots(registry: &str) -> Vec<Certificate<'static>> {
    let all = host::certificates::trusted();
    let own = OF_REGISTRIES.iter().flat_map(|folder| {
        let entries = std::fs::read_dir(PathBuf::from(folder).join(registry));
        let paths = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        paths.filter(|path| path.extension().is_some_and(|ending| ending == "crt"))
    });
    let mut roots = Vec::new();
    for path in all.into_iter().chain(own) {
        match CertificateDer::pem_file_iter(&path) {
            Ok(found) => roots.extend(
                found
                    .flatten()
                    .map(|it| Certificate::from_der(&it).to_owned()),
            ),
            Err(error) => tracing::warn!("{}: {error}", path.display()),
        }
    }
    roots
}

fn unreached(place: &Uri, error: ureq::Error) -> RegistryError {
    let host = place.authority().map_or("", |it| it.as_str()).to_owned();
    let source = match error {
        ureq::Error::Rustls(source) => return of_tls(host, source),
        ureq::Error::Io(error) => error,
        ureq::Error::HostNotFound => {
            io::Error::new(io::ErrorKind::NotFound, "there is no host of this name")
        }
        ureq::Error::Timeout(_) => {
            io::Error::new(io::ErrorKind::TimedOut, "it takes too long to answer")
        }
        other => io::Error::other(other.to_string()),
    };
    let inner = source
        .get_ref()
        .and_then(|it| it.downcast_ref::<rustls::Error>());
    match inner.cloned() {
        Some(inner) => of_tls(host, inner),
        None => RegistryError::Unreached { host, source },
    }
}

fn of_tls(host: String, source: rustls::Error) -> RegistryError {
    match source {
        rustls::Error::InvalidCertificate(_) => RegistryError::Untrusted { host, source },
        other => RegistryError::Unreached {
            host,
            source: io::Error::other(other),
        },
    }
}
