//! Container images from where they are: registries that speak the OCI distribution protocol, version 2
//! (distribution-spec, spec.md).
//!
//! ```text
//! reference   what a person writes: HOST[:PORT]/REPOSITORY[:TAG][@DIGEST], and its short forms
//! endpoint    where that leads: the host, its mirrors, plain HTTP or TLS     configuration, credentials
//! session     asks: redirects, challenges, tokens; every answer is bounded   client, challenge
//! manifest    which parts an image for this kind of machine has
//! blob        one part after another into the shelf, going on where it broke off
//! shelf       what was pulled: parts by their digest, and what each name led to
//! ```
//!
//! Everything that a registry says is hostile. It never names a file of this host: a part lies under its SHA-256, which we
//! have computed, and the record of a name under the SHA-256 of what the user wrote. Nothing of what is in an image is looked at
//! here but its descriptions, which are small and JSON; what unpacks layers is a reader in a jail ([`images::ReadContainer`]).
//! Credentials go to the registry that they are for, and to whom it names for giving out tokens, over TLS; to nobody else.
#![forbid(unsafe_code)]

mod blob;
mod challenge;
mod client;
mod configuration;
mod credentials;
mod digest;
mod endpoint;
mod error;
mod manifest;
mod pull;
mod reference;
mod session;
mod shelf;

#[cfg(test)]
mod scripted;
#[cfg(test)]
mod tests;

pub use configuration::{ConfigurationError, Registries};
pub use digest::Digest;
pub use error::RegistryError;
pub use pull::{When, pull};
pub use reference::{BadReference, Reference};
pub use shelf::{Pulled, Shelf};
