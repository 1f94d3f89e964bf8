//! What this host has for VMs, looked at once.

use api::{MemoryLimit, ResidentLimit, VmSpec};
use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

use crate::engine::{EngineFinding, findings_for};

/// Whether memory of guests can be paged here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PagingFinding {
    /// It can.
    pub usable: bool,
    /// Also that of guests on KVM, which reaches it from inside the kernel.
    pub usable_on_kvm: bool,
    /// Why, as a sentence without its end.
    pub why: String,
    /// What to do about it, if anything can be done.
    pub help: Option<String>,
}

/// What this host has for VMs: a plan is made from it as often as needed, and neither the plan nor the VM asks about KVM
/// again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostFindings {
    /// Every engine with whether and why it works, best one first.
    pub engines: Vec<EngineFinding>,
    /// Paging; `None` where nobody asked for it.
    pub paging: Option<PagingFinding>,
    /// How long a file of this process may become, in bytes (`RLIMIT_FSIZE`); guest memory is one.
    pub file_bytes_max: Option<u64>,
}

impl HostFindings {
    /// Looks for what the VM of `spec` may need. Where KVM may be the answer this makes a VM, and on a doubtful host
    /// runs one; it starts the measurement of the TSC's frequency too, which goes on beside what comes next.
    pub fn for_spec(spec: &VmSpec) -> HostFindings {
        host::tsc::begin_calibration();
        let is_limited = !matches!(spec.resident_limit, None | Some(ResidentLimit::None))
            || !matches!(spec.host_limit, None | Some(MemoryLimit::None));
        HostFindings {
            engines: findings_for(spec.engine.unwrap_or_default().as_str()),
            paging: is_limited.then(paging_finding),
            file_bytes_max: getrlimit(Resource::Fsize).current,
        }
    }
}

/// Tries whether memory of guests can be paged here.
pub fn paging_finding() -> PagingFinding {
    match host::userfault::UserFault::open(None) {
        Ok(fault) => PagingFinding::of_faults(fault.sees_kernel()),
        Err(error) => PagingFinding {
            usable: false,
            usable_on_kvm: false,
            why: ::paging::with_causes(&error),
            help: matches!(error, host::userfault::OpenError::NotPermitted)
                .then(|| "have the container allow the system call userfaultfd".to_owned()),
        },
    }
}

/// What gives a user page faults of the kernel's own accesses.
pub(crate) const KERNEL_FAULTS_HELP: &str = "run as root, give the user access to /dev/userfaultfd, or set vm.unprivileged_userfaultfd to 1";

impl PagingFinding {
    /// What a host has that hands over faults: also those of the kernel's own accesses, or not.
    pub(crate) fn of_faults(sees_kernel: bool) -> PagingFinding {
        let (why, help) = if sees_kernel {
            (
                "faults of guest memory can be handled, the kernel's included",
                None,
            )
        } else {
            let why = "faults of guest memory can be handled, for guests on the software CPU; this user is not given those of \
                       the kernel, from which KVM reaches it";
            (why, Some(KERNEL_FAULTS_HELP.to_owned()))
        };
        PagingFinding {
            usable: true,
            usable_on_kvm: sees_kernel,
            why: why.to_owned(),
            help,
        }
    }
}
