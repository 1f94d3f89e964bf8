//! A Debian guest at real work, watched once a second as a person would watch it: nothing that is said of it may be an
//! alarm, and the policy `guarded` acts on nothing.
//!
//! `cargo xtask honest --minutes N`. The guest gets a compiler from Debian's mirrors over the user network.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use common::Mother;
use common::host::Host;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// What the guest does.
const WORK: &str = include_str!("honest/work.sh");
const BPF: &str = include_str!("honest/bpf.c");
/// How long it may take until it works: packages are fetched and unpacked on the software CPU.
const PREPARATION: Duration = Duration::from_secs(900);
/// Kinds of work.
const KINDS: [&str; 7] = [
    "packages",
    "compiler",
    "modules",
    "./bpf",
    "tracing",
    "containers",
    "services",
];

fn say(text: &str) {
    // Written, not printed: the test harness would keep what is printed to itself.
    let mut stderr = std::io::stderr();
    writeln!(stderr, "{text}").unwrap();
}

/// A child with its lines; it is gone when this is dropped.
struct Lines {
    child: Child,
    lines: Receiver<String>,
}

impl Lines {
    /// `mother` with these words, for as long as it takes.
    fn of(mother: &Mother, words: &[&str], input: &str) -> Lines {
        let mut command = mother.command_for_long(env!("CARGO_BIN_EXE_mother"));
        command
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let output = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            stdin.write_all(input.as_bytes()).unwrap();
            // The end of its input would be the end of the guest.
            thread::sleep(Duration::from_secs(24 * 3600));
        });
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line.trim_end().to_owned()).is_err() {
                    return;
                }
            }
        });
        Lines { child, lines }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // timeout(1) passes this one on.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

/// What was seen of a guest.
#[derive(Default)]
struct Watched {
    readings: u64,
    alarms: Vec<String>,
    /// Rows that may have been skew, by rule.
    differs: BTreeMap<String, u64>,
    unseen: BTreeSet<String>,
    patched: u64,
}

impl Watched {
    fn take(&mut self, line: &str) {
        let reading: Value = serde_json::from_str(line).unwrap();
        self.readings += 1;
        for row in reading["rows"].as_array().unwrap() {
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            match text("verdict").as_str() {
                "contradicts" => {
                    say(&format!("ALARM {row}"));
                    self.alarms.push(row.to_string());
                }
                "differs" => *self.differs.entry(text("rule")).or_default() += 1,
                "not-observable" => {
                    self.unseen
                        .insert(format!("{}: {}", text("rule"), text("meaning")));
                }
                _ => {}
            }
            self.patched += u64::from(text("truth").contains("patched legally"));
        }
    }
}

/// What a policy decided.
#[derive(Default)]
struct Followed {
    /// Decisions that are only noted, by rule.
    noted: BTreeMap<String, u64>,
    acted: Vec<String>,
}

impl Followed {
    fn take(&mut self, line: &str) {
        let line: Value = serde_json::from_str(line).unwrap();
        let decision = &line["decision"];
        let Some(rule) = decision["rule"].as_str() else {
            return;
        };
        let then = decision["then"].as_array().unwrap();
        if then.iter().any(|action| action != "note") {
            say(&format!("ACTED {decision}"));
            self.acted.push(decision.to_string());
        } else {
            *self.noted.entry(rule.to_owned()).or_default() += 1;
        }
    }
}

/// User and system time of a process so far (proc_pid_stat(5)), in seconds.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat
        .rsplit_once(") ")
        .map(|(_, rest)| rest)
        .unwrap_or_default();
    let ticks = rest
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|word| word.parse::<f64>().ok())
        .sum::<f64>();
    ticks / 100.0
}

/// `MOTHER_HONEST_SECONDS` says for how long.
#[test]
#[ignore = "takes as long as one asks, and packages from a mirror"]
fn debian_at_work_raises_no_alarm() {
    let seconds = std::env::var("MOTHER_HONEST_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(300);
    let Some(host) = Host::with_guest() else {
        return;
    };
    let input = format!(
        "cat >/root/bpf.c <<'END'\n{BPF}END\ncat >/root/work <<'END'\n{WORK}END\nbash /root/work\n"
    );
    let timeout = format!("{}s", PREPARATION.as_secs() + seconds + 300);
    let words = [
        "run",
        "debian:12",
        "--net",
        "user",
        "--name",
        "work",
        "--cpus",
        "2",
        "--timeout",
        &timeout,
    ];
    let guest = Lines::of(&host.mother, &words, &input);
    let begin = Instant::now();
    loop {
        let line = guest
            .lines
            .recv_timeout(PREPARATION.saturating_sub(begin.elapsed()));
        let line = line.expect("the guest is not ready for work in time");
        say(&line);
        assert!(!line.contains("cannot prepare: "), "the guest cannot work");
        if line == "work begins" {
            break;
        }
    }
    say(&format!(
        "ready after {:.0} s",
        begin.elapsed().as_secs_f64()
    ));
    let watcher = Lines::of(&host.mother, &["truth", "--watch", "--json", "work"], "");
    let policy = [
        "watch",
        "--json",
        "--policy",
        "guarded",
        "--journal",
        "/dev/null",
        "work",
    ];
    let follower = Lines::of(&host.mother, &policy, "");
    let mut followed = Followed::default();
    let start = Instant::now();
    let mut watched = Watched::default();
    let mut done: BTreeMap<String, u64> = BTreeMap::new();
    while start.elapsed() < Duration::from_secs(seconds) {
        if let Ok(line) = watcher.lines.recv_timeout(Duration::from_secs(1)) {
            watched.take(&line);
        }
        for line in follower.lines.try_iter() {
            followed.take(&line);
        }
        for line in guest.lines.try_iter() {
            say(&line);
            if let Some(work) = line.strip_prefix("did ") {
                *done
                    .entry(work.split(' ').next().unwrap().to_owned())
                    .or_default() += 1;
            }
        }
    }
    let cost = cpu_seconds(mother_of(watcher.child.id())) / start.elapsed().as_secs_f64();
    say(&format!(
        "{} readings in {seconds} s, {} alarms, {} with code patched legally, done {done:?}, differs {:?}, not \
         observable {:?}, watching took {:.2} % of a core",
        watched.readings,
        watched.alarms.len(),
        watched.patched,
        watched.differs,
        watched.unseen,
        100.0 * cost
    ));
    say(&format!(
        "the policy `guarded` acted {} times and noted {:?}",
        followed.acted.len(),
        followed.noted
    ));
    assert!(
        followed.acted.is_empty(),
        "honest work was acted on: {}",
        followed.acted.join("\n")
    );
    assert!(
        followed.noted.contains_key("module"),
        "no module that was loaded was told"
    );
    for kind in KINDS {
        assert!(done.contains_key(kind), "no {kind} was done");
    }
    assert!(
        watched.readings * 10 >= seconds * 8,
        "{} readings in {seconds} s",
        watched.readings
    );
    assert!(watched.patched > 0, "the kernel never rewrote itself");
    assert!(
        watched.alarms.is_empty(),
        "false alarms: {}",
        watched.alarms.join("\n")
    );
}

/// The command itself below timeout(1).
fn mother_of(timeout: u32) -> u32 {
    let children =
        fs::read_to_string(format!("/proc/{timeout}/task/{timeout}/children")).unwrap_or_default();
    children
        .split_whitespace()
        .next()
        .and_then(|pid| pid.parse().ok())
        .unwrap_or(timeout)
}
