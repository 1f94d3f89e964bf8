//! Who is who in a guest: credentials, threads of the kernel, and whether the kernel still works.

use insight::verdict::{Finding, View};
use insight::{Look, Observed};

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
    vec![credentials, threads]
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
