//! VMs of every user: listed, and spoken of by who is root.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use crate::common::host::Host;
use serde_json::Value;

#[test]
fn a_vm_is_found_wherever_its_user_has_it() {
    let host = Host::new();
    let words = ["--kernel", "echo", "-d", "--name", "somewhere"];
    let ran = host.mother.run(&words);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let all = host.call(&["ps", "--all-users", "--json"]);
    let all: Value = serde_json::from_str(&all.stdout).unwrap();
    let vms = host.mother.vms();
    let own = all
        .as_array()
        .unwrap()
        .iter()
        .find(|vm| vm["folder"] == vms.to_str().unwrap())
        .unwrap();
    assert_eq!(own["name"], "somewhere");
    let table = host.call(&["ps", "--all-users"]).stdout;
    let user = own["user"].as_str().unwrap();
    let is_it = |line: &str| {
        let mut words = line.split_whitespace();
        words.next() == Some(user) && words.next() == Some("somewhere")
    };
    assert!(table.lines().any(is_it), "{table}");
    // From another folder it is reached by its user.
    let elsewhere = Host::new();
    let inspect = elsewhere.call(&["--user", user, "inspect", "somewhere"]);
    assert_eq!(inspect.status, Some(0), "{}", inspect.stderr);
    let refused = elsewhere.call(&["run", "--user", user]);
    assert_eq!(refused.status, Some(2), "{}", refused.stderr);
    let unknown = elsewhere.call(&["stop", "x", "--user", "nobody-of-that-name"]);
    assert_eq!(unknown.status, Some(1), "{}", unknown.stderr);
    let killed = elsewhere.call(&["kill", "somewhere", "--user", user]);
    assert_eq!(killed.status, Some(0), "{}", killed.stderr);
}
