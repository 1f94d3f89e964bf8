//! A guest's kernel against what it was: whoever rewrites it without right is found and named, and nobody else is.
//!
//! The attacker is the harness, which writes into the guest's memory file as a kernel module of the guest's could, while
//! the guest is paused: what is found must not depend on what the guest still does.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(
    unreachable_pub,
    reason = "a test has no outside; `pub` marks what other modules use"
)]

#[path = "kernels/attacker.rs"]
mod attacker;
#[path = "kernels/connections.rs"]
mod connections;
#[path = "kernels/guest.rs"]
mod guest;

use std::path::Path;

use api::Command;
use attacker::{Attacker, branch, files, look};
use guest::Guest;
use insight::integrity::{FindingKind, Integrity, PatchKind, Scope};
use insight::{Kernel, Registers};

fn check(guest: &Guest, kernel: &Kernel, folder: &Path, scope: Scope<'_>) -> Integrity {
    let result = look(kernel, &guest.registers(), |look| {
        look.integrity(folder, "1", scope)
    });
    let why = result.why_not().map(str::to_owned);
    result.into_value().unwrap_or_else(|| panic!("{why:?}"))
}

#[test]
fn whoever_rewrites_the_kernel_is_found_and_named() {
    let Some(files) = files() else { return };
    let guest = Guest::boot(&files, &["--memory", "256M"]);
    let kernel = guest.attach(None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let first = check(&guest, &kernel, folder.path(), Scope::All);
    assert!(first.is_first && first.findings.is_empty(), "{first:?}");
    let attacker = Attacker::new(&guest, &kernel);
    let (balloon, link) = attacker.module("virtio_balloon");
    // A place of nobody's: behind the kernel's own code.
    let nowhere = attacker.symbol("_etext") + 0x1_0000;
    let try_out = |writes: &[(u64, Vec<u8>)], kind: FindingKind, subject: &str, text: &str| {
        let before: Vec<Vec<u8>> = writes
            .iter()
            .map(|(at, bytes)| attacker.read(*at, bytes.len()))
            .collect();
        for (at, bytes) in writes {
            attacker.write(*at, bytes);
        }
        for scope in [Scope::All, Scope::Written(&|pages| vec![true; pages.len()])] {
            let result = check(&guest, &kernel, folder.path(), scope);
            let found = |finding: &&insight::integrity::Finding| {
                finding.kind == kind && finding.subject == subject && finding.what.contains(text)
            };
            let finding = result.findings.iter().find(found);
            let finding =
                finding.unwrap_or_else(|| panic!("{kind:?} {subject}: {:#?}", result.findings));
            if matches!(kind, FindingKind::KernelText | FindingKind::ModuleText) {
                assert!(
                    finding.before.is_some() && finding.before != finding.after,
                    "{finding:?}"
                );
            }
        }
        for ((at, _), bytes) in writes.iter().zip(&before) {
            attacker.write(*at, bytes);
        }
        let after = check(&guest, &kernel, folder.path(), Scope::Part(4096));
        assert!(
            after.findings.is_empty(),
            "{subject} was put right: {:#?}",
            after.findings
        );
    };
    let jump = |name: &str, target: u64| {
        let at = attacker.symbol(name);
        (at, branch(0xe9, at, target))
    };

    // Hooks at the beginning of functions: out of the kernel, and to another function of the kernel.
    let hooked = "__x64_sys_getdents64";
    try_out(
        &[jump(hooked, nowhere)],
        FindingKind::KernelText,
        "__x64_sys_getdents64+0x0",
        "no code",
    );
    let other = attacker.symbol("__x64_sys_getpid");
    try_out(
        &[jump(hooked, other)],
        FindingKind::KernelText,
        "__x64_sys_getdents64+0x0",
        "__x64_sys_getpid",
    );
    // As tracing does it, but to nobody's code.
    let at = attacker.symbol(hooked);
    let call = vec![(at, branch(0xe8, at, nowhere))];
    try_out(
        &call,
        FindingKind::KernelText,
        "__x64_sys_getdents64+0x0",
        "no code",
    );
    // One byte.
    let byte = vec![(at + 0x21, vec![attacker.read(at + 0x21, 1)[0] ^ 0x40])];
    try_out(
        &byte,
        FindingKind::KernelText,
        "__x64_sys_getdents64+0x21",
        "1 byte changed",
    );

    // The path of system calls, known without a baseline too.
    for name in ["entry_SYSCALL_64", "do_syscall_64"] {
        let subject = format!("{name}+0x0");
        try_out(
            &[jump(name, nowhere)],
            FindingKind::KernelText,
            &subject,
            "no code",
        );
        try_out(
            &[jump(name, nowhere)],
            FindingKind::SyscallPath,
            &subject,
            "no code",
        );
    }
    if kernel.address("x64_sys_call").is_ok() {
        let at = attacker.symbol("x64_sys_call") + 0x40;
        try_out(
            &[(at, branch(0xe8, at, nowhere))],
            FindingKind::KernelText,
            "x64_sys_call+0x40",
            "",
        );
    }
    // The table: somebody else's code, and another system call's.
    let entry = attacker.symbol("sys_call_table") + 8 * 217;
    let strange = vec![(entry, balloon.to_le_bytes().to_vec())];
    try_out(
        &strange,
        FindingKind::SyscallTable,
        "system call 217",
        "module virtio_balloon",
    );
    try_out(
        &[(entry, other.to_le_bytes().to_vec())],
        FindingKind::SyscallTable,
        "sys_call_table+0x6c8",
        "",
    );
    // Interrupts: vector 4 leads elsewhere.
    let idt = guest.registers()[0].idt_base + 4 * 16;
    let low = [nowhere as u8, (nowhere >> 8) as u8].to_vec();
    let gate = vec![(idt, low), (idt + 6, nowhere.to_le_bytes()[2..8].to_vec())];
    try_out(
        &gate,
        FindingKind::InterruptTable,
        "vector 4 of vCPU 0",
        "no code",
    );

    // A module's code, and a module that hides.
    let code = vec![(
        balloon + 0x100,
        vec![attacker.read(balloon + 0x100, 1)[0] ^ 1],
    )];
    try_out(
        &code,
        FindingKind::ModuleText,
        "virtio_balloon+0x100",
        "1 byte changed",
    );
    let next = attacker.pointer(link);
    let previous = attacker.pointer(link + 8);
    let unlinked = vec![
        (next + 8, previous.to_le_bytes().to_vec()),
        (previous, next.to_le_bytes().to_vec()),
    ];
    try_out(
        &unlinked,
        FindingKind::HiddenModule,
        "module virtio_balloon",
        "is still there",
    );

    // A place is added to those that may be rewritten.
    let table = attacker.symbol("__start___jump_table");
    let entry = vec![(
        table,
        (at.wrapping_sub(table) as u32).to_le_bytes().to_vec(),
    )];
    try_out(
        &entry,
        FindingKind::PatchTable,
        "__start___jump_table+0x0",
        "",
    );
}

#[test]
fn a_hook_that_comes_between_two_commands_is_told_by_the_second() {
    let Some(files) = files() else { return };
    let guest = Guest::boot(&files, &["--memory", "256M"]);
    let kernel = guest.attach(None).unwrap();
    let before = guest.mother(&["truth", "seen"]);
    assert!(
        before.contains("kernel code") && !before.contains("text-changed"),
        "{before}"
    );
    let attacker = Attacker::new(&guest, &kernel);
    let at = attacker.symbol("__x64_sys_getdents64");
    attacker.write(at, &branch(0xe9, at, attacker.symbol("__x64_sys_getpid")));
    let after = guest.mother(&["truth", "seen"]);
    for text in [
        "CONTRADICTS",
        "text-changed",
        "__x64_sys_getdents64+0x0",
        "it now leads to __x64_sys_getpid",
    ] {
        assert!(after.contains(text), "{text}: {after}");
    }
    // A module that left the list is told once, though its code and its description both tell it.
    let (_, link) = attacker.module("virtio_balloon");
    let next = attacker.pointer(link);
    let previous = attacker.pointer(link + 8);
    attacker.write(next + 8, &previous.to_le_bytes());
    attacker.write(previous, &next.to_le_bytes());
    let hidden: serde_json::Value =
        serde_json::from_str(&guest.mother(&["truth", "--json", "seen"])).unwrap();
    let rows = hidden["rows"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["rule"] == "hidden-module" && row["verdict"] != "agrees");
    let rows: Vec<&serde_json::Value> = rows.collect();
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert!(
        rows[0]["verdict"] == "contradicts" && rows[0].to_string().contains("virtio_balloon"),
        "{rows:#?}"
    );
    let inspected = guest.mother(&["inspect", "seen"]);
    assert!(
        inspected.contains("__x64_sys_getdents64+0x0") && inspected.contains("MOUNT "),
        "{inspected}"
    );
}

/// Who watches is told by the VM's process what was written, and reads nothing else of the code again: a change that came
/// past the guest's memory, through its file, is found when the guest itself writes to that page.
#[test]
fn code_is_compared_again_when_the_guest_has_written_to_it() {
    let Some(files) = files() else { return };
    let mut guest = Guest::boot(&files, &["--memory", "256M"]);
    let kernel = guest.attach(None).unwrap();
    guest.ask("mkdir /t; mount -t tracefs t /t; echo __x64_sys_swapon >/t/set_ftrace_filter");
    let mut read_bytes = 0;
    for (reading, number) in guest.watch().zip(1..) {
        let rows = reading["rows"].as_array().unwrap();
        let code: Vec<_> = rows
            .iter()
            .filter(|row| row["rule"] == "text-changed")
            .collect();
        let bytes = reading["cost"]["memory"]["bytes"].as_u64().unwrap() - read_bytes;
        read_bytes += bytes;
        let finding = "__x64_sys_swapon+0x11 1 byte changed";
        match number {
            1..5 => assert_eq!(code[0]["verdict"], "agrees", "{code:#?}"),
            5 if !machine::paging_finding().usable => return,
            5 => {
                // A part of the code would be 2 MiB by itself.
                assert!(
                    bytes < 2 << 20,
                    "{bytes} bytes though nothing was written to the code"
                );
                let attacker = Attacker::new(&guest, &kernel);
                let at = attacker.symbol("__x64_sys_swapon") + 0x11;
                assert!(at % 4096 >= 0x11, "both places are in one page");
                attacker.write(at, &[attacker.read(at, 1)[0] ^ 0x40]);
                guest.client().order(Command::Resume).unwrap();
            }
            6 => assert_eq!(
                code[0]["verdict"], "agrees",
                "nobody has written as guests do: {code:#?}"
            ),
            // The kernel patches the function's beginning.
            7 => drop(guest.ask("echo function >/t/current_tracer")),
            _ if code.iter().any(|row| row.to_string().contains(finding)) => return,
            _ => assert!(number < 10, "reading {number}: {code:#?}"),
        }
    }
    panic!("the watcher has ended");
}

#[test]
fn a_protection_that_is_switched_off_is_seen() {
    let Some(files) = files() else { return };
    let guest = Guest::boot(&files, &["--memory", "256M"]);
    let kernel = guest.attach(None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let registers = guest.registers();
    let check = |change: &dyn Fn(&mut Registers), expected: &[&str]| {
        let mut registers = registers.clone();
        change(&mut registers[0]);
        let result = look(&kernel, &registers, |look| {
            look.integrity(folder.path(), "1", Scope::Part(4096))
        });
        let findings = result.into_value().unwrap().findings;
        let subjects: Vec<&str> = findings
            .iter()
            .map(|finding| finding.subject.as_str())
            .collect();
        assert_eq!(subjects, expected);
    };
    // Whatever the engine's CPU has.
    let on = |vcpu: &mut Registers| vcpu.cr4 |= 1 << 20 | 1 << 21;
    check(&on, &[]);
    check(
        &|vcpu| vcpu.cr4 &= !(1 << 20 | 1 << 21),
        &["CR4.SMAP of vCPU 0", "CR4.SMEP of vCPU 0"],
    );
    check(&on, &[]);
    check(
        &|vcpu| (on(vcpu), vcpu.cr0 &= !(1 << 16)).0,
        &["CR0.WP of vCPU 0"],
    );
    check(&|vcpu| (on(vcpu), vcpu.lstar += 1).0, &["LSTAR of vCPU 0"]);
    check(
        &|vcpu| (on(vcpu), vcpu.cstar = vcpu.lstar).0,
        &["CSTAR of vCPU 0"],
    );
    check(&|vcpu| (on(vcpu), vcpu.sysenter_eip = 0).0, &[]);
    let points = look(&kernel, &registers, |look| look.entry_points())
        .into_value()
        .unwrap();
    let target = |way: &str| {
        points
            .iter()
            .find(|point| point.way == way)
            .map(|point| point.target.clone())
    };
    assert_eq!(target("LSTAR").as_deref(), Some("entry_SYSCALL_64"));
    assert_eq!(target("vector 14").as_deref(), Some("asm_exc_page_fault"));
}

#[test]
fn a_guest_that_rewrites_itself_legally_raises_no_alarm() {
    let Some(files) = files() else { return };
    let mut guest = Guest::boot(&files, &["--memory", "256M"]);
    let kernel = guest.attach(None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let first = check(&guest, &kernel, folder.path(), Scope::All);
    assert!(
        first.findings.is_empty() && first.not_checked.is_empty(),
        "{first:#?}"
    );
    guest.ask("mkdir /t; mount -t tracefs t /t");
    let mut kinds = Vec::new();
    for line in [
        "rmmod virtio_balloon; rmmod evdev",
        "insmod /modules/failover.ko; insmod /modules/virtio_balloon.ko",
        // Looked at between: one that comes back unseen, to the very same place, is taken for the one before (docs/insight.md).
        "rmmod failover",
        "insmod /modules/failover.ko",
        "echo 1 >/t/events/sched/enable",
        "echo p:one do_sys_openat2 >/t/kprobe_events; echo 1 >/t/events/kprobes/enable",
        "echo 'vfs_*' >/t/set_ftrace_filter; echo function >/t/current_tracer; cat /proc/version",
        "echo >/t/set_ftrace_filter; echo function_graph >/t/current_tracer",
        "insmod /modules/virtio-rng.ko; rmmod virtio_balloon",
        "echo 1 >/proc/sys/kernel/sched_schedstats; echo nop >/t/current_tracer",
        "echo 0 >/t/events/kprobes/enable; echo >/t/kprobe_events; echo 0 >/t/events/sched/enable",
    ] {
        guest.ask(&format!("{line} 2>/dev/null"));
        let result = check(&guest, &kernel, folder.path(), Scope::All);
        assert!(
            result.findings.is_empty() && result.not_checked.is_empty(),
            "{line}: {result:#?}"
        );
        kinds.extend(result.patches.iter().map(|patch| patch.kind));
    }
    for kind in [
        PatchKind::JumpLabel,
        PatchKind::StaticCall,
        PatchKind::Trace,
    ] {
        assert!(kinds.contains(&kind), "nothing was rewritten by {kind:?}");
    }
    // While it does so, not only between.
    guest.send("for n in 1 2 3 4 5 6 7 8 9; do echo function >/t/current_tracer; echo nop >/t/current_tracer; done; echo done");
    for _ in 0..8 {
        let result = check(&guest, &kernel, folder.path(), Scope::All);
        assert!(result.findings.is_empty(), "{result:#?}");
    }
    guest.expect("done");
}

#[test]
fn two_guests_of_one_build_run_the_same_code() {
    let Some(files) = files() else { return };
    let guests = [(); 2].map(|()| Guest::boot(&files, &["--memory", "256M"]));
    let kernels = guests.each_ref().map(|guest| guest.attach(None).unwrap());
    let compare = || {
        let accounts = kernels.each_ref().map(Kernel::account);
        let [one, other] = [0, 1].map(|number: usize| kernels[number].look(&accounts[number], &[]));
        one.compare_with(&other).into_value().unwrap()
    };
    assert_eq!(compare(), []);
    let attacker = Attacker::new(&guests[0], &kernels[0]);
    let at = attacker.symbol("__x64_sys_getdents64") + 0x21;
    let byte = attacker.read(at, 1)[0];
    attacker.write(at, &[byte ^ 0x40]);
    let findings = compare();
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(findings[0].subject, "__x64_sys_getdents64+0x21");
}

#[test]
fn sockets_and_mounts_are_those_that_the_guest_prints() {
    let Some(files) = files() else { return };
    let mut guest = Guest::boot(&files, &["--memory", "256M"]);
    connections::prepare(&mut guest);
    let kernel = guest.attach(None).unwrap();
    let complaints = [
        connections::sockets(&mut guest, &kernel),
        connections::mounts(&mut guest, &kernel),
    ]
    .concat();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
