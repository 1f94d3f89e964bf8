//! System calls that the VM's process was refused: heard of here, where nobody who has taken it over can keep them from being told
//! ([`host::jail::Refusals`]).

use std::collections::HashSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use host::jail::{Next, Refusal, Refusals};

/// Calls and threads that are told, at most: a process that tries all there are is heard of often enough.
const TOLD_MAX: usize = 32;

/// How often numbers alone are told, at most.
const PAUSE: Duration = Duration::from_millis(200);

/// Brings what is refused, until the process is gone. Each call of a thread is told once, and all of them are counted.
/// They are given to `tell`, which says whether anybody wants more.
pub(super) fn hear(listener: OwnedFd, tell: impl Fn(u64, Option<String>) -> bool + Send + 'static) {
    let listen = move || {
        let refusals = Refusals::of(listener);
        let mut told = HashSet::new();
        let mut untold = 0;
        let mut last = Instant::now();
        loop {
            let patience = (untold > 0).then_some(PAUSE);
            let mut what = None;
            match refusals.next(patience) {
                Ok(Next::Refused(refusal)) => {
                    untold += 1;
                    if told.len() < TOLD_MAX && !told.contains(&refusal) {
                        what = Some(words(&refusal));
                        told.insert(refusal);
                    }
                }
                Ok(Next::Nothing) => {}
                Ok(Next::Over) => break,
                Err(error) => {
                    tracing::warn!("refused system calls are heard of no more: {error}");
                    break;
                }
            }
            if what.is_some() || last.elapsed() >= PAUSE {
                last = Instant::now();
                if !tell(untold, what) {
                    return;
                }
                untold = 0;
            }
        }
        if untold > 0 {
            tell(untold, None);
        }
    };
    // Without a thread the listener is closed, and what would be refused is not there.
    if let Err(error) = thread::Builder::new()
        .name("refusals".to_owned())
        .spawn(listen)
    {
        tracing::warn!("refused system calls are not heard of: {error}");
    }
}

/// The call and the thread by its name, which a process that was taken over may have changed: in plain letters.
fn words(refusal: &Refusal) -> String {
    let Refusal { thread, call } = refusal;
    let name = fs::read_to_string(format!("/proc/{thread}/comm")).unwrap_or_default();
    let is_plain = |letter: &char| letter.is_ascii_alphanumeric() || " :-".contains(*letter);
    let name: String = name.chars().filter(is_plain).collect();
    format!("{call}, which its thread \"{name}\" asked for")
}
