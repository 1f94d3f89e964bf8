//! Samples of a thread: where its processor is, asked by another thread.
//!
//! Who samples sends a signal ([`Sampled::ask`]); its handler, on the sampled thread, writes down the address of the instruction
//! that was interrupted, and what the thread says of itself then, into a ring that the other thread empties. Nothing of the
//! sampled thread waits. It runs generated code, with the guest's stack pointer in RSP, so the handler is on the alternate stack of
//! [`crate::fault`].

use std::cell::Cell;
use std::io;
use std::mem;
use std::ptr;
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::cpu::{process_number, thread_number};

/// Samples that may wait to be taken; what is asked for while so many wait is charged to a later one.
const RING: usize = 64;

/// The signal, which nothing else here uses.
const SIGNAL: libc::c_int = libc::SIGPROF;

/// What a thread was doing when it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// The instruction that was interrupted.
    pub pc: u64,
    /// What the thread said of itself.
    pub words: [u64; 3],
    /// What is to be charged to it.
    pub time: Duration,
}

/// What a thread says of itself, for its handler: reads memory, and does nothing else.
type Look = Box<dyn Fn() -> [u64; 3] + Send + Sync>;

/// A thread that can be asked. See the module.
pub struct Sampled {
    thread: i32,
    look: Look,
    /// Nanoseconds that the next sample is charged with.
    owed: AtomicU64,
    ring: [[AtomicU64; 5]; RING],
    /// Samples that were written, and that were taken.
    written: AtomicUsize,
    taken: AtomicUsize,
}

thread_local! {
    /// This thread, if it is sampled. A constant that is never dropped, so that a signal's handler may read it.
    static CURRENT: Cell<*const Sampled> = const { Cell::new(ptr::null()) };
}

/// The calling thread is sampled as long as this is there.
pub struct IsSampled(Arc<Sampled>);

impl IsSampled {
    /// Whom to ask.
    pub fn sampled(&self) -> Arc<Sampled> {
        Arc::clone(&self.0)
    }
}

impl Drop for IsSampled {
    fn drop(&mut self) {
        CURRENT.set(ptr::null());
    }
}

impl Sampled {
    /// Has the calling thread be sampled, which is to keep what comes of it. `look` is called in a signal's handler: it may read
    /// atomics, and neither wait nor allocate.
    ///
    /// # Errors
    /// If there can be no alternate stack or no handler.
    pub fn this_thread(
        look: impl Fn() -> [u64; 3] + Send + Sync + 'static,
    ) -> io::Result<IsSampled> {
        crate::fault::use_alternate_stack()?;
        install_handler()?;
        let sampled = Arc::new(Sampled {
            thread: thread_number(),
            look: Box::new(look),
            owed: AtomicU64::new(0),
            ring: [const { [const { AtomicU64::new(0) }; 5] }; RING],
            written: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
        });
        CURRENT.set(Arc::as_ptr(&sampled));
        unblock()?;
        Ok(IsSampled(sampled))
    }

    /// Has the thread write down where it is, to be charged with `time`.
    pub fn ask(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.owed.fetch_add(nanoseconds, Ordering::AcqRel);
        let process = process_number();
        // SAFETY: takes numbers only; the signal has a handler, and a thread that is gone is an error we ignore.
        unsafe { libc::syscall(libc::SYS_tgkill, process, self.thread, SIGNAL) };
    }

    /// The samples that wait. One thread takes them.
    pub fn take(&self) -> impl Iterator<Item = Sample> + '_ {
        let written = self.written.load(Ordering::Acquire);
        let taken = self.taken.load(Ordering::Relaxed);
        (0..written.wrapping_sub(taken)).map(move |number| {
            let at = taken.wrapping_add(number);
            let [pc, first, second, third, time] = self.ring[at % RING]
                .each_ref()
                .map(|word| word.load(Ordering::Relaxed));
            self.taken.store(at.wrapping_add(1), Ordering::Release);
            Sample {
                pc,
                words: [first, second, third],
                time: Duration::from_nanos(time),
            }
        })
    }

    /// What was asked for and no sample was charged with.
    pub fn owed(&self) -> Duration {
        Duration::from_nanos(self.owed.swap(0, Ordering::AcqRel))
    }

    /// In the signal's handler.
    fn note(&self, pc: u64) {
        let written = self.written.load(Ordering::Relaxed);
        if written.wrapping_sub(self.taken.load(Ordering::Acquire)) >= RING {
            return;
        }
        let time = self.owed.swap(0, Ordering::AcqRel);
        let [first, second, third] = (self.look)();
        let words = [pc, first, second, third, time];
        for (place, word) in self.ring[written % RING].iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        self.written
            .store(written.wrapping_add(1), Ordering::Release);
    }
}

extern "C" fn on_sample(
    _signal: libc::c_int,
    _info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    let sampled = CURRENT.get();
    if sampled.is_null() {
        return;
    }
    // SAFETY: the kernel passes a valid ucontext that belongs to this handler until it returns.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    let pc = context.uc_mcontext.gregs[libc::REG_RIP as usize] as u64;
    // SAFETY: the pointer is of this thread's `IsSampled`, which sets it to null before it lets go of what it points to.
    unsafe { &*sampled }.note(pc);
}

fn install_handler() -> io::Result<()> {
    static INSTALL: Once = Once::new();
    let mut result = Ok(());
    INSTALL.call_once(|| {
        // SAFETY: an all-zero sigaction is a valid value: default action, no flags, empty mask.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = on_sample as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        // SAFETY: the struct is valid, and the handler has the three-argument signature that SA_SIGINFO promises.
        if unsafe { libc::sigaction(SIGNAL, &action, ptr::null_mut()) } != 0 {
            result = Err(io::Error::last_os_error());
        }
    });
    result
}

/// Lets the signal come to the calling thread, which shuts others out.
fn unblock() -> io::Result<()> {
    // SAFETY: an all-zero sigset is valid for sigemptyset to overwrite.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is a valid sigset.
    unsafe { libc::sigemptyset(&mut set) };
    // SAFETY: `set` is a valid sigset and the signal's number exists.
    unsafe { libc::sigaddset(&mut set, SIGNAL) };
    // SAFETY: `set` is a valid sigset; the old mask is not wanted.
    match unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, ptr::null_mut()) } {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_says_where_it_is_each_time_it_is_asked() {
        let is_over = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = mpsc::channel();
        let thread = {
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || {
                let own = Sampled::this_thread(|| [1, 2, 3]).unwrap();
                sender.send(own.sampled()).unwrap();
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let sampled = receiver.recv().unwrap();
        let asked = Duration::from_micros(10);
        let mut charged = Duration::ZERO;
        // More than the ring has places, most of them asked for while nobody takes any.
        for _ in 0..3 * RING {
            sampled.ask(asked);
            thread::yield_now();
        }
        for _ in 0..1000 {
            for sample in sampled.take() {
                assert_eq!(sample.words, [1, 2, 3]);
                assert_ne!(sample.pc, 0);
                charged += sample.time;
            }
            thread::sleep(Duration::from_millis(1));
            if charged == asked * 3 * RING as u32 {
                break;
            }
            sampled.ask(Duration::ZERO);
        }
        is_over.store(true, Ordering::Relaxed);
        thread.join().unwrap();
        sampled.take().for_each(drop);
        assert_eq!(
            charged,
            asked * 3 * RING as u32,
            "all of it is charged to something"
        );
        // The thread is gone, and nothing comes of it any more.
        sampled.ask(asked);
        assert_eq!((sampled.take().count(), sampled.owed()), (0, asked));
    }
}
