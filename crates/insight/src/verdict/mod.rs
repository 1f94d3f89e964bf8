//! Verdicts: what a guest claims, what its own kernel has in its books, and what the host knows, side by side.
//!
//! [`judge`] is a pure function from readings to rows. It takes several readings, the newest last, because memory is
//! read while the guest runs and a claim is older than the book beside it: what may be skew is a [`Verdict::Differs`]
//! until it has been there in [`READINGS_NEEDED`] readings on end, and against more than one claim.
//!
//! What is no lie, but costs somebody something, is a [`Verdict::Costs`]: memory that the guest freed and the host still
//! holds is not wrong in either book.

mod claims;
#[cfg(test)]
mod edges_tests;
mod host;
mod input;
mod memory;
#[cfg(test)]
mod tests;
mod things;
mod time;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use host::{Belief, judge_host};
pub use input::{BalloonClaims, Claim, Claims, Finding, HostBook, KernelBook, Reading, View};

/// How many readings on end must agree that something does not.
pub const READINGS_NEEDED: usize = 3;
/// How many different claims must be wrong.
pub const CLAIMS_NEEDED: usize = 2;

/// What came of a comparison.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// All that is known fits together.
    Agrees,
    /// There is nothing to compare, and why.
    NotObservable,
    /// No book is wrong, and yet somebody pays for the difference.
    Costs,
    /// It does not fit, and may be skew: it was not there often enough yet.
    Differs,
    /// Two that must agree do not, again and again.
    Contradicts,
}

impl Verdict {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Agrees => "agrees",
            Verdict::NotObservable => "not observable",
            Verdict::Costs => "costs",
            Verdict::Differs => "differs",
            Verdict::Contradicts => "CONTRADICTS",
        }
    }
}

/// How sure a verdict is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Confidence {
    /// Stands on structures that nothing independent confirms, or on few readings.
    Low,
    /// Stands on the guest's own structures.
    Medium,
    /// Stands on what the host counted itself, or what a guest cannot forge.
    High,
}

/// One subject, and everybody's word about it.
#[derive(Clone, Debug, PartialEq, JsonSchema, Serialize, Deserialize)]
pub struct Row {
    /// What it is about.
    pub subject: String,
    /// What a program or driver in the guest claims.
    pub claim: Option<String>,
    /// What the guest's kernel has in its own book.
    pub kernel: Option<String>,
    /// What the host knows.
    pub truth: Option<String>,
    /// What came of it.
    pub verdict: Verdict,
    /// The rule that decided.
    pub rule: String,
    /// By how much they differ.
    pub difference: Option<String>,
    /// How sure it is.
    pub confidence: Confidence,
    /// How old the oldest word in it is.
    pub age_ms: u64,
    /// How it was compared.
    pub method: String,
    /// In how many readings on end it was so.
    pub readings: usize,
    /// In words: what it means.
    pub meaning: String,
}

/// Judges readings, the newest last. Without any there is nothing to say.
pub fn judge(readings: &[Reading]) -> Vec<Row> {
    let Some(now) = readings.last() else {
        return Vec::new();
    };
    let mut rows = vec![memory::size_of(now), memory::used(readings)];
    rows.extend(memory::free_lists(readings));
    rows.extend(memory::claims(readings));
    rows.extend(memory::balloon_statistics(readings));
    rows.push(memory::free_and_paged_out(now));
    rows.push(memory::balloon(readings));
    rows.push(time::steal(readings));
    rows.push(time::cpu(now));
    rows.push(time::uptime(readings));
    rows.push(time::wall(now));
    rows.extend(claims::claims(readings));
    rows.extend(things::things(readings));
    rows
}

/// The worst of the rows.
pub fn worst(rows: &[Row]) -> Verdict {
    rows.iter()
        .map(|row| row.verdict)
        .max()
        .unwrap_or(Verdict::NotObservable)
}

/// What can be said of a guest as a whole.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Everything was compared, and nothing contradicts.
    Fine,
    /// Nothing contradicts, and not everything could be compared: the kernel was not recognised, memory could not be read, or
    /// a check could not be made.
    Blind,
    /// Two that must agree do not.
    Contradicts,
}

impl Standing {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Standing::Fine => "fine",
            Standing::Blind => "BLIND",
            Standing::Contradicts => "CONTRADICTS",
        }
    }
}

/// What the rows say together; no rows say nothing.
pub fn standing(rows: &[Row]) -> Standing {
    let has = |verdict| rows.iter().any(|row| row.verdict == verdict);
    if has(Verdict::Contradicts) {
        Standing::Contradicts
    } else if has(Verdict::NotObservable) || rows.is_empty() {
        Standing::Blind
    } else {
        Standing::Fine
    }
}

impl Row {
    /// A row that is still to be filled in.
    pub fn begun(rule: &str, subject: &str, method: &str) -> Row {
        Row {
            subject: subject.to_owned(),
            claim: None,
            kernel: None,
            truth: None,
            verdict: Verdict::Agrees,
            rule: rule.to_owned(),
            difference: None,
            confidence: Confidence::Medium,
            age_ms: 0,
            method: method.to_owned(),
            readings: 1,
            meaning: String::new(),
        }
    }

    /// The row with this verdict, and what that means.
    #[must_use]
    pub fn is(self, verdict: Verdict, meaning: impl Into<String>) -> Row {
        Row {
            verdict,
            meaning: meaning.into(),
            ..self
        }
    }

    /// Nothing to compare, since `now` has no view into the guest.
    fn blind(self, now: &Reading) -> Row {
        let why = now
            .kernel
            .why_not
            .clone()
            .unwrap_or_else(|| "the guest's kernel keeps no such book".to_owned());
        self.is(Verdict::NotObservable, why)
    }

    /// `wrong` says of each reading whether it does not fit.
    fn lasting(
        self,
        readings: &[Reading],
        wrong: impl Fn(&Reading) -> bool,
        meaning: impl Into<String>,
    ) -> Row {
        let count = readings
            .iter()
            .rev()
            .take_while(|reading| wrong(reading))
            .count();
        let verdict = if count >= READINGS_NEEDED {
            Verdict::Contradicts
        } else {
            Verdict::Differs
        };
        Row {
            readings: count,
            ..self.is(verdict, meaning)
        }
    }
}

/// Seconds for people.
fn seconds(seconds: f64) -> String {
    format!("{seconds:.1}s")
}
