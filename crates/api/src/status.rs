//! What is known about a VM, while it runs and when it has ended. Programs read these shapes (`--json`), so fields
//! keep their names and meanings; times are in seconds, sizes in bytes, and what was not measured is null.

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{LimitsSaid, VmName};

/// What does not change while a VM runs.
#[derive(Clone, PartialEq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct VmInfo {
    /// Its name.
    pub name: VmName,
    /// Its process.
    pub pid: u32,
    /// The version of Mother that runs it.
    pub mother: String,
    /// `kvm` or `soft`.
    pub engine: String,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Guest memory as the guest believes to have it.
    pub memory_given_bytes: u64,
    /// When it was started, in seconds since 1970-01-01 UTC.
    pub started_at: f64,
    /// Whether it was started with `--detach`.
    pub detached: bool,
    /// Whether the guest is one program (`--app`): its console carries that program's streams and is not for people.
    pub program: bool,
    /// What stands around its process; unknown while it is built, and of a VM that an older version runs.
    #[serde(default)]
    pub jail: Option<Jail>,
    /// The network between VMs that it is on, if it is on one.
    #[serde(default)]
    pub network: Option<OnNetwork>,
}

/// A VM on a network between VMs.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct OnNetwork {
    /// The network.
    pub name: VmName,
    /// The address of the guest there, by DHCP.
    pub address: Ipv4Addr,
}

/// What stands around a VM's process.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct Jail {
    /// `namespaces`, `landlock`, `seccomp` or `none`, strongest first; each has all that those behind it have.
    pub tier: String,
    /// The version of Landlock that it is under; 0 if it is not.
    pub landlock_abi: u32,
    /// What the host refused.
    pub missing: Vec<String>,
}

/// What a VM is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmState {
    /// It has its name; the guest does not run yet.
    Starting,
    /// The guest runs, or sleeps by its own will.
    Running,
    /// Guest code, devices and the guest's time stand still.
    Paused,
    /// Guest code, devices and the guest's time stand still until there is room for pages of its memory.
    Waiting,
    /// The power button was pressed; the guest has not ended yet.
    Stopping,
    /// The process is there and does not answer.
    Unresponsive,
    /// It has ended and said how.
    Ended,
    /// Its process vanished without a word.
    Died,
}

impl VmState {
    /// As it is written in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            VmState::Starting => "starting",
            VmState::Running => "running",
            VmState::Paused => "paused",
            VmState::Waiting => "waiting",
            VmState::Stopping => "stopping",
            VmState::Unresponsive => "unresponsive",
            VmState::Ended => "ended",
            VmState::Died => "died",
        }
    }
}

/// A VM at one moment.
#[derive(Clone, PartialEq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct VmStatus {
    /// What does not change.
    #[serde(flatten)]
    pub info: VmInfo,
    /// What it is doing.
    pub state: VmState,
    /// Since its start, pauses included.
    pub uptime_seconds: f64,
    /// CPU time of the whole process: guest, devices, and Mother herself.
    pub cpu_seconds: f64,
    /// What the host holds of the guest's memory.
    pub memory_resident_bytes: Option<u64>,
    /// How often the guest started again.
    pub reboots: u64,
    /// How many consoles are attached.
    pub consoles: u64,
    /// What each device counted.
    pub devices: Vec<DeviceStatus>,
    /// What bounds it now; absent from a process of an older Mother.
    #[serde(default)]
    pub limits: Option<LimitsSaid>,
}

/// What one device counted.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// What it is called, such as `disk0`.
    pub name: String,
    /// Its counters, in the order to be shown.
    pub counters: Vec<Counter>,
}

/// A named number.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct Counter {
    /// What is counted, with its unit if it has one.
    pub name: String,
    /// How much so far.
    pub value: u64,
}

/// How a VM ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndKind {
    /// The guest powered itself off, or reset itself where a reset ends it.
    PoweredOff,
    /// The guest ended itself through the debug-exit port.
    DebugExit,
    /// The program that the guest was has ended.
    Exited,
    /// The guest crashed.
    Crashed,
    /// Its time was up.
    TimedOut,
    /// Somebody ended it.
    Stopped,
    /// Mother failed and said why.
    Failed,
    /// The VM's process vanished without a word.
    Died,
}

/// What is known of a VM that has ended.
#[derive(Clone, PartialEq, Debug, JsonSchema, Serialize, Deserialize)]
pub struct VmEnd {
    /// The kind of end, for programs.
    pub kind: EndKind,
    /// In one sentence.
    pub message: String,
    /// What is known beyond that, such as the registers of a crash; several lines.
    pub detail: Option<String>,
    /// The exit status of the process, as `mother run` documents it.
    pub exit_status: u8,
    /// When, in seconds since 1970-01-01 UTC.
    pub ended_at: Option<f64>,
    /// How long it ran.
    pub uptime_seconds: Option<f64>,
    /// CPU time of the whole process.
    pub cpu_seconds: Option<f64>,
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;

    const PAGE: &str = include_str!("../../../docs/lifecycle.md");

    /// The words in backticks of the table row about `field`, which starts with what `field` and `before` say.
    fn listed<'a>(before: &str, until: &str) -> Vec<&'a str> {
        let rest = PAGE.split_once(before).expect("the page has the row").1;
        let list = rest.split_once(until).expect("the list ends").0;
        list.split('`').skip(1).step_by(2).collect()
    }

    fn check<T>(words: &[&str], mut kind: Option<T>, after: impl Fn(T) -> Option<T>)
    where
        T: Copy + PartialEq + std::fmt::Debug + Serialize + DeserializeOwned,
    {
        let mut known = Vec::new();
        while let Some(next) = kind {
            let word = serde_json::to_string(&next).unwrap();
            known.push(word.trim_matches('"').to_owned());
            kind = after(next);
        }
        assert_eq!(words, known);
    }

    #[test]
    fn the_page_lists_every_state_that_programs_read() {
        // Exhaustive: a new state has to be put here, and then the page lacks it.
        let after = |state| match state {
            VmState::Starting => Some(VmState::Running),
            VmState::Running => Some(VmState::Paused),
            VmState::Paused => Some(VmState::Waiting),
            VmState::Waiting => Some(VmState::Stopping),
            VmState::Stopping => Some(VmState::Unresponsive),
            VmState::Unresponsive => Some(VmState::Ended),
            VmState::Ended => Some(VmState::Died),
            VmState::Died => None,
        };
        check(
            &listed("\n| `state` |", " |\n"),
            Some(VmState::Starting),
            after,
        );
    }

    #[test]
    fn the_page_lists_every_end_that_programs_read() {
        let after = |kind| match kind {
            EndKind::PoweredOff => Some(EndKind::DebugExit),
            EndKind::DebugExit => Some(EndKind::Exited),
            EndKind::Exited => Some(EndKind::Crashed),
            EndKind::Crashed => Some(EndKind::TimedOut),
            EndKind::TimedOut => Some(EndKind::Stopped),
            EndKind::Stopped => Some(EndKind::Failed),
            EndKind::Failed => Some(EndKind::Died),
            EndKind::Died => None,
        };
        check(
            &listed("\n| `end` | `kind` (", "), "),
            Some(EndKind::PoweredOff),
            after,
        );
    }

    #[test]
    fn a_state_is_written_as_it_is_sent() {
        let states = listed("\n| `state` |", " |\n");
        for word in states {
            let state: VmState = serde_json::from_str(&format!("{word:?}")).unwrap();
            assert_eq!(state.as_str(), word);
        }
    }
}
