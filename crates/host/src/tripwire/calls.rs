//! The calls that a process which has opened everything does not make.
//!
//! Left out are those that make something without a path and without a way out: memory files, events, pipes, timers; and
//! whatever acts on descriptors alone.

macro_rules! calls {
    ($($number:ident)*) => { [$((libc::$number, stringify!($number))),*] };
}

/// Number and name of each.
pub(super) const REFUSED: &[(i64, &str)] = &calls! {
    // Files by path.
    SYS_open SYS_openat SYS_openat2 SYS_creat SYS_open_by_handle_at SYS_name_to_handle_at
    SYS_rename SYS_renameat SYS_renameat2 SYS_unlink SYS_unlinkat SYS_link SYS_linkat SYS_symlink SYS_symlinkat
    SYS_mkdir SYS_mkdirat SYS_rmdir SYS_mknod SYS_mknodat SYS_truncate
    SYS_chmod SYS_fchmodat SYS_fchmodat2 SYS_chown SYS_lchown SYS_fchownat
    SYS_setxattr SYS_lsetxattr SYS_removexattr SYS_lremovexattr
    SYS_chdir SYS_fchdir SYS_chroot SYS_inotify_init SYS_inotify_init1 SYS_fanotify_init
    // Mounts and namespaces.
    SYS_mount SYS_umount2 SYS_pivot_root SYS_open_tree SYS_move_mount SYS_fsopen SYS_fsconfig SYS_fsmount SYS_fspick
    SYS_mount_setattr SYS_unshare SYS_setns SYS_swapon SYS_swapoff SYS_quotactl
    // Sockets: accept is not among them, for what listens was given.
    SYS_socket SYS_socketpair SYS_bind SYS_connect
    // Processes; threads are not.
    SYS_fork SYS_vfork SYS_execve SYS_execveat SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev
    SYS_pidfd_open SYS_pidfd_getfd SYS_process_madvise
    // What does any of this by another way.
    SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register SYS_bpf SYS_perf_event_open SYS_userfaultfd
    SYS_add_key SYS_request_key SYS_keyctl SYS_init_module SYS_finit_module SYS_delete_module
    SYS_kexec_load SYS_kexec_file_load SYS_reboot
};
