//! What a VM may cost its host in all: kept while the guest works, changed while it runs, and told where it cannot be kept.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::HashMap;
use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::common::host::Host;
use crate::common::limited::Limited;
use crate::common::nobody::Who;
use crate::common::{Mother, multiboot};

/// Bytes of the host's memory that a process costs, as the host's kernel counts them: its own pages and those of files, and every page of its memory files, mapped or
/// not. `None` when it is gone.
fn cost_bytes(pid: &str) -> Option<u64> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let status = std::fs::read_to_string(process.join("status")).ok()?;
    let kilobytes = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    let mapped = (kilobytes("RssAnon:")? + kilobytes("RssFile:")?) << 10;
    let mut files = HashMap::new();
    for fd in std::fs::read_dir(process.join("fd")).ok()?.flatten() {
        let is_memory = |to: PathBuf| to.to_string_lossy().starts_with("/memfd:");
        if std::fs::read_link(fd.path()).is_ok_and(is_memory)
            && let Ok(metadata) = std::fs::metadata(fd.path())
        {
            files.insert(metadata.ino(), metadata.blocks() * 512);
        }
    }
    let in_memory_files: u64 = files.values().sum();
    // A process that ends has let go of everything.
    (mapped > 0 && in_memory_files > 0).then_some(mapped + in_memory_files)
}

/// Numbers, in words of the guest's shell.
const NUMBERS: &str = "seq 1 4000000";

/// SHA-256 of what [`NUMBERS`] says.
fn sum_of_numbers() -> String {
    let mut sum = Sha256::new();
    let mut text = String::new();
    for number in 1..=4_000_000 {
        writeln!(text, "{number}").unwrap();
        if text.len() > 1 << 16 {
            sum.update(&text);
            text.clear();
        }
    }
    sum.update(&text);
    let bytes = sum.finalize();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Fills memory with what packs and what does not, runs many programs, and looks at all of it again.
fn work() -> String {
    format!(
        "head -c 30000000 /dev/urandom > /tmp/random; sha256sum < /tmp/random > /tmp/first
{NUMBERS} > /tmp/numbers; head -c 40000000 /dev/zero > /tmp/zeros
i=0; while [ $i -lt 40 ]; do ls -lR /bin | md5sum; head -c 200000 /dev/urandom | gzip | sort | wc; i=$((i+1)); done > /tmp/said
sha256sum < /tmp/random | cmp - /tmp/first && echo random is $((40 + 2)) as it was
echo sum: $(sha256sum < /tmp/numbers)
"
    )
}

#[test]
fn a_vm_costs_its_host_no_more_than_its_limit_while_its_guest_works() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    if !machine::paging_finding().usable {
        eprintln!("SKIPPED: guest memory cannot be paged here");
        return;
    }
    let sum = format!("sum: {} -", sum_of_numbers());
    let check = |limit_mib: Option<u64>, more: &[&str]| {
        let limit = limit_mib.map_or("none".to_owned(), |mib| format!("{mib}M"));
        let folder = host.folder().to_str().unwrap();
        let report = host.folder().join("report.json");
        let always = [
            "--name",
            "whole",
            "--engine",
            "soft",
            "--memory",
            "512M",
            "--timeout",
            "300s",
            "--page-file",
            folder,
            "--host-limit",
            &limit,
            "--report",
            report.to_str().unwrap(),
        ];
        let words = [&always, more].concat();
        let (ran, looks, highest) = thread::scope(|scope| {
            let guest = scope.spawn(|| host.mother.type_into(&words, &work()));
            let mut pid = String::new();
            let mut looks = 0;
            let mut highest = 0;
            while !guest.is_finished() {
                thread::sleep(Duration::from_millis(50));
                if pid.is_empty() {
                    let listed = host.mother.call(&["ps", "--json"]);
                    let list: Value = serde_json::from_str(&listed.stdout).unwrap_or_default();
                    pid = list[0]["pid"].as_u64().map_or(pid, |pid| pid.to_string());
                } else if let Some(cost) = cost_bytes(&pid) {
                    highest = highest.max(cost);
                    looks += 1;
                }
            }
            (guest.join().unwrap(), looks, highest)
        });
        let said = &ran.stdout;
        assert!(
            said.contains("random is 42 as it was"),
            "{said}{}",
            ran.stderr
        );
        assert!(said.contains(&sum), "{sum}: {said}{}", ran.stderr);
        assert!(looks > 20, "looked at {looks} times");
        let report: Value =
            serde_json::from_str(&std::fs::read_to_string(&report).unwrap()).unwrap();
        let metric = |name: &str| {
            let metrics = report["metrics"].as_array().unwrap();
            let found = metrics.iter().find(|metric| metric["name"] == name);
            found.unwrap()["samples"][0]["value"].as_f64().unwrap()
        };
        eprintln!(
            "{limit} {more:?}: at most {} MiB, {} s of CPU time, {} of them of the pager, {} MiB in the page file, translations started anew {} times",
            highest.div_ceil(1 << 20),
            metric("mother_cpu_seconds_total"),
            metric("mother_paging_cpu_seconds_total"),
            metric("mother_paging_file_used_bytes") / f64::from(1 << 20),
            report["engine_statistics"]["code cache clears"],
        );
        let Some(mib) = limit_mib else {
            assert!(
                highest > 200 << 20,
                "{highest} bytes: this is too little work"
            );
            assert_eq!(report["host_cost"], Value::Null);
            return;
        };
        assert!(highest <= mib << 20, "{highest} bytes, {mib} MiB may be");
        let cost = &report["host_cost"];
        assert_eq!(cost["limit"], mib << 20);
        assert_eq!(cost["over"], 0.0, "{cost}");
        assert!(cost["highest"].as_u64().unwrap() <= mib << 20, "{cost}");
        assert!(cost["least"].as_u64().unwrap() <= mib << 20, "{cost}");
    };
    check(None, &[]);
    check(Some(120), &[]);
    check(Some(90), &[]);
    check(Some(90), &["--resident-limit", "30M"]);
    check(Some(60), &[]);
}

#[test]
fn the_limit_of_a_running_vm_is_set_kept_and_taken_back() {
    let Some(guest) = Limited::new("whole", Who::Oneself) else {
        return;
    };
    let folder = guest.folder.path().to_str().unwrap().to_owned();
    guest.start(&["--engine", "soft", "--page-file", &folder]);
    let limit = |size: &str| guest.call(&["limit", "whole", "--host-limit", size]);
    let inspected = || guest.call(&["inspect", "whole"]).stdout;
    assert!(!inspected().contains("of the host, of the"));
    let refused = limit("50M");
    assert_eq!(refused.status, Some(2), "{}", refused.stderr);
    let words = "50M is less than such a VM costs its host at least; write at least 51M, or none";
    assert!(refused.stderr.contains(words), "{}", refused.stderr);
    let pid = guest.pid();
    let before = cost_bytes(&pid).unwrap();
    assert!(before > 70 << 20, "{before} bytes: this is no limit to it");
    for (size, mib) in [("70M", 70), ("55M", 55)] {
        let set = limit(size);
        assert_eq!(set.status, Some(0), "{}", set.stderr);
        let cost = cost_bytes(&pid).unwrap();
        assert!(cost <= mib << 20, "{cost} bytes, {mib} MiB may be");
        let text = inspected();
        let words = format!("of the host, of the {size} that it may");
        assert!(text.contains(&words), "{text}");
    }
    guest.type_line("head -c 40000000 /dev/urandom > /tmp/it; echo filled $((6 * 7))");
    guest.until("memory is filled", || guest.log().contains("filled 42"));
    let cost = cost_bytes(&pid).unwrap();
    assert!(cost <= 55 << 20, "{cost} bytes");
    // The tighter one holds, and is in force when the other is taken back.
    let set = guest.call(&[
        "limit",
        "whole",
        "--resident",
        "20M",
        "--host-limit",
        "none",
    ]);
    assert_eq!(set.status, Some(0), "{}", set.stderr);
    assert!(!inspected().contains("of the host, of the"));
    let ps = guest.ps();
    let metric = |name: &str| {
        let metrics = ps["metrics"].as_array().unwrap();
        let found = metrics.iter().find(|metric| metric["name"] == name);
        found.map(|metric| metric["samples"][0]["value"].as_f64().unwrap())
    };
    assert_eq!(metric("mother_host_limit_bytes"), None);
    assert_eq!(
        metric("mother_paging_limit_bytes"),
        Some(f64::from(20 << 20))
    );
    assert_eq!(metric("mother_engine_limit_bytes"), None);
}

#[test]
fn a_limit_that_a_store_without_a_file_fills_is_said_not_to_be_kept() {
    let Some(guest) = Limited::new("whole", Who::Oneself) else {
        return;
    };
    let first = guest.start(&["--engine", "soft", "--host-limit", "100M"]);
    let words = "without `--page-file` the limit of 100 MiB";
    assert!(first.contains(words), "{first}");
    let said = || guest.call(&["logs", "whole", "--json"]).stdout;
    guest.type_line("head -c 75000000 /dev/urandom > /tmp/it; echo filled $((6 * 7))");
    guest.until("memory is filled", || guest.log().contains("filled 42"));
    let is_said = || said().contains("the limit of 100 MiB of the host's memory is not kept");
    guest.until("it is said", is_said);
    let inspected = guest.call(&["inspect", "whole"]).stdout;
    assert!(inspected.contains("the limit is not kept"), "{inspected}");
    // What is there already counts for what is least.
    let refused = guest.call(&["limit", "whole", "--host-limit", "90M"]);
    assert_eq!(refused.status, Some(2), "{}", refused.stderr);
    guest.type_line("rm /tmp/it");
    let is_kept = || said().contains("the limit of 100 MiB of the host's memory is kept again");
    guest.until("it is kept again", is_kept);
}

#[test]
fn a_limit_of_the_whole_that_makes_no_sense_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    std::fs::write(folder.path().join("guest"), multiboot(&[0xf4])).unwrap();
    let check = |words: &[&str], text: &str| {
        let ran = mother.run(&[&["--kernel", "guest", "--memory", "64M"], words].concat());
        assert_eq!(ran.status, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains(text), "{}", ran.stderr);
    };
    check(
        &["--host-limit", "much"],
        "host-limit: \"much\" is no limit",
    );
    check(
        &["--host-limit", "20M"],
        "host-limit: 20M is less than such a VM costs its host at least",
    );
    check(&["--host-limit", "20M"], "write at least 49M, or none");
    check(
        &["--host-limit", "20M", "--cpus", "5"],
        "write at least 61M, or none",
    );
    check(
        &["--host-limit", "90M", "--huge-pages"],
        "host-limit: memory in huge pages has no limit",
    );
}
