//! What insight reads against what the guest prints, one kind of thing at a time. Each comparison returns complaints.

use std::collections::{BTreeMap, BTreeSet};

use insight::tasks::Process;
use insight::{Kernel, Look, Registers};
use sha2::{Digest, Sha256};

use crate::guest::Guest;

/// How far a memory counter may be off, in KiB: what CPUs have not added up, and what printing it takes.
const SLACK_KIB: u64 = 1536;

/// Runs `read` on one look.
pub fn look<T>(kernel: &Kernel, registers: &[Registers], read: impl FnOnce(&Look<'_>) -> T) -> T {
    let account = kernel.account();
    read(&kernel.look(&account, registers))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn word(text: &str) -> String {
    text.split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// Every symbol of the kernel's own, by a hash of all lines.
pub fn symbols(guest: &mut Guest, kernel: &Kernel) -> Vec<String> {
    let mut lines = String::new();
    for (address, kind, name) in kernel.symbols() {
        lines += &format!(
            "{:016x} {} {}\n",
            address.0,
            char::from(kind),
            String::from_utf8_lossy(name)
        );
    }
    let theirs = word(&guest.ask("grep -v '\\[' /proc/kallsyms | sha256sum"));
    if sha256(lines.as_bytes()) == theirs {
        return Vec::new();
    }
    let count = word(&guest.ask("grep -vc '\\[' /proc/kallsyms"));
    vec![format!(
        "symbols differ: {} here, {count} in the guest",
        kernel.symbols().count()
    )]
}

/// VMClock's page, read through the guest's driver: Debian builds it from series 7 on.
pub fn clock_page(guest: &mut Guest) -> Vec<String> {
    let said = guest.ask("case $(uname -r) in 7.*) od -An -tx1 -N4 /dev/vmclock0 2>&1 ;; esac");
    match said.trim() {
        "" | "56 43 4c 4b" => Vec::new(),
        other => vec![format!("VMClock's page begins with {other}")],
    }
}

/// The type information, byte by byte, and the facts of structures that stand in it.
pub fn types(guest: &mut Guest, kernel: &Kernel) -> Vec<String> {
    let theirs = word(&guest.ask("sha256sum /sys/kernel/btf/vmlinux"));
    match look(kernel, &[], |look| look.type_information()) {
        Ok(bytes) if sha256(&bytes) == theirs => Vec::new(),
        Ok(bytes) => vec![format!("type information differs, {} bytes", bytes.len())],
        Err(blind) => vec![format!("no type information: {blind}")],
    }
}

/// PID, name, parent and command line of every process.
pub fn processes(guest: &mut Guest, kernel: &Kernel) -> Vec<String> {
    let read = || look(kernel, &[], |look| look.processes().into_value()).unwrap_or_default();
    let before = by_pid(read());
    let stat = guest.ask("cat /proc/[0-9]*/stat 2>/dev/null");
    let status = guest.ask("grep -H -E '^(Uid|VmRSS|NSpid)' /proc/[0-9]*/status 2>/dev/null");
    let after = by_pid(read());
    let mut complaints = Vec::new();
    let mut theirs = BTreeMap::new();
    for line in stat.lines() {
        let Some((pid, rest)) = line.split_once(" (") else {
            continue;
        };
        let Some((comm, rest)) = rest.rsplit_once(") ") else {
            continue;
        };
        let words: Vec<&str> = rest.split(' ').collect();
        theirs.insert(
            pid.parse::<i32>().unwrap(),
            (comm.to_owned(), words[1].to_owned(), words[17].to_owned()),
        );
    }
    let steady: Vec<&Process> = before
        .values()
        .filter(|process| {
            after
                .get(&process.pid)
                .is_some_and(|now| now.address == process.address)
        })
        .collect();
    for process in &steady {
        let Some((comm, parent, threads)) = theirs.get(&process.pid) else {
            complaints.push(format!(
                "the guest does not show {} {}",
                process.pid, process.comm
            ));
            continue;
        };
        let ours = (
            process.parent_pid.to_string(),
            process.threads.len().to_string(),
        );
        // Threads of the kernel show what they work on behind their names.
        if !comm.starts_with(process.comm.as_str()) && !process.is_kernel
            || ours != (parent.clone(), threads.clone())
        {
            complaints.push(format!(
                "{} is {} {ours:?} here and {comm} {parent} {threads} there",
                process.pid, process.comm
            ));
        }
    }
    let newest = before.keys().max().copied().unwrap_or(0);
    for pid in theirs
        .keys()
        .filter(|pid| **pid <= newest && !before.contains_key(pid) && !after.contains_key(pid))
    {
        complaints.push(format!("process {pid} of the guest is not seen"));
    }
    if steady.len() < 20 {
        complaints.push(format!("only {} processes", steady.len()));
    }
    complaints.extend(resident(&steady, &status));
    complaints.extend(command_lines(guest, &steady));
    complaints
}

fn by_pid(processes: Vec<Process>) -> BTreeMap<i32, Process> {
    processes
        .into_iter()
        .map(|process| (process.pid, process))
        .collect()
}

fn resident(steady: &[&Process], status: &str) -> Vec<String> {
    let value = |pid: i32, key: &str| {
        let prefix = format!("/proc/{pid}/status:{key}:");
        let line = status.lines().find_map(|line| line.strip_prefix(&prefix))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let mut complaints = Vec::new();
    for process in steady {
        // Until 6.1 the guest shows a process without what its threads have not added up yet, so it shows less.
        let ours = process.resident_bytes / 1024;
        if let Some(rss) = value(process.pid, "VmRSS")
            && !(rss.saturating_sub(512)..rss + 2048).contains(&ours)
        {
            complaints.push(format!(
                "{} has {} KiB here, {rss} there",
                process.comm,
                process.resident_bytes / 1024
            ));
        }
        if value(process.pid, "Uid").is_some_and(|uid| uid != u64::from(process.uid)) {
            complaints.push(format!("{} is not of user {}", process.comm, process.uid));
        }
    }
    complaints
}

fn command_lines(guest: &mut Guest, steady: &[&Process]) -> Vec<String> {
    let mut complaints = Vec::new();
    for process in steady.iter().filter(|process| !process.is_kernel) {
        let pid = process.pid;
        let theirs = guest.ask(&format!(
            "tr '\\0' '|' </proc/{pid}/cmdline; echo; readlink /proc/{pid}/exe"
        ));
        let mut lines = theirs.lines();
        let words = lines
            .next()
            .unwrap_or_default()
            .trim_end_matches('|')
            .to_owned();
        let ours = process.command_line.value().map(|words| words.join("|"));
        if ours.as_deref() != Some(words.as_str()) {
            complaints.push(format!(
                "command line of {pid} is {ours:?} here and {words:?} there"
            ));
        }
        if process.executable.value().map(String::as_str) != lines.next() {
            complaints.push(format!("program of {pid} is {:?} here", process.executable));
        }
    }
    complaints
}

/// Name, size, users and place of every module.
pub fn modules(guest: &mut Guest, kernel: &Kernel) -> Vec<String> {
    let theirs: BTreeSet<String> = guest
        .ask("cat /proc/modules")
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            format!("{} {} {} {}", words[0], words[1], words[2], words[5])
        })
        .collect();
    let Some(modules) = look(kernel, &[], |look| look.modules().into_value()) else {
        return vec!["modules are not observable".to_owned()];
    };
    let ours: BTreeSet<String> = modules
        .iter()
        .map(|module| {
            let references = module.references.unwrap_or(-1);
            format!(
                "{} {} {references} 0x{:016x}",
                module.name, module.size_bytes, module.text.start
            )
        })
        .collect();
    let mut complaints: Vec<String> = ours
        .symmetric_difference(&theirs)
        .map(|line| format!("module on one side only: {line}"))
        .collect();
    if ours.is_empty() && !guest.ask("ls /modules").trim().is_empty() {
        complaints.push("no modules, though the guest has some to load".to_owned());
    }
    complaints
}

/// `/proc/meminfo`, line by line, between two looks.
pub fn memory(guest: &mut Guest, kernel: &Kernel) -> Vec<String> {
    let read = || look(kernel, &[], |look| look.memory_counters().into_value()).unwrap_or_default();
    let before = read();
    let text = guest.ask("cat /proc/meminfo");
    let after = read();
    let mut complaints = Vec::new();
    let mut compared = 0;
    for line in text.lines() {
        let Some((name, rest)) = line.split_once(':') else {
            continue;
        };
        let Ok(theirs) = word(rest).parse::<u64>() else {
            continue;
        };
        let (Some(before), Some(after)) = (before.get(name), after.get(name)) else {
            continue;
        };
        compared += 1;
        let low = before.min(after) / 1024;
        let high = before.max(after) / 1024;
        let slack = if name == "MemTotal" || name == "CommitLimit" {
            0
        } else {
            SLACK_KIB
        };
        if theirs + slack < low || theirs > high + slack {
            complaints.push(format!(
                "{name} is {low}..{high} KiB here and {theirs} there"
            ));
        }
    }
    if compared < 30 {
        complaints.push(format!("only {compared} counters compared"));
    }
    complaints
}

/// Names, command line, uptime and load.
pub fn system(guest: &mut Guest, kernel: &Kernel) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut equal = |what: &str, ours: String, theirs: &str| {
        if ours != theirs.trim() {
            complaints.push(format!(
                "{what} is {ours:?} here and {:?} there",
                theirs.trim()
            ));
        }
    };
    let before = look(kernel, &[], |look| look.system());
    equal("release", before.release.clone(), &guest.ask("uname -r"));
    equal(
        "hostname",
        before.hostname.value().cloned().unwrap_or_default(),
        &guest.ask("hostname"),
    );
    equal(
        "command line",
        before.command_line.value().cloned().unwrap_or_default(),
        &guest.ask("cat /proc/cmdline"),
    );
    let uptime: f64 = word(&guest.ask("cat /proc/uptime")).parse().unwrap();
    let wall: f64 = word(&guest.ask("date +%s")).parse().unwrap();
    let after = look(kernel, &[], |look| look.system());
    let clocks = (before.clocks.value(), after.clocks.value());
    let (Some(before), Some(after)) = clocks else {
        complaints.push(format!("clocks: {:?}", before.clocks));
        return complaints;
    };
    let seconds = |ns: u64| ns as f64 / 1e9;
    let within = |what: &str, low: u64, value: f64, high: u64| {
        // A tick may be late by the time an idle guest sleeps.
        let is_within = value > seconds(low) - 3.0 && value < seconds(high) + 5.0;
        (!is_within).then(|| {
            format!(
                "{what} is {}..{} here and {value} there",
                seconds(low),
                seconds(high)
            )
        })
    };
    complaints.extend(within("uptime", before.uptime_ns, uptime, after.uptime_ns));
    complaints.extend(within("time", before.wall_ns, wall, after.wall_ns));
    complaints
}

/// The kernel's log, line by line.
pub fn log(guest: &mut Guest, kernel: &Kernel) -> Vec<String> {
    let theirs: BTreeSet<String> = guest.ask("dmesg -r").lines().filter_map(text_of).collect();
    let Some(records) = look(kernel, &[], |look| look.kernel_log().into_value()) else {
        return vec!["the log is not observable".to_owned()];
    };
    let ours: BTreeSet<String> = records
        .iter()
        .flat_map(|record| record.text.lines())
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    let mut complaints = Vec::new();
    let missing: Vec<&String> = theirs.difference(&ours).collect();
    if !missing.is_empty() || records.len() < 100 {
        complaints.push(format!(
            "{} records, lines that are not seen: {missing:?}",
            records.len()
        ));
    }
    complaints
}

/// `<6>[    0.123456] text` without what is in front.
fn text_of(line: &str) -> Option<String> {
    let text = line.split_once("] ")?.1.trim();
    (!text.is_empty()).then(|| text.to_owned())
}
