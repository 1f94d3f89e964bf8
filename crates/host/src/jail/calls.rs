//! Calls that are not in the table, and what becomes of a thread that makes one.

use super::table::{OTHERS, VM};

macro_rules! calls {
    ($($number:ident)*) => { [$((libc::$number, stringify!($number))),*] };
}

/// What only a process that has been taken over would do: it ends the process. No library does any of it on its own.
pub(super) const DEADLY: &[(i64, &str)] = &calls! {
    // Other programs, and the insides of other processes.
    SYS_execve SYS_execveat SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev
    SYS_pidfd_getfd SYS_process_madvise SYS_kcmp
    // Mounts and namespaces.
    SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_open_tree SYS_move_mount SYS_fsopen SYS_fsconfig SYS_fsmount
    SYS_fspick SYS_mount_setattr SYS_unshare SYS_setns SYS_open_by_handle_at
    // The kernel's own insides.
    SYS_bpf SYS_perf_event_open SYS_userfaultfd SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register
    SYS_add_key SYS_request_key SYS_keyctl SYS_init_module SYS_finit_module SYS_delete_module
    SYS_kexec_load SYS_kexec_file_load SYS_reboot SYS_swapon SYS_swapoff SYS_iopl SYS_ioperm SYS_modify_ldt
    SYS_setuid SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid SYS_setgroups
};

/// What libc and the runtime do for their own comfort, and do without where it is refused.
pub(super) const QUIET: &[(i64, &str)] = &calls! {
    SYS_mremap SYS_sigaltstack SYS_rt_sigprocmask SYS_sched_getaffinity SYS_set_robust_list
};

/// What glibc does and takes an error of for something else, so that it hears 0 where the call is not allowed. It takes any number
/// of an error for the new end of the heap, and writes there; 0 is no such end, so it maps memory (`sysdeps/unix/sysv/linux/brk.c`).
/// And where its first thread had restartable sequences each other one must have them, or the process ends (`nptl/pthread_create.c`);
/// one that hears 0 has a number of no core in its area, and asks the kernel which one it is on.
pub(super) const ANSWERED: &[(i64, &str)] = &calls! {
    SYS_brk SYS_rseq
};

/// Refused and noted like any other; by name here, so that whoever reads of it need not look numbers up.
const KNOWN: &[(i64, &str)] = &calls! {
    // Files by path.
    SYS_open SYS_openat SYS_openat2 SYS_creat SYS_open_by_handle_at SYS_name_to_handle_at
    SYS_rename SYS_renameat SYS_renameat2 SYS_unlink SYS_unlinkat SYS_link SYS_linkat SYS_symlink SYS_symlinkat
    SYS_mkdir SYS_mkdirat SYS_rmdir SYS_mknod SYS_mknodat SYS_truncate
    SYS_chmod SYS_fchmodat SYS_fchmodat2 SYS_chown SYS_lchown SYS_fchownat
    SYS_setxattr SYS_lsetxattr SYS_removexattr SYS_lremovexattr
    SYS_chdir SYS_fchdir SYS_chroot SYS_inotify_init SYS_inotify_init1 SYS_fanotify_init
    SYS_socket SYS_socketpair SYS_bind SYS_connect SYS_listen
    SYS_fork SYS_vfork SYS_pidfd_open SYS_kill SYS_tkill
    SYS_readlink SYS_readlinkat SYS_access SYS_faccessat SYS_faccessat2 SYS_getdents64 SYS_getcwd SYS_stat SYS_newfstatat
    SYS_dup SYS_dup2 SYS_dup3 SYS_timerfd_create SYS_epoll_create1 SYS_epoll_wait SYS_epoll_ctl
    SYS_memfd_create SYS_ioctl SYS_prctl SYS_fcntl SYS_mmap SYS_mprotect SYS_clone SYS_uname SYS_sysinfo SYS_getpid
    SYS_geteuid SYS_clock_gettime SYS_sendmmsg SYS_recvmmsg SYS_preadv2 SYS_pwritev2 SYS_sync SYS_syncfs
    SYS_copy_file_range SYS_sendfile SYS_splice SYS_membarrier SYS_mlock SYS_mlock2 SYS_setrlimit SYS_prlimit64
    SYS_sched_setaffinity SYS_sched_setscheduler SYS_getrusage SYS_personality
    SYS_landlock_restrict_self SYS_capset SYS_pread64 SYS_pwrite64 SYS_fsync SYS_sync_file_range SYS_fstat SYS_poll
    SYS_nanosleep SYS_clock_nanosleep SYS_rt_sigaction SYS_pipe2
};

/// The call of this number, by name where it is known.
pub(super) fn name(number: i64) -> String {
    let allowed = VM.iter().chain(OTHERS);
    let allowed = allowed.map(|call| (call.number, call.name));
    let others = [DEADLY, QUIET, ANSWERED, KNOWN];
    let known = allowed
        .chain(others.into_iter().flatten().copied())
        .find(|(known, _)| *known == number);
    known.map_or_else(
        || format!("system call {number}"),
        |(_, name)| name.trim_start_matches("SYS_").to_owned(),
    )
}
