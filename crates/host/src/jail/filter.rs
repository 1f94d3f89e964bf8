//! The filters on a process's system calls: one for all of it, a narrower one for each kind of thread.
//!
//! ```text
//! call of another architecture, or x32's  ENOSYS        its numbers would slip past the table
//! clone3                                  ENOSYS        its flags lie in memory, where no filter sees them; libc falls
//!                                                       back on clone, whose flags are an argument
//! in the table, its check holds           as ever       [`super::table`]
//! what only an intruder would do          death         [`super::calls`]
//! what libc does for its own comfort      EPERM         nothing is lost by it
//! where libc takes an error for more      0             [`super::calls::ANSWERED`]
//! anything else                           EPERM, noted  by whoever listens outside ([`super::notice`]), or else by SIGSYS
//!                                                       (`SECCOMP_RET_TRAP`), whose handler notes call and thread
//! ```
//!
//! A refused call fails as if the host had said no, and the program goes on: libraries change what they call from version to
//! version, and a VM that dies of a new libc is no gain. [`refused`] tells.
//!
//! The kernel keeps a table of calls whose answer does not depend on their arguments, so what is let through costs nothing
//! (Linux 5.11). The filter asks for no mitigations of speculation beyond what the process had
//! (`SECCOMP_FILTER_FLAG_SPEC_ALLOW`): kernels before 5.16 would turn some on. Neither that flag, nor several answers in one
//! filter, nor numbers of other architectures can be said with the crates that write filters, so these few instructions are
//! written here.

use std::cell::Cell;
use std::io;
use std::mem;
use std::num::NonZero;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use super::calls::{self, ANSWERED, DEADLY, QUIET};
use super::table::{Call, Check, Kind, VM, allowed, kvm_orders};

/// `__X32_SYSCALL_BIT`: numbers from here on are those of the x32 ABI, which has the architecture of x86-64.
const X32: u32 = 0x4000_0000;

/// `AUDIT_ARCH_X86_64`.
const ARCHITECTURE: u32 = 0xc000_003e;

/// Offsets in `struct seccomp_data`: the call's number, its architecture, its arguments.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;
const ARGUMENT_BYTES: u32 = 8;

/// Refusals that are kept by number and thread.
const KEPT: usize = 8;

static IS_ARMED: AtomicBool = AtomicBool::new(false);

/// Calls that were refused and noted.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// The first of them: the kind of the thread above the low 32 bits, which are the call's number.
static FIRST: [AtomicI64; KEPT] = [const { AtomicI64::new(-1) }; KEPT];

/// What was refused so far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// How many calls.
    pub count: u64,
    /// The first few: which call, and what thread made it.
    pub first: Vec<String>,
}

/// What was refused so far; `None` where there is no filter.
pub fn refused() -> Option<Refused> {
    let first = FIRST.iter().map(|refusal| refusal.load(Ordering::Acquire));
    IS_ARMED.load(Ordering::Acquire).then(|| Refused {
        count: COUNT.load(Ordering::Relaxed),
        first: first.filter(|refusal| *refusal >= 0).map(words).collect(),
    })
}

/// So many more calls of this process were refused, which were heard of outside of it and told there.
pub fn note_refused(count: u64) {
    COUNT.fetch_add(count, Ordering::Relaxed);
}

/// A refusal as it is kept.
fn kept(number: i64, kind: Kind) -> i64 {
    number & 0xffff_ffff | (kind as i64) << 32
}

fn words(refusal: i64) -> String {
    let kind = Kind::ALL.iter().find(|&&kind| kind as i64 == refusal >> 32);
    let kind = kind.copied().unwrap_or(Kind::Any);
    format!("{} by {}", calls::name(refusal & 0xffff_ffff), kind.name())
}

/// What this process's filters ask for beside the table.
static HAS_KVM: AtomicBool = AtomicBool::new(false);

/// Somebody outside hears of what the process's own filter refuses.
static IS_HEARD: AtomicBool = AtomicBool::new(false);

/// `SECCOMP_FILTER_FLAG_TSYNC_ESRCH`: a thread that has a filter of its own is an error, and no number that could be a descriptor.
const TSYNC_ESRCH: libc::c_ulong = 1 << 4;

/// Sets the filter of a kind for all threads of this process, and for those to come. It cannot be taken off. A process that
/// `has_kvm` may use KVM's descriptors. One that `is_heard` gets the listener for [`super::Refusals`], if the host has one.
///
/// # Errors
/// If this host has no such filters, or does not let this process have one.
pub(super) fn arm(kind: Kind, has_kvm: bool, is_heard: bool) -> io::Result<Option<OwnedFd>> {
    HAS_KVM.store(has_kvm, Ordering::Release);
    install_handler()?;
    rustix::thread::set_no_new_privs(true)?;
    let listener = if is_heard { listened(kind) } else { None };
    IS_HEARD.store(listener.is_some(), Ordering::Release);
    if listener.is_none() {
        set(
            &program(kind, has_kvm, Noted::Within),
            libc::SECCOMP_FILTER_FLAG_TSYNC,
        )?;
    }
    KIND.set(Some(kind));
    IS_ARMED.store(true, Ordering::Release);
    Ok(listener)
}

/// Sets the filter with a listener; without one if the host does not have it so.
fn listened(kind: Kind) -> Option<OwnedFd> {
    let flags =
        libc::SECCOMP_FILTER_FLAG_TSYNC | TSYNC_ESRCH | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let program = program(kind, HAS_KVM.load(Ordering::Acquire), Noted::Outside);
    let listener = RawFd::try_from(set(&program, flags).ok()?).ok()?;
    // SAFETY: with this flag what the call returns is a new descriptor, which is nobody else's.
    Some(unsafe { OwnedFd::from_raw_fd(listener) })
}

thread_local! {
    /// What this thread is, once it has said so.
    static KIND: Cell<Option<Kind>> = const { Cell::new(None) };
}

/// Narrows what this thread may to what its kind may. Asked again, it does nothing.
pub(super) fn narrow(kind: Kind) -> io::Result<()> {
    if !IS_ARMED.load(Ordering::Acquire) {
        return Ok(());
    }
    let before = KIND.replace(Some(kind));
    if before == Some(kind) || kind == Kind::Any {
        return Ok(());
    }
    let noted = match IS_HEARD.load(Ordering::Acquire) {
        true => Noted::ByTheProcess,
        false => Noted::Within,
    };
    let program = program(kind, HAS_KVM.load(Ordering::Acquire), noted);
    set(&program, 0).map(drop)
}

/// Who notes what a filter refuses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Noted {
    /// Whoever listens outside.
    Outside,
    /// A thread's own filter leaves to its process's what that refuses, and whoever listens to it. What only the thread may not is
    /// noted within: of all answers the kernel takes the strictest, and to be trapped is stricter than to be heard.
    ByTheProcess,
    /// A handler of the process.
    Within,
}

/// Sets a filter; what the call returned.
fn set(program: &[libc::sock_filter], flags: libc::c_ulong) -> io::Result<libc::c_long> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len())
            .expect("a few instructions for each call of a short list"),
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the program lives through the call, which copies it and does not write to it; its length is that of the slice.
    let status = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const program,
        )
    };
    match status {
        -1 => Err(io::Error::last_os_error()),
        thread @ 1.. if flags == libc::SECCOMP_FILTER_FLAG_TSYNC => Err(io::Error::other(format!(
            "thread {thread} has a filter of its own"
        ))),
        status => Ok(status),
    }
}

/// Bytes of an allocation that glibc's malloc takes from a heap, and does not map by itself; and how many make it give
/// memory back when they are freed.
const PIECE_BYTES: usize = 100 << 10;
const PIECES: usize = 16;

/// Has libc and rustix know what they would read a file for later. To be called while there are few threads, before [`arm`].
///
/// Both are glibc's malloc. When threads get heaps of their own it looks up how many cores there are, because there are at
/// most eight heaps for each: told how many there may be, it does not look. When the first of these heaps gives memory
/// back, it looks whether the host overcommits: so one is made to do that.
///
/// rustix asks the kernel for the auxiliary vector, and where it does not answer that (before Linux 6.4) reads
/// `/proc/self/auxv`, once: when somebody first wants to know the size of a page.
pub fn settle_libc() {
    let _ = rustix::param::page_size();
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let heaps = libc::c_int::try_from(cores.saturating_mul(8)).unwrap_or(libc::c_int::MAX);
    // SAFETY: the call takes its arguments by value and locks what it changes.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, heaps) };
    let work = || {
        let pieces: Vec<Vec<u8>> = (0..PIECES).map(|_| vec![1; PIECE_BYTES]).collect();
        drop(std::hint::black_box(pieces));
    };
    // Without a thread it is looked up later, and refused.
    if let Ok(thread) = std::thread::Builder::new().spawn(work) {
        let _ = thread.join();
    }
}

/// The filter of a kind of thread (bpf(4), seccomp(2)).
fn program(kind: Kind, has_kvm: bool, noted: Noted) -> Vec<libc::sock_filter> {
    let unknown = answer(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
    let mut program = vec![
        load(ARCH),
        jump(libc::BPF_JEQ, ARCHITECTURE, 1, 0),
        unknown,
        load(NUMBER),
        jump(libc::BPF_JGE, X32, 0, 1),
        unknown,
        jump(libc::BPF_JEQ, libc::SYS_clone3 as u32, 0, 1),
        unknown,
    ];
    let mut decide = |number: i64, judged: Vec<libc::sock_filter>| {
        program.push(jump(libc::BPF_JEQ, number as u32, 0, judged.len() as u8));
        program.extend(judged);
    };
    for call in allowed(kind) {
        decide(call.number, judge(call, kind, has_kvm, noted));
    }
    if noted == Noted::ByTheProcess {
        let is_ours = |number| allowed(kind).any(|call| call.number == number);
        for call in VM.iter().filter(|call| !is_ours(call.number)) {
            decide(call.number, vec![answer(libc::SECCOMP_RET_TRAP)]);
        }
    }
    for (number, _) in DEADLY {
        decide(*number, vec![answer(libc::SECCOMP_RET_KILL_PROCESS)]);
    }
    for (calls, error) in [(QUIET, libc::EPERM), (ANSWERED, 0)] {
        for (number, _) in calls {
            let error = answer(libc::SECCOMP_RET_ERRNO | error as u32);
            decide(*number, vec![error]);
        }
    }
    program.push(match noted {
        Noted::Outside => answer(libc::SECCOMP_RET_USER_NOTIF),
        Noted::ByTheProcess => answer(libc::SECCOMP_RET_ALLOW),
        Noted::Within => answer(libc::SECCOMP_RET_TRAP),
    });
    program
}

/// What decides about one call of the table.
fn judge(call: &Call, kind: Kind, has_kvm: bool, noted: Noted) -> Vec<libc::sock_filter> {
    let pass = answer(libc::SECCOMP_RET_ALLOW);
    let refuse = match noted {
        Noted::Outside => answer(libc::SECCOMP_RET_USER_NOTIF),
        Noted::ByTheProcess | Noted::Within => answer(libc::SECCOMP_RET_TRAP),
    };
    let argument = |place: u8| load(ARGUMENTS + ARGUMENT_BYTES * u32::from(place));
    let one_of = |values: &[u32]| -> Vec<libc::sock_filter> {
        let one = |&value: &u32| [jump(libc::BPF_JEQ, value, 0, 1), pass];
        values.iter().flat_map(one).collect()
    };
    // What holds of the whole process is asked by its filter.
    let is_asked_there = call.is_for(Kind::Any) && !matches!(call.check, Check::Order(_));
    let check = match noted {
        Noted::ByTheProcess if is_asked_there => Check::Any,
        _ => call.check,
    };
    let mut judged = Vec::new();
    match check {
        Check::Any => return vec![pass],
        Check::OneOf(place, values) => {
            judged.push(argument(place));
            judged.extend(one_of(values));
        }
        Check::Without(place, bits) => {
            judged.push(argument(place));
            judged.extend([jump(libc::BPF_JSET, bits, 1, 0), pass]);
        }
        Check::Us(place) => {
            judged.push(argument(place));
            judged.extend(one_of(&[crate::cpu::process_number() as u32]));
        }
        Check::Order(values) => {
            judged.push(argument(1));
            judged.extend(one_of(values));
            if has_kvm {
                judged.extend(one_of(&kvm_orders(kind).collect::<Vec<u32>>()));
            }
        }
    }
    judged.push(refuse);
    judged
}

fn load(offset: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn answer(action: u32) -> libc::sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, action)
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Skips so many instructions if the comparison with `k` holds, and so many if it does not.
fn jump(comparison: u32, k: u32, if_so: u8, if_not: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: (libc::BPF_JMP | comparison | libc::BPF_K) as u16,
        jt: if_so,
        jf: if_not,
        k,
    }
}

/// `SYS_SECCOMP` of `siginfo_t`: the signal is a filter's.
const SYS_SECCOMP: libc::c_int = 1;

fn install_handler() -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid value: default action, no flags, empty mask.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = on_refusal as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the struct is valid, the old one is not wanted; the handler has the signature that SA_SIGINFO promises.
    let status = unsafe { libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()) };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Notes the call and has it fail. The kernel has put the registers back to what they were before the call, so RAX has its
/// number, and what the handler leaves there is the answer.
extern "C" fn on_refusal(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes valid information that belongs to this handler until it returns.
    let code = unsafe { (*info).si_code };
    if code != SYS_SECCOMP {
        // Sent by another process: nothing of ours was refused.
        return;
    }
    // SAFETY: the same holds of the context.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let rax = &mut context.uc_mcontext.gregs[libc::REG_RAX as usize];
    let place = COUNT.fetch_add(1, Ordering::Relaxed);
    if let Some(first) = FIRST.get(place as usize) {
        // A thread that is ending has none any more.
        let kind = KIND.try_with(Cell::get).ok().flatten();
        let kind = kind.unwrap_or(Kind::Any);
        first.store(kept(*rax, kind), Ordering::Release);
    }
    *rax = -i64::from(libc::EPERM);
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
