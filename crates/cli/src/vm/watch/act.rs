//! Doing what was decided.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fleet::{Client, Record};
use insight::timestamp;
use policy::{Action, Decision};

/// Actions that go on at one time beside what is decided.
const RUNNING_MAX: usize = 8;
/// How long a program of the owner's may take.
const PROGRAM_TIME: Duration = Duration::from_secs(30);
/// How long a dump or a snapshot may take.
const FILE_TIME: Duration = Duration::from_secs(600);
/// The grace time of a stop, as that of `mother stop`.
const GRACE_MS: u64 = 30_000;
/// How much of what a program says on its standard error is kept.
const SAID_MAX: u64 = 1024;

/// Does things. Orders are done by the thread that asks, what takes longer beside it.
#[derive(Default)]
pub(super) struct Actor {
    running: Arc<AtomicUsize>,
}

impl Actor {
    /// Whether it is done beside what is decided meanwhile.
    pub(super) fn is_beside(action: &Action) -> bool {
        matches!(
            action,
            Action::Run(_) | Action::Dump(_) | Action::Snapshot | Action::Webhook(_)
        )
    }

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
                engine_memory: None,
                host_limit: None,
                rates: limits.rates(),
            },
            Action::Run(words) => {
                let words = words.clone();
                let input = crate::answers::short(decision);
                return self.beside(tell, move || run(&words, PROGRAM_TIME, &input));
            }
            Action::Dump(folder) => {
                let file = format!("{folder}/{}.elf", named(decision));
                return self.command(&["dump", &decision.vm, "-o", &file], tell);
            }
            Action::Snapshot => {
                let name = named(decision);
                // A name has 63 characters, and the time is what tells two of a VM's apart.
                let name = &name[name.len().saturating_sub(63)..];
                let name = name.trim_start_matches(['.', '_', '-']);
                return self.command(&["snapshot", &decision.vm, "--to", name], tell);
            }
            Action::Webhook(address) => {
                let address = address.clone();
                let body = crate::answers::short(decision);
                return self.beside(tell, move || webhook(&address, body));
            }
        };
        let done = Client::connect(record).and_then(|mut client| client.order(command));
        tell(done.map_err(|error| words(&error)));
    }

    /// Does something that takes longer beside what is decided meanwhile.
    fn beside(
        &self,
        tell: impl FnOnce(Result<(), String>) + Send + 'static,
        work: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) {
        let running = Arc::clone(&self.running);
        if running.fetch_add(1, Ordering::AcqRel) >= RUNNING_MAX {
            running.fetch_sub(1, Ordering::AcqRel);
            let why = format!("{RUNNING_MAX} other actions are not done yet");
            return tell(Err(why));
        }
        thread::spawn(move || {
            let result = work();
            running.fetch_sub(1, Ordering::AcqRel);
            tell(result);
        });
    }

    /// This program, to write a file: in a process of its own, and with a guest that goes on if it dies.
    fn command(&self, arguments: &[&str], tell: impl FnOnce(Result<(), String>) + Send + 'static) {
        let program = std::env::current_exe().map_err(|error| error.to_string());
        let program = program.and_then(|program| {
            let text = program.into_os_string().into_string();
            text.map_err(|_| "the path of this program is no text".to_owned())
        });
        match program {
            Ok(program) => {
                let arguments = arguments.iter().map(|word| (*word).to_owned());
                let words: Vec<String> = [program].into_iter().chain(arguments).collect();
                self.beside(tell, move || run(&words, FILE_TIME, ""));
            }
            Err(why) => tell(Err(why)),
        }
    }
}

/// The VM and the time, as the name of what is written then.
fn named(decision: &Decision) -> String {
    let time = timestamp(decision.at_ns).replace(':', "");
    format!("{}-{time}", decision.vm)
}

/// Sends a decision to a server.
fn webhook(address: &str, body: String) -> Result<(), String> {
    let place = serve::Place::new(address).map_err(|error| words(&error))?;
    let answered = place.post_and_wait("application/json", body.into());
    let status = answered.map_err(|error| words(&error))?.status;
    match status.is_success() {
        true => Ok(()),
        false => Err(format!("{address} answers {status}")),
    }
}

fn words(error: &dyn std::error::Error) -> String {
    match error.source() {
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
    fn a_server_gets_the_decision_and_its_answer_is_told() {
        let check = |status: &'static str, expected: Result<(), &str>| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut text = String::new();
                let mut bytes = [0; 4096];
                while !text.ends_with("}\n") {
                    let count = stream.read(&mut bytes).unwrap();
                    text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
                }
                write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").unwrap();
                text
            });
            let found = webhook(
                &format!("http://{address}/hook"),
                "{\"rule\":\"m\"}\n".to_owned(),
            );
            let text = server.join().unwrap();
            assert!(text.starts_with("POST /hook HTTP/1.1\r\n"), "{text}");
            assert!(text.ends_with("\r\n\r\n{\"rule\":\"m\"}\n"), "{text}");
            match (found, expected) {
                (Ok(()), Ok(())) => {}
                (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                (found, expected) => panic!("{status}: {found:?} and not {expected:?}"),
            }
        };
        check("204 No Content", Ok(()));
        check("500 No", Err("answers 500"));
        // A redirection is not followed: what is sent may be a secret.
        check("302 Found", Err("answers 302"));
        let nobody = webhook("http://127.0.0.1:1/", String::new());
        assert!(nobody.unwrap_err().contains("cannot reach 127.0.0.1:1"));
    }

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
