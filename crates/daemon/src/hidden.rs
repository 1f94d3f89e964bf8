//! Several views of the same things in a guest, for verdicts: tasks and modules, and what hides from one of the views.

use insight::hidden::{Depth, HiddenModule, HiddenTask, UnknownSpace};
use insight::verdict::{Finding, View};
use insight::{Look, Observed};

/// Tasks: the list that tools walk, the table by number, what runs, and the address spaces that vCPUs have loaded.
pub(crate) fn tasks(look: &Look<'_>) -> View {
    let view =
        view("hidden-task", "processes", "list of tasks, table of PIDs, running tasks, CR3 of each vCPU");
    let (hidden, spaces) = (look.hidden_tasks(Depth::Books), look.unknown_spaces());
    let Observed::Seen { value: hidden, .. } = hidden else { return unseen(view, &hidden) };
    let task = |task: &HiddenTask| Finding {
        name: format!("task {} ({}) at {:#x}", task.pid, task.comm, task.address),
        what: format!(
            "a task that not every view shows: list of tasks {}, table of PIDs {}, running {}",
            yes(task.in_list),
            yes(task.in_pid_table),
            yes(task.seen_running)
        ),
        is_certain: false,
    };
    let space = |space: &UnknownSpace| Finding {
        name: format!("address space at {:#x}", space.tables),
        what: format!("vCPU {} runs in an address space that no task has", space.vcpu_id),
        is_certain: false,
    };
    let spaces = spaces.into_value().unwrap_or_default();
    let findings = hidden.iter().map(task).chain(spaces.iter().map(space)).collect();
    View { findings, truth: "all views".to_owned(), kernel: "list of tasks".to_owned(), ..view }
}

/// Modules: the list, `/sys/module`, and descriptions in executable memory.
pub(crate) fn modules(look: &Look<'_>) -> View {
    let view =
        view("hidden-module", "modules", "list of modules, /sys/module, memory where modules are mapped");
    let hidden = look.hidden_modules();
    let Observed::Seen { value: hidden, .. } = hidden else { return unseen(view, &hidden) };
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
        is_certain: false,
    };
    let findings = hidden.iter().map(module).collect();
    View { findings, truth: "all views".to_owned(), kernel: "list of modules".to_owned(), ..view }
}

fn view(rule: &str, subject: &str, method: &str) -> View {
    View { rule: rule.to_owned(), subject: subject.to_owned(), method: method.to_owned(), ..View::default() }
}

fn unseen<T>(view: View, observed: &Observed<T>) -> View {
    View { why_not: Some(observed.why_not().unwrap_or("nothing was seen").to_owned()), ..view }
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}
