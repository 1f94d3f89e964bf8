//! `mother run --profile`: where a guest's time goes, as a user reads it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;

use serde_json::Value;

use crate::common::{multiboot, with_guest};

fn share(row: &Value) -> f64 {
    row["share"].as_f64().unwrap()
}

fn sum(rows: &Value) -> f64 {
    rows.as_array().unwrap().iter().map(share).sum()
}

#[test]
fn the_kernels_hottest_function_is_named_and_all_shares_sum_to_all() {
    let Some(mother) = with_guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    // Zeros are made by one function of the kernel, by one instruction of its, and thrown away.
    let line = "dd if=/dev/zero of=/dev/null bs=1M count=200000 2>/dev/null; exit 7";
    let ran = mother.run(&[
        "--engine",
        "soft",
        "--profile",
        "--report",
        report.to_str().unwrap(),
        "--",
        "sh",
        "-c",
        line,
    ]);
    assert_eq!(
        (ran.stdout.as_str(), ran.status),
        ("", Some(7)),
        "{}",
        ran.stderr
    );
    let report: Value = serde_json::from_str(&fs::read_to_string(report).unwrap()).unwrap();
    let profile = &report["profile"];
    let top = &profile["functions"][0];
    // Which it is depends on the kernel: the one that reads, or what that calls.
    let name = top["name"].as_str().unwrap();
    let makers = ["read_zero", "clear_user", "rep_stos"];
    assert!(makers.iter().any(|maker| name.contains(maker)), "{profile}");
    assert_eq!(top["space"], "kernel");
    assert!(share(top) > 0.2, "{profile}");
    assert!((sum(&profile["parts"]) - 1.0).abs() < 0.01, "{profile}");
    let seconds = profile["cpu_time"].as_f64().unwrap();
    let elsewhere = profile["at_no_function"].as_f64().unwrap() / seconds;
    assert!(
        (sum(&profile["functions"]) + elsewhere - 1.0).abs() < 0.01,
        "{profile}"
    );
    // What it is about is what the vCPUs used: the same is measured beside it for the report.
    let used = report["vcpu_time"].as_f64().unwrap();
    assert!(
        (0.9..1.1).contains(&(seconds / used)),
        "{seconds} s of {used} s"
    );
    // A person reads the same.
    let table: Vec<&str> = ran.stderr.lines().collect();
    let heads = table
        .iter()
        .position(|line| line.contains("hottest functions"))
        .unwrap();
    assert!(
        table[heads].contains("names: the kernel file, "),
        "{}",
        ran.stderr
    );
    assert!(
        table[heads + 1].ends_with(top["name"].as_str().unwrap()),
        "{}",
        ran.stderr
    );
    let parts = table[..heads].join("\n");
    for part in [
        "translated code",
        "translator",
        "TLB misses of loads",
        "interpreted",
        "exits",
    ] {
        assert!(parts.contains(part), "{part}: {parts}");
    }
}

#[test]
fn code_of_a_program_has_the_programs_name() {
    let Some(mother) = with_guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let words = [
        "--engine",
        "soft",
        "--profile",
        "--report",
        report.to_str().unwrap(),
        "--",
    ];
    let line = "i=0; while [ $i -lt 500000 ]; do i=$((i+1)); done";
    let ran = mother.run(&[&words[..], &["sh", "-c", line]].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let report: Value = serde_json::from_str(&fs::read_to_string(report).unwrap()).unwrap();
    let functions = report["profile"]["functions"].as_array().unwrap();
    let (of_shell, others): (Vec<&Value>, Vec<&Value>) = functions
        .iter()
        .partition(|row| row["space"] == "program sh");
    let nameless = others.iter().filter(|row| {
        let space = row["space"].as_str().unwrap();
        space.starts_with("address space")
    });
    let named: f64 = of_shell.iter().map(|row| share(row)).sum();
    let nameless: f64 = nameless.map(|row| share(row)).sum();
    // The rest is the kernel's start.
    assert!(
        named > 0.3 && nameless < 0.1,
        "{named} {nameless}: {}",
        ran.stderr
    );
    assert!(
        of_shell[0]["name"].as_str().unwrap().starts_with("code+0x"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_guest_that_is_no_linux_has_a_profile_without_names() {
    let Some(mother) = with_guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    // mov ecx, 0x10000000; 1: dec ecx; jnz 1b; mov edx, 0xf4; out dx, al
    let code = [
        0xb9, 0, 0, 0, 0x10, 0x49, 0x75, 0xfd, 0xba, 0xf4, 0, 0, 0, 0xb0, 0, 0xee,
    ];
    fs::write(&kernel, multiboot(&code)).unwrap();
    let kernel = kernel.to_str().unwrap();
    let ran = mother.run(&[
        "--engine",
        "soft",
        "--kernel",
        kernel,
        "--debug-exit",
        "--profile",
    ]);
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    let said = "names: none: the kernel that was loaded is no Linux whose symbols are known";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    assert!(ran.stderr.contains("  0x100000\n"), "{}", ran.stderr);
}

#[test]
fn nothing_is_said_of_where_time_went_unless_it_was_asked_for() {
    let Some(mother) = with_guest() else { return };
    let ran = mother.run(&["--engine", "soft", "--", "true"]);
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str(), ran.status),
        ("", "", Some(0))
    );
}
