//! Rules about what programs claim of themselves: a number, and the range in which it must lie.

use super::{CLAIMS_NEEDED, Claim, Confidence, Reading, Row, Verdict, seconds};

/// Claims older than this say nothing about now.
const CLAIM_AGE_MS_MAX: u64 = 15_000;
/// Seconds that a claim may be off without a word, and the part of what is counted.
const SECONDS: f64 = 2.0;
const PART: f64 = 0.1;
/// Processes come and go while they are counted: so many, and such a part.
const PROCESSES: f64 = 16.0;
const PROCESSES_PART: f64 = 0.2;

/// What a claim is compared with.
struct Rule {
    key: &'static str,
    rule: &'static str,
    subject: &'static str,
    method: &'static str,
    /// The least and the most that it can be.
    range: fn(&Reading, &Claim) -> Option<(f64, f64)>,
    kernel: fn(&Reading) -> Option<String>,
    truth: fn(&Reading) -> Option<String>,
    show: fn(f64) -> String,
    meaning: &'static str,
}

const RULES: [Rule; 3] = [
    Rule {
        key: "uptime_seconds",
        rule: "agent-against-host",
        subject: "uptime, as a program says",
        method: "claim uptime_seconds against the guest kernel's clock and the time that the guest was given",
        range: uptime,
        kernel: |now| now.kernel.uptime_seconds.map(seconds),
        truth: |now| Some(seconds(now.host.guest_seconds)),
        show: seconds,
        meaning: "the program says another time than there was",
    },
    Rule {
        key: "steal_seconds",
        rule: "agent-against-host",
        subject: "CPU time kept from it, as a program says",
        method: "claim steal_seconds against the guest kernel's steal and the run delay of its vCPUs' threads",
        range: steal,
        kernel: |now| now.kernel.steal_seconds.map(seconds),
        truth: |now| {
            let wait = now.host.wait_seconds?;
            Some(format!("{} waited", seconds(wait)))
        },
        show: seconds,
        meaning: "the program says that another time was kept from it than its kernel counts or the host kept",
    },
    Rule {
        key: "processes",
        rule: "agent-against-kernel",
        subject: "processes, as a program says",
        method: "claim processes against the guest kernel's list of tasks, with and without the kernel's own",
        range: processes,
        kernel: |now| {
            let (programs, all) = now.kernel.processes?;
            Some(format!(
                "{programs} and {} of the kernel",
                all.saturating_sub(programs)
            ))
        },
        truth: |_| None,
        show: |count| format!("{count:.0}"),
        meaning: "the program counts other processes than its own kernel has",
    },
];

/// The kernel's clock stands since its last tick, so the claim may be ahead of that; never of the time that there was.
fn uptime(now: &Reading, claim: &Claim) -> Option<(f64, f64)> {
    let age = claim.age_ms as f64 / 1000.0;
    let least = now.kernel.uptime_seconds? - age - SECONDS;
    Some((least, now.host.guest_seconds * 1.001 + SECONDS))
}

fn steal(now: &Reading, claim: &Claim) -> Option<(f64, f64)> {
    let age = claim.age_ms as f64 / 1000.0;
    let steal = now.kernel.steal_seconds?;
    let wait = now.host.wait_seconds?;
    let most = steal.max(wait) * (1.0 + PART) + SECONDS;
    Some((steal * (1.0 - PART) - age - SECONDS, most))
}

fn processes(now: &Reading, _: &Claim) -> Option<(f64, f64)> {
    let (programs, all) = now.kernel.processes?;
    let skew = (all as f64 * PROCESSES_PART).max(PROCESSES);
    Some((programs as f64 - skew, all as f64 + skew))
}

/// A row for each claim that there is a rule for.
pub(super) fn claims(readings: &[Reading]) -> Vec<Row> {
    RULES
        .iter()
        .filter_map(|rule| judge(readings, rule))
        .collect()
}

/// How far a claim is outside of its range; `None` if there is no such claim or nothing to compare it with.
fn outside(reading: &Reading, rule: &Rule) -> Option<f64> {
    let (number, claim) = reading.claims.number(rule.key)?;
    let (least, most) = (rule.range)(reading, claim)?;
    Some((least - number).max(number - most).max(0.0))
}

fn judge(readings: &[Reading], rule: &Rule) -> Option<Row> {
    let now = readings.last()?;
    let claim = now
        .claims
        .agent
        .iter()
        .find(|claim| claim.key == rule.key)?;
    let number = now.claims.number(rule.key).map(|(number, _)| number);
    let row = Row {
        claim: Some(number.map_or_else(|| claim.value.clone(), rule.show)),
        kernel: (rule.kernel)(now),
        truth: (rule.truth)(now),
        age_ms: claim.age_ms,
        confidence: Confidence::High,
        ..Row::begun(rule.rule, rule.subject, rule.method)
    };
    if number.is_none() {
        return Some(row.no_number());
    }
    let Some(off) = outside(now, rule) else {
        return Some(row.blind(now));
    };
    if off == 0.0 {
        return Some(row.is(Verdict::Agrees, "what its kernel and the host know is near"));
    }
    let row = Row {
        difference: Some((rule.show)(off)),
        ..row
    };
    let wrong = |reading: &Reading| outside(reading, rule).is_some_and(|off| off > 0.0);
    Some(row.said(readings, rule.key, claim, wrong, rule.meaning))
}

impl Row {
    /// A claim that is no number, or none that it can be, is wrong whatever the truth is.
    pub(super) fn no_number(self) -> Row {
        self.is(Verdict::Differs, "the claim is no number that it can be")
    }

    /// A claim that does not fit: sure if more than one claim was wrong, in several readings.
    pub(super) fn said(
        self,
        readings: &[Reading],
        key: &str,
        claim: &Claim,
        wrong: impl Fn(&Reading) -> bool,
        meaning: &str,
    ) -> Row {
        if claim.age_ms > CLAIM_AGE_MS_MAX {
            let what = "the claim is old; its kernel says something else now";
            return self.is(Verdict::Differs, what);
        }
        let mut times: Vec<u64> = readings
            .iter()
            .rev()
            .take_while(|reading| wrong(reading))
            .filter_map(|reading| reading.claims.number(key).map(|(_, claim)| claim.times))
            .collect();
        times.dedup();
        let row = self.lasting(readings, wrong, meaning);
        if times.len() >= CLAIMS_NEEDED {
            row
        } else {
            Row {
                verdict: Verdict::Differs,
                ..row
            }
        }
    }
}
