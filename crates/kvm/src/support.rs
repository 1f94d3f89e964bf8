//! What the host's KVM says of itself: whether it opens, and what it lacks.

use kvm_bindings::{
    KVM_API_VERSION, KVM_CAP_BINARY_STATS_FD, KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_SIGNAL_MSI,
    KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_VCPU_ATTRIBUTES, KVM_CAP_X86_MSR_FILTER,
    KVM_CAP_X86_USER_SPACE_MSR, KVM_CAP_XCRS, KVM_CAP_XSAVE,
};
use kvm_ioctls::Kvm;

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
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => {
            return found(match error.errno() {
                libc::ENOENT | libc::ENXIO | libc::ENODEV => Node::Absent,
                libc::EACCES | libc::EPERM => Node::Denied,
                libc::EBUSY => Node::Busy,
                _ => Node::Fails,
            });
        }
    };
    if kvm.get_api_version() != KVM_API_VERSION as i32 {
        return found(Node::NotKvm);
    }
    let missing = NEEDED
        .into_iter()
        .find(|(capability, _)| kvm.check_extension_raw((*capability).into()) <= 0)
        .map(|(_, words)| words);
    if missing.is_none()
        && tries
        && let Err(error) = kvm.create_vm()
    {
        let is_busy = error.errno() == libc::EBUSY;
        return found(if is_busy { Node::Busy } else { Node::Fails });
    }
    Findings {
        node: Node::Opens,
        missing,
    }
}
