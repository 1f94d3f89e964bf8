//! Each case in a process of its own: a filter is there for ever, and for all threads.

use std::env;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::{Barrier, mpsc};
use std::thread;

use super::super::own_process::in_its_own_process;
use super::super::table::VM;
use super::*;

/// One refusal more than before, of a call of this name, and what was asked for failed for want of permission.
fn check<T>(call: &str, act: impl FnOnce() -> io::Result<T>) {
    let before = refused().unwrap();
    let error = act()
        .err()
        .unwrap_or_else(|| panic!("{call} was let through"));
    assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{call}");
    let after = refused().unwrap();
    assert_eq!(after.count, before.count + 1, "{call}");
    if before.first.len() < KEPT {
        assert_eq!(
            after.first.last().unwrap(),
            &format!("{call} by another thread")
        );
    }
}

#[test]
fn what_a_locked_program_does_not_do_is_refused_and_told_by_name() {
    in_its_own_process(
        "filter::tests::what_a_locked_program_does_not_do_is_refused_and_told_by_name",
        || {
            assert_eq!(refused(), None, "there is no filter");
            arm(Kind::Any, false, false).unwrap();
            assert_eq!(refused().unwrap().count, 0);
            check("openat", || File::open("/dev/null"));
            check("socket", || TcpListener::bind("127.0.0.1:0"));
            check("socketpair", UnixStream::pair);
            check("mkdir", || fs::create_dir("/tmp/never"));
            check("unlink", || fs::remove_file("/tmp/never"));
            // SAFETY: where it succeeded there would be a second process, which ends at once.
            check("clone", || {
                // SAFETY: as fork(2); a child, should there be one, does nothing but leave.
                match unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) } {
                    // SAFETY: it ends this process at once and runs nothing of ours.
                    0 => unsafe { libc::_exit(0) },
                    -1 => Err(io::Error::last_os_error()),
                    pid => Ok(pid),
                }
            });
            let started = thread::spawn(|| check("chdir", || env::set_current_dir("/")));
            started.join().unwrap();
        },
    );
}

#[test]
fn threads_that_were_there_before_are_filtered_too() {
    in_its_own_process(
        "filter::tests::threads_that_were_there_before_are_filtered_too",
        || {
            let (go, wait) = mpsc::channel::<()>();
            let (ready, is_ready) = mpsc::channel();
            let opens = thread::spawn(move || {
                ready.send(()).unwrap();
                wait.recv().unwrap();
                File::open("/dev/null").map(drop)
            });
            // libc lets no signal to a thread that begins, and in a jail it could not undo that.
            is_ready.recv().unwrap();
            arm(Kind::Any, false, false).unwrap();
            go.send(()).unwrap();
            let error = opens.join().unwrap().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM));
            assert_eq!(refused().unwrap().first, ["openat by another thread"]);
        },
    );
}

#[test]
fn what_needs_no_path_goes_on() {
    in_its_own_process("filter::tests::what_needs_no_path_goes_on", || {
        let (mut reader, writer) = io::pipe().unwrap();
        settle_libc();
        arm(Kind::Any, false, false).unwrap();
        // Each wants a heap of its own, which makes libc think of how many there may be; and gives memory back.
        let barrier = Barrier::new(32);
        let allocate = || {
            barrier.wait();
            let bytes: Vec<Vec<u8>> = (0..20).map(|_| vec![1; 90_000]).collect();
            barrier.wait();
            drop(std::hint::black_box(bytes));
        };
        thread::scope(|scope| (0..32).for_each(|_| drop(scope.spawn(allocate))));
        let work = move || {
            crate::MemFd::new(c"memory", 4096).unwrap();
            io::Write::write_all(&mut { writer }, b"heard").unwrap();
        };
        thread::spawn(work).join().unwrap();
        let mut heard = String::new();
        io::Read::read_to_string(&mut reader, &mut heard).unwrap();
        assert_eq!((heard.as_str(), refused().unwrap().count), ("heard", 0));
    });
}

/// What is refused is answered and told by whoever has the listener, which is another process; what only a kind of thread may not is
/// noted within.
#[test]
fn who_listens_outside_hears_of_what_is_refused() {
    let name = "who_listens_outside_hears_of_what_is_refused";
    if env::var_os("JAIL_TEST_WITHIN").is_some() {
        let outside = rustix::stdio::stdin();
        let Some(listener) = arm(Kind::Any, false, true).unwrap() else {
            // A host of a time before, or somebody listens to this very process.
            return;
        };
        give(outside, &listener);
        drop(listener);
        return is_heard_of();
    }
    let (ours, theirs) = UnixStream::pair().unwrap();
    let child = std::process::Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("jail::filter::tests::{name}"),
            "--nocapture",
        ])
        .env("JAIL_TEST_WITHIN", "1")
        .stdin(std::os::fd::OwnedFd::from(theirs))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut calls = Vec::new();
    if let Some(listener) = given(&ours) {
        let refusals = super::super::Refusals::of(listener);
        let patience = Some(std::time::Duration::from_secs(60));
        while let Ok(super::super::Next::Refused(refusal)) = refusals.next(patience) {
            calls.push(refusal.call);
        }
        let expected = ["openat", "mmap"].repeat(4);
        let is_told = |call: &&String| expected.contains(&call.as_str());
        assert_eq!(calls.iter().filter(is_told).collect::<Vec<_>>(), expected);
    }
    let output = child.wait_with_output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && out.contains("1 passed"),
        "{calls:?} {out} {err}"
    );
}

fn give(outside: std::os::fd::BorrowedFd<'_>, listener: &OwnedFd) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::os::fd::AsFd;
    let mut space = [mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let rights = [listener.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&rights)));
    let byte = [io::IoSlice::new(b"x")];
    sendmsg(outside, &byte, &mut ancillary, SendFlags::empty()).unwrap();
}

/// None where the other process has none.
fn given(ours: &UnixStream) -> Option<OwnedFd> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut bytes = [io::IoSliceMut::new(&mut byte)];
    recvmsg(ours, &mut bytes, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
        _ => None,
    })
}

/// Does what is refused, as each kind of thread.
fn is_heard_of() {
    let check = |kind: Kind, is_within: bool, act: fn() -> io::Result<()>| {
        let before = refused().unwrap().count;
        let ask = move || {
            narrow(kind).unwrap();
            act()
        };
        let result = thread::spawn(ask).join().unwrap();
        let error = result.unwrap_err().raw_os_error();
        assert_eq!(error, Some(libc::EPERM), "{kind:?}");
        let within = refused().unwrap().count - before;
        assert_eq!(within, u64::from(is_within), "{kind:?}");
    };
    let open = || File::open("/dev/null").map(drop);
    let code = || {
        let bits = libc::PROT_READ | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: the kernel chooses the place, and nothing uses it.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, bits, flags, -1, 0) };
        match at {
            libc::MAP_FAILED => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    let event = || {
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty());
        Ok(event.map(drop)?)
    };
    for kind in [Kind::Any, Kind::Vcpu, Kind::Device, Kind::Pager] {
        check(kind, false, open);
        check(kind, false, code);
    }
    check(Kind::Vcpu, true, event);
    check(Kind::Device, true, event);
    assert!(event().is_ok(), "any other thread may");
}

/// What the numbers of other architectures would be good for.
#[test]
fn numbers_that_slip_past_a_list_are_unknown() {
    in_its_own_process(
        "filter::tests::numbers_that_slip_past_a_list_are_unknown",
        || {
            arm(Kind::Any, false, false).unwrap();
            let check = |number: i64| {
                // SAFETY: a call that is not let through does nothing with its arguments; open would fail on the address.
                let status = unsafe { libc::syscall(number, 0, 0, 0, 0) };
                let error = io::Error::last_os_error().raw_os_error();
                assert_eq!((status, error), (-1, Some(libc::ENOSYS)), "{number:#x}");
            };
            check(libc::SYS_clone3);
            check(i64::from(X32) | libc::SYS_open);
            check(i64::from(X32) | libc::SYS_getpid);
            assert_eq!(refused().unwrap().count, 0);
        },
    );
}

#[test]
fn a_signal_that_is_no_filters_changes_nothing() {
    in_its_own_process(
        "filter::tests::a_signal_that_is_no_filters_changes_nothing",
        || {
            arm(Kind::Any, false, false).unwrap();
            let process = crate::cpu::process_number();
            let thread = crate::cpu::thread_number();
            // SAFETY: it takes numbers; the handler is ours.
            let sent = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGSYS) };
            assert_eq!(sent, 0);
            assert_eq!(refused().unwrap().count, 0);
        },
    );
}

/// What a file that is no device of KVM says to an order that was let through.
fn is_let_through(file: &File, order: u32) -> bool {
    use std::os::fd::AsRawFd;
    // SAFETY: a file that knows no such order does nothing with its argument.
    let status = unsafe { libc::ioctl(file.as_raw_fd(), libc::c_ulong::from(order), 0) };
    assert_eq!(status, -1, "{order:#x}");
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::ENOTTY) => true,
        Some(libc::EPERM) => false,
        other => panic!("{order:#x}: {other:?}"),
    }
}

/// Two stages: who makes a VM may all that Mother has of KVM, who runs it or serves it only what that takes.
#[test]
fn kvm_takes_from_each_kind_of_thread_what_that_needs() {
    const RUN: u32 = 0xae80;
    const SET_REGS: u32 = 0x4090_ae82;
    const SIGNAL_MSI: u32 = 0x4020_aea5;
    const CREATE_VM: u32 = 0xae01;
    const CREATE_VCPU: u32 = 0xae41;
    const SET_MEMORY: u32 = 0x4020_ae46;
    // `KVM_CREATE_DEVICE`, `KVM_CREATE_GUEST_MEMFD`, `KVM_SET_SIGNAL_MASK`, `KVM_SET_MEMORY_ATTRIBUTES`.
    const OTHERS: [u32; 4] = [0xc00c_aee0, 0xc040_aed4, 0x4004_ae8b, 0x4020_aed2];
    in_its_own_process(
        "filter::tests::kvm_takes_from_each_kind_of_thread_what_that_needs",
        || {
            let file = File::open("/dev/null").unwrap();
            arm(Kind::Any, true, false).unwrap();
            let check = |kind: Kind, may: &[u32], may_not: &[u32]| {
                thread::scope(|scope| {
                    let tried = scope.spawn(|| {
                        narrow(kind).unwrap();
                        for &order in may {
                            assert!(is_let_through(&file, order), "{kind:?} {order:#x}");
                        }
                        for &order in may_not.iter().chain(&OTHERS) {
                            assert!(!is_let_through(&file, order), "{kind:?} {order:#x}");
                        }
                    });
                    tried.join().unwrap();
                });
            };
            let making = [CREATE_VM, CREATE_VCPU, SET_MEMORY];
            check(
                Kind::Any,
                &[&[RUN, SET_REGS, SIGNAL_MSI][..], &making].concat(),
                &[],
            );
            check(Kind::KvmVcpu, &[RUN, SET_REGS, SIGNAL_MSI], &making);
            check(
                Kind::Device,
                &[SIGNAL_MSI],
                &[&[RUN, SET_REGS][..], &making].concat(),
            );
            check(
                Kind::Pager,
                &[],
                &[&[RUN, SET_REGS, SIGNAL_MSI][..], &making].concat(),
            );
        },
    );
}

/// Does something in a jail, in a process of its own; the signal that ended it.
fn ends_by(name: &str, act: fn()) -> Option<i32> {
    if env::var_os("JAIL_TEST_WITHIN").is_some() {
        // SAFETY: it takes a number; what goes round in circles is ended too.
        unsafe { libc::alarm(30) };
        crate::fault::install_handlers().unwrap();
        arm(Kind::Any, false, false).unwrap();
        act();
        std::process::exit(0);
    }
    let output = std::process::Command::new(env::current_exe().unwrap())
        .args(["--exact", &format!("jail::filter::tests::{name}")])
        .env("JAIL_TEST_WITHIN", "1")
        .output()
        .unwrap();
    std::os::unix::process::ExitStatusExt::signal(&output.status)
}

#[test]
fn what_only_an_intruder_does_ends_the_process() {
    let signal = ends_by("what_only_an_intruder_does_ends_the_process", || {
        // SAFETY: the call takes numbers, and would change nothing.
        unsafe { libc::syscall(libc::SYS_setreuid, -1, -1) };
    });
    assert_eq!(signal, Some(libc::SIGSYS));
}

/// No handler can be taken off in a jail, so one that let the instruction run again would do so for ever.
#[test]
fn a_fault_that_is_nobodys_ends_the_process_by_its_signal() {
    let signal = ends_by(
        "a_fault_that_is_nobodys_ends_the_process_by_its_signal",
        || {
            let nowhere = std::hint::black_box(8_usize) as *const u8;
            // SAFETY: nothing is there, which is what is tried: the process ends.
            unsafe { nowhere.read_volatile() };
        },
    );
    assert_eq!(signal, Some(libc::SIGSEGV));
}

#[test]
fn a_kind_may_only_what_its_process_may() {
    for call in VM {
        let is_ours = allowed(Kind::Any).any(|ours| ours.number == call.number);
        assert!(is_ours, "{}", call.name);
    }
    let count = |kind| allowed(kind).count();
    for (kind, calls) in [
        (Kind::Any, 40),
        (Kind::Vcpu, 10),
        (Kind::KvmVcpu, 18),
        (Kind::Device, 31),
        (Kind::Pager, 22),
        (Kind::Reader, 29),
        (Kind::Wire, 21),
        (Kind::Switch, 23),
        (Kind::Observer, 35),
    ] {
        assert_eq!(count(kind), calls, "{kind:?}");
    }
    // A call may have another check for another kind, and has one for each.
    for kind in Kind::ALL {
        let of_kind = || allowed(kind);
        let twice = |number: i64| of_kind().filter(|call| call.number == number).count() > 1;
        assert!(!of_kind().any(|call| twice(call.number)), "{kind:?}");
    }
    let is_deadly = |number| DEADLY.iter().any(|(deadly, _)| *deadly == number);
    for kind in Kind::ALL {
        assert!(
            !allowed(kind).any(|call| is_deadly(call.number)),
            "{kind:?}"
        );
    }
}
