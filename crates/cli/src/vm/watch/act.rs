//! Doing what was decided.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fleet::{Client, ClientError, Record};
use insight::timestamp;
use policy::{Action, Decision};

/// Programs of the owner's that run at one time.
const PROGRAMS_MAX: usize = 8;
/// How long one may take.
const PROGRAM_TIME: Duration = Duration::from_secs(30);
/// How long a dump may take.
const DUMP_TIME: Duration = Duration::from_secs(600);
/// The grace time of a stop, as that of `mother stop`.
const GRACE_MS: u64 = 30_000;
/// How much of what a program says on its standard error is kept.
const SAID_MAX: u64 = 1024;

/// Does things. Orders are done by the thread that asks, programs beside it.
#[derive(Default)]
pub(super) struct Actor {
    programs: Arc<AtomicUsize>,
}

impl Actor {
    /// Does `action` to the VM of `record`, and tells what came of it.
    pub(super) fn act(
        &self,
        action: &Action,
        decision: &Decision,
        record: &Record,
        tell: impl FnOnce(Result<(), String>) + Send + 'static,
    ) {
        let command = match action {
            Action::Note => return,
            Action::Pause => api::Command::Pause,
            Action::Stop => api::Command::Stop { grace_ms: GRACE_MS },
            Action::Kill => api::Command::Kill,
            Action::CutNetwork => api::Command::Link { up: false },
            Action::Limit(limits) => api::Command::Limit {
                resident: limits.resident.clone(),
                page_memory: None,
                rates: limits.rates(),
            },
            Action::Run(words) => return self.run(words.clone(), PROGRAM_TIME, decision, tell),
            Action::Dump(folder) => {
                return match dump(folder, decision) {
                    Ok(words) => self.run(words, DUMP_TIME, decision, tell),
                    Err(why) => tell(Err(why)),
                };
            }
        };
        let done = Client::connect(record).and_then(|mut client| client.order(command));
        tell(done.map_err(|error| words(&error)));
    }

    fn run(
        &self,
        words: Vec<String>,
        time: Duration,
        decision: &Decision,
        tell: impl FnOnce(Result<(), String>) + Send + 'static,
    ) {
        let running = Arc::clone(&self.programs);
        if running.fetch_add(1, Ordering::AcqRel) >= PROGRAMS_MAX {
            running.fetch_sub(1, Ordering::AcqRel);
            let why = format!("{PROGRAMS_MAX} programs run already");
            return tell(Err(why));
        }
        let input = crate::answers::short(decision);
        let program = move || {
            let result = run(&words, time, &input);
            running.fetch_sub(1, Ordering::AcqRel);
            tell(result);
        };
        thread::spawn(program);
    }
}

/// This program, to write a dump: beside what is decided meanwhile, and with a guest that goes on if it dies.
fn dump(folder: &str, decision: &Decision) -> Result<Vec<String>, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let program = program.into_os_string().into_string();
    let program = program.map_err(|_| "the path of this program is no text".to_owned())?;
    let time = timestamp(decision.at_ns).replace(':', "");
    let file = format!("{folder}/{}-{time}.elf", decision.vm);
    let words = ["dump", &decision.vm, "-o", &file].map(str::to_owned);
    Ok([program].into_iter().chain(words).collect())
}

fn words(error: &ClientError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Runs a program with `input` on its standard input, for as long as one may take.
fn run(words: &[String], time: Duration, input: &str) -> Result<(), String> {
    let (program, arguments) = words.split_first().ok_or("no program is named")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start {program}: {error}"))?;
    let stdin = child.stdin.take();
    let stderr = child.stderr.take();
    let input = input.to_owned();
    // One that does not read must not hold this up: it ends at the latest with the program.
    thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
    let said = thread::spawn(move || {
        let mut said = Vec::new();
        let read = stderr.map(|stderr| stderr.take(SAID_MAX).read_to_end(&mut said));
        drop(read);
        String::from_utf8_lossy(&said).trim().to_owned()
    });
    let status = wait(&mut child, time).map_err(|why| format!("{program}: {why}"))?;
    if status.success() {
        return Ok(());
    }
    match said.join().unwrap_or_default() {
        said if said.is_empty() => Err(format!("{program}: {status}")),
        said => Err(format!("{program}: {status}: {said}")),
    }
}

fn wait(child: &mut Child, time: Duration) -> Result<std::process::ExitStatus, String> {
    let deadline = Instant::now() + time;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("ended after {} s", time.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_gets_the_decision_and_what_it_says_is_told() {
        let check = |script: &str, expected: Result<(), &str>| {
            let words = ["/bin/sh", "-c", script].map(str::to_owned);
            let found = run(&words, PROGRAM_TIME, "{\"rule\":\"m\"}\n");
            match (found, expected) {
                (Ok(()), Ok(())) => {}
                (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                (found, expected) => panic!("{script}: {found:?} and not {expected:?}"),
            }
        };
        check("grep -q '\"rule\":\"m\"'", Ok(()));
        check("exit 0", Ok(()));
        check("echo no room >&2; exit 3", Err("exit status: 3: no room"));
        check("kill -9 $$", Err("signal: 9"));
        let nowhere = ["/nowhere/at/all".to_owned()];
        assert!(
            run(&nowhere, PROGRAM_TIME, "")
                .unwrap_err()
                .contains("cannot start")
        );
    }
}
