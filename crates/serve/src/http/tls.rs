//! TLS for who comes from elsewhere: a certificate that the daemon makes itself the first time, or one that somebody put
//! in its place.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;

use crate::error::ServeError;

/// Who accepts TLS, and the SHA-256 of the certificate, which clients can compare.
pub(super) fn acceptor(
    folder: &Path,
    address: SocketAddr,
) -> Result<(TlsAcceptor, String), ServeError> {
    let certificate = folder.join("certificate.pem");
    let key = folder.join("key.pem");
    if !certificate.exists() {
        make(&certificate, &key, address)?;
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: rustls_pki_types::pem::Error| ServeError::Certificate {
            act: "read",
            path,
            source: Box::new(source),
        }
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&certificate)
        .map_err(failed(&certificate))?
        .collect::<Result<_, _>>()
        .map_err(failed(&certificate))?;
    let secret = PrivateKeyDer::from_pem_file(&key).map_err(failed(&key))?;
    let fingerprint = chain.first().map(|first| fingerprint(first));
    let unusable = |source: rustls::Error| ServeError::Certificate {
        act: "use",
        path: certificate.clone(),
        source: Box::new(source),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((
        TlsAcceptor::from(Arc::new(config)),
        fingerprint.unwrap_or_default(),
    ))
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = Sha256::digest(certificate);
    let bytes: Vec<String> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    bytes.join(":")
}

/// Makes a certificate of this host's own, for its names and for the address.
fn make(certificate: &Path, key: &Path, address: SocketAddr) -> Result<(), ServeError> {
    let failed = |source: rcgen::Error| ServeError::Certificate {
        act: "make",
        path: certificate.to_owned(),
        source: Box::new(source),
    };
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let mut names = vec![
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ];
    if !host.is_empty() && host != "localhost" {
        names.push(host.to_owned());
    }
    if !address.ip().is_unspecified() && !address.ip().is_loopback() {
        names.push(address.ip().to_string());
    }
    let mut parameters = CertificateParams::new(names).map_err(failed)?;
    parameters
        .distinguished_name
        .push(DnType::CommonName, format!("Mother on {host}"));
    let pair = KeyPair::generate().map_err(failed)?;
    let made = parameters.self_signed(&pair).map_err(failed)?;
    // The key first: a certificate that is there has one.
    write(key, &pair.serialize_pem(), 0o600)?;
    write(certificate, &made.pem(), 0o644)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), ServeError> {
    let failed = |source: io::Error| ServeError::Certificate {
        act: "write",
        path: path.to_owned(),
        source: Box::new(source),
    };
    let unfinished = path.with_extension("new");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&unfinished)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&unfinished, path).map_err(failed)
}
