//! Requests and replies as lines of JSON on a stream that may be slow, silent or full of nonsense.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use api::{LINE_BYTES_MAX, Outcome, PROTOCOL_VERSION, RefusalCode, Reply, Request};

/// How long a client may take for a request.
const REQUEST_TIME: Duration = Duration::from_secs(30);
/// How long it may take to read a reply.
const REPLY_TIME: Duration = Duration::from_secs(5);

/// What a client sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Line {
    Request(Request),
    /// Something else, and what to say to it.
    Wrong(RefusalCode, String),
}

/// Reads lines from a client.
pub(super) struct Lines<'a> {
    stream: &'a UnixStream,
    buffer: Vec<u8>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(stream: &'a UnixStream) -> Lines<'a> {
        Lines {
            stream,
            buffer: Vec::new(),
        }
    }

    /// The next line; `None` when the client has gone, is too slow, or never ends its line.
    pub(super) fn next(&mut self) -> Option<Line> {
        let deadline = Instant::now() + REQUEST_TIME;
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(understand(&line));
            }
            if self.buffer.len() >= LINE_BYTES_MAX {
                reply(
                    self.stream,
                    refusal(RefusalCode::BadRequest, "the request is too long"),
                );
                return None;
            }
            let left = deadline
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())?;
            self.stream.set_read_timeout(Some(left)).ok()?;
            let mut piece = [0; 4096];
            let room = (LINE_BYTES_MAX - self.buffer.len()).min(piece.len());
            let count = loop {
                match (&mut &*self.stream).read(&mut piece[..room]) {
                    Ok(count) => break count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return None,
                }
            };
            if count == 0 {
                return None;
            }
            self.buffer.extend(&piece[..count]);
        }
    }

    /// What was read behind the last line.
    pub(super) fn into_rest(self) -> Vec<u8> {
        self.buffer
    }
}

fn understand(line: &[u8]) -> Line {
    let wrong = |code, what: String| Line::Wrong(code, what);
    match serde_json::from_slice::<Request>(line) {
        Ok(request) if request.version == PROTOCOL_VERSION => Line::Request(request),
        Ok(request) => wrong(RefusalCode::Version, other_version(request.version)),
        Err(error) => match version(line) {
            Some(other) if other != PROTOCOL_VERSION => {
                wrong(RefusalCode::Version, other_version(other))
            }
            _ => wrong(
                RefusalCode::BadRequest,
                format!("the request means nothing here: {error}"),
            ),
        },
    }
}

fn other_version(version: u32) -> String {
    format!("the VM's process speaks version {PROTOCOL_VERSION} of the protocol, not {version}")
}

/// The version of a request that says nothing else that we know.
fn version(line: &[u8]) -> Option<u32> {
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    value.get("version")?.as_u64()?.try_into().ok()
}

/// A refusal.
pub(super) fn refusal(code: RefusalCode, message: impl Into<String>) -> Outcome {
    Outcome::Refused {
        code,
        message: message.into(),
    }
}

/// Sends a reply; whether the client took it.
pub(super) fn reply(stream: &UnixStream, outcome: Outcome) -> bool {
    send_rest(stream, line(outcome).as_bytes()).is_ok()
}

/// A reply as a line.
pub(super) fn line(outcome: Outcome) -> String {
    let mut line =
        serde_json::to_string(&Reply::new(outcome)).expect("replies have names for keys");
    line.push('\n');
    line
}

/// Sends what is left of a line, or all of it.
pub(super) fn send_rest(stream: &UnixStream, bytes: &[u8]) -> io::Result<()> {
    stream.set_write_timeout(Some(REPLY_TIME))?;
    (&mut &*stream).write_all(bytes)
}

#[cfg(test)]
mod tests {
    use api::Command;

    use super::*;

    #[test]
    fn a_line_is_a_request_or_gets_a_reason() {
        let check = |line: &str, expected: Result<Command, RefusalCode>| {
            let got = match understand(line.as_bytes()) {
                Line::Request(request) => Ok(request.command),
                Line::Wrong(code, _) => Err(code),
            };
            assert_eq!(got, expected, "{line}");
        };
        check(r#"{"version":1,"command":"status"}"#, Ok(Command::Status));
        check(
            r#"{"version":1,"command":"status","new":"field"}"#,
            Ok(Command::Status),
        );
        check(
            r#"{"version":1,"command":"stop","grace_ms":500}"#,
            Ok(Command::Stop { grace_ms: 500 }),
        );
        check(
            r#"{"version":2,"command":"status"}"#,
            Err(RefusalCode::Version),
        );
        check(
            r#"{"version":2,"command":"sing"}"#,
            Err(RefusalCode::Version),
        );
        check(
            r#"{"version":1,"command":"sing"}"#,
            Err(RefusalCode::BadRequest),
        );
        check(
            r#"{"version":1,"command":"stop"}"#,
            Err(RefusalCode::BadRequest),
        );
        check("", Err(RefusalCode::BadRequest));
        check("GET / HTTP/1.1", Err(RefusalCode::BadRequest));
        check(&"[".repeat(10_000), Err(RefusalCode::BadRequest));
    }

    #[test]
    fn a_line_without_an_end_is_not_read_for_ever() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let sender = std::thread::spawn(move || {
            let sent = (&theirs).write_all(&vec![b'x'; 4 * LINE_BYTES_MAX]);
            let mut answer = String::new();
            let _ = (&theirs).take(200).read_to_string(&mut answer);
            (sent.is_ok(), answer)
        });
        assert_eq!(Lines::new(&ours).next(), None);
        drop(ours);
        let (_, answer) = sender.join().unwrap();
        assert!(answer.contains("bad-request"), "{answer}");
    }
}
