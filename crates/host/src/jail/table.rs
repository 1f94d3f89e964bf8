//! Which system calls a process in a jail may make: one table for all kinds of threads.
//!
//! What is not in it fails with EPERM, is counted and told by name ([`super::refused`]); what only a process that has been
//! taken over would try ([`super::calls`]) ends the process. A call that libc has another way for (`clone3`) does not exist.

/// Kinds of threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Whatever of a VM's process has no list of its own: the first thread, clients, the console, signals.
    Any = 0,
    /// It runs guest code on the software CPU.
    Vcpu = 1,
    /// It runs guest code, and may do so on KVM.
    KvmVcpu = 2,
    /// It serves a device.
    Device = 3,
    /// It gives a guest its pages and takes them.
    Pager = 4,
    /// It reads foreign files.
    Reader = 5,
    /// It stands between a guest and its network.
    Wire = 6,
    /// It carries a network between VMs.
    Switch = 7,
    /// It reads a guest's memory.
    Observer = 8,
    /// It writes files that a guest has sent, below one folder.
    Files = 9,
    /// It serves a folder that is shared with a guest.
    Folder = 10,
}

impl Kind {
    /// Every kind.
    pub(super) const ALL: [Kind; 11] = [
        Kind::Any,
        Kind::Vcpu,
        Kind::KvmVcpu,
        Kind::Device,
        Kind::Pager,
        Kind::Reader,
        Kind::Wire,
        Kind::Switch,
        Kind::Observer,
        Kind::Files,
        Kind::Folder,
    ];

    /// In words.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Any => "another thread",
            Kind::Vcpu | Kind::KvmVcpu => "a vCPU",
            Kind::Device => "a device",
            Kind::Pager => "the pager",
            Kind::Reader => "a reader of foreign files",
            Kind::Wire => "what stands between a guest and its network",
            Kind::Switch => "what carries a network between VMs",
            Kind::Observer => "what looks into a guest",
            Kind::Files => "what writes a guest's files",
            Kind::Folder => "what serves a shared folder",
        }
    }
}

/// What has to hold of a call's arguments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Check {
    /// Nothing.
    Any,
    /// The argument of this place is one of these values, of which the low 32 bits count.
    OneOf(u8, &'static [u32]),
    /// The argument of this place has none of these bits.
    Without(u8, u32),
    /// The argument of this place is the number of this very process.
    Us(u8),
    /// The order of `ioctl` is one of these, or one of [`kvm_orders`] where the process has KVM.
    Order(&'static [u32]),
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) number: i64,
    pub(super) name: &'static str,
    pub(super) check: Check,
    /// Bits by [`Kind`].
    kinds: u16,
}

impl Call {
    /// Whether threads of this kind may.
    pub(super) fn is_for(&self, kind: Kind) -> bool {
        self.kinds & 1 << kind as u16 != 0
    }
}

/// Within a VM's process [`Kind::Any`] may whatever another kind may: threads start as that.
const A: u16 = 1;
const V: u16 = A | 1 << Kind::Vcpu as u16 | K;
const K: u16 = A | 1 << Kind::KvmVcpu as u16;
const D: u16 = A | 1 << Kind::Device as u16;
const P: u16 = A | 1 << Kind::Pager as u16;
/// All of another process is of one kind, also the threads that it starts.
const R: u16 = 1 << Kind::Reader as u16;
/// Whatever carries frames: one guest's to its network, or those of several between them.
const W: u16 = 1 << Kind::Wire as u16 | S;
const S: u16 = 1 << Kind::Switch as u16;
const O: u16 = 1 << Kind::Observer as u16;
/// By themselves, and both; see [`FILES`].
const G: u16 = 1 << Kind::Folder as u16;
const F: u16 = 1 << Kind::Files as u16 | G;
const H: u16 = 1 << Kind::Files as u16;

/// Rights of memory that make it code.
const EXECUTABLE: u32 = libc::PROT_EXEC as u32;

/// What `clone` may be asked for: a thread, in the words of glibc and of musl.
const NO_THREAD: u32 = !(libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID
    | libc::CLONE_DETACHED) as u32;

/// `UFFDIO_REGISTER`, `UNREGISTER`, `WAKE`, `COPY`, `ZEROPAGE`, `WRITEPROTECT` (`include/uapi/linux/userfaultfd.h`);
/// `PAGEMAP_SCAN`; `TUNSETOFFLOAD`; `FIONBIO`.
const ORDERS: &[u32] = &[
    0xc020_aa00,
    0x8010_aa01,
    0x8010_aa02,
    0xc028_aa03,
    0xc020_aa04,
    0xc018_aa06,
    0xc060_6610,
    0x4004_54d0,
    0x5421,
];

/// KVM's orders to a vCPU (`include/uapi/linux/kvm.h`): `KVM_RUN`; `GET` and `SET` of `REGS`, `SREGS`, `MSRS`, `LAPIC`,
/// `MP_STATE`, `VCPU_EVENTS`, `DEBUGREGS`, `XSAVE`, `XCRS` and `DEVICE_ATTR`; `KVM_INTERRUPT`, `KVM_NMI`,
/// `KVM_SET_GUEST_DEBUG`, `KVM_GET_STATS_FD`.
const KVM_VCPU: &[u32] = &[
    0xae80,
    0x8090_ae81,
    0x4090_ae82,
    0x8138_ae83,
    0x4138_ae84,
    0x4004_ae86,
    0xc008_ae88,
    0x4008_ae89,
    0x8400_ae8e,
    0x4400_ae8f,
    0x8004_ae98,
    0x4004_ae99,
    0xae9a,
    0x4048_ae9b,
    0x8040_ae9f,
    0x4040_aea0,
    0x8080_aea1,
    0x4080_aea2,
    0x9000_aea4,
    0x5000_aea5,
    0x8188_aea6,
    0x4188_aea7,
    0x4018_aee1,
    0x4018_aee2,
    0x4018_aee3,
    0xaece,
];

/// Those by which devices and their drivers' notifications go past us: `KVM_SIGNAL_MSI`, `KVM_SET_GSI_ROUTING`,
/// `KVM_IOEVENTFD`.
const KVM_SIGNALS: &[u32] = &[0x4020_aea5, 0x4008_ae6a, 0x4040_ae79];

/// Those that make a VM, once for each life: `KVM_GET_API_VERSION`, `KVM_CREATE_VM`, `KVM_CHECK_EXTENSION`,
/// `KVM_GET_VCPU_MMAP_SIZE`, `KVM_GET_SUPPORTED_CPUID`, `KVM_CREATE_VCPU`, `KVM_SET_USER_MEMORY_REGION`, `KVM_SET_TSS_ADDR`,
/// `KVM_SET_IDENTITY_MAP_ADDR`, `KVM_ENABLE_CAP`, `KVM_X86_SET_MSR_FILTER`, `KVM_SET_CPUID2`.
const KVM_MAKING: &[u32] = &[
    0xae00,
    0xae01,
    0xae03,
    0xae04,
    0xc008_ae05,
    0xae41,
    0x4020_ae46,
    0xae47,
    0x4008_ae48,
    0x4068_aea3,
    0x4188_aec6,
    0x4008_ae90,
];

/// The orders of KVM that threads of a kind may give: a thread that runs guest code or serves a device makes no VM and no vCPU,
/// gives no memory to one and takes no limit from one; a device's runs none.
pub(super) fn kvm_orders(kind: Kind) -> impl Iterator<Item = u32> {
    let lists: &[&[u32]] = match kind {
        Kind::Any => &[KVM_VCPU, KVM_SIGNALS, KVM_MAKING],
        Kind::KvmVcpu => &[KVM_VCPU, KVM_SIGNALS],
        Kind::Device => &[KVM_SIGNALS],
        Kind::Vcpu
        | Kind::Pager
        | Kind::Reader
        | Kind::Wire
        | Kind::Switch
        | Kind::Observer
        | Kind::Files
        | Kind::Folder => &[],
    };
    lists.iter().flat_map(|list| list.iter().copied())
}

/// `F_DUPFD`, `F_GETFD`, `F_SETFD`, `F_GETFL`, `F_SETFL`, `F_DUPFD_CLOEXEC`, `F_ADD_SEALS`.
const DESCRIPTOR_ORDERS: &[u32] = &[0, 1, 2, 3, 4, 1030, 1033];

/// `F_GETFD`, `F_DUPFD_CLOEXEC`: who may set the flags of a file has what was there before overwritten where it is only to be
/// appended to.
const OBSERVER_ORDERS: &[u32] = &[1, 1030];

/// `SO_RCVTIMEO`, `SO_SNDTIMEO`.
const TIMES: &[u32] = &[20, 21];

/// `PR_SET_NAME`, `PR_SET_VMA`.
const NAMES: &[u32] = &[15, 0x5356_4d41];

const fn row(number: i64, name: &'static str, kinds: u16, check: Check) -> Call {
    Call {
        number,
        name,
        check,
        kinds,
    }
}

macro_rules! rows {
    ($($name:ident $kinds:expr, $check:expr;)*) => {
        [$(row(libc::$name, stringify!($name), $kinds, $check)),*]
    };
}

use Check::{Any, OneOf, Order, Us, Without};

const ALL: u16 = V | D | P;

/// What a VM's process may: forty calls for all of its threads together. Whatever can be done by a call that is there anyway is
/// done by that: a thread that rests polls nothing ([`crate::rest`]), a read of one place of a file is one of a list of places
/// ([`crate::at`]), and threads know their numbers ([`crate::cpu::thread_number`]).
pub(super) const VM: &[Call] = &rows! {
    // Waiting, and being told.
    SYS_futex ALL, Any;
    SYS_read K | D | P, Any;
    SYS_write ALL, Any;
    SYS_ppoll D | P | K, Any;
    SYS_sched_yield ALL, Any;
    SYS_restart_syscall ALL, Any;
    SYS_eventfd2 A, Any;
    SYS_clock_gettime K | P, Any;
    // Memory of its own.
    SYS_mmap ALL, Without(2, EXECUTABLE);
    SYS_mprotect ALL, Without(2, EXECUTABLE);
    SYS_munmap ALL, Any;
    SYS_madvise ALL, Any;
    SYS_memfd_create A, Any;
    SYS_ftruncate D, Any;
    // Threads, their walls and their signals.
    SYS_clone A, Without(0, NO_THREAD);
    SYS_prctl A, OneOf(0, NAMES);
    SYS_seccomp A, OneOf(0, &[libc::SECCOMP_SET_MODE_FILTER]);
    SYS_rt_sigreturn ALL, Any;
    SYS_tgkill K | P, Us(0);
    SYS_exit ALL, Any;
    SYS_exit_group A, Any;
    // Disks, page file, log; a vCPU on KVM reads there what KVM has counted of it.
    SYS_preadv D | P | K, Any;
    SYS_pwritev D | P, Any;
    SYS_fdatasync D, Any;
    SYS_fallocate D | P, Any;
    SYS_lseek D | P, Any;
    SYS_statx D | P, Any;
    // Sockets that were given, and connections that come in through them.
    SYS_accept4 D, Any;
    SYS_sendto D, Any;
    SYS_recvfrom D, Any;
    SYS_sendmsg D, Any;
    SYS_recvmsg D, Any;
    SYS_shutdown D, Any;
    SYS_getsockopt D, Any;
    SYS_setsockopt D, Any;
    // Descriptors.
    SYS_close K | D | P, Any;
    SYS_dup2 A, Any;
    SYS_fcntl D, OneOf(1, DESCRIPTOR_ORDERS);
    // F_GETFD: with debug assertions the standard library asks it of each descriptor that it closes.
    SYS_fcntl 1 << Kind::KvmVcpu as u16, OneOf(1, &[1]);
    SYS_ioctl K | D | P, Order(ORDERS);
    SYS_getrandom D | P, Any;
};

const ALL_OTHERS: u16 = R | W | O;

/// What those may that stand beside a VM.
pub(super) const OTHERS: &[Call] = &rows! {
    // Waiting, and being told.
    SYS_futex ALL_OTHERS, Any;
    SYS_read ALL_OTHERS, Any;
    SYS_write ALL_OTHERS, Any;
    SYS_ppoll W | O, Any;
    SYS_clock_nanosleep O, Any;
    SYS_sched_yield ALL_OTHERS, Any;
    SYS_restart_syscall ALL_OTHERS, Any;
    SYS_clock_gettime W | O, Any;
    // Memory of its own.
    SYS_mmap ALL_OTHERS, Without(2, EXECUTABLE);
    SYS_mprotect ALL_OTHERS, Without(2, EXECUTABLE);
    SYS_munmap ALL_OTHERS, Any;
    SYS_mremap ALL_OTHERS, Any;
    SYS_madvise ALL_OTHERS, Any;
    SYS_memfd_create R | O, Any;
    SYS_ftruncate R | O, Any;
    // Threads and their signals.
    SYS_clone O, Without(0, NO_THREAD);
    SYS_prctl O, OneOf(0, NAMES);
    SYS_rt_sigreturn ALL_OTHERS, Any;
    SYS_rt_sigaction ALL_OTHERS, Any;
    SYS_sigaltstack ALL_OTHERS, Any;
    SYS_exit ALL_OTHERS, Any;
    SYS_exit_group ALL_OTHERS, Any;
    // What is read and what is made of it.
    SYS_pread64 R | O, Any;
    SYS_pwrite64 R | O, Any;
    SYS_preadv R | O, Any;
    SYS_lseek R | O, Any;
    SYS_statx R | O, Any;
    SYS_fstat R, Any;
    SYS_fsync R, Any;
    // Sockets that were given, and connections that come in through them.
    SYS_accept4 S, Any;
    SYS_sendto O, Any;
    SYS_sendmsg R | W | O, Any;
    SYS_recvmsg R | S | O, Any;
    SYS_setsockopt O, OneOf(2, TIMES);
    // Descriptors.
    SYS_close ALL_OTHERS, Any;
    SYS_fcntl R, OneOf(1, DESCRIPTOR_ORDERS);
    SYS_fcntl O, OneOf(1, OBSERVER_ORDERS);
    SYS_ioctl W, Order(ORDERS);
    // What cannot do harm.
    SYS_getrandom ALL_OTHERS, Any;
    SYS_sched_getaffinity O, Any;
};

/// What a process may that has to do with a guest's files below a folder: [`Kind::Files`] and [`Kind::Folder`]. They have paths, which
/// no other process in a jail has, so they share no list with one. They open names by `openat2`, which is told to lead nowhere else,
/// and make no devices. Who serves a folder reads it, makes second names, and opens by `openat` what it has open already; neither a
/// path of that call nor of one that changes a mode or owner is seen by a filter, so that is for Landlock and for rights of the user.
const FILES: &[Call] = &rows! {
    SYS_futex F, Any;
    SYS_read F, Any;
    SYS_write F, Any;
    SYS_ppoll F, Any;
    SYS_poll H, Any;
    SYS_sched_yield F, Any;
    SYS_restart_syscall F, Any;
    SYS_clock_gettime F, Any;
    SYS_mmap F, Without(2, EXECUTABLE);
    SYS_mprotect F, Without(2, EXECUTABLE);
    SYS_munmap F, Any;
    SYS_mremap F, Any;
    SYS_madvise F, Any;
    SYS_brk F, Any;
    SYS_rt_sigreturn F, Any;
    SYS_rt_sigaction F, Any;
    SYS_rt_sigprocmask F, Any;
    SYS_sigaltstack F, Any;
    SYS_getpid F, Any;
    SYS_gettid F, Any;
    SYS_tgkill F, Us(0);
    SYS_exit F, Any;
    SYS_exit_group F, Any;
    SYS_getrandom F, Any;
    // The guest's socket.
    SYS_recvfrom F, Any;
    SYS_sendto F, Any;
    // Files below the folder.
    SYS_openat2 F, Any;
    SYS_mkdirat F, Any;
    SYS_symlinkat F, Any;
    SYS_unlinkat F, Any;
    SYS_renameat F, Any;
    SYS_renameat2 F, Any;
    SYS_newfstatat F, Any;
    SYS_statx F, Any;
    SYS_fstat F, Any;
    SYS_fchmod H, Any;
    SYS_fchown H, Any;
    SYS_fchownat F, Any;
    SYS_utimensat F, Any;
    SYS_pwrite64 F, Any;
    SYS_ftruncate F, Any;
    SYS_lseek F, Any;
    SYS_close F, Any;
    SYS_fcntl F, OneOf(1, DESCRIPTOR_ORDERS);
    // What else is done with a folder that is shared.
    SYS_openat G, Any;
    SYS_getdents64 G, Any;
    SYS_readlinkat G, Any;
    SYS_linkat G, Any;
    SYS_fchmodat G, Any;
    SYS_pread64 G, Any;
    SYS_fallocate G, Any;
    SYS_copy_file_range G, Any;
    SYS_fsync G, Any;
    SYS_fdatasync G, Any;
    SYS_fstatfs G, Any;
    SYS_fgetxattr G, Any;
    SYS_fsetxattr G, Any;
    SYS_flistxattr G, Any;
    SYS_fremovexattr G, Any;
};

/// What threads of a kind may.
pub(super) fn allowed(kind: Kind) -> impl Iterator<Item = &'static Call> {
    let table = match kind {
        Kind::Files | Kind::Folder => FILES,
        Kind::Reader | Kind::Wire | Kind::Switch | Kind::Observer => OTHERS,
        Kind::Any | Kind::Vcpu | Kind::KvmVcpu | Kind::Device | Kind::Pager => VM,
    };
    table.iter().filter(move |call| call.is_for(kind))
}
