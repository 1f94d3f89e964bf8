//! A container of the host: what it sees, what its control group lets it have, what the host holds for it, and which of its
//! processes its own tools do not show.
//!
//! A container has the host's kernel, and most of what that says is of the whole host: `/proc/meminfo`, the load, the number
//! of CPUs. What it may have is in its control group, which few programs ask.
//!
//! Taking down ([`ContainerTexts::gather`]) is apart from reading ([`ContainerTexts::judge`]): the names of its processes and their
//! command lines are the container's words, and who reads those needs no rights. What is taken down is numbers of the kernel's
//! (processes, users, namespaces, the control group's books) and texts as they are.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use fleet::foreign::{Cgroup, CgroupBooks, Foreign, pids};
use insight::amounts::{size, time};
use insight::verdict::{Confidence, Row, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most processes of one container that are told.
const PROCESSES_MAX: usize = 1 << 16;
/// Longest text of `/proc` that is read.
const TEXT_MAX: u64 = 1 << 20;
/// Most bytes of all words of its processes that are kept; written as JSON they take up to six times that.
const WORDS_BYTES_MAX: usize = 32 << 20;
/// What is believed and what may be had are the same within this part.
const PART: u64 = 20;

/// A process of a container.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct ContainerProcess {
    /// Its number on the host.
    pub pid: u32,
    /// Its number in the container, where that has numbers of its own.
    pub inner_pid: Option<u32>,
    /// The number of its user, on the host.
    pub uid: u32,
    /// Memory of it that is there.
    pub resident_bytes: Option<u64>,
    /// Its command line, or its name in brackets.
    pub command: String,
    /// Whether the container's own tools show it: it is in the container's PID namespace, or in one below that.
    pub is_shown: bool,
    /// Whether it is in the container's control group, and so is counted and limited with it.
    pub is_in_cgroup: bool,
}

/// A container at one moment.
pub struct ContainerTruth {
    /// What it sees, what it may have, what the host holds, and what comes of it.
    pub rows: Vec<Row>,
    /// What is in its control group's books.
    pub cgroup: CgroupBooks,
    /// Its processes.
    pub processes: Vec<ContainerProcess>,
    /// What is not known, and why.
    pub missing: Vec<String>,
}

/// What a container sees.
#[derive(Clone, Copy, Debug, Default)]
struct Sees {
    memory_bytes: Option<u64>,
    cpus: Option<u32>,
    load: Option<f64>,
    /// Whether somebody put files of its own over the host's (lxcfs).
    has_own_view: bool,
}

fn text(path: impl AsRef<Path>) -> Option<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = fs::File::open(path).ok()?;
    file.take(TEXT_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn line<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .map(str::trim)
}

/// What the host says of a process of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ProcessTexts {
    pid: u32,
    uid: u32,
    /// The number of its PID namespace.
    space: Option<u64>,
    is_in_cgroup: bool,
    status: String,
    command_line: String,
}

/// What the host says of a container at one moment: numbers and texts that nobody has read, because processes of the
/// container have words in them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerTexts {
    found: Foreign,
    books: CgroupBooks,
    meminfo: String,
    loadavg: String,
    /// Of its first process.
    mountinfo: String,
    status: String,
    /// The number of the PID namespace of who looks.
    host_space: Option<u64>,
    /// The container's own, and the `status` of a process in it.
    own: Option<(u64, String)>,
    processes: Vec<ProcessTexts>,
    /// Processes of which there was no room for words.
    left_out: usize,
}

impl ContainerTexts {
    /// Takes down what there is.
    ///
    /// # Errors
    /// If it has ended, or its control group is not mounted here.
    pub fn gather(found: &Foreign) -> io::Result<ContainerTexts> {
        let path = found.cgroup.as_deref().unwrap_or_default();
        let pid = found.pid;
        let cgroup = Cgroup::of(pid, path).ok_or(io::ErrorKind::NotFound)?;
        let of_first = |name: &str| text(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let mut texts = ContainerTexts {
            found: found.clone(),
            books: cgroup.books(),
            meminfo: text("/proc/meminfo").unwrap_or_default(),
            loadavg: text("/proc/loadavg").unwrap_or_default(),
            mountinfo: of_first("mountinfo"),
            status: of_first("status"),
            host_space: namespace(std::process::id()),
            own: None,
            processes: Vec::new(),
            left_out: 0,
        };
        texts.gather_processes(&cgroup.processes());
        Ok(texts)
    }

    fn gather_processes(&mut self, in_cgroup: &BTreeSet<u32>) {
        // The container's own namespace is the one of its first process that has not the host's.
        let mut candidates = std::iter::once(self.found.pid).chain(in_cgroup.iter().copied());
        self.own = candidates.find_map(|pid| {
            let space = namespace(pid).filter(|space| Some(*space) != self.host_space)?;
            Some((
                space,
                text(format!("/proc/{pid}/status")).unwrap_or_default(),
            ))
        });
        let space = self.own.as_ref().map(|(space, _)| *space);
        let in_space: BTreeSet<u32> = match space {
            Some(space) => pids()
                .into_iter()
                .filter(|pid| namespace(*pid) == Some(space))
                .collect(),
            None => BTreeSet::new(),
        };
        let mut room = WORDS_BYTES_MAX;
        for pid in in_cgroup.union(&in_space).take(PROCESSES_MAX) {
            let Some(process) = process_texts(*pid, in_cgroup.contains(pid)) else {
                continue;
            };
            let bytes = process.status.len() + process.command_line.len();
            match room.checked_sub(bytes) {
                Some(left) => {
                    room = left;
                    self.processes.push(process);
                }
                None => self.left_out += 1,
            }
        }
    }

    /// What was found of it.
    pub fn found(&self) -> &Foreign {
        &self.found
    }

    /// Reads them.
    pub fn judge(&self) -> ContainerTruth {
        let sees = self.sees();
        let processes = self.processes();
        let mut rows = vec![
            memory(&sees, &self.books),
            cpus(&sees, &self.books),
            load(&sees, &processes),
        ];
        rows.push(limit(&self.books));
        rows.extend(hidden(&processes));
        ContainerTruth {
            rows,
            cgroup: self.books,
            processes,
            missing: self.missing(),
        }
    }

    fn missing(&self) -> Vec<String> {
        let hides = self.own.is_none().then(|| {
            "processes that it hides: it has no PID namespace of its own, or that may not be seen (CAP_SYS_PTRACE)"
                .to_owned()
        });
        let left_out = (self.left_out > 0).then(|| {
            format!(
                "{} of its processes: the words of the others are {} already",
                self.left_out,
                size(WORDS_BYTES_MAX as u64)
            )
        });
        hides.into_iter().chain(left_out).collect()
    }

    fn sees(&self) -> Sees {
        let has_own_view = self
            .mountinfo
            .lines()
            .any(|line| line.split(' ').nth(4) == Some("/proc/meminfo"));
        let total = line(&self.meminfo, "MemTotal:");
        let total = total.and_then(|rest| rest.split(' ').next()?.parse().ok());
        let load = self.loadavg.split(' ').next();
        Sees {
            memory_bytes: total.map(|kilobytes: u64| kilobytes.saturating_mul(1024)),
            cpus: line(&self.status, "Cpus_allowed_list:").map(count_list),
            load: load.and_then(|load| load.parse().ok()),
            has_own_view,
        }
    }

    fn processes(&self) -> Vec<ContainerProcess> {
        let own = self.own.as_ref();
        let depth = own.map_or(0, |(_, status)| numbers(status).len());
        let space = own.map(|(space, _)| *space);
        let process = |one: &ProcessTexts| {
            let numbers = numbers(&one.status);
            let is_below = numbers.len() > depth && one.space != self.host_space;
            let is_own = one.space.is_none() || one.space == space;
            let resident = line(&one.status, "VmRSS:");
            let resident = resident.and_then(|rest| rest.split(' ').next()?.parse().ok());
            let inner_pid = depth.checked_sub(1).and_then(|at| numbers.get(at));
            ContainerProcess {
                pid: one.pid,
                inner_pid: inner_pid.filter(|_| space.is_some()).copied(),
                uid: one.uid,
                resident_bytes: resident.map(|kilobytes: u64| kilobytes.saturating_mul(1024)),
                command: command(&one.command_line, &one.status),
                is_shown: space.is_none() || is_own || is_below,
                is_in_cgroup: one.is_in_cgroup,
            }
        };
        self.processes.iter().map(process).collect()
    }
}

/// None if it is gone.
fn process_texts(pid: u32, is_in_cgroup: bool) -> Option<ProcessTexts> {
    Some(ProcessTexts {
        pid,
        uid: fs::metadata(format!("/proc/{pid}")).ok()?.uid(),
        space: namespace(pid),
        is_in_cgroup,
        status: text(format!("/proc/{pid}/status"))?,
        command_line: text(format!("/proc/{pid}/cmdline")).unwrap_or_default(),
    })
}

/// How many numbers are in a list such as `0-3,7`.
fn count_list(list: &str) -> u32 {
    let one = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: u32 = first.parse().ok()?;
        let last: u32 = last.parse().ok()?;
        Some(last.saturating_sub(first).saturating_add(1))
    };
    list.trim()
        .split(',')
        .filter_map(one)
        .fold(0, u32::saturating_add)
}

fn row(rule: &str, subject: &str, method: &str) -> Row {
    Row {
        confidence: Confidence::High,
        ..Row::begun(rule, subject, method)
    }
}

/// What it believes to have beside what it may have, and what it has.
fn memory(sees: &Sees, books: &CgroupBooks) -> Row {
    let no_limit = || "no limit".to_owned();
    let row = Row {
        claim: match sees.has_own_view {
            true => Some("a view of its own".to_owned()),
            false => sees.memory_bytes.map(size),
        },
        kernel: Some(books.memory_max_bytes.map_or_else(no_limit, size)),
        truth: books
            .memory_bytes
            .map(|held| format!("{} held", size(held))),
        ..row(
            "container-memory",
            "memory",
            "what /proc/meminfo shows it against the limit of its control group and what is charged to that",
        )
    };
    if books.memory_bytes.is_none() {
        return row.is(
            Verdict::NotObservable,
            "no memory controller is mounted for it here",
        );
    }
    if sees.has_own_view {
        return row.is(
            Verdict::Agrees,
            "somebody shows it a /proc/meminfo of its own (lxcfs)",
        );
    }
    match (sees.memory_bytes, books.memory_max_bytes) {
        (Some(seen), Some(max)) if max < seen - seen / PART => {
            let row = Row {
                difference: Some(size(seen - max)),
                ..row
            };
            row.is(Verdict::Contradicts,
                "it sees the whole host's memory and may have less: what sizes itself by /proc/meminfo takes too much",
            )
        }
        _ => row.is(Verdict::Agrees, "what it sees it may have"),
    }
}

fn cpus(sees: &Sees, books: &CgroupBooks) -> Row {
    let row = Row {
        claim: sees.cpus.map(|cpus| cpus.to_string()),
        kernel: Some(
            books
                .cpus
                .map_or("no limit".to_owned(), |cpus| format!("{cpus:.2}")),
        ),
        truth: books
            .throttled_seconds
            .map(|held| format!("{} held back", time(held))),
        ..row(
            "container-cpus",
            "CPUs",
            "what nproc counts against the quota of its control group and how long that held it back",
        )
    };
    let (Some(seen), Some(may)) = (sees.cpus, books.cpus) else {
        return row.is(Verdict::Agrees, "what it sees it may use");
    };
    if f64::from(seen) > may * (1.0 + 1.0 / PART as f64) {
        let row = Row {
            difference: Some(format!("{:.2}", f64::from(seen) - may)),
            ..row
        };
        return row.is(
            Verdict::Contradicts,
            "it sees more CPUs than it may use: with a thread for each it is held back",
        );
    }
    row.is(Verdict::Agrees, "what it sees it may use")
}

fn load(sees: &Sees, processes: &[ContainerProcess]) -> Row {
    let row = Row {
        claim: sees.load.map(|load| format!("{load:.2}")),
        truth: Some(format!("{} processes", processes.len())),
        ..row(
            "container-load",
            "load",
            "/proc/loadavg, which is the whole host's",
        )
    };
    match sees.has_own_view {
        true => row.is(Verdict::Agrees,
            "somebody shows it a /proc of its own (lxcfs)",
        ),
        false => row.is(Verdict::Costs,
            "the load that it sees is the whole host's: it cannot tell whether it is the one who is busy",
        ),
    }
}

/// Whether it runs into its limit.
fn limit(books: &CgroupBooks) -> Row {
    let count = |value: Option<u64>, word: &str| value.map(|value| format!("{value} {word}"));
    let pressure = books
        .memory_pressure
        .map(|percent| format!("{percent:.1} % of the time waiting for memory"));
    let told: Vec<String> = [
        count(books.memory_limit_hits, "times at its limit"),
        count(books.killed, "killed"),
        pressure,
    ]
    .into_iter()
    .flatten()
    .collect();
    let row = Row {
        kernel: books.memory_max_bytes.map(size),
        truth: (!told.is_empty()).then(|| told.join(", ")),
        ..row(
            "container-limit",
            "memory limit",
            "the events of its control group",
        )
    };
    let has_hit = books.memory_limit_hits.unwrap_or(0) > 0 || books.killed.unwrap_or(0) > 0;
    match has_hit {
        true => row.is(Verdict::Costs,
            "it ran into its limit: memory was taken from it or a process killed, which /proc/meminfo does not tell it",
        ),
        false => row.is(Verdict::Agrees, "it never ran into its limit"),
    }
}

/// Processes that its tools do not show, and those that its limits do not reach.
fn hidden(processes: &[ContainerProcess]) -> Vec<Row> {
    let names = |all: Vec<&ContainerProcess>| {
        let names = all.iter().take(8);
        let names = names.map(|one| format!("{} ({})", one.pid, one.command));
        names.collect::<Vec<_>>().join(", ")
    };
    let unseen: Vec<&ContainerProcess> = processes.iter().filter(|one| !one.is_shown).collect();
    let outside: Vec<&ContainerProcess> =
        processes.iter().filter(|one| !one.is_in_cgroup).collect();
    let shown = processes.len() - unseen.len();
    let base = Row {
        kernel: Some(format!("{shown} shown")),
        truth: Some(format!("{} there", processes.len())),
        ..row(
            "container-hidden",
            "processes",
            "processes of its control group against those of its PID namespace",
        )
    };
    let first = if unseen.is_empty() {
        base.is(Verdict::Agrees, "its own tools show all of them")
    } else {
        let meaning = format!("its own tools do not show {}", names(unseen));
        base.is(Verdict::Contradicts, &meaning)
    };
    let mut rows = vec![first];
    if !outside.is_empty() {
        let meaning = format!(
            "in its namespaces and not in its control group, so neither counted nor limited: {}",
            names(outside)
        );
        let row = row(
            "container-outside",
            "processes outside",
            "processes of its PID namespace against those of its control group",
        );
        rows.push(row.is(Verdict::Costs, &meaning));
    }
    rows
}

/// Numbers of a process in PID namespaces, from the host's to its own (`NSpid` in `/proc/PID/status`).
fn numbers(status: &str) -> Vec<u32> {
    let line = line(status, "NSpid:").unwrap_or_default();
    line.split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect()
}

fn namespace(pid: u32) -> Option<u64> {
    // Following the link leads to the namespace itself.
    Some(fs::metadata(format!("/proc/{pid}/ns/pid")).ok()?.ino())
}

fn command(command_line: &str, status: &str) -> String {
    let words = command_line.trim_end_matches('\0').replace('\0', " ");
    match words.is_empty() {
        true => format!("[{}]", line(status, "Name:").unwrap_or_default()),
        false => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_may_have_less_than_it_sees_is_contradicted() {
        let sees = Sees {
            memory_bytes: Some(24 << 30),
            cpus: Some(8),
            load: Some(3.0),
            has_own_view: false,
        };
        let books = CgroupBooks {
            memory_bytes: Some(480 << 20),
            memory_max_bytes: Some(512 << 20),
            cpus: Some(0.5),
            memory_limit_hits: Some(7),
            ..CgroupBooks::default()
        };
        let check = |row: Row, expected| assert_eq!(row.verdict, expected, "{row:?}");
        check(memory(&sees, &books), Verdict::Contradicts);
        check(cpus(&sees, &books), Verdict::Contradicts);
        check(limit(&books), Verdict::Costs);
        let free = CgroupBooks {
            memory_bytes: Some(1),
            ..CgroupBooks::default()
        };
        check(memory(&sees, &free), Verdict::Agrees);
        check(cpus(&sees, &free), Verdict::Agrees);
        check(
            memory(&sees, &CgroupBooks::default()),
            Verdict::NotObservable,
        );
        let own = Sees {
            has_own_view: true,
            ..sees
        };
        check(memory(&own, &books), Verdict::Agrees);
        check(load(&own, &[]), Verdict::Agrees);
    }

    #[test]
    fn a_process_that_its_tools_do_not_show_is_a_contradiction() {
        let process = |pid, is_shown, is_in_cgroup| ContainerProcess {
            pid,
            inner_pid: None,
            uid: 0,
            resident_bytes: None,
            command: "sleep".to_owned(),
            is_shown,
            is_in_cgroup,
        };
        let all = [
            process(7, true, true),
            process(8, false, true),
            process(9, true, false),
        ];
        let rows = hidden(&all);
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].verdict, Verdict::Contradicts);
        assert!(rows[0].meaning.contains("8 (sleep)") && !rows[0].meaning.contains('7'));
        assert!(rows[1].meaning.contains("9 (sleep)"));
        assert_eq!(hidden(&all[..1])[0].verdict, Verdict::Agrees);
    }

    #[test]
    fn what_was_taken_down_is_read_by_somebody_else() {
        let process = |pid, space, status: &str, command_line: &str| ProcessTexts {
            pid,
            uid: 1000,
            space: Some(space),
            is_in_cgroup: true,
            status: status.to_owned(),
            command_line: command_line.to_owned(),
        };
        let inner = "Name:\tinit\nVmRSS:\t12 kB\nNSpid:\t10\t1\n";
        let texts = ContainerTexts {
            found: Foreign {
                kind: fleet::foreign::Kind::Container,
                name: "c".repeat(64),
                runtime: None,
                pid: 10,
                uid: 0,
                engine: Some("none".into()),
                cpus: None,
                uptime_seconds: None,
                cpu_seconds: None,
                memory_believed_bytes: None,
                memory_held_bytes: None,
                memory_swapped_bytes: None,
                cgroup: None,
                qmp: Vec::new(),
            },
            books: CgroupBooks::default(),
            meminfo: "MemTotal:       1024 kB\n".to_owned(),
            loadavg: "0.50 0 0 1/2 3".to_owned(),
            mountinfo: String::new(),
            status: "Cpus_allowed_list:\t0-3\n".to_owned(),
            host_space: Some(1),
            own: Some((7, inner.to_owned())),
            processes: vec![
                process(10, 7, inner, "/sbin/init\0--now\0"),
                process(11, 1, "Name:\t\u{1b}[2J\nNSpid:\t11\n", ""),
                process(12, 8, "Name:\tdeep\nNSpid:\t12\t2\t1\n", "deep\0"),
            ],
            left_out: 3,
        };
        let passed_on = serde_json::to_string(&texts).unwrap();
        let texts: ContainerTexts = serde_json::from_str(&passed_on).unwrap();
        let truth = texts.judge();
        let seen: Vec<_> = truth
            .processes
            .iter()
            .map(|one| (one.pid, one.inner_pid, one.is_shown, one.command.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                (10, Some(1), true, "/sbin/init --now"),
                (11, None, false, "[\u{1b}[2J]"),
                (12, Some(2), true, "deep"),
            ]
        );
        assert_eq!(truth.processes[0].resident_bytes, Some(12 << 10));
        assert!(truth.missing[0].starts_with("3 of its processes"));
        let sees = texts.sees();
        assert_eq!((sees.memory_bytes, sees.cpus), (Some(1 << 20), Some(4)));
    }

    #[test]
    fn numbers_in_lists_are_counted() {
        let check = |list: &str, expected| assert_eq!(count_list(list), expected, "{list}");
        check("0-1", 2);
        check("0-3,7", 5);
        check("5", 1);
        check("", 0);
    }
}
