//! The daemon as its clients meet it: declared VMs, its REST interface, tokens, numbers, and what it forgets: nothing.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use common::daemon::Daemon;
use serde_json::{Value, json};
use serve::{ClientError, Target};

fn refused(answer: Result<serve::Answer, ClientError>) -> String {
    match answer {
        Err(ClientError::Refused(problem)) => problem.code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_declared_vm_comes_back_and_a_daemon_that_is_killed_stops_nobody() {
    let Some(mut daemon) = Daemon::start() else {
        return;
    };
    let second = daemon.call(&["serve"]);
    assert_eq!(second.status, Some(1), "{}", second.stderr);
    assert!(
        second.stderr.contains("another `mother serve` answers at"),
        "{}",
        second.stderr
    );
    daemon.well(&["create", "web", "--memory", "128M", "--restart", "always"]);
    daemon.until_state("web", "running");
    let first = daemon.vm("web");
    // Ended from outside: it is started again.
    daemon.well(&["kill", "web"]);
    daemon.until("web is started again", |daemon| {
        let now = daemon.vm("web");
        now["state"] == "running" && now["pid"] != first["pid"]
    });
    // The daemon vanishes: the guest does not notice, and a new one knows everything.
    let before = daemon.vm("web");
    daemon.kill();
    let listed: Value = serde_json::from_str(&daemon.well(&["ps", "--json"])).unwrap();
    assert_eq!(listed[0]["pid"], before["pid"]);
    daemon.begin();
    daemon.until_state("web", "running");
    let after = daemon.vm("web");
    assert_eq!(
        (&after["pid"], &after["declared"]),
        (&before["pid"], &before["declared"])
    );
    // Stopped while no daemon is there, by a person: it shall run, and does when there is one.
    daemon.kill();
    daemon.well(&["stop", "--grace", "0", "web"]);
    daemon.begin();
    daemon.until_state("web", "running");
    // Stopped through the daemon it stays so, also for the next one.
    daemon.well(&["stop", "--grace", "0", "web"]);
    assert_eq!(daemon.vm("web")["declared"]["desired"], "stopped");
    daemon.kill();
    daemon.begin();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(daemon.vm("web")["state"], "ended");
    daemon.well(&["start", "web"]);
    daemon.until_state("web", "running");
    daemon.well(&["delete", "--kill", "web"]);
    assert_eq!(daemon.vm("web"), Value::Null);
    assert_eq!(daemon.well(&["ps", "-a", "-q"]), "");
    let kinds: Vec<String> = daemon.get("/v1/events")["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["kind"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        (kinds[0].as_str(), kinds[1].as_str()),
        ("declared", "started"),
        "{kinds:?}"
    );
    assert_eq!(
        kinds.iter().filter(|kind| *kind == "deleted").count(),
        1,
        "{kinds:?}"
    );
}

#[test]
fn files_say_how_the_host_shall_be() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let file = daemon.folder.path().join("vms.toml");
    let write = |text: &str| fs::write(&file, text).unwrap();
    let apply = |more: &[&str]| daemon.well(&[&["apply", "-f", "vms.toml"], more].concat());
    write(
        "[vm.a]\nmemory = \"128M\"\ndesired = \"stopped\"\n[vm.b]\ndesired = \"stopped\"\nlabel = [\"team=x\"]\n",
    );
    assert_eq!(apply(&["--dry-run"]), "+ a\n+ b\n");
    assert_eq!(daemon.get("/v1/vms")["vms"], json!([]));
    assert_eq!(apply(&[]), "+ a\n+ b\n");
    assert_eq!(apply(&[]), "everything is as it is written\n");
    let of_team = daemon.get("/v1/vms?label=team%3Dx");
    assert_eq!(of_team["vms"][0]["name"], "b");
    let version = daemon.vm("a")["declared"]["version"].clone();
    write("[vm.a]\nmemory = \"256M\"\ndesired = \"stopped\"\n");
    assert_eq!(
        apply(&["--prune"]),
        "~ a\n    spec.memory: \"128M\" -> \"256M\"\n- b\n"
    );
    assert_eq!(daemon.vm("b"), Value::Null);
    // Who saw the older version does not overwrite the newer one.
    let declaration = json!({ "name": "a", "desired": "stopped" });
    let old = daemon
        .local()
        .ask("PUT", "/v1/vms/a", Some(&declaration), version.as_u64());
    assert_eq!(refused(old), "changed-meanwhile");
    assert_eq!(daemon.vm("a")["declared"]["spec"]["memory"], "256M");
    // Nothing of a file that is wrong anywhere is done.
    write("[vm.c]\nmemory = \"much\"\n[vm.d]\n");
    let ran = daemon.call(&["apply", "-f", "vms.toml"]);
    assert_eq!(ran.status, Some(2), "{}", ran.stderr);
    assert!(ran.stderr.contains("memory"), "{}", ran.stderr);
    assert_eq!(daemon.vm("d"), Value::Null);
}

#[test]
fn what_is_wrong_with_a_request_is_said_with_where() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let check = |method: &str, path: &str, body: Option<Value>, code: &str| {
        let answer = daemon.local().ask(method, path, body.as_ref(), None);
        assert_eq!(refused(answer), code, "{method} {path}");
    };
    check("GET", "/v1/vms/none", None, "no-such-vm");
    check("GET", "/v1/nothing", None, "no-such-path");
    check("DELETE", "/v1/vms", None, "method");
    check("GET", "/v1/vms?label=x", None, "bad-input");
    check("GET", "/v1/events?after=-1", None, "bad-input");
    check(
        "POST",
        "/v1/vms",
        Some(json!({ "name": "no name" })),
        "bad-input",
    );
    check(
        "POST",
        "/v1/vms",
        Some(json!({ "name": "a", "spec": { "memory": 1 } })),
        "bad-input",
    );
    check(
        "POST",
        "/v1/vms",
        Some(json!({ "name": "a", "colour": "red" })),
        "bad-input",
    );
    check("GET", "/metrics?libvirt=perhaps", None, "bad-input");
    check("GET", "/v1/operations/seven", None, "bad-input");
    check("GET", "/v1/operations/7", None, "no-such-operation");
    check(
        "POST",
        "/v1/tokens",
        Some(json!({ "name": "a/b", "role": "ReadOnly" })),
        "bad-input",
    );
    daemon.well(&["create", "a", "--stopped"]);
    check(
        "POST",
        "/v1/vms",
        Some(json!({ "name": "a" })),
        "declared-already",
    );
    check("POST", "/v1/vms/a/fly", None, "no-such-action");
    check("POST", "/v1/vms/a/limit", None, "bad-input");
    check("POST", "/v1/vms/a/pause?wait=30", None, "refused");
    check("POST", "/v1/vms/a/nmi?wait=30", None, "refused");
    check("GET", "/v1/vms/a/truth", None, "refused");
    check("GET", "/v1/vms/a/console", None, "bad-input");
    // A VM that cannot be started says so, and is tried again later and later.
    daemon.well(&[
        "create",
        "bad",
        "--kernel",
        "/nowhere",
        "--restart",
        "always",
    ]);
    daemon.until("there is trouble", |daemon| {
        daemon.vm("bad")["trouble"].is_string()
    });
    let trouble = daemon.vm("bad")["trouble"].to_string();
    assert!(trouble.contains("/nowhere"), "{trouble}");
}

#[test]
fn who_comes_from_elsewhere_needs_a_token_and_gets_what_it_says() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let token = |name: &str, role: &str| {
        let printed = daemon.well(&["token", "add", name, "--role", role]);
        daemon.with_token(printed.trim())
    };
    let eve = token("eve", "read-only");
    let otto = token("otto", "operator");
    let late = token("late", "read-only");
    let create = json!({ "name": "a", "desired": "stopped" });
    assert_eq!(
        eve.ask("GET", "/v1/session", None, None).unwrap().body["role"],
        "ReadOnly"
    );
    assert_eq!(
        refused(eve.ask("POST", "/v1/vms", Some(&create), None)),
        "forbidden"
    );
    assert_eq!(
        otto.ask("POST", "/v1/vms", Some(&create), None)
            .unwrap()
            .status,
        201
    );
    assert_eq!(
        refused(otto.ask("GET", "/v1/tokens", None, None)),
        "forbidden"
    );
    assert_eq!(
        refused(otto.ask("GET", "/v1/audit", None, None)),
        "forbidden"
    );
    // Another certificate is another host.
    let Target::Tls {
        host, port, token, ..
    } = otto.clone()
    else {
        unreachable!()
    };
    let other = Target::Tls {
        host,
        port,
        token: token.clone(),
        fingerprint: "00".repeat(32),
    };
    let asked = other.ask("GET", "/v1/vms", None, None);
    assert!(
        matches!(asked, Err(ClientError::OtherCertificate { .. })),
        "{asked:?}"
    );
    // The same commands for another host.
    let elsewhere = |words: &str| {
        daemon.mother.shell(&format!(
            "MOTHER_TOKEN={token} MOTHER_FINGERPRINT={} $MOTHER --host https://{} {words}",
            daemon.fingerprint, daemon.address
        ))
    };
    let ran = elsewhere("events");
    assert!(ran.stdout.contains("the VM is declared"), "{}", ran.stderr);
    let ran = elsewhere("inspect none");
    assert_eq!(ran.status, Some(1));
    assert!(
        ran.stderr.contains("there is no VM \"none\""),
        "{}",
        ran.stderr
    );
    assert_eq!(elsewhere("console a").status, Some(2));
    assert_eq!(daemon.get("/v1/sessions")["sessions"], json!([]));
    // Out is out.
    daemon.well(&["token", "rm", "eve"]);
    assert_eq!(
        refused(eve.ask("GET", "/v1/vms", None, None)),
        "unauthorized"
    );
    let guess = daemon.with_token("guess");
    let codes: Vec<String> = (0..25)
        .map(|_| refused(guess.ask("GET", "/v1/vms", None, None)))
        .collect();
    assert_eq!(codes.last().unwrap(), "too-many-wrong-tokens");
    assert_eq!(
        refused(late.ask("GET", "/v1/vms", None, None)),
        "too-many-wrong-tokens",
        "it was never seen there"
    );
    assert!(
        otto.ask("GET", "/v1/vms", None, None).is_ok(),
        "who was in before stays in"
    );
    // The host's own user is not kept out, and sees who tried.
    let calls = daemon.get("/v1/audit");
    let has = |who: &str, status: u64| {
        let calls = calls["calls"].as_array().unwrap();
        calls
            .iter()
            .any(|call| call["who"] == who && call["status"] == status)
    };
    assert!(
        has("eve", 403) && has("otto", 201) && has("nobody", 401) && has("nobody", 429),
        "{calls:#}"
    );
}

#[test]
fn events_go_on_where_a_client_stopped() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    for name in ["a", "b", "c"] {
        daemon.well(&["create", name, "--stopped"]);
    }
    let mut ids = Vec::new();
    daemon
        .local()
        .follow("GET", "/v1/events/stream?after=1", None, |line| {
            ids.extend(
                line.strip_prefix("id: ")
                    .and_then(|id| id.parse::<u64>().ok()),
            );
            if ids.len() == 2 && line.is_empty() {
                daemon.well(&["create", "d", "--stopped"]);
            }
            ids.len() < 3
        })
        .unwrap();
    assert_eq!(ids, [2, 3, 4]);
    let mut first = Vec::new();
    daemon
        .local()
        .follow("GET", "/v1/watch", None, |line| {
            let vm = line.strip_prefix("data: ");
            first.extend(vm.map(|vm| serde_json::from_str::<Value>(vm).unwrap()["name"].clone()));
            first.len() < 4
        })
        .unwrap();
    assert_eq!(first, ["a", "b", "c", "d"]);
}

#[test]
fn numbers_are_told_as_prometheus_reads_them() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    daemon.well(&["create", "web", "--memory", "128M"]);
    daemon.until("web is seen", |daemon| {
        let insight = &daemon.vm("web")["insight"];
        insight["standing"] == "fine" && insight["claimed_used_bytes"].is_u64()
    });
    let scrape = |accept: &str, path: &str| {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, _) = text.split_once("\r\n\r\n").unwrap();
        (head.to_lowercase(), text)
    };
    let (head, text) = scrape("*/*", "/metrics?libvirt=true");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let claimed = value("mother_guest_claims_memory_used_bytes{vm=\"web\"}");
    let kernel = value("mother_guest_kernel_memory_used_bytes{vm=\"web\"}");
    let held = value("mother_hypervisor_memory_resident_bytes{vm=\"web\"}");
    assert!(claimed > 1e6 && kernel > 1e6 && held > claimed && held <= f64::from(128 << 20));
    assert!(value("mother_guest_standing{standing=\"fine\",vm=\"web\"}") > 0.0);
    assert!(value("mother_host_guests_believed_bytes") >= f64::from(128 << 20));
    assert!(value("libvirt_domain_info_virtual_cpus{domain=\"web\"}") > 0.0);
    let (head, open) = scrape("application/openmetrics-text", "/metrics");
    assert!(
        head.contains("application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    assert!(open.contains("# EOF\n"));
    check_with_promtool(&daemon, &text);
}

/// Debian's own judge of numbers, where it is installed.
fn check_with_promtool(daemon: &Daemon, text: &str) {
    if daemon.mother.shell("command -v promtool").status != Some(0) {
        // Written, not printed: the test harness would keep what is printed to itself.
        let mut stderr = std::io::stderr();
        writeln!(stderr, "skipped: this host has no promtool").unwrap();
        return;
    }
    // Chunks of HTTP are lines of their own.
    let plain: String = text
        .lines()
        .filter(|line| line.starts_with('#') || line.contains(' ') && !line.contains(": "))
        .filter(|line| !line.starts_with("HTTP"))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(daemon.folder.path().join("numbers"), plain).unwrap();
    let ran = daemon.mother.shell("promtool check metrics < numbers 2>&1");
    assert_eq!(ran.status, Some(0), "{}", ran.stdout);
}

/// Debian's Prometheus scrapes a daemon over TLS; every query of the dashboard and of the rules is asked of it.
#[test]
fn a_real_prometheus_answers_every_query_of_the_dashboard_and_of_the_rules() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    if daemon.mother.shell("command -v prometheus").status != Some(0) {
        // Written, not printed: the test harness would keep what is printed to itself.
        let mut stderr = std::io::stderr();
        writeln!(stderr, "skipped: this host has no prometheus").unwrap();
        return;
    }
    daemon.well(&[
        "create",
        "web",
        "--memory",
        "128M",
        "--resident-limit",
        "90%",
    ]);
    daemon.well(&["create", "lost", "--kernel", "/nowhere"]);
    daemon.until("web is seen", |daemon| {
        let insight = &daemon.vm("web")["insight"];
        insight["claimed_used_bytes"].is_u64() && insight["working_set"].is_object()
    });
    let token = daemon.well(&["token", "add", "prometheus"]);
    let packaging = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging");
    let rules = format!("{packaging}/prometheus/alerts.yml");
    let config = format!(
        "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\nrule_files: [{rules}]\nscrape_configs:\n  - job_name: mother\n    \
         scheme: https\n    tls_config: {{ ca_file: state/certificate.pem, server_name: localhost }}\n    \
         authorization: {{ credentials: {} }}\n    static_configs: [{{ targets: [\"{}\"] }}]\n",
        token.trim(),
        daemon.address
    );
    fs::write(daemon.folder.path().join("prometheus.yml"), config).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut prometheus = daemon
        .mother
        .command("prometheus")
        .args([
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=tsdb",
            "--log.level=error",
        ])
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .spawn()
        .unwrap();
    let asked = |path: &str| -> Option<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
    };
    let query = |query: &str| -> usize {
        let escaped: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = asked(&format!("/api/v1/query?query={escaped}"));
        answer.map_or(0, |answer| {
            answer["data"]["result"].as_array().map_or(0, Vec::len)
        })
    };
    // A rate needs some readings.
    daemon.until("Prometheus has read", |_| {
        query("rate(mother_cpu_seconds_total[1m]) > 0") > 0
    });
    let dashboard: Value = serde_json::from_str(
        &fs::read_to_string(format!("{packaging}/grafana/mother.json")).unwrap(),
    )
    .unwrap();
    let mut panels = 0;
    for target in dashboard["panels"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
    {
        let text = target["expr"].as_str().unwrap();
        // Nothing contradicts in this guest: the series is there, and nothing of it is 1.
        let expected = if text.ends_with("contradicts == 1") {
            0
        } else {
            1
        };
        let text = text
            .strip_suffix(" == 1")
            .filter(|_| expected == 0)
            .unwrap_or(text);
        assert!(query(text) >= 1, "{text}");
        panels += 1;
    }
    assert!(panels > 15);
    let has_fired =
        |name: &str, vm: &str| query(&format!("ALERTS{{alertname=\"{name}\",vm=\"{vm}\"}}")) > 0;
    daemon.until("what is wrong with `lost` is told", |_| {
        has_fired("DeclaredVmTrouble", "lost") && has_fired("DeclaredVmDown", "lost")
    });
    assert!(!has_fired("GuestContradicts", "web") && !has_fired("DeclaredVmDown", "web"));
    prometheus.kill().unwrap();
    prometheus.wait().unwrap();
}

#[test]
fn a_service_manager_is_told_when_it_begins_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let mother = common::Mother::new(folder.path());
    let told = folder.path().join("notify");
    let listener = std::os::unix::net::UnixDatagram::bind(&told).unwrap();
    listener
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut command = std::process::Command::new(mother.program());
    let mut daemon = command
        .args(["serve", "--state"])
        .arg(folder.path().join("state"))
        .env("XDG_RUNTIME_DIR", mother.vms().parent().unwrap())
        .env("NOTIFY_SOCKET", &told)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let next = || {
        let mut bytes = [0; 100];
        let count = listener.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    assert_eq!(next(), "READY=1");
    assert!(mother.vms().join("api.sock").exists());
    mother.shell(&format!("kill {}", daemon.id()));
    assert_eq!(next(), "STOPPING=1");
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
    assert!(!mother.vms().join("api.sock").exists());
}

/// Node and Chromium, where they are installed: what a person sees and does on the page, and that a guest's hostile words
/// do nothing there.
#[test]
fn the_page_shows_guests_as_they_are_and_obeys_a_keyboard() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    for program in ["node", "chromium"] {
        if daemon.mother.shell(&format!("command -v {program}")).status != Some(0) {
            // Written, not printed: the test harness would keep what is printed to itself.
            let mut stderr = std::io::stderr();
            writeln!(stderr, "skipped: this host has no {program}").unwrap();
            return;
        }
    }
    let test = concat!(env!("CARGO_MANIFEST_DIR"), "/../serve/page/test");
    let ran = daemon
        .mother
        .shell(&format!("node {test}/parts.test.mjs 2>&1"));
    assert_eq!(ran.status, Some(0), "{}", ran.stdout);
    daemon.well(&["create", "web", "--memory", "128M"]);
    daemon.well(&["create", "aaa", "--memory", "128M"]);
    let token = |name: &str, role: &str| daemon.well(&["token", "add", name, "--role", role]);
    let operator = token("otto", "operator");
    let reader = token("eve", "read-only");
    for name in ["web", "aaa"] {
        daemon.until("the guest is seen", |daemon| {
            daemon.vm(name)["insight"]["rows"].is_array()
        });
    }
    let line = format!(
        "node {test}/page.test.mjs https://{} {} web {} 2>&1",
        daemon.address,
        operator.trim(),
        reader.trim()
    );
    let mut command = daemon.mother.command_for_long("bash");
    let output = command.args(["-c", &line]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

#[test]
fn whoever_misbehaves_is_answered_and_others_are_served() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let check = |sent: &[u8], expected: &str| {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        // It may hang up while there is more to say.
        let _ = stream.write_all(sent);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(
            answer.starts_with(expected),
            "{:?}: {answer:?}",
            String::from_utf8_lossy(&sent[..sent.len().min(60)])
        );
    };
    check(b"\0\0\0\0\r\n\r\n", "HTTP/1.1 400");
    check(b"GET / HTTP/9.9\r\n\r\n", "HTTP/1.1 400");
    let long = format!(
        "GET /{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "a".repeat(100_000)
    );
    check(long.as_bytes(), "HTTP/1.1 4");
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(1000));
    check(many.as_bytes(), "HTTP/1.1 431");
    let post = |kind: &str, body: &str, length: usize| {
        format!(
            "POST /v1/vms HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    check(post("application/json", "{", 1).as_bytes(), "HTTP/1.1 400");
    check(post("text/plain", "{}", 2).as_bytes(), "HTTP/1.1 415");
    let deep = "[".repeat(10_000);
    check(
        post("application/json", &deep, deep.len()).as_bytes(),
        "HTTP/1.1 400",
    );
    check(
        post("application/json", "", 1 << 30).as_bytes(),
        "HTTP/1.1 413",
    );
    // Who holds connections over TLS and says nothing keeps out neither the host's own user nor, when they have ended, others.
    let serve = daemon_process(&daemon);
    let before = held_megabytes(&serve);
    let connect = || {
        let stream = TcpStream::connect(&daemon.address).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        Some(stream)
    };
    let held: Vec<TcpStream> = (0..1500).filter_map(|_| connect()).collect();
    assert!(held.len() > 1000, "{}", held.len());
    let begin = Instant::now();
    assert_eq!(daemon.get("/v1/vms")["vms"], json!([]));
    assert!(begin.elapsed() < Duration::from_secs(5));
    // And who goes on to come, ten thousand in all, is sent away and costs nothing.
    for _ in held.len()..10_000 {
        drop(TcpStream::connect(&daemon.address));
    }
    let local: Vec<UnixStream> = (0..1100)
        .filter_map(|_| UnixStream::connect(daemon.socket()).ok())
        .collect();
    let is_told = |mut stream: &UnixStream| {
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.starts_with("HTTP/1.1 503") && answer.ends_with('}')
    };
    assert!(local.last().is_some_and(is_told));
    let after = held_megabytes(&serve);
    assert!(
        after < before + 64.0,
        "{before:.1} MiB, then {after:.1} MiB"
    );
    drop((local, held));
    let token = daemon.well(&["token", "add", "eve"]);
    daemon.until("there is room again", |daemon| {
        daemon
            .with_token(token.trim())
            .ask("GET", "/v1/vms", None, None)
            .is_ok()
    });
}

/// CPU time of a process, in seconds (proc_pid_stat(5)).
fn cpu_seconds(process: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<f64> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse().unwrap())
        .collect();
    fields.iter().sum::<f64>() / 100.0
}

fn held_megabytes(process: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// The daemon below `timeout`.
fn daemon_process(daemon: &Daemon) -> String {
    let timeout = daemon.process.as_ref().unwrap().id().to_string();
    children(&timeout).remove(0)
}

fn children(process: &str) -> Vec<String> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    children
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// `cargo xtask bench serve`: 1000 declared VMs, and 60 guests that run.
#[test]
#[ignore = "a measurement of some minutes"]
fn what_a_daemon_costs() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let write = |count: usize, desired: &str| {
        let vm = |number| format!("[vm.v{number:04}]\nmemory = \"96M\"\ndesired = \"{desired}\"\n");
        let text: String = (0..count).map(vm).collect();
        fs::write(daemon.folder.path().join("vms.toml"), text).unwrap();
        daemon.well(&["apply", "-f", "vms.toml"]);
    };
    let time = |path: &str, count: usize| {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        let mut times: Vec<f64> = (0..count)
            .map(|_| {
                let begin = Instant::now();
                write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                read_answer(&mut stream);
                begin.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let all: f64 = times.iter().sum();
        println!(
            "{path}: median {:.2} ms, 99th {:.2} ms, {:.0} each second",
            times[count / 2],
            times[count * 99 / 100],
            count as f64 / all * 1e3
        );
    };
    write(1000, "stopped");
    println!("1000 declared VMs:");
    time("/v1/vms", 200);
    time("/v1/vms/v0003", 3000);
    write(60, "running");
    let deadline = Instant::now() + Duration::from_secs(900);
    loop {
        let vms = daemon.get("/v1/vms?state=running");
        let seen = vms["vms"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|vm| vm["insight"]["standing"] == "fine");
        if seen.count() == 60 {
            break;
        }
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_secs(2));
    }
    thread::sleep(Duration::from_secs(30));
    println!("1000 declared VMs, 60 of them guests that run and sleep:");
    time("/v1/vms", 100);
    time("/v1/vms/v0003", 3000);
    time("/metrics", 20);
    let of_timeout = daemon.process.as_ref().unwrap().id().to_string();
    let serve = children(&of_timeout).remove(0);
    let observer = children(&serve).remove(0);
    let before = [cpu_seconds(&serve), cpu_seconds(&observer)];
    thread::sleep(Duration::from_secs(60));
    println!(
        "daemon: {:.1} % of a core, {:.0} MiB; observer: {:.1} %, {:.0} MiB",
        (cpu_seconds(&serve) - before[0]) / 0.6,
        held_megabytes(&serve),
        (cpu_seconds(&observer) - before[1]) / 0.6,
        held_megabytes(&observer)
    );
}

/// Reads one answer that says how long it is.
fn read_answer(stream: &mut UnixStream) {
    let mut bytes = Vec::new();
    let mut some = vec![0; 64 * 1024];
    loop {
        let count = stream.read(&mut some).unwrap();
        bytes.extend_from_slice(&some[..count]);
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap();
        let length: usize = length.lines().next().unwrap().parse().unwrap();
        if bytes.len() >= end + 4 + length {
            return;
        }
    }
}
