//! Redfish over HTTPS, from a daemon of the test's own, with guests that boot.
//!
//! What other people's tools make of it is seen by `tools/redfish/run.sh`, which needs them.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "redfish/https.rs"]
mod https;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::https::{Answer, Client};
use crate::cloud_image::disc;
use crate::common::daemon::Daemon;

/// How long a guest may take for anything.
const PATIENCE: Duration = Duration::from_secs(90);

/// A daemon and who asks it.
struct Service {
    daemon: Daemon,
    client: Client,
    token: String,
}

impl Service {
    /// None, with a loud word, where there is no default guest.
    fn new() -> Option<Service> {
        let daemon = Daemon::start()?;
        let (_, port) = daemon.address.rsplit_once(':').unwrap();
        let certificate = daemon.folder.path().join("state/certificate.pem");
        let token = daemon.well(&["token", "add", "ada", "--role", "administrator"]);
        Some(Service {
            client: Client::new(port.parse().unwrap(), &certificate),
            token: token.trim().to_owned(),
            daemon,
        })
    }

    /// The same after the daemon has begun again, which listens elsewhere.
    fn again(self) -> Service {
        let (_, port) = self.daemon.address.rsplit_once(':').unwrap();
        let certificate = self.daemon.folder.path().join("state/certificate.pem");
        Service {
            client: Client::new(port.parse().unwrap(), &certificate),
            ..self
        }
    }

    /// Asks as nobody.
    fn bare(&self, line: &str, headers: &[(&str, &str)]) -> Answer {
        self.client.ask(line, headers, None)
    }

    /// Asks with the token.
    fn ask(&self, line: &str, body: Option<&Value>) -> Answer {
        let bearer = format!("Bearer {}", self.token);
        self.client.ask(line, &[("Authorization", &bearer)], body)
    }

    fn reset(&self, name: &str, kind: &str) -> Answer {
        let line = format!("POST /redfish/v1/Systems/{name}/Actions/ComputerSystem.Reset");
        self.ask(&line, Some(&json!({ "ResetType": kind })))
    }

    fn power(&self, name: &str) -> String {
        let system = self.ask(&format!("GET /redfish/v1/Systems/{name}"), None);
        system.body["PowerState"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    fn wait_for_power(&self, name: &str, wanted: &str) {
        let until = Instant::now() + PATIENCE;
        while self.power(name) != wanted {
            assert!(Instant::now() < until, "{name} is {}", self.power(name));
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn create(&self, words: &[&str]) {
        let ran = self.daemon.call(&[&["create"], words].concat());
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    }
}

#[test]
fn anybody_sees_the_root_and_nothing_else() {
    let Some(service) = Service::new() else {
        return;
    };
    let check = |line: &str, headers: &[(&str, &str)], status: u16, message: &str| {
        let answer = service.bare(line, headers);
        assert_eq!(
            (answer.status, answer.message_id()),
            (status, message),
            "{line}: {answer:?}"
        );
        assert_eq!(answer.header("odata-version"), "4.0", "{line}");
        assert_ne!(answer.header("cache-control"), "", "{line}");
        answer
    };
    let versions = check("GET /redfish", &[], 200, "");
    assert_eq!(versions.body, json!({ "v1": "/redfish/v1/" }));
    let root = check("GET /redfish/v1/", &[], 200, "");
    assert!(root.header("link").ends_with("rel=describedby"));
    assert_eq!(root.header("allow"), "GET, HEAD");
    check("GET /redfish/v1", &[], 200, "");
    check("GET /redfish/v1/odata", &[], 200, "");
    let metadata = check("GET /redfish/v1/$metadata", &[], 200, "");
    assert!(
        metadata
            .header("content-type")
            .starts_with("application/xml")
    );
    let head = check("HEAD /redfish/v1/", &[], 200, "");
    assert_eq!(head.body, Value::Null);
    let same = [("If-None-Match", root.header("etag"))];
    check("GET /redfish/v1/", &same, 304, "");
    check(
        "GET /redfish/v1/",
        &[("OData-Version", "4.1")],
        412,
        "HeaderInvalid",
    );
    check("GET /redfish/v1/?$unknown", &[], 501, "QueryNotSupported");
    check("GET /redfish/v1/?unknown", &[], 200, "");
    let closed = check("GET /redfish/v1/Systems", &[], 401, "NoValidSession");
    assert!(closed.header("www-authenticate").starts_with("Basic"));
    // What an open answer leads to is not open.
    check("GET /redfish/v1/?$expand=.", &[], 401, "NoValidSession");
    check("GET /redfish/v1/Nothing", &[], 401, "NoValidSession");
    check("DELETE /redfish/v1/", &[], 401, "NoValidSession");
    check(
        "POST /redfish/v1/SessionService/Sessions",
        &[],
        400,
        "PropertyMissing",
    );
    let wrong = service.ask("DELETE /redfish/v1/", None);
    assert_eq!((wrong.status, wrong.header("allow")), (405, "GET, HEAD"));
    assert_eq!(service.ask("GET /redfish/v1/Nothing", None).status, 404);
}

#[test]
fn accounts_and_sessions_open_the_door_and_are_written_down() {
    let Some(service) = Service::new() else {
        return;
    };
    let secret = "abcdefghijklmnopqrstuvwxyz012345";
    let accounts = "POST /redfish/v1/AccountService/Accounts";
    let eve = json!({ "UserName": "eve", "Password": secret, "RoleId": "ReadOnly" });
    let made = service.ask(accounts, Some(&eve));
    assert_eq!(
        (made.status, &made.body["Password"]),
        (201, &Value::Null),
        "{made:?}"
    );
    let place = made.header("location").to_owned();
    assert_eq!(
        service.ask(accounts, Some(&eve)).message_id(),
        "ResourceAlreadyExists"
    );

    // As to the collection, so to its members.
    let line = "POST /redfish/v1/SessionService/Sessions/Members";
    let entry = json!({ "UserName": "eve", "Password": secret });
    let opened = service.client.ask(line, &[], Some(&entry));
    assert_eq!(opened.status, 201, "{opened:?}");
    let token = opened.header("x-auth-token");
    let session = opened.header("location");
    let as_eve = |line: &str, body: Option<&Value>| {
        service.client.ask(line, &[("X-Auth-Token", token)], body)
    };
    assert_eq!(as_eve("GET /redfish/v1/Systems", None).status, 200);
    let all = as_eve("GET /redfish/v1/AccountService/Accounts", None);
    assert_eq!(
        all.body["Members"],
        json!([{ "@odata.id": place }]),
        "others' accounts are not hers to see"
    );
    assert_eq!(as_eve(accounts, Some(&eve)).status, 403);
    let king = json!({ "RoleId": "Administrator" });
    assert_eq!(as_eve(&format!("PATCH {place}"), Some(&king)).status, 403);

    // Who has seen another state of an account changes nothing.
    let bearer = format!("Bearer {}", service.token);
    let patch = |tag: &str| {
        let headers = [("Authorization", bearer.as_str()), ("If-Match", tag)];
        service.client.ask(
            &format!("PATCH {place}"),
            &headers,
            Some(&json!({ "RoleId": "Operator" })),
        )
    };
    assert_eq!(patch("\"other\"").message_id(), "PreconditionFailed");
    assert_eq!(patch(made.header("etag")).status, 200);
    assert_eq!(patch(made.header("etag")).status, 412);
    // Her session was that of another role.
    assert_eq!(as_eve("GET /redfish/v1/Systems", None).status, 401);
    assert_eq!(service.ask(&format!("DELETE {session}"), None).status, 404);
    assert_eq!(service.ask(&format!("DELETE {place}"), None).status, 204);

    let audit = service.ask("GET /v1/audit", None);
    let calls = audit.body["calls"].as_array().unwrap();
    let has = |who: &str, method: &str, status: u16| {
        calls
            .iter()
            .any(|call| call["who"] == who && call["method"] == method && call["status"] == status)
    };
    assert!(
        has("ada", "POST", 201) && has("eve", "POST", 201) && has("eve", "PATCH", 403),
        "{calls:?}"
    );
}

#[test]
fn a_guest_is_driven_off_and_on() {
    let Some(service) = Service::new() else {
        return;
    };
    service.create(&["web", "--memory", "128M"]);
    service.wait_for_power("web", "On");
    let system = service.ask("GET /redfish/v1/Systems/web", None).body;
    assert_eq!(system["SystemType"], "Virtual");
    assert_eq!(system["MemorySummary"]["TotalSystemMemoryGiB"], 0.125);
    for (reset, wanted) in [
        ("Pause", "Paused"),
        ("Resume", "On"),
        ("ForceOff", "Off"),
        ("On", "On"),
        ("ForceRestart", "On"),
    ] {
        // A guest may run a moment before the order to start it is done.
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut answer = service.reset("web", reset);
        while answer.status == 409 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(50));
            answer = service.reset("web", reset);
        }
        assert!(matches!(answer.status, 202 | 204), "{reset}: {answer:?}");
        service.wait_for_power("web", wanted);
    }
    let refused = service.reset("web", "On");
    assert_eq!(refused.status, 409, "{refused:?}");
    assert_eq!(
        service.reset("web", "Hibernate").message_id(),
        "ActionParameterValueNotInList"
    );
    assert_eq!(service.reset("other", "On").status, 404);

    // Before it has said where its interrupts go, a guest dies of one, as on any machine.
    let up = service.daemon.call(&["wait", "web", "--for", "login"]);
    assert_eq!(up.status, Some(0), "{}", up.stderr);
    let sent = service.reset("web", "Nmi");
    assert!(matches!(sent.status, 202 | 204), "{sent:?}");
    service
        .daemon
        .until("the guest says that it came", |daemon| {
            let said = daemon.call(&["dmesg", "web"]).stdout;
            said.contains("NMI received for unknown reason")
        });

    // The guest hears the power button when it has started.
    let answer = service.reset("web", "GracefulShutdown");
    assert!(matches!(answer.status, 202 | 204), "{answer:?}");
    service.wait_for_power("web", "Off");
    let off = service.ask(
        "GET /redfish/v1/Systems?$filter=PowerState%20eq%20'Off'",
        None,
    );
    assert_eq!(off.body["Members@odata.count"], 1);
    let log = service.ask(
        "GET /redfish/v1/Managers/mother/LogServices/Events/Entries",
        None,
    );
    let entries = log.body["Members"].as_array().unwrap();
    assert!(
        entries
            .iter()
            .any(|entry| entry["MessageId"] == "Mother.1.1.Paused"),
        "{entries:?}"
    );
}

/// A server of one file, for as long as the test runs.
fn serve_file(bytes: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = [0; 4096];
            let count = stream.read(&mut asked).unwrap();
            let asked = String::from_utf8_lossy(&asked[..count]).into_owned();
            let head = if asked.starts_with("GET /own.iso ") {
                format!("200 OK\r\ncontent-length: {}", bytes.len())
            } else {
                "404 Not Found\r\ncontent-length: 0".to_owned()
            };
            let _ = write!(stream, "HTTP/1.1 {head}\r\nconnection: close\r\n\r\n");
            if head.starts_with("200") {
                let _ = stream.write_all(&bytes);
            }
        }
    });
    format!("http://{address}")
}

/// A server that keeps half of its file back; the address, who asked, and who may go on.
fn serve_half(bytes: Vec<u8>) -> (String, Receiver<()>, Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (is_asked, asked) = channel();
    let (go_on, gone_on) = channel();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        let length = bytes.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&bytes[..length / 2]).unwrap();
        is_asked.send(()).unwrap();
        let _ = gone_on.recv();
        let _ = stream.write_all(&bytes[length / 2..]);
    });
    (format!("http://{address}/own.iso"), asked, go_on)
}

#[test]
fn what_is_fetched_for_a_vm_is_not_for_the_next_of_its_name() {
    let Some(service) = Service::new() else {
        return;
    };
    let drive = "/redfish/v1/Systems/web/VirtualMedia/Cd";
    let insert = |image: &str| {
        let line = format!("POST {drive}/Actions/VirtualMedia.InsertMedia");
        service.ask(&line, Some(&json!({ "Image": image })))
    };
    let (image, asked, go_on) = serve_half(disc());
    service.create(&["web", "--stopped"]);
    let begun = thread::scope(|scope| {
        let begun = scope.spawn(|| insert(&image));
        asked.recv_timeout(PATIENCE).unwrap();
        service.daemon.well(&["delete", "web"]);
        service.create(&["web", "--stopped"]);
        begun.join().unwrap()
    });
    assert!(matches!(begun.status, 202 | 409), "{begun:?}");
    let own = serve_file(disc());
    let of_next = insert(&format!("{own}/own.iso"));
    assert!(matches!(of_next.status, 202 | 204), "{of_next:?}");
    drop(go_on);
    service.daemon.until("the next one has its own", |_| {
        let shown = service.ask(&format!("GET {drive}"), None).body;
        shown["Image"].as_str() == Some(&format!("{own}/own.iso"))
    });
    let media = service.daemon.folder.path().join("state/media");
    assert_eq!(std::fs::read_dir(&media).unwrap().count(), 1);
    let insertions = service.daemon.get("/v1/operations");
    let all = insertions["operations"].as_array().unwrap();
    let states: Vec<_> = all
        .iter()
        .filter(|one| one["what"] == "insert medium web")
        .map(|one| one["state"].clone())
        .collect();
    assert_eq!(states, ["done", "cancelled"], "{insertions}");
}

#[test]
fn a_medium_is_inserted_and_started_from_once() {
    let Some(mut service) = Service::new() else {
        return;
    };
    let target = service.daemon.folder.path().join("target.raw");
    std::fs::File::create(&target)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    let disk = target.display().to_string();
    service.create(&["web", "--memory", "128M", "--disk", &disk, "--stopped"]);
    let server = serve_file(disc());
    let drive = "/redfish/v1/Systems/web/VirtualMedia/Cd";
    let shown = service.ask(&format!("GET {drive}"), None);
    assert_eq!(
        (shown.status, &shown.body["Inserted"]),
        (200, &json!(false)),
        "{shown:?}"
    );
    let insert = |service: &Service, image: &str| {
        let line = format!("POST {drive}/Actions/VirtualMedia.InsertMedia");
        let answer = service.ask(&line, Some(&json!({ "Image": image })));
        if answer.status != 202 {
            return answer;
        }
        let monitor = format!("GET {}", answer.header("location"));
        let until = Instant::now() + PATIENCE;
        loop {
            let end = service.ask(&monitor, None);
            if end.status != 202 {
                return end;
            }
            assert!(Instant::now() < until);
            thread::sleep(Duration::from_millis(100));
        }
    };
    let media = service.daemon.folder.path().join("state/media");
    let files = || std::fs::read_dir(&media).unwrap().count();
    assert_eq!(
        insert(&service, &format!("{server}/nothing.iso")).status,
        409
    );
    assert_eq!(insert(&service, "/nowhere/a.iso").status, 400);
    assert_eq!(files(), 0, "what failed leaves nothing");
    let image = format!("{server}/own.iso");
    let inserted = insert(&service, &image);
    assert_eq!(inserted.status, 204, "{inserted:?}");
    assert_eq!(insert(&service, &image).status, 409, "eject it first");
    let shown = service
        .ask("GET /redfish/v1/Managers/mother/VirtualMedia/web", None)
        .body;
    assert_eq!(
        (&shown["Inserted"], &shown["Image"]),
        (&json!(true), &json!(image))
    );
    assert!(
        shown["Description"].as_str().unwrap().contains("SHA-256"),
        "{shown}"
    );

    let system = "/redfish/v1/Systems/web";
    let patch = |service: &Service, boot: Value| {
        service.ask(&format!("PATCH {system}"), Some(&json!({ "Boot": boot })))
    };
    let refused = patch(&service, json!({ "BootSourceOverrideTarget": "Pxe" }));
    assert_eq!(
        refused.message_id(),
        "PropertyValueNotInList",
        "{refused:?}"
    );
    let once = json!({ "BootSourceOverrideTarget": "Cd", "BootSourceOverrideEnabled": "Once" });
    let patched = patch(&service, once);
    assert_eq!(
        patched.body["Boot"]["BootSourceOverrideEnabled"], "Once",
        "{patched:?}"
    );

    // What was said outlives the daemon.
    service.daemon.kill();
    service.daemon.begin();
    let service = service.again();
    let boot = |service: &Service| service.ask(&format!("GET {system}"), None).body["Boot"].clone();
    assert_eq!(boot(&service)["BootSourceOverrideTarget"], "Cd");
    assert_eq!(files(), 1);
    let started = service.reset("web", "On");
    assert!(matches!(started.status, 202 | 204), "{started:?}");
    service
        .daemon
        .until("the disc was started from, and has ended", |daemon| {
            let shown = daemon.call(&["inspect", "web"]).stdout;
            shown.contains("\"own\", by /isolinux/isolinux.cfg")
        });
    assert_eq!(
        boot(&service)["BootSourceOverrideEnabled"],
        "Disabled",
        "it held once"
    );
    service.wait_for_power("web", "Off");
    service.reset("web", "On");
    service.wait_for_power("web", "On");
    service
        .daemon
        .until("it starts as it is declared", |daemon| {
            !daemon.call(&["inspect", "web"]).stdout.contains("isolinux")
        });

    // What is done to the drive of a VM that runs holds from its next start on, and that is said.
    let eject = format!("POST {drive}/Actions/VirtualMedia.EjectMedia");
    let ejected = service.ask(&eject, Some(&json!({})));
    assert_eq!(ejected.status, 200, "{ejected:?}");
    let said = &ejected.body["error"]["@Message.ExtendedInfo"][1]["MessageId"];
    assert!(
        said.as_str().unwrap().ends_with("ResetRequired"),
        "{ejected:?}"
    );
    assert_eq!(files(), 0);
    assert_eq!(service.ask(&eject, None).status, 409);
    // A medium goes with its VM.
    assert!(matches!(insert(&service, &image).status, 200 | 204));
    assert_eq!(files(), 1);
    service.daemon.well(&["delete", "web"]);
    assert_eq!(files(), 0);
}

#[test]
fn a_guest_that_does_not_listen_is_told_of() {
    let Some(service) = Service::new() else {
        return;
    };
    let deaf = "trap '' TERM; echo deaf; while :; do sleep 1; done";
    service.create(&[
        "deaf",
        "--memory",
        "96M",
        "--app",
        "/bin/sh",
        "--include",
        "/bin/sleep",
        "--",
        "-c",
        deaf,
    ]);
    service.wait_for_power("deaf", "On");
    service.daemon.until("the guest is deaf", |daemon| {
        daemon.call(&["logs", "deaf"]).stdout.contains("deaf")
    });
    let answer = service.reset("deaf", "GracefulShutdown");
    assert_eq!(
        (answer.status, &answer.body["TaskState"]),
        (202, &json!("Running")),
        "{answer:?}"
    );
    let monitor = format!("GET {}", answer.header("location"));
    let until = Instant::now() + PATIENCE;
    let end = loop {
        let end = service.ask(&monitor, None);
        if end.status != 202 {
            break end;
        }
        assert!(Instant::now() < until);
        thread::sleep(Duration::from_millis(500));
    };
    let text = end.body["error"]["message"].as_str().unwrap();
    assert!(
        end.status == 409 && text.contains("did not power off"),
        "{end:?}"
    );
    let task = service.ask(
        &format!("GET {}", answer.body["@odata.id"].as_str().unwrap()),
        None,
    );
    assert_eq!(task.body["TaskState"], "Exception");
    assert_eq!(service.power("deaf"), "Off");
}
