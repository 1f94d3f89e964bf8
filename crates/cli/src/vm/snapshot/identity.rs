//! A clone that becomes a machine of its own: another hostname, machine-id, host keys and network address, made by its agent.

use std::time::Duration;

use api::VmName;
use api::agent::{from_agent, to_agent};
use fleet::{Agent, AgentError, Inventory, OneVm};

use crate::failure::Failure;

/// What the guest does, with its name and address as arguments.
const SCRIPT: &str = include_str!("identity.sh");

/// How long the guest may take to answer, and for all of it: making keys takes a while.
const PATIENCE: Duration = Duration::from_secs(20);
const WORK_TIME: Duration = Duration::from_secs(120);

/// Most that is kept of what the guest says about it.
const WORDS_BYTES_MAX: usize = 4096;

/// Has the guest of this VM take on an identity of its own; `address` is that of its network card, if it has one.
///
/// # Errors
/// [`Failure::NotNow`]; the VM runs, with the identity it had or part of a new one.
pub(super) fn renew(name: &VmName, address: Option<&str>) -> Result<(), Failure> {
    let not_done = |error: AgentError| Failure::NotNow {
        act: "give a new identity to",
        name: name.clone(),
        why: error.to_string(),
        help: "it runs, with the identity of the original or part of a new one: `mother kill` ends it",
    };
    let record = Inventory::of_user()?.record(name);
    let (one, _) = OneVm::connect(record).map_err(|error| not_done(error.into()))?;
    ask(&one, name, address.unwrap_or_default()).map_err(not_done)
}

fn ask(one: &OneVm, name: &VmName, address: &str) -> Result<(), AgentError> {
    let mut agent = Agent::connect(one, PATIENCE)?;
    let gone = |_| AgentError::Cut;
    agent.set_patience(Some(WORK_TIME)).map_err(gone)?;
    let mut request = Vec::new();
    for word in ["sh", "-c", SCRIPT, "identity", name.as_str(), address] {
        request.extend(b"arg=");
        request.extend(word.as_bytes());
        request.push(0);
    }
    agent.say(to_agent::START, &request).map_err(gone)?;
    agent.say(to_agent::INPUT_ENDS, &[]).map_err(gone)?;
    let mut said = Vec::new();
    loop {
        let message = agent.hear()?;
        match (message.kind, message.payload.as_slice()) {
            (from_agent::OUTPUT | from_agent::ERRORS, bytes) => {
                let room = WORDS_BYTES_MAX.saturating_sub(said.len());
                said.extend(&bytes[..bytes.len().min(room)]);
            }
            (from_agent::TOOK, _) => {}
            (from_agent::EXIT, [0, ..]) => return Ok(()),
            (from_agent::EXIT, &[a, b, c, d]) => {
                return Err(AgentError::Refused {
                    status: i32::from_le_bytes([a, b, c, d]),
                    why: String::from_utf8_lossy(&said)
                        .trim()
                        .escape_debug()
                        .to_string(),
                });
            }
            _ => return Err(AgentError::Strange),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn a_shell_understands_the_script() {
        let mut sh = Command::new("sh");
        let mut child = sh.arg("-n").stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(super::SCRIPT.as_bytes()).unwrap();
        drop(stdin);
        assert!(child.wait().unwrap().success());
    }
}
