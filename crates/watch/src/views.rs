//! What verdicts say about things that must stay as they were: where the kernel is entered, its tables, its code.

use std::path::Path;

use insight::integrity::{FindingKind, Integrity, Scope};
use insight::verdict::{Finding, View};
use insight::{Kernel, Loaded, Look, NotRecognised, Observed};

/// The rule of checks that could not be made.
pub(crate) const NOT_CHECKED: &str = "not-checked";

/// How the kernel is compared with what it was, by kinds of findings.
struct Kind {
    rule: &'static str,
    subject: &'static str,
    method: &'static str,
    kinds: &'static [FindingKind],
}

const KINDS: [Kind; 4] = [
    Kind {
        rule: "entry-changed",
        subject: "kernel entries",
        method: "registers, interrupt descriptor table and code of system calls, by symbol and against the first look",
        kinds: &[
            FindingKind::Register,
            FindingKind::InterruptTable,
            FindingKind::SyscallPath,
        ],
    },
    Kind {
        rule: "table-changed",
        subject: "kernel tables and constants",
        method: "SHA-256 of pages against the kernel file or the first look, and entries by symbol",
        kinds: &[
            FindingKind::SyscallTable,
            FindingKind::PatchTable,
            FindingKind::Constants,
        ],
    },
    Kind {
        rule: "text-changed",
        subject: "kernel code",
        method: "SHA-256 of pages against the kernel file or, of modules, the first look; legal patching told apart by the kernel's own tables",
        kinds: &[
            FindingKind::KernelText,
            FindingKind::ModuleText,
            FindingKind::ProgramText,
            FindingKind::KernelReplaced,
        ],
    },
    Kind {
        rule: "hidden-module",
        subject: "modules that left",
        method: "code of modules that are not in the list any more",
        kinds: &[FindingKind::HiddenModule],
    },
];

/// The kernel that runs beside the one that was loaded.
pub(crate) fn identity(
    kernel: Result<&Kernel, &NotRecognised>,
    loaded: Result<&Loaded, &str>,
) -> View {
    let view = View {
        rule: "kernel-identity".to_owned(),
        subject: "kernel".to_owned(),
        method: "what registers lead to and what it says of itself, against the kernel file that was loaded".to_owned(),
        truth: loaded.map_or_else(str::to_owned, |loaded| loaded.profile().release().to_owned()),
        ..View::default()
    };
    let kernel = match kernel {
        Ok(kernel) => kernel,
        Err(not) => {
            return View {
                why_not: Some(not.to_string()),
                ..view
            };
        }
    };
    let replaced = kernel.replaces().map(|before| Finding {
        name: "another kernel".to_owned(),
        what: format!(
            "{} became {}, without a reset (kexec?): {before}; {}",
            before.split(' ').nth(2).unwrap_or_default(),
            kernel.release(),
            kernel.banner()
        ),
        is_certain: true,
        ..Finding::default()
    });
    let disputes = kernel.disputes().iter().map(|dispute| Finding {
        name: dispute.clone(),
        what: "what the kernel says of itself is not what it is".to_owned(),
        ..Finding::default()
    });
    let findings: Vec<Finding> = replaced.into_iter().chain(disputes).collect();
    // Then the guest's own memory is all that tells which kernel it is.
    let why_not = loaded.err().filter(|_| findings.is_empty());
    View {
        kernel: kernel.release().to_owned(),
        why_not: why_not.map(str::to_owned),
        findings,
        ..view
    }
}

/// Compares the guest's kernel with the baseline in `folder`. What could not be checked is told behind what was.
/// With it come pages of the kernel's code that were written and are what they were.
pub(crate) fn integrity(
    look: &Look<'_>,
    folder: &Path,
    life: &str,
    scope: Scope<'_>,
) -> (Vec<View>, Vec<u64>) {
    let seen = look.integrity(folder, life, scope);
    let mut views: Vec<View> = KINDS.iter().map(|kind| view(kind, &seen)).collect();
    views.extend(seen.value().and_then(not_checked));
    let rewritten = seen.value().map(|value| value.rewritten.clone());
    (views, rewritten.unwrap_or_default())
}

/// Checks that could not be made.
fn not_checked(integrity: &Integrity) -> Option<View> {
    let reasons = &integrity.not_checked;
    (!reasons.is_empty()).then(|| View {
        rule: NOT_CHECKED.to_owned(),
        subject: "other checks of the kernel".to_owned(),
        why_not: Some(reasons.join("; ")),
        method: "every check that there is".to_owned(),
        ..View::default()
    })
}

fn view(kind: &Kind, seen: &Observed<Integrity>) -> View {
    let view = View {
        rule: kind.rule.to_owned(),
        subject: kind.subject.to_owned(),
        method: kind.method.to_owned(),
        ..View::default()
    };
    let integrity = match seen {
        Observed::Seen { value, .. } => value,
        Observed::NotObservable { why } => {
            return View {
                why_not: Some(why.clone()),
                ..view
            };
        }
    };
    let findings = integrity
        .findings
        .iter()
        .filter(|finding| kind.kinds.contains(&finding.kind));
    let findings: Vec<Finding> = findings
        .map(|finding| Finding {
            name: finding.subject.clone(),
            what: what(finding),
            // It was looked at again before it was told.
            is_certain: true,
            ..Finding::default()
        })
        .collect();
    View {
        truth: truth(kind, integrity, findings.len()),
        findings,
        ..view
    }
}

fn truth(kind: &Kind, integrity: &Integrity, count: usize) -> String {
    match (count, integrity.is_first, kind.rule) {
        (0, _, "text-changed") if integrity.is_by_file && integrity.patch_count == 0 => {
            "as in its file".to_owned()
        }
        (0, true, _) => "seen for the first time".to_owned(),
        (0, _, "text-changed") if integrity.patch_count > 0 => {
            format!(
                "as it was, {} places patched legally",
                integrity.patch_count
            )
        }
        (0, ..) => "as it was".to_owned(),
        (count, ..) => format!("{count} changed"),
    }
}

fn what(finding: &insight::integrity::Finding) -> String {
    let bytes = match (&finding.before, &finding.after) {
        (Some(before), Some(after)) => format!(" ({before} before, {after} now)"),
        (None, Some(after)) => format!(" ({after})"),
        _ => String::new(),
    };
    format!("{} {}{bytes}", finding.subject, finding.what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(integrity: Integrity) -> Vec<View> {
        let seen = Observed::Seen {
            value: integrity,
            rung: insight::Rung::Image,
        };
        KINDS.iter().map(|kind| view(kind, &seen)).collect()
    }

    #[test]
    fn each_finding_is_told_in_the_view_of_its_kind_and_in_no_other() {
        let check = |kind, expected: &str| {
            let finding = insight::integrity::Finding {
                kind,
                subject: "thing".to_owned(),
                what: "changed".to_owned(),
                address: None,
                before: None,
                after: Some("cc".to_owned()),
            };
            let views = seen(Integrity {
                findings: vec![finding],
                ..Integrity::default()
            });
            let told: Vec<&str> = views
                .iter()
                .filter(|view| !view.findings.is_empty())
                .map(|view| view.rule.as_str())
                .collect();
            assert_eq!(told, [expected], "{kind:?}");
            let all: Vec<&Finding> = views.iter().flat_map(|view| &view.findings).collect();
            assert_eq!(all[0].what, "thing changed (cc)");
        };
        use FindingKind as K;
        check(K::Register, "entry-changed");
        check(K::InterruptTable, "entry-changed");
        check(K::SyscallPath, "entry-changed");
        check(K::SyscallTable, "table-changed");
        check(K::PatchTable, "table-changed");
        check(K::Constants, "table-changed");
        check(K::ProgramText, "text-changed");
        check(K::KernelText, "text-changed");
        check(K::ModuleText, "text-changed");
        check(K::KernelReplaced, "text-changed");
        check(K::HiddenModule, "hidden-module");
    }

    #[test]
    fn a_check_that_could_not_be_made_is_a_view_of_its_own() {
        let with = |reasons: &[&str]| {
            not_checked(&Integrity {
                not_checked: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
                ..Integrity::default()
            })
        };
        assert_eq!(with(&[]), None);
        let view = with(&["registers: none", "modules: unread"]).unwrap();
        assert_eq!(
            view.why_not.as_deref(),
            Some("registers: none; modules: unread")
        );
    }

    #[test]
    fn a_kernel_that_is_not_recognised_is_not_observable() {
        let not = NotRecognised {
            tried: vec!["by registers: nothing".to_owned()],
            banner: None,
        };
        let view = identity(Err(&not), Err("the kernel file is gone"));
        assert_eq!(
            view.why_not.as_deref(),
            Some("no Linux kernel was recognised: by registers: nothing")
        );
        assert_eq!(view.truth, "the kernel file is gone");
    }
}
