//! What a kernel passes, against what the guest says that it did: programs, ends, modules, sockets, mounts, files.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use insight::Kernel;
use insight::trace::{Event, EventKind, Plan, Reach, SocketAddress, Told, Wanted, What};
use probe::Hit;

use crate::guest::Guest;

/// Programs that are started one after the other.
const PROGRAMS: usize = 100;
/// How long the last events may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Everything that is told of a guest while it does something.
struct Heard {
    events: Arc<Mutex<Vec<Event>>>,
    /// What they were made of.
    hits: Arc<Mutex<Vec<Hit>>>,
    logs: Arc<Mutex<usize>>,
    lost: Arc<Mutex<u64>>,
}

impl Heard {
    fn all(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    /// The same, understood now.
    fn late(&self, kernel: &Kernel, plan: &Plan) -> Vec<Event> {
        let hits = self.hits.lock().unwrap();
        let told = hits.iter().map(|hit| plan.event(kernel, hit));
        told.filter_map(|told| match told {
            Told::Event(event) => Some(*event),
            Told::LogGrew | Told::Nothing => None,
        })
        .collect()
    }

    /// Waits for an event.
    fn wait_for(&self, is_it: impl Fn(&Event) -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.events.lock().unwrap().iter().any(&is_it) {
                return true;
            }
            thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

/// Says that it is over when it goes.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Hears of all that `act` has the guest do.
fn hear(
    guest: &mut Guest,
    kernel: &Kernel,
    plan: &Plan,
    act: impl FnOnce(&mut Guest, &Heard),
) -> Heard {
    let mut client = guest.client();
    let (life, _) = client.registers().unwrap();
    let mut passes = client.probe(life, plan.points()).unwrap();
    let heard = Heard {
        events: Arc::default(),
        hits: Arc::default(),
        logs: Arc::default(),
        lost: Arc::default(),
    };
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let some = passes.wait().unwrap();
                *heard.lost.lock().unwrap() += some.lost;
                for hit in &some.hits {
                    match plan.event(kernel, hit) {
                        Told::Event(event) => heard.events.lock().unwrap().push(*event),
                        Told::LogGrew => *heard.logs.lock().unwrap() += 1,
                        Told::Nothing => {}
                    }
                }
                heard.hits.lock().unwrap().extend(some.hits);
            }
        });
        // Also if it fails: the other thread is waited for.
        let _over = Over(&is_over);
        act(guest, &heard);
    });
    heard
}

/// Complaints about what is told of a guest.
pub fn traced(guest: &mut Guest, kernel: &Kernel) -> Vec<String> {
    let wanted = Wanted {
        kinds: EventKind::ALL.to_vec(),
        files: vec!["/etc/passwd".to_owned(), "/tr/file".to_owned()],
    };
    let plan = Plan::new(kernel, &wanted);
    let mut complaints: Vec<String> = plan
        .reaches()
        .iter()
        .filter(|(_, reach)| *reach != Reach::Exact)
        .map(|(kind, reach)| format!("trace: {}: {reach:?}", kind.word()))
        .collect();
    let mut said = String::new();
    let heard = hear(guest, kernel, &plan, |guest, heard| {
        said = guest.ask(SCRIPT);
        let is_last = |event: &Event| {
            matches!(
                event.what,
                What::Exit {
                    status: Some(77),
                    ..
                }
            )
        };
        heard.wait_for(is_last);
    });
    if *heard.lost.lock().unwrap() > 0 || *heard.logs.lock().unwrap() == 0 {
        complaints.push("trace: lost passes, or nothing in the log".to_owned());
    }
    // A busy host understands late what it took down in time: the guest has unmounted and ended by then what it used.
    let late = heard.late(kernel, &plan);
    let told_at_once = heard.all();
    let is_same = |(one, other): &(&Event, &Event)| one == other;
    let pairs = || told_at_once.iter().zip(&late);
    if late.len() != told_at_once.len() || !pairs().all(|pair| is_same(&pair)) {
        let first = pairs().find(|pair| !is_same(pair));
        let counts = (told_at_once.len(), late.len());
        complaints.push(format!("trace: {counts:?} at once and late: {first:?}"));
    }
    let events = late;
    complaints.extend(programs(&events, &said));
    complaints.extend(deeds(&events, &said));
    complaints
}

/// A hundred programs with their PIDs, one that is killed, and what else there is to see.
const SCRIPT: &str = r"
mkdir -p /tr; mount -t tmpfs none /tr; echo x > /tr/file
i=0; while [ $i -lt 100 ]; do sh -c 'echo pid $$; exit 7' ; i=$((i+1)); done
sh -c 'echo killed $$; kill -9 $$'
for m in button evdev virtio_rng; do rmmod $m 2>/dev/null && insmod /modules/$m.ko && echo module $m; done
ifconfig lo up; (echo hi | nc -l -p 99 >/dev/null) & p=$!; sleep 1; echo ho | nc 127.0.0.1 99 >/dev/null; wait $p
cat /tr/file >/dev/null
echo word > /dev/kmsg
umount /tr
sh -c 'exit 77'
";

/// Every program that was started is told with its arguments and its parent, and its end as its parent saw it.
fn programs(events: &[Event], said: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let number = |word: &str| -> Vec<i32> {
        let lines = said.lines().filter_map(|line| line.strip_prefix(word));
        lines.filter_map(|pid| pid.trim().parse().ok()).collect()
    };
    let pids = number("pid ");
    if pids.len() != PROGRAMS {
        complaints.push(format!(
            "trace: the guest says {} programs: {said}",
            pids.len()
        ));
    }
    for pid in pids {
        let own: Vec<&Event> = events
            .iter()
            .filter(|event| event.process.as_ref().is_some_and(|actor| actor.pid == pid))
            .collect();
        let execs = own.iter().filter(|event| {
            matches!(&event.what, What::Exec { arguments, executable: Some(file), .. }
                if arguments.iter().skip(1).eq(["-c", "echo pid $$; exit 7"]) && file.path.contains("busybox"))
        });
        let ends = own.iter().filter(|event| {
            matches!(
                event.what,
                What::Exit {
                    status: Some(7),
                    signal: None,
                    ..
                }
            )
        });
        let forks = events
            .iter()
            .filter(|event| matches!(event.what, What::Fork { child_pid, is_kernel: false } if child_pid == pid));
        let has_parent = own.iter().all(|event| {
            let actor = event.process.as_ref();
            actor.is_some_and(|actor| !actor.ancestors.is_empty() && actor.identity.is_some())
        });
        let counts = (forks.count(), execs.count(), ends.count(), has_parent);
        if counts != (1, 1, 1, true) {
            complaints.push(format!("trace: process {pid}: {counts:?} of {own:?}"));
            break;
        }
    }
    for pid in number("killed ") {
        let is_it = |event: &&Event| {
            event.process.as_ref().is_some_and(|actor| actor.pid == pid)
                && matches!(
                    event.what,
                    What::Exit {
                        status: None,
                        signal: Some(9),
                        ..
                    }
                )
        };
        if events.iter().filter(is_it).count() != 1 {
            complaints.push(format!("trace: the end of {pid} by a signal is not told"));
        }
    }
    complaints
}

/// Everything else that the guest did.
fn deeds(events: &[Event], said: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut check = |what: &str, is_it: &dyn Fn(&What) -> bool| {
        if !events.iter().any(|event| is_it(&event.what)) {
            complaints.push(format!("trace: {what} is not told"));
        }
    };
    let is_local = |address: &SocketAddress| {
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        matches!(address, SocketAddress::Inet { ip, port: 99 } if *ip == local)
    };
    check("a mount", &|what| {
        matches!(what, What::Mount { at, file_system: Some(kind), .. }
            if at.path == "/tr" && kind == "tmpfs")
    });
    check("a bind", &|what| {
        matches!(
            what,
            What::Bind {
                address: SocketAddress::Inet { port: 99, .. },
                ..
            }
        )
    });
    check(
        "a connect",
        &|what| matches!(what, What::Connect { address, socket_type: 1 } if is_local(address)),
    );
    check("an accept", &|what| {
        matches!(what, What::Accept { own, peer: SocketAddress::Inet { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), .. } }
            if is_local(own))
    });
    check(
        "a file that is read",
        &|what| matches!(what, What::Open { file, access } if file.path == "/tr/file" && access == "read"),
    );
    check(
        "a file that is written",
        &|what| matches!(what, What::Open { file, access } if file.path == "/tr/file" && access == "write"),
    );
    for module in said.lines().filter_map(|line| line.strip_prefix("module ")) {
        check(
            &format!("module {module}"),
            &|what| matches!(what, What::Module { module: name, .. } if name == module),
        );
    }
    complaints
}
