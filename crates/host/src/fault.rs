//! Faults of generated code: a SIGSEGV, SIGFPE, SIGILL, SIGBUS or SIGTRAP inside it becomes a note and a jump.
//!
//! Generated code runs guest instructions on the host's silicon, so the silicon raises the guest's faults: a
//! division by zero, a misaligned `movaps`, an unmasked SSE exception. The handler writes what the kernel tells into
//! a [`FaultRecord`] that lies at a fixed distance from the thread's GS base (the vCPU block), and goes on at the
//! region's landing address, where all registers still have the values of the faulting instruction. It touches
//! nothing else. Signals whose RIP lies in no region go to whoever handled them before.
//!
//! Guest code keeps its own stack pointer in RSP, so every signal that can arrive while it runs must be handled on
//! an alternate stack, whatever RSP is: `SS_AUTODISARM` makes the kernel ignore RSP when it chooses the stack.
//! [`use_alternate_stack`] sets that up for a thread.

use std::cell::RefCell;
use std::io;
use std::mem;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the handler writes for generated code.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultRecord {
    /// Exception vector, as the kernel's `REG_TRAPNO`.
    pub vector: u64,
    /// Error code, `REG_ERR`.
    pub error: u64,
    /// Fault address, `REG_CR2`.
    pub address: u64,
    /// Where generated code was.
    pub rip: u64,
}

struct Region {
    start: AtomicU64,
    end: AtomicU64,
    landing: AtomicU64,
    /// Distance of the [`FaultRecord`] from the GS base.
    record_offset: AtomicU64,
}

/// How many code caches one process may have at a time.
const REGION_COUNT: usize = 64;

static REGIONS: [Region; REGION_COUNT] = [const {
    Region {
        start: AtomicU64::new(0),
        end: AtomicU64::new(0),
        landing: AtomicU64::new(0),
        record_offset: AtomicU64::new(0),
    }
}; REGION_COUNT];

/// Generated code whose faults are caught, until this is dropped.
#[derive(Debug)]
pub struct FaultRegion(usize);

impl FaultRegion {
    /// Catches faults with RIP in `start..end`.
    ///
    /// # Errors
    /// If the process has too many regions, or a signal handler cannot be installed.
    ///
    /// # Safety
    /// Whenever a thread executes in `start..end`, its GS base must point to memory in which a [`FaultRecord`] may
    /// be written at `record_offset`, and `landing` must be code that can follow any instruction in the range.
    pub unsafe fn new(
        start: u64,
        end: u64,
        landing: u64,
        record_offset: u64,
    ) -> io::Result<FaultRegion> {
        install_handlers()?;
        for (index, region) in REGIONS.iter().enumerate() {
            if region
                .start
                .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
            {
                region.landing.store(landing, Ordering::Relaxed);
                region.record_offset.store(record_offset, Ordering::Relaxed);
                region.end.store(end, Ordering::Relaxed);
                region.start.store(start, Ordering::Release);
                return Ok(FaultRegion(index));
            }
        }
        Err(io::Error::new(
            io::ErrorKind::QuotaExceeded,
            "too many code caches in one process",
        ))
    }
}

impl Drop for FaultRegion {
    fn drop(&mut self) {
        let region = &REGIONS[self.0];
        region.end.store(0, Ordering::Relaxed);
        region.start.store(0, Ordering::Release);
    }
}

const SIGNALS: [libc::c_int; 5] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
];

/// Handlers that were there before ours, by position in [`SIGNALS`].
static PREVIOUS: [AtomicU64; SIGNALS.len()] = [const { AtomicU64::new(0) }; SIGNALS.len()];

/// Has faults of generated code be heard. To be called before the process is locked in, which takes no handlers then.
///
/// # Errors
/// What `sigaction` says.
pub fn install_handlers() -> io::Result<()> {
    static INSTALL: Once = Once::new();
    let mut result = Ok(());
    INSTALL.call_once(|| {
        for (index, signal) in SIGNALS.into_iter().enumerate() {
            match install_handler(signal) {
                Ok(previous) => PREVIOUS[index].store(previous, Ordering::Release),
                Err(error) => result = Err(error),
            }
        }
    });
    result
}

fn install_handler(signal: libc::c_int) -> io::Result<u64> {
    // SAFETY: an all-zero sigaction is a valid value: default action, no flags, empty mask.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = on_fault as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
    // SAFETY: as above.
    let mut previous: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: both structs are valid; the handler has the three-argument signature that SA_SIGINFO promises.
    let status = unsafe { libc::sigaction(signal, &action, &mut previous) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(previous.sa_sigaction as u64)
}

type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

extern "C" fn on_fault(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    let context_ptr = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel passes a valid ucontext that belongs to this handler until it returns.
    let context_ref = unsafe { &mut *context_ptr };
    let registers = &mut context_ref.uc_mcontext.gregs;
    let rip = registers[libc::REG_RIP as usize] as u64;
    let region = REGIONS.iter().find(|region| {
        let start = region.start.load(Ordering::Acquire);
        start > 1 && rip >= start && rip < region.end.load(Ordering::Relaxed)
    });
    let Some(region) = region else {
        return forward(signal, info, context_ref);
    };
    let record = FaultRecord {
        vector: registers[libc::REG_TRAPNO as usize] as u64,
        error: registers[libc::REG_ERR as usize] as u64,
        address: registers[libc::REG_CR2 as usize] as u64,
        rip,
    };
    // SAFETY: a thread runs in a registered region only on a host with user FSGSBASE (checked before).
    let gs_base = unsafe { gs_base() };
    let at = (gs_base + region.record_offset.load(Ordering::Relaxed)) as *mut FaultRecord;
    // SAFETY: RIP is in the region, so by the contract of `FaultRegion::new` GS base points to the vCPU block.
    unsafe { at.write(record) };
    registers[libc::REG_RIP as usize] = region.landing.load(Ordering::Relaxed) as i64;
    // Single-step must not go on in our own exit code.
    registers[libc::REG_EFL as usize] &= !0x100;
}

/// # Safety
/// The host must allow FSGSBASE in ring 3.
#[inline]
unsafe fn gs_base() -> u64 {
    let base: u64;
    // SAFETY: RDGSBASE reads a register and nothing else; the caller vouches that it exists.
    unsafe {
        std::arch::asm!("rdgsbase {}", out(reg) base, options(nomem, nostack, preserves_flags))
    };
    base
}

/// Gives the signal to the handler that was there before, and then lets it end the process as if we were not there.
///
/// A handler is taken off by a call that a process in a jail may not make ([`crate::jail`]). But a fault whose signal is blocked ends
/// the process whatever handler there is, and what is blocked when this one returns stands in its frame.
fn forward(signal: libc::c_int, info: *mut libc::siginfo_t, context: &mut libc::ucontext_t) {
    let index = SIGNALS
        .iter()
        .position(|&known| known == signal)
        .unwrap_or(0);
    let previous = PREVIOUS[index].load(Ordering::Acquire) as usize;
    if previous != libc::SIG_DFL && previous != libc::SIG_IGN {
        // SAFETY: Rust's runtime installs its handlers with SA_SIGINFO, so the value is such a function.
        let handler = unsafe { mem::transmute::<usize, Handler>(previous) };
        handler(signal, info, std::ptr::from_mut(context).cast());
    }
    // SAFETY: the set is a valid one, and the signal exists.
    unsafe { libc::sigaddset(&raw mut context.uc_sigmask, signal) };
}

/// Bytes of an alternate stack: room for a signal frame with the largest XSAVE area and for the handlers.
const STACK_BYTES: usize = 128 * 1024;
/// `SS_AUTODISARM` of `sigaltstack(2)`.
const SS_AUTODISARM: libc::c_int = 1 << 31;

/// The stack's memory; unregistered before it is freed.
struct AlternateStack(#[expect(dead_code, reason = "owned for the kernel's use")] Box<[u8]>);

impl Drop for AlternateStack {
    fn drop(&mut self) {
        let none = libc::stack_t {
            ss_sp: std::ptr::null_mut(),
            ss_flags: libc::SS_DISABLE,
            ss_size: 0,
        };
        // SAFETY: `none` is a valid description; the thread is ending and runs no generated code any more.
        unsafe { libc::sigaltstack(&none, std::ptr::null_mut()) };
    }
}

thread_local! {
    static STACK: RefCell<Option<AlternateStack>> = const { RefCell::new(None) };
}

/// The signal that has a thread look up, and no more: its handler does nothing, on the alternate stack.
pub fn look_up_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

/// Blocks every asynchronous signal for the calling thread: a thread that runs guest code has nothing to do with
/// them, and their handlers may not expect its stack. One that comes out of KVM by a signal hears that one: it may run
/// translated code before, and in a jail nobody changes what is blocked.
fn block_asynchronous_signals() {
    // SAFETY: an all-zero sigset is valid for sigfillset to overwrite.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is a valid sigset.
    unsafe { libc::sigfillset(&mut set) };
    // A refused system call is a signal too (`crate::jail`); blocked, it would end the process.
    for signal in SIGNALS.into_iter().chain([libc::SIGSYS, look_up_signal()]) {
        // SAFETY: `set` is a valid sigset and the signal numbers exist.
        unsafe { libc::sigdelset(&mut set, signal) };
    }
    // SAFETY: `set` is a valid sigset; the old mask is not wanted.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
}

/// Prepares the calling thread for generated code: faults are handled on a stack of their own, asynchronous signals
/// go to other threads. Cheap when done already.
///
/// # Errors
/// What `sigaltstack` says.
pub fn use_alternate_stack() -> io::Result<()> {
    STACK.with_borrow_mut(|slot| {
        if slot.is_some() {
            return Ok(());
        }
        let mut memory = vec![0_u8; STACK_BYTES].into_boxed_slice();
        let stack = libc::stack_t {
            ss_sp: memory.as_mut_ptr().cast(),
            ss_flags: SS_AUTODISARM,
            ss_size: STACK_BYTES,
        };
        // SAFETY: the memory is kept in a thread local for as long as the thread lives.
        let status = unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) };
        if status != 0 {
            return Err(io::Error::last_os_error());
        }
        *slot = Some(AlternateStack(memory));
        block_asynchronous_signals();
        Ok(())
    })
}
