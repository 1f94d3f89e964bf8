//! VMs that are started again, renamed and changed, and what is shown of how they were started.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::TcpListener;

use crate::common::Ran;
use crate::common::host::Host;
use serde_json::{Value, json};

/// Standard output of a command that does what it should.
fn said(ran: &Ran) -> &str {
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    &ran.stdout
}

/// Starts the echoing guest, detached, as `web`.
fn start(host: &Host, words: &[&str]) {
    let ran = host
        .mother
        .run(&[&["--kernel", "echo", "-d", "--name", "web"], words].concat());
    assert_eq!(said(&ran), "web\n");
}

#[test]
fn an_ended_vm_is_started_again_as_it_was() {
    let host = Host::new();
    start(&host, &["--memory", "33M", "--label", "team=shop"]);
    let first = host.ps("web");
    assert_eq!(first["labels"], json!({"team": "shop"}));
    let refused = host.call(&["start", "web"]);
    assert_eq!(refused.status, Some(1));
    assert!(
        refused.stderr.contains("it runs\n  help: `mother restart`"),
        "{}",
        refused.stderr
    );
    said(&host.call(&["stop", "web"]));
    assert_eq!(said(&host.call(&["start", "web"])), "web\n");
    let again = host.ps("web");
    for field in [
        "state",
        "memory_given_bytes",
        "labels",
        "words",
        "folder",
        "asked",
        "detached",
    ] {
        assert_eq!(again[field], first[field], "{field}");
    }
    assert_ne!(again["pid"], first["pid"]);
    assert_eq!(said(&host.call(&["restart", "web"])), "web\n");
    let third = host.ps("web");
    assert_ne!(third["pid"], again["pid"]);
    assert_eq!(third["words"], first["words"]);
}

#[test]
fn a_start_that_fails_takes_nothing_along() {
    let host = Host::new();
    start(&host, &["--memory", "32M"]);
    said(&host.call(&["stop", "web"]));
    let kernel = host.folder().join("echo");
    let bytes = std::fs::read(&kernel).unwrap();
    std::fs::remove_file(&kernel).unwrap();
    let failed = host.call(&["start", "web"]);
    assert_eq!(failed.status, Some(1));
    assert!(
        failed.stderr.contains("kernel: cannot open"),
        "{}",
        failed.stderr
    );
    std::fs::write(&kernel, bytes).unwrap();
    assert_eq!(said(&host.call(&["start", "web"])), "web\n");
}

#[test]
fn names_and_what_is_asked_for_can_change() {
    let host = Host::new();
    start(&host, &["--memory", "33M"]);
    let updated = host.call(&[
        "update", "web", "--memory", "40M", "--cpus", "2", "--label", "a=1",
    ]);
    assert_eq!(said(&updated), "web\n");
    let later = "mother: when VM \"web\" is started the next time, with `mother restart web`: memory, cpus\n";
    assert_eq!(updated.stderr, later);
    let vm = host.ps("web");
    assert_eq!(
        (&vm["memory_given_bytes"], &vm["labels"]),
        (&json!(33 << 20), &json!({"a": "1"}))
    );
    let running = host.call(&["rename", "web", "db"]);
    assert_eq!(running.status, Some(1));
    said(&host.call(&["stop", "web"]));
    assert_eq!(said(&host.call(&["rename", "web", "db"])), "db\n");
    assert_eq!(said(&host.call(&["start", "db"])), "db\n");
    let vm = host.ps("db");
    assert_eq!(
        (&vm["memory_given_bytes"], &vm["vcpus"]),
        (&json!(40 << 20), &json!(2))
    );
    assert_eq!(vm["labels"], json!({"a": "1"}));
    let check = |words: &[&str], expected: &str| {
        let ran = host.call(&[&["update", "db"], words].concat());
        assert_eq!(
            (ran.status, ran.stdout.as_str()),
            (Some(2), ""),
            "{words:?}"
        );
        assert_eq!(
            ran.stderr,
            format!("error: cannot update VM \"db\"\n{expected}"),
            "{words:?}"
        );
    };
    check(
        &["--memory", "3M", "--cpus", "0"],
        "  memory: 3M is too little for a guest to start\n  help: give between 32M and 16G\n  cpus: a guest needs a \
         vCPU\n  help: write a number from 1 to 8\n",
    );
    check(
        &["--name", "x"],
        "  name: a name is not changed this way\n  help: write `mother rename`\n",
    );
    check(
        &[],
        "  OPTION: nothing is to change\n  help: give options of `mother run`, such as `--memory 2G`\n",
    );
}

#[test]
fn what_a_vm_was_started_with_is_shown() {
    let host = Host::new();
    std::fs::write(host.folder().join("data"), [0; 512]).unwrap();
    start(&host, &["--disk", "data,readonly", "--timeout", "5m"]);
    let shown = host.call(&["inspect", "web"]);
    let text = said(&shown);
    for line in [
        "network  none\n",
        "disk     data,readonly\n",
        "limit    time 5m\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let inspected = |name: &str| -> Value {
        let ran = host.call(&["inspect", "--json", name]);
        serde_json::from_str(said(&ran)).unwrap()
    };
    let value = inspected("web");
    assert_eq!(value["disks"], json!([{"path": "data", "readonly": true}]));
    assert_eq!(value["limits"]["timeout"], "5m");
    assert_eq!(value["ports"], json!([]));
    let words: Vec<String> = serde_json::from_value(value["words"].clone()).unwrap();
    assert!(words.contains(&"data,readonly".to_owned()), "{words:?}");
    said(&host.call(&["stop", "web"]));
    let ended = inspected("web");
    assert_eq!(ended["state"], "ended");
    assert_eq!(ended["disks"], value["disks"]);
    assert_eq!(ended["end"]["kind"], "powered-off");
}

#[test]
fn ports_that_lead_into_a_guest_are_listed() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let publish = format!("{free}:80");
    said(
        &host
            .mother
            .run(&["-d", "--name", "web", "--net", "user", "-p", &publish]),
    );
    let listed = host.call(&["ps"]);
    assert!(
        said(&listed).contains(&format!("{free}->80")),
        "{}",
        listed.stdout
    );
    assert_eq!(host.ps("web")["ports"], json!([format!("{free}:80")]));
    assert_eq!(host.ps("web")["network"], "user");
    let inspected = host.call(&["inspect", "web"]);
    assert!(said(&inspected).contains(&format!("network  user, ports {free}->80")));
    said(&host.call(&["kill", "web"]));
    assert!(
        said(&host.call(&["ps", "-a"]))
            .lines()
            .all(|line| !line.contains("->80"))
    );
}
