//! The inside of the native process: map the arena, give rights away, live in the signal handler.
//!
//! Between `fork` and the end nothing here allocates, takes a lock or unwinds. State that the handler needs lies in
//! atomics that are set once before the first signal.

use std::arch::{asm, naked_asm};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::{HANG, Mailbox, Slot};
use crate::arena;
use crate::case::{Registers, XSAVE_REGISTERS, selector};

/// What the child is given.
pub(super) struct Shared {
    pub(super) code: RawFd,
    pub(super) data: RawFd,
    pub(super) mailbox: *mut Mailbox,
    pub(super) go: RawFd,
    pub(super) done: RawFd,
    /// To be closed, so that the parent's death is seen.
    pub(super) parents_ends: [RawFd; 2],
}

static MAILBOX: AtomicUsize = AtomicUsize::new(0);
/// A writable view of the data pages, for filling and copying out.
static DATA_VIEW: AtomicUsize = AtomicUsize::new(0);
static GO: AtomicI32 = AtomicI32::new(0);
static DONE: AtomicI32 = AtomicI32::new(0);
/// FS base of the Rust runtime.
static FS_BASE: AtomicU64 = AtomicU64::new(0);
/// The running case, or [`IDLE`].
static RUNNING: AtomicU32 = AtomicU32::new(IDLE);
/// What was running at the last tick of the clock.
static SEEN: AtomicU32 = AtomicU32::new(IDLE);
const IDLE: u32 = u32::MAX;

/// Time between two ticks; a case that sees two of them hangs.
const TICK_US: i64 = 20_000;
const ALTERNATE_STACK_BYTES: usize = 1 << 17;

/// The child's life. Never returns.
pub(super) fn main(shared: &Shared) -> ! {
    let fs_base: u64;
    // SAFETY: the kernel enabled FSGSBASE (checked by `forms::host_can_run`); reading has no effect.
    unsafe { asm!("rdfsbase {}", out(reg) fs_base, options(nomem, nostack)) };
    FS_BASE.store(fs_base, Ordering::Relaxed);
    MAILBOX.store(shared.mailbox as usize, Ordering::Relaxed);
    GO.store(shared.go, Ordering::Relaxed);
    DONE.store(shared.done, Ordering::Relaxed);
    for fd in shared.parents_ends {
        // SAFETY: these are copies of the parent's descriptors that nobody uses in this process.
        unsafe { libc::close(fd) };
    }
    // SAFETY: a plain request about this process.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let data_view = map(
        0,
        arena::DATA_BYTES,
        libc::PROT_READ | libc::PROT_WRITE,
        shared.data,
        0,
    );
    DATA_VIEW.store(data_view, Ordering::Relaxed);
    map(
        arena::CODE,
        arena::CODE_BYTES,
        libc::PROT_READ | libc::PROT_EXEC,
        shared.code,
        0,
    );
    for (index, page) in arena::DATA_MAP.iter().enumerate() {
        let write = if page.writable { libc::PROT_WRITE } else { 0 };
        let offset = index as u64 * arena::PAGE;
        map(
            page.address,
            arena::PAGE as usize,
            libc::PROT_READ | write,
            shared.data,
            offset,
        );
    }
    install_handlers();
    // SAFETY: strict mode leaves read, write, exit and sigreturn, which is all the handler needs.
    unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) };
    loop {
        // SAFETY: the breakpoint enters the handler, which goes on from there.
        unsafe { asm!("int3") };
    }
}

fn die() -> ! {
    // SAFETY: ends this process without running anything of the parent's.
    unsafe { libc::_exit(1) }
}

/// Maps `fd` shared and touches every page, at `address` if that is not 0. Returns where.
fn map(address: u64, len_bytes: usize, protection: i32, fd: RawFd, offset: u64) -> usize {
    let fixed = if address == 0 {
        0
    } else {
        libc::MAP_FIXED_NOREPLACE
    };
    let flags = libc::MAP_SHARED | libc::MAP_POPULATE | fixed;
    let wanted = address as *mut libc::c_void;
    // SAFETY: NOREPLACE keeps existing mappings; without an address the kernel chooses.
    let at = unsafe { libc::mmap(wanted, len_bytes, protection, flags, fd, offset as i64) };
    if at == libc::MAP_FAILED || (address != 0 && at as u64 != address) {
        die();
    }
    at as usize
}

fn install_handlers() {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the kernel chooses the address.
    let stack = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            ALTERNATE_STACK_BYTES,
            protection,
            flags,
            -1,
            0,
        )
    };
    let stack = libc::stack_t {
        ss_sp: stack,
        ss_flags: 0,
        ss_size: ALTERNATE_STACK_BYTES,
    };
    // SAFETY: the stack was just mapped and is never unmapped.
    if unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) } != 0 {
        die();
    }
    // SAFETY: an all-zero sigaction is valid; it is filled in below.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = enter as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the set lies in `action`.
    unsafe { libc::sigfillset(&mut action.sa_mask) };
    let signals = [
        libc::SIGTRAP,
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGALRM,
    ];
    for signal in signals {
        // SAFETY: `action` is complete, and its handler keeps the rules of this module.
        if unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } != 0 {
            die();
        }
    }
    let tick = libc::timeval {
        tv_sec: 0,
        tv_usec: TICK_US,
    };
    let timer = libc::itimerval {
        it_interval: tick,
        it_value: tick,
    };
    // SAFETY: `timer` is complete, and SIGALRM has a handler.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
}

/// Where the kernel enters. Linux clears DF and TF for a handler but not AC, NT and ID.
#[unsafe(naked)]
extern "C" fn enter(signal: i32, info: *const libc::siginfo_t, context: *mut libc::ucontext_t) {
    naked_asm!("push 0x202", "popfq", "jmp {handle}", handle = sym handle)
}

/// The part of an XSAVE frame that Linux keeps in the reserved bytes (`struct _fpx_sw_bytes`).
const XSTATE_BV: usize = 512;

extern "C" fn handle(signal: i32, _info: *const libc::siginfo_t, context: *mut libc::ucontext_t) {
    let (fs_base, gs_base, selectors) = take_segments();
    let mailbox = MAILBOX.load(Ordering::Relaxed) as *mut Mailbox;
    let running = RUNNING.load(Ordering::Relaxed);
    if signal == libc::SIGALRM {
        let is_stuck = running != IDLE && SEEN.swap(running, Ordering::Relaxed) == running;
        if !is_stuck {
            give_segments(fs_base, gs_base, &selectors);
            return;
        }
    }
    if running != IDLE {
        let slot = slot(mailbox, running);
        // SAFETY: `slot` is inside the shared memory, which the parent leaves alone until we say done.
        let slot = unsafe { &mut *slot };
        save(slot, context);
        slot.end.fs_base = fs_base;
        slot.end.gs_base = gs_base;
        slot.end.selectors[2..6].copy_from_slice(&selectors);
        slot.signal = if signal == libc::SIGALRM {
            HANG
        } else {
            signal as u32
        };
        copy(
            DATA_VIEW.load(Ordering::Relaxed),
            slot.data.as_mut_ptr() as usize,
            arena::DATA_BYTES,
        );
    }
    let index = next_case(mailbox);
    // SAFETY: as above.
    let slot = unsafe { &*slot(mailbox, index) };
    // SAFETY: only a place in the shared memory is computed.
    let image = unsafe { &raw const (*mailbox).image };
    copy(
        image as usize,
        DATA_VIEW.load(Ordering::Relaxed),
        arena::DATA_BYTES,
    );
    load(&slot.start, context);
    SEEN.store(IDLE, Ordering::Relaxed);
    RUNNING.store(index, Ordering::Relaxed);
    let data = &slot.start.selectors[2..6];
    give_segments(
        slot.start.fs_base,
        slot.start.gs_base,
        &[data[0], data[1], data[2], data[3]],
    );
}

fn slot(mailbox: *mut Mailbox, index: u32) -> *mut Slot {
    // SAFETY: only a place in the shared memory is computed.
    let slots = unsafe { &raw mut (*mailbox).slots };
    slots.cast::<Slot>().wrapping_add(index as usize)
}

fn copy(from: usize, to: usize, len_bytes: usize) {
    // SAFETY: both are ranges of `len_bytes` in mappings of this process that do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, len_bytes) };
}

/// The next case of the batch; waits for a batch when there is none. `next` moves before the case runs, so that a
/// new process goes on behind a case that killed this one.
fn next_case(mailbox: *mut Mailbox) -> u32 {
    loop {
        // SAFETY: the mailbox stays mapped as long as this process lives.
        let mailbox = unsafe { &*mailbox };
        let next = mailbox.next.load(Ordering::Relaxed);
        let count = mailbox.count.load(Ordering::Relaxed);
        let was_idle = RUNNING.load(Ordering::Relaxed) == IDLE;
        if next < count && !was_idle {
            mailbox.next.store(next + 1, Ordering::Relaxed);
            return next;
        }
        if !was_idle {
            RUNNING.store(IDLE, Ordering::Relaxed);
            // SAFETY: writes one byte to our end of the pipe.
            unsafe { libc::write(DONE.load(Ordering::Relaxed), b"d".as_ptr().cast(), 1) };
        }
        let mut byte = 0_u8;
        // SAFETY: reads one byte into a local.
        let got = unsafe { libc::read(GO.load(Ordering::Relaxed), (&raw mut byte).cast(), 1) };
        if got != 1 {
            // SAFETY: the plain exit call is the one that strict seccomp allows; `exit_group` is not.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }
        // Any number but IDLE: the first case of the batch may start.
        RUNNING.store(0, Ordering::Relaxed);
    }
}

/// Copies the frame into the outcome.
fn save(slot: &mut Slot, context: *mut libc::ucontext_t) {
    // SAFETY: the kernel gave us this frame, and it stays until we return.
    let machine = unsafe { &(*context).uc_mcontext };
    for (register, &place) in slot.end.gprs.iter_mut().zip(&FRAME_ORDER) {
        *register = machine.gregs[place as usize] as u64;
    }
    slot.end.rip = machine.gregs[libc::REG_RIP as usize] as u64;
    slot.end.rflags = machine.gregs[libc::REG_EFL as usize] as u64;
    let segments = machine.gregs[libc::REG_CSGSFS as usize] as u64;
    slot.end.selectors[selector::CS] = segments as u16;
    slot.end.selectors[selector::SS] = (segments >> 48) as u16;
    slot.vector = machine.gregs[libc::REG_TRAPNO as usize] as u32;
    slot.error_code = machine.gregs[libc::REG_ERR as usize] as u32;
    slot.address = machine.gregs[libc::REG_CR2 as usize] as u64;
    let xsave = machine.fpregs.cast::<u8>() as usize;
    for (from, to) in XSAVE_REGISTERS {
        copy(
            xsave + from,
            slot.end.xsave.as_mut_ptr() as usize + from,
            to - from,
        );
    }
    copy(
        xsave + XSTATE_BV,
        slot.end.xsave.as_mut_ptr() as usize + XSTATE_BV,
        8,
    );
}

/// Writes a case into the frame, to be loaded by returning.
fn load(start: &Registers, context: *mut libc::ucontext_t) {
    // SAFETY: the kernel gave us this frame, and it stays until we return.
    let machine = unsafe { &mut (*context).uc_mcontext };
    for (register, &place) in start.gprs.iter().zip(&FRAME_ORDER) {
        machine.gregs[place as usize] = *register as i64;
    }
    machine.gregs[libc::REG_RIP as usize] = start.rip as i64;
    machine.gregs[libc::REG_EFL as usize] = start.rflags as i64;
    let cs = start.selectors[selector::CS];
    let ss = start.selectors[selector::SS];
    machine.gregs[libc::REG_CSGSFS as usize] = (u64::from(cs) | u64::from(ss) << 48) as i64;
    let xsave = machine.fpregs.cast::<u8>() as usize;
    for (from, to) in XSAVE_REGISTERS {
        copy(
            start.xsave.as_ptr() as usize + from,
            xsave + from,
            to - from,
        );
    }
    let present: u64 = 7;
    copy((&raw const present) as usize, xsave + XSTATE_BV, 8);
}

/// Where Linux keeps RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
const FRAME_ORDER: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Reads the segment state that signal frames do not hold, and restores the runtime's own.
fn take_segments() -> (u64, u64, [u16; 4]) {
    let (fs_base, gs_base): (u64, u64);
    let (ds, es, fs, gs): (u32, u32, u32, u32);
    // SAFETY: FSGSBASE is on; reading selectors and bases has no effect.
    unsafe {
        asm!(
            "rdfsbase {fs_base}", "rdgsbase {gs_base}",
            "mov {ds:e}, ds", "mov {es:e}, es", "mov {fs:e}, fs", "mov {gs:e}, gs",
            fs_base = out(reg) fs_base, gs_base = out(reg) gs_base,
            ds = out(reg) ds, es = out(reg) es, fs = out(reg) fs, gs = out(reg) gs,
            options(nomem, nostack, preserves_flags),
        );
    }
    let runtime = FS_BASE.load(Ordering::Relaxed);
    // SAFETY: the base is the one this process started with.
    unsafe { asm!("wrfsbase {}", in(reg) runtime, options(nostack, preserves_flags)) };
    (
        fs_base,
        gs_base,
        [ds as u16, es as u16, fs as u16, gs as u16],
    )
}

/// Loads a case's segment state. Nothing after this may need thread-local storage.
fn give_segments(fs_base: u64, gs_base: u64, selectors: &[u16; 4]) {
    let [ds, es, fs, gs] = selectors.map(u32::from);
    // SAFETY: the selectors are null or Linux's user data segment, or what the case itself could load; the code
    // behind this only returns to the kernel, which needs no thread-local storage.
    unsafe {
        asm!(
            "mov ds, {ds:e}", "mov es, {es:e}", "mov fs, {fs:e}", "mov gs, {gs:e}",
            "wrfsbase {fs_base}", "wrgsbase {gs_base}",
            fs_base = in(reg) fs_base, gs_base = in(reg) gs_base,
            ds = in(reg) ds, es = in(reg) es, fs = in(reg) fs, gs = in(reg) gs,
            options(nostack, preserves_flags),
        );
    }
}
