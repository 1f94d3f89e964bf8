//! What was read of a guest's memory, for people and for programs.

use insight::{Look, Observed};

use super::words::printable;
use super::{connections, process_table};
use crate::answers::InsideGuest;

/// All of it, for programs.
pub(super) fn inside_guest(look: &Look<'_>) -> InsideGuest {
    InsideGuest {
        system: look.system(),
        memory: look.memory_counters(),
        cpu: look.cpu_times(),
        processes: look.processes(),
        modules: look.modules(),
        sockets: look.sockets(),
        mounts: look.mounts(),
        entries: look.entry_points(),
        log: look.kernel_log(),
    }
}

/// What people want to see of it.
pub(super) fn inside(look: &Look<'_>) -> String {
    let system = look.system();
    let show = |observed: &Observed<String>| match observed {
        Observed::Seen { value, .. } => printable(value),
        Observed::NotObservable { why } => format!("not observable: {}", printable(why)),
    };
    let mut text = format!(
        "\nhost     {}\ncmdline  {}\n",
        show(&system.hostname),
        show(&system.command_line)
    );
    if let Some([one, five, fifteen]) = system.load.value() {
        text.push_str(&format!("load     {one:.2} {five:.2} {fifteen:.2}\n"));
    }
    let modules = look.modules();
    match modules.value() {
        Some(modules) => {
            let names: Vec<String> = modules
                .iter()
                .map(|module| printable(&module.name))
                .collect();
            text.push_str(&format!("modules  {}: {}\n", names.len(), names.join(" ")));
        }
        None => text.push_str(&format!(
            "modules  not observable: {}\n",
            modules.why_not().unwrap_or_default()
        )),
    }
    match look.processes() {
        Observed::Seen { value, .. } => {
            text.push_str(&format!("\n{}", process_table::table(&value)))
        }
        Observed::NotObservable { why } => text.push_str(&format!(
            "\nprocesses not observable: {}\n",
            printable(&why)
        )),
    }
    text + &format!(
        "\n{}\n{}",
        connections::sockets(look),
        connections::mounts(look)
    )
}
