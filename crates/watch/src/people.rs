//! Who is who in a guest: credentials, threads of the kernel, and whether the kernel still works.

use std::collections::BTreeMap;

use api::HostBooks;
use insight::amounts::size;
use insight::verdict::{Finding, View};
use insight::{DeafCpu, Look, Observed};

/// A CPU that is deaf for so long is worth another look, and one for so long is hung: by then its own kernel complains.
const SUSPECT_SECONDS: f64 = 0.25;
const HUNG_SECONDS: f64 = 2.0;

/// Views of processes, threads of the kernel, and the kernel itself.
pub(crate) fn views(look: &Look<'_>) -> Vec<View> {
    let credentials = view(
        View {
            rule: "credentials".to_owned(),
            subject: "credentials".to_owned(),
            method: "each process's credentials against what the kernel counts for their user, their own parts, and others'".to_owned(),
            truth: "fit together".to_owned(),
            ..View::default()
        },
        &look.strange_credentials(),
        |strange| (format!("process {} ({})", strange.pid, strange.comm), strange.what.clone()),
    );
    let threads = view(
        View {
            rule: "kernel-threads".to_owned(),
            subject: "threads of the kernel".to_owned(),
            method: "the function that each thread of the kernel started in, against its name and whose code that is".to_owned(),
            truth: "are what they are called".to_owned(),
            ..View::default()
        },
        &look.strange_threads(),
        |strange| (format!("thread {} ({})", strange.pid, strange.comm), strange.what.clone()),
    );
    let memory = view(
        View {
            rule: "resident-memory".to_owned(),
            subject: "memory of processes".to_owned(),
            method: "what the page tables of processes map against what their kernel counts, for those with the most tables".to_owned(),
            truth: "is counted".to_owned(),
            ..View::default()
        },
        &look.uncounted_memory(),
        |uncounted| {
            let mapped = size(uncounted.mapped_bytes);
            let counted = size(uncounted.counted_bytes);
            (
                format!("process {} ({})", uncounted.pid, uncounted.comm),
                format!("its page tables map {mapped} and its kernel counts {counted}"),
            )
        },
    );
    vec![credentials, threads, memory]
}

/// A row of its own for a kernel that has panicked; none otherwise.
pub(crate) fn panicked(look: &Look<'_>) -> Option<View> {
    let line = look.panic().into_value()??;
    Some(View {
        rule: "panicked".to_owned(),
        subject: "kernel".to_owned(),
        method: "the kernel's own mark, and its log".to_owned(),
        truth: "panicked".to_owned(),
        findings: vec![Finding {
            name: "panicked".to_owned(),
            what: match line.as_str() {
                "" => "its log does not say why".to_owned(),
                line => line.to_owned(),
            },
            is_certain: true,
            ..Finding::default()
        }],
        ..View::default()
    })
}

/// CPUs that took no interrupt in each look: how long their threads had run when that began, and at which tick their
/// schedulers ran last. Threads that the host keeps waiting do not run, and such a CPU is not hung.
#[derive(Default)]
pub(crate) struct Deaf(BTreeMap<u32, (u64, f64)>);

impl Deaf {
    /// How long each has run deaf at least; `ran` says how long its thread has run in all.
    fn follow(
        &mut self,
        cpus: Vec<DeafCpu>,
        ran: impl Fn(u32) -> Option<f64>,
    ) -> Vec<(DeafCpu, f64)> {
        let before = std::mem::take(&mut self.0);
        let mut all = Vec::new();
        for cpu in cpus {
            let Some(now) = ran(cpu.vcpu_id) else {
                continue;
            };
            let first = before
                .get(&cpu.vcpu_id)
                .filter(|(clock, _)| *clock == cpu.clock_ns)
                .map_or(now, |(_, first)| *first);
            self.0.insert(cpu.vcpu_id, (cpu.clock_ns, first));
            all.push((cpu, now - first));
        }
        all
    }
}

/// A row of its own for CPUs that are hung; none otherwise.
pub(crate) fn hung(look: &Look<'_>, deaf: &mut Deaf, books: &HostBooks) -> Option<View> {
    let ran = |vcpu_id: u32| books.vcpus.get(vcpu_id as usize)?.run_seconds;
    let cpus = deaf.follow(look.deaf_cpus(), ran);
    let finding = |(cpu, seconds): &(DeafCpu, f64)| Finding {
        name: format!("vCPU {}", cpu.vcpu_id),
        what: format!(
            "it is at {}, and has run {seconds:.1} s at least without taking an interrupt or handing out work",
            cpu.place
        ),
        is_young: *seconds < HUNG_SECONDS,
        ..Finding::default()
    };
    let findings: Vec<Finding> = cpus
        .iter()
        .filter(|(_, seconds)| *seconds >= SUSPECT_SECONDS)
        .map(finding)
        .collect();
    (!findings.is_empty()).then(|| View {
        rule: "hung".to_owned(),
        subject: "CPUs".to_owned(),
        method: "registers of each vCPU, and when its scheduler ran last, again and again"
            .to_owned(),
        truth: format!("{} hung", findings.len()),
        findings,
        ..View::default()
    })
}

fn view<T>(view: View, seen: &Observed<Vec<T>>, tell: impl Fn(&T) -> (String, String)) -> View {
    let Some(found) = seen.value() else {
        return View {
            truth: String::new(),
            why_not: Some(seen.why_not().unwrap_or("nothing was seen").to_owned()),
            ..view
        };
    };
    let finding = |strange: &T| {
        let (name, what) = tell(strange);
        Finding {
            name,
            what,
            ..Finding::default()
        }
    };
    View {
        truth: match found.len() {
            0 => view.truth,
            count => format!("{count} strange"),
        },
        findings: found.iter().map(finding).collect(),
        ..view
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_is_deaf_since_it_ran_last() {
        let mut deaf = Deaf::default();
        let mut check = |looks: &[(u64, f64)], expected: &[f64]| {
            let cpu = |clock_ns| DeafCpu {
                vcpu_id: 0,
                clock_ns,
                place: String::new(),
            };
            let seen: Vec<f64> = looks
                .iter()
                .flat_map(|(clock, now)| deaf.follow(vec![cpu(*clock)], |_| Some(*now)))
                .map(|(_, seconds)| seconds)
                .collect();
            assert_eq!(seen, expected);
            deaf.follow(Vec::new(), |_| None);
        };
        check(&[(7, 1.0), (7, 2.5), (8, 3.0)], &[0.0, 1.5, 0.0]);
        // Between the two it took interrupts.
        check(&[(8, 4.0)], &[0.0]);
    }
}
