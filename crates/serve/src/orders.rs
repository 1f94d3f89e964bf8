//! What is done to VMs is done by this program's own commands, each a process: the same checks and the same words as a
//! person gets. Short questions are waited for; long work is an operation that can be looked at and cancelled.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use host::lock::Lock;
use rustix::fs::{MemfdFlags, memfd_create};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, watch};

use crate::words::{Operation, Problem, WorkState, now};

/// Longest answer of a command that is read.
const ANSWER_BYTES_MAX: u64 = 32 << 20;
/// How long a question may take.
const QUESTION_TIME: Duration = Duration::from_secs(60);
/// Commands that run at the same time for questions; more wait.
const QUESTIONS_MAX: usize = 8;
/// Operations that are remembered.
const OPERATIONS_KEPT: usize = 1000;

/// Everything that is done for clients.
pub(crate) struct Orders {
    operations: Lock<Operations>,
    questions: Semaphore,
}

#[derive(Default)]
struct Operations {
    last: u64,
    all: BTreeMap<u64, Entry>,
}

struct Entry {
    operation: Operation,
    cancel: watch::Sender<bool>,
}

/// What a command prints when nothing came of it.
#[derive(Deserialize)]
struct Failed {
    error: Problem,
}

/// One command.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words {
    /// Behind `mother`.
    pub(crate) words: Vec<String>,
    /// A description of a VM, which goes behind `--config`.
    pub(crate) spec: Option<Value>,
    /// Where it runs.
    pub(crate) folder: Option<std::path::PathBuf>,
    /// Whether it asks a guest to power off, and it matters whether the guest does.
    pub(crate) is_graceful: bool,
    /// The declared VM that is to be started: what the command is, is told by its declaration when its turn comes.
    pub(crate) starts: Option<String>,
}

impl Words {
    pub(crate) fn new<const N: usize>(words: [&str; N]) -> Words {
        Words {
            words: words.map(str::to_owned).to_vec(),
            ..Words::default()
        }
    }

    /// The start of a declared VM.
    pub(crate) fn start(name: &str) -> Words {
        Words {
            starts: Some(name.to_owned()),
            ..Words::default()
        }
    }
}

impl Orders {
    pub(crate) fn new() -> Orders {
        Orders {
            operations: Lock::new(Operations::default()),
            questions: Semaphore::new(QUESTIONS_MAX),
        }
    }

    /// What a command answers, soon.
    pub(crate) async fn ask(&self, words: Words) -> Result<Value, Problem> {
        let Ok(_permit) = self.questions.acquire().await else {
            return Err(problem("internal", "questions are closed"));
        };
        let asked = perform(&words, |_| {}, None);
        match tokio::time::timeout(QUESTION_TIME, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(problem(
                "timed-out",
                format!("there was no answer in {} s", QUESTION_TIME.as_secs()),
            )),
        }
    }

    /// Begins an operation; its number.
    pub(crate) fn begin(&self, what: &str, vm: Option<&str>) -> (u64, watch::Receiver<bool>) {
        let (cancel, cancelled) = watch::channel(false);
        let mut operations = self.operations.lock();
        operations.last += 1;
        let id = operations.last;
        let operation = Operation {
            id,
            what: what.to_owned(),
            vm: vm.map(str::to_owned),
            state: WorkState::Running,
            progress: None,
            error: None,
            begun_at: now(),
            ended_at: None,
        };
        operations.all.insert(id, Entry { operation, cancel });
        while operations.all.len() > OPERATIONS_KEPT {
            let ended = operations
                .all
                .iter()
                .find(|(_, entry)| entry.operation.state != WorkState::Running);
            let Some((&oldest, _)) = ended else { break };
            operations.all.remove(&oldest);
        }
        (id, cancelled)
    }

    /// What is being done.
    pub(crate) fn note(&self, id: u64, progress: &str) {
        if let Some(entry) = self.operations.lock().all.get_mut(&id) {
            entry.operation.progress = Some(progress.to_owned());
        }
    }

    /// What came of it.
    pub(crate) fn end(&self, id: u64, outcome: &Result<(), Problem>) {
        if let Some(entry) = self.operations.lock().all.get_mut(&id) {
            let operation = &mut entry.operation;
            operation.ended_at = Some(now());
            operation.state = match outcome {
                Ok(()) => WorkState::Done,
                Err(_) if *entry.cancel.borrow() => WorkState::Cancelled,
                Err(problem) => {
                    operation.error = Some(problem.clone());
                    WorkState::Failed
                }
            };
        }
    }

    /// Whether something is being done to this VM.
    pub(crate) fn is_busy(&self, vm: &str) -> bool {
        let operations = self.operations.lock();
        operations.all.values().any(|entry| {
            entry.operation.state == WorkState::Running && entry.operation.vm.as_deref() == Some(vm)
        })
    }

    /// One operation.
    pub(crate) fn operation(&self, id: u64) -> Option<Operation> {
        let operations = self.operations.lock();
        operations.all.get(&id).map(|entry| entry.operation.clone())
    }

    /// All that are remembered, newest first.
    pub(crate) fn operations(&self) -> Vec<Operation> {
        let operations = self.operations.lock();
        let all = operations.all.values().rev();
        all.map(|entry| entry.operation.clone()).collect()
    }

    /// Has an operation end early; whether it still ran.
    pub(crate) fn cancel(&self, id: u64) -> Option<bool> {
        let operations = self.operations.lock();
        let entry = operations.all.get(&id)?;
        let runs = entry.operation.state == WorkState::Running;
        entry.cancel.send_replace(true);
        Some(runs)
    }
}

/// Something is wrong, in a word and a sentence.
pub(crate) fn problem(code: &str, message: impl Into<String>) -> Problem {
    Problem {
        code: code.to_owned(),
        message: message.into(),
        ..Problem::default()
    }
}

/// Runs a command to its end; what it answers. Each line that it says of what it does goes to `on_line`.
pub(crate) async fn perform(
    words: &Words,
    on_line: impl Fn(&str),
    cancelled: Option<watch::Receiver<bool>>,
) -> Result<Value, Problem> {
    let mut child = spawn(words).map_err(|error| not_started(words, &error))?;
    let answer = read_all(child.stdout.take());
    let said = read_lines(child.stderr.take(), on_line);
    let done = async { tokio::join!(answer, said) };
    let stopped = async {
        match cancelled {
            Some(mut cancelled) => {
                let _ = cancelled.wait_for(|is| *is).await;
            }
            None => std::future::pending().await,
        }
    };
    let (answer, said) = tokio::select! {
        done = done => done,
        () = stopped => {
            end(&mut child).await;
            return Err(problem("cancelled", "it was cancelled"));
        }
    };
    let lost =
        |error: std::io::Error| problem("internal", format!("cannot wait for a command: {error}"));
    let status = child.wait().await.map_err(lost)?;
    judge(&answer, &said, status.code()).map_err(|problem| *problem)
}

/// What came of a command, from its answer, its last words and its exit status.
fn judge(answer: &[u8], said: &[String], status: Option<i32>) -> Result<Value, Box<Problem>> {
    let value: Option<Value> = serde_json::from_slice(answer).ok();
    let error = value.as_ref().and_then(|value| {
        let first = value
            .as_array()
            .and_then(|all| all.first())
            .unwrap_or(value);
        Failed::deserialize(first).ok().map(|failed| failed.error)
    });
    if let Some(mut error) = error {
        error.code = match status {
            Some(2) => "bad-input",
            _ => "refused",
        }
        .to_owned();
        return Err(Box::new(error));
    }
    match (value, status) {
        // Commands that answer well say with 1 and 4 what they think of it.
        (Some(value), Some(_)) => Ok(value),
        (None, Some(0)) => Ok(Value::Null),
        _ => {
            let text = said
                .iter()
                .rev()
                .find(|line| !line.is_empty())
                .map_or("it said nothing", String::as_str);
            Err(Box::new(problem(
                "failed",
                text.trim_start_matches("error: "),
            )))
        }
    }
}

/// Why a command was not started: mostly it is the folder, which the daemon may not enter where who declared the VM may.
fn not_started(words: &Words, error: &std::io::Error) -> Problem {
    match &words.folder {
        Some(folder) if std::fs::read_dir(folder).is_err() => Problem {
            help: Some(
                "declare it from a folder that the daemon's user may enter, `/` for one".to_owned(),
            ),
            ..problem(
                "refused",
                format!("cannot work in {}: {error}", folder.display()),
            )
        },
        _ => problem("internal", format!("cannot start a command: {error}")),
    }
}

fn spawn(words: &Words) -> std::io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.args(&words.words);
    // As its standard input, which no other process that is started meanwhile inherits.
    let input = match &words.spec {
        Some(spec) => {
            command.args(["--config", "/proc/self/fd/0"]);
            Stdio::from(in_memory(spec)?)
        }
        None => Stdio::null(),
    };
    command
        .current_dir(words.folder.as_deref().unwrap_or(Path::new("/")))
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env(crate::options::BY_DAEMON, "1")
        .kill_on_drop(true);
    command.spawn()
}

/// A file without a path.
fn in_memory(spec: &Value) -> std::io::Result<File> {
    const NAME: &CStr = c"description";
    let mut file = File::from(memfd_create(NAME, MemfdFlags::CLOEXEC)?);
    file.write_all(spec.to_string().as_bytes())?;
    Ok(file)
}

/// Asks a command to end, and sees that it does.
async fn end(child: &mut Child) {
    let process = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(rustix::process::Pid::from_raw);
    if let Some(process) = process {
        let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(Duration::from_secs(10), child.wait())
        .await
        .is_err()
    {
        let _ = child.kill().await;
    }
}

async fn read_all(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        // What is cut short is no JSON, which is what will be said.
        let _ = from.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).await;
    }
    bytes
}

async fn read_lines(from: Option<impl AsyncRead + Unpin>, on_line: impl Fn(&str)) -> Vec<String> {
    let mut said = Vec::new();
    let Some(from) = from else { return said };
    let mut lines = BufReader::new(from).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        on_line(line.trim_start_matches("mother: "));
        said.push(line);
        if said.len() > 50 {
            said.remove(0);
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commands_answer_and_its_failure_are_told_apart() {
        let check =
            |answer: &str, said: &[&str], status: i32, expected: Result<&str, (&str, &str)>| {
                let said: Vec<String> = said.iter().map(|line| (*line).to_owned()).collect();
                let found = judge(answer.as_bytes(), &said, Some(status));
                let found = found
                    .map(|value| value.to_string())
                    .map_err(|problem| (problem.code, problem.message));
                let expected = expected
                    .map(str::to_owned)
                    .map_err(|(code, message)| (code.to_owned(), message.to_owned()));
                assert_eq!(found, expected, "{answer}");
            };
        check("{\"a\":1}", &[], 0, Ok("{\"a\":1}"));
        // Contradictions are an answer.
        check("{\"a\":1}", &[], 1, Ok("{\"a\":1}"));
        let failed = r#"{"error":{"message":"no such VM","causes":[],"help":null,"complaints":[],"exit_status":1}}"#;
        check(failed, &[], 1, Err(("refused", "no such VM")));
        check(failed, &[], 2, Err(("bad-input", "no such VM")));
        let done = r#"[{"done":true,"error":null,"name":"a"}]"#;
        check(done, &[], 0, Ok(done));
        let not = r#"[{"name":"a","done":false,"error":{"message":"it is paused","causes":[],"help":null,"complaints":[],"exit_status":1}}]"#;
        check(not, &[], 1, Err(("refused", "it is paused")));
        check(
            "",
            &["error: the disk is full", ""],
            1,
            Err(("failed", "the disk is full")),
        );
        check("", &[], 0, Ok("null"));
    }

    #[test]
    fn a_folder_that_cannot_be_entered_is_named() {
        let words = Words {
            folder: Some("/proc/1/nowhere".into()),
            ..Words::new(["ps"])
        };
        let error = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let said = not_started(&words, &error).message;
        assert!(
            said.starts_with("cannot work in /proc/1/nowhere: "),
            "{said}"
        );
    }

    #[test]
    fn operations_that_run_are_never_forgotten() {
        let orders = Orders::new();
        let (first, _) = orders.begin("start", Some("web"));
        for _ in 0..2 * OPERATIONS_KEPT {
            let (id, _) = orders.begin("stop", None);
            orders.end(id, &Ok(()));
        }
        assert_eq!(orders.operations().len(), OPERATIONS_KEPT);
        assert!(orders.is_busy("web") && !orders.is_busy("db"));
        assert_eq!(orders.cancel(first), Some(true));
        orders.end(first, &Err(problem("cancelled", "it was cancelled")));
        assert_eq!(
            orders.operation(first).map(|operation| operation.state),
            Some(WorkState::Cancelled)
        );
        assert_eq!(orders.cancel(0), None);
    }
}
