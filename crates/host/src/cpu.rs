//! What the host's CPU can do, as CPUID says it to this process.

use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// `[eax, ebx, ecx, edx]` of one leaf.
pub fn cpuid(function: u32, index: u32) -> [u32; 4] {
    let leaf = __cpuid_count(function, index);
    [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
}

/// XCR0, the state components that the host's kernel enabled; 0 if there is no XSAVE.
pub fn xcr0() -> u64 {
    if cpuid(1, 0)[2] & 1 << 27 == 0 {
        return 0;
    }
    // SAFETY: CPUID says that OSXSAVE is set, so XGETBV with ECX 0 is a valid instruction here.
    unsafe { xgetbv() }
}

/// # Safety
/// OSXSAVE must be set.
#[target_feature(enable = "xsave")]
unsafe fn xgetbv() -> u64 {
    // SAFETY: the caller has checked OSXSAVE; ECX 0 always exists then.
    unsafe { _xgetbv(0) }
}

/// Whether ring 3 may use RDGSBASE and WRGSBASE: the kernel says so in `AT_HWCAP2` bit 1.
pub fn has_user_fsgsbase() -> bool {
    let (_, hwcap2) = rustix::param::linux_hwcap();
    hwcap2 & 2 != 0
}

/// CPU time that the calling thread has used, user and system.
pub fn thread_cpu_time() -> Duration {
    time_of(ClockId::ThreadCPUTime)
}

/// The clock of a thread's CPU time, which other threads of the process may read too.
#[derive(Clone, Copy, Debug)]
pub struct ThreadClock(libc::clockid_t);

impl ThreadClock {
    /// That of the calling thread; its process's where it has none.
    pub fn of_this_thread() -> ThreadClock {
        let mut clock = libc::CLOCK_PROCESS_CPUTIME_ID;
        // SAFETY: the call takes nothing and cannot fail.
        let thread = unsafe { libc::pthread_self() };
        // SAFETY: the thread is the calling one, so it is there, and `clock` takes the answer.
        unsafe { libc::pthread_getcpuclockid(thread, &raw mut clock) };
        ThreadClock(clock)
    }

    /// CPU time that the thread has used, user and system; none of a thread that has ended.
    pub fn read(self) -> Option<Duration> {
        // SAFETY: an all-zero time is a valid one for the call to overwrite.
        let mut time: libc::timespec = unsafe { std::mem::zeroed() };
        // SAFETY: the call writes to `time`, and refuses a clock that is not there.
        let status = unsafe { libc::clock_gettime(self.0, &raw mut time) };
        (status == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }
}

/// The number of this process (getpid(2)), asked for once: in a jail nobody asks.
pub fn process_number() -> i32 {
    static NUMBER: OnceLock<i32> = OnceLock::new();
    *NUMBER.get_or_init(|| rustix::process::getpid().as_raw_nonzero().get())
}

/// The number of the calling thread (gettid(2)), out of the name of its clock, which libc makes of it without asking the kernel
/// (`MAKE_THREAD_CPUCLOCK` in `include/linux/posix-timers_types.h`): in a jail nobody asks.
pub fn thread_number() -> i32 {
    !(ThreadClock::of_this_thread().0 >> 3)
}

/// Whether this process has a thread with this number (gettid(2)); no file is asked.
pub fn has_thread(thread: i32) -> bool {
    let process = process_number();
    // SAFETY: signal 0 is none: only whether it could be sent is looked at.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, 0) == 0 }
}

/// CPU time that this process has used, user and system, all threads together.
pub fn process_cpu_time() -> Duration {
    time_of(ClockId::ProcessCPUTime)
}

fn time_of(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_knows_its_number_and_whether_another_is_there() {
        let check = || {
            let asked = rustix::thread::gettid().as_raw_nonzero().get();
            assert_eq!(thread_number(), asked);
            assert!(has_thread(asked));
            asked
        };
        check();
        let gone = std::thread::spawn(check).join().unwrap();
        // Who joined it may be ahead of the kernel, which takes it off its list a little later.
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while has_thread(gone) {
            assert!(std::time::Instant::now() < deadline);
        }
    }
}
