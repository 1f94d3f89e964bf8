//! Each case in a process of its own: a filter is there for ever, and for all threads.

use std::env;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::{Barrier, mpsc};
use std::thread;

use super::*;

/// Set in the process of its own.
const WITHIN: &str = "TRIPWIRE_TEST_WITHIN";

/// Runs the test `name` again in another process, unless this is it.
fn in_its_own_process(name: &str, test: fn()) {
    if env::var_os(WITHIN).is_some() {
        return test();
    }
    let output = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("tripwire::tests::{name}"),
            "--nocapture",
        ])
        .env(WITHIN, "1")
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
}

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
        assert_eq!(after.first.last().unwrap(), call);
    }
}

#[test]
fn what_a_locked_program_does_not_do_is_refused_and_told_by_name() {
    in_its_own_process(
        "what_a_locked_program_does_not_do_is_refused_and_told_by_name",
        || {
            assert_eq!(refused(), None, "there is no filter");
            arm().unwrap();
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
    in_its_own_process("threads_that_were_there_before_are_filtered_too", || {
        let (go, wait) = mpsc::channel::<()>();
        let opens = thread::spawn(move || {
            wait.recv().unwrap();
            File::open("/dev/null").map(drop)
        });
        arm().unwrap();
        go.send(()).unwrap();
        let error = opens.join().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        assert_eq!(refused().unwrap().first, ["openat"]);
    });
}

#[test]
fn what_needs_no_path_goes_on() {
    in_its_own_process("what_needs_no_path_goes_on", || {
        let (mut reader, writer) = io::pipe().unwrap();
        settle_libc();
        arm().unwrap();
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

/// What the numbers of other architectures would be good for.
#[test]
fn numbers_that_slip_past_a_list_are_unknown() {
    in_its_own_process("numbers_that_slip_past_a_list_are_unknown", || {
        arm().unwrap();
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
    });
}

#[test]
fn a_signal_that_is_no_filters_changes_nothing() {
    in_its_own_process("a_signal_that_is_no_filters_changes_nothing", || {
        arm().unwrap();
        // SAFETY: the handler is ours.
        assert_eq!(unsafe { libc::raise(libc::SIGSYS) }, 0);
        assert_eq!(refused().unwrap().count, 0);
    });
}
