//! Networks between VMs: whole guests that reach each other by name, and nobody else.
//!
//! As in `guest.rs`, each test says that it was skipped where the default guest cannot be had.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::daemon::Daemon;
use crate::common::host::Host;
use crate::common::{Mother, Ran};

/// How long something may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A name that no other test has: processes are found by it.
fn network(what: &str) -> String {
    format!("{what}-{}", std::process::id())
}

fn start(host: &Host, name: &str, words: &[&str]) {
    let usual = ["-d", "--name", name, "--memory", "128M"];
    let ran = host.mother.run(&[&usual, words].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
}

/// What a line of shell in the guest says, once that is as `expected`.
fn check(mother: &Mother, vm: &str, line: &str, expected: &str) {
    let begun = Instant::now();
    loop {
        let ran = mother.call(&["exec", "-n", vm, "--", "sh", "-c", line]);
        if ran.stdout.trim() == expected {
            return;
        }
        let Ran { stdout, stderr, .. } = ran;
        assert!(
            begun.elapsed() < PATIENCE,
            "{vm}: {line}: {stdout}{stderr}, not {expected}"
        );
        thread::sleep(Duration::from_millis(200));
    }
}

/// Has a guest answer requests of HTTP with this word.
fn serve(mother: &Mother, vm: &str, word: &str) {
    let line = format!(
        "printf '#!/bin/sh\\nwhile read line && [ ${{#line}} -gt 1 ]; do :; done\\nprintf \"HTTP/1.0 200 OK\\\\r\\\\n\\\\r\\\\n{word}\\\\n\"\\n' >/tmp/server\n\
         chmod +x /tmp/server; nc -ll -p 80 -e /tmp/server >/dev/null 2>&1 &\n\
         until netstat -ltn | grep -q ':80 '; do sleep 0.1; done; echo serves"
    );
    check(mother, vm, &line, "serves");
}

/// The processes that carry this network.
fn carriers(network: &str) -> Vec<i32> {
    let wanted = format!("mother: network {network}\0");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let carries = |pid: &i32| {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline"));
        words.is_ok_and(|words| words == wanted)
    };
    numbers.filter(carries).collect()
}

/// Waits until so many processes carry it.
fn expect_carriers(network: &str, count: usize) -> Vec<i32> {
    let begun = Instant::now();
    loop {
        let found = carriers(network);
        if found.len() == count {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{found:?}, not {count}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn address(host: &Host, vm: &str) -> String {
    let vm = host.ps(vm);
    vm["address"].as_str().unwrap_or_default().to_owned()
}

const OWN_ADDRESS: &str = "ip -4 addr show eth0 | grep -o 'inet [0-9.]*' | cut -d ' ' -f 2";

#[test]
fn vms_of_one_network_reach_each_other_by_name_and_nobody_else() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    let lab = network("lab");
    let on_lab = format!("net:{lab}");
    let apart = network("apart");
    thread::scope(|scope| {
        for (name, net) in [
            ("web", &on_lab),
            ("db", &on_lab),
            ("other", &format!("net:{apart}")),
        ] {
            let host = &host;
            let net = net.clone();
            scope.spawn(move || start(host, name, &["--net", &net]));
        }
    });
    let mother = &host.mother;
    expect_carriers(&lab, 1);
    serve(mother, "db", "from-db");
    // By its own name, and with the network's; who asks for it is asked too.
    let fetch = "timeout 10 wget -q -O - http://db";
    check(mother, "web", fetch, "from-db");
    check(
        mother,
        "web",
        &format!("timeout 10 wget -q -O - http://DB.{lab}"),
        "from-db",
    );
    let ping =
        |name: &str| format!("ping -c 1 -W 5 {name} >/dev/null && echo answers || echo silent");
    check(mother, "db", &ping("web"), "answers");
    for vm in ["web", "db", "other"] {
        check(mother, vm, OWN_ADDRESS, &address(&host, vm));
    }
    // Nobody on another network, whatever it knows.
    let db = address(&host, "db");
    let lost = format!(
        "timeout 3 wget -q -O - http://db 2>/dev/null || echo lost; ip route add default dev eth0; {}",
        ping(&db)
    );
    check(mother, "other", &lost, "lost\nsilent");
    // Nor this host, by any of its addresses and whatever routes a guest makes.
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let own = host.mother.shell("hostname -I").stdout;
    let gateway = format!("{}.1", db.rsplit_once('.').unwrap().0);
    let places = format!("10.0.2.2 127.0.0.1 {gateway} {}", own.trim());
    let reach = format!(
        "ip route add default via {gateway}; for place in {places}; do \
         timeout 3 nc $place {port} </dev/null >/dev/null 2>&1 && echo reached $place; done; echo tried"
    );
    check(mother, "web", &reach, "tried");
    assert!(listener.accept().is_err(), "nobody may have come");
    // The switch itself is there, and leads nowhere.
    check(mother, "web", &ping(&gateway), "answers");
    let refused = "nslookup example.org 2>&1 | grep -c REFUSED";
    check(
        mother,
        "web",
        &format!("test $({refused}) -gt 0 && echo refused"),
        "refused",
    );
    let listed = host.call(&["networks", "--json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed[0]["name"], apart, "{listed}");
    assert_eq!(listed[1]["vms"][0]["name"], "db", "{listed}");
    assert_eq!(listed[1]["vms"][0]["address"], db, "{listed}");
    host.call(&["kill", "web", "db", "other"]);
    expect_carriers(&lab, 0);
    expect_carriers(&apart, 0);
    assert_eq!(host.call(&["networks"]).stdout, "no networks between VMs\n");
}

#[test]
fn a_network_whose_process_is_killed_is_carried_again() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    let lab = network("killed");
    let net = format!("net:{lab}");
    start(&host, "web", &["--net", &net]);
    start(&host, "db", &["--net", &net]);
    let mother = &host.mother;
    serve(mother, "db", "still-here");
    check(
        mother,
        "web",
        "timeout 5 wget -q -O - http://db",
        "still-here",
    );
    let addresses = [address(&host, "web"), address(&host, "db")];
    let first = expect_carriers(&lab, 1);
    kill_process(Pid::from_raw(first[0]).unwrap(), Signal::KILL).unwrap();
    check(
        mother,
        "web",
        "timeout 5 wget -q -O - http://db",
        "still-here",
    );
    let second = expect_carriers(&lab, 1);
    assert_ne!(first, second);
    assert_eq!(addresses, [address(&host, "web"), address(&host, "db")]);
    host.expect_messages("web", "the VM comes to it again");
    // Who started it goes; it stays for the other, who keeps a name that others ask for.
    host.call(&["kill", "web"]);
    start(&host, "again", &["--net", &net]);
    check(
        mother,
        "again",
        "timeout 5 wget -q -O - http://db",
        "still-here",
    );
    assert_eq!(expect_carriers(&lab, 1), second);
    // A card that is pulled is pulled here as anywhere.
    host.call(&["link", "down", "db"]);
    check(
        mother,
        "again",
        "timeout 2 wget -q -O - http://db 2>/dev/null || echo lost",
        "lost",
    );
    host.call(&["link", "up", "db"]);
    check(
        mother,
        "again",
        "timeout 5 wget -q -O - http://db",
        "still-here",
    );
    host.call(&["kill", "again", "db"]);
    expect_carriers(&lab, 0);
}

#[test]
fn a_guest_that_poses_as_another_is_not_heard() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    let net = format!("net:{}", network("pose"));
    start(&host, "web", &["--net", &net]);
    start(&host, "db", &["--net", &net]);
    let mother = &host.mother;
    let db = address(&host, "db");
    let ping = format!("ping -c 1 -W 2 {db} >/dev/null && echo answers || echo silent");
    check(mother, "web", &ping, "answers");
    // With another address of the same network, and then with another card.
    let subnet = db.rsplit_once('.').unwrap().0;
    let other =
        format!("ip address flush dev eth0; ip address add {subnet}.250/24 dev eth0; {ping}");
    check(mother, "web", &other, "silent");
    let card = "ip link set eth0 address 52:00:00:00:00:99";
    let back = format!(
        "ip address flush dev eth0; ip address add {}/24 dev eth0",
        address(&host, "web")
    );
    check(mother, "web", &format!("{back}; {card}; {ping}"), "silent");
    host.expect_messages(
        "web",
        "dropped a frame of the guest's that claims another's address (ARP)",
    );
    host.expect_messages(
        "web",
        "dropped a frame of the guest's from another card's address than its own",
    );
    let vm = host.ps("web");
    let named = |list: &Value, name: &str| {
        let list = list.as_array().unwrap().clone();
        list.into_iter().find(|it| it["name"] == name).unwrap()
    };
    let counters = &named(&vm["devices"], "net0")["counters"];
    let refused = named(counters, "refused")["value"].as_u64();
    assert!(refused > Some(1), "{counters}");
}

#[test]
fn two_cards_with_one_address_are_not_on_one_network() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    let net = format!("net:{}", network("twins"));
    let mac = "52:00:00:12:34:56";
    start(&host, "web", &["--net", &net, "--mac", mac]);
    let words = [
        "-d", "--name", "twin", "--memory", "128M", "--net", &net, "--mac", mac,
    ];
    let ran = host.mother.run(&words);
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    let why = "the card of VM \"web\" there has the same address";
    assert!(ran.stderr.contains(why), "{}", ran.stderr);
    // Without names there are as many as one likes.
    for _ in 0..2 {
        let ran = host.mother.run(&["-d", "--memory", "128M", "--net", &net]);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    }
    assert_ne!(address(&host, "guest"), address(&host, "guest-2"));
}

#[test]
fn a_vm_comes_back_to_its_network_and_its_clone_does_not() {
    let Some(host) = Host::with_guest() else {
        return;
    };
    let net = format!("net:{}", network("back"));
    start(&host, "web", &["--net", &net]);
    start(&host, "db", &["--net", &net]);
    let mother = &host.mother;
    check(
        mother,
        "web",
        "ping -c 1 -W 5 db >/dev/null && echo answers",
        "answers",
    );
    let before = address(&host, "web");
    for more in [&[][..], &["--new-identity"]] {
        let ran = host.call(&[&["fork", "web", "--name", "clone"], more].concat());
        assert_eq!(ran.status, Some(2), "{}", ran.stderr);
        let why = "its guest has the card and the address of VM \"web\" on the network";
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
    }
    let ran = host.call(&["suspend", "web"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let ran = host.call(&["restore", "web"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    check(
        mother,
        "web",
        "ping -c 1 -W 5 db >/dev/null && echo answers",
        "answers",
    );
    assert_eq!(address(&host, "web"), before);
}

#[test]
fn several_vms_of_one_file_are_on_one_network() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let net = network("declared");
    let vm = |name: &str| format!("[vm.{name}]\nmemory = \"128M\"\nnet = \"net:{net}\"\n");
    fs::write(daemon.folder.path().join("vms.toml"), vm("web") + &vm("db")).unwrap();
    daemon.well(&["apply", "-f", "vms.toml"]);
    let ping = "ping -c 1 -W 5 db >/dev/null && echo answers";
    check(&daemon.mother, "web", ping, "answers");
    let listed = daemon.well(&["networks", "--json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(
        listed[0]["vms"].as_array().map(Vec::len),
        Some(2),
        "{listed}"
    );
    daemon.well(&["delete", "web", "db", "--kill"]);
    expect_carriers(&net, 0);
}

impl Host {
    /// Waits until the VM's processes have said this.
    fn expect_messages(&self, vm: &str, text: &str) {
        let begun = Instant::now();
        let file = self.mother.vms().join(vm).join("messages");
        let read = |file: &Path| fs::read_to_string(file).unwrap_or_default();
        while !read(&file).contains(text) {
            assert!(begun.elapsed() < PATIENCE, "{}", read(&file));
            thread::sleep(Duration::from_millis(50));
        }
    }
}
