//! Why an image does not come.

use std::io;
use std::path::PathBuf;

use images::FileError;
use thiserror::Error;

use crate::configuration::ConfigurationError;
use crate::digest::Digest;

/// Why an image does not come from its registry.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// What is configured about registries cannot be read.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// Credentials are damaged, or a program that has them does not give them.
    #[error("cannot have the credentials for {registry} from {place}: {what}")]
    Credentials {
        /// For which registry.
        registry: String,
        /// The file or program.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// It may not be asked for, and is not here.
    #[error("it was not pulled yet, and --pull never asks no registry")]
    NotHere,
    /// Nobody answers.
    #[error("cannot reach {host}")]
    Unreached {
        /// Who.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// It is not who it says, or nobody vouches for it.
    #[error("{host} has a certificate that is not trusted")]
    Untrusted {
        /// Who.
        host: String,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The host has no certificates that it trusts.
    #[error(
        "this host has no list of certificates that it trusts, and {host} is spoken to over TLS"
    )]
    NoRoots {
        /// Who.
        host: String,
    },
    /// There is no such image.
    #[error("{host} has no {what}")]
    NotFound {
        /// Who.
        host: String,
        /// The image, or a part of it.
        what: String,
    },
    /// Who asks may not have it, or it is not there: many registries do not tell these apart.
    #[error("{host} does not give {what} to {}", if *.is_known { "this user" } else { "who has no credentials" })]
    Denied {
        /// Who.
        host: String,
        /// The repository.
        what: String,
        /// Whether there were credentials.
        is_known: bool,
    },
    /// Too much was asked for.
    #[error("{host} has had too many requests{}", .wait_seconds.map(|it| format!(", and wants none for {it} s")).unwrap_or_default())]
    TooMany {
        /// Who.
        host: String,
        /// For how long it wants to be left alone.
        wait_seconds: Option<u64>,
    },
    /// It has a bad moment.
    #[error("{host} fails with the status {status}")]
    Failing {
        /// Who.
        host: String,
        /// The status of HTTP.
        status: u16,
    },
    /// An answer that is none.
    #[error("{host} answers {what}")]
    Strange {
        /// Who.
        host: String,
        /// What.
        what: String,
    },
    /// A redirection or a place for tokens that is not followed.
    #[error("{host} sends on to {to}, which is not followed: {why}")]
    Elsewhere {
        /// Who.
        host: String,
        /// Where to.
        to: String,
        /// Why not.
        why: &'static str,
    },
    /// It is for other machines.
    #[error("it has no image for linux/amd64, but for {0}")]
    OtherMachine(String),
    /// It is something else than an image.
    #[error("it is no container image: {0}")]
    NoImage(String),
    /// A part is not what its digest says.
    #[error("{part} is damaged: its digest is {found}")]
    Damaged {
        /// Its digest, as it should be.
        part: Digest,
        /// As it is.
        found: Digest,
    },
    /// A part has another size than was said.
    #[error("{part} is damaged: it does not end after {size_bytes} bytes")]
    TooLong {
        /// Its digest.
        part: Digest,
        /// What was said.
        size_bytes: u64,
    },
    /// Something is larger than it may be.
    #[error("{what} is larger than {max_bytes} bytes")]
    TooLarge {
        /// What.
        what: String,
        /// How large it may be.
        max_bytes: u64,
    },
    /// It does not fit.
    #[error("its parts take {needed_bytes} bytes, and {} has {free_bytes}", .folder.display())]
    NoRoom {
        /// What is missing of it.
        needed_bytes: u64,
        /// What there is.
        free_bytes: u64,
        /// Where.
        folder: PathBuf,
        /// The same as the host would say it.
        source: io::Error,
    },
    /// The transfer broke off, again and again.
    #[error("the transfer of {part} broke off after {done_bytes} of {size_bytes} bytes")]
    BrokeOff {
        /// Which part.
        part: Digest,
        /// What there is of it.
        done_bytes: u64,
        /// How large it is.
        size_bytes: u64,
        /// Why.
        source: Box<RegistryError>,
    },
    /// Another process pulls or removes.
    #[error("another mother pulls or removes images")]
    Busy,
    /// A file of ours.
    #[error(transparent)]
    File(#[from] FileError),
}

impl RegistryError {
    /// Whether what was asked for is wrong, and not the network or this host.
    pub fn is_bad_input(&self) -> bool {
        matches!(
            self,
            RegistryError::Configuration(_)
                | RegistryError::NotHere
                | RegistryError::NotFound { .. }
                | RegistryError::OtherMachine(_)
                | RegistryError::NoImage(_)
        )
    }

    /// Whether this host is to blame, so that no other registry would help.
    pub(crate) fn is_ours(&self) -> bool {
        match self {
            RegistryError::BrokeOff { source, .. } => source.is_ours(),
            RegistryError::File(_)
            | RegistryError::NoRoom { .. }
            | RegistryError::Busy
            | RegistryError::Configuration(_) => true,
            _ => false,
        }
    }

    /// Whether the cache of this host has no room for it, or cannot be written.
    pub fn is_about_cache(&self) -> bool {
        matches!(self, RegistryError::File(_) | RegistryError::NoRoom { .. })
    }

    /// Whether it may be gone at the next try.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(
            self,
            RegistryError::Unreached { .. } | RegistryError::Failing { .. }
        )
    }

    /// What to do about it.
    pub fn help(&self) -> Option<&'static str> {
        Some(match self {
            RegistryError::Configuration(_) => {
                "docs/images.md shows what may stand in it; MOTHER_REGISTRIES names another file"
            }
            RegistryError::Credentials { .. } => {
                "log in again, or remove the entry: what is public needs none"
            }
            RegistryError::NotHere => {
                "leave `--pull never` out, or pull it where there is a network: `mother images pull NAME`"
            }
            RegistryError::Failing { .. } => {
                "try again later, or name a mirror in registries.toml: docs/images.md"
            }
            RegistryError::Unreached { .. } | RegistryError::BrokeOff { .. } => {
                "look at the name, this host's network and its proxy (HTTPS_PROXY); what was pulled before needs none of them, \
                 and what broke off goes on where it was. A registry without TLS is named in registries.toml: docs/images.md"
            }
            RegistryError::Untrusted { .. } => {
                "put the certificate of who vouches for it under /etc/docker/certs.d/HOST/ (*.crt), or name a file of \
                 certificates in SSL_CERT_FILE"
            }
            RegistryError::NoRoots { .. } => {
                "install ca-certificates, or name a file of certificates in SSL_CERT_FILE"
            }
            RegistryError::NotFound { .. } => {
                "check its name and tag; a file in this folder is ./FILE, and `mother images` lists what is here"
            }
            RegistryError::Denied { .. } => {
                "check its name: many registries say so of what is not there, too. Log in with `skopeo login HOST`, \
                 `podman login HOST` or `docker login HOST`, whose files are read"
            }
            RegistryError::TooMany { .. } => {
                "wait, log in (who has an account may ask more often), or name a mirror in registries.toml: docs/images.md"
            }
            RegistryError::Damaged { .. } | RegistryError::TooLong { .. } => {
                "nothing of it was kept; pull it again, or from another registry: this one, a mirror or a proxy changes what it \
                 passes on"
            }
            RegistryError::OtherMachine(_) => "name a tag or digest that is for linux/amd64",
            RegistryError::Elsewhere { .. } => {
                "a registry that is trusted without TLS is named in registries.toml: docs/images.md"
            }
            RegistryError::Busy => "try again when it is done",
            _ => return None,
        })
    }
}
