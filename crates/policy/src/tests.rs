//! Policies as people write them, tried on what was seen.

use api::VmName;
use insight::verdict::{Confidence, Row, Verdict};
use serde_json::{Value, json};

use crate::{Decision, Engine, HeldBack, PRESETS, Policy, PolicyError, Seen};

const SECOND: u64 = 1_000_000_000;
/// 2026-06-01.
const JUNE: u64 = 1_780_272_000 * SECOND;

fn vm() -> VmName {
    VmName::new("web").unwrap()
}

fn policy(rules: &str) -> Policy {
    Policy::read(&format!("version = 1\n{rules}")).unwrap()
}

/// What a policy comes to on events that come at these seconds.
fn decide(rules: &str, events: &[(u64, Value)]) -> Vec<Decision> {
    let mut engine = Engine::new(policy(rules));
    let decisions = events.iter().flat_map(|(second, event)| {
        engine.see(&vm(), JUNE + second * SECOND, &Seen::Recorded(event))
    });
    decisions.collect()
}

fn module(name: &str, pid: u64) -> Value {
    json!({ "event": "module", "at_ns": pid, "vcpu": pid, "module": name, "process": { "pid": pid } })
}

/// For each decision, what holds it back, or what is done.
fn words(decisions: &[Decision]) -> Vec<String> {
    let word = |decision: &Decision| match &decision.held_back {
        None => {
            let words: Vec<&str> = decision.then.iter().map(crate::Action::word).collect();
            words.join("+")
        }
        Some(HeldBack::Exception { .. }) => "exception".to_owned(),
        Some(HeldBack::SameCause) => "same".to_owned(),
        Some(HeldBack::CoolDown) => "cool-down".to_owned(),
        Some(HeldBack::Budget) => "budget".to_owned(),
        Some(HeldBack::DryRun) => "dry".to_owned(),
    };
    decisions.iter().map(word).collect()
}

const PAUSE: &str = "[[rule]]\nname = \"m\"\nevent = \"module\"\nthen = [\"note\", \"pause\"]\n";

#[test]
fn a_rule_acts_once_for_one_cause() {
    let events = [
        (0, module("a", 1)),
        (1, module("a", 1)),
        (2, module("b", 1)),
        (3, module("a", 2)),
        (4, json!({ "event": "exec", "process": { "pid": 1 } })),
    ];
    assert_eq!(
        words(&decide(PAUSE, &events)),
        ["note+pause", "same", "note+pause", "note+pause"]
    );
}

#[test]
fn actions_are_bounded_and_what_is_held_back_is_told() {
    let events: Vec<(u64, Value)> = (0..5).map(|n| (n * 10, module("a", n))).collect();
    let check = |more: &str, expected: [&str; 5]| {
        let rules = format!("{more}\n{PAUSE}");
        assert_eq!(words(&decide(&rules, &events)), expected, "{more}");
    };
    check(
        "budget = { actions = 2, per = \"25s\" }",
        [
            "note+pause",
            "note+pause",
            "budget",
            "note+pause",
            "note+pause",
        ],
    );
    check("dry-run = true", ["dry"; 5]);
    let cool = format!("{PAUSE}cool-down = \"15s\"\n");
    assert_eq!(
        words(&decide(&cool, &events)),
        [
            "note+pause",
            "cool-down",
            "note+pause",
            "cool-down",
            "note+pause"
        ]
    );
    // What is only noted takes nothing of the budget and is not held back by it.
    let note = "budget = { actions = 0, per = \"1h\" }\n[[rule]]\nname = \"m\"\nevent = \"module\"\nthen = [\"note\"]\n";
    assert_eq!(words(&decide(note, &events)), ["note"; 5]);
}

#[test]
fn exceptions_end_on_their_day() {
    let check = |until: &str, conditions: &str, vms: &str, expected: &str| {
        let rules = format!(
            "{PAUSE}[[except]]\nrule = \"m\"\n{vms}\n{conditions}\nuntil = \"{until}\"\nwhy = \"zfs\"\n"
        );
        let found = decide(&rules, &[(0, module("zfs", 1))]);
        assert_eq!(words(&found), [expected], "{until} {conditions} {vms}");
    };
    check("2026-06-01", "", "", "exception");
    check("2026-05-31", "", "", "note+pause");
    check("2026-12-31", "where = { module = \"z*\" }", "", "exception");
    check(
        "2026-12-31",
        "where = { module = \"y*\" }",
        "",
        "note+pause",
    );
    check("2026-12-31", "", "vms = [\"db-*\"]", "note+pause");
    check("2026-12-31", "", "vms = [\"w*\"]", "exception");
}

#[test]
fn so_many_in_so_long_are_too_many() {
    let rules = "[[rule]]\nname = \"m\"\nevent = \"module\"\ntimes = 3\nwithin = \"10s\"\nthen = [\"kill\"]\n";
    let check = |seconds: &[u64], expected: usize| {
        let events: Vec<(u64, Value)> = seconds.iter().map(|at| (*at, module("a", 1))).collect();
        assert_eq!(decide(rules, &events).len(), expected, "{seconds:?}");
    };
    check(&[0, 1], 0);
    check(&[0, 1, 2], 1);
    check(&[0, 1, 11], 0);
    check(&[0, 9, 10], 1);
    check(&[0, 1, 2, 3, 4], 1);
    check(&[0, 1, 2, 3, 4, 5], 2);
}

fn row(subject: &str, verdict: Verdict) -> Row {
    Row {
        subject: subject.to_owned(),
        claim: None,
        kernel: None,
        truth: None,
        verdict,
        rule: "rule".to_owned(),
        difference: None,
        confidence: Confidence::High,
        age_ms: 0,
        method: String::new(),
        readings: 3,
        meaning: String::new(),
    }
}

#[test]
fn a_verdict_has_to_hold_and_is_acted_on_each_time_that_it_begins_to() {
    let rules = "[[rule]]\nname = \"c\"\nverdict = \"contradicts\"\nwhere = { subject = \"!clock\" }\nfor = \"3s\"\nthen = [\"pause\"]\n";
    let mut engine = Engine::new(policy(rules));
    let mut see = |second: u64, rows: &[Row]| {
        let now = JUNE + second * SECOND;
        engine.see(&vm(), now, &Seen::Rows(rows)).len()
    };
    let bad = [
        row("tasks", Verdict::Contradicts),
        row("clock", Verdict::Contradicts),
        row("memory", Verdict::Differs),
    ];
    let good = [row("tasks", Verdict::Agrees)];
    assert_eq!(see(0, &bad), 0);
    assert_eq!(see(2, &bad), 0);
    assert_eq!(see(3, &bad), 1);
    assert_eq!(see(4, &bad), 0, "once");
    assert_eq!(see(5, &good), 0);
    assert_eq!(see(6, &bad), 0);
    assert_eq!(see(8, &good), 0);
    assert_eq!(see(9, &bad), 0, "it began anew");
    assert_eq!(see(12, &bad), 1);
}

#[test]
fn a_number_is_compared_by_its_labels() {
    let rules = "[[rule]]\nname = \"f\"\nfact = \"device_requests_total\"\nabove = 10\nwhere = { device = \"disk*\" }\nthen = [\"note\"]\n";
    let mut engine = Engine::new(policy(rules));
    let sample = |device: &str, value| api::Sample {
        labels: [("device".to_owned(), device.to_owned())].into(),
        value,
    };
    let metric = api::Metric {
        name: "mother_device_requests_total".to_owned(),
        kind: api::MetricKind::Counter,
        unit: api::MetricUnit::Count,
        help: String::new(),
        samples: vec![
            sample("disk0", 11.0),
            sample("disk1", 10.0),
            sample("net0", 99.0),
        ],
    };
    let found = engine.see(&vm(), JUNE, &Seen::Facts(&[metric]));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].evidence["labels"]["device"], "disk0");
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let check = |text: &str, expected: &[&str]| {
        let error = Policy::read(text).unwrap_err();
        let said = error.to_string();
        for words in expected {
            assert!(said.contains(words), "{said}");
        }
        if let PolicyError::Wrong(all) = error {
            assert_eq!(all.len(), expected.len(), "{all:?}");
        }
    };
    let rule = |rest: &str| format!("version = 1\n[[rule]]\nname = \"m\"\n{rest}\n");
    check("version = 2", &["version: 2 is not a version"]);
    check("version = 1\nrules = 3", &["unknown field `rules`"]);
    check("nonsense", &["line 1"]);
    check(
        &rule("event = \"modul\"\nthen = [\"note\"]"),
        &["rule \"m\": event: \"modul\" is none: exec, fork"],
    );
    check(
        &rule("then = [\"note\"]"),
        &["one of `event`, `verdict` and `fact`"],
    );
    check(
        &rule("event = \"exec\"\nfor = \"1s\"\nthen = []"),
        &["an event does not last", "says nothing to do"],
    );
    check(
        &rule("verdict = \"contradicts\"\ntimes = 3\nwithin = \"1m\"\nthen = [\"note\"]"),
        &["are not counted"],
    );
    check(
        &rule("event = \"exec\"\ntimes = 3\nthen = [\"note\"]"),
        &["belong together"],
    );
    check(
        &rule("event = \"exec\"\ncool-down = \"soon\"\nthen = [\"note\"]"),
        &["rule \"m\": cool-down: write seconds"],
    );
    check(&rule("event = \"exec\"\nthen = [\"pouse\"]"), &["pouse"]);
    check(
        &rule("event = \"exec\"\nthen = [{ run = [\"page\"] }]"),
        &["whole path"],
    );
    check(
        &rule("event = \"exec\"\nthen = [{ webhook = \"hooks.example/mother\" }]"),
        &["whole address"],
    );
    check(
        &rule("event = \"exec\"\nthen = [{ webhook = \"https://eve:secret@hooks.example/\" }]"),
        &["whole address"],
    );
    check(
        &rule("event = \"open\"\nwhere = { \"file.path\" = \"/etc/*\" }\nthen = [\"note\"]"),
        &["without * and ?"],
    );
    check(
        &format!(
            "{}[[except]]\nrule = \"n\"\nuntil = \"tomorrow\"\nwhy = \"\"\n",
            rule("event = \"exec\"\nthen = [\"note\"]")
        ),
        &[
            "no rule of this name",
            "until: write the last day",
            "why: says nothing",
        ],
    );
    check(
        &rule(
            "event = \"exec\"\nthen = [\"note\"]\n[[rule]]\nname = \"m\"\nevent = \"exit\"\nthen = [\"note\"]",
        ),
        &["another rule of this name"],
    );
}

#[test]
fn presets_are_policies() {
    for (name, text) in PRESETS {
        let policy = Policy::read(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let acts = policy
            .rules
            .iter()
            .any(|rule| rule.then.iter().any(crate::Action::counts));
        assert_eq!(acts, name != "observe", "{name}");
    }
}

/// Rows as `mother truth` names them.
#[test]
fn observe_notes_a_guest_that_cannot_be_seen_any_more() {
    let check = |rule: &str, expected: usize| {
        let mut engine = Engine::new(Policy::read(PRESETS[0].1).unwrap());
        let blind = Row {
            rule: rule.to_owned(),
            ..row("anything", Verdict::NotObservable)
        };
        let decided: usize = [0, 29, 30, 31]
            .map(|second| {
                let rows = std::slice::from_ref(&blind);
                let seen = engine.see(&vm(), JUNE + second * SECOND, &Seen::Rows(rows));
                seen.len()
            })
            .iter()
            .sum();
        assert_eq!(decided, expected, "{rule}");
    };
    for rule in [
        "kernel-identity",
        "text-changed",
        "table-changed",
        "hidden-task",
        "hidden-module",
    ] {
        check(rule, 1);
    }
    check("clock-drift", 0);
}

#[test]
fn a_guest_that_makes_causes_is_bounded_and_still_acted_on() {
    let mut engine = Engine::new(policy(
        "budget = { actions = 1000000, per = \"1h\" }\n[[rule]]\nname = \"m\"\nevent = \"module\"\nthen = [\"pause\"]\n",
    ));
    for n in 0..10_000 {
        let found = engine.see(&vm(), JUNE, &Seen::Recorded(&module("x", n)));
        assert_eq!(words(&found), ["pause"]);
    }
    let again = engine.see(&vm(), JUNE, &Seen::Recorded(&module("x", 9_999)));
    assert_eq!(words(&again), ["same"]);
}
