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

use host::cpu::{process_number, thread_number};
use host::fault::look_up_signal;
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
        prepare_kicks()?;
        let page = SharedPage::new(vcpu, len_bytes)?;
        Ok(Kicker {
            page,
            thread: AtomicI32::new(0),
            is_inside: AtomicBool::new(false),
        })
    }

    /// This thread calls `KVM_RUN` next.
    pub(crate) fn entering(&self) {
        self.thread.store(thread_number(), Ordering::Relaxed);
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
            let process = process_number();
            let thread = self.thread.load(Ordering::Relaxed);
            // SAFETY: takes numbers only; the signal has a handler, and a thread that is gone is an error we ignore.
            unsafe { libc::syscall(libc::SYS_tgkill, process, thread, look_up_signal()) };
        }
    }
}

extern "C" fn on_kick(_signal: libc::c_int) {}

/// Has a kick end `KVM_RUN` and not this process. To be called before the process is locked in, which takes no handlers then.
///
/// # Errors
/// What `sigaction` says.
pub fn prepare_kicks() -> io::Result<()> {
    static INSTALL: Once = Once::new();
    let mut result = Ok(());
    INSTALL.call_once(|| {
        // SAFETY: an all-zero sigaction is a valid value: default action, no flags, empty mask.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = on_kick as *const () as usize;
        action.sa_flags = libc::SA_ONSTACK;
        // SAFETY: the struct is valid, and the handler has the one-argument signature that these flags promise.
        if unsafe { libc::sigaction(look_up_signal(), &action, ptr::null_mut()) } != 0 {
            result = Err(io::Error::last_os_error());
        }
    });
    result
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::sync::Arc;
    use std::time::Duration;

    use rustix::event::{Timespec, poll};
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use rustix::io::Errno;

    use super::*;

    /// A page like the one that a vCPU shares, and a wait like the one inside `KVM_RUN`: it ends when a signal comes.
    #[test]
    fn a_thread_that_runs_translated_code_hears_its_kick() {
        let page = memfd_create("page", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&page, 4096).unwrap();
        let kicker = Arc::new(Kicker::new(page.as_raw_fd(), 4096).unwrap());
        let is_done = Arc::new(AtomicBool::new(false));
        let thread = {
            let kicker = Arc::clone(&kicker);
            let is_done = Arc::clone(&is_done);
            std::thread::spawn(move || {
                host::fault::use_alternate_stack().unwrap();
                kicker.entering();
                let limit = Timespec {
                    tv_sec: 10,
                    tv_nsec: 0,
                };
                let ended = poll(&mut [], Some(&limit));
                is_done.store(true, Ordering::SeqCst);
                ended
            })
        };
        // More than one: the thread may not have come to its wait yet.
        while !is_done.load(Ordering::SeqCst) {
            kicker.kick();
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(
            thread.join().unwrap(),
            Err(Errno::INTR),
            "the wait was not ended by the kick"
        );
        assert!(kicker.take());
    }
}
