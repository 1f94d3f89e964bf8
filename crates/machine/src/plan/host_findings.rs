//! What this host has for VMs, looked at once.

use api::{ResidentLimit, VmSpec};
use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

use crate::engine::{EngineFinding, findings_for};

/// Whether memory of guests can be paged here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PagingFinding {
    /// It can.
    pub usable: bool,
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
        let is_limited = !matches!(spec.resident_limit, None | Some(ResidentLimit::None));
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
        Ok(_) => PagingFinding {
            usable: true,
            why: "faults of guest memory can be handled, devices' included".to_owned(),
            help: None,
        },
        Err(error @ host::userfault::OpenError::NotPermitted) => PagingFinding {
            usable: false,
            why: error.to_string(),
            help: Some(
                "run as root, give the user access to /dev/userfaultfd, or set vm.unprivileged_userfaultfd to 1"
                    .to_owned(),
            ),
        },
        Err(error) => PagingFinding {
            usable: false,
            why: ::paging::with_causes(&error),
            help: None,
        },
    }
}
