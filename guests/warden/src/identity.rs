//! Who a program is: user, group and further groups, taken on before it starts.
//!
//! The standard library sets user and group, and takes all further groups away with that; giving them is a call of C.
#![allow(
    unsafe_code,
    reason = "there is no safe form of a closure between fork and exec, nor of setgroups(2)"
)]

use std::io;
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
}

/// Starts the program as `identity`, or as who we are.
pub(crate) fn spawn(command: &mut Command, identity: Option<Identity>) -> io::Result<Child> {
    if let Some(identity) = identity {
        let become_it = move || take_on(&identity);
        // SAFETY: between fork and exec the closure does nothing but three system calls on numbers that were made
        // before: no allocation, no lock.
        unsafe { command.pre_exec(become_it) };
    }
    command.spawn()
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

fn check(result: i32) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
