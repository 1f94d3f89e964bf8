//! From what was asked of a VM and read in its guest to what verdicts compare.

use std::time::{SystemTime, UNIX_EPOCH};

use api::HostBooks;
use insight::verdict::{BalloonClaims, Claim, Claims, Confidence, HostBook, KernelBook, Reading};
use insight::{Look, NotRecognised, Rung};

/// One reading; `look` is none where the guest's kernel is not known, and `why_not` says why.
pub(crate) fn reading(books: &HostBooks, look: Result<&Look<'_>, &NotRecognised>) -> Reading {
    let claims = claims(books);
    let mut kernel = kernel_book(look);
    if claims.agent.iter().any(|claim| claim.key == "processes") {
        kernel.processes = look.ok().and_then(processes);
    }
    Reading {
        claims,
        kernel,
        host: host(books),
    }
}

/// Processes that have a program, and all.
fn processes(look: &Look<'_>) -> Option<(u64, u64)> {
    let all = look.processes().into_value()?;
    let programs = all.iter().filter(|process| !process.is_kernel).count();
    Some((programs as u64, all.len() as u64))
}

fn claims(books: &HostBooks) -> Claims {
    let claim = |claim: &api::GuestClaim| Claim {
        key: claim.key.clone(),
        value: claim.value.clone(),
        age_ms: claim.age_ms,
        times: claim.times,
    };
    let statistic = |name: &str| {
        books
            .balloon
            .claims
            .iter()
            .find(|claim| claim.name == name)
            .map(|claim| claim.value)
    };
    let balloon = books.balloon.claims_age_ms.map(|age_ms| BalloonClaims {
        total_bytes: statistic("total"),
        free_bytes: statistic("free"),
        available_bytes: statistic("available"),
        age_ms,
    });
    let agent = books.claims.claims.iter().map(claim).collect();
    Claims {
        agent,
        balloon,
        balloon_bytes: books.balloon.claimed_bytes,
    }
}

/// What the guest's kernel has in its own books.
pub(crate) fn kernel_book(look: Result<&Look<'_>, &NotRecognised>) -> KernelBook {
    let look = match look {
        Ok(look) => look,
        Err(not) => {
            return KernelBook {
                why_not: Some(not.to_string()),
                ..KernelBook::default()
            };
        }
    };
    let memory = look.memory_counters();
    let system = look.system();
    let cpu = look.cpu_times();
    let why_not = memory.why_not().map(str::to_owned);
    let memory = memory.into_value().unwrap_or_default();
    let seconds = |ns: u64| ns as f64 / 1e9;
    let clocks = system.clocks.value();
    let sum =
        |pick: fn(&insight::cpu::CpuTimes) -> u64| cpu.value().map(|times| seconds(pick(times)));
    KernelBook {
        why_not,
        method: look.rung().words().to_owned(),
        confidence: Some(confidence(look)),
        total_bytes: memory.get("MemTotal"),
        free_bytes: memory.get("MemFree"),
        available_bytes: memory.get("MemAvailable"),
        listed_free_bytes: look.listed_free_bytes().into_value(),
        balloon_bytes: memory.get("Balloon"),
        uptime_seconds: clocks.map(|clocks| seconds(clocks.uptime_ns)),
        wall_seconds: clocks.map(|clocks| seconds(clocks.wall_ns)),
        steal_seconds: sum(|times| times.steal_ns),
        busy_seconds: sum(insight::cpu::CpuTimes::busy_ns),
        processes: None,
        views: Vec::new(),
    }
}

fn confidence(look: &Look<'_>) -> Confidence {
    match look.rung() {
        Rung::Registers | Rung::Image | Rung::Profile if look.kernel().disputes().is_empty() => {
            Confidence::Medium
        }
        _ => Confidence::Low,
    }
}

fn host(books: &HostBooks) -> HostBook {
    let sum =
        |pick: fn(&api::VcpuBook) -> Option<f64>| books.vcpus.iter().map(pick).sum::<Option<f64>>();
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    HostBook {
        configured_bytes: books.memory.configured_bytes,
        resident_bytes: books.memory.resident_bytes,
        given_back_bytes: books.memory.given_back_bytes,
        paged_out_bytes: books.memory.paged_out_bytes(),
        balloon_target_bytes: books.balloon.target_bytes,
        balloon_taken_bytes: books.balloon.inflated_bytes,
        run_seconds: sum(|vcpu| vcpu.run_seconds),
        wait_seconds: sum(|vcpu| vcpu.wait_seconds),
        guest_seconds: books.clock.guest_seconds,
        paused_seconds: books.clock.paused_seconds,
        wall_seconds: wall.as_secs_f64(),
        vcpus: u32::try_from(books.vcpus.len()).unwrap_or(u32::MAX),
    }
}
