//! Guests that lie, hang or panic: insight is not taken in, and goes on answering.
//!
//! The lies are told by writing guest memory from outside, as a rootkit would from inside.

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::Child;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use insight::hidden::{Depth, HiddenTask};
use insight::{Kernel, Look};
use serde_json::Value;
use x86::Gva;

use crate::compare::look;
use crate::guest::Guest;

/// How often a guest is looked at before a difference counts.
const LOOKS: usize = 3;

/// What all of several looks see.
fn hidden(guest: &Guest, kernel: &Kernel, depth: Depth) -> Vec<HiddenTask> {
    let looks: Vec<Vec<HiddenTask>> = (0..LOOKS)
        .map(|_| {
            look(kernel, &guest.registers(), |look| {
                look.hidden_tasks(depth).into_value().unwrap()
            })
        })
        .collect();
    insight::hidden::confirmed(&looks, |task| task.address)
}

/// Where a member of a structure in the guest lies, in the kernel's addresses.
fn place(kernel: &Kernel, address: u64, of: &str, path: &str) -> Gva {
    let place = kernel
        .profile()
        .layouts
        .as_ref()
        .unwrap()
        .place(of, path)
        .unwrap();
    Gva(address + place.offset as u64)
}

fn write(guest: &Guest, look: &Look<'_>, at: Gva, value: u64) {
    let gpa = look.physical(at).unwrap();
    guest
        .memory_for_writing()
        .write_all_at(&value.to_le_bytes(), gpa.0)
        .unwrap();
}

fn read(look: &Look<'_>, at: Gva) -> u64 {
    look.number_at(at).unwrap()
}

/// Takes a task out of the list of tasks.
fn unlink(guest: &Guest, kernel: &Kernel, task: u64) {
    let link = place(kernel, task, "task_struct", "tasks");
    look(kernel, &[], |look| {
        let next = read(look, link);
        let previous = read(look, Gva(link.0 + 8));
        write(guest, look, Gva(previous), next);
        write(guest, look, Gva(next + 8), previous);
    });
}

fn pid_of(guest: &mut Guest, line: &str) -> i32 {
    guest.ask(line).trim().parse().unwrap()
}

fn seen(kernel: &Kernel, pid: i32) -> Option<u64> {
    let processes = look(kernel, &[], |look| look.processes().into_value().unwrap());
    processes
        .into_iter()
        .find(|process| process.pid == pid)
        .map(|process| process.address)
}

/// A process that was taken out of the list, and one that was also taken out of the table of numbers.
pub fn hidden_processes(guest: &mut Guest) {
    let kernel = guest.attach(None).unwrap();
    assert_eq!(
        hidden(guest, &kernel, Depth::Slabs),
        [],
        "before anything was hidden"
    );
    let sleeper = pid_of(guest, "sleep 100000 >/dev/null & echo $!");
    let worker = pid_of(guest, "(while :; do :; done) >/dev/null & echo $!");
    let sleeper_at = seen(&kernel, sleeper).unwrap();
    let worker_at = seen(&kernel, worker).unwrap();
    for task in [sleeper_at, worker_at] {
        unlink(guest, &kernel, task);
    }
    assert_eq!(
        (seen(&kernel, sleeper), seen(&kernel, worker)),
        (None, None),
        "the list is what a liar changed"
    );
    let found = hidden(guest, &kernel, Depth::Books);
    let pids: Vec<i32> = found.iter().map(|task| task.pid).collect();
    assert!(
        pids.contains(&sleeper) && pids.contains(&worker) && pids.len() == 2,
        "{found:?}"
    );
    assert!(
        found.iter().all(|task| !task.in_list && task.in_pid_table),
        "{found:?}"
    );
    // The number's entry in the table, found as the kernel's own `find_pid_ns` would.
    look(&kernel, &[], |look| {
        let number = read(
            look,
            place(&kernel, sleeper_at, "task_struct", "thread_pid"),
        );
        let entry = look
            .pid_table_entry(Gva(number))
            .unwrap()
            .expect("the table has it");
        write(guest, look, entry, 0);
    });
    let find = |found: &[HiddenTask]| found.iter().find(|task| task.pid == sleeper).cloned();
    assert_eq!(
        find(&hidden(guest, &kernel, Depth::Books)),
        None,
        "nothing of the books is left"
    );
    let found = find(&hidden(guest, &kernel, Depth::Slabs)).expect("the slab still has it");
    assert!(
        !found.in_list && !found.in_pid_table && found.in_slab,
        "{found:?}"
    );
    assert!(guest.ask("ps").contains("sh"), "the guest lives on");
    let deadline = Instant::now() + Duration::from_secs(60);
    let is_seen = |guest: &Guest| {
        let registers = guest.registers();
        let found = look(&kernel, &registers, |look| {
            look.hidden_tasks(Depth::Books).into_value().unwrap()
        });
        found
            .iter()
            .any(|task| task.pid == worker && task.seen_running)
    };
    while !is_seen(guest) {
        assert!(
            Instant::now() < deadline,
            "what runs all the time is never seen running"
        );
    }
}

/// A process in the moment of its making: its task is its parent's copy, down to the stack, and in no book yet.
pub fn forking(guest: &mut Guest) {
    let kernel = guest.attach(None).unwrap();
    let pid = pid_of(guest, "echo $$");
    let parent = seen(&kernel, pid).unwrap();
    guest.mother(&["pause", "seen"]);
    let (size, slab_bytes, taken) = look(&kernel, &[], |look| {
        let cache = read(look, kernel.address("task_struct_cachep").unwrap());
        let size = read(look, place(&kernel, cache, "kmem_cache", "size")) & 0xffff_ffff;
        let processes = look.processes().into_value().unwrap();
        let taken: Vec<u64> = processes.iter().map(|process| process.address).collect();
        // The order of its slabs is above the number of objects in one (`OO_SHIFT`, `mm/slub.c`).
        let order = read(look, place(&kernel, cache, "kmem_cache", "oo")) as u32 >> 16;
        (size, 4096_u64 << order, taken)
    });
    let memory = guest.memory_for_writing();
    let copied = look(&kernel, &[], |look| {
        look.physical(Gva(parent)).map(|gpa| {
            let mut bytes = vec![0; size as usize];
            memory.read_exact_at(&mut bytes, gpa.0).unwrap();
            bytes
        })
    });
    let copied = copied.unwrap();
    // Places in the slabs of tasks where one can be made and none is: there one with a stack of its own would be told. The
    // parent's own slab may be full, so those of all tasks are tried, the parent's first.
    let tasks = std::iter::once(parent).chain(taken.iter().copied());
    let mut beside: Vec<u64> = Vec::new();
    for address in tasks.flat_map(|task| {
        let slab = task / slab_bytes;
        (1..=16)
            .flat_map(move |n| [task + n * size, task.wrapping_sub(n * size)])
            .filter(move |at| [*at, *at + size - 1].map(|it| it / slab_bytes) == [slab; 2])
    }) {
        if !taken.contains(&address) && !beside.contains(&address) {
            beside.push(address);
        }
    }
    let mut tried = 0;
    for address in beside {
        if tried == 3 {
            break;
        }
        let Ok(gpa) = look(&kernel, &[], |look| look.physical(Gva(address))) else {
            continue;
        };
        let mut before = vec![0; size as usize];
        memory.read_exact_at(&mut before, gpa.0).unwrap();
        memory.write_all_at(&copied, gpa.0).unwrap();
        let as_copy = hidden(guest, &kernel, Depth::Slabs);
        let stack = place(&kernel, address, "task_struct", "stack");
        let stopped_at = place(&kernel, address, "task_struct", "thread.sp");
        look(&kernel, &[], |look| {
            const ELSEWHERE: u64 = 1 << 20;
            for at in [stack, stopped_at] {
                write(guest, look, at, read(look, at) + ELSEWHERE);
            }
        });
        let as_task = hidden(guest, &kernel, Depth::Slabs);
        memory.write_all_at(&before, gpa.0).unwrap();
        assert_eq!(as_copy, [], "at {address:#x}");
        tried += usize::from(as_task.iter().any(|task| task.address == address));
    }
    guest.mother(&["resume", "seen"]);
    assert!(tried > 0, "no place was found where a task is made");
    assert!(guest.ask("ps").contains("sh"), "the guest lives on");
}

/// What is asked of a guest that no longer answers.
fn still_answers(guest: &Guest, kernel: &Kernel, log: &str) {
    let registers = guest.registers();
    look(kernel, &registers, |look| {
        let processes = look.processes().into_value().unwrap();
        assert!(
            processes.iter().any(|process| process.pid == 1),
            "the first process is seen"
        );
        let records = look.kernel_log().into_value().unwrap();
        assert!(
            records.iter().any(|record| record.text.contains(log)),
            "the log says {log:?}"
        );
        assert!(
            look.memory_counters()
                .value()
                .is_some_and(|counters| counters.get("MemTotal").is_some())
        );
    });
    // Also for somebody who comes only now.
    let late = guest.attach(None).unwrap();
    assert_eq!(late.rung(), kernel.rung());
    for (words, expected) in [
        (["ps", "seen"], "PID"),
        (["dmesg", "seen"], log),
        (["truth", "seen"], "memory"),
    ] {
        let said = guest.mother(&words);
        assert!(
            said.contains(expected),
            "`mother {}` says: {said}",
            words.join(" ")
        );
    }
}

/// No liar: with page-table isolation a process that runs has tables in which its kernel is not.
pub fn isolated(guest: &mut Guest) {
    assert!(
        guest
            .ask("dmesg")
            .contains("page tables isolation: enabled")
    );
    guest.send("(while :; do :; done) &");
    let deadline = Instant::now() + Duration::from_secs(60);
    // In the tables for user mode, which lie behind those for the kernel.
    let registers = loop {
        let registers = guest.registers();
        if registers[0].cpl == 3 && registers[0].cr3 & 0x1000 != 0 {
            break registers;
        }
        assert!(
            Instant::now() < deadline,
            "the process is never seen: {registers:x?}"
        );
    };
    let kernel = insight::attach(guest.memory(), &registers, None).unwrap();
    assert_eq!(
        (kernel.rung(), kernel.disputes()),
        (insight::Rung::Profile, &[][..])
    );
    look(&kernel, &registers, |look| {
        let processes = look.processes().into_value().unwrap();
        assert!(
            processes.iter().any(|process| process.pid == 1),
            "the first process is seen"
        );
        assert_eq!(look.unknown_spaces().into_value(), Some(Vec::new()));
    });
    assert_eq!(hidden(guest, &kernel, Depth::Books), []);
}

/// A guest whose kernel's symbols are nonsense: by its own memory all that is left is that it calls itself a kernel.
pub fn without_symbols(guest: &mut Guest) {
    let kernel = guest.attach(None).unwrap();
    let release = kernel.release().to_owned();
    let tokens = kernel
        .vmcoreinfo()
        .unwrap()
        .symbol("kallsyms_token_table")
        .unwrap();
    look(&kernel, &[], |look| {
        (0..128).for_each(|word| write(guest, look, Gva(tokens.0 + 8 * word), u64::MAX))
    });
    let not = guest
        .attach(None)
        .err()
        .expect("no symbols prove themselves");
    assert_eq!(not.release(), Some(release.as_str()), "{not}");
    // And what the kernel file says of it is as true as before.
    let empty = tempfile::tempdir().unwrap();
    let truth = guest.mother_with_cache(&["truth", "seen"], empty.path());
    let head =
        format!("VM seen: Linux {release} (kallsyms+BTF of the kernel file that was loaded)");
    assert!(truth.starts_with(&head), "{truth}");
    for text in ["256M", "nothing paged out"] {
        assert!(truth.contains(text), "{text:?} in {truth}");
    }
}

/// A guest whose kernel has panicked.
pub fn panicked(guest: &mut Guest) {
    let kernel = guest.attach(None).unwrap();
    guest.ask("echo 1 >/proc/sys/kernel/sysrq");
    guest.send("echo c >/proc/sysrq-trigger");
    let deadline = Instant::now() + Duration::from_secs(60);
    let has_panicked = || {
        let records = look(&kernel, &[], |look| look.kernel_log().into_value()).unwrap_or_default();
        records
            .iter()
            .any(|record| record.text.contains("end Kernel panic"))
    };
    while !has_panicked() {
        assert!(Instant::now() < deadline, "the guest does not panic");
        std::thread::sleep(Duration::from_millis(100));
    }
    still_answers(guest, &kernel, "Kernel panic - not syncing");
    let truth = guest.mother(&["truth", "seen"]);
    assert!(
        truth.contains("panicked: sysrq triggered crash") && truth.contains("CONTRADICTS"),
        "{truth}"
    );
}

/// A guest that spins with interrupts off: the code of a system call that nobody has used yet is replaced by
/// `cli; jmp self`.
pub fn hung(guest: &mut Guest) {
    const HANG: u64 = 0xfe_eb_fa;
    let kernel = guest.attach(None).unwrap();
    let entry = kernel.address("__x64_sys_swapon").unwrap();
    look(&kernel, &[], |look| write(guest, look, entry, HANG));
    guest.send("swapon /dev/null");
    let deadline = Instant::now() + Duration::from_secs(60);
    let is_hung = |guest: &Guest| {
        guest
            .registers()
            .iter()
            .any(|vcpu| vcpu.rip == entry.0 + 1 && vcpu.rflags & 0x200 == 0)
    };
    while !is_hung(guest) {
        assert!(
            Instant::now() < deadline,
            "the guest does not hang: {:x?}",
            guest.registers()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    still_answers(guest, &kernel, "Linux version");
    let truth = guest.mother(&["truth", "seen"]);
    let told = "vCPU 0: it is at __x64_sys_swapon+0x1, and has run ";
    assert!(
        truth.contains(told) && truth.contains("rule hung") && truth.contains("CONTRADICTS"),
        "{truth}"
    );
}

/// Follows the policy `guarded` while a guest works.
struct Guarded {
    watching: Child,
    said: JoinHandle<String>,
}

impl Guarded {
    fn follow(guest: &Guest) -> Guarded {
        let words = "watch --json --policy guarded --journal /dev/null seen";
        let mut watching = guest.start(&words.split(' ').collect::<Vec<_>>());
        let mut output = watching.stdout.take().unwrap();
        // Read as it comes: who waits for room to write follows nothing.
        let said = std::thread::spawn(move || {
            let mut text = String::new();
            output.read_to_string(&mut text).unwrap();
            text
        });
        Guarded { watching, said }
    }

    /// Decisions that act on the guest, and how many are only noted.
    fn end(mut self) -> (Vec<String>, usize) {
        self.watching.kill().unwrap();
        self.watching.wait().unwrap();
        let text = self.said.join().unwrap();
        // The last line may have been cut short.
        let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
        let lines = whole.lines().map(serde_json::from_str::<Value>);
        let (notes, acts): (Vec<_>, Vec<_>) = lines
            .map(|line| line.unwrap()["decision"].clone())
            .filter(|decision| decision["rule"].is_string())
            .partition(|decision| {
                let then = decision["then"].as_array().unwrap();
                then.iter().all(|action| action == "note")
            });
        (acts.iter().map(Value::to_string).collect(), notes.len())
    }
}

/// A guest that works honestly for so long; whatever is hidden according to us is a false alarm, and so is whatever the policy
/// `guarded` acts on.
pub fn honest(guest: &mut Guest, seconds: u64) {
    let kernel = guest.attach(None).unwrap();
    let guarded = Guarded::follow(guest);
    guest.ask("insmod /modules/dummy.ko 2>/dev/null; true");
    // Processes that come and go, files, pipes, modules in and out, sockets.
    guest.send(
        "(while :; do for i in 1 2 3 4 5 6 7 8; do (sha256sum /bin/busybox; ls -lR /sys/kernel | gzip | gunzip | wc) \
         >/dev/null 2>&1 & done; wait; rmmod dummy; insmod /modules/dummy.ko; cat /proc/*/status | sort | tail -1; \
         done) >/dev/null 2>&1 &",
    );
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut looks = 0;
    let mut alarms = Vec::new();
    while Instant::now() < deadline {
        let tasks = hidden(guest, &kernel, Depth::Slabs);
        let modules: Vec<Vec<insight::hidden::HiddenModule>> = (0..LOOKS)
            .map(|_| {
                look(&kernel, &[], |look| {
                    look.hidden_modules().into_value().unwrap()
                })
            })
            .collect();
        let spaces: Vec<Vec<insight::hidden::UnknownSpace>> = (0..LOOKS)
            .map(|_| {
                look(&kernel, &guest.registers(), |look| {
                    look.unknown_spaces().into_value().unwrap()
                })
            })
            .collect();
        alarms.extend(tasks.iter().map(|task| format!("{task:?}")));
        let modules = insight::hidden::confirmed(&modules, |module| module.address);
        alarms.extend(modules.iter().map(|module| format!("{module:?}")));
        let spaces = insight::hidden::confirmed(&spaces, |space| *space);
        alarms.extend(spaces.iter().map(|space| format!("{space:?}")));
        // And everything else that is ever told.
        let said: Value =
            serde_json::from_str(&guest.mother(&["truth", "--json", "seen"])).unwrap();
        let rows = said["rows"].as_array().unwrap().iter();
        let rows = rows.filter(|row| row["verdict"] == "contradicts");
        alarms.extend(rows.map(Value::to_string));
        looks += LOOKS;
        std::thread::sleep(Duration::from_millis(250));
    }
    let (acted, noted) = guarded.end();
    let release = kernel.release();
    crate::say(&format!(
        "{release}: {looks} looks at a guest that works for {seconds} s, {} alarms; `guarded` acted {} times and noted \
         {noted}",
        alarms.len(),
        acted.len()
    ));
    assert!(
        looks > 0 && alarms.is_empty(),
        "false alarms: {}",
        alarms.join("\n")
    );
    assert!(acted.is_empty(), "acted on: {}", acted.join("\n"));
}
