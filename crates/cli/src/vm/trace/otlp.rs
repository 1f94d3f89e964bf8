//! Events in the words of OpenTelemetry: log records of the OTLP/JSON encoding, one request on a line, as the file exporter
//! writes and collectors' file receivers read (opentelemetry.io/docs/specs/otel/protocol/file-exporter). Names of attributes
//! are those of the semantic conventions where they have one, and begin with `mother.` where not.

use api::VmName;
use insight::trace::{Actor, Event, SocketAddress, What};
use serde_json::{Value, json};

use super::words;

/// Severities of the data model (opentelemetry.io/docs/specs/otel/logs/data-model): INFO and the others by level.
const INFO: u8 = 9;
const WARN: u8 = 13;
const ERROR: u8 = 17;
const FATAL: u8 = 21;

/// A request with one record.
pub(super) fn request(name: &VmName, event: &Event) -> Value {
    let (number, text) = severity(&event.what);
    let mut attributes = Vec::new();
    if let Some(actor) = &event.process {
        add_actor(&mut attributes, actor);
    }
    add_what(&mut attributes, &event.what);
    if let Some(vcpu) = event.vcpu {
        add_number(&mut attributes, "mother.vcpu", vcpu.into());
    }
    let record = json!({
        // 64-bit numbers are texts in this encoding.
        "timeUnixNano": event.at_ns.to_string(),
        "observedTimeUnixNano": event.at_ns.to_string(),
        "severityNumber": number,
        "severityText": text,
        "eventName": format!("mother.guest.{}", event.what.kind().word()),
        "body": { "stringValue": words::what(event) },
        "attributes": attributes,
    });
    let mut resource = Vec::new();
    add_text(&mut resource, "service.name", "mother");
    add_text(&mut resource, "host.name", name.as_str());
    add_text(&mut resource, "mother.vm", name.as_str());
    json!({
        "resourceLogs": [{
            "resource": { "attributes": resource },
            "scopeLogs": [{
                "scope": { "name": "mother.trace", "version": env!("CARGO_PKG_VERSION") },
                "logRecords": [record],
            }],
        }],
    })
}

fn severity(what: &What) -> (u8, &'static str) {
    match what {
        What::Panic { .. } => (FATAL, "FATAL"),
        What::Log { level: 0..=2, .. } => (FATAL, "FATAL"),
        What::Log { level: 3, .. } => (ERROR, "ERROR"),
        What::Log { level: 4, .. } => (WARN, "WARN"),
        _ => (INFO, "INFO"),
    }
}

fn add(attributes: &mut Vec<Value>, key: &str, value: Value) {
    attributes.push(json!({ "key": key, "value": value }));
}

fn add_text(attributes: &mut Vec<Value>, key: &str, text: &str) {
    add(attributes, key, json!({ "stringValue": text }));
}

fn add_number(attributes: &mut Vec<Value>, key: &str, number: i64) {
    add(attributes, key, json!({ "intValue": number.to_string() }));
}

fn add_texts<'a>(attributes: &mut Vec<Value>, key: &str, texts: impl Iterator<Item = &'a str>) {
    let values: Vec<Value> = texts.map(|text| json!({ "stringValue": text })).collect();
    add(
        attributes,
        key,
        json!({ "arrayValue": { "values": values } }),
    );
}

fn add_actor(attributes: &mut Vec<Value>, actor: &Actor) {
    add_number(attributes, "process.pid", actor.pid.into());
    add_number(attributes, "thread.id", actor.tid.into());
    add_text(attributes, "thread.name", &actor.name);
    if let Some(identity) = actor.identity {
        add_number(attributes, "process.real_user.id", identity.uid.into());
        add_number(attributes, "process.user.id", identity.effective_uid.into());
    }
    if let Some(parent) = actor.ancestors.first() {
        add_number(attributes, "process.parent_pid", parent.pid.into());
    }
    let ancestors = actor
        .ancestors
        .iter()
        .map(|ancestor| ancestor.name.as_str());
    add_texts(attributes, "mother.process.ancestors", ancestors);
    if let Some(container) = &actor.container {
        add_text(attributes, "container.id", &container.id);
        if let Some(runtime) = &container.runtime {
            add_text(attributes, "container.runtime.name", runtime);
        }
    }
    if let Some(cgroup) = &actor.cgroup {
        add_text(attributes, "process.linux.cgroup", cgroup);
    }
}

fn add_what(attributes: &mut Vec<Value>, what: &What) {
    match what {
        What::Exec {
            executable,
            arguments,
            ..
        } => {
            if let Some(file) = executable {
                add_text(attributes, "process.executable.path", &file.path);
            }
            let arguments = arguments.iter().map(String::as_str);
            add_texts(attributes, "process.command_args", arguments);
        }
        What::Fork { child_pid, .. } => {
            add_number(attributes, "mother.child.pid", (*child_pid).into());
        }
        What::Exit { status, signal, .. } => {
            if let Some(status) = status {
                add_number(attributes, "process.exit.code", (*status).into());
            }
            if let Some(signal) = signal {
                add_number(attributes, "mother.exit.signal", (*signal).into());
            }
        }
        What::Credentials { new } => {
            if let Some(new) = new {
                add_number(attributes, "mother.new_user.id", new.effective_uid.into());
            }
        }
        What::Module { module, .. } => add_text(attributes, "mother.module", module),
        What::Connect { address, .. } => add_address(attributes, "network.peer", address),
        What::Bind { address, .. } => add_address(attributes, "network.local", address),
        What::Accept { peer, own } => {
            add_address(attributes, "network.peer", peer);
            add_address(attributes, "network.local", own);
        }
        What::Open { file, .. } => add_text(attributes, "file.path", &file.path),
        What::Mount { at, .. } => add_text(attributes, "mother.mount.path", &at.path),
        What::Ptrace { target } => {
            add_number(attributes, "mother.target.pid", target.pid.into());
        }
        What::Bpf { program, .. } => add_text(attributes, "mother.bpf.program", program),
        What::Log { sequence, .. } => {
            add_number(attributes, "mother.log.sequence", *sequence as i64);
        }
        What::Panic { .. } => {}
    }
}

fn add_address(attributes: &mut Vec<Value>, prefix: &str, address: &SocketAddress) {
    match address {
        SocketAddress::Inet { ip, port } => {
            add_text(attributes, &format!("{prefix}.address"), &ip.to_string());
            add_number(attributes, &format!("{prefix}.port"), (*port).into());
        }
        other => add_text(attributes, &format!("{prefix}.address"), &other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use insight::trace::Reach;

    use super::*;

    #[test]
    fn an_event_is_a_request_as_collectors_read_it() {
        let event = Event {
            at_ns: 1_544_712_660_300_000_000,
            vcpu: Some(1),
            reach: Reach::Exact,
            process: None,
            what: What::Connect {
                address: SocketAddress::Inet {
                    ip: [192, 0, 2, 1].into(),
                    port: 443,
                },
                socket_type: 1,
            },
        };
        let request = request(&VmName::new("web").unwrap(), &event);
        let resource = &request["resourceLogs"][0]["resource"]["attributes"];
        assert_eq!(resource[0]["value"]["stringValue"], "mother");
        let record = &request["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
        assert_eq!(record["timeUnixNano"], "1544712660300000000");
        assert_eq!(record["eventName"], "mother.guest.connect");
        assert_eq!(record["body"]["stringValue"], "to 192.0.2.1:443");
        let attributes = [
            json!({ "key": "network.peer.address", "value": { "stringValue": "192.0.2.1" } }),
            json!({ "key": "network.peer.port", "value": { "intValue": "443" } }),
            json!({ "key": "mother.vcpu", "value": { "intValue": "1" } }),
        ];
        assert_eq!(record["attributes"], json!(attributes));
    }
}
