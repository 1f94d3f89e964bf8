//! Memory that a guest's kernel can run: whose it is, and whether every process has the same kernel.

use std::collections::BTreeMap;

use insight::integrity::{CodePages, GracePeriods, PrivateKernel, UnknownCode};
use insight::modules::Stretch;
use insight::verdict::{Finding, View};
use insight::{Look, Observed};

/// How long the guest must have run with code of nobody's: what it unloads is nobody's before it is gone.
const SETTLED_SECONDS: f64 = 1.0;
/// The same where the kernel does not say whether it waits to give something back.
const SETTLED_UNASKED: f64 = 3.0;

/// Code of nobody's by where it begins: when it was seen first.
#[derive(Default)]
pub(crate) struct Known(BTreeMap<u64, First>);

#[derive(Clone, Copy)]
struct First {
    guest_seconds: f64,
    periods: Option<GracePeriods>,
}

impl Known {
    /// Whether code that begins at `start` has been there for so long that it stays. `now` is the guest's own time.
    fn is_settled(&mut self, start: u64, now: First) -> bool {
        let first = *self.0.entry(start).or_insert(now);
        let passed = now.guest_seconds - first.guest_seconds;
        match (first.periods, now.periods) {
            (Some(before), Some(periods)) => {
                passed >= SETTLED_SECONDS && periods.has_passed(before)
            }
            _ => passed >= SETTLED_UNASKED,
        }
    }
}

/// Everything about memory that can be run; `guest_seconds` is the guest's own time, `told` the code of modules that are
/// told in another row.
pub(crate) fn views(
    look: &Look<'_>,
    known: &mut Known,
    guest_seconds: f64,
    told: &[Stretch],
) -> Vec<View> {
    let mut pages = look.code_pages();
    if let Observed::Seen { value, .. } = &mut pages {
        let is_told = |code: &UnknownCode| told.iter().any(|module| module.contains(code.start));
        value.unknown.retain(|code| !is_told(code));
    }
    vec![
        owners(&pages, known, guest_seconds, look.grace_periods()),
        tables(&pages, &look.private_kernels()),
    ]
}

fn owners(
    pages: &Observed<CodePages>,
    known: &mut Known,
    guest_seconds: f64,
    periods: Option<GracePeriods>,
) -> View {
    let view = View {
        rule: "hidden-module".to_owned(),
        subject: "executable memory".to_owned(),
        method: "the kernel's page tables, and whose each page is that can be run: the kernel, modules, BPF, tracers, probes".to_owned(),
        ..View::default()
    };
    let Some(seen) = pages.value() else {
        return unseen(view, pages);
    };
    let now = First {
        guest_seconds,
        periods,
    };
    known
        .0
        .retain(|start, _| seen.unknown.iter().any(|code| code.start == *start));
    let finding = |code: &UnknownCode| Finding {
        name: format!("code at {:#x}", code.start),
        what: format!(
            "{} KiB of memory that the kernel can run are nobody's: no module, BPF program, tracer or probe{}",
            code.len_bytes >> 10,
            threads(&code.threads)
        ),
        is_young: !known.is_settled(code.start, now),
        ..Finding::default()
    };
    let findings: Vec<Finding> = seen.unknown.iter().map(finding).collect();
    let kib = seen.executable_bytes >> 10;
    View {
        kernel: format!("{kib} KiB can be run"),
        truth: match findings.len() {
            0 => "each page has an owner".to_owned(),
            count => format!("{count} without an owner"),
        },
        findings,
        ..view
    }
}

fn threads(threads: &[String]) -> String {
    match threads {
        [] => String::new(),
        threads => format!(
            "; threads of the kernel started there: {}",
            threads.join(", ")
        ),
    }
}

fn tables(pages: &Observed<CodePages>, private: &Observed<Vec<PrivateKernel>>) -> View {
    let view = View {
        rule: "text-changed".to_owned(),
        subject: "kernel page tables".to_owned(),
        method: "the kernel's page tables against where its image lies, and each process's kernel half against them".to_owned(),
        ..View::default()
    };
    let Some(seen) = pages.value() else {
        return unseen(view, pages);
    };
    let Some(private) = private.value() else {
        return unseen(view, private);
    };
    let displaced = seen.displaced.iter().map(|address| Finding {
        name: format!("page at {address:#x}"),
        what: "the kernel's page tables lead elsewhere than to the kernel's image".to_owned(),
        ..Finding::default()
    });
    let private = private.iter().map(|process| Finding {
        name: format!("page tables of process {} ({})", process.pid, process.comm),
        what: format!(
            "they have a kernel of their own from {:#x} on{}",
            process.address,
            process
                .code
                .as_ref()
                .map_or(String::new(), |code| format!(": other code at {code}"))
        ),
        ..Finding::default()
    });
    let findings: Vec<Finding> = displaced.chain(private).collect();
    View {
        truth: match findings.len() {
            0 => "one kernel for all".to_owned(),
            count => format!("{count} of their own"),
        },
        findings,
        ..view
    }
}

fn unseen<T>(view: View, observed: &Observed<T>) -> View {
    View {
        why_not: Some(observed.why_not().unwrap_or("nothing was seen").to_owned()),
        ..view
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_nobodys_counts_once_nothing_can_be_on_its_way_out() {
        let at = |guest_seconds, ended| First {
            guest_seconds,
            periods: Some(GracePeriods {
                ended,
                is_idle: false,
            }),
        };
        let unasked = |guest_seconds| First {
            guest_seconds,
            periods: None,
        };
        let check = |looks: &[(First, bool)]| {
            let mut known = Known::default();
            let seen: Vec<bool> = looks
                .iter()
                .map(|(now, _)| known.is_settled(7, *now))
                .collect();
            let expected: Vec<bool> = looks.iter().map(|(_, expected)| *expected).collect();
            assert_eq!(seen, expected);
        };
        check(&[(at(1.0, 4), false), (at(1.5, 9), false), (at(2.0, 9), true)]);
        check(&[(at(1.0, 4), false), (at(9.0, 5), false), (at(9.1, 6), true)]);
        check(&[
            (unasked(1.0), false),
            (unasked(3.0), false),
            (unasked(4.0), true),
        ]);
        // A paused guest's time stands still.
        check(&[(at(1.0, 4), false), (at(1.0, 4), false)]);
    }
}
