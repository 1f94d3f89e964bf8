//! What the host's CPU can do, as CPUID says it to this process.

use std::arch::x86_64::{__cpuid_count, _xgetbv};
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

/// Whether this process has a thread with this number (gettid(2)); no file is asked.
pub fn has_thread(thread: i32) -> bool {
    // SAFETY: the call takes nothing and cannot fail.
    let process = unsafe { libc::getpid() };
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
