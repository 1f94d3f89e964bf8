//! The rule about all guests of a host together.

use crate::amounts::size;

use super::{Confidence, Row, Verdict};

/// What one guest believes to have, and what it costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Belief {
    /// What it was told it has.
    pub configured_bytes: u64,
    /// What the host holds for it.
    pub resident_bytes: u64,
}

/// Compares the sum of what guests believe with what the host has, 0 if that is not known.
pub fn judge_host(beliefs: &[Belief], host_bytes: u64) -> Row {
    let sum = |pick: fn(&Belief) -> u64| beliefs.iter().map(pick).fold(0, u64::saturating_add);
    let believed = sum(|belief| belief.configured_bytes);
    let held = sum(|belief| belief.resident_bytes);
    let row = Row {
        kernel: Some(format!("{} believed", size(believed))),
        truth: Some(format!(
            "{} held, host has {}",
            size(held),
            size(host_bytes)
        )),
        confidence: Confidence::High,
        ..Row::begun(
            "beliefs-against-host",
            "memory of all guests",
            "the sum of what guests were told against the host's memory",
        )
    };
    if host_bytes == 0 {
        return row.is(
            Verdict::NotObservable,
            "the host does not say how much memory it has",
        );
    }
    if believed > host_bytes {
        let row = Row {
            difference: Some(size(believed - host_bytes)),
            ..row
        };
        return row.is(
            Verdict::Costs,
            "the guests believe to have more than there is; if all want it, some must wait",
        );
    }
    row.is(Verdict::Agrees, "what the guests believe to have is there")
}
