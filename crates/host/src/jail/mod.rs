//! The jail: what is left to a VM's process once everything that its guest stands on is open.
//!
//! # Problem
//!
//! The process that runs a guest reads bytes that nobody vouches for: registers of devices, rings, frames, code. One mistake in
//! it and the guest has the process. What it then has of the host must be what the guest had anyway: the descriptors of its own
//! disks and wires, its own memory, and time on a core.
//!
//! # The walls
//!
//! Each is one of the kernel's, needs no root, and holds when the others are down.
//!
//! ```text
//! wall              what it keeps from the process                                      put up
//! ----              ------------------------------                                      ------
//! namespaces        other processes, networks, mounts, names, users of the host         at its birth (`spawn`)
//! empty root        every path: its root is an empty folder that cannot be written      when it locks itself in
//! no capabilities   what a user namespace would let it do within                        when it locks itself in
//! Landlock          every file, TCP port and abstract socket, whatever it can name      when it locks itself in
//! system calls      all but a short list, shorter for each kind of thread (`table`)     when it locks itself in
//! the rest          cores, more descriptors than it needs, new executable memory,       when it locks itself in
//!                   to be looked into by its equals (`PR_SET_DUMPABLE`)
//! ```
//!
//! # Order
//!
//! A user namespace can only be entered by a process that has one thread, so the kernel makes the process in its namespaces
//! (clone3(2)). It then still sees the host's files, through a copy of the mounts, because a program is loaded from there,
//! and because what belongs to an address space and its threads (`/proc/self/pagemap`, `smaps`, `statm`, `schedstat`) can only be
//! opened from within. When all is open, [`lock_in`]:
//!
//! ```text
//! 1. root      an empty folder becomes the root of the process, which all its threads share; the copy of the mounts goes
//! 2. process   limits, no dump, no memory that becomes executable by a change of rights
//! 3. thread    no capabilities, Landlock: these are a thread's own, so each thread that is there already does the same, now
//!              ([`enter_early`]); threads made later inherit them
//! 4. filter    for all threads at once; each kind of thread adds its own, narrower one ([`enter`])
//! ```
//!
//! Landlock forbids all changes of mounts, so it comes after the root; the filter forbids all of it, so it comes last.
//!
//! # Where a wall is missing
//!
//! A host may refuse any of them: user namespaces (`kernel.apparmor_restrict_unprivileged_userns`, containers), Landlock
//! (before Linux 5.13), filters. What there is, is put up, and [`Walls`] says which; whether that is enough is for who starts
//! the VM to say.

mod calls;
mod files;
mod filter;
mod landlock;
mod notice;
#[cfg(test)]
mod own_process;
mod root;
mod spawn;
mod table;
mod thread;

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Resource, Rlimit, setrlimit};

pub use self::files::{lock_in_files, lock_in_folder};
pub use self::filter::{Refused, note_refused, refused, settle_libc};
pub use self::landlock::abi as landlock_abi;
pub use self::notice::{Next, Refusal, Refusals};
pub use self::spawn::{Apart, Child, Program, spawn};
pub use self::table::Kind;
pub use self::thread::{enter, enter_early};

/// What stands around a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Walls {
    /// It was born into namespaces of its own, and its root is empty.
    pub namespaces: bool,
    /// The version of Landlock that it is under; 0 if it is not.
    pub landlock_abi: u32,
    /// Its system calls are filtered.
    pub filter: bool,
}

/// How strong the walls are together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tier {
    /// Nothing.
    None,
    /// System calls are filtered.
    Seccomp,
    /// And no file can be opened, by Landlock.
    Landlock,
    /// And it has namespaces of its own and an empty root.
    Namespaces,
}

impl Tier {
    /// In a word, as it is written in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Tier::None => "none",
            Tier::Seccomp => "seccomp",
            Tier::Landlock => "landlock",
            Tier::Namespaces => "namespaces",
        }
    }
}

impl Walls {
    /// The highest tier all of whose walls stand. Landlock is no part of the highest one: a root without files gives the same.
    pub fn tier(self) -> Tier {
        match self {
            Walls { filter: false, .. } => Tier::None,
            Walls {
                namespaces: true, ..
            } => Tier::Namespaces,
            Walls {
                landlock_abi: 1.., ..
            } => Tier::Landlock,
            _ => Tier::Seccomp,
        }
    }
}

/// How many descriptors a process in a jail may have: those of its devices, and some for each client and each connection of
/// its guest's.
const DESCRIPTORS_MAX: u64 = 4096;

/// A process that locks itself in.
#[derive(Clone, Copy, Debug)]
pub struct Inmate {
    /// What it is; [`Kind::Any`] a VM's, whose threads become what they are by [`enter`].
    pub kind: Kind,
    /// It was born into namespaces of its own.
    pub is_apart: bool,
    /// It may run its guest on KVM.
    pub has_kvm: bool,
    /// Somebody outside is to hear of each call that it is refused, and is given the listener that comes of it.
    pub is_heard: bool,
}

/// Puts up all walls around this process that can be had. To be called by its first thread when everything is open. Each other
/// thread that is there calls [`enter_early`] when `others` asks it to, which comes back when all have: one that had not begun yet
/// would have all signals blocked by libc for ever, and end the process by its first refused call. What the host refuses is told
/// to `missing`. With the walls comes the listener of [`Refusals`], where it was asked for and the host has one.
pub fn lock_in(
    inmate: Inmate,
    others: &dyn Fn(),
    missing: &mut dyn FnMut(&'static str, &io::Error),
) -> (Walls, Option<OwnedFd>) {
    let mut put_up = telling(missing);
    let namespaces = inmate.is_apart && put_up("an empty root", root::leave_everything());
    for (resource, most) in [(Resource::Core, 0), (Resource::Nofile, DESCRIPTORS_MAX)] {
        put_up("a limit", limit(resource, most));
    }
    put_up("not to be dumped", thread::hide_from_equals());
    // Linux 6.3; the filter allows no such call either.
    let _ = thread::refuse_executable_gain();
    let landlock_abi = thread::prepare(&mut put_up);
    others();
    let mut listener = None;
    let armed = filter::arm(inmate.kind, inmate.has_kvm, inmate.is_heard);
    let filter = put_up(
        "a filter of system calls",
        armed.map(|heard| listener = heard),
    );
    let walls = Walls {
        namespaces,
        landlock_abi,
        filter,
    };
    (walls, listener)
}

/// Says of each wall whether it stands, and tells why not.
fn telling(
    missing: &mut dyn FnMut(&'static str, &io::Error),
) -> impl FnMut(&'static str, io::Result<()>) -> bool {
    |wall, result| match result {
        Ok(()) => true,
        Err(error) => {
            missing(wall, &error);
            false
        }
    }
}

fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let now = rustix::process::getrlimit(resource);
    let most = now.maximum.map_or(most, |now| now.min(most));
    let limit = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    Ok(setrlimit(resource, limit)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_is_as_high_as_all_walls_below_it() {
        let check = |namespaces, landlock_abi, filter, expected| {
            let walls = Walls {
                namespaces,
                landlock_abi,
                filter,
            };
            assert_eq!(walls.tier(), expected, "{walls:?}");
        };
        check(false, 0, false, Tier::None);
        check(true, 7, false, Tier::None);
        check(false, 0, true, Tier::Seccomp);
        for abi in 1..=10 {
            check(false, abi, true, Tier::Landlock);
            check(true, abi, true, Tier::Namespaces);
        }
        check(true, 0, true, Tier::Namespaces);
        assert!(Tier::None < Tier::Seccomp && Tier::Landlock < Tier::Namespaces);
    }
}
