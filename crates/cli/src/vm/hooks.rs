//! `mother hooks`: where a guest's kernel calls code because somebody asked it to.

use clap::Args;
use insight::hooks::{Hook, HookKind, Hooks, KERNEL};

use super::foreign::{self, MemoryArguments, Target};
use super::observe::{look, seen, watch};
use super::words::{columns, printable};
use crate::answers;
use crate::failure::Failure;
use crate::observed::Observation;
use crate::output::say;

/// `mother hooks`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Tracers, probes, programs of BPF, filters of packets, and chains of notifiers: each is
legal, and OWNER says whose code it calls. What nobody owns is called nobody's. What the
kernel's own code has in such lists is left out without --all, but for tracers and probes.

Examples:
  mother hooks web
  mother hooks --json web | jq -r '.hooks[] | select(.owner == null) | .calls'")]
pub struct HooksArguments {
    /// Which VM
    #[arg(value_name = "NAME", required_unless_present = "memory")]
    name: Option<String>,
    #[command(flatten)]
    memory: MemoryArguments,
    /// The kernel's own too
    #[arg(long)]
    all: bool,
    /// As JSON: all of them
    #[arg(long)]
    json: bool,
}

impl HooksArguments {
    /// The guest whose memory this reads.
    pub fn looks_into(&self) -> Result<Option<Observation>, Failure> {
        foreign::looks_into(self.name.as_deref(), &self.memory)
    }
}

/// Prints the hooks; the exit status.
pub fn hooks(arguments: &HooksArguments) -> Result<u8, Failure> {
    let found = match Target::of(arguments.name.as_deref(), &arguments.memory) {
        Some(target) => foreign::seen(&target, |look| look.hooks())?,
        None => {
            let (name, mut watcher) = watch(arguments.name.as_deref().unwrap_or_default())?;
            look(&name, &mut watcher, |_, look| seen(&name, look.hooks()))?
        }
    };
    if arguments.json {
        say(&answers::text(&found))?;
    } else {
        say(&table(&found, arguments.all))?;
    }
    Ok(0)
}

/// Whether the kernel has it of itself, without anybody's asking.
fn is_usual(hook: &Hook) -> bool {
    let is_list = matches!(hook.kind, HookKind::Netfilter | HookKind::Notifier);
    is_list && hook.owner.as_deref() == Some(KERNEL)
}

fn table(found: &Hooks, is_all: bool) -> String {
    let shown: Vec<&Hook> = found
        .hooks
        .iter()
        .filter(|hook| is_all || !is_usual(hook))
        .collect();
    let left_out = found.hooks.len() - shown.len();
    let rows: Vec<[String; 4]> = shown.into_iter().map(row).collect();
    let mut text = if rows.is_empty() {
        "no hooks\n".to_owned()
    } else {
        columns(&["KIND", "OWNER", "CALLS", "AT"], &rows)
    };
    if left_out > 0 {
        text.push_str(&format!(
            "and {left_out} of the kernel's own: --all shows them\n"
        ));
    }
    for missing in &found.missing {
        text.push_str(&format!("not observable: {}\n", printable(missing)));
    }
    text
}

fn row(hook: &Hook) -> [String; 4] {
    let kind = match hook.kind {
        HookKind::Ftrace => "ftrace",
        HookKind::Kprobe => "kprobe",
        HookKind::Bpf => "bpf",
        HookKind::Netfilter => "netfilter",
        HookKind::Notifier => "notifier",
    };
    let owner = hook.owner.as_deref().unwrap_or("nobody's");
    [
        kind.to_owned(),
        printable(owner),
        printable(&hook.calls),
        printable(&hook.at),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_has_of_itself_is_counted_and_the_rest_shown() {
        let hook = |kind, owner: Option<&str>, calls: &str| Hook {
            kind,
            at: "a \u{1b}[2Jplace".to_owned(),
            calls: calls.to_owned(),
            address: 1,
            owner: owner.map(str::to_owned),
        };
        let found = Hooks {
            hooks: vec![
                hook(HookKind::Ftrace, Some(KERNEL), "function_trace_call"),
                hook(HookKind::Notifier, Some(KERNEL), "usual"),
                hook(HookKind::Netfilter, Some("nf_tables"), "filter"),
                hook(HookKind::Notifier, None, "0x1"),
            ],
            missing: vec!["probes: unreadable".to_owned()],
        };
        let text = table(&found, false);
        for expected in ["function_trace_call", "nf_tables", "nobody's", "and 1 of"] {
            assert!(text.contains(expected), "{text}");
        }
        assert!(
            !text.contains("usual") && !text.contains('\u{1b}'),
            "{text}"
        );
        assert!(
            text.ends_with("not observable: probes: unreadable\n"),
            "{text}"
        );
        assert!(table(&found, true).contains("usual"));
        assert_eq!(table(&Hooks::default(), false), "no hooks\n");
    }
}
