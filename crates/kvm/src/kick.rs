//! Getting a vCPU out of the guest: a byte in the page shared with KVM, and a signal.
//!
//! `KVM_RUN` looks at `immediate_exit` before it enters the guest, and a signal ends the guest wherever it is. So a kick
//! writes the byte, and if the vCPU is inside sends the signal: either `KVM_RUN` has not looked yet and sees the byte,
//! or it has, and then the signal comes. The handler does nothing; it may run on a thread that has left KVM meanwhile
//! and executes translated code, hence the alternate stack.

use std::io;
use std::mem;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};

use kvm_bindings::kvm_run;
use vcpu::Kick;

/// A vCPU's page that is shared with KVM, mapped for as long as anybody may kick.
struct SharedPage {
    address: usize,
    len_bytes: usize,
}

impl SharedPage {
    fn new(vcpu: RawFd, len_bytes: usize) -> io::Result<SharedPage> {
        let bits = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses the address, so no existing mapping is replaced.
        let at = unsafe { libc::mmap(ptr::null_mut(), len_bytes, bits, libc::MAP_SHARED, vcpu, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(SharedPage {
            address: at as usize,
            len_bytes,
        })
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        let at = self.address + mem::offset_of!(kvm_run, immediate_exit);
        // SAFETY: the byte lies in the mapping, which lives as long as `self`; all of us access it atomically here.
        unsafe { AtomicU8::from_ptr(at as *mut u8) }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: we mapped exactly this range, and nobody but `self` knows its address.
        unsafe { libc::munmap(self.address as *mut libc::c_void, self.len_bytes) };
    }
}

/// See the module.
pub(crate) struct Kicker {
    page: SharedPage,
    /// The thread that was last in `KVM_RUN`.
    thread: AtomicI32,
    is_inside: AtomicBool,
}

impl Kicker {
    pub(crate) fn new(vcpu: RawFd, len_bytes: usize) -> io::Result<Kicker> {
        install_handler()?;
        let page = SharedPage::new(vcpu, len_bytes)?;
        Ok(Kicker {
            page,
            thread: AtomicI32::new(0),
            is_inside: AtomicBool::new(false),
        })
    }

    /// This thread calls `KVM_RUN` next.
    pub(crate) fn entering(&self) {
        // SAFETY: gettid has no operands and cannot fail.
        let thread = unsafe { libc::gettid() };
        if self.thread.swap(thread, Ordering::Relaxed) != thread {
            unblock();
        }
        self.is_inside.store(true, Ordering::SeqCst);
    }

    /// `KVM_RUN` has come back.
    pub(crate) fn left(&self) {
        self.is_inside.store(false, Ordering::SeqCst);
    }

    /// Takes the kick that ended `KVM_RUN`.
    pub(crate) fn take(&self) -> bool {
        self.page.immediate_exit().swap(0, Ordering::SeqCst) != 0
    }
}

impl Kick for Kicker {
    fn kick(&self) {
        self.page.immediate_exit().store(1, Ordering::SeqCst);
        if self.is_inside.load(Ordering::SeqCst) {
            let (process, thread) = (std::process::id(), self.thread.load(Ordering::Relaxed));
            // SAFETY: takes numbers only; the signal has a handler, and a thread that is gone is an error we ignore.
            unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGRTMIN()) };
        }
    }
}

/// Lets the signal through to this thread: one that ran translated code before has shut all signals out.
fn unblock() {
    // SAFETY: an all-zero sigset is valid for sigemptyset to overwrite.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is a valid sigset.
    unsafe { libc::sigemptyset(&mut set) };
    // SAFETY: `set` is a valid sigset and the signal number exists.
    unsafe { libc::sigaddset(&mut set, libc::SIGRTMIN()) };
    // SAFETY: `set` is a valid sigset; the old mask is not wanted.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, ptr::null_mut()) };
}

extern "C" fn on_kick(_signal: libc::c_int) {}

fn install_handler() -> io::Result<()> {
    static INSTALL: Once = Once::new();
    let mut result = Ok(());
    INSTALL.call_once(|| {
        // SAFETY: an all-zero sigaction is a valid value: default action, no flags, empty mask.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = on_kick as *const () as usize;
        action.sa_flags = libc::SA_ONSTACK;
        // SAFETY: the struct is valid, and the handler has the one-argument signature that these flags promise.
        if unsafe { libc::sigaction(libc::SIGRTMIN(), &action, ptr::null_mut()) } != 0 {
            result = Err(io::Error::last_os_error());
        }
    });
    result
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use super::*;

    /// A page like the one that a vCPU shares, and a wait like the one inside `KVM_RUN`: it ends when a signal comes.
    #[test]
    fn a_thread_that_shut_all_signals_out_hears_its_kick() {
        // SAFETY: the name ends with a zero byte, and the call keeps nothing of it.
        let page = unsafe { libc::memfd_create(c"page".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(page >= 0);
        // SAFETY: the descriptor is the one just made; the call takes numbers only.
        assert_eq!(unsafe { libc::ftruncate(page, 4096) }, 0);
        let kicker = Arc::new(Kicker::new(page, 4096).unwrap());
        let is_done = Arc::new(AtomicBool::new(false));
        let thread = {
            let (kicker, is_done) = (Arc::clone(&kicker), Arc::clone(&is_done));
            std::thread::spawn(move || {
                // SAFETY: an all-zero sigset is valid for sigfillset to overwrite.
                let mut all: libc::sigset_t = unsafe { mem::zeroed() };
                // SAFETY: `all` is a valid sigset.
                unsafe { libc::sigfillset(&mut all) };
                // SAFETY: `all` is a valid sigset; the old mask is not wanted.
                unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &all, ptr::null_mut()) };
                kicker.entering();
                // SAFETY: no descriptors are waited for, so the null pointer is not read.
                let ended = unsafe { libc::poll(ptr::null_mut(), 0, 10_000) };
                let error = io::Error::last_os_error().raw_os_error();
                is_done.store(true, Ordering::SeqCst);
                (ended, error)
            })
        };
        // More than one: the thread may not have come to its wait yet.
        while !is_done.load(Ordering::SeqCst) {
            kicker.kick();
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(
            thread.join().unwrap(),
            (-1, Some(libc::EINTR)),
            "the wait was not ended by the kick"
        );
        assert!(kicker.take());
        // SAFETY: nobody uses the descriptor any more.
        unsafe { libc::close(page) };
    }
}
