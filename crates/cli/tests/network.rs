//! A guest's network with real traffic, which stays on this host's loopback.
//!
//! As in `guest.rs`, each test says that it was skipped where the default guest or passt cannot be had.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::common::{Ran, with_guest};

/// Bytes in each direction: several times what socket and queues hold together.
const MUCH: usize = 96 << 20;

fn run(words: &[&str], commands: &str) -> Option<Ran> {
    let cache = images::Cache::of_user().ok();
    if cache.and_then(|cache| cache.installed_passt()).is_none() {
        // Written, not printed: the test harness would keep what is printed to itself.
        let mut stderr = std::io::stderr();
        writeln!(
            stderr,
            "skipped: passt is neither on the PATH nor in the cache"
        )
        .unwrap();
        return None;
    }
    with_guest().map(|mother| mother.type_into(words, commands))
}

fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    (listener, port)
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Takes one connection and everything that comes over it; how many bytes that were, all of them zero.
fn count_zeros(listener: TcpListener) -> JoinHandle<usize> {
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        assert!(
            bytes.iter().all(|byte| *byte == 0),
            "nothing but zeros was sent"
        );
        bytes.len()
    })
}

#[test]
fn much_goes_both_ways_between_the_guest_and_a_server_on_this_host() {
    let (sink, sink_port) = listen();
    let (source, source_port) = listen();
    let counted = count_zeros(sink);
    let sent = thread::spawn(move || {
        let (mut stream, _) = source.accept().unwrap();
        let bytes: Vec<u8> = (0..MUCH).map(|n| (n % 251) as u8).collect();
        stream.write_all(&bytes).unwrap();
    });
    let commands = format!(
        "ip -4 addr show eth0 | grep -o 'inet [0-9.]*'\nip route | grep default\n\
         timeout 20 nc 10.0.2.2 {sink_port} -e /bin/dd if=/dev/zero bs=64k count={} 2>/dev/null\n\
         timeout 20 nc 10.0.2.2 {source_port} -e /bin/dd of=/tmp/got.bin bs=64k 2>/dev/null\n\
         wc -c < /tmp/got.bin\n\
         tail -c 3 /tmp/got.bin | od -A n -t u1\n",
        MUCH >> 16
    );
    let Some(ran) = run(&["--net", "user,host"], &commands) else {
        return;
    };
    assert!(ran.stdout.contains("inet 10.0.2.15"), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("default via 10.0.2.2"),
        "{}",
        ran.stdout
    );
    let lines: Vec<&str> = ran.stdout.lines().map(str::trim).collect();
    assert!(lines.contains(&MUCH.to_string().as_str()), "{}", ran.stdout);
    let last: Vec<String> = (MUCH - 3..MUCH).map(|n| (n % 251).to_string()).collect();
    assert!(
        lines
            .iter()
            .any(|line| line.split_whitespace().eq(last.iter().map(String::as_str))),
        "{}",
        ran.stdout
    );
    assert_eq!(counted.join().unwrap(), MUCH);
    sent.join().unwrap();
}

/// Greets, and says which system it is once it has been answered; the guest says that it listens by connecting to
/// this host, and ends after it has been asked.
fn server(ready: &str) -> String {
    format!(
        "printf '#!/bin/sh\\necho hello; read word; [ \"$word\" = bye ] || exit\\n\
         uname -s; touch /tmp/asked\\n' > /tmp/server; chmod +x /tmp/server\n\
         nc -ll -p 80 -e /tmp/server &\n\
         n=0; until netstat -ltn | grep -q ':80 ' || [ $n = 100 ]; do sleep 0.1; n=$((n + 1)); done\n\
         timeout 10 nc 10.0.2.2 {ready} -e /bin/true\n\
         n=0; until [ -e /tmp/asked ] || [ $n = 200 ]; do sleep 0.1; n=$((n + 1)); done; sleep 0.5\n"
    )
}

/// Its greeting and its answer, once somebody has come to `ready`.
fn ask(ready: &TcpListener, port: u16) -> std::io::Result<String> {
    let give_up = Instant::now() + Duration::from_secs(60);
    ready.set_nonblocking(true)?;
    while let Err(error) = ready.accept() {
        if error.kind() != ErrorKind::WouldBlock || Instant::now() > give_up {
            return Err(error);
        }
        thread::sleep(Duration::from_millis(20));
    }
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"bye\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_forwarded_port_leads_to_a_server_in_the_guest() {
    let port = free_port();
    let (ready, ready_port) = listen();
    let asked = thread::spawn(move || ask(&ready, port));
    let forward = format!("{port}:80");
    let words = ["--net", "user,host", "-p", &forward];
    let Some(ran) = run(&words, &server(&ready_port)) else {
        return;
    };
    let answer = asked.join().unwrap();
    assert_eq!(
        answer.unwrap(),
        "hello\nLinux\n",
        "{}{}",
        ran.stdout,
        ran.stderr
    );
}

#[test]
fn without_leave_a_guest_does_not_reach_this_hosts_loopback() {
    let (listener, port) = listen();
    listener.set_nonblocking(true).unwrap();
    // The second way is a guest that has its own idea of what goes where.
    let commands = format!(
        "timeout 3 nc 10.0.2.2 {port} < /dev/null && echo reached\n\
         ip addr del 127.0.0.1/8 dev lo; ip link set lo down; ip route add 127.0.0.0/8 via 10.0.2.2\n\
         echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet\n\
         timeout 3 nc 127.0.0.1 {port} < /dev/null && echo reached\necho end of the attempts\n"
    );
    let Some(ran) = run(&["--net", "user"], &commands) else {
        return;
    };
    assert!(ran.stdout.contains("end of the attempts"), "{}", ran.stdout);
    assert!(listener.accept().is_err(), "nobody may have come");
}

/// In a network of its own: a tap, a guest behind it, and much over TCP both ways, so that the tap's kernel and the
/// guest's cut and sum for each other.
const TAP: &str = r#"
mount -t sysfs sysfs /sys && ip tuntap add tap0 mode tap && ip address add 10.9.0.1/24 dev tap0 && ip link set tap0 up || exit
printf '%s\n' 'ip address add 10.9.0.2/24 dev eth0; ip link set eth0 up' \
    'nc -l -p 80 -e /bin/dd if=/dev/zero bs=64k count=512 2>/dev/null; nc -l -p 81 | md5sum' \
    'cat /sys/class/net/eth0/mtu' |
    $MOTHER run --net tap=tap0 --mac 02:00:00:00:00:09 > out 2> err &
n=0
reach() {
    until exec 3<> /dev/tcp/10.9.0.2/$1; do n=$((n + 1)); [ $n = 300 ] && exit 1; sleep 0.2; done 2>/dev/null
}
reach 80; md5sum <&3; exec 3>&-
reach 81; head -c 33554432 /dev/zero >&3; exec 3>&-
ip neighbour show dev tap0
wait
cat err >&2
grep -v '^\[' out
"#;

#[test]
fn a_tap_carries_a_guests_traffic_both_ways() {
    let mut stderr = std::io::stderr();
    let Some(mother) = with_guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mother = mother.in_folder(folder.path());
    let can = mother.shell("unshare --net --mount ip tuntap add tap0 mode tap");
    if can.status != Some(0) {
        writeln!(
            stderr,
            "skipped: no tap in a network of its own without root: {}",
            can.stderr.trim()
        )
        .unwrap();
        return;
    }
    std::fs::write(folder.path().join("tap"), TAP).unwrap();
    let ran = mother.shell("unshare --net --mount bash ./tap");
    let sums = ran
        .stdout
        .matches("58f06dd588d8ffb3beb46ada6309436b")
        .count();
    assert_eq!(
        sums, 2,
        "32 MiB of zeros came over both ways: {}{}",
        ran.stdout, ran.stderr
    );
    assert!(
        ran.stdout.contains("10.9.0.2 lladdr 02:00:00:00:00:09"),
        "{}",
        ran.stdout
    );
    assert!(
        ran.stdout.lines().any(|line| line == "1500"),
        "{}",
        ran.stdout
    );
}

/// In a network of its own, with another beside it that has two servers with two ports each, which would see questions for
/// names: a guest that may reach one port of one server by its name, and one of the other by its address.
const EGRESS: &str = r#"
exec 2>trouble
set -e
cp "$BUSYBOX" busybox && chmod +x busybox
echo '192.0.2.10 deb.example.test' > hosts && mount --bind hosts /etc/hosts
unshare --net sleep 300 & there=$!
trap 'kill $(jobs -p)' EXIT
sleep 0.5
beside() { nsenter --target $there --net "$@"; }
ip link set lo up && ip link add veth0 type veth peer name veth1 && ip link set veth1 netns $there
ip address add 192.0.2.1/24 dev veth0 && ip link set veth0 up && ip route add default via 192.0.2.10
beside ip address add 192.0.2.10/24 dev veth1 && beside ip address add 192.0.2.11/24 dev veth1 && beside ip link set veth1 up
for port in 80 81; do
    beside ./busybox nc -ll -p $port -e ./busybox echo served $port > served 2>&1 &
done
printf '%s\n' 'ask() { echo "$1 $2: $(sleep 2 | nc -w 4 $1 $2 2>&1)"; }' \
    'ask 192.0.2.10 80; ask 192.0.2.10 81; ask 192.0.2.11 80; ask 192.0.2.11 81' \
    'nslookup deb.example.test 192.0.2.11 2>&1; nslookup secret.example.test 192.0.2.11 2>&1' |
    "$MOTHER" run --net user --egress allow=deb.example.test:80,192.0.2.11:81 --report report.json > out 2> err || echo "ended with $?"
beside cat /proc/net/snmp | while read -r what all nobody rest; do
    [ "$what $all" = "Udp: InDatagrams" ] || [ "$what" != Udp: ] || echo "asked $((all + nobody)) times"
done
cat out
"#;

#[test]
fn a_guest_reaches_what_is_on_its_list_and_nothing_else() {
    let mut stderr = std::io::stderr();
    if run(&["--net", "none"], "").is_none() {
        return;
    }
    let Some(mother) = with_guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mother = mother.in_folder(folder.path());
    let veth = "unshare --net --mount ip link add veth0 type veth peer name veth1";
    let can = mother.shell(veth);
    if can.status != Some(0) {
        let why = can.stderr.trim();
        writeln!(
            stderr,
            "skipped: no networks of its own without root: {why}"
        )
        .unwrap();
        return;
    }
    let busybox = images::Cache::of_user().unwrap().folder().join("busybox");
    std::fs::write(folder.path().join("egress"), EGRESS).unwrap();
    let busybox = busybox.display();
    let ran = mother.shell(&format!(
        "BUSYBOX={busybox} unshare --net --mount --pid --fork --kill-child --mount-proc bash ./egress"
    ));
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    let said = format!("{}{}{}", ran.stdout, read("err"), read("trouble"));
    for expected in [
        "192.0.2.10 80: served 80",
        "192.0.2.11 81: served 81",
        "192.0.2.10 81: nc: can't connect to remote host (192.0.2.10): No route to host",
        "192.0.2.11 80: nc: can't connect to remote host (192.0.2.11): No route to host",
        "Address: 192.0.2.10",
        "server can't find secret.example.test: REFUSED",
        "asked 0 times",
        "the guest was kept from TCP 192.0.2.10:81, which is not on its egress list",
        "the guest was kept from the name \"secret.example.test\"",
    ] {
        assert!(said.contains(expected), "{expected:?} in {said}");
    }
    let report: serde_json::Value = serde_json::from_str(&read("report.json")).unwrap();
    let refused = &report["devices"]["net0"]["refused"];
    assert!(refused.as_u64() >= Some(4), "{refused}");
}
