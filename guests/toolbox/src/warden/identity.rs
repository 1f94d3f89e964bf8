//! Who a program is, user, group and further groups, and which terminal is its own: taken on before it starts.
//!
//! The standard library sets user and group, and takes all further groups away with that; giving them is a call of C.
#![allow(
    unsafe_code,
    reason = "there is no safe form of a closure between fork and exec, nor of setgroups(2)"
)]

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Numbers of a user and its groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Further groups.
    pub(crate) groups: Vec<u32>,
}

unsafe extern "C" {
    fn setgroups(count: usize, groups: *const u32) -> i32;
    fn setgid(gid: u32) -> i32;
    fn setuid(uid: u32) -> i32;
    fn setsid() -> i32;
    fn signal(number: i32, handler: usize) -> usize;
    fn ioctl(fd: i32, request: u64, ...) -> i32;
}

/// Hang-up, interrupt, quit, and the three by which a terminal stops: a script that starts us in its background has some of them
/// ignored, and whoever inherits that stays so.
const OF_TERMINALS: [i32; 6] = [1, 2, 3, 20, 21, 22];

/// `SIG_DFL`, `SIG_ERR`.
const DEFAULT: usize = 0;
const FAILED: usize = usize::MAX;

/// `TIOCSCTTY` (asm-generic/ioctls.h).
const SET_CONTROLLING: u64 = 0x540e;

/// Starts the program as `identity`, or as who we are; `at_terminal` if its standard input is a terminal that is to be its own.
pub(crate) fn spawn(
    command: &mut Command,
    identity: Option<Identity>,
    at_terminal: bool,
) -> io::Result<Child> {
    // SAFETY: between fork and exec the closure does nothing but system calls on numbers.
    unsafe { command.pre_exec(hear_signals) };
    if at_terminal {
        // SAFETY: between fork and exec the closure does nothing but two system calls on numbers.
        unsafe { command.pre_exec(lead_session) };
    }
    if let Some(identity) = identity {
        let become_it = move || take_on(&identity);
        // SAFETY: between fork and exec the closure does nothing but three system calls on numbers that were made
        // before: no allocation, no lock.
        unsafe { command.pre_exec(become_it) };
    }
    command.spawn()
}

/// Has the program join the control group whose list of processes `door` is.
pub(crate) fn enter_group(command: &mut Command, door: File) {
    // A group that has gone keeps no program from starting.
    let enter = move || (&door).write_all(b"0").or(Ok(()));
    // SAFETY: between fork and exec the closure does nothing but write(2), from bytes that were there before.
    unsafe { command.pre_exec(enter) };
}

fn take_on(identity: &Identity) -> io::Result<()> {
    let groups = &identity.groups;
    // SAFETY: the pointer and the length are those of one slice that lives across the call.
    check(unsafe { setgroups(groups.len(), groups.as_ptr()) })?;
    // SAFETY: it takes a number and touches no memory.
    check(unsafe { setgid(identity.gid) })?;
    // SAFETY: it takes a number and touches no memory.
    check(unsafe { setuid(identity.uid) })
}

fn hear_signals() -> io::Result<()> {
    for number in OF_TERMINALS {
        // SAFETY: the default is no function of ours.
        if unsafe { signal(number, DEFAULT) } == FAILED {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn lead_session() -> io::Result<()> {
    // SAFETY: it takes nothing and touches no memory.
    check(unsafe { setsid() }.min(0))?;
    // SAFETY: this request takes a number in place of a pointer.
    check(unsafe { ioctl(0, SET_CONTROLLING, 0) })
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
