//! How a daemon is asked for.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::post::Place;

/// Set for commands that the daemon starts: they act themselves and do not ask it.
pub const BY_DAEMON: &str = "MOTHER_BY_DAEMON";

/// How the daemon shall be.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where it keeps what it must not forget.
    pub state: PathBuf,
    /// The socket for its own user.
    pub socket: PathBuf,
    /// Where it listens for others, over TLS.
    pub listen: Option<SocketAddr>,
    /// This program's version.
    pub version: String,
    /// A policy that is followed for all VMs: a file or the name of a preset.
    pub policy: Option<String>,
    /// Where the host's SNMP agent takes subagents: a path, or HOST:PORT.
    pub snmp: Option<String>,
    /// Who is sent numbers and events.
    pub collector: Option<Collector>,
}

/// A collector, and what it is told.
#[derive(Clone, Debug)]
pub struct Collector {
    /// Its address, to which `/v1/metrics` and `/v1/logs` are added.
    pub place: Place,
    /// Between two times that numbers are sent.
    pub every: Duration,
    /// What is said of this host beside its name.
    pub attributes: Vec<(String, String)>,
}
