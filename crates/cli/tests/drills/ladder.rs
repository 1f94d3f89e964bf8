//! What an observer has left where the host, or the sandbox of a service, gives less.

use std::io::{BufRead, BufReader};
use std::path::Path;

use super::observer::looks_by;
use super::*;

/// Puts a filter of system calls before a command, as a service's sandbox does.
const SANDBOX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts/sandbox.py");

#[test]
fn an_observer_in_a_services_sandbox_has_what_that_leaves_and_says_so() {
    let host = Host::new();
    if host.mother.shell("python3 -c 1").status != Some(0) {
        eprintln!(
            "SKIPPED: there is no python3, by which calls are refused as a service's sandbox does"
        );
        return;
    }
    vm(&host, "web", "auto");
    let free = vm(&host, "free", "off");
    let sibling = vm(&host, "sibling", "auto");
    let has_landlock = host.ps("web")["jail"]["landlock_abi"].as_u64() > Some(0);
    let with_landlock = if has_landlock { "landlock" } else { "seccomp" };
    let mut in_free = puppet(free, "control");
    for drill in DRILLS {
        let unconfined = perform(&mut in_free, drill, sibling);
        assert!(unconfined.succeeded(), "{}: {unconfined:?}", drill.what);
    }
    let check = |refused: &str, tier: &str| {
        let mut command = host.mother.command("python3");
        command.args([SANDBOX, refused]).arg(host.mother.program());
        command.env("MOTHER_LOG", "info");
        let (mut mother, observer) = looks_by(command, "web");
        let mut stderr = BufReader::new(mother.stderr.take().unwrap()).lines();
        let said = stderr.find(|line| line.as_ref().is_ok_and(|line| line.contains("of the tier")));
        let said = said.expect("it says so").unwrap();
        assert!(
            said.contains(&format!("of the tier {tier}:")),
            "{refused}: {said}"
        );
        if tier != "none" {
            let mut in_jail = Puppet::of(observer, observer).unwrap();
            is_held(&mut in_jail, DRILLS, sibling);
        }
        kill_process(
            Pid::from_raw(descendant_of_program(mother.id())).unwrap(),
            Signal::KILL,
        )
        .unwrap();
        mother.wait().unwrap();
        is_gone_soon(observer);
    };
    check("namespaces", with_landlock);
    check("namespaces,landlock", "seccomp");
    // As in the set @system-service of Debian 12's systemd 252, which a unit has to add to.
    check("namespaces,landlock,seccomp", "none");
    host.call(&["kill", "web", "free", "sibling"]);
}

#[test]
fn a_packaged_units_sandbox_leaves_a_jail_the_calls_that_put_it_up() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/systemd");
    let mut seen = 0;
    for unit in [
        "mother.service",
        "user/mother.service",
        "mother-vm@.service",
    ] {
        let text = fs::read_to_string(folder.join(unit)).unwrap();
        let first = text
            .lines()
            .find_map(|line| line.strip_prefix("SystemCallFilter="));
        let Some(allowed) = first else {
            continue;
        };
        seen += 1;
        for call in [
            "seccomp",
            "landlock_create_ruleset",
            "landlock_add_rule",
            "landlock_restrict_self",
        ] {
            assert!(allowed.split(' ').any(|one| one == call), "{unit}: {call}");
        }
    }
    assert!(seen >= 2, "the units have moved");
}
