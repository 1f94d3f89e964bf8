//! What is compared: numbers that may be missing, never guessed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Confidence;

/// All that is known at one moment.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
pub struct Reading {
    /// What the guest's programs and drivers say.
    pub claims: Claims,
    /// What its kernel has in its own books.
    pub kernel: KernelBook,
    /// What the host knows.
    pub host: HostBook,
}

/// What is said in the guest.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
pub struct Claims {
    /// Lines of programs.
    pub agent: Vec<Claim>,
    /// The balloon driver's statistics.
    pub balloon: Option<BalloonClaims>,
    /// How much the balloon driver says is in the balloon.
    pub balloon_bytes: u64,
}

/// One thing that a program said.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
pub struct Claim {
    /// About what.
    pub key: String,
    /// What it says.
    pub value: String,
    /// How long ago.
    pub age_ms: u64,
    /// Which of its claims this is.
    pub times: u64,
}

/// What the balloon driver said about memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct BalloonClaims {
    /// All memory that it says it has.
    pub total_bytes: Option<u64>,
    /// Of that, what it says nothing uses.
    pub free_bytes: Option<u64>,
    /// Free, or free soon.
    pub available_bytes: Option<u64>,
    /// How long ago.
    pub age_ms: u64,
}

/// The guest kernel's own books, read from outside.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
pub struct KernelBook {
    /// Why there are none.
    pub why_not: Option<String>,
    /// How they were read, for people.
    pub method: String,
    /// How sure what was read through structures can be.
    pub confidence: Option<Confidence>,
    /// MemTotal.
    pub total_bytes: Option<u64>,
    /// MemFree.
    pub free_bytes: Option<u64>,
    /// MemAvailable.
    pub available_bytes: Option<u64>,
    /// What the lists of free pages hold.
    #[serde(default)]
    pub listed_free_bytes: Option<u64>,
    /// Pages in the balloon, where the kernel counts them.
    pub balloon_bytes: Option<u64>,
    /// Time since it started.
    pub uptime_seconds: Option<f64>,
    /// What it takes the time to be, since 1970-01-01 UTC.
    pub wall_seconds: Option<f64>,
    /// CPU time that it believes was kept from it, all CPUs together.
    pub steal_seconds: Option<f64>,
    /// CPU time that it believes to have used, all CPUs together.
    pub busy_seconds: Option<f64>,
    /// Processes that have a program, and all. Counted only where a program claims how many there are.
    pub processes: Option<(u64, u64)>,
    /// Things that several views of the guest were asked for.
    pub views: Vec<View>,
}

/// Something that was looked for in several ways.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
pub struct View {
    /// The rule: `hidden-task`, `hidden-module`, `text-changed`, `table-changed`.
    pub rule: String,
    /// What was looked for.
    pub subject: String,
    /// What the guest's own list says.
    pub kernel: String,
    /// What the other views say.
    pub truth: String,
    /// Why nothing can be said.
    pub why_not: Option<String>,
    /// Ways in which it was looked at.
    pub method: String,
    /// What does not fit.
    pub findings: Vec<Finding>,
}

/// Something that does not fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Finding {
    /// What it is, the same in every reading.
    pub name: String,
    /// What is wrong with it.
    pub what: String,
    /// It cannot be skew: a register, or something that was confirmed already.
    pub is_certain: bool,
    /// It may still be on its way in or out, however often it was seen.
    #[serde(default)]
    pub is_young: bool,
}

/// The host's own books.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
pub struct HostBook {
    /// What the guest was told it has.
    pub configured_bytes: u64,
    /// What the host holds for it.
    pub resident_bytes: u64,
    /// What came back.
    pub given_back_bytes: u64,
    /// What lies elsewhere.
    pub paged_out_bytes: u64,
    /// What the balloon shall hold.
    pub balloon_target_bytes: u64,
    /// What inflating the balloon brought so far.
    pub balloon_taken_bytes: u64,
    /// CPU time of the vCPUs' threads.
    pub run_seconds: Option<f64>,
    /// How long they were ready and did not run.
    pub wait_seconds: Option<f64>,
    /// The guest's own time since its start, pauses apart.
    pub guest_seconds: f64,
    /// How long the guest was paused.
    pub paused_seconds: f64,
    /// The host's clock, since 1970-01-01 UTC.
    pub wall_seconds: f64,
    /// Number of vCPUs.
    pub vcpus: u32,
}

impl Claims {
    /// The last number claimed for a key; none if it is no number, or below nothing.
    pub fn number(&self, key: &str) -> Option<(f64, &Claim)> {
        let claim = self.agent.iter().find(|claim| claim.key == key)?;
        let number: f64 = claim.value.trim_end_matches(['%', ' ']).parse().ok()?;
        (number.is_finite() && number >= 0.0).then_some((number, claim))
    }
}
