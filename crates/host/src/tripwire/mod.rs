//! A filter on this process's system calls: what a process that has opened everything has no use for is refused, counted
//! and known by name.
//!
//! # Problem
//!
//! That a program opens nothing any more is easily written and easily lost: by a line of ours, or by a library that reads
//! a file for its own comfort. Nobody would notice, because it works.
//!
//! # What it is, and what not
//!
//! A seccomp filter (seccomp(2)) that refuses a list of calls and lets everything else through. So it is a proof that the
//! program keeps to what it says, and no jail: a jail is a list of what is allowed. A call is refused by SIGSYS
//! (`SECCOMP_RET_TRAP`), whose handler notes which one it was and has it fail with EPERM: the program goes on as if the
//! host had said no, and [`refused`] tells.
//!
//! ```text
//! call of another architecture, or x32's  ENOSYS        its numbers would slip past the list
//! clone3                                  ENOSYS        its flags lie in memory, where no filter sees them; libc falls
//!                                                       back on clone, whose flags are an argument
//! clone without CLONE_THREAD              EPERM, noted
//! one of the list (`calls`)               EPERM, noted
//! anything else                           as ever
//! ```
//!
//! The kernel keeps a table of calls whose answer does not depend on their arguments, so what is let through costs nothing
//! (Linux 5.11). The filter asks for no mitigations of speculation beyond what the process had
//! (`SECCOMP_FILTER_FLAG_SPEC_ALLOW`): kernels before 5.16 would turn some on, at a price in speed, for a promise that
//! this filter does not make. Neither that flag, nor several answers in one filter, nor numbers of other architectures
//! can be said with the crates that write filters, so these few instructions are written here.

mod calls;

use std::io;
use std::mem;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use self::calls::REFUSED;

/// `__X32_SYSCALL_BIT`: numbers from here on are those of the x32 ABI, which has the architecture of x86-64.
const X32: u32 = 0x4000_0000;

/// `AUDIT_ARCH_X86_64`.
const ARCHITECTURE: u32 = 0xc000_003e;

/// Offsets in `struct seccomp_data`: the call's number, its architecture, the low half of its first argument.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

/// Calls that are kept by number.
const KEPT: usize = 8;

static IS_ARMED: AtomicBool = AtomicBool::new(false);

/// Calls that were refused.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// The first of them, by number.
static FIRST: [AtomicI64; KEPT] = [const { AtomicI64::new(-1) }; KEPT];

/// What was refused so far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// How many calls.
    pub count: u64,
    /// The first few, by name.
    pub first: Vec<String>,
}

/// What was refused so far; `None` where there is no filter.
pub fn refused() -> Option<Refused> {
    let first = FIRST.iter().map(|number| number.load(Ordering::Acquire));
    IS_ARMED.load(Ordering::Acquire).then(|| Refused {
        count: COUNT.load(Ordering::Relaxed),
        first: first.filter(|number| *number >= 0).map(name).collect(),
    })
}

fn name(number: i64) -> String {
    let mut names = REFUSED.iter().chain(&[(libc::SYS_clone, "SYS_clone")]);
    let known = names.find(|(known, _)| *known == number);
    known.map_or_else(
        || format!("system call {number}"),
        |(_, name)| name.trim_start_matches("SYS_").to_owned(),
    )
}

/// Sets the filter for all threads of this process, and for those to come. It cannot be taken off.
///
/// # Errors
/// If this host has no such filters, or does not let this process have one.
pub fn arm() -> io::Result<()> {
    install_handler()?;
    // SAFETY: the call takes its arguments by value.
    let status = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut program = program();
    let program = libc::sock_fprog {
        len: u16::try_from(program.len())
            .expect("a few instructions for each call of a short list"),
        filter: program.as_mut_ptr(),
    };
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: the program lives through the call, which copies it; its length is that of the vector.
    let status = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    match status {
        0 => {
            IS_ARMED.store(true, Ordering::Release);
            Ok(())
        }
        -1 => Err(io::Error::last_os_error()),
        thread => Err(io::Error::other(format!(
            "thread {thread} has a filter of its own"
        ))),
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

/// The filter (bpf(4), seccomp(2)).
fn program() -> Vec<libc::sock_filter> {
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let answer = |action| statement(libc::BPF_RET | libc::BPF_K, action);
    let unknown = answer(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
    let noted = answer(libc::SECCOMP_RET_TRAP);
    let pass = answer(libc::SECCOMP_RET_ALLOW);
    let mut program = vec![
        load(ARCH),
        jump(libc::BPF_JEQ, ARCHITECTURE, 1, 0),
        unknown,
        load(NUMBER),
        jump(libc::BPF_JGE, X32, 0, 1),
        unknown,
        jump(libc::BPF_JEQ, libc::SYS_clone3 as u32, 0, 1),
        unknown,
        jump(libc::BPF_JEQ, libc::SYS_clone as u32, 0, 4),
        load(FIRST_ARGUMENT),
        jump(libc::BPF_JSET, libc::CLONE_THREAD as u32, 0, 1),
        pass,
        noted,
    ];
    for (number, _) in REFUSED {
        program.extend([jump(libc::BPF_JEQ, *number as u32, 0, 1), noted]);
    }
    program.push(pass);
    program
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
        first.store(*rax, Ordering::Release);
    }
    *rax = -i64::from(libc::EPERM);
}

#[cfg(test)]
mod tests;
