//! What verdicts say about things that must stay as they were: where the kernel is entered, its tables, its code.

use std::path::Path;

use insight::integrity::{FindingKind, Integrity, Scope};
use insight::verdict::{Finding, View};
use insight::{Look, Observed};

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
        subject: "kernel tables",
        method: "SHA-256 of pages against the first look, and entries by symbol",
        kinds: &[FindingKind::SyscallTable, FindingKind::PatchTable],
    },
    Kind {
        rule: "text-changed",
        subject: "kernel code",
        method: "SHA-256 of pages against the first look, legal patching told apart by the kernel's own tables",
        kinds: &[
            FindingKind::KernelText,
            FindingKind::ModuleText,
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

/// Compares the guest's kernel with the baseline in `folder`.
pub(crate) fn integrity(look: &Look<'_>, folder: &Path, life: &str, scope: Scope<'_>) -> Vec<View> {
    let seen = look.integrity(folder, life, scope);
    KINDS.iter().map(|kind| view(kind, &seen)).collect()
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
