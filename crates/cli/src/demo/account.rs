//! The demo's words: plain text made from what the guest said and what the report holds, nothing else.

use std::fmt::Write;
use std::time::Duration;

use images::DefaultGuest;
use insight::amounts::size_in_words;
use machine::VmPlan;
use runner::report::{MarkerReport, RunReport};

use super::transcript::{Ran, Said};

/// Width of the guest's column.
const SAYS: usize = 44;

/// Width of a name on the left, and of a part of it.
const WHAT: usize = 30;
const PART: usize = WHAT - 2;

/// Longest answer of a program to be shown.
const ANSWER_CHARS: usize = 50;

/// What is about to happen.
pub fn introduction(plan: &VmPlan, guest: &DefaultGuest) -> String {
    let mut text = String::from("A guest that was not made for Mother\n\n");
    let _ = writeln!(
        text,
        "  kernel    {}, as Debian ships it",
        guest.kernel_package
    );
    let _ = writeln!(
        text,
        "  machine   {} of memory, {} vCPU",
        size_in_words(plan.memory_bytes),
        plan.vcpu_count
    );
    let _ = writeln!(
        text,
        "  engine    {} ({})",
        plan.engine.kind, plan.engine.why
    );
    text.push_str("\nReal programs in it, timed by the guest's own clock\n\n");
    text
}

/// One program of the guest.
pub fn program_line(ran: &Ran) -> String {
    let verdict = if ran.is_right { "right" } else { "WRONG" };
    let answer: String = ran.answer.chars().take(ANSWER_CHARS).collect();
    format!(
        "  {:<10}{verdict}{:>8.2} s   {answer}",
        ran.name,
        ran.guest_ms as f64 / 1000.0
    )
}

/// What the guest says beside what Mother knows, and what only she knows.
pub fn account(said: &Said, report: &RunReport, guest: &DefaultGuest) -> String {
    let mut text = beside(said, report, guest);
    text.push_str("\nWhat only Mother knows\n\n");
    boot_times(&mut text, report);
    text.push_str(&memory_at_init(report));
    let exits = &report.exits.0;
    let total: u64 = exits.iter().map(|(_, count)| count).sum();
    let _ = writeln!(text, "  {:<WHAT$}{total}", "exits to Mother");
    for (kind, count) in exits.iter().filter(|(_, count)| *count > 0) {
        let _ = writeln!(text, "    {kind:<PART$}{count}");
    }
    let _ = writeln!(text, "  inside the engine {}", report.engine.kind);
    for (name, value) in &report.engine_statistics.0 {
        let value = if report.engine_statistics_in_bytes.contains(name) {
            size_in_words(*value)
        } else {
            value.to_string()
        };
        let _ = writeln!(text, "    {name:<PART$}{value}");
    }
    text.push('\n');
    text
}

/// What the VMM itself took when the guest reached `/init`.
fn memory_at_init(report: &RunReport) -> String {
    let seen = report
        .markers
        .get(1)
        .and_then(|marker| marker.seen.as_ref());
    let Some(memory) = seen.and_then(|sample| sample.vmm_memory.as_ref()) else {
        return String::new();
    };
    let parts = [
        ("code cache", memory.code_cache),
        ("heap and tables", memory.heap),
        ("program and libraries", memory.program),
    ];
    let mut text = format!(
        "  {:<WHAT$}{}\n",
        "Mother's memory at /init",
        size_in_words(memory.overhead_bytes())
    );
    for (name, bytes) in parts {
        let _ = writeln!(text, "    {name:<PART$}{}", size_in_words(bytes));
    }
    text
}

/// The table of claims and knowledge.
fn beside(said: &Said, report: &RunReport, guest: &DefaultGuest) -> String {
    let mut text = format!(
        "\n  {:<11}{:<SAYS$}{}\n\n",
        "", "the guest says", "Mother knows"
    );
    let claim = |key| said.claim(key).unwrap_or("nothing").to_owned();
    let kib = |key| {
        said.number(key)
            .map_or("nothing".to_owned(), |kib| size_in_words(kib * 1024))
    };
    let ms = |key| {
        said.number(key).map_or("nothing".to_owned(), |ms| {
            seconds(Duration::from_millis(ms).as_secs_f64())
        })
    };
    let kernel: String = claim("kernel")
        .split_whitespace()
        .take(2)
        .collect::<Vec<_>>()
        .join(" ");
    let memory = &report.guest_memory;
    let rows = [
        ("kernel", kernel, guest.kernel_package.clone()),
        (
            "CPU",
            format!("{} of {}", claim("cpus"), claim("cpu")),
            format!("engine {}", report.engine.kind),
        ),
        (
            "memory",
            format!("{} in all", kib("memory_total_kib")),
            format!("{} given", size_in_words(memory.configured)),
        ),
        (
            "",
            format!("{} used", kib("memory_used_kib")),
            format!("{} ever touched", size_in_words(memory.touched)),
        ),
        (
            "time",
            format!("{} up", ms("uptime_ms")),
            format!("{} since the start", seconds(report.wall_time)),
        ),
        (
            "CPU time",
            format!("{} busy", ms("cpu_ms")),
            format!("{} of host CPU", seconds(report.vcpu_time)),
        ),
    ];
    for (topic, says, knows) in rows {
        let _ = writeln!(text, "  {topic:<11}{says:<SAYS$}{knows}");
    }
    text
}

/// When each marker was seen.
fn boot_times(text: &mut String, report: &RunReport) {
    let at = |marker: Option<&MarkerReport>| {
        let seen = marker.and_then(|marker| marker.seen.as_ref());
        seen.map(|sample| sample.at)
    };
    let lines = [
        ("start to first kernel line", at(report.markers.first())),
        ("start to /init", at(report.markers.get(1))),
    ];
    for (name, time) in lines {
        let _ = writeln!(
            text,
            "  {name:<WHAT$}{}",
            time.map_or("never seen".to_owned(), seconds)
        );
    }
}

fn seconds(time: f64) -> String {
    format!("{time:.2} s")
}
