//! The daemon and a collector of OpenTelemetry: what arrives there, and what is not lost while it is away.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::daemon::Daemon;

/// A request that came: its path, its headers in lower case, and what it says.
struct Request {
    path: String,
    headers: String,
    body: Value,
}

/// A collector that keeps what it takes.
#[derive(Clone)]
struct Collector {
    port: u16,
    /// Whether it takes nothing now, and says that it will later.
    is_away: Arc<AtomicBool>,
    taken: Arc<Mutex<Vec<Request>>>,
}

impl Collector {
    fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let collector = Collector {
            port: listener.local_addr().unwrap().port(),
            is_away: Arc::default(),
            taken: Arc::default(),
        };
        let serving = collector.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                // A daemon that is killed may leave in the middle of a request.
                let _ = serving.serve(&stream.unwrap());
            }
        });
        collector
    }

    fn serve(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let headers = head.to_lowercase();
        let length = headers
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.unwrap().parse().unwrap()];
        reader.read_exact(&mut body)?;
        if self.is_away.load(Ordering::Relaxed) {
            let later = "HTTP/1.1 503 Later\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n";
            return stream.write_all(later.as_bytes());
        }
        self.taken.lock().unwrap().push(Request {
            path: head.split(' ').nth(1).unwrap().to_owned(),
            headers,
            body: serde_json::from_slice(&body).unwrap(),
        });
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    }

    /// Events that were taken, as (number, name, VM), in the order in which they came.
    fn events(&self) -> Vec<(u64, String, String)> {
        let taken = self.taken.lock().unwrap();
        let logs = taken.iter().filter(|it| it.path == "/v1/logs");
        let records = logs.flat_map(|request| {
            let scope = &request.body["resourceLogs"][0]["scopeLogs"][0];
            scope["logRecords"].as_array().unwrap()
        });
        let text = |record: &Value, key: &str| {
            let attributes = record["attributes"].as_array().unwrap().iter();
            let mut found = attributes.filter(|it| it["key"] == key);
            let value = found
                .next()
                .map(|it| it["value"]["stringValue"].as_str().unwrap());
            value.unwrap_or_default().to_owned()
        };
        let event = |record: &Value| {
            let id = text(record, "mother.event.id").parse().unwrap();
            let name = record["eventName"].as_str().unwrap().to_owned();
            (id, name, text(record, "mother.vm"))
        };
        records.map(event).collect()
    }

    fn until(&self, what: &str, is_so: impl Fn(&Collector) -> bool) {
        let begun = Instant::now();
        while !is_so(self) {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{what} does not come: {:?}",
                self.events()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn has(&self, name: &str, vm: &str) -> bool {
        let mut events = self.events().into_iter();
        events.any(|event| event.1 == name && event.2 == vm)
    }

    /// Metrics of the last time that this one was sent.
    fn metrics(&self) -> Vec<Value> {
        let taken = self.taken.lock().unwrap();
        let last = taken.iter().rfind(|it| it.path == "/v1/metrics");
        let metrics = last.map(|request| {
            let scope = &request.body["resourceMetrics"][0]["scopeMetrics"][0];
            scope["metrics"].as_array().unwrap().clone()
        });
        metrics.unwrap_or_default()
    }
}

#[test]
fn a_collector_has_every_number_and_each_event_once() {
    let collector = Collector::start();
    let url = format!("http://127.0.0.1:{}", collector.port);
    let variables = [
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=k%3D1"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test",
        ),
    ];
    let Some(mut daemon) = Daemon::start_in(&["--otlp", &url], &variables) else {
        return;
    };
    daemon.well(&["create", "web", "--memory", "96M"]);
    collector.until("the start of web", |it| it.has("mother.started", "web"));
    let of_web = |metrics: &[Value], name: &str, kind: &str| {
        let metric = metrics.iter().find(|it| it["name"] == name).cloned();
        let points = metric.unwrap_or_default()[kind]["dataPoints"].take();
        let is_web = |point: &Value| {
            point["attributes"][0]
                == serde_json::json!(
                    { "key": "vm", "value": { "stringValue": "web" } }
                )
        };
        points
            .as_array()
            .into_iter()
            .flatten()
            .find(|it| is_web(it))
            .cloned()
    };
    collector.until("the CPU time of web", |it| {
        of_web(&it.metrics(), "mother_cpu_seconds_total", "sum").is_some()
    });
    let metrics = collector.metrics();
    let cpu = of_web(&metrics, "mother_cpu_seconds_total", "sum").unwrap();
    assert!(cpu["asDouble"].as_f64().unwrap() > 0.0, "{cpu}");
    let nanoseconds = |key: &str| cpu[key].as_str().unwrap().parse::<u64>().unwrap();
    assert!(
        nanoseconds("startTimeUnixNano") < nanoseconds("timeUnixNano"),
        "{cpu}"
    );
    // The next time it is the same beginning: another one would mean that the counter began anew.
    let begun = cpu["startTimeUnixNano"].clone();
    collector.until("the next CPU time", |it| {
        of_web(&it.metrics(), "mother_cpu_seconds_total", "sum").is_some_and(|later| {
            later["timeUnixNano"] != cpu["timeUnixNano"] && later["startTimeUnixNano"] == begun
        })
    });
    let up = of_web(&metrics, "mother_vm_up", "gauge").unwrap();
    assert_eq!(up["asDouble"], 1.0);
    // The same names as a scraper gets.
    let scraped = daemon.mother.shell(&format!(
        "curl -s --unix-socket {} http://localhost/metrics",
        daemon.socket().display()
    ));
    let scraped: BTreeSet<&str> = scraped
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    assert!(scraped.len() > 40, "{scraped:?}");
    // What the guest has said since the last time comes with the next.
    collector.until("every number that a scraper gets", |it| {
        let sent = it.metrics();
        let sent: BTreeSet<&str> = sent.iter().map(|it| it["name"].as_str().unwrap()).collect();
        scraped.is_subset(&sent)
    });
    let taken = collector.taken.lock().unwrap();
    assert!(
        taken
            .iter()
            .all(|it| it.headers.contains("\r\napi-key: k=1\r\n"))
    );
    let resource = &taken[0].body["resourceMetrics"][0]["resource"]["attributes"];
    let resource = resource.to_string();
    assert!(resource.contains("deployment.environment.name") && resource.contains("host.name"));
    drop(taken);

    // Away while things happen, and the daemon is killed meanwhile.
    collector.is_away.store(true, Ordering::Relaxed);
    daemon.well(&["create", "later", "--stopped"]);
    daemon.kill();
    daemon.begin();
    daemon.well(&["create", "last", "--stopped"]);
    collector.is_away.store(false, Ordering::Relaxed);
    collector.until("what happened meanwhile", |it| {
        it.has("mother.declared", "last")
    });
    assert!(collector.has("mother.declared", "later"));
    let numbers: Vec<u64> = collector.events().iter().map(|event| event.0).collect();
    let all: Vec<u64> = (numbers[0]..).take(numbers.len()).collect();
    assert_eq!(numbers, all);
}
