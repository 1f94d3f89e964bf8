//! Rules about time.

use super::{Confidence, Reading, Row, Verdict, seconds};
use crate::when::clock;

/// Seconds that counters of both sides may be apart without a word.
const SECONDS_MIN: f64 = 1.0;
/// And the part of what was counted.
const PART: f64 = 0.1;
/// A kernel starts to count when it has set up its clock; until then it unpacks itself and looks around.
const BOOT_SECONDS_MAX: f64 = 60.0;
/// A guest's clock is the host's within this.
const WALL_SECONDS: f64 = 2.0;

/// CPU time that the guest did not get.
pub(super) fn steal(readings: &[Reading]) -> Row {
    let now = &readings[readings.len() - 1];
    let row = Row {
        kernel: now.kernel.steal_seconds.map(seconds),
        truth: now
            .host
            .wait_seconds
            .map(|wait| format!("{} waited", seconds(wait))),
        confidence: Confidence::High,
        ..Row::begun(
            "steal-against-wait",
            "CPU time kept from it",
            "the guest's steal against the run delay of its vCPUs' threads",
        )
    };
    let (Some(steal), Some(wait)) = (now.kernel.steal_seconds, now.host.wait_seconds) else {
        return row.blind(now);
    };
    let bound = |wait: f64| wait * (1.0 + PART) + SECONDS_MIN;
    if steal > bound(wait) {
        let wrong =
            |reading: &Reading| match (reading.kernel.steal_seconds, reading.host.wait_seconds) {
                (Some(steal), Some(wait)) => steal > bound(wait),
                _ => false,
            };
        let row = Row {
            difference: Some(seconds(steal - wait)),
            ..row
        };
        return row.lasting(
            readings,
            wrong,
            "its kernel says that more was kept from it than was",
        );
    }
    let run = now.host.run_seconds.unwrap_or(0.0);
    if wait - steal > SECONDS_MIN && wait - steal > PART * run {
        let row = Row {
            difference: Some(seconds(wait - steal)),
            ..row
        };
        return row.is(
            Verdict::Costs,
            "it was ready and the host had no CPU for it, which it does not know",
        );
    }
    row.is(
        Verdict::Agrees,
        "it got the CPU when it wanted it, or knows that it did not",
    )
}

/// CPU time that the guest believes to have used.
pub(super) fn cpu(now: &Reading) -> Row {
    let row = Row {
        kernel: now
            .kernel
            .busy_seconds
            .map(|busy| format!("{} busy", seconds(busy))),
        truth: now
            .host
            .run_seconds
            .map(|run| format!("{} run", seconds(run))),
        confidence: Confidence::High,
        ..Row::begun(
            "busy-against-run",
            "CPU time",
            "the guest's CPU counters against the CPU time of its vCPUs' threads",
        )
    };
    let (Some(busy), Some(run)) = (now.kernel.busy_seconds, now.host.run_seconds) else {
        return row.blind(now);
    };
    if busy - run > SECONDS_MIN && busy - run > PART * run {
        let row = Row {
            difference: Some(seconds(busy - run)),
            ..row
        };
        return row.is(
            Verdict::Costs,
            "it counts time as its own work in which it waited for the host",
        );
    }
    row.is(
        Verdict::Agrees,
        "the host spent what the guest counts, and what its exits and idling cost",
    )
}

/// How long the guest is up.
pub(super) fn uptime(readings: &[Reading]) -> Row {
    let now = &readings[readings.len() - 1];
    let row = Row {
        kernel: now.kernel.uptime_seconds.map(seconds),
        truth: Some(seconds(now.host.guest_seconds)),
        confidence: Confidence::High,
        ..Row::begun(
            "uptime-drift",
            "uptime",
            "the kernel's clock at its last tick against the time that the guest was given",
        )
    };
    let Some(uptime) = now.kernel.uptime_seconds else {
        return row.blind(now);
    };
    let over = |reading: &Reading| {
        reading
            .kernel
            .uptime_seconds
            .map_or(0.0, |uptime| uptime - reading.host.guest_seconds)
    };
    let bound = SECONDS_MIN + now.host.guest_seconds * 0.001;
    if over(now) > bound {
        let row = Row {
            difference: Some(seconds(over(now))),
            ..row
        };
        return row.lasting(
            readings,
            |reading| over(reading) > bound,
            "its clock is ahead of the time it was given",
        );
    }
    let behind = now.host.guest_seconds - uptime;
    if behind > BOOT_SECONDS_MAX {
        // A guest that sleeps has no ticks; one that cannot take its timer's interrupts has none either.
        let row = Row {
            difference: Some(seconds(behind)),
            confidence: Confidence::Medium,
            ..row
        };
        return row.is(
            Verdict::Agrees,
            "its clock was last brought up to date so long ago: asleep, or hung",
        );
    }
    row.is(
        Verdict::Agrees,
        "what is missing is the time until its kernel had a clock, and since its last tick",
    )
}

/// What time it is.
pub(super) fn wall(now: &Reading) -> Row {
    let row = Row {
        kernel: now.kernel.wall_seconds.map(clock),
        truth: Some(clock(now.host.wall_seconds)),
        confidence: Confidence::High,
        ..Row::begun(
            "clock-drift",
            "clock",
            "the kernel's wall clock, brought up to now, against the host's",
        )
    };
    let (Some(wall), Some(uptime)) = (now.kernel.wall_seconds, now.kernel.uptime_seconds) else {
        return row.blind(now);
    };
    // The kernel's clock stands since its last tick, and before its first it had none: up to so much it may be behind.
    let since_tick = (now.host.guest_seconds - uptime).max(0.0);
    let off = now.host.wall_seconds - wall;
    if off > since_tick + WALL_SECONDS {
        let by_pause = off - since_tick <= now.host.paused_seconds + WALL_SECONDS;
        let meaning = if by_pause {
            "it does not know of the time in which it was paused"
        } else {
            "its clock is behind"
        };
        return Row {
            difference: Some(seconds(off - since_tick)),
            ..row
        }
        .is(Verdict::Costs, meaning);
    }
    if off < -WALL_SECONDS {
        return Row {
            difference: Some(seconds(-off)),
            ..row
        }
        .is(Verdict::Costs, "its clock is ahead");
    }
    row.is(Verdict::Agrees, "its clock is the host's")
}
