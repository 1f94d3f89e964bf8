//! What the host refuses, as the contract says it.

use std::io;

use vcpu::EngineError;

/// `what` we were doing, with what KVM said.
pub(crate) fn host(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> EngineError {
    move |error| EngineError::Host {
        what,
        source: io::Error::from(error),
    }
}
