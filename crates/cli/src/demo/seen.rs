//! What a guest claims, what its kernel has in its books, and what the host knows: `mother truth`, asked as a user asks,
//! in a process of its own.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long that may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The table of the VM of this name, or what is said instead of it.
pub(super) fn truth(name: &str) -> Result<String, String> {
    let failed =
        |why: String| format!("error: `mother truth {name}` did not go as it should: {why}\n\n");
    let text = ask(name).map_err(failed)?;
    Ok(format!(
        "The same guest from outside: what it claims, what its own kernel counts, what the host knows. Nobody asked it\n\n\
         $ mother truth {name}\n{text}\n"
    ))
}

fn ask(name: &str) -> Result<String, String> {
    let words = |error: std::io::Error| error.to_string();
    let mut command = Command::new(std::env::current_exe().map_err(words)?);
    command
        .args(["truth", name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(words)?;
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let text = thread::spawn(move || read(stdout));
    let trouble = thread::spawn(move || read(stderr));
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().map_err(words)? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                // It may just have ended by itself.
                let _ = child.kill();
                break child.wait().map_err(words)?;
            }
            None => thread::sleep(Duration::from_millis(20)),
        }
    };
    let text = text.join().unwrap_or_default();
    let trouble = trouble.join().unwrap_or_default();
    if status.success() {
        Ok(text)
    } else {
        Err(format!("{status}: {trouble}{text}"))
    }
}

fn read(stream: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    // What came before an error is worth reading too.
    let _ = stream.map(|mut stream| stream.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}
