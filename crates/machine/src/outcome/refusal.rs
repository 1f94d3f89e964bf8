//! Why a running VM did not do what it was asked.

use thiserror::Error;
use vcpu::EngineError;

use crate::engine::EngineKind;

/// Why a VM was not paused or resumed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum PauseError {
    /// It has ended.
    #[error("the VM has ended")]
    Ended,
    /// It took too long; the request is taken back.
    #[error("the guest's threads did not come to rest in time")]
    TimedOut,
    /// It stands still already, in the middle of things, because there is no room for its pages; the request is taken
    /// back.
    #[error(
        "the guest waits for room for its pages ({0}); it can be paused when there is some: raise its limit or its page memory"
    )]
    Stalled(String),
    /// It is on its way to another process; the request is not noted.
    #[error("the VM moves to another process just now; ask again in a moment")]
    Moving,
    /// The opposite was asked before it was done.
    #[error("another request, for the opposite, came before this one was carried out")]
    Overruled,
}

/// Why a guest stays on its engine.
#[derive(Debug, Error)]
pub enum SwitchError {
    /// The other engine does not work on this host.
    #[error("{what}")]
    NoEngine {
        /// The reason, as a sentence without its end.
        what: String,
        /// What to do.
        help: String,
    },
    /// It runs there already.
    #[error("the VM runs on the engine {0} already")]
    Already(EngineKind),
    /// The guest uses, or may use, what the other engine lacks.
    #[error("the guest was started with processor features that KVM on this host does not have")]
    Features,
    /// The other engine was not made, or refused the state.
    #[error("the engine {kind} cannot take the guest over")]
    Engine {
        /// The engine that was to run the guest.
        kind: EngineKind,
        /// What the engine said.
        source: EngineError,
    },
    /// Its memory cannot be paged there.
    #[error("{0}")]
    Paging(String),
    /// It shares folders of the host, which is about what is not in the guest.
    #[error(
        "the guest shares folders of this host, and what it has open there cannot be written down"
    )]
    Folders,
    /// A thread did not come.
    #[error("the guest's threads did not come to rest in time")]
    TimedOut,
    /// It is on its way to another process, or that was called off.
    #[error(
        "the VM moves to another process just now, or that was called off; ask again in a moment"
    )]
    Moving,
    /// It stands still in the middle of things.
    #[error(
        "the guest waits for room for its pages ({0}); raise its limit or its page memory first"
    )]
    Stalled(String),
    /// It has ended.
    #[error("the VM has ended")]
    Ended,
}
