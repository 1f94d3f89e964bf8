//! Asking this user's daemon.

use api::VmName;
use serde_json::Value;
use serve::{Answer, Target};

use super::server::socket;
use crate::failure::Failure;

/// The daemon of this user.
fn target() -> Result<Target, Failure> {
    Ok(Target::Socket(socket()?))
}

/// Asks the daemon, which must be there.
pub fn ask_daemon(
    method: &str,
    path: &str,
    body: Option<&Value>,
    version: Option<u64>,
) -> Result<Answer, Failure> {
    Ok(target()?.ask(method, path, body, version)?)
}

/// Follows lines of the daemon's answer until `on_line` has enough.
pub(super) fn follow_daemon(path: &str, on_line: impl FnMut(&str) -> bool) -> Result<(), Failure> {
    Ok(target()?.follow("GET", path, None, on_line)?)
}

/// A VM that the daemon has a declaration of.
pub struct Declared(Target);

/// Whether a daemon of this user is there and this VM is declared to it: then it has to know of what is done.
pub fn declared_by_daemon(name: &VmName) -> Option<Declared> {
    // The daemon's own commands act themselves.
    if std::env::var_os(serve::BY_DAEMON).is_some() {
        return None;
    }
    let target = target().ok()?;
    if !target.is_there() {
        return None;
    }
    let vm = target
        .ask("GET", &format!("/v1/vms/{name}"), None, None)
        .ok()?;
    vm.body["declared"].is_object().then_some(Declared(target))
}

impl Declared {
    /// Has the daemon start, stop or restart it, and waits for that.
    pub fn order(
        &self,
        name: &VmName,
        action: &str,
        grace_seconds: Option<u64>,
    ) -> Result<(), Failure> {
        let body = match grace_seconds {
            Some(seconds) => serde_json::json!({ "grace_seconds": seconds }),
            None => serde_json::json!({}),
        };
        let path = format!("/v1/vms/{name}/{action}?wait=300");
        self.0.ask("POST", &path, Some(&body), None)?;
        Ok(())
    }
}
