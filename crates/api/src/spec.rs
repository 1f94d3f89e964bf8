//! What a user wrote about one VM.

use std::path::PathBuf;

/// A disk as it was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DiskSpec {
    /// The image.
    pub path: PathBuf,
    /// `raw` or `qcow2`. Default: what the first bytes say.
    pub format: Option<String>,
    /// Whether the guest may not write.
    pub read_only: bool,
    /// For an overlay (qcow2): the image it lies over, which is only read. An overlay is never opened over the file
    /// that its own header names.
    pub base: Option<PathBuf>,
    /// `raw` or `qcow2`, of the base. Default: what its first bytes say.
    pub base_format: Option<String>,
    /// What the guest sees as the disk's serial number, 20 characters at most. Default: `disk` and its number.
    pub serial: Option<String>,
}

/// A VM as it was asked for. `None` means that the user said nothing and the plan's default holds; text is
/// unchecked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VmSpec {
    /// What the VM is called in messages. Default: `guest`.
    pub name: Option<String>,
    /// Kernel image: bzImage, ELF with a PVH note, or multiboot 1. There is no default here; the command line
    /// knows one.
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk; for a multiboot kernel the first module.
    pub initrd: Option<PathBuf>,
    /// Further modules, each `FILE` or `FILE WORDS...`; the whole text is the module's string. Only multiboot and
    /// PVH kernels take them.
    pub modules: Vec<String>,
    /// Kernel command line. Default: empty.
    pub cmdline: Option<String>,
    /// Guest memory such as `512M`. Default: `512M`.
    pub memory: Option<String>,
    /// How much of its memory the host may hold: a size, a share such as `10%`, or `none`. Default: `none`.
    pub resident_limit: Option<String>,
    /// Memory that compressed pages may take. Default: as much as the guest has.
    pub page_memory: Option<String>,
    /// Folder of the page file. Default: there is none.
    pub page_file: Option<PathBuf>,
    /// How much may lie in the page file. Default: as much as the guest has.
    pub page_file_size: Option<String>,
    /// Whether guest memory comes in huge pages, where the host has them. Not with a resident limit.
    pub huge_pages: bool,
    /// Number of vCPUs. Default: `1`.
    pub cpus: Option<String>,
    /// `auto`, `kvm` or `soft`. Default: `auto`.
    pub engine: Option<String>,
    /// How long the guest may run, such as `60s`. Default: no limit.
    pub timeout: Option<String>,
    /// Whether there is a debug-exit port at 0xf4.
    pub debug_exit: bool,
    /// Whether a guest that resets itself ends instead of starting again.
    pub no_reboot: bool,
    /// Disks, in the order in which the guest shall see them.
    pub disks: Vec<DiskSpec>,
    /// `user` (NAT without privileges), `user,host` (the same, and the gateway's address leads to the host's
    /// loopback), `none`, or `tap=NAME`. Default: `none`; the command line has its own.
    pub net: Option<String>,
    /// The program passt, for `user`. Default: the one on the PATH; the command line can download one.
    pub passt: Option<PathBuf>,
    /// Ports of the host that lead into the guest, each `[ADDRESS:]HOST:GUEST[/udp]`; only with `user`.
    pub forwards: Vec<String>,
    /// The guest's MAC address. Default: one made of the VM's name, locally administered.
    pub mac: Option<String>,
    /// The Unix socket of the virtio-vsock device, as Firecracker has it. Default: no such device.
    pub vsock: Option<PathBuf>,
    /// Which console the terminal or pipe is connected to: `serial` or `virtio`. Default: `serial`.
    pub console: Option<String>,
    /// Texts to watch for on the guest's console; the report says when each was first seen.
    pub markers: Vec<String>,
}
