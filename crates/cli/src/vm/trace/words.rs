//! Events as a person reads them.

use api::VmName;
use insight::timestamp;
use insight::trace::{Actor, Event, EventKind, Identity, Path, Reach, What};

use crate::vm::words::printable;

/// Ancestors that are named.
const ANCESTORS: usize = 4;

/// How far each kind is told, if not every one is seen exactly.
pub(in crate::vm) fn reaches(name: &VmName, reaches: &[(EventKind, Reach)]) -> Vec<String> {
    let mut lines: Vec<(String, Vec<&str>)> = Vec::new();
    if reaches.iter().all(|(_, reach)| *reach == Reach::Exact) {
        return Vec::new();
    }
    for (kind, reach) in reaches {
        let words = match reach {
            Reach::Exact => "seen exactly".to_owned(),
            Reach::Sampled { missed } => format!("sampled, without {missed}"),
            Reach::NotObservable { why } => format!("not observable: {}", printable(why)),
        };
        match lines.iter_mut().find(|(other, _)| *other == words) {
            Some((_, kinds)) => kinds.push(kind.word()),
            None => lines.push((words, vec![kind.word()])),
        }
    }
    lines
        .into_iter()
        .map(|(words, kinds)| format!("{name}: {}: {words}", kinds.join(", ")))
        .collect()
}

/// One event, with its line's end.
pub(super) fn line(event: &Event) -> String {
    let time = timestamp(event.at_ns);
    // Without the date, and with the time's own end.
    let time = time.get(11..26).unwrap_or(&time);
    let process = event.process.as_ref();
    let who = process.map_or_else(|| "-".to_owned(), |actor| named(actor.pid, &actor.name));
    let mut line = format!(
        "{time} {:<11} {who:<20} {}",
        event.what.kind().word(),
        what(event)
    );
    if let Some(actor) = process {
        line.push_str(&origin(actor));
    }
    line.push('\n');
    line
}

fn named(pid: i32, name: &str) -> String {
    format!("{}({pid})", printable(name))
}

/// Where a process comes from.
fn origin(actor: &Actor) -> String {
    let mut text = String::new();
    for ancestor in actor.ancestors.iter().take(ANCESTORS) {
        text.push_str(&format!(" < {}", named(ancestor.pid, &ancestor.name)));
    }
    if actor.ancestors.len() > ANCESTORS {
        text.push_str(" < ...");
    }
    if let Some(container) = &actor.container {
        let runtime = container.runtime.as_deref().unwrap_or("container");
        let id: String = container.id.chars().take(12).collect();
        text.push_str(&format!(" [{} {}]", printable(runtime), printable(&id)));
    }
    text
}

/// What happened, in words.
pub(super) fn what(event: &Event) -> String {
    match &event.what {
        What::Exec { .. } => program(event),
        What::Fork { child_pid, .. } => format!("process {child_pid}"),
        What::Exit {
            status,
            signal,
            has_core,
        } => ended(*status, *signal, *has_core),
        What::Credentials { new } => {
            let old = event.process.as_ref().and_then(|actor| actor.identity);
            credentials(old, *new)
        }
        What::Module {
            module, parameters, ..
        } => match parameters
            .as_deref()
            .filter(|parameters| !parameters.is_empty())
        {
            Some(parameters) => format!("{} {}", printable(module), printable(parameters)),
            None => printable(module),
        },
        What::Connect { address, .. } => printable(&format!("to {address}")),
        What::Bind { address, .. } => printable(&format!("at {address}")),
        What::Accept { peer, own } => format!("from {peer} at {own}"),
        What::Open { file, access } => format!("{} to {access}", shown(file)),
        What::Mount {
            source,
            at,
            file_system,
        } => {
            let parts = [file_system, source].into_iter().flatten();
            let parts = parts.filter(|part| !part.is_empty());
            let parts: String = parts.map(|part| printable(part) + " ").collect();
            format!("{parts}at {}", shown(at))
        }
        What::Ptrace { target } => named(target.pid, &target.name),
        What::Bpf {
            program,
            program_type,
            instructions,
        } => {
            let name = if program.is_empty() {
                "a program without a name".to_owned()
            } else {
                printable(program)
            };
            format!("{name}, type {program_type}, {instructions} instructions")
        }
        What::Log { level, text, .. } => format!("<{level}> {}", printable(text)),
        What::Panic { format } => printable(
            format
                .as_deref()
                .unwrap_or("the kernel gives up")
                .trim_end(),
        ),
    }
}

/// A program and its arguments.
fn program(event: &Event) -> String {
    let What::Exec {
        executable,
        given,
        interpreter,
        arguments,
    } = &event.what
    else {
        return String::new();
    };
    let program = executable.as_ref().map(|file| file.path.as_str());
    let mut text = printable(program.or(given.as_deref()).unwrap_or("?"));
    if interpreter.is_some()
        && let Some(given) = given
    {
        text.push_str(&format!(" for {}", printable(given)));
    }
    // A program that is several by its name (busybox) says which it is here.
    let own_name = arguments.first().and_then(|word| word.rsplit('/').next());
    let file_name = text.rsplit('/').next();
    if let Some(name) = own_name.filter(|name| Some(*name) != file_name && !name.is_empty()) {
        text.push_str(&format!(" ({})", printable(name)));
    }
    for word in arguments.iter().skip(1) {
        text.push_str(&format!(" {}", quoted(word)));
    }
    if let Some(identity) = event.process.as_ref().and_then(|actor| actor.identity)
        && identity.effective_uid != 0
    {
        text.push_str(&format!(", user {}", identity.effective_uid));
    }
    text
}

fn ended(status: Option<i32>, signal: Option<i32>, has_core: bool) -> String {
    match (status, signal) {
        (Some(status), _) => format!("status {status}"),
        (None, Some(signal)) if has_core => format!("signal {signal}, with a core dump"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

fn shown(file: &Path) -> String {
    printable(&file.path)
}

/// An argument as a shell would take it, if it needs that.
fn quoted(word: &str) -> String {
    let is_plain = !word.is_empty()
        && word
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_./=:,+@%".contains(&byte));
    if is_plain {
        word.to_owned()
    } else {
        format!("'{}'", printable(word).replace('\'', r"'\''"))
    }
}

fn credentials(old: Option<Identity>, new: Option<Identity>) -> String {
    let (Some(old), Some(new)) = (old, new) else {
        return "changed".to_owned();
    };
    let mut parts = Vec::new();
    let mut change = |what: &str, old: u32, new: u32| {
        if old != new {
            parts.push(format!("{what} {old} -> {new}"));
        }
    };
    change("user", old.uid, new.uid);
    change("effective user", old.effective_uid, new.effective_uid);
    change("group", old.gid, new.gid);
    change("effective group", old.effective_gid, new.effective_gid);
    if old.capabilities != new.capabilities {
        parts.push(format!(
            "capabilities {:x} -> {:x}",
            old.capabilities, new.capabilities
        ));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use insight::trace::{Ancestor, SocketAddress};

    use super::*;

    fn event(what: What) -> Event {
        Event {
            at_ns: 951_868_799_123_456_789,
            vcpu: Some(0),
            reach: Reach::Exact,
            process: Some(Actor {
                pid: 812,
                tid: 812,
                name: "s\u{1b}h".to_owned(),
                is_kernel: false,
                started_ns: 0,
                identity: Some(Identity {
                    uid: 0,
                    effective_uid: 33,
                    gid: 0,
                    effective_gid: 0,
                    capabilities: 0,
                }),
                ancestors: vec![Ancestor {
                    pid: 1,
                    name: "init".to_owned(),
                }],
                cgroup: None,
                container: None,
            }),
            what,
        }
    }

    #[test]
    fn events_are_lines_and_a_guests_words_cannot_leave_them() {
        let check = |what: What, expected: &str| {
            let text = line(&event(what));
            let rest = text.strip_prefix("23:59:59.123456 ").unwrap();
            let words: Vec<&str> = rest.split_whitespace().collect();
            assert_eq!(words.join(" "), expected);
            assert!(text.ends_with('\n') && text.lines().count() == 1);
        };
        let strings = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        check(
            What::Exec {
                executable: Some(Path {
                    path: "/bin/ls".to_owned(),
                    is_nameless: false,
                }),
                given: Some("ls".to_owned()),
                interpreter: None,
                arguments: strings(&["ls", "-l", "a b\n", ""]),
            },
            "exec s\u{fffd}h(812) /bin/ls -l 'a b\u{fffd}' '', user 33 < init(1)",
        );
        check(
            What::Exit {
                status: None,
                signal: Some(11),
                has_core: true,
            },
            "exit s\u{fffd}h(812) signal 11, with a core dump < init(1)",
        );
        check(
            What::Credentials {
                new: Some(Identity {
                    uid: 0,
                    effective_uid: 0,
                    gid: 0,
                    effective_gid: 0,
                    capabilities: 0x3f,
                }),
            },
            "credentials s\u{fffd}h(812) effective user 33 -> 0, capabilities 0 -> 3f < init(1)",
        );
        check(
            What::Connect {
                address: SocketAddress::Unix {
                    path: "/run/\u{7}x".to_owned(),
                },
                socket_type: 1,
            },
            "connect s\u{fffd}h(812) to unix /run/\u{fffd}x < init(1)",
        );
        check(
            What::Mount {
                source: None,
                at: Path {
                    path: "/mnt".to_owned(),
                    is_nameless: false,
                },
                file_system: Some("tmpfs".to_owned()),
            },
            "mount s\u{fffd}h(812) tmpfs at /mnt < init(1)",
        );
    }

    #[test]
    fn what_cannot_be_told_is_said_once_for_each_reason() {
        let name = VmName::new("web").unwrap();
        let why = || Reach::NotObservable {
            why: "no".to_owned(),
        };
        let lines = reaches(
            &name,
            &[
                (EventKind::Exec, Reach::Exact),
                (EventKind::Bpf, why()),
                (EventKind::Mount, why()),
            ],
        );
        let expected = [
            "web: exec: seen exactly",
            "web: bpf, mount: not observable: no",
        ];
        assert_eq!(lines, expected);
        let lines = reaches(&name, &[(EventKind::Exec, Reach::Exact)]);
        assert!(lines.is_empty(), "all is as one thinks: {lines:?}");
    }
}
