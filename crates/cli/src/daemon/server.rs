//! `mother serve`: begins the daemon.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use fleet::Inventory;

use super::collector::collector;
use crate::failure::Failure;
use crate::read_policy::read_policy;

/// `mother serve`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Without options it answers on $XDG_RUNTIME_DIR/mother/api.sock, for its own user alone. With
--listen it also answers over TLS, for whoever has a token (`mother token add`). VMs live
without it: it may be killed and started again at any time, and nobody stops.

Examples:
  mother serve
  mother serve --listen 0.0.0.0:9470 --policy guarded
  mother create web debian --restart always --boot
  curl --unix-socket $XDG_RUNTIME_DIR/mother/api.sock http://localhost/v1/vms")]
pub struct ServeArguments {
    /// Answer over TLS too, at this address and port
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Follow a policy for all VMs: a file, or observe, guarded or locked
    #[arg(long, value_name = "FILE|PRESET")]
    policy: Option<String>,
    /// Answer SNMP (VM-MIB) as a subagent of the host's agent, at a path or HOST:PORT
    #[arg(
        long,
        value_name = "PLACE",
        num_args = 0..=1,
        default_missing_value = "/var/agentx/master"
    )]
    snmp: Option<String>,
    /// Send numbers and events to a collector of OpenTelemetry, at URL or on this host
    #[arg(long, value_name = "URL", num_args = 0..=1)]
    otlp: Option<Option<String>>,
    /// The folder of what is declared, events and tokens [default: $XDG_STATE_HOME/mother/serve]
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
}

/// Serves; the exit status.
pub fn serve(arguments: &ServeArguments) -> Result<u8, Failure> {
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let state = match &arguments.state {
        Some(state) => absolute(state),
        None => usual_state()?,
    };
    if let Some(policy) = &arguments.policy {
        read_policy(policy)?;
    }
    // A policy's path is read by another process in another folder.
    let policy = arguments.policy.as_ref().map(|policy| {
        let path = PathBuf::from(policy);
        if path.is_file() {
            absolute(&path).display().to_string()
        } else {
            policy.clone()
        }
    });
    let collector = match &arguments.otlp {
        Some(typed) => {
            let variable = |name: &str| std::env::var(name).ok();
            Some(collector(typed.as_deref(), variable)?)
        }
        None => None,
    };
    serve::run(serve::Options {
        state,
        socket: socket()?,
        listen: arguments.listen,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        policy,
        snmp: arguments.snmp.clone(),
        collector,
    })?;
    Ok(0)
}

/// Where the daemon of this user answers.
pub(super) fn socket() -> Result<PathBuf, Failure> {
    Ok(Inventory::of_user()?.folder().join("api.sock"))
}

/// Where it keeps what it must not forget (XDG Base Directory Specification).
fn usual_state() -> Result<PathBuf, Failure> {
    let absolute = |variable: &str| {
        let folder = std::env::var_os(variable).map(PathBuf::from);
        folder.filter(|folder| folder.is_absolute())
    };
    let state = absolute("STATE_DIRECTORY").or_else(|| {
        let state = absolute("XDG_STATE_HOME");
        let state = state.or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
        Some(state.join("mother/serve"))
    });
    state.ok_or(Failure::NoServeState)
}
