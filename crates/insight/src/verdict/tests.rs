//! Rules as tables: a clean guest, one thing that is different, and what must come of it.

use super::*;

pub(super) const MIB: u64 = 1 << 20;

/// A guest that nobody has anything to say about: 1 GiB, a tenth used, a balloon that is empty.
fn clean() -> Reading {
    let kernel = KernelBook {
        confidence: Some(Confidence::Medium),
        total_bytes: Some(970 * MIB),
        free_bytes: Some(850 * MIB),
        available_bytes: Some(900 * MIB),
        uptime_seconds: Some(98.5),
        wall_seconds: Some(1_000_098.4),
        steal_seconds: Some(0.0),
        busy_seconds: Some(7.0),
        views: vec![View {
            rule: "hidden-task".to_owned(),
            subject: "processes".to_owned(),
            ..View::default()
        }],
        ..KernelBook::default()
    };
    let host = HostBook {
        configured_bytes: 1024 * MIB,
        resident_bytes: 160 * MIB,
        run_seconds: Some(8.0),
        wait_seconds: Some(0.4),
        guest_seconds: 100.0,
        wall_seconds: 1_000_100.0,
        vcpus: 1,
        ..HostBook::default()
    };
    let balloon = BalloonClaims {
        total_bytes: Some(970 * MIB),
        free_bytes: Some(851 * MIB),
        ..BalloonClaims::default()
    };
    Reading {
        claims: Claims {
            balloon: Some(balloon),
            ..Claims::default()
        },
        kernel,
        host,
    }
}

pub(super) fn claim(key: &str, value: &str, times: u64) -> Claim {
    Claim {
        key: key.to_owned(),
        value: value.to_owned(),
        age_ms: 200,
        times,
    }
}

/// The row of a rule after three readings, in each of which `change` was done; it gets the reading's number.
pub(super) fn judged(rule: &str, change: impl Fn(&mut Reading, u64)) -> Row {
    let reading = |number| {
        let mut reading = clean();
        change(&mut reading, number);
        reading
    };
    let rows = judge(&[reading(0), reading(1), reading(2)]);
    rows.into_iter()
        .find(|row| row.rule == rule)
        .unwrap_or_else(|| panic!("no row for {rule}"))
}

#[test]
fn a_clean_guest_raises_no_alarm() {
    let rows = judge(&[clean(), clean(), clean()]);
    assert!(
        rows.iter().all(|row| row.verdict == Verdict::Agrees),
        "{rows:#?}"
    );
    assert_eq!(worst(&rows), Verdict::Agrees);
    // Also when one program is honest, in either meaning of "used".
    for used in ["8", "12", "10 %"] {
        let row = judged("agent-against-kernel", |now, n| {
            now.claims.agent.push(claim("memory_used_percent", used, n))
        });
        assert_eq!(row.verdict, Verdict::Agrees, "{used}: {row:?}");
    }
}

#[test]
fn every_rule_says_what_it_should() {
    let check = |rule: &str,
                 expected: Verdict,
                 difference: Option<&str>,
                 change: &dyn Fn(&mut Reading, u64)| {
        let row = judged(rule, change);
        assert_eq!(
            (row.verdict, row.difference.as_deref()),
            (expected, difference),
            "{row:#?}"
        );
    };
    use Verdict::{Agrees, Contradicts, Costs, Differs, NotObservable};
    check("memory-size", Contradicts, Some("1G"), &|now, _| {
        now.kernel.total_bytes = Some(2048 * MIB)
    });
    check("memory-size", NotObservable, None, &|now, _| {
        now.kernel.total_bytes = None
    });
    check("dead-memory", Costs, Some("326M"), &|now, _| {
        now.host.resident_bytes = 500 * MIB
    });
    check("dead-memory", Agrees, None, &|now, _| {
        now.host.resident_bytes = 200 * MIB
    });
    check("dead-memory", NotObservable, None, &|now, _| {
        now.kernel.free_bytes = None
    });
    check(
        "agent-against-kernel",
        Contradicts,
        Some("801.5M"),
        &|now, n| {
            now.claims.agent.push(claim("memory_used_percent", "95", n));
        },
    );
    check(
        "agent-against-kernel",
        Differs,
        Some("801.5M"),
        &|now, _| {
            // The same old claim in every reading.
            now.claims.agent.push(claim("memory_used_percent", "95", 1));
        },
    );
    check(
        "agent-against-kernel",
        Differs,
        Some("801.5M"),
        &|now, n| {
            now.claims.agent.push(Claim {
                age_ms: 60_000,
                ..claim("memory_used_percent", "95", n)
            });
        },
    );
    check(
        "agent-against-kernel",
        Differs,
        Some("801.5M"),
        &|now, n| {
            // In the last two readings only.
            let used = if n == 0 { "10" } else { "95" };
            now.claims.agent.push(claim("memory_used_percent", used, n));
        },
    );
    check("agent-against-kernel", Differs, None, &|now, n| {
        now.claims
            .agent
            .push(claim("memory_used_percent", "plenty", n));
    });
    check(
        "agent-against-kernel",
        Contradicts,
        Some("1G"),
        &|now, n| {
            now.claims
                .agent
                .push(claim("memory_total_bytes", "2147483648", n));
        },
    );
    check(
        "balloon-against-kernel",
        Contradicts,
        Some("550M"),
        &|now, n| {
            let balloon = BalloonClaims {
                free_bytes: Some(300 * MIB + n),
                ..BalloonClaims::default()
            };
            now.claims.balloon = Some(BalloonClaims {
                free_bytes: Some(300 * MIB - (2 - n)),
                ..balloon
            });
        },
    );
    check(
        "balloon-against-kernel",
        Differs,
        Some("550M"),
        &|now, _| {
            now.claims.balloon = Some(BalloonClaims {
                free_bytes: Some(300 * MIB),
                ..BalloonClaims::default()
            });
        },
    );
    check("free-while-paged-out", Costs, Some("300M"), &|now, _| {
        now.host.paged_out_bytes = 300 * MIB
    });
    check("balloon-target", Costs, Some("200M"), &|now, _| {
        now.host.balloon_target_bytes = 200 * MIB
    });
    check("balloon-target", Contradicts, Some("100M"), &|now, _| {
        (now.claims.balloon_bytes, now.host.balloon_target_bytes) = (200 * MIB, 200 * MIB);
        now.host.balloon_taken_bytes = 100 * MIB;
    });
    check("steal-against-wait", Costs, Some("4.0s"), &|now, _| {
        now.host.wait_seconds = Some(4.0)
    });
    check("steal-against-wait", Agrees, None, &|now, _| {
        (now.kernel.steal_seconds, now.host.wait_seconds) = (Some(3.9), Some(4.0));
    });
    check(
        "steal-against-wait",
        Contradicts,
        Some("29.6s"),
        &|now, _| now.kernel.steal_seconds = Some(30.0),
    );
    check("steal-against-wait", NotObservable, None, &|now, _| {
        now.host.wait_seconds = None
    });
    check("busy-against-run", Costs, Some("32.0s"), &|now, _| {
        now.kernel.busy_seconds = Some(40.0)
    });
    check("uptime-drift", Contradicts, Some("400.0s"), &|now, _| {
        now.kernel.uptime_seconds = Some(500.0)
    });
    check("uptime-drift", Agrees, Some("99.0s"), &|now, _| {
        now.kernel.uptime_seconds = Some(1.0)
    });
    check("clock-drift", Costs, Some("3600.1s"), &|now, _| {
        now.kernel.wall_seconds = Some(996_498.4)
    });
    check("clock-drift", Costs, Some("899.9s"), &|now, _| {
        now.kernel.wall_seconds = Some(1_000_999.9)
    });
    check(
        "agent-against-host",
        Contradicts,
        Some("897.9s"),
        &|now, n| {
            now.claims.agent.push(claim("uptime_seconds", "1000", n));
        },
    );
}

#[test]
fn what_is_hidden_must_stay_hidden_for_three_readings_or_be_certain() {
    let finding = |is_certain| Finding {
        name: "pid 7".to_owned(),
        what: "in no list".to_owned(),
        is_certain,
        is_young: false,
    };
    let check = |from: u64, is_certain, expected| {
        let row = judged("hidden-task", |now, n| {
            if n >= from {
                now.kernel.views[0].findings.push(finding(is_certain));
            }
        });
        assert_eq!(
            (row.verdict, row.difference.as_deref()),
            (expected, Some("pid 7")),
            "{from} {is_certain}"
        );
    };
    check(0, false, Verdict::Contradicts);
    check(1, false, Verdict::Differs);
    check(2, true, Verdict::Contradicts);
    // Another one each time is what a busy guest looks like.
    let row = judged("hidden-task", |now, n| {
        now.kernel.views[0].findings.push(Finding {
            name: format!("pid {n}"),
            ..finding(false)
        });
    });
    assert_eq!((row.verdict, row.readings), (Verdict::Differs, 1));
}

#[test]
fn what_may_still_be_on_its_way_never_contradicts() {
    let row = judged("hidden-task", |now, _| {
        now.kernel.views[0].findings.push(Finding {
            name: "code at 0x1".to_owned(),
            is_young: true,
            ..Finding::default()
        });
    });
    assert_eq!(row.verdict, Verdict::Differs);
}

#[test]
fn free_memory_is_in_lists_or_is_not_there() {
    let rows = |listed: Option<u64>| {
        let readings = [(); READINGS_NEEDED].map(|()| {
            let mut now = clean();
            now.kernel.listed_free_bytes = listed;
            now
        });
        let rows = judge(&readings);
        let row = rows.into_iter().find(|row| row.rule == "free-memory");
        row.map(|row| row.verdict)
    };
    let free = clean().kernel.free_bytes.unwrap();
    let skew = clean().host.configured_bytes / 20;
    assert_eq!(rows(None), None);
    assert_eq!(rows(Some(free)), None);
    // What is set apart lies in the lists and is not counted.
    assert_eq!(rows(Some(free * 2)), None);
    assert_eq!(rows(Some(free.saturating_sub(skew.max(32 << 20)))), None);
    assert_eq!(rows(Some(0)), Some(Verdict::Contradicts));
}

#[test]
fn a_guest_that_cannot_be_read_has_rows_all_the_same() {
    let kernel = KernelBook {
        why_not: Some("no Linux kernel".to_owned()),
        ..KernelBook::default()
    };
    let rows = judge(&[Reading { kernel, ..clean() }]);
    let blind: Vec<&Row> = rows
        .iter()
        .filter(|row| row.verdict == Verdict::NotObservable)
        .collect();
    assert!(
        blind.len() >= 6 && blind.iter().all(|row| row.meaning == "no Linux kernel"),
        "{rows:#?}"
    );
    assert!(judge(&[]).is_empty());
    // Numbers that cannot be are no panic.
    let mut wild = clean();
    wild.kernel.total_bytes = Some(u64::MAX);
    wild.kernel.available_bytes = Some(u64::MAX);
    wild.claims.agent = [
        "memory_used_percent",
        "memory_used_bytes",
        "memory_total_bytes",
        "uptime_seconds",
        "steal_seconds",
    ]
    .iter()
    .flat_map(|key| {
        ["-1e308", "1e308", "nan", "inf", "", "18446744073709551615"]
            .map(|value| claim(key, value, 1))
    })
    .collect();
    assert!(!judge(&[wild.clone(), wild.clone(), wild]).is_empty());
}

#[test]
fn guests_that_believe_in_more_than_there_is_cost() {
    let guest = Belief {
        configured_bytes: 4096 * MIB,
        resident_bytes: 100 * MIB,
    };
    assert_eq!(
        judge_host(&[guest; 3], 8192 * MIB).difference.as_deref(),
        Some("4G")
    );
    assert_eq!(judge_host(&[guest; 2], 8192 * MIB).verdict, Verdict::Agrees);
    assert_eq!(judge_host(&[guest; 2], 0).verdict, Verdict::NotObservable);
}

#[test]
fn a_number_that_a_program_claims_lies_where_kernel_and_host_say() {
    let check = |key: &str, value: &str, expected: Verdict, difference: Option<&str>| {
        let mut now = clean();
        now.kernel.processes = Some((20, 80));
        now.kernel.steal_seconds = Some(5.0);
        now.host.wait_seconds = Some(8.0);
        let readings: Vec<Reading> = (0..3)
            .map(|n| {
                let mut reading = now.clone();
                reading.claims.agent.push(claim(key, value, n));
                reading
            })
            .collect();
        let rows = judge(&readings);
        let row = rows.iter().find(|row| row.rule.starts_with("agent-"));
        let row = row.unwrap_or_else(|| panic!("{key} {value} has no row"));
        let found = (row.verdict, row.difference.as_deref());
        assert_eq!(found, (expected, difference), "{key} {value}: {row:#?}");
    };
    use Verdict::{Agrees, Contradicts, Differs};
    check("uptime_seconds", "99", Agrees, None);
    check("uptime_seconds", "101.9", Agrees, None);
    check("uptime_seconds", "97", Agrees, None);
    check("uptime_seconds", "1", Contradicts, Some("95.3s"));
    check("uptime_seconds", "103", Contradicts, Some("0.9s"));
    check("steal_seconds", "5", Agrees, None);
    check("steal_seconds", "8", Agrees, None);
    check("steal_seconds", "99999", Contradicts, Some("99988.2s"));
    check("steal_seconds", "0", Contradicts, Some("2.3s"));
    check("processes", "20", Agrees, None);
    check("processes", "80", Agrees, None);
    check("processes", "5000", Contradicts, Some("4904"));
    check("processes", "1", Contradicts, Some("3"));
    for key in ["uptime_seconds", "steal_seconds", "processes"] {
        for value in ["nan", "inf", "-inf", "-5", "", "many"] {
            check(key, value, Differs, None);
        }
    }
    for value in ["nan", "-5"] {
        check("memory_used_percent", value, Differs, None);
        check("memory_free_bytes", value, Differs, None);
    }
}

#[test]
fn nobody_is_fine_whom_nobody_could_see() {
    let with = |verdicts: &[Verdict]| {
        let rows: Vec<Row> = verdicts
            .iter()
            .map(|verdict| Row::begun("rule", "subject", "method").is(*verdict, ""))
            .collect();
        standing(&rows)
    };
    use Verdict::{Agrees, Contradicts, Costs, Differs, NotObservable};
    assert_eq!(with(&[Agrees, Costs, Differs]), Standing::Fine);
    assert_eq!(with(&[Agrees, NotObservable]), Standing::Blind);
    assert_eq!(with(&[Costs, NotObservable, Differs]), Standing::Blind);
    assert_eq!(with(&[NotObservable, Contradicts]), Standing::Contradicts);
    assert_eq!(with(&[]), Standing::Blind);
    // Whatever the reason is why the kernel has no book.
    for take in [
        |kernel: &mut KernelBook| kernel.total_bytes = None,
        |kernel: &mut KernelBook| kernel.uptime_seconds = None,
        |kernel: &mut KernelBook| kernel.steal_seconds = None,
        |kernel: &mut KernelBook| kernel.views[0].why_not = Some("unread".to_owned()),
        |kernel: &mut KernelBook| *kernel = KernelBook::default(),
    ] {
        let mut now = clean();
        take(&mut now.kernel);
        assert_eq!(standing(&judge(&[now])), Standing::Blind);
    }
    assert_eq!(standing(&judge(&[clean()])), Standing::Fine);
}
