//! Why pages do not come back.

use std::io;

use thiserror::Error;

use crate::base::BaseError;
use crate::store::ReadError;

/// Why a fault could not be served.
#[derive(Debug, Error)]
pub enum Broken {
    /// The host refuses something that has to succeed.
    #[error("the host refused to {act} page {page}")]
    Host {
        /// What was tried, as a verb.
        act: &'static str,
        /// Which page of the memory file.
        page: u64,
        /// What it said.
        source: io::Error,
    },
    /// The store does not give back what was put into it.
    #[error("page {page} cannot be brought back")]
    Lost {
        /// Which page of the memory file.
        page: u64,
        /// What the store said.
        source: ReadError,
    },
    /// The snapshot that the guest was brought back from does not give a page.
    #[error("page {page} cannot be brought back")]
    Base {
        /// Which page of the memory file.
        page: u64,
        /// What was wrong.
        source: BaseError,
    },
    /// A thread panicked while it changed what is known of pages.
    #[error("the pager does not know any more where pages are")]
    Panicked,
}

impl Broken {
    /// Whether trying again may help.
    pub(crate) fn may_pass(&self) -> bool {
        !matches!(
            self,
            Broken::Lost {
                source: ReadError::Checksum,
                ..
            } | Broken::Base {
                source: BaseError::Damaged(_),
                ..
            } | Broken::Panicked
        )
    }
}
