//! What commands print with `--json` has the shape of their schemas, also when they fail.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;

use crate::common::Ran;
use crate::common::host::Host;
use serde_json::Value;

use crate::schema::complaints;

/// The one answer of a command.
fn answer(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error} in {ran:?}"))
}

/// Holds what a command prints against `docs/schema/NAME.json`.
fn check(host: &Host, words: &[&str], status: i32, name: &str) -> Value {
    let ran = host.call(&[words, &["--json"]].concat());
    assert_eq!(ran.status, Some(status), "{words:?}: {ran:?}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../docs/schema/{name}.json"));
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let answer = answer(&ran);
    assert_eq!(
        complaints(&schema, &answer),
        [""; 0],
        "{words:?}, {name}: {answer:#}"
    );
    answer
}

#[test]
fn orders_lists_and_ends_have_the_shape_of_their_schemas() {
    let host = Host::new();
    host.start("web");
    check(&host, &["ps"], 0, "ps");
    check(&host, &["pause", "web"], 0, "done");
    check(&host, &["resume", "web"], 0, "done");
    check(&host, &["update", "web", "--label", "a=1"], 0, "done");
    check(&host, &["wait", "web", "--for", "running"], 0, "reached");
    check(&host, &["balloon", "web"], 0, "balloon");
    host.expect_log("web", "ready");
    let log = check(&host, &["logs", "web"], 0, "logs");
    assert!(log["console"].as_str().unwrap().contains("ready"), "{log}");
    let done = check(&host, &["kill", "web", "db"], 1, "done");
    assert_eq!(done[1]["error"]["exit_status"], 1);
    check(&host, &["wait", "web"], 137, "ended");
    check(&host, &["nmi", "web"], 1, "done");
    check(&host, &["ps", "-a"], 0, "ps");
    check(&host, &["inspect", "web"], 0, "inspect");
    check(&host, &["logs", "web"], 0, "logs");
    let renamed = check(&host, &["rename", "web", "old"], 0, "done");
    assert_eq!(renamed[0]["name"], "old");
    check(&host, &["rm", "old"], 0, "done");
    check(&host, &["images"], 0, "images");
    check(&host, &["images", "prune"], 0, "freed");
    check(&host, &["doctor"], 0, "doctor");
    check(&host, &["truth"], 0, "truths");
}

#[test]
fn a_detached_run_says_its_name_for_programs_too() {
    let host = Host::new();
    let ran = host.run(&["-d", "--name", "web", "--json"]);
    assert_eq!(answer(&ran)[0]["name"], "web");
    assert_eq!(answer(&ran)[0]["done"], true);
}

#[test]
fn every_command_fails_in_one_shape() {
    let host = Host::new();
    for words in [
        &["ps", "x"][..],
        &["truth", "x"],
        &["inspect", "x"],
        &["dmesg", "x"],
        &["dump", "x", "-o", "dump"],
        &["dump", "x", "-o", "-"],
        &["profile", "x", "--btf", "-o", "btf"],
        &["logs", "x"],
        &["balloon", "x"],
        &["wait", "x"],
        &["rename", "x", "y"],
        &["update", "x", "--label", "a=1"],
        &["images", "rm", "x"],
        &["run", "-d", "no-such-image"],
        &["ps", "not a name"],
        &["stop", "not a name"],
        &["update", "x"],
        // Not even understood.
        &["ps", "--frob"],
        &["frob"],
        &["stop"],
        &["limit", "x", "--resident"],
    ] {
        let ran = host.call(&[words, &["--json"]].concat());
        let status = ran.status.unwrap();
        assert!(status == 1 || status == 2, "{words:?}: {ran:?}");
        let failed = check(&host, words, status, "failed");
        assert_eq!(failed["error"]["exit_status"], status, "{words:?}");
        let message = failed["error"]["message"].as_str().unwrap();
        assert!(ran.stderr.contains(message), "{words:?}: {ran:?}");
    }
}

#[test]
fn words_behind_two_dashes_are_the_guests() {
    let host = Host::new();
    let ran = host.call(&["run", "--frob", "--", "--json"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(2), ""));
}

#[test]
fn what_is_read_of_a_guest_has_the_shape_of_its_schemas() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    let words = ["run", "-d", "--name", "web", "--memory", "256M"];
    assert_eq!(host.call(&words).status, Some(0));
    assert_eq!(
        host.call(&["wait", "web", "--for", "login"]).status,
        Some(0)
    );
    check(&host, &["ps", "web"], 0, "processes");
    check(&host, &["dmesg", "web"], 0, "dmesg");
    let inspected = check(&host, &["inspect", "web"], 0, "inspect");
    assert!(inspected["guest"]["processes"]["seen"]["value"].is_array());
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let dumped = check(&host, &["dump", "web", "-o", &file("core")], 0, "dump");
    assert_eq!(
        (&dumped["format"], &dumped["torn"]),
        (&"elf".into(), &false.into())
    );
    let words = ["profile", "web", "--isf", "-o", &file("isf")];
    let profile = check(&host, &words, 0, "profile");
    assert!(profile["typed_symbols"].as_u64() > Some(100), "{profile}");
    check(&host, &["truth", "web"], 0, "truth");
    check(&host, &["truth"], 0, "truths");
}
