//! Where each rule turns: the largest step from the truth that is still taken for skew, the first that is not, and that a
//! larger one is never judged more kindly.

use super::tests::{MIB, claim, judged};
use super::*;

/// How bad a verdict is.
fn badness(verdict: Verdict) -> usize {
    use Verdict::{Agrees, Contradicts, Costs, Differs, NotObservable};
    let order = [Agrees, NotObservable, Costs, Differs, Contradicts];
    order
        .iter()
        .position(|known| *known == verdict)
        .expect("all are in the list")
}

/// Of `rule`, with `change` by so much: up to `last` it agrees, from `first` on it is `verdict`, and stays at least as bad.
fn check(
    rule: &str,
    (last, first): (f64, f64),
    verdict: Verdict,
    change: impl Fn(&mut Reading, u64, f64),
) {
    let judged = |step: f64| judged(rule, |now, n| change(now, n, step)).verdict;
    assert_eq!(judged(0.0), Verdict::Agrees, "{rule}: the truth");
    assert_eq!(judged(last), Verdict::Agrees, "{rule}: {last}");
    assert_eq!(judged(first), verdict, "{rule}: {first}");
    let mut before = badness(verdict);
    for factor in [1.5, 3.0, 10.0, 1e3, 1e6] {
        let now = badness(judged(first * factor));
        assert!(
            now >= before,
            "{rule}: {} is judged more kindly",
            first * factor
        );
        before = now;
    }
}

fn mib(step: f64) -> u64 {
    (step * MIB as f64) as u64
}

#[test]
fn memory_that_was_never_given_is_a_contradiction_from_the_first_byte() {
    let total = |now: &mut Reading, _, step| now.kernel.total_bytes = Some(970 * MIB + mib(step));
    check("memory-size", (54.0, 54.001), Verdict::Contradicts, total);
}

#[test]
fn dead_memory_costs_from_a_quarter_more_than_the_guest_uses_on() {
    // The kernel counts 120 MiB as used and keeps 54 for itself.
    let held = |now: &mut Reading, _, step| now.host.resident_bytes = 174 * MIB + mib(step);
    check("dead-memory", (43.4, 43.6), Verdict::Costs, held);
    // In a small guest a quarter is nothing to speak of: 16 MiB is.
    let held = |now: &mut Reading, _, step| {
        now.kernel.free_bytes = Some(960 * MIB);
        now.host.configured_bytes = 980 * MIB;
        now.host.resident_bytes = 20 * MIB + mib(step);
    };
    check("dead-memory", (16.0, 16.1), Verdict::Costs, held);
}

#[test]
fn a_twentieth_of_all_memory_is_skew_between_a_claim_and_the_kernel() {
    let claims = |key: &'static str, from_mib: f64| {
        move |now: &mut Reading, n, step: f64| {
            let bytes = mib(from_mib + step).to_string();
            now.claims.agent.push(claim(key, &bytes, n));
        }
    };
    let rule = "agent-against-kernel";
    let skew = (51.1, 51.3);
    check(
        rule,
        skew,
        Verdict::Contradicts,
        claims("memory_used_bytes", 120.0),
    );
    check(
        rule,
        skew,
        Verdict::Contradicts,
        claims("memory_free_bytes", 850.0),
    );
    check(
        rule,
        skew,
        Verdict::Contradicts,
        claims("memory_available_bytes", 900.0),
    );
    // A total may be all that was given.
    check(
        rule,
        skew,
        Verdict::Contradicts,
        claims("memory_total_bytes", 1024.0),
    );
}

#[test]
fn a_claim_that_is_too_small_is_as_wrong_as_one_that_is_too_large() {
    let check = |key, mib_claimed: u64, expected| {
        let row = judged("agent-against-kernel", |now, n| {
            let bytes = (mib_claimed * MIB).to_string();
            now.claims.agent.push(claim(key, &bytes, n));
        });
        assert_eq!(row.verdict, expected, "{key} {mib_claimed}");
    };
    use Verdict::{Agrees, Contradicts};
    check("memory_used_bytes", 19, Agrees);
    check("memory_used_bytes", 18, Contradicts);
    check("memory_free_bytes", 799, Agrees);
    check("memory_free_bytes", 798, Contradicts);
    check("memory_available_bytes", 799, Agrees);
    check("memory_available_bytes", 798, Contradicts);
    check("memory_total_bytes", 919, Agrees);
    check("memory_total_bytes", 918, Contradicts);
}

#[test]
fn in_a_small_guest_32_mebibytes_are_skew() {
    let free = |now: &mut Reading, n, step: f64| {
        now.host.configured_bytes = 256 * MIB;
        now.kernel.total_bytes = Some(240 * MIB);
        now.kernel.free_bytes = Some(100 * MIB);
        now.kernel.available_bytes = Some(100 * MIB);
        let bytes = mib(100.0 + step).to_string();
        now.claims.agent.push(claim("memory_free_bytes", &bytes, n));
    };
    check(
        "agent-against-kernel",
        (32.0, 32.1),
        Verdict::Contradicts,
        free,
    );
}

#[test]
fn a_balloon_may_be_on_its_way_but_not_hold_what_never_came() {
    let wanted = |now: &mut Reading, _, step| now.host.balloon_target_bytes = mib(step);
    check("balloon-target", (51.1, 51.3), Verdict::Costs, wanted);
    let claimed = |now: &mut Reading, _, step: f64| {
        now.host.balloon_target_bytes = 100 * MIB;
        now.host.balloon_taken_bytes = 100 * MIB;
        now.claims.balloon_bytes = 100 * MIB + mib(step);
    };
    check(
        "balloon-target",
        (0.0, 0.001),
        Verdict::Contradicts,
        claimed,
    );
}

#[test]
fn cpu_time_may_be_a_tenth_and_a_second_apart() {
    // 0.4 s were waited.
    let steal = |now: &mut Reading, _, step| now.kernel.steal_seconds = Some(0.4 + step);
    check(
        "steal-against-wait",
        (1.03, 1.05),
        Verdict::Contradicts,
        steal,
    );
    let unseen = |now: &mut Reading, _, step| now.host.wait_seconds = Some(step);
    check("steal-against-wait", (1.0, 1.01), Verdict::Costs, unseen);
    // Of much work a tenth is more than a second.
    let unseen = |now: &mut Reading, _, step| {
        now.host.run_seconds = Some(80.0);
        now.kernel.busy_seconds = Some(80.0);
        now.host.wait_seconds = Some(step);
    };
    check("steal-against-wait", (8.0, 8.01), Verdict::Costs, unseen);
    let busy = |now: &mut Reading, _, step| now.kernel.busy_seconds = Some(8.0 + step);
    check("busy-against-run", (1.0, 1.01), Verdict::Costs, busy);
}

#[test]
fn a_clock_may_be_behind_since_its_last_tick_and_ahead_by_next_to_nothing() {
    let uptime = |now: &mut Reading, _, step| now.kernel.uptime_seconds = Some(100.0 + step);
    check("uptime-drift", (1.0, 1.2), Verdict::Contradicts, uptime);
    // Ticks stopped a second and a half ago: so much may be missing from its wall clock, and two seconds more.
    let behind = |now: &mut Reading, _, step| now.kernel.wall_seconds = Some(1_000_100.0 - step);
    check("clock-drift", (3.4, 3.6), Verdict::Costs, behind);
    let ahead = |now: &mut Reading, _, step| now.kernel.wall_seconds = Some(1_000_100.0 + step);
    check("clock-drift", (1.9, 2.1), Verdict::Costs, ahead);
}

#[test]
fn a_clock_that_missed_a_pause_is_told_from_one_that_is_wrong() {
    let meaning = |paused: f64, behind: f64| {
        let row = judged("clock-drift", |now, _| {
            now.host.paused_seconds = paused;
            now.kernel.wall_seconds = Some(1_000_100.0 - behind);
        });
        row.meaning
    };
    let paused = "it does not know of the time in which it was paused";
    let wrong = "its clock is behind";
    assert_eq!(meaning(60.0, 61.0), paused);
    assert_eq!(
        meaning(60.0, 63.4),
        paused,
        "the pause, its last tick and the skew"
    );
    assert_eq!(meaning(60.0, 63.6), wrong);
    assert_eq!(meaning(0.0, 3600.0), wrong);
}

#[test]
fn what_is_paged_out_costs_as_much_of_it_as_is_free_inside() {
    let check = |out: u64, free: Option<u64>, expected, difference: Option<&str>| {
        let row = judged("free-while-paged-out", |now, _| {
            now.host.paged_out_bytes = out * MIB;
            now.kernel.free_bytes = free.map(|free| free * MIB);
        });
        let found = (row.verdict, row.difference.as_deref());
        assert_eq!(found, (expected, difference), "{out} {free:?}");
    };
    use Verdict::{Agrees, Costs, NotObservable};
    check(0, Some(850), Agrees, None);
    check(0, None, Agrees, None);
    check(1, Some(850), Costs, Some("1M"));
    check(300, Some(200), Costs, Some("200M"));
    check(300, Some(0), Agrees, None);
    check(300, None, NotObservable, None);
}

#[test]
fn guests_may_believe_in_as_much_as_there_is_and_not_a_byte_more() {
    let check = |beliefs: &[u64], host, expected, difference: Option<&str>| {
        let belief = |&configured_bytes: &u64| Belief {
            configured_bytes,
            resident_bytes: 0,
        };
        let beliefs: Vec<Belief> = beliefs.iter().map(belief).collect();
        let row = judge_host(&beliefs, host);
        assert_eq!(
            (row.verdict, row.difference.as_deref()),
            (expected, difference)
        );
    };
    use Verdict::{Agrees, Costs, NotObservable};
    check(&[], 1, Agrees, None);
    check(&[512, 512], 1024, Agrees, None);
    check(&[512, 513], 1024, Costs, Some("1"));
    check(&[u64::MAX, u64::MAX], u64::MAX, Agrees, None);
    check(&[1], 0, NotObservable, None);
}
