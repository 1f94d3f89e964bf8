//! A program that runs inside the demo guest: what busybox has no applet for.
//!
//! It needs nothing but the kernel (the `images` crate links it statically into the initrd) and checks itself: each
//! task has one right answer, known beforehand, that does not depend on the machine or on timing. The same program
//! runs on any Linux host, which is how its answers were first established.
#![forbid(unsafe_code)]

use std::process::{Child, Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;

const USAGE: &str = "usage: visitor threads | storm | leave CODE";

pub(crate) fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["threads"] => println!("{}", threads()),
        ["storm"] => match storm() {
            Ok(line) => println!("{line}"),
            Err(error) => {
                eprintln!("visitor: cannot start a child: {error}");
                return ExitCode::FAILURE;
            }
        },
        ["leave", code] => return code.parse::<u8>().map_or(ExitCode::FAILURE, ExitCode::from),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

const THREADS: u64 = 8;
const ROUNDS: u64 = 20_000;

/// Threads that share an atomic, a lock and a channel, and meet at a barrier.
fn threads() -> String {
    let atomic = Arc::new(AtomicU64::new(0));
    let locked = Arc::new(Mutex::new(0_u64));
    let barrier = Arc::new(Barrier::new(THREADS as usize));
    let (sender, receiver) = mpsc::channel();
    let workers = (0..THREADS).map(|id| {
        let atomic = Arc::clone(&atomic);
        let locked = Arc::clone(&locked);
        let barrier = Arc::clone(&barrier);
        let sender = sender.clone();
        thread::spawn(move || {
            barrier.wait();
            for round in 0..ROUNDS {
                atomic.fetch_add(round ^ id, Ordering::Relaxed);
                *locked.lock().expect("no worker panics") += 1;
            }
            sender
                .send(id)
                .expect("the receiver lives until all have sent");
        })
    });
    let workers: Vec<_> = workers.collect();
    for worker in workers {
        worker.join().expect("no worker panics");
    }
    drop(sender);
    let ids: u64 = receiver.iter().sum();
    let locked = *locked.lock().expect("no worker panicked");
    format!(
        "{THREADS} threads, sum {}, locked {locked}, ids {ids}",
        atomic.load(Ordering::Relaxed)
    )
}

const CHILDREN: u32 = 240;
const CHILDREN_AT_ONCE: usize = 12;

/// Many short processes, several at a time, each of which must come back with its own exit code.
fn storm() -> std::io::Result<String> {
    let me = std::env::current_exe()?;
    let numbers: Vec<u32> = (0..CHILDREN).collect();
    let mut sum = 0;
    for batch in numbers.chunks(CHILDREN_AT_ONCE) {
        let start = |number: &u32| {
            Command::new(&me)
                .arg("leave")
                .arg((number % 251).to_string())
                .spawn()
        };
        let children: Vec<Child> = batch.iter().map(start).collect::<Result<_, _>>()?;
        for mut child in children {
            sum += child.wait()?.code().unwrap_or(1000);
        }
    }
    Ok(format!("{CHILDREN} processes, codes {sum}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_come_to_the_answer_that_the_demo_expects() {
        // Each of 8 threads adds `round ^ id` for 20,000 rounds; 20,000 is a multiple of 8, so XOR with an id below
        // 8 only permutes the rounds, and every thread adds 0 + 1 + .. + 19,999.
        let sum: u64 = THREADS * (0..ROUNDS).sum::<u64>();
        assert_eq!(sum, 1_599_920_000);
        assert_eq!(
            threads(),
            "8 threads, sum 1599920000, locked 160000, ids 28"
        );
    }
}
