//! What a guest may use of its host per second: kept from its start, and changed while it runs.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::Mother;
use crate::common::host::Host;
use crate::common::limited::Limited;
use crate::common::nobody::Who;
use crate::common::with_guest;

/// Seconds that the guest says it took, of the line that begins with this.
fn took(said: &str, what: &str) -> f64 {
    let line = said.lines().find_map(|line| line.strip_prefix(what));
    let mut times = line.unwrap_or_else(|| panic!("{said}")).split_whitespace();
    let mut time = || times.next().unwrap().parse::<f64>().unwrap();
    let start = time();
    time() - start
}

/// A line for the guest's shell that does something and says when it began and when it ended.
fn timed(what: &str, work: &str) -> String {
    let now = "$(cut -d' ' -f1 /proc/uptime)";
    format!("a={now}; {work}; echo \"{what} $a {now}\"\n")
}

/// What a rate bounds takes as long as it says; on a machine that has other things to do, it may take longer.
fn assert_took(said: &str, what: &str, expected: f64) {
    let seconds = took(said, what);
    // What an idle device may do at once is a twentieth of a second's, and nobody waits for the last request's.
    let range = expected * 0.9..expected * 2.0 + 2.0;
    assert!(range.contains(&seconds), "{what} took {seconds} s: {said}");
}

#[test]
fn disks_keep_their_rates() {
    let Some(mother) = with_guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = std::fs::File::create(folder.path().join("disk")).unwrap();
    disk.set_len(64 << 20).unwrap();
    let mother = mother.in_folder(folder.path());
    let disk = ["--disk", "disk,format=raw"];
    let reads = timed(
        "read",
        "dd if=/dev/vda of=/dev/null bs=1M count=24 iflag=direct 2>&-",
    );
    let writes = timed(
        "wrote",
        "dd if=/dev/zero of=/dev/vda bs=4k count=100 oflag=direct 2>&-",
    );
    let script = reads + &writes;
    let ran = mother.type_into(&[&disk[..], &["--disk-rate", "8M"]].concat(), &script);
    assert_took(&ran.stdout, "read", 3.0);
    let ran = mother.type_into(&[&disk[..], &["--disk-ops", "50"]].concat(), &script);
    assert_took(&ran.stdout, "wrote", 2.0);
    assert!(took(&ran.stdout, "read") < 3.0, "{}", ran.stdout);
}

#[test]
fn the_output_of_a_program_keeps_its_rate() {
    let Some(mother) = with_guest() else { return };
    let script = "head -c 300000 /dev/zero | tr '\\0' x";
    let start = Instant::now();
    let ran = mother.run(&["--console-rate", "100K", "--", "sh", "-c", script]);
    assert_eq!(ran.stdout.len(), 300_000, "{}", ran.stderr);
    assert!(start.elapsed() > Duration::from_millis(2700));
}

#[test]
fn a_serial_console_keeps_its_rate() {
    let Some(guest) = Limited::new("loud", Who::Oneself) else {
        return;
    };
    guest.start(&["--console-rate", "100K"]);
    let start = Instant::now();
    guest.type_line("head -c 300000 /dev/zero | tr '\\0' x; echo; echo all''done");
    guest.until("the end", || guest.log().contains("alldone"));
    let took = start.elapsed();
    assert!(took > Duration::from_millis(2700), "{took:?}");
}

/// CPU seconds that the VM has used.
fn used(host: &Host, name: &str) -> f64 {
    host.ps(name)["cpu_seconds"].as_f64().unwrap()
}

/// Its share of a core over some seconds, in hundredths.
fn share(host: &Host, name: &str) -> f64 {
    let start = Instant::now();
    let before = used(host, name);
    thread::sleep(Duration::from_secs(3));
    (used(host, name) - before) / start.elapsed().as_secs_f64() * 100.0
}

#[test]
fn a_busy_guest_keeps_its_share_of_a_core_and_answers() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    let busy = ["-d", "--name", "busy", "--cpu-limit", "40%", "--cpus", "2"];
    let work = "while :; do :; done & while :; do :; done";
    let ran = host
        .mother
        .run(&[&busy[..], &["--", "sh", "-c", work]].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let check = |expected: f64| {
        let got = share(&host, "busy");
        // Other tests may leave it less than it may have.
        assert!(
            (expected * 0.3..expected * 1.08 + 1.0).contains(&got),
            "{got} %, not {expected} %"
        );
    };
    check(40.0);
    for limit in ["10%", "60%"] {
        let limited = host.call(&["limit", "busy", "--cpu-limit", limit]);
        assert_eq!(limited.status, Some(0), "{}", limited.stderr);
        let said = &host.call(&["inspect", "busy"]).stdout;
        assert!(said.contains(&format!("CPU {limit} of a core")), "{said}");
        check(limit.trim_end_matches('%').parse().unwrap());
        let start = Instant::now();
        for words in [["pause", "busy"], ["resume", "busy"], ["inspect", "busy"]] {
            assert_eq!(host.call(&words).status, Some(0));
        }
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{:?}",
            start.elapsed()
        );
    }
    assert_eq!(
        host.call(&["limit", "busy", "--cpu-limit", "none"]).status,
        Some(0)
    );
    assert!(share(&host, "busy") > 40.0);
    let limits = &host.call(&["inspect", "busy"]).stdout;
    assert!(!limits.contains("of a core"), "it has none now: {limits}");
}

/// What this thread starts from now on runs on this core alone.
fn stay_on_core(core: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores).unwrap();
}

#[test]
fn guests_that_want_the_same_core_get_it_by_their_weights() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    let doctor = host.call(&["doctor", "--json"]).stdout;
    let doctor: serde_json::Value = serde_json::from_str(&doctor).unwrap();
    // The core that other tests are least on: they begin with the first.
    let cores = std::thread::available_parallelism().unwrap().get();
    stay_on_core(cores - 1);
    let work = ["--", "sh", "-c", "while :; do :; done"];
    for (name, weight) in [("one", &[][..]), ("other", &["--cpu-weight", "50"])] {
        let words = [&["-d", "--name", name], weight, &work].concat();
        let ran = host.mother.run(&words);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    }
    let check = |expected: f64| {
        // Both are past their kernel's start.
        thread::sleep(Duration::from_secs(1));
        let before = [used(&host, "one"), used(&host, "other")];
        thread::sleep(Duration::from_secs(6));
        let [one, other] = [
            used(&host, "one") - before[0],
            used(&host, "other") - before[1],
        ];
        let got = one / other;
        assert!(
            (expected * 0.85..expected * 1.15).contains(&got),
            "{one} s and {other} s: {got}, not {expected}, by {}",
            doctor["cpu_weight"]
        );
    };
    // Niceness comes in steps of a quarter, of which three are nearly two.
    check(2.0);
    let lowered = host.call(&["limit", "one", "--cpu-weight", "50"]);
    assert_eq!(lowered.status, Some(0), "{}", lowered.stderr);
    check(1.0);
    let limits = &host.call(&["inspect", "other"]).stdout;
    assert!(limits.contains("CPU weight 50 of 100"), "{limits}");
}

/// The guest of floods, in the host's folder.
fn build_flood(host: &Host) {
    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guests/bare");
    let flags = "-O2 -m64 -ffreestanding -nostdlib -static -fno-pic -no-pie -fno-stack-protector -mno-red-zone \
                 -mgeneral-regs-only -fno-asynchronous-unwind-tables -fcf-protection=none -fno-toplevel-reorder \
                 -Wl,--oformat=binary -Wl,--build-id=none -Wl,-T,flat.ld start.S flood.c -o";
    let cc = std::process::Command::new("cc")
        .current_dir(sources)
        .args(flags.split_whitespace())
        .arg(host.folder().join("flood"))
        .status();
    assert!(cc.unwrap().success());
}

/// This build with the libraries that it needs and the guest of floods, as an archive that a guest unpacks.
fn pack_for_guest(host: &Host) -> std::path::PathBuf {
    build_flood(host);
    let mother = env!("CARGO_BIN_EXE_mother");
    let script = "set -e; mkdir in; strip -o in/mother \"$1\"; cp flood in/; \
                  for it in $(ldd \"$1\" | grep -o '/[^ ]*'); do mkdir -p \"in/${it%/*}\"; cp -L \"$it\" \"in/$it\"; done; \
                  tar -C in -cf in.tar .; truncate -s %1M in.tar";
    let packed = std::process::Command::new("sh")
        .current_dir(host.folder())
        .args(["-c", script, "sh", mother])
        .status();
    assert!(packed.unwrap().success());
    host.folder().join("in.tar")
}

/// What a guest that is a host itself does: two guests with weights of 100 and 25, and a while later of 100 and 200.
const HOST_SCRIPT: &str = "\
tar xf /dev/vda -C /
mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null
mkdir -p /run/x /tmp /root; chmod 700 /run/x
export XDG_RUNTIME_DIR=/run/x HOME=/root XDG_CACHE_HOME=/run/c
/mother doctor --json | grep cpu_weight
for it in one other; do
/mother run -d --name $it --cpu-weight 25 --engine soft --memory 64M --kernel /flood --cmdline busy 2>/dev/null
done
/mother limit one --cpu-weight 100
used() { for it in one other; do grep usage_usec /sys/fs/cgroup/mother-$it/cpu.stat | sed \"s/.* /$1 $it /\"; done; }
sleep 3; used begin; sleep 12; used middle
/mother limit other --cpu-weight 200
used again; sleep 12; used end
/mother kill one other; sleep 2; ls -d /sys/fs/cgroup/mother-*; echo it is over
";

/// On a host with cgroups v2 and one core: a guest that runs Mother itself.
#[test]
fn by_cgroup_a_weight_is_exact() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    let archive = pack_for_guest(&host);
    let disk = format!("{},format=raw,readonly", archive.display());
    // Its shell is to be in the root's group, whose children can be weighed.
    let options = [
        "--memory",
        "1G",
        "--timeout",
        "300s",
        "--agent",
        "off",
        "--disk",
        &disk,
    ];
    let ran = host.mother.type_into(&options, HOST_SCRIPT);
    let said = &ran.stdout;
    assert!(
        said.contains("\"cpu_weight\": \"cgroup\""),
        "{said}{}",
        ran.stderr
    );
    let used = |when: &str, who: &str| -> f64 {
        let head = format!("{when} {who} ");
        let line = said.lines().find_map(|line| line.strip_prefix(&head));
        line.unwrap_or_else(|| panic!("{said}"))
            .trim()
            .parse()
            .unwrap()
    };
    let check = |from: &str, to: &str, expected: f64| {
        let [one, other] = ["one", "other"].map(|who| used(to, who) - used(from, who));
        let got = one / other;
        assert!(
            (got / expected - 1.0).abs() < 0.05,
            "{got}, not {expected}: {said}"
        );
    };
    check("begin", "middle", 4.0);
    check("again", "end", 0.5);
    // Nothing is left of them.
    let rest = said.rsplit_once("end other").unwrap().1;
    assert!(!rest.contains("\n/sys/fs/cgroup/mother-"), "{said}");
    assert!(rest.contains("it is over"), "{said}");
}

/// Bytes that the VM's process holds beside the guest's memory and its code.
fn held_bytes(host: &Host, name: &str) -> u64 {
    let vm = host.ps(name);
    let metrics = vm["metrics"].as_array().unwrap();
    let held = metrics
        .iter()
        .find(|metric| metric["name"] == "mother_vmm_memory_bytes");
    held.unwrap()["samples"][0]["value"].as_f64().unwrap() as u64
}

#[test]
fn what_a_guest_makes_mother_hold_ends_where_the_page_says() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    let page = include_str!("../../../docs/limits.md");
    let row = page
        .lines()
        .find(|line| line.starts_with("| all of the engine, notes and console"));
    let most: u64 = row
        .and_then(|row| {
            row.split('|')
                .nth(2)?
                .trim()
                .strip_suffix(" MiB")?
                .parse()
                .ok()
        })
        .unwrap();
    build_flood(&host);
    let words = [
        "-d", "--name", "flood", "--engine", "soft", "--memory", "128M",
    ];
    let kernel = ["--kernel", "flood", "--cmdline", "everything"];
    let ran = host.mother.run(&[&words[..], &kernel].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let start = Instant::now();
    let mut highest = 0;
    // Tables are full after some seconds; a slow host takes longer.
    while start.elapsed() < Duration::from_secs(20)
        || highest < 100 << 20 && start.elapsed() < Duration::from_secs(90)
    {
        highest = highest.max(held_bytes(&host, "flood"));
        assert!(
            highest <= most << 20,
            "{highest} bytes, the page says {most} MiB"
        );
        thread::sleep(Duration::from_millis(500));
    }
    assert!(
        highest >= 100 << 20,
        "the guest does not reach what is bounded: {highest} bytes"
    );
}

/// Seconds in which a guest sends so many pieces of 64 KiB to this host, and gets as many.
fn sent_and_received(mother: &Mother, words: &[&str], pieces: usize) -> (f64, f64) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut sender, _) = listener.accept().unwrap();
        let start = Instant::now();
        let mut got = vec![0; pieces << 16];
        sender.read_exact(&mut got).unwrap();
        let sent = start.elapsed().as_secs_f64();
        drop(sender);
        let (mut receiver, _) = listener.accept().unwrap();
        receiver.write_all(&got).unwrap();
        sent
    });
    let network = ["--net", "user,host", "--timeout", "100s"];
    let nc = format!("timeout 80 nc 10.0.2.2 {port} -e /bin/dd bs=64k");
    let send = format!("{nc} if=/dev/zero count={pieces} 2>/dev/null");
    let receive = timed("received", &format!("{nc} of=/tmp/got 2>/dev/null"));
    let ran = mother.type_into(
        &[&network[..], words].concat(),
        &format!("{send}\n{receive}wc -c < /tmp/got\n"),
    );
    let all = (pieces << 16).to_string();
    assert!(ran.stdout.contains(&all), "{}{}", ran.stdout, ran.stderr);
    (server.join().unwrap(), took(&ran.stdout, "received"))
}

#[test]
fn a_network_card_keeps_its_rates_each_way() {
    let Some(mother) = with_guest() else { return };
    let check = |words: &[&str], expected: f64| {
        let (sent, received) = sent_and_received(&mother, words, 32);
        for seconds in [sent, received] {
            // What lies in buffers between counts as sent.
            assert!(
                (expected * 0.6..expected * 3.0 + 3.0).contains(&seconds),
                "{words:?}: sent in {sent} s, received in {received} s"
            );
        }
    };
    check(&["--net-rate", "512K"], 4.0);
    check(&["--net-rate", "none"], 0.0);
}

#[test]
fn a_rate_that_makes_no_sense_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    for (words, expected) in [
        (["--cpu-limit", "half"], "\"half\" is no share of a core"),
        (["--disk-rate", "10"], "10 bytes a second is too little"),
        (["--cpu-weight", "0"], "\"0\" is no weight"),
        (["--net-packets", "0"], "\"0\" is no number per second"),
    ] {
        let ran = mother.run(&words);
        assert_eq!(ran.status, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{}", ran.stderr);
        let limited = mother.call(&[&["limit", "nobody"][..], &words].concat());
        assert_eq!(limited.status, Some(2), "{}", limited.stderr);
        assert!(limited.stderr.contains(expected), "{}", limited.stderr);
    }
    let nothing = mother.call(&["limit", "nobody"]);
    assert_eq!(nothing.status, Some(2), "{}", nothing.stderr);
}

/// Kilobytes of the process's own memory and of the code cache, as the host's kernel counts them.
fn own_and_code_kilobytes(pid: u64) -> Option<u64> {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
    let mut is_counted = false;
    let mut sum = 0;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next()?;
        if !first.ends_with(':') {
            let name = words.nth(4).unwrap_or("");
            is_counted = !name.starts_with('/') || name.starts_with("/memfd:mother-code");
        } else if first == "Pss:" && is_counted {
            sum += words.next()?.parse::<u64>().ok()?;
        }
    }
    Some(sum)
}

/// Boots, then runs many programs and fills memory.
const MUCH: &str = "i=0; while [ $i -lt 40 ]; do ls -lR /bin | md5sum; head -c 200000 /dev/urandom | gzip | sort | wc; i=$((i+1)); done > /tmp/said
head -c 60000000 /dev/zero > /tmp/zeros; echo it did all $((6 * 7)) of it
";

#[test]
fn a_limit_of_the_engine_is_kept_while_the_guest_runs_much_code() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    /// What the process holds beside the engine: devices, stacks, the pager, heaps.
    const OTHERS_MIB: u64 = 8;
    for mib in [9, 24, 40, 256] {
        let limit = format!("{mib}M");
        let report = host.folder().join(format!("report-{mib}.json"));
        let words = [
            "--name",
            "small",
            "--engine",
            "soft",
            "--engine-memory",
            &limit,
            "--timeout",
            "300s",
            "--report",
            report.to_str().unwrap(),
        ];
        let (ran, looks) = thread::scope(|scope| {
            let guest = scope.spawn(|| host.mother.type_into(&words, MUCH));
            let mut looks = 0;
            while !guest.is_finished() {
                thread::sleep(Duration::from_millis(100));
                let listed = host.mother.call(&["ps", "--json"]);
                let list: serde_json::Value =
                    serde_json::from_str(&listed.stdout).unwrap_or_default();
                let Some(vm) = list
                    .as_array()
                    .and_then(|list| list.iter().find(|vm| vm["name"] == "small"))
                else {
                    continue;
                };
                if let Some(held) = vm["pid"].as_u64().and_then(own_and_code_kilobytes) {
                    assert!(
                        held <= (mib + OTHERS_MIB) << 10,
                        "{held} KiB, {mib} MiB for the engine"
                    );
                    looks += 1;
                }
                let metrics = vm["metrics"].as_array().into_iter().flatten();
                for metric in metrics.filter(|metric| metric["name"] == "mother_engine_held_bytes")
                {
                    let held = metric["samples"][0]["value"].as_f64().unwrap();
                    assert!(held <= (mib << 20) as f64, "{held} bytes, {mib} MiB may be");
                }
            }
            (guest.join().unwrap(), looks)
        });
        assert!(
            ran.stdout.contains("it did all 42 of it"),
            "{}{}",
            ran.stdout,
            ran.stderr
        );
        assert!(looks > 10, "looked at {looks} times");
        let report: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&report).unwrap()).unwrap();
        assert_eq!(report["engine"]["memory_limit"], mib << 20);
        let counted = &report["engine_statistics"];
        let clears = counted["code cache clears"].as_u64().unwrap();
        assert_eq!(clears > 1, mib < 100, "{counted}");
        eprintln!(
            "{mib} MiB: {} s of CPU time, started anew {} times",
            report["vcpu_time"], counted["code cache clears"]
        );
    }
}

#[test]
fn a_limit_of_nothing_names_all_that_can_be_limited() {
    let folder = tempfile::tempdir().unwrap();
    let ran = Mother::new(folder.path()).call(&["limit", "web"]);
    assert_eq!(ran.status, Some(2), "{}", ran.stderr);
    for word in ["--resident", "--host-limit", "--cpu-limit", "--net-rate"] {
        assert!(ran.stderr.contains(word), "{}", ran.stderr);
    }
}

#[test]
fn a_limit_of_the_engine_that_makes_no_sense_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    std::fs::write(
        folder.path().join("guest"),
        crate::common::multiboot(&[0xf4]),
    )
    .unwrap();
    let check = |words: &[&str], text: &str| {
        let ran = mother.run(&[&["--kernel", "guest", "--memory", "64M"], words].concat());
        assert_eq!(ran.status, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains(text), "{}", ran.stderr);
    };
    check(
        &["--engine-memory", "much"],
        "engine-memory: \"much\" is no limit",
    );
    check(
        &["--engine-memory", "8M"],
        "engine-memory: 8M is less than the software CPU can work in with 1 vCPU\n",
    );
    check(&["--engine-memory", "8M"], "write at least 9M, or none");
    check(
        &["--engine-memory", "20M", "--cpus", "5"],
        "write at least 21M, or none",
    );
}
