//! Escape drills: what somebody does who has broken out of a guest and into its process.
//!
//! Threads of a VM's process are taken over and made to try. Everything is tried of a VM without a jail first, where it has to
//! succeed: a drill that could not do anyway what the jail forbids would show nothing.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;
#[path = "drills/foreign.rs"]
mod foreign;
#[path = "drills/ladder.rs"]
mod ladder;
#[path = "drills/observer.rs"]
mod observer;
#[path = "common/puppet.rs"]
mod puppet;

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::host::Host;
use puppet::{Came, Puppet, thread_of};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};

/// A VM that waits, and its process.
fn vm(host: &Host, name: &str, jail: &str) -> i32 {
    let ran = host.run(&["-d", "--name", name, "--engine", "soft", "--jail", jail]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let vm = host.ps(name);
    i32::try_from(vm["pid"].as_i64().unwrap()).unwrap()
}

fn puppet(process: i32, thread: &str) -> Puppet {
    let number = if thread == "main" {
        process
    } else {
        thread_of(process, thread).unwrap()
    };
    Puppet::of(process, number).unwrap()
}

/// One thing to try: what, with which text (if any), and the call; its text's place goes where `TEXT` stands, and the number of
/// another VM's process where `SIBLING` does.
struct Drill {
    what: &'static str,
    text: &'static [u8],
    call: (i64, [u64; 6]),
}

const TEXT: u64 = 0x7465_7874;
const SIBLING: u64 = 0x7369_6221;
const HERE: u64 = libc::AT_FDCWD as i64 as u64;

fn perform(puppet: &mut Puppet, drill: &Drill, sibling: i32) -> Came {
    let text = if drill.text.is_empty() {
        0
    } else {
        puppet.put(drill.text)
    };
    let (number, arguments) = drill.call;
    let arguments = arguments.map(|it| match it {
        TEXT => text,
        SIBLING => u64::from(sibling.unsigned_abs()),
        it => it,
    });
    puppet.call(number, arguments)
}

const fn drill(what: &'static str, text: &'static [u8], number: i64, arguments: [u64; 6]) -> Drill {
    Drill {
        what,
        text,
        call: (number, arguments),
    }
}

const REFUSED_QUIETLY: Came = Came::Answer(-(libc::EPERM as i64));

/// What does not end the process, so that one VM is enough.
const DRILLS: &[Drill] = &[
    drill(
        "reads a file of the host",
        b"/etc/passwd\0",
        libc::SYS_openat,
        [HERE, TEXT, 0, 0, 0, 0],
    ),
    drill(
        "opens a descriptor again",
        b"/proc/self/fd/0\0",
        libc::SYS_openat,
        [HERE, TEXT, 2, 0, 0, 0],
    ),
    drill(
        "reads memory of the first process",
        b"/proc/1/status\0",
        libc::SYS_openat,
        [HERE, TEXT, 0, 0, 0, 0],
    ),
    drill(
        "lists a folder",
        b"/\0",
        libc::SYS_openat,
        [HERE, TEXT, 0x10000, 0, 0, 0],
    ),
    drill(
        "looks whether a file is there",
        b"/etc/passwd\0",
        libc::SYS_access,
        [TEXT, 0, 0, 0, 0, 0],
    ),
    drill(
        "makes a folder",
        b"/tmp/mother-drill\0",
        libc::SYS_mkdir,
        [TEXT, 0o700, 0, 0, 0, 0],
    ),
    drill(
        "removes a folder",
        b"/tmp/mother-drill\0",
        libc::SYS_rmdir,
        [TEXT, 0, 0, 0, 0, 0],
    ),
    drill(
        "makes a socket of the internet",
        b"",
        libc::SYS_socket,
        [2, 1, 0, 0, 0, 0],
    ),
    drill(
        "makes a socket of netlink",
        b"",
        libc::SYS_socket,
        [16, 3, 0, 0, 0, 0],
    ),
    drill(
        "makes a local socket",
        b"",
        libc::SYS_socket,
        [1, 1, 0, 0, 0, 0],
    ),
    drill(
        "looks for its parent",
        b"",
        libc::SYS_kill,
        [u64::MAX, 0, 0, 0, 0, 0],
    ),
    drill(
        "looks whether another VM is there",
        b"",
        libc::SYS_kill,
        [SIBLING, 0, 0, 0, 0, 0],
    ),
    drill(
        "takes hold of another VM",
        b"",
        libc::SYS_pidfd_open,
        [SIBLING, 0, 0, 0, 0, 0],
    ),
    drill(
        "puts another VM behind all others",
        b"",
        libc::SYS_setpriority,
        [0, SIBLING, 19, 0, 0, 0],
    ),
    drill("watches files", b"", libc::SYS_inotify_init1, [0; 6]),
    drill(
        "gets executable memory",
        b"",
        libc::SYS_mmap,
        [0, 4096, 5, 0x22, u64::MAX, 0],
    ),
    drill(
        "gets memory to write and execute",
        b"",
        libc::SYS_mmap,
        [0, 4096, 7, 0x22, u64::MAX, 0],
    ),
    drill(
        "asks what it is for the kernel",
        b"",
        libc::SYS_personality,
        [0xffff_ffff, 0, 0, 0, 0, 0],
    ),
    drill(
        "sets who gets its signals",
        b"",
        libc::SYS_fcntl,
        [0, 8, 0, 0, 0, 0],
    ),
];

/// What only an intruder does.
const DEADLY: &[Drill] = &[
    drill(
        "leaves what it shares",
        b"",
        libc::SYS_unshare,
        [libc::CLONE_FS as u64, 0, 0, 0, 0, 0],
    ),
    drill(
        "becomes another user",
        b"",
        libc::SYS_setreuid,
        [u64::MAX, u64::MAX, 0, 0, 0, 0],
    ),
    drill(
        "asks for its groups to be others",
        b"",
        libc::SYS_setregid,
        [u64::MAX, u64::MAX, 0, 0, 0, 0],
    ),
];

/// Each of these succeeds without the jail, without which its failing there would say nothing.
fn works<'a>(in_free: &mut Puppet, drills: impl IntoIterator<Item = &'a Drill>, sibling: i32) {
    for drill in drills {
        let unconfined = perform(in_free, drill, sibling);
        assert!(unconfined.succeeded(), "{}: {unconfined:?}", drill.what);
    }
}

/// None of these succeeds in the jail.
fn is_held<'a>(in_jail: &mut Puppet, drills: impl IntoIterator<Item = &'a Drill>, sibling: i32) {
    for drill in drills {
        let came = perform(in_jail, drill, sibling);
        // A kind's own filter may refuse what libc does for its comfort without a word.
        let is_refused = came == Came::Refused || came == REFUSED_QUIETLY;
        assert!(is_refused, "{}: {came:?}", drill.what);
    }
}

/// What only an intruder does ends the process.
fn dies(in_jail: &mut Puppet, sibling: i32) {
    let deadly = perform(in_jail, &DEADLY[0], sibling);
    assert_eq!(deadly, Came::Dead(libc::SIGSYS));
}

#[test]
fn who_has_broken_out_of_a_guest_has_nothing_of_the_host() {
    let host = Host::new();
    let free = vm(&host, "free", "off");
    let jailed = vm(&host, "jailed", "auto");
    let sibling = vm(&host, "sibling", "auto");
    for thread in ["main", "control", "vcpu0", "attendant"] {
        let mut in_free = puppet(free, thread);
        let mut in_jail = puppet(jailed, thread);
        for drill in DRILLS {
            let what = drill.what;
            let unconfined = perform(&mut in_free, drill, sibling);
            assert!(unconfined.succeeded(), "{thread} {what}: {unconfined:?}");
            let came = perform(&mut in_jail, drill, sibling);
            // A kind's own filter may refuse what libc does for its comfort without a word.
            let is_refused = came == Came::Refused || came == REFUSED_QUIETLY;
            assert!(is_refused, "{thread} {what}: {came:?}");
        }
    }
    // The launcher has told it while it went on, in whose place nobody is who breaks out.
    let messages = fs::read_to_string(host.mother.vms().join("jailed/messages")).unwrap();
    let told = "the process of VM \"jailed\" was refused openat, which its thread \"";
    assert!(messages.contains(told), "{messages}");
    host.call(&["kill", "free", "jailed", "sibling"]);
}

#[test]
fn what_only_an_intruder_does_ends_the_vm_and_is_told() {
    let host = Host::new();
    let mut in_free = puppet(vm(&host, "free", "off"), "control");
    for (n, drill) in DEADLY.iter().enumerate() {
        let unconfined = perform(&mut in_free, drill, 0);
        assert!(unconfined.succeeded(), "{}: {unconfined:?}", drill.what);
        let name = format!("vm{n}");
        let process = vm(&host, &name, "auto");
        let mut in_jail = puppet(process, "control");
        let came = perform(&mut in_jail, drill, 0);
        assert_eq!(came, Came::Dead(libc::SIGSYS), "{}", drill.what);
        drop(in_jail);
        let ran = host.call(&["wait", &name]);
        let said = host.call(&["logs", &name]);
        let said = said.stdout + &said.stderr;
        assert!(
            said.contains("ended by its jail"),
            "{}: {said} {}",
            drill.what,
            ran.stderr
        );
    }
}

/// The process of this name among the descendants of another, once it is there.
fn descendant(ancestor: u32, name: &str) -> i32 {
    let parent_of = |process: i32| -> Option<i32> {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("PPid:"))?;
        line.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    let ancestor = i32::try_from(ancestor).unwrap();
    let is_below = |mut process: i32| {
        while process > 1 && process != ancestor {
            process = parent_of(process).unwrap_or(0);
        }
        process == ancestor
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_it = |process: &i32| {
            fs::read_to_string(format!("/proc/{process}/cmdline"))
                .is_ok_and(|words| words.trim_end_matches('\0') == name)
                && is_below(*process)
        };
        if let Some(process) = numbers.into_iter().find(is_it) {
            return process;
        }
        assert!(Instant::now() < deadline, "there is no {name}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// An image whose first part nobody writes: what reads it waits for that as long as a test needs.
fn reads_an_image(host: &Host) -> (Child, i32) {
    let layout = host.folder().join("layout");
    if !layout.exists() {
        fs::create_dir(&layout).unwrap();
        let index = layout.join("index.json");
        let mode = Mode::from_raw_mode(0o600);
        mknodat(CWD, &index, FileType::Fifo, mode, 0).unwrap();
    }
    let mut command = host.mother.command(host.mother.program());
    command.args(["run", "./layout", "--net", "none"]);
    let command = command.stderr(Stdio::piped()).stdin(Stdio::null());
    let mother = command.spawn().unwrap();
    let reader = descendant(mother.id(), "mother: reader");
    // It has asked, so it has locked itself in before.
    let waits = || {
        let call = fs::read_to_string(format!("/proc/{reader}/syscall")).unwrap_or_default();
        let asked = call.starts_with(&format!("{} ", libc::SYS_recvmsg));
        let status = fs::read_to_string(format!("/proc/{reader}/status")).unwrap_or_default();
        asked && status.contains("Seccomp_filters:\t1")
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while !waits() {
        assert!(Instant::now() < deadline, "it does not lock itself in");
        thread::sleep(Duration::from_millis(20));
    }
    (mother, reader)
}

#[test]
fn who_has_broken_what_reads_an_image_has_nothing_of_the_host() {
    let host = Host::new();
    let (mother, reader) = reads_an_image(&host);
    let open = fs::read_dir(format!("/proc/{reader}/fd")).unwrap();
    let mut open: Vec<String> = open
        .map(|entry| fs::read_link(entry.unwrap().path()).unwrap())
        .map(|target| target.to_string_lossy().into_owned())
        .collect();
    open.sort();
    let kinds: Vec<&str> = open
        .iter()
        .map(|target| target.split(':').next().unwrap())
        .filter(|kind| *kind != "anon_inode")
        .collect();
    // Standard input and output, where it says what goes wrong, and its socket; where there is Landlock its list, which
    // cannot grow any more.
    assert_eq!(
        kinds,
        ["/dev/null", "/dev/null", "pipe", "socket"],
        "{open:?}"
    );
    let status = fs::read_to_string(format!("/proc/{reader}/status")).unwrap();
    for line in ["NoNewPrivs:\t1", "CapEff:\t0000000000000000", "Threads:\t1"] {
        assert!(status.contains(line), "{status}");
    }
    if host.mother.shell("unshare -Ur true").status == Some(0) {
        let root = fs::read_dir(format!("/proc/{reader}/root")).unwrap();
        assert_eq!(root.count(), 0, "its root is empty");
    }
    let free = vm(&host, "free", "off");
    let sibling = vm(&host, "sibling", "auto");
    let mut in_free = puppet(free, "control");
    let mut in_jail = Puppet::of(reader, reader).unwrap();
    // What a VM's process may, and a reader has no use for.
    let pipe = drill(
        "makes a pipe",
        &[0; 8],
        libc::SYS_pipe2,
        [TEXT, 0, 0, 0, 0, 0],
    );
    works(&mut in_free, DRILLS.iter().chain([&pipe]), sibling);
    is_held(&mut in_jail, DRILLS.iter().chain([&pipe]), sibling);
    dies(&mut in_jail, sibling);
    drop(in_jail);
    // Whoever waited for it hears of that: here once there is somebody to open the part.
    fs::write(host.folder().join("layout/index.json"), "").unwrap();
    hears_of_the_jail(mother);
    host.call(&["kill", "free", "sibling"]);
}

#[test]
fn what_reads_an_image_goes_with_who_asked() {
    let host = Host::new();
    let (mut mother, reader) = reads_an_image(&host);
    // Not the `timeout` that it runs under.
    let asker = descendant_of_program(mother.id());
    kill_process(Pid::from_raw(asker).unwrap(), Signal::KILL).unwrap();
    mother.wait().unwrap();
    is_gone_soon(reader);
}

/// Whoever waited for a process that its jail has ended says so.
fn hears_of_the_jail(mut mother: Child) {
    let mut said = String::new();
    let mut stderr = mother.stderr.take().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    let status = mother.wait().unwrap();
    assert!(said.contains("it was ended by its jail"), "{said}");
    assert_eq!(status.code(), Some(1), "{said}");
}

/// One that nobody has waited for yet has no words any more.
fn is_gone_soon(process: i32) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let words = || fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    while !words().is_empty() {
        assert!(Instant::now() < deadline, "it lives on");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The process of this name whose parent is the launcher of a VM.
fn of_launcher(vm: &str, name: &str) -> Option<i32> {
    let words = |process: &str| fs::read_to_string(format!("/proc/{process}/cmdline"));
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().into_string().ok());
    let is_it = |process: &String| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:\t"));
        let is_launcher =
            |parent: &str| words(parent).is_ok_and(|it| it.contains(&format!("launcher of {vm}")));
        words(process).is_ok_and(|it| it.trim_end_matches('\0') == name)
            && parent.is_some_and(is_launcher)
    };
    numbers.into_iter().find(is_it)?.parse().ok()
}

#[test]
fn who_has_broken_what_keeps_a_list_has_nothing_of_the_host() {
    let host = Host::new();
    let has_passt = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|it| it.join("passt").is_file()));
    if !has_passt {
        writeln!(std::io::stderr(), "skipped: passt is not on the PATH").unwrap();
        return;
    }
    let words = [
        "-d", "--name", "listed", "--engine", "soft", "--net", "user", "--egress", "deny",
    ];
    let ran = host.run(&words);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let keeper = of_launcher("listed", "mother: egress").unwrap();
    let open = fs::read_dir(format!("/proc/{keeper}/fd")).unwrap();
    let mut open: Vec<String> = open
        .map(|entry| fs::read_link(entry.unwrap().path()).unwrap())
        .map(|target| target.to_string_lossy().into_owned())
        .filter(|target| !target.starts_with("anon_inode"))
        .map(|target| target.split(':').next().unwrap().to_owned())
        .collect();
    open.sort();
    // What its VM has to say goes to the VM's folder, and nothing is left of who started it.
    assert!(open[2].ends_with("/messages"), "{open:?}");
    open.remove(2);
    assert_eq!(
        open,
        ["/dev/null", "/dev/null", "socket", "socket", "socket"]
    );
    let sibling = vm(&host, "sibling", "auto");
    let mut in_jail = Puppet::of(keeper, keeper).unwrap();
    is_held(&mut in_jail, DRILLS, sibling);
    dies(&mut in_jail, sibling);
    host.call(&["kill", "listed", "sibling"]);
}

#[test]
fn who_has_broken_what_carries_a_network_has_nothing_of_the_host() {
    let host = Host::new();
    let network = format!("drill-{}", std::process::id());
    let net = format!("net:{network}");
    let words = ["-d", "--name", "carried", "--engine", "soft", "--net", &net];
    let ran = host.run(&words);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let carrier = of_launcher("carried", &format!("mother: network {network}")).unwrap();
    let open = fs::read_dir(format!("/proc/{carrier}/fd")).unwrap();
    let mut open: Vec<String> = open
        .map(|entry| fs::read_link(entry.unwrap().path()).unwrap())
        .map(|target| target.to_string_lossy().into_owned())
        .filter(|target| !target.starts_with("anon_inode"))
        .map(|target| target.split(':').next().unwrap().to_owned())
        .collect();
    open.sort();
    // Nothing of who started it; where launchers come, and of the VM its launcher and its card.
    assert_eq!(
        open,
        [
            "/dev/null",
            "/dev/null",
            "/dev/null",
            "socket",
            "socket",
            "socket"
        ]
    );
    let status = fs::read_to_string(format!("/proc/{carrier}/status")).unwrap();
    for line in ["NoNewPrivs:\t1", "CapEff:\t0000000000000000", "Threads:\t1"] {
        assert!(status.contains(line), "{status}");
    }
    let sibling = vm(&host, "sibling", "auto");
    let mut in_jail = Puppet::of(carrier, carrier).unwrap();
    is_held(&mut in_jail, DRILLS, sibling);
    dies(&mut in_jail, sibling);
    host.call(&["kill", "carried", "sibling"]);
}

/// The command that `timeout` runs.
fn descendant_of_program(timeout: u32) -> i32 {
    let path = format!("/proc/{timeout}/task/{timeout}/children");
    let children = fs::read_to_string(path).unwrap();
    children
        .split_ascii_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

/// Descriptors are the host's memory, and everybody's.
#[test]
fn a_jail_holds_no_more_descriptors_than_a_vm_needs() {
    let host = Host::new();
    let many = 4200;
    let made = |jail: &str| {
        let name = format!("in-{jail}");
        let mut thread = puppet(vm(&host, &name, jail), "control");
        let text = thread.put(b"drill\0");
        let mut make = || thread.call(libc::SYS_memfd_create, [text, 0, 0, 0, 0, 0]);
        (0..many).take_while(|_| make().succeeded()).count()
    };
    assert_eq!(made("off"), many);
    let jailed = made("auto");
    assert!((1000..4096).contains(&jailed), "{jailed}");
}

/// Calls that wait, or after which the thread is not what it was; and those that are made to be deadly.
fn is_left_out(number: i64) -> bool {
    const NOT_TRIED: &[i64] = &[
        libc::SYS_rt_sigreturn,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_restart_syscall,
        // uretprobe and uprobe, which Linux shows to no filter; they do nothing where no probe stands.
        335,
        336,
    ];
    NOT_TRIED.contains(&number)
}

/// What a vCPU's thread on the software CPU may call.
const OF_A_VCPU: &[i64] = &[
    libc::SYS_write,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
];

#[test]
fn a_vcpus_thread_may_make_ten_calls_in_one_abi() {
    assert_eq!(OF_A_VCPU.len(), 10);
    let host = Host::new();
    let process = vm(&host, "web", "auto");
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    assert!(status.contains("Seccomp:\t2"), "{status}");
    let mut vcpu = puppet(process, "vcpu0");
    let quiet = |came| came == Came::Answer(-i64::from(libc::EPERM));
    let unknown = Came::Answer(-i64::from(libc::ENOSYS));
    for number in (0..460).filter(|number| !is_left_out(*number)) {
        if DEADLY_NUMBERS.contains(&number) {
            continue;
        }
        let came = vcpu.call(number, [0; 6]);
        // libc takes an error of these for something else.
        let is_for_libc = [libc::SYS_brk, libc::SYS_rseq].contains(&number);
        let is_refused = if is_for_libc {
            came == Came::Answer(0)
        } else {
            quiet(came) || came == Came::Refused || came == unknown
        };
        assert_eq!(
            !is_refused,
            OF_A_VCPU.contains(&number),
            "{number}: {came:?}"
        );
        let x32 = vcpu.call(number | 0x4000_0000, [0; 6]);
        assert_eq!(x32, unknown, "{number} of x32");
    }
    if let Some(int_80) = vcpu.find(&[0xcd, 0x80]) {
        for number in 0..460 {
            let came = vcpu.call_by(int_80, number, [0; 6]);
            let is_refused = came == unknown || matches!(came, Came::Fault(_));
            assert!(is_refused, "{number} of i386: {came:?}");
        }
    }
}

/// What ends the process.
const DEADLY_NUMBERS: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
];

#[test]
fn a_vms_process_stands_alone() {
    let host = Host::new();
    let process = vm(&host, "web", "auto");
    thread::sleep(Duration::from_millis(200));
    let jail = &host.ps("web")["jail"];
    let mut lines = vec!["Seccomp: 2".to_owned(), "NoNewPrivs: 1".to_owned()];
    if jail["tier"] == "namespaces" {
        let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
        lines.extend(sets.map(|set| format!("{set}: 0000000000000000")));
    }
    for books in Host::books(&process.to_string()) {
        for line in &lines {
            assert!(books.contains(line), "{line}: {books:?}");
        }
    }
    if jail["tier"] != "namespaces" {
        return;
    }
    let root = fs::read_dir(format!("/proc/{process}/root")).unwrap();
    assert_eq!(root.count(), 0, "its root has something in it");
    for kind in ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"] {
        let of = |whose: &str| fs::read_link(format!("/proc/{whose}/ns/{kind}")).unwrap();
        assert_ne!(of(&process.to_string()), of("self"), "{kind}");
    }
    let environment = fs::read(format!("/proc/{process}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(
        environment.is_empty() || environment.starts_with("RUST_BACKTRACE="),
        "{environment}"
    );
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    assert!(!maps.lines().any(|line| line.contains(" rwx")), "{maps}");
}

#[test]
fn a_jail_can_be_required_or_left_out() {
    let host = Host::new();
    let ran = host.run(&["-d", "--name", "free", "--jail", "off"]);
    assert!(ran.stderr.contains("runs without a jail"), "{}", ran.stderr);
    assert_eq!(host.ps("free")["jail"]["tier"], "none");
    let required = host.run(&["-d", "--name", "required", "--jail", "require"]);
    if required.status == Some(0) {
        assert_eq!(host.ps("required")["jail"]["tier"], "namespaces");
    } else {
        assert!(
            required.stderr.contains("its jail would be"),
            "{}",
            required.stderr
        );
    }
    let ran = host.run(&["--jail", "prison"]);
    assert_eq!(ran.status, Some(2));
    assert!(
        ran.stderr.contains("write auto, require or off"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_host_without_namespaces_gives_a_lower_jail_and_says_so() {
    let host = Host::new();
    if host.mother.shell("unshare -Ur true").status != Some(0) {
        // This host is one itself, and the other tests are about it.
        return;
    }
    let run = |name: &str, jail: &str| {
        let words = format!(
            "run -d --name {name} --engine soft --kernel echo --memory 32M --timeout 60s --jail {jail}"
        );
        let none = "echo 0 > /proc/sys/user/max_user_namespaces";
        host.mother.shell(&format!(
            "unshare -Ur sh -c '{none} && exec \"$MOTHER\" {words}'"
        ))
    };
    let low = run("low", "auto");
    assert_eq!(low.status, Some(0), "{}", low.stderr);
    let jail = &host.ps("low")["jail"];
    let tier = jail["tier"].as_str().unwrap();
    let has_landlock = jail["landlock_abi"].as_u64() > Some(0);
    assert_eq!(tier, if has_landlock { "landlock" } else { "seccomp" });
    let said = format!("is of the tier \"{tier}\"");
    assert!(low.stderr.contains(&said), "{}", low.stderr);
    let process = i32::try_from(host.ps("low")["pid"].as_i64().unwrap()).unwrap();
    let came = perform(&mut puppet(process, "vcpu0"), &DRILLS[0], 0);
    let is_refused = came == Came::Refused || came == REFUSED_QUIETLY;
    assert!(is_refused, "the other walls stand: {came:?}");
    let required = run("none", "require");
    assert_eq!(required.status, Some(1), "{}", required.stderr);
    assert!(
        required.stderr.contains("its jail would be"),
        "{}",
        required.stderr
    );
}
