//! What a guest does is told as it does it, and acted on by a policy.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(
    unreachable_pub,
    reason = "a test has no outside; `pub` marks what other modules use"
)]

#[path = "kernels/guest.rs"]
mod guest;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use api::VmState;
use guest::Guest;
use images::{Cache, DefaultGuest};
use serde_json::Value;

/// How long anything may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// The default guest's files, or a loud word that there are none.
fn files() -> Option<DefaultGuest> {
    let cache = Cache::of_user().ok()?;
    if cache.kernel_package().is_none() {
        let mut stderr = std::io::stderr();
        writeln!(
            stderr,
            "skipped: the default guest is not in the cache; `cargo xtask guest`"
        )
        .unwrap();
        return None;
    }
    Some(cache.default_guest(&mut |_| {}).unwrap())
}

/// A command that writes lines of JSON while the guest works. It is gone when this is dropped.
struct Lines {
    child: Child,
    lines: Receiver<Value>,
    seen: Vec<Value>,
}

impl Lines {
    fn of(guest: &Guest, words: &[&str]) -> Lines {
        let mut child = guest.start(words);
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Lines {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits for a line.
    fn wait_for(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if is_it(&line) {
                        return line;
                    }
                }
                Err(_) => {
                    let complaints = self.complaints();
                    panic!("{what} is not told: {:?} {complaints}", self.seen);
                }
            }
        }
    }

    /// What it says on standard error.
    fn complaints(&mut self) -> String {
        let _ = self.child.kill();
        let mut text = String::new();
        let stderr = self.child.stderr.take();
        stderr.map(|mut stderr| stderr.read_to_string(&mut text));
        text
    }

    fn events(&self, kind: &str) -> impl Iterator<Item = &Value> {
        let kind = kind.to_owned();
        self.seen.iter().filter(move |line| line["event"] == *kind)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn trace(guest: &Guest, words: &[&str]) -> Lines {
    let words: Vec<&str> = ["trace", "--json", "seen"]
        .iter()
        .chain(words)
        .copied()
        .collect();
    let mut lines = Lines::of(guest, &words);
    let begins = lines.wait_for("the beginning", |line| line["event"] == "begins");
    for kind in begins["kinds"].as_array().unwrap() {
        assert_eq!(kind["reach"], "exact", "{begins}");
    }
    lines
}

/// Two shells at once on two vCPUs, each with programs of its own: every one is told once, with its arguments and its end.
#[test]
fn every_program_is_told_once_with_its_end() {
    let Some(files) = files() else { return };
    let mut guest = Guest::boot(&files, &["--memory", "256M", "--cpus", "2"]);
    let mut lines = trace(&guest, &["--events", "exec,exit,fork"]);
    let said = guest.ask(
        "for n in 1 2; do (i=0; while [ $i -lt 150 ]; do sh -c \"echo own \\$\\$; exit $n\"; i=$((i+1)); done) & \
         p=\"$p $!\"; done; wait $p; sh -c 'exit 99'",
    );
    lines.wait_for("the last program", |line| line["status"] == 99);
    let mut pids: Vec<i64> = said
        .lines()
        .filter_map(|line| line.strip_prefix("own ")?.parse().ok())
        .collect();
    pids.sort_unstable();
    assert_eq!(pids.len(), 300, "{said}");
    assert_eq!(lines.events("lost").count(), 0);
    let of = |kind: &str, is_it: &dyn Fn(&Value) -> bool, pid: &str| -> Vec<i64> {
        let found = lines.events(kind).filter(|line| is_it(line));
        let mut pids: Vec<i64> = found
            .map(|line| line.pointer(pid).unwrap().as_i64().unwrap())
            .collect();
        pids.sort_unstable();
        pids
    };
    let is_own = |line: &Value| {
        line["arguments"][2]
            .as_str()
            .is_some_and(|word| word.starts_with("echo own"))
    };
    assert_eq!(of("exec", &is_own, "/process/pid"), pids);
    let is_end = |line: &Value| line["status"] == 1 || line["status"] == 2;
    assert_eq!(of("exit", &is_end, "/process/pid"), pids);
    let forks = of("fork", &|_| true, "/child_pid");
    assert!(pids.iter().all(|pid| forks.binary_search(pid).is_ok()));
    let parent = |line: &Value| {
        line["process"]["ancestors"]
            .as_array()
            .is_some_and(|all| !all.is_empty())
    };
    assert!(lines.events("exec").all(parent));
    // Nothing of it stays: the guest runs as it did, and so does the next who wants to hear.
    drop(lines);
    let mut again = trace(&guest, &["--events", "exit"]);
    guest.ask("sh -c 'exit 98'");
    again.wait_for("another program", |line| line["status"] == 98);
}

/// A guest that starts again is traced in its next life.
#[test]
fn a_trace_goes_on_after_a_reset() {
    let Some(files) = files() else { return };
    let mut guest = Guest::boot(&files, &["--memory", "256M"]);
    let mut lines = trace(&guest, &["--events", "exec,log"]);
    guest.ask("echo before > /dev/kmsg");
    lines.wait_for("a line of the log", |line| line["text"] == "before");
    for life in 1..=3 {
        guest.send("reboot -f");
        guest.expect("mother: /init started");
        let begins = lines.wait_for("the next life", |line| line["event"] == "begins");
        assert_eq!(begins["life"], life);
    }
    guest.ask("sh -c 'echo hello' unusual");
    lines.wait_for("a program", |line| line["arguments"][3] == "unusual");
}

/// Opens of a file by name are told of that file, and of no other of its name.
#[test]
fn files_are_watched_by_their_paths() {
    let Some(files) = files() else { return };
    let mut guest = Guest::boot(&files, &["--memory", "256M"]);
    let mut lines = trace(&guest, &["--events", "exit", "--file", "/a/b/secret"]);
    guest.ask(
        "mkdir -p /a/b /c; echo x > /c/secret; cat /c/secret; echo x > /a/b/secret; mkdir /bind; \
         mount --bind /a/b /bind; cat /a/b/secret; cat /bind/secret; sh -c 'exit 97'",
    );
    lines.wait_for("the end", |line| line["status"] == 97);
    let opened: Vec<(&str, &str)> = lines
        .events("open")
        .map(|line| {
            (
                line["file"]["path"].as_str().unwrap(),
                line["access"].as_str().unwrap(),
            )
        })
        .collect();
    // By another way it has another name, as `/proc/self/fd` would show it.
    assert_eq!(opened, [("/a/b/secret", "write"), ("/a/b/secret", "read")]);
}

/// Without a word of the engine: what is there now and was not before, and what it does not tell is said.
#[test]
fn what_stays_is_told_also_by_looking() {
    let Some(files) = files() else { return };
    let mut guest = Guest::boot(&files, &["--memory", "256M"]);
    guest.ask("rmmod button");
    let words = [
        "trace",
        "--json",
        "--sample",
        "seen",
        "--events",
        "exec,exit,module,log,connect",
    ];
    let mut lines = Lines::of(&guest, &words);
    let begins = lines.wait_for("the beginning", |line| line["event"] == "begins");
    let reach = |kind: &str| {
        let kinds = begins["kinds"].as_array().unwrap();
        let found = kinds.iter().find(|line| line["kind"] == kind);
        found.unwrap()["reach"].clone()
    };
    assert_eq!(reach("exec"), "sampled");
    assert_eq!(reach("connect"), "not-observable");
    guest.ask("sleep 3 & insmod /modules/button.ko; echo a word > /dev/kmsg");
    let sleeps = serde_json::json!(["sleep", "3"]);
    lines.wait_for("the program", |line| line["arguments"] == sleeps);
    lines.wait_for("its end", |line| {
        line["event"] == "exit" && line["process"]["name"] == "sleep"
    });
    let all =
        |kind: &str, key: &str, value: &str| lines.events(kind).any(|line| line[key] == value);
    assert!(all("module", "module", "button"), "{:?}", lines.seen);
    assert!(all("log", "text", "a word"), "{:?}", lines.seen);
}

const POLICY: &str = r#"
version = 1
[[rule]]
name = "button"
event = "module"
where = { module = "button" }
then = ["note", "pause"]
[[rule]]
name = "clock"
event = "exec"
where = { arguments = "sleep" }
times = 3
within = "60s"
then = ["note", { run = ["/bin/sh", "-c", "cat >> $XDG_STATE_HOME/heard"] }]
"#;

fn watch(guest: &Guest, policy: &Path, words: &[&str]) -> Lines {
    let policy = policy.to_str().unwrap();
    let all: Vec<&str> = ["watch", "--json", "--policy", policy, "seen"]
        .iter()
        .chain(words)
        .copied()
        .collect();
    Lines::of(guest, &all)
}

fn state(guest: &Guest) -> VmState {
    guest.client().status().unwrap().state
}

/// The module is in place and has not run yet when the guest stands still; each decision is in the journal before what came of
/// it.
#[test]
fn a_policy_pauses_a_guest_that_loads_a_module_and_runs_a_program_of_the_owners() {
    let Some(files) = files() else { return };
    let mut guest = Guest::boot(&files, &["--memory", "256M"]);
    guest.ask("rmmod button");
    let policy = guest.state().join("policy.toml");
    fs::write(&policy, POLICY).unwrap();
    let mut dry = watch(&guest, &policy, &["--dry-run", "--journal", "/dev/null"]);
    let mut lines = watch(&guest, &policy, &[]);
    // Until both hear: a rule that needs three of something is asked again and again.
    let deadline = Instant::now() + PATIENCE;
    let mut heard = BTreeMap::new();
    while heard.len() < 2 && Instant::now() < deadline {
        guest.ask("sleep 0.01; sleep 0.01; sleep 0.01");
        for (name, lines) in [("dry", &mut dry), ("wet", &mut lines)] {
            while let Ok(line) = lines.lines.recv_timeout(Duration::from_millis(100)) {
                if line["decision"]["rule"] == "clock" {
                    heard.insert(name, line["decision"].clone());
                }
            }
        }
    }
    assert_eq!(
        heard.len(),
        2,
        "{heard:?} {} {}",
        dry.complaints(),
        lines.complaints()
    );
    assert_eq!(heard["dry"]["held_back"], "dry-run");
    assert_eq!(heard["wet"]["then"][0], "note");
    guest.send("insmod /modules/button.ko");
    let decision = lines.wait_for("the module", |line| line["decision"]["rule"] == "button");
    assert_eq!(
        decision["decision"]["evidence"]["process"]["name"],
        "insmod"
    );
    let outcome = lines.wait_for("the pause", |line| line["outcome"]["rule"] == "button");
    assert_eq!(
        (&outcome["outcome"]["action"], &outcome["outcome"]["done"]),
        (&"pause".into(), &true.into())
    );
    assert_eq!(state(&guest), VmState::Paused);
    let journal = fs::read_to_string(guest.state().join("mother/decisions.jsonl")).unwrap();
    let journal: Vec<Value> = journal
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let at = |key: &str| {
        journal
            .iter()
            .position(|line| line[key]["rule"] == "button")
            .unwrap()
    };
    assert!(at("decision") < at("outcome"));
    let run = fs::read_to_string(guest.state().join("heard")).unwrap();
    let first: Value = serde_json::from_str(run.lines().next().unwrap()).unwrap();
    assert_eq!(first["rule"], "clock");
}

const CUT: &str = r#"
version = 1
[[rule]]
name = "listens"
event = "bind"
where = { "address.port" = 99 }
then = ["cut-network", "snapshot"]
"#;

/// Waits until the guest's card sees a link, or none.
fn wait_for_carrier(guest: &mut Guest, expected: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let carrier = guest.ask("cat /sys/class/net/eth0/carrier");
        if carrier.trim() == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{carrier} and not {expected}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// The guest sees its card lose the link, and have it again when its owner says so; there is a snapshot of it.
#[test]
fn a_policy_pulls_a_guests_cable_and_keeps_it_as_it_was_and_its_owner_plugs_it_in() {
    let Some(files) = files() else { return };
    let mut guest = Guest::boot(&files, &["--memory", "256M", "--net", "user"]);
    guest.ask("for module in virtio_pci virtio_net; do modprobe $module; insmod /modules/$module.ko; done 2>/dev/null; ifconfig eth0 up");
    wait_for_carrier(&mut guest, "1");
    let policy = guest.state().join("policy.toml");
    fs::write(&policy, CUT).unwrap();
    let mut lines = watch(&guest, &policy, &[]);
    let deadline = Instant::now() + PATIENCE;
    let outcome = loop {
        guest.ask("nc -l -p 99 -w 1 </dev/null >/dev/null 2>&1");
        let found = lines
            .lines
            .try_iter()
            .find(|line| line["outcome"]["action"] == "cut-network");
        match found {
            Some(outcome) => break outcome,
            None => assert!(Instant::now() < deadline, "{}", lines.complaints()),
        }
    };
    assert_eq!(outcome["outcome"]["done"], true, "{outcome}");
    let outcome = lines.wait_for("the snapshot", |line| {
        line["outcome"]["action"] == "snapshot"
    });
    assert_eq!(outcome["outcome"]["done"], true, "{outcome}");
    let kept = guest.mother(&["snapshots", "-q"]);
    assert!(kept.starts_with("seen-"), "{kept}");
    wait_for_carrier(&mut guest, "0");
    assert_eq!(guest.mother(&["link", "up", "seen"]), "seen\n");
    wait_for_carrier(&mut guest, "1");
    let mut lonely = Guest::boot(&files, &["--memory", "256M"]);
    lonely.ask("true");
    let said = lonely.mother(&["link", "down", "seen"]);
    assert!(said.contains("the guest has no network"), "{said}");
}

/// What is typed, the exit status, and what is said.
#[test]
fn policies_are_looked_at_before_they_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("right.toml"), POLICY).unwrap();
    fs::write(
        folder.path().join("wrong.toml"),
        POLICY.replace("module\"", "modul\""),
    )
    .unwrap();
    fs::write(folder.path().join("list.toml"), "version = 1\nrules = []\n").unwrap();
    let module = |at: u64, name: &str| {
        format!("{{\"name\":\"web\",\"at_ns\":{at},\"event\":\"module\",\"module\":\"{name}\"}}\n")
    };
    let begins = "{\"name\":\"web\",\"event\":\"begins\",\"life\":0,\"kinds\":[]}\n";
    let record = [
        begins,
        &module(1, "button"),
        &module(2, "other"),
        &module(3, "button"),
    ]
    .concat();
    fs::write(folder.path().join("record"), record).unwrap();
    fs::write(
        folder.path().join("cut"),
        format!("{}{{\"name\":", module(1, "button")),
    )
    .unwrap();
    let check = |words: &[&str], status: i32, expected: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_mother"))
            .args(words)
            .current_dir(folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(status), "{words:?}: {said}");
        for part in expected {
            assert!(said.contains(part), "{words:?}: {said}");
        }
    };
    check(
        &["policy", "check", "right.toml"],
        0,
        &["2 rules, 0 exceptions; events: exec, module"],
    );
    check(&["policy", "check", "locked"], 0, &["7 rules"]);
    check(
        &["policy", "check", "wrong.toml"],
        2,
        &[
            "rule \"button\": event: \"modul\" is none: exec, fork, exit",
            "docs/policies.md",
        ],
    );
    check(
        &["policy", "check", "list.toml"],
        2,
        &["unknown field `rules`"],
    );
    check(
        &["policy", "check", "none.toml"],
        2,
        &["cannot read none.toml", "presets: observe"],
    );
    check(
        &["policy", "show", "guarded"],
        0,
        &["version = 1", "contradiction"],
    );
    check(
        &["policy", "test", "right.toml", "--events", "record"],
        0,
        &["web button: module -> note, pause", "acted on already"],
    );
    check(
        &["policy", "test", "right.toml", "--events", "cut"],
        2,
        &["line 2 of cut is no event"],
    );
    check(&["watch", "--policy", "wrong.toml"], 2, &["is none"]);
    // What a pipe says it says once.
    let pipe = folder.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let wrong = fs::read(folder.path().join("wrong.toml")).unwrap();
    let writer = std::thread::spawn(move || fs::write(pipe, wrong));
    check(&["watch", "--policy", "pipe"], 2, &["is none"]);
    writer.join().unwrap().unwrap();
    let pipe = folder.path().join("pipe");
    let writer = std::thread::spawn(move || fs::write(pipe, POLICY));
    let words = [
        "watch",
        "--policy",
        "pipe",
        "--journal",
        "list.toml/no",
        "none",
    ];
    check(&words, 1, &["list.toml/no"]);
    writer.join().unwrap().unwrap();
}

/// Numbers, not a test: `cargo xtask bench trace`. CPU time of the VM's process for programs that are started one after the
/// other, with and without somebody who hears of each, by turns.
#[test]
#[ignore = "a benchmark"]
fn what_hearing_of_every_program_costs() {
    /// Programs of one turn, and turns of each kind.
    const PROGRAMS: usize = 1500;
    const TURNS: usize = 7;
    let Some(files) = files() else { return };
    let mut guest = Guest::boot(&files, &["--memory", "256M"]);
    let mut run = |heard: bool| {
        let mut lines = heard.then(|| trace(&guest, &["--events", "exec,exit,credentials,module"]));
        let before = guest.client().status().unwrap().cpu_seconds;
        guest.ask(&format!(
            "i=0; while [ $i -lt {PROGRAMS} ]; do sh -c 'exit 7'; i=$((i+1)); done"
        ));
        let seconds = guest.client().status().unwrap().cpu_seconds - before;
        if let Some(lines) = &mut lines {
            guest.ask("sh -c 'exit 96'");
            lines.wait_for("the last program", |line| line["status"] == 96);
            assert_eq!(lines.events("exec").count(), PROGRAMS + 1);
        }
        seconds
    };
    run(false);
    run(true);
    let turns: Vec<(f64, f64)> = (0..TURNS).map(|_| (run(false), run(true))).collect();
    let mut ratios: Vec<f64> = turns.iter().map(|(without, with)| with / without).collect();
    ratios.sort_by(f64::total_cmp);
    let mut without: Vec<f64> = turns.iter().map(|turn| turn.0).collect();
    without.sort_by(f64::total_cmp);
    let text = format!(
        "{PROGRAMS} programs: {:.3} s of CPU time without, {:.3} times as much with; all: {ratios:.3?}\n",
        without[TURNS / 2],
        ratios[TURNS / 2]
    );
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

/// Numbers, not a test: `cargo xtask bench trace`. From an event in the guest to the guest standing still by a policy.
#[test]
#[ignore = "a benchmark"]
fn how_fast_a_policy_acts() {
    const TURNS: usize = 25;
    let Some(files) = files() else { return };
    let mut guest = Guest::boot(&files, &["--memory", "256M"]);
    let policy = guest.state().join("policy.toml");
    let text = "version = 1\nbudget = { actions = 1000, per = \"1h\" }\n[[rule]]\nname = \"m\"\nevent = \"module\"\nthen = [\"pause\"]\n";
    fs::write(&policy, text).unwrap();
    let mut lines = watch(&guest, &policy, &[]);
    let mut times = Vec::new();
    // The first may come before anybody hears.
    thread::sleep(Duration::from_secs(5));
    for _ in 0..TURNS {
        guest.send("rmmod button; insmod /modules/button.ko");
        let decision = lines.wait_for("the module", |line| line["decision"]["rule"] == "m");
        let outcome = lines.wait_for("the pause", |line| line["outcome"]["rule"] == "m");
        let event = decision["decision"]["evidence"]["at_ns"].as_u64().unwrap();
        let done = outcome["outcome"]["at_ns"].as_u64().unwrap();
        times.push((done - event) as f64 / 1e6);
        guest.client().order(api::Command::Resume).unwrap();
    }
    times.sort_by(f64::total_cmp);
    let text = format!(
        "from a module to a paused guest: {:.1} ms (median of {TURNS}), {:.1} ms at most\n",
        times[TURNS / 2],
        times[TURNS - 1]
    );
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}
