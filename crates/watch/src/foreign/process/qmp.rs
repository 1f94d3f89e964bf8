//! QMP, the control socket of QEMU (its documentation, interop/qmp-spec): asked only if nobody else holds it.
//!
//! Such a socket has one client at a time. To one that is taken the kernel lets us connect, and nobody greets us: after a
//! moment we go away, and whoever holds it has noticed nothing. What QEMU answers is bounded in length and in time.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

/// How long a free socket may take to answer.
const PATIENCE: Duration = Duration::from_millis(300);
/// The longest answer.
const LINE_MAX: u64 = 1 << 20;
/// Most lines before an answer: events.
const LINES_MAX: usize = 1000;

/// Why QMP says nothing.
#[derive(Debug, Error)]
pub enum QmpError {
    /// It cannot be reached.
    #[error("its QMP socket cannot be reached: {0}")]
    Host(#[from] io::Error),
    /// Somebody else is connected, or it hangs.
    #[error("its QMP socket does not greet: somebody else holds it, or QEMU hangs")]
    Taken,
    /// What came is no QMP.
    #[error("its QMP socket speaks no QMP")]
    Strange,
    /// QEMU says no.
    #[error("QEMU refuses: {0}")]
    Refused(String),
}

/// What is said to QEMU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum QmpCommand {
    /// That there is somebody: nothing is answered before.
    Begin,
    /// Whether the VM runs.
    Status,
    /// Which threads its vCPUs are.
    Cpus,
    /// What its balloon leaves it.
    Balloon,
    /// Stop it.
    Stop,
    /// Let it go on.
    Continue,
}

impl QmpCommand {
    fn word(self) -> &'static str {
        match self {
            QmpCommand::Begin => "qmp_capabilities",
            QmpCommand::Status => "query-status",
            QmpCommand::Cpus => "query-cpus-fast",
            QmpCommand::Balloon => "query-balloon",
            QmpCommand::Stop => "stop",
            QmpCommand::Continue => "cont",
        }
    }

    /// Whether nothing changes by it.
    pub fn is_question(self) -> bool {
        !matches!(self, QmpCommand::Stop | QmpCommand::Continue)
    }
}

/// A connection, or somebody who has one.
pub trait QmpLink: Send {
    /// The next line, which nobody has read yet.
    ///
    /// # Errors
    /// If none comes in time.
    fn line(&mut self) -> io::Result<Vec<u8>>;

    /// Says something.
    ///
    /// # Errors
    /// What the host says.
    fn say(&mut self, command: QmpCommand) -> io::Result<()>;
}

/// A connection of this process's.
pub struct QmpSocket {
    stream: BufReader<UnixStream>,
}

impl QmpSocket {
    /// Connects. Whether somebody greets is seen by the first line.
    ///
    /// # Errors
    /// What the host says.
    pub fn connect(path: &Path) -> io::Result<QmpSocket> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(QmpSocket {
            stream: BufReader::new(stream),
        })
    }
}

impl QmpLink for QmpSocket {
    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.stream).take(LINE_MAX);
        bounded.read_until(b'\n', &mut line)?;
        Ok(line)
    }

    fn say(&mut self, command: QmpCommand) -> io::Result<()> {
        let text = format!("{}\n", json!({ "execute": command.word() }));
        self.stream.get_mut().write_all(text.as_bytes())
    }
}

/// A conversation.
pub struct Qmp {
    link: Box<dyn QmpLink>,
}

impl Qmp {
    /// Connects, if the socket is free.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn connect(path: &Path) -> Result<Qmp, QmpError> {
        Qmp::over(Box::new(QmpSocket::connect(path)?))
    }

    /// Begins to speak over a connection, if somebody greets there.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn over(link: Box<dyn QmpLink>) -> Result<Qmp, QmpError> {
        let mut qmp = Qmp { link };
        let greeting = qmp.line().map_err(|error| match error {
            QmpError::Host(error) if is_timeout(&error) => QmpError::Taken,
            error => error,
        })?;
        if greeting.get("QMP").is_none() {
            return Err(QmpError::Strange);
        }
        qmp.ask(QmpCommand::Begin)?;
        Ok(qmp)
    }

    fn line(&mut self) -> Result<Value, QmpError> {
        let line = self.link.line()?;
        serde_json::from_slice(&line).map_err(|_| QmpError::Strange)
    }

    /// Has a command done; its answer.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn ask(&mut self, command: QmpCommand) -> Result<Value, QmpError> {
        self.link.say(command)?;
        for _ in 0..LINES_MAX {
            let mut answer = self.line()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                let words = error.get("desc").and_then(Value::as_str);
                return Err(QmpError::Refused(words.unwrap_or("no reason").to_owned()));
            }
        }
        Err(QmpError::Strange)
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// A socket at which somebody says these lines, one for each that comes, the first unasked.
    fn said<const N: usize>(lines: [&'static str; N]) -> Result<Value, QmpError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            for line in lines {
                let _ = reader.get_mut().write_all(line.as_bytes());
                let _ = reader.read_line(&mut String::new());
            }
        });
        let answer = Qmp::connect(&path).and_then(|mut qmp| qmp.ask(QmpCommand::Status));
        server.join().unwrap();
        answer
    }

    const GREETING: &str = "{\"QMP\": {}}\n";

    #[test]
    fn an_answer_is_found_behind_events() {
        let answer = said([
            GREETING,
            "{\"return\": {}}\n",
            "{\"event\": \"STOP\"}\n{\"return\": {\"running\": true}}\n",
        ]);
        assert_eq!(answer.unwrap(), json!({ "running": true }));
    }

    #[test]
    fn what_is_no_qmp_or_says_no_is_an_error() {
        assert!(matches!(said(["hello\n"]), Err(QmpError::Strange)));
        assert!(matches!(said(["{}\n"]), Err(QmpError::Strange)));
        let no = "{\"error\": {\"desc\": \"no balloon\"}}\n";
        let refused = said([GREETING, "{\"return\": {}}\n", no]);
        assert_eq!(refused.unwrap_err().to_string(), "QEMU refuses: no balloon");
    }

    #[test]
    fn a_socket_that_somebody_holds_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let _listener = UnixListener::bind(&path).unwrap();
        assert!(matches!(Qmp::connect(&path), Err(QmpError::Taken)));
    }
}
