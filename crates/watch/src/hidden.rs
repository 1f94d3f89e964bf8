//! Several views of the same things in a guest, for verdicts: tasks and modules, and what hides from one of the views.

use insight::hidden::{Depth, HiddenModule, HiddenTask, UnknownSpace};
use insight::modules::Stretch;
use insight::verdict::{Finding, View};
use insight::{Look, Observed};

use crate::views::NOT_CHECKED;

/// The rule about modules, and what the search for their descriptions is about.
const RULE: &str = "hidden-module";
const MODULES: &str = "modules";

/// Tasks: the list that tools walk, the table by number, what runs, the address spaces that vCPUs have loaded and, to the
/// last depth, the memory that tasks are made from.
pub(crate) fn tasks(look: &Look<'_>, depth: Depth) -> View {
    let view = view(
        "hidden-task",
        "processes",
        match depth {
            // Whoever has no registers has not seen which address spaces are loaded.
            _ if look.registers().is_empty() => "list of tasks, table of PIDs, running tasks",
            Depth::Books => "list of tasks, table of PIDs, running tasks, CR3 of each vCPU",
            Depth::Slabs => {
                "list of tasks, table of PIDs, running tasks, CR3 of each vCPU, slabs of tasks"
            }
        },
    );
    let hidden = look.hidden_tasks(depth);
    let spaces = look.unknown_spaces();
    let Observed::Seen { value: hidden, .. } = hidden else {
        return unseen(view, &hidden);
    };
    let task = |task: &HiddenTask| Finding {
        name: format!("task {} ({}) at {:#x}", task.pid, task.comm, task.address),
        what: if task.is_decoy {
            "a task that the list of tasks shows and that was not made where tasks are made: a decoy"
                .to_owned()
        } else {
            format!(
                "a task that not every view shows: list of tasks {}, table of PIDs {}, running {}, slabs {}",
                yes(task.in_list),
                yes(task.in_pid_table),
                yes(task.seen_running),
                yes(task.in_slab)
            )
        },
        ..Finding::default()
    };
    let space = |space: &UnknownSpace| Finding {
        name: format!("address space at {:#x}", space.tables),
        what: format!(
            "vCPU {} runs in an address space that no task has",
            space.vcpu_id
        ),
        ..Finding::default()
    };
    let has_registers = !look.registers().is_empty();
    let why_not = spaces
        .why_not()
        .filter(|_| hidden.is_empty() && has_registers);
    if let Some(why) = why_not {
        return View {
            why_not: Some(format!("address spaces of vCPUs: {why}")),
            ..view
        };
    }
    let spaces = spaces.into_value().unwrap_or_default();
    let findings = hidden
        .iter()
        .map(task)
        .chain(spaces.iter().map(space))
        .collect();
    View {
        findings,
        truth: "all views".to_owned(),
        kernel: "list of tasks".to_owned(),
        ..view
    }
}

/// Tasks could not be looked for in the memory that they are made from.
pub(crate) fn without_slabs(why_not: Option<String>) -> View {
    View {
        why_not: why_not.map(|why| format!("tasks in no book: {why}")),
        ..view(NOT_CHECKED, "tasks in no book", "slabs of tasks")
    }
}

/// Modules: the list, `/sys/module`, and descriptions in executable memory.
/// With it comes where the code of those is that are told.
pub(crate) fn modules(look: &Look<'_>) -> (View, Vec<Stretch>) {
    let view = view(
        RULE,
        MODULES,
        "list of modules, /sys/module, memory where modules are mapped",
    );
    let hidden = look.hidden_modules();
    let Observed::Seen { value: hidden, .. } = hidden else {
        return (unseen(view, &hidden), Vec::new());
    };
    let module = |module: &HiddenModule| Finding {
        name: format!(
            "module {} at {:#x}",
            module.name.as_deref().unwrap_or("without a name"),
            module.address
        ),
        what: format!(
            "a module that not every view shows: list {}, /sys/module {}, {} bytes of it executable",
            yes(module.in_list),
            yes(module.in_sysfs),
            module.executable_bytes
        ),
        ..Finding::default()
    };
    let findings = hidden.iter().map(module).collect();
    let code = hidden.iter().filter_map(|module| module.text).collect();
    let view = View {
        findings,
        truth: "all views".to_owned(),
        kernel: "list of modules".to_owned(),
        ..view
    };
    (view, code)
}

/// Whether the code of a module is still there that left the list.
pub(crate) fn has_module_that_left(view: &View) -> bool {
    view.rule == RULE && !view.findings.is_empty()
}

/// A module that is told by its description is not told again by its code.
pub(crate) fn tell_once(views: &mut Vec<View>) {
    let described: Vec<String> = views
        .iter()
        .filter(|view| view.subject == MODULES)
        .flat_map(|view| &view.findings)
        .filter_map(|finding| Some(finding.name.rsplit_once(" at ")?.0.to_owned()))
        .collect();
    views.retain_mut(|view| {
        let is_other = view.rule != RULE || view.subject == MODULES || view.findings.is_empty();
        view.findings
            .retain(|finding| is_other || !described.contains(&finding.name));
        is_other || !view.findings.is_empty()
    });
}

fn view(rule: &str, subject: &str, method: &str) -> View {
    View {
        rule: rule.to_owned(),
        subject: subject.to_owned(),
        method: method.to_owned(),
        ..View::default()
    }
}

fn unseen<T>(view: View, observed: &Observed<T>) -> View {
    View {
        why_not: Some(observed.why_not().unwrap_or("nothing was seen").to_owned()),
        ..view
    }
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ways_to_the_same_hidden_module_are_one_row() {
        let with = |subject: &str, names: &[&str]| {
            let finding = |name: &&str| Finding {
                name: (*name).to_owned(),
                ..Finding::default()
            };
            View {
                findings: names.iter().map(finding).collect(),
                ..view(RULE, subject, "")
            }
        };
        let check = |left: &[&str], described: &[&str], expected: &[(&str, usize)]| {
            let mut views = vec![with("modules that left", left), with(MODULES, described)];
            tell_once(&mut views);
            let seen: Vec<(&str, usize)> = views
                .iter()
                .map(|view| (view.subject.as_str(), view.findings.len()))
                .collect();
            assert_eq!(seen, expected);
        };
        let left = "modules that left";
        let both = [("modules that left", 1), (MODULES, 1)];
        check(&[], &[], &[(left, 0), (MODULES, 0)]);
        check(
            &["module a"],
            &["module a at 0xffffffffc0000000"],
            &[(MODULES, 1)],
        );
        check(&["module a"], &["module b at 0xffffffffc0000000"], &both);
        check(&["module a", "module b"], &["module b at 0x1"], &both);
        check(&["module a"], &[], &[(left, 1), (MODULES, 0)]);
    }
}
