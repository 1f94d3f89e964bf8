//! What each thread of a process in a jail has for itself: no capabilities, a Landlock domain, the filter of its kind.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rustix::thread::{CapabilitySet, CapabilitySets};

use super::filter;
use super::landlock;
use super::table::Kind;

/// What every thread puts itself under, once the process locks itself in; without a domain where the kernel has none.
static PREPARED: OnceLock<Option<OwnedFd>> = OnceLock::new();

/// Prepares what every thread enters, and has this one enter it; the version of Landlock, 0 without.
pub(super) fn prepare(put_up: &mut dyn FnMut(&'static str, io::Result<()>) -> bool) -> u32 {
    let (domain, mut abi) = match landlock::domain() {
        Ok((domain, abi)) => (Some(domain), abi),
        Err(error) => {
            put_up("Landlock", Err(error));
            (None, 0)
        }
    };
    let domain = PREPARED.get_or_init(|| domain);
    put_up("no capabilities", drop_capabilities());
    put_up("no new privileges", no_new_privileges());
    if let Some(domain) = domain
        && !put_up("Landlock", landlock::enter(domain))
    {
        abi = 0;
    }
    abi
}

/// Has this thread be of this kind from now on, if its process is locked in; to be called first by each thread that a
/// process in a jail starts.
pub fn enter(kind: Kind) {
    if PREPARED.get().is_none() {
        return;
    }
    if let Err(error) = filter::narrow(kind) {
        tell_once(&error);
    }
}

/// For a thread that was there before its process locks itself in: it puts up the walls that are a thread's own. To be called while
/// the process does, when it asks for it ([`super::lock_in`]): behind the filter these calls are gone.
pub fn enter_early() {
    let Some(domain) = PREPARED.get() else {
        return;
    };
    let dropped = drop_capabilities();
    // A thread's own too; without it Landlock takes only who has power over its namespace.
    let settled = no_new_privileges();
    let entered = domain.as_ref().map_or(Ok(()), landlock::enter);
    if let Err(error) = dropped.and(settled).and(entered) {
        tell_once(&error);
    }
}

/// The process has its filter; that a thread's own is missing is worth one line, not a VM.
fn tell_once(error: &io::Error) {
    static TOLD: OnceLock<()> = OnceLock::new();
    if TOLD.set(()).is_ok() {
        eprintln!("mother: a thread has only the walls of its process: {error}");
    }
}

/// More than there are; what there is not is refused.
const CAPABILITIES: libc::c_ulong = 64;

/// Gives up all capabilities, which are those of the process's own user namespace if it has one, for good.
fn drop_capabilities() -> io::Result<()> {
    keep_capabilities(CapabilitySet::empty())
}

/// The same but for these, of which it keeps what it has.
pub(super) fn keep_capabilities(kept: CapabilitySet) -> io::Result<()> {
    // Where the process was not born into a namespace it may have none, and then takes none from the set.
    for capability in 0..CAPABILITIES {
        // SAFETY: the call takes its arguments by value.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    let _ = rustix::thread::clear_ambient_capability_set();
    let kept = match kept.is_empty() {
        true => kept,
        false => rustix::thread::capabilities(None)?.permitted & kept,
    };
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

pub(super) fn no_new_privileges() -> io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// Other processes of this user may not look into this one, nor take it over (ptrace(2), `PR_SET_DUMPABLE`).
pub(super) fn hide_from_equals() -> io::Result<()> {
    let hidden = rustix::process::DumpableBehavior::NotDumpable;
    Ok(rustix::process::set_dumpable_behavior(hidden)?)
}

/// `PR_SET_MDWE` with `PR_MDWE_REFUSE_EXEC_GAIN`.
const PR_SET_MDWE: libc::c_int = 65;
const REFUSE_EXEC_GAIN: libc::c_ulong = 1;

/// Memory that is not executable stays so, and none is mapped that is writable too (Linux 6.3).
pub(super) fn refuse_executable_gain() -> io::Result<()> {
    // SAFETY: the call takes its arguments by value.
    let status = unsafe { libc::prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0_u64, 0_u64, 0_u64) };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
