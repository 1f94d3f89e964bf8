//! The profile for AppArmor that comes with the package: it is read, and grants what the documentation says and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROFILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../packaging/apparmor/mother"
);
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/jail.md");

/// Its lines without what is said about them.
fn rules(text: &str) -> Vec<&str> {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

/// What a pattern with braces in it stands for.
fn expanded(pattern: &str) -> Vec<String> {
    let Some((before, rest)) = pattern.split_once('{') else {
        return vec![pattern.to_owned()];
    };
    let (choices, after) = rest.split_once('}').unwrap();
    let one = |choice: &str| expanded(&format!("{before}{choice}{after}"));
    choices.split(',').flat_map(one).collect()
}

#[test]
fn it_grants_namespaces_to_the_programs_that_the_page_names_and_nothing_else() {
    let text = fs::read_to_string(PROFILE).unwrap();
    let rules = rules(&text);
    let head = rules[2].strip_prefix("profile mother ").unwrap();
    let pattern = head.strip_suffix(" flags=(unconfined) {").unwrap();
    assert_eq!(
        [&rules[..2], &rules[3..]].concat(),
        [
            "abi <abi/4.0>,",
            "include <tunables/global>",
            // What a jail in namespaces begins with; all else is as without a profile.
            "userns,",
            "include if exists <local/mother>",
            "}",
        ]
    );
    let programs = expanded(pattern);
    let named = [
        "/usr/bin/mother",
        "/usr/local/bin/mother",
        "/opt/mother/mother",
    ];
    assert_eq!(programs, named);
    let page = fs::read_to_string(PAGE).unwrap();
    for program in named {
        assert!(page.contains(&format!("`{program}`")), "{program}");
    }
}

fn parse(profile: &Path) -> Option<Output> {
    // Reads it, keeps nothing and tells no kernel (apparmor_parser(8)); administrators' folders are not on everybody's path.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut command = Command::new("apparmor_parser");
    command
        .env("PATH", path)
        .args(["-Q", "-T"])
        .arg(profile)
        .output()
        .ok()
}

#[test]
fn debians_parser_accepts_it() {
    let new = Path::new("/etc/apparmor.d/abi/4.0").exists();
    let folder = tempfile::tempdir().unwrap();
    let mut profile = PathBuf::from(PROFILE);
    if !new {
        eprintln!(
            "SKIPPED in part: this host's AppArmor is older than 4.0, knows no `userns` and is asked about the rest"
        );
        let text = fs::read_to_string(PROFILE).unwrap();
        let known = text
            .lines()
            .filter(|line| !line.starts_with("abi ") && line.trim() != "userns,");
        profile = folder.path().join("mother");
        fs::write(&profile, known.collect::<Vec<_>>().join("\n") + "\n").unwrap();
    }
    let Some(read) = parse(&profile) else {
        eprintln!("SKIPPED: there is no apparmor_parser (Debian's package apparmor)");
        return;
    };
    let said = String::from_utf8_lossy(&read.stderr);
    assert!(read.status.success(), "{said}");
    // It would say no to what is none.
    fs::write(
        folder.path().join("bad"),
        "profile mother /usr/bin/mother { nonsense, }\n",
    )
    .unwrap();
    assert!(!parse(&folder.path().join("bad")).unwrap().status.success());
}
