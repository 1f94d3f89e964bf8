//! Techniques that hide, each done to a guest from outside as a kernel module of the guest's could do it, and what is said
//! of it: tasks in no book, code of nobody's, explanations that are forged, constants that are written, kernels of one's own.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(
    unreachable_pub,
    reason = "a test has no outside; `pub` marks what other modules use"
)]

#[path = "kernels/attacker.rs"]
mod attacker;
#[path = "kernels/guest.rs"]
mod guest;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use attacker::{Attacker, branch, files, look};
use guest::Guest;
use insight::Kernel;
use insight::hidden::{Depth, HiddenTask};
use insight::hooks::{Hook, HookKind};
use insight::integrity::{FindingKind, Integrity, Scope};
use x86::Gva;

/// The life that all checks are of.
const LIFE: &str = "1";
/// The place that is patched: where tracers come in, at the beginning of a system call's function.
const PLACE: &str = "__x64_sys_getdents64";

fn check(guest: &Guest, kernel: &Kernel, folder: &Path) -> Integrity {
    let result = look(kernel, &guest.registers(), |look| {
        look.integrity(folder, LIFE, Scope::All)
    });
    let why = result.why_not().map(str::to_owned);
    result.into_value().unwrap_or_else(|| panic!("{why:?}"))
}

/// Memory that nobody uses while the guest is paused: the image's last page of code is filled up, and what lies behind was
/// given back.
fn scratch(attacker: &Attacker<'_>) -> u64 {
    (attacker.symbol("_etext") + 0x2_0000) & !0xfff
}

/// Writes, in the guest's memory, and what was there before.
struct Written<'a> {
    attacker: &'a Attacker<'a>,
    before: Vec<(u64, Vec<u8>)>,
}

impl<'a> Written<'a> {
    fn of(attacker: &'a Attacker<'a>, writes: &[(u64, Vec<u8>)]) -> Written<'a> {
        let read = |(at, bytes): &(u64, Vec<u8>)| (*at, attacker.read(*at, bytes.len()));
        let before = writes.iter().map(read).collect();
        for (at, bytes) in writes {
            attacker.write(*at, bytes);
        }
        Written { attacker, before }
    }
}

impl Drop for Written<'_> {
    fn drop(&mut self) {
        for (at, bytes) in self.before.iter().rev() {
            self.attacker.write(*at, bytes);
        }
    }
}

fn hidden(guest: &Guest, kernel: &Kernel, depth: Depth, address: u64) -> Option<HiddenTask> {
    let found = look(kernel, &guest.registers(), |look| look.hidden_tasks(depth));
    let found = found.into_value().unwrap();
    found.into_iter().find(|task| task.address == address)
}

#[test]
fn a_task_that_denies_everything_is_found_and_so_is_one_that_is_none() {
    let Some(files) = files() else { return };
    let mut guest = Guest::boot(&files, &["--memory", "256M"]);
    let pid = guest.ask("sleep 100000 >/dev/null & echo $!");
    let pid: i32 = pid.trim().parse().unwrap();
    let kernel = guest.attach(None).unwrap();
    let attacker = Attacker::new(&guest, &kernel);
    let task = attacker.task(pid);
    let everything = look(&kernel, &guest.registers(), |look| {
        look.hidden_tasks(Depth::Slabs).into_value().unwrap()
    });
    assert_eq!(everything, [], "before anything was hidden");
    let tasks = attacker.member(task, "task_struct", "tasks");

    // A copy in the list, under another name and number.
    let size = kernel.profile().layouts.as_ref().unwrap();
    let size = size.size("task_struct").unwrap();
    let decoy = scratch(&attacker);
    let mut copy = attacker.read(task, size);
    let mut put = |path: &str, bytes: &[u8]| {
        let at = (attacker.member(0, "task_struct", path)) as usize;
        copy[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put("pid", &4242i32.to_le_bytes());
    put("tgid", &4242i32.to_le_bytes());
    put("comm", b"decoy\0");
    let written = Written::of(&attacker, &[(decoy, copy)]);
    let link = attacker.member(decoy, "task_struct", "tasks");
    attacker.link(link, tasks);
    let found = hidden(&guest, &kernel, Depth::Slabs, decoy).expect("the decoy is found");
    assert!(
        found.is_decoy && found.in_list && found.comm == "decoy",
        "{found:?}"
    );
    attacker.unlink(link);
    drop(written);

    // Out of the list and of the table of numbers, and its number is not its own any more.
    let number = attacker.pointer(attacker.member(task, "task_struct", "thread_pid"));
    let entry = look(&kernel, &[], |look| look.pid_table_entry(Gva(number)));
    attacker.unlink(tasks);
    attacker.point(entry.unwrap().unwrap().0, 0);
    attacker.point(attacker.member(number, "pid", "tasks"), 0);
    attacker.write(attacker.member(task, "task_struct", "pid"), &[0; 4]);
    assert_eq!(hidden(&guest, &kernel, Depth::Books, task), None);
    let found = hidden(&guest, &kernel, Depth::Slabs, task).expect("its memory is found");
    assert!(
        found.in_slab && !found.in_list && !found.in_pid_table && !found.is_decoy,
        "{found:?}"
    );
    assert_eq!(found.comm, "sleep");
}

#[test]
fn a_program_that_is_deleted_is_marked_and_threads_of_the_kernel_have_their_whole_names() {
    let Some(files) = files() else { return };
    let mut guest = Guest::boot(&files, &["--memory", "256M"]);
    let pids = guest.ask(
        "mkdir /d; cp /bin/busybox /d/; /d/busybox sleep 100000 >/dev/null & echo $!; sleep 1; rm /d/busybox; \
         sleep 100000 >/dev/null & echo $!",
    );
    let pids: Vec<i32> = pids
        .lines()
        .map(|pid| pid.trim().parse().unwrap())
        .collect();
    let kernel = guest.attach(None).unwrap();
    let processes = look(&kernel, &[], |look| look.processes().into_value().unwrap());
    let executable = |pid: i32| {
        let process = processes.iter().find(|process| process.pid == pid).unwrap();
        process.executable.value().cloned().unwrap()
    };
    assert_eq!(executable(pids[0]), "/d/busybox (deleted)");
    assert!(!executable(pids[1]).contains("deleted"));
    let name = "rcu_tasks_kthread";
    let has_whole_name = |process: &insight::tasks::Process| {
        process.comm == name[..15] && process.full_name.as_deref() == Some(name)
    };
    assert!(processes.iter().any(has_whole_name));
}

#[test]
fn code_is_found_whose_module_has_left_nothing_behind() {
    let Some(files) = files() else { return };
    let guest = Guest::boot(&files, &["--memory", "256M"]);
    let kernel = guest.attach(None).unwrap();
    let pages = || {
        let pages = look(&kernel, &guest.registers(), |look| look.code_pages());
        pages.into_value().unwrap()
    };
    let before = pages();
    assert_eq!((before.unknown, before.displaced), (vec![], vec![]));
    let attacker = Attacker::new(&guest, &kernel);
    let (start, link) = attacker.module("virtio_balloon");
    let module = link - attacker.member(0, "module", "list");
    attacker.unlink(link);
    attacker.write(attacker.member(module, "module", "name"), &[0; 16]);
    attacker.point(attacker.member(module, "module", "mkobj.mod"), 0);
    let found = pages();
    let starts: Vec<u64> = found.unknown.iter().map(|code| code.start).collect();
    assert!(starts.contains(&start), "{found:x?}");
    // Told once the guest has run for a while: while it is paused, it may just be unloading.
    let rows = |guest: &Guest| {
        let said: serde_json::Value =
            serde_json::from_str(&guest.mother(&["truth", "--json", "seen"])).unwrap();
        let rows = said["rows"].as_array().unwrap().iter();
        let rows = rows.filter(|row| row["subject"] == "executable memory");
        rows.map(|row| row["verdict"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(rows(&guest), ["differs"]);
    attacker.resume();
    assert_eq!(rows(&guest), ["contradicts"]);
}

#[test]
fn a_forged_explanation_explains_nothing() {
    let Some(files) = files() else { return };
    let guest = Guest::boot(&files, &["--memory", "256M"]);
    let kernel = guest.attach(None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let first = check(&guest, &kernel, folder.path());
    assert!(first.findings.is_empty(), "{first:#?}");
    let attacker = Attacker::new(&guest, &kernel);
    let (code, link) = attacker.module("virtio_balloon");
    let module = link - attacker.member(0, "module", "list");
    let place = attacker.symbol(PLACE);
    let scratch = scratch(&attacker);
    let try_out = |writes: &[(u64, Vec<u8>)], kind: FindingKind, subject: &str, text: &str| {
        let written = Written::of(&attacker, writes);
        let result = check(&guest, &kernel, folder.path());
        let found = result.findings.iter().find(|finding| {
            finding.kind == kind && finding.subject == subject && finding.what.contains(text)
        });
        assert!(found.is_some(), "{subject}: {:#?}", result.findings);
        drop(written);
        let after = check(&guest, &kernel, folder.path());
        assert!(
            after.findings.is_empty(),
            "{subject}: {:#?}",
            after.findings
        );
    };
    let here = format!("{PLACE}+0x0");
    let balloon = "module virtio_balloon";

    // A module's table of jumps names a place of the kernel's.
    let distance = |from: u64, to: u64| (to.wrapping_sub(from) as u32).to_le_bytes().to_vec();
    let jumps = [
        (scratch, distance(scratch, place)),
        (scratch + 4, distance(scratch + 4, code + 0x10)),
        (
            attacker.member(module, "module", "jump_entries"),
            scratch.to_le_bytes().to_vec(),
        ),
        (
            attacker.member(module, "module", "num_jump_entries"),
            vec![1, 0, 0, 0],
        ),
        (place, branch(0xe9, place, code + 0x10)),
    ];
    try_out(&jumps, FindingKind::KernelText, &here, balloon);

    // The module's code is entered as that of a BPF program, which no program has.
    let symbols = attacker.symbol("bpf_kallsyms");
    let node = attacker.member(scratch, "bpf_ksym", "lnode");
    let next = attacker.pointer(symbols);
    let entered = [
        (
            attacker.member(scratch, "bpf_ksym", "start"),
            code.to_le_bytes().to_vec(),
        ),
        (
            attacker.member(scratch, "bpf_ksym", "end"),
            (code + 0x1000).to_le_bytes().to_vec(),
        ),
        (node, [next, symbols].map(u64::to_le_bytes).concat()),
        (next + 8, node.to_le_bytes().to_vec()),
        (symbols, node.to_le_bytes().to_vec()),
        (place, branch(0xe8, place, code + 0x10)),
    ];
    try_out(&entered, FindingKind::KernelText, &here, balloon);

    // A call of the kernel's own leads into a module.
    let stub = attacker.symbol("__SCT__cond_resched");
    let call = [(stub, branch(0xe9, stub, code + 0x10))];
    let led = "it now leads to module virtio_balloon";
    try_out(
        &call,
        FindingKind::KernelText,
        "__SCT__cond_resched+0x1",
        led,
    );

    // Constants: operations of a folder and of a protocol, of the processor, and code that every program has.
    let strange = (code + 0x11).to_le_bytes().to_vec();
    for (name, offset) in [
        ("proc_root_operations", 0x40),
        ("tcp4_seq_ops", 0x18),
        ("pv_ops", 8),
    ] {
        let at = attacker.symbol(name) + offset;
        let subject = format!("{name}+{offset:#x}");
        let points = "it now points to module virtio_balloon";
        try_out(
            &[(at, strange.clone())],
            FindingKind::Constants,
            &subject,
            points,
        );
    }
    let image = attacker.symbol("vdso_image_64");
    let image = attacker.pointer(attacker.member(image, "vdso_image", "data"));
    let byte = vec![attacker.read(image + 0x400, 1)[0] ^ 0x40];
    let vdso = "vdso_image_64+0x400";
    try_out(
        &[(image + 0x400, byte)],
        FindingKind::ProgramText,
        vdso,
        "1 byte",
    );
}

#[test]
fn a_process_with_a_kernel_of_its_own_is_found() {
    let Some(files) = files() else { return };
    let guest = Guest::boot(&files, &["--memory", "256M"]);
    let kernel = guest.attach(None).unwrap();
    let attacker = Attacker::new(&guest, &kernel);
    let private = || {
        let private = look(&kernel, &guest.registers(), |look| look.private_kernels());
        private.into_value().unwrap()
    };
    assert_eq!(private(), []);
    let mm = attacker.pointer(attacker.member(attacker.task(1), "task_struct", "mm"));
    let last = attacker.pointer(attacker.member(mm, "mm_struct", "pgd")) + 511 * 8;
    let entry = attacker.pointer(last);
    // A copy of the next table maps the same, for now: that it is the process's own is enough.
    let memory = attacker.pointer(attacker.symbol("page_offset_base"));
    let scratch = scratch(&attacker);
    let table = attacker.read(memory + (entry & 0xf_ffff_ffff_f000), 4096);
    let lies_at = look(&kernel, &[], |look| look.physical(Gva(scratch))).unwrap();
    let own = lies_at.0 | entry & 0xfff;
    let written = Written::of(
        &attacker,
        &[(scratch, table), (last, own.to_le_bytes().to_vec())],
    );
    let found = private();
    let told: Vec<(i32, u64)> = found
        .iter()
        .map(|private| (private.pid, private.address))
        .collect();
    assert_eq!(told, [(1, 0xffff_ff80_0000_0000)], "{found:?}");
    drop(written);
    assert_eq!(private(), []);
}

#[test]
fn a_breakpoint_on_the_kernels_code_is_told_if_the_kernel_does_not_know_of_it() {
    let Some(files) = files() else { return };
    let guest = Guest::boot(&files, &["--memory", "256M"]);
    let kernel = guest.attach(None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let place = kernel.address(PLACE).unwrap().0;
    let mut registers = guest.registers();
    let mut subjects = |dr7: u64, address: u64| {
        registers[0].dr7 = dr7;
        registers[0].breakpoints[1] = address;
        let result = look(&kernel, &registers, |look| {
            look.integrity(folder.path(), LIFE, Scope::Part(4096))
        });
        let findings = result.into_value().unwrap().findings;
        findings
            .into_iter()
            .map(|finding| finding.subject)
            .collect::<Vec<_>>()
    };
    // A task's own may be gone by the time that its CPU's books are read: it takes several checks.
    for _ in 0..4 {
        assert_eq!(subjects(0x404, place), [""; 0]);
    }
    assert_eq!(subjects(0x404, place), ["DR1 of vCPU 0"]);
    assert_eq!(subjects(0x400, place), [""; 0], "it is off");
    // One that waits for a write, and one of a program's.
    for _ in 0..6 {
        assert_eq!(subjects(0x10_0404, place), [""; 0]);
        assert_eq!(subjects(0x404, 0x40_1000), [""; 0]);
    }
}

#[test]
fn code_that_is_changed_for_a_moment_again_and_again_is_told() {
    let Some(files) = files() else { return };
    let guest = Guest::boot(&files, &["--memory", "256M"]);
    let kernel = guest.attach(None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let before = check(&guest, &kernel, folder.path());
    assert!(before.findings.is_empty(), "{before:#?}");
    let attacker = Attacker::new(&guest, &kernel);
    let place = attacker.symbol(PLACE) + 0x20;
    let jump = branch(0xe9, place, attacker.symbol("__x64_sys_getpid"));
    let was = attacker.read(place, jump.len());
    let (file, offset) = attacker.place(place);
    let is_over = AtomicBool::new(false);
    let wait = |pages: Option<&[u64]>| {
        look(&kernel, &[], |look| {
            let time = Duration::from_millis(1500);
            look.wait_and_see((folder.path(), LIFE), pages, time)
                .unwrap();
        });
    };
    // Nothing comes and goes yet.
    wait(Some(&[place & !0xfff]));
    assert!(check(&guest, &kernel, folder.path()).findings.is_empty());
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(150));
                file.write_all_at(&jump, offset).unwrap();
                thread::sleep(Duration::from_millis(80));
                file.write_all_at(&was, offset).unwrap();
            }
        });
        wait(None);
        is_over.store(true, Ordering::Relaxed);
    });
    let after = check(&guest, &kernel, folder.path());
    let told = after.findings.iter().any(|finding| {
        finding.subject.starts_with(PLACE)
            && finding
                .what
                .contains("changed back: it led to __x64_sys_getpid")
    });
    assert!(told, "{:#?}", after.findings);
}

#[test]
fn credentials_and_threads_that_no_kernel_made_are_told() {
    let Some(files) = files() else { return };
    let mut guest = Guest::boot(&files, &["--memory", "256M"]);
    let pid = guest.ask("sleep 100000 >/dev/null & echo $!");
    let pid: i32 = pid.trim().parse().unwrap();
    let awk = r#"awk 'BEGIN { s = sprintf("%40000000s", "x"); system("sleep 100000"); print s }'"#;
    let large = guest.ask(&format!("{awk} >/dev/null & echo $!; sleep 3"));
    let large: i32 = large.trim().parse().unwrap();
    let kernel = guest.attach(None).unwrap();
    let attacker = Attacker::new(&guest, &kernel);
    let told = || {
        let found = look(&kernel, &[], |look| look.strange_credentials());
        let found = found.into_value().unwrap().into_iter();
        found
            .map(|strange| (strange.pid, strange.what))
            .collect::<Vec<_>>()
    };
    assert_eq!(told(), []);
    let holds = attacker.member(attacker.task(pid), "task_struct", "real_cred");
    let credentials = attacker.pointer(holds);
    let others = attacker.pointer(attacker.member(attacker.task(1), "task_struct", "real_cred"));
    let check = |at: u64, bytes: &[u8], who: i32, text: &str| {
        let written = Written::of(&attacker, &[(at, bytes.to_vec())]);
        let found = told();
        assert!(
            found
                .iter()
                .any(|(pid, what)| *pid == who && what.contains(text)),
            "{text}: {found:?}"
        );
        drop(written);
        assert_eq!(told(), []);
    };
    let uid = attacker.member(credentials, "cred", "uid.val");
    check(
        uid,
        &[232, 3, 0, 0],
        pid,
        "the user is 1000, and is counted as user 0",
    );
    check(
        holds,
        &others.to_le_bytes(),
        pid,
        "process 1 has the very same",
    );
    let first = attacker.symbol("init_cred");
    check(
        holds,
        &first.to_le_bytes(),
        pid,
        "the kernel's own first ones",
    );
    let permitted = attacker.member(credentials, "cred", "cap_permitted");
    check(permitted, &[0; 4], pid, "are effective and not permitted");

    // A worker that started in a module.
    let threads = || {
        let found = look(&kernel, &[], |look| look.strange_threads());
        found.into_value().unwrap()
    };
    assert_eq!(threads(), []);
    let (code, _) = attacker.module("virtio_balloon");
    let processes = look(&kernel, &[], |look| look.processes().into_value().unwrap());
    let worker = processes
        .iter()
        .find(|process| process.comm.starts_with("kworker/"))
        .unwrap();
    let own = attacker.pointer(attacker.member(worker.address, "task_struct", "worker_private"));
    let start = attacker.member(own, "kthread", "threadfn");
    let written = Written::of(&attacker, &[(start, (code + 0x10).to_le_bytes().to_vec())]);
    let found = threads();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].pid == worker.pid
            && found[0].what == "it started at module virtio_balloon+0x10, not at worker_thread",
        "{found:?}"
    );
    drop(written);

    // A process with more memory than its kernel counts.
    let uncounted = || {
        let found = look(&kernel, &[], |look| look.uncounted_memory());
        let found = found.into_value().unwrap().into_iter();
        found.map(|process| process.pid).collect::<Vec<_>>()
    };
    assert_eq!(uncounted(), [0; 0]);
    let mm = attacker.pointer(attacker.member(attacker.task(large), "task_struct", "mm"));
    let counts = attacker.member(mm, "mm_struct", "rss_stat.count");
    let written = Written::of(&attacker, &[(counts, vec![0; 32])]);
    assert_eq!(uncounted(), [large]);
    drop(written);

    // More free memory than there is in lists of it.
    let rows = || {
        let said: serde_json::Value =
            serde_json::from_str(&guest.mother(&["truth", "--json", "seen"])).unwrap();
        let rows = said["rows"].as_array().unwrap().iter();
        let rows = rows.filter(|row| row["rule"] == "free-memory");
        rows.map(|row| row["verdict"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(rows(), [""; 0]);
    let counter = attacker.symbol("vm_zone_stat");
    attacker.point(counter, attacker.pointer(counter) + 30_000);
    assert_eq!(rows(), ["contradicts"]);
}

/// Every hook that has this kind: where it is, what it calls, and whose that is.
fn hooks(guest: &Guest, kernel: &Kernel, kind: HookKind) -> Vec<Hook> {
    let found = look(kernel, &guest.registers(), |look| look.hooks());
    let why = found.why_not().map(str::to_owned);
    let found = found.into_value().unwrap_or_else(|| panic!("{why:?}"));
    assert_eq!(found.missing, [""; 0]);
    let mut hooks = found.hooks;
    hooks.retain(|hook| hook.kind == kind);
    hooks
}

#[test]
fn what_hooks_into_a_kernel_is_told_with_whose_code_it_is() {
    let Some(files) = files() else { return };
    let mut guest = Guest::boot(&files, &["--memory", "256M"]);
    let kernel = guest.attach(None).unwrap();
    assert_eq!(hooks(&guest, &kernel, HookKind::Kprobe), []);
    guest.ask("mkdir /t; mount -t tracefs t /t; echo p:one do_sys_openat2 >/t/kprobe_events");
    guest.ask("echo 1 >/t/events/kprobes/enable; echo __x64_sys_swapon >/t/set_ftrace_filter");
    guest.ask("echo function >/t/current_tracer; cat /proc/version");
    let owned = |hook: &Hook| hook.owner.as_deref() == Some("kernel");
    let probes = hooks(&guest, &kernel, HookKind::Kprobe);
    let is_ours = |hook: &Hook| hook.at == "do_sys_openat2" && hook.calls == "kprobe_dispatcher";
    assert!(
        probes.iter().all(owned) && probes.iter().any(is_ours),
        "{probes:?}"
    );
    let tracers = hooks(&guest, &kernel, HookKind::Ftrace);
    let is_ours =
        |hook: &Hook| hook.at == "__x64_sys_swapon" && hook.calls == "function_trace_call";
    assert!(
        tracers.iter().all(owned) && tracers.iter().any(is_ours),
        "{tracers:?}"
    );
    let chains = hooks(&guest, &kernel, HookKind::Notifier);
    assert!(
        chains.iter().any(|hook| hook.at == "netdev_chain"),
        "{chains:?}"
    );
    assert!(chains.iter().all(|hook| hook.owner.is_some()), "{chains:?}");
    let printed = guest.mother(&["hooks", "seen"]);
    assert!(printed.contains("function_trace_call"), "{printed}");
    assert!(!printed.contains("nobody's"), "{printed}");
    // Somebody joins a chain, and filters packets, with code of nobody's.
    let attacker = Attacker::new(&guest, &kernel);
    let place = scratch(&attacker);
    let code = place + 0x800;
    let chain = attacker.symbol("keyboard_notifier_list");
    let head = attacker.member(chain, "atomic_notifier_head", "head");
    let next = attacker.member(place, "notifier_block", "next");
    let call = attacker.member(place, "notifier_block", "notifier_call");
    let filters = place + 0x200;
    let count = attacker.member(filters, "nf_hook_entries", "num_hook_entries");
    let entry = attacker.member(filters, "nf_hook_entries", "hooks");
    let input = attacker.member(attacker.symbol("init_net"), "net", "nf.hooks_ipv4") + 8;
    let number = |number: u64| number.to_le_bytes().to_vec();
    let before = attacker.pointer(head);
    let writes = [
        (next, number(before)),
        (call, number(code)),
        (head, number(place)),
        (count, 1_u16.to_le_bytes().to_vec()),
        (
            attacker.member(entry, "nf_hook_entry", "hook"),
            number(code),
        ),
        (input, number(filters)),
    ];
    let written = Written::of(&attacker, &writes);
    for (kind, at) in [
        (HookKind::Notifier, "keyboard_notifier_list"),
        (HookKind::Netfilter, "ip input, net "),
    ] {
        let found = hooks(&guest, &kernel, kind);
        let is_ours = |hook: &&Hook| hook.address == code && hook.at.starts_with(at);
        let hook = found.iter().find(is_ours);
        let hook = hook.unwrap_or_else(|| panic!("{at}: {found:?}"));
        assert_eq!(hook.owner, None);
    }
    drop(written);
}
