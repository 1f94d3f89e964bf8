//! What the host's KVM says of itself: whether it opens, and what it lacks.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use kvm_bindings::{
    KVM_API_VERSION, KVM_CAP_BINARY_STATS_FD, KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_SIGNAL_MSI,
    KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_VCPU_ATTRIBUTES, KVM_CAP_X86_MSR_FILTER,
    KVM_CAP_X86_USER_SPACE_MSR, KVM_CAP_XCRS, KVM_CAP_XSAVE,
};

/// How `/dev/kvm` answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Node {
    /// It opens.
    Opens,
    /// It is not there.
    Absent,
    /// It is there for others.
    Denied,
    /// Another program has taken the processor's virtualization for itself.
    Busy,
    /// It opens, and the kernel behind it does not answer as KVM.
    NotKvm,
    /// It is there and does not open, or opens and makes no VM.
    Fails,
}

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Findings {
    /// The device node.
    pub node: Node,
    /// The first thing that we need and that it does not have.
    pub missing: Option<&'static str>,
}

/// What we need, with the words for a person. All of it is in Linux 5.16 and later.
const NEEDED: [(u32, &str); 9] = [
    (KVM_CAP_IMMEDIATE_EXIT, "immediate exits"),
    (KVM_CAP_SPLIT_IRQCHIP, "split interrupt controllers"),
    (KVM_CAP_SIGNAL_MSI, "message-signalled interrupts"),
    (KVM_CAP_XSAVE, "XSAVE state"),
    (KVM_CAP_XCRS, "XCR0"),
    (KVM_CAP_X86_USER_SPACE_MSR, "MSRs in user space"),
    (KVM_CAP_X86_MSR_FILTER, "MSR filters"),
    (KVM_CAP_BINARY_STATS_FD, "statistics"),
    (KVM_CAP_VCPU_ATTRIBUTES, "TSC offsets"),
];

/// Looks at `/dev/kvm`; if `tries`, by making a VM, which another hypervisor on this host may prevent.
pub fn look(tries: bool) -> Findings {
    let found = |node| Findings {
        node,
        missing: None,
    };
    let file = match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(file) => file,
        Err(error) => {
            return found(match (error.kind(), error.raw_os_error()) {
                (ErrorKind::NotFound, _) | (_, Some(libc::ENXIO | libc::ENODEV)) => Node::Absent,
                (ErrorKind::PermissionDenied, _) => Node::Denied,
                (_, Some(libc::EBUSY)) => Node::Busy,
                _ => Node::Fails,
            });
        }
    };
    let fd = file.as_raw_fd();
    // SAFETY: the descriptor is open, and the call takes no argument.
    let version = unsafe { libc::ioctl(fd, GET_API_VERSION, 0) };
    if version != KVM_API_VERSION as libc::c_int {
        return found(Node::NotKvm);
    }
    let has = |capability: u32| {
        // SAFETY: the descriptor is open, and the call takes a number.
        let answer = unsafe { libc::ioctl(fd, CHECK_EXTENSION, libc::c_ulong::from(capability)) };
        answer > 0
    };
    let missing = NEEDED
        .into_iter()
        .find(|(capability, _)| !has(*capability))
        .map(|(_, words)| words);
    if missing.is_none() && tries {
        // SAFETY: the descriptor is open, and the call takes a number.
        let vm = unsafe { libc::ioctl(fd, CREATE_VM, 0) };
        if vm < 0 {
            let is_busy = std::io::Error::last_os_error().raw_os_error() == Some(libc::EBUSY);
            return found(if is_busy { Node::Busy } else { Node::Fails });
        }
        // SAFETY: the kernel has just given us this descriptor and nobody else owns it.
        drop(unsafe { OwnedFd::from_raw_fd(vm) });
    }
    Findings {
        node: Node::Opens,
        missing,
    }
}

/// `KVM_GET_API_VERSION`, `KVM_CREATE_VM` and `KVM_CHECK_EXTENSION` (`linux/kvm.h`).
const CREATE_VM: libc::c_ulong = 0xae01;
const GET_API_VERSION: libc::c_ulong = 0xae00;
const CHECK_EXTENSION: libc::c_ulong = 0xae03;
