//! Rules about memory.

use crate::amounts::size;

use super::{CLAIMS_NEEDED, Confidence, Reading, Row, Verdict};

/// Readings and claims of memory are apart by this much without anybody being wrong: part of all memory, and at least
/// some.
const SKEW_PART: u64 = 20;
const SKEW_BYTES_MIN: u64 = 32 << 20;
/// Host memory beyond what the guest uses is dead memory from this part on, and this many bytes.
const DEAD_PART: f64 = 1.25;
const DEAD_BYTES_MIN: u64 = 16 << 20;

fn skew(now: &Reading) -> u64 {
    (now.host.configured_bytes / SKEW_PART).max(SKEW_BYTES_MIN)
}

/// Used memory by the kernel's book, from the narrowest meaning (what is not available) to the widest (what is not free).
fn used_range(now: &Reading) -> Option<(u64, u64)> {
    let total = now.kernel.total_bytes?;
    let free = now.kernel.free_bytes?;
    let available = now.kernel.available_bytes.unwrap_or(free).max(free);
    Some((total.saturating_sub(available), total.saturating_sub(free)))
}

/// How far a value is outside a range.
fn outside(value: u64, (low, high): (u64, u64)) -> u64 {
    low.saturating_sub(value).max(value.saturating_sub(high))
}

/// The guest cannot have more than it was given.
pub(super) fn size_of(now: &Reading) -> Row {
    let row = Row::begun(
        "memory-size",
        "memory",
        "MemTotal against the memory map that the guest got",
    );
    let balloon = now.claims.balloon.and_then(|balloon| balloon.total_bytes);
    let row = Row {
        claim: balloon.map(size),
        kernel: now.kernel.total_bytes.map(size),
        truth: Some(size(now.host.configured_bytes)),
        confidence: Confidence::High,
        ..row
    };
    let Some(total) = now.kernel.total_bytes else {
        return row.blind(now);
    };
    if total > now.host.configured_bytes {
        let over = total - now.host.configured_bytes;
        let row = Row {
            difference: Some(size(over)),
            ..row
        };
        return row.is(
            Verdict::Contradicts,
            "its kernel counts memory that was never given",
        );
    }
    row.is(
        Verdict::Agrees,
        "what its kernel keeps for itself is missing from its total",
    )
}

/// A kernel counts what lies in its lists of free pages. What it sets apart lies in the lists and is not counted, so only
/// more than they hold is wrong.
pub(super) fn free_lists(readings: &[Reading]) -> Option<Row> {
    let now = readings.last()?;
    let over = |reading: &Reading| {
        let free = reading.kernel.free_bytes.unwrap_or(0);
        let listed = reading.kernel.listed_free_bytes.unwrap_or(u64::MAX);
        free.saturating_sub(listed)
    };
    let is_wrong = |reading: &Reading| over(reading) > skew(reading);
    if !is_wrong(now) {
        return None;
    }
    let row = Row {
        kernel: now.kernel.free_bytes.map(size),
        truth: now.kernel.listed_free_bytes.map(size),
        difference: Some(size(over(now))),
        confidence: Confidence::Medium,
        ..Row::begun(
            "free-memory",
            "free memory",
            "MemFree against the lists of free pages",
        )
    };
    let meaning = "its kernel counts more free memory than its lists of free pages have";
    Some(row.lasting(readings, is_wrong, meaning))
}

/// What the guest uses, and what it costs.
pub(super) fn used(readings: &[Reading]) -> Row {
    let now = &readings[readings.len() - 1];
    let claim = now.claims.balloon.and_then(|balloon| {
        Some(balloon.total_bytes? - balloon.free_bytes?.min(balloon.total_bytes?))
    });
    let range = used_range(now);
    let row = Row {
        claim: claim.map(size),
        kernel: range.map(|(_, high)| size(high)),
        truth: Some(format!("{} held", size(now.host.resident_bytes))),
        age_ms: now.claims.balloon.map_or(0, |balloon| balloon.age_ms),
        ..Row::begun(
            "dead-memory",
            "memory used",
            "MemTotal - MemFree against pages that the host holds",
        )
    };
    let Some((_, used)) = range else {
        return row.blind(now);
    };
    let resident = now.host.resident_bytes;
    // What a kernel keeps for itself is in no total of its own.
    let reserved = now
        .host
        .configured_bytes
        .saturating_sub(now.kernel.total_bytes.unwrap_or(0));
    let mine = used.saturating_add(reserved);
    let dead = resident.saturating_sub(mine);
    if resident as f64 > mine as f64 * DEAD_PART && dead > DEAD_BYTES_MIN {
        let row = Row {
            difference: Some(size(dead)),
            ..row
        };
        return row.is(
            Verdict::Costs,
            "dead memory: the guest freed it, and the host still holds it",
        );
    }
    row.is(Verdict::Agrees, "the host holds about what the guest uses")
}

/// What programs claim about memory, against their own kernel.
pub(super) fn claims(readings: &[Reading]) -> Vec<Row> {
    let keys = [
        ("memory_used_percent", "used memory, as a program says"),
        ("memory_used_bytes", "used memory, as a program says"),
        (
            "memory_available_bytes",
            "available memory, as a program says",
        ),
        ("memory_free_bytes", "free memory, as a program says"),
        ("memory_total_bytes", "all memory, as a program says"),
    ];
    keys.iter()
        .filter_map(|(key, subject)| claim(readings, key, subject))
        .collect()
}

/// The range of bytes in which a claim must lie, and the claim itself as bytes.
fn compare(now: &Reading, key: &str) -> Option<(u64, (u64, u64))> {
    let (number, _) = now.claims.number(key)?;
    let total = now.kernel.total_bytes?;
    let free = now.kernel.free_bytes?;
    let available = now.kernel.available_bytes.or(now.kernel.free_bytes)?;
    // Casts of floats end at the ends of the range.
    let bytes = number.max(0.0) as u64;
    Some(match key {
        "memory_used_percent" => (
            (number.max(0.0) / 100.0 * total as f64) as u64,
            used_range(now)?,
        ),
        "memory_used_bytes" => (bytes, used_range(now)?),
        "memory_free_bytes" => (bytes, (free, free)),
        "memory_available_bytes" => (bytes, (free.min(available), available.max(free))),
        _ => (bytes, (total, now.host.configured_bytes.max(total))),
    })
}

fn is_wrong(now: &Reading, key: &str) -> bool {
    compare(now, key).is_some_and(|(claimed, range)| outside(claimed, range) > skew(now))
}

fn claim(readings: &[Reading], key: &str, subject: &str) -> Option<Row> {
    let now = readings.last()?;
    let claim = now.claims.agent.iter().find(|claim| claim.key == key)?;
    let is_percent = key.ends_with("percent");
    let row = Row {
        claim: Some(if is_percent {
            format!("{} %", claim.value)
        } else {
            claim.value.parse().map_or(claim.value.clone(), size)
        }),
        age_ms: claim.age_ms,
        confidence: now.kernel.confidence.unwrap_or(Confidence::Low),
        ..Row::begun(
            "agent-against-kernel",
            subject,
            &format!("claim {key} against the guest kernel's counters"),
        )
    };
    let Some((claimed, (low, high))) = compare(now, key) else {
        let is_number = now.claims.number(key).is_some();
        return Some(if is_number {
            row.blind(now)
        } else {
            row.no_number()
        });
    };
    let percent =
        |bytes: u64| bytes as f64 * 100.0 / now.kernel.total_bytes.unwrap_or(1).max(1) as f64;
    let show = |bytes: u64| {
        if is_percent {
            format!("{:.0} %", percent(bytes))
        } else {
            size(bytes)
        }
    };
    let kernel = if show(low) == show(high) {
        show(low)
    } else {
        format!("{} to {}", show(low), show(high))
    };
    let held = format!("{} held", size(now.host.resident_bytes));
    let off = outside(claimed, (low, high));
    let row = Row {
        kernel: Some(kernel),
        truth: Some(held),
        ..row
    };
    if off <= skew(now) {
        return Some(row.is(Verdict::Agrees, "its kernel says the same"));
    }
    let row = Row {
        difference: Some(size(off)),
        ..row
    };
    let wrong = |reading: &Reading| is_wrong(reading, key);
    let meaning = "the program says what its own kernel does not";
    Some(row.said(readings, key, claim, wrong, meaning))
}

/// The balloon driver's statistics, against the kernel that it is part of.
pub(super) fn balloon_statistics(readings: &[Reading]) -> Option<Row> {
    let now = readings.last()?;
    let claims = now.claims.balloon?;
    let free = claims.free_bytes?;
    let row = Row {
        claim: Some(format!("{} free", size(free))),
        kernel: now
            .kernel
            .free_bytes
            .map(|free| format!("{} free", size(free))),
        age_ms: claims.age_ms,
        ..Row::begun(
            "balloon-against-kernel",
            "balloon statistics",
            "the driver's statistics against MemFree",
        )
    };
    let Some(kernel) = now.kernel.free_bytes else {
        return Some(row.blind(now));
    };
    let off = free.abs_diff(kernel);
    if off <= skew(now) {
        return Some(row.is(Verdict::Agrees, "its kernel says the same"));
    }
    let row = Row {
        difference: Some(size(off)),
        ..row
    };
    // The driver is asked every few seconds, and a busy guest frees and takes much meanwhile.
    let wrong = |reading: &Reading| match (
        reading.claims.balloon.and_then(|b| b.free_bytes),
        reading.kernel.free_bytes,
    ) {
        (Some(claim), Some(kernel)) => claim.abs_diff(kernel) > skew(reading),
        _ => false,
    };
    let mut claims: Vec<u64> = readings
        .iter()
        .rev()
        .take_while(|reading| wrong(reading))
        .filter_map(|r| r.claims.balloon?.free_bytes)
        .collect();
    claims.dedup();
    let kernels: Vec<u64> = readings
        .iter()
        .filter_map(|reading| reading.kernel.free_bytes)
        .collect();
    let lowest = kernels.iter().min().copied().unwrap_or(0);
    let highest = kernels.iter().max().copied().unwrap_or(0);
    let is_steady = highest - lowest <= skew(now);
    let row = row.lasting(
        readings,
        wrong,
        "the driver says what its own kernel does not",
    );
    let is_sure = claims.len() > CLAIMS_NEEDED && is_steady;
    Some(if is_sure {
        row
    } else {
        Row {
            verdict: Verdict::Differs,
            ..row
        }
    })
}

/// Memory that is free inside, and paged out outside.
pub(super) fn free_and_paged_out(now: &Reading) -> Row {
    let out = now.host.paged_out_bytes;
    let row = Row {
        kernel: now
            .kernel
            .free_bytes
            .map(|free| format!("{} free", size(free))),
        truth: Some(if out == 0 {
            "nothing paged out".to_owned()
        } else {
            format!("{} paged out", size(out))
        }),
        confidence: Confidence::High,
        ..Row::begun(
            "free-while-paged-out",
            "paged-out memory",
            "MemFree against what the host keeps elsewhere",
        )
    };
    if out == 0 {
        return row.is(Verdict::Agrees, "everything the guest has is in memory");
    }
    match now.kernel.free_bytes {
        None => row.blind(now),
        Some(0) => row.is(Verdict::Agrees, "the guest has nothing free"),
        Some(free) => {
            let row = Row {
                difference: Some(size(free.min(out))),
                confidence: Confidence::Medium,
                ..row
            };
            row.is(
                Verdict::Costs,
                "up to so much of what is paged out is nothing that the guest still wants",
            )
        }
    }
}

/// What is in the balloon.
pub(super) fn balloon(readings: &[Reading]) -> Row {
    let now = &readings[readings.len() - 1];
    let claimed = now.claims.balloon_bytes;
    let target = now.host.balloon_target_bytes;
    let taken = now.host.balloon_taken_bytes;
    let row = Row {
        claim: Some(size(claimed)),
        kernel: now.kernel.balloon_bytes.map(size),
        truth: Some(format!("{} taken, {} wanted", size(taken), size(target))),
        confidence: Confidence::High,
        ..Row::begun(
            "balloon-target",
            "balloon",
            "what the driver says against pages that came to the host",
        )
    };
    if claimed > taken {
        let row = Row {
            difference: Some(size(claimed - taken)),
            ..row
        };
        let wrong =
            |reading: &Reading| reading.claims.balloon_bytes > reading.host.balloon_taken_bytes;
        return row.lasting(
            readings,
            wrong,
            "the driver says that more is in the balloon than ever came to the host",
        );
    }
    if claimed.abs_diff(target) > skew(now) {
        let row = Row {
            difference: Some(size(claimed.abs_diff(target))),
            ..row
        };
        return row.is(
            Verdict::Costs,
            "the balloon does not have the size that the host wants",
        );
    }
    row.is(
        Verdict::Agrees,
        "the balloon has the size that the host wants",
    )
}
