//! Whose certificate is taken where no authority vouches for it.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

/// How the other certificate's digest is found again in what rustls says.
pub(crate) const OTHER: &str = "other certificate: ";

/// Which certificates are taken.
#[derive(Clone, Debug)]
pub(crate) enum Taken {
    /// The one whose SHA-256 this is, in hexadecimal.
    Pinned(String),
    /// Any.
    Any,
}

/// Takes certificates without an authority; that who shows one has its key is still proven.
#[derive(Debug)]
struct Trust {
    taken: Taken,
    provider: Arc<CryptoProvider>,
}

/// A client that takes these certificates.
pub(crate) fn config(taken: Taken) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trust = Arc::new(Trust {
        taken,
        provider: Arc::clone(&provider),
    });
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(trust)
        .with_no_client_auth())
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Taken::Pinned(wanted) = &self.taken else {
            return Ok(ServerCertVerified::assertion());
        };
        let digest = Sha256::digest(certificate);
        let found: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        if found.eq_ignore_ascii_case(wanted) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General(format!("{OTHER}{found}")))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
