//! What a check finds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What kind of thing was changed.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A register leads to where it should not, or protects no more.
    Register,
    /// The interrupt descriptor table.
    InterruptTable,
    /// The table of system calls.
    SyscallTable,
    /// Code that every system call runs leads out of the kernel.
    SyscallPath,
    /// The kernel's code.
    KernelText,
    /// A module's code.
    ModuleText,
    /// A table of the kernel that says where its code may be rewritten.
    PatchTable,
    /// What the kernel does not write any more once it has booted: operations of files, devices and protocols, hooks of
    /// security modules.
    Constants,
    /// Code of the kernel's that every program has: the virtual dynamic shared object.
    ProgramText,
    /// A module left the list, and its code is still there.
    HiddenModule,
    /// Another kernel runs than before, without a reset.
    KernelReplaced,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Finding {
    /// What kind of thing.
    pub kind: FindingKind,
    /// Which: `do_syscall_64+0x1b`, `vector 14`, `LSTAR of vCPU 0`.
    pub subject: String,
    /// What is wrong with it.
    pub what: String,
    /// Where, if that is in memory.
    pub address: Option<u64>,
    /// Bytes before, in hexadecimal.
    pub before: Option<String>,
    /// Bytes now, in hexadecimal.
    pub after: Option<String>,
}

/// Bytes for people.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(" ")
}
