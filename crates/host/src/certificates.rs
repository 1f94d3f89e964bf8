//! Which certificates this host trusts.

use std::path::PathBuf;

/// Where hosts keep them in one file: Debian and its kin, Fedora and its kin, SUSE.
const PLACES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// The file of the certificates (PEM) that are trusted here: the one that `SSL_CERT_FILE` names, as OpenSSL has it, or the
/// host's; none if there is none.
pub fn trusted() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let places = PLACES.iter().map(PathBuf::from);
    named.into_iter().chain(places).find(|path| path.is_file())
}
