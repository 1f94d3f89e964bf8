//! The OpenAPI document (version 3.1.0), made of the table of routes and of the types that are written.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::command::Asked;

use super::app::App;
use super::definitions;
use super::people::{Audit, Entry, MadeToken, NewToken, SessionView, Sessions, Tokens};
use super::routes::{Route, Shape, routes};
use super::several::{Application, Differences, Operations};
use super::streams::Events;
use super::vms::{ActionBody, Vms};
use crate::host_view::HostView;
use crate::packed::{packed, unpacked};
use crate::words::{Declaration, Operation, Problem, Role, VmView};

/// Schemas of what commands answer, in packed form.
const COMMANDS: &[(&str, &[u8])] = &[
    ("dmesg", packed!("schema/dmesg.json")),
    ("doctor", packed!("schema/doctor.json")),
    ("freed", packed!("schema/freed.json")),
    ("hooks", packed!("schema/hooks.json")),
    ("images", packed!("schema/images.json")),
    ("inspect", packed!("schema/inspect.json")),
    ("logs", packed!("schema/logs.json")),
    ("networks", packed!("schema/networks.json")),
    ("processes", packed!("schema/processes.json")),
    ("truth", packed!("schema/truth.json")),
];

pub(crate) async fn serve(State(app): State<App>) -> Json<Value> {
    Json(document(&app.options.version))
}

/// The document.
pub(crate) fn document(version: &str) -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for route in routes() {
        paths
            .entry(route.path)
            .or_default()
            .insert(route.method.to_owned(), operation(&route));
    }
    let enter = json!({
        "tags": ["session"],
        "operationId": "post_v1_session",
        "summary": "Opens a browser's session with a token",
        "security": [],
        "requestBody": content("application/json", &reference("Entry"), true),
        "responses": { "200": described("Who one is", Some(("application/json", reference("SessionView")))),
            "default": reference_to("responses", "Problem") },
    });
    paths
        .entry("/v1/session")
        .or_default()
        .insert("post".to_owned(), enter);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Mother",
            "version": version,
            "summary": "One host and its guests: what they claim, and what is true",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "token": [] }, { "basic": [] }, { "session": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "responses": {
                "Problem": described(
                    "What is wrong, where, and what to do",
                    Some(("application/json", reference("Refused"))),
                ),
            },
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer" },
                "basic": { "type": "http", "scheme": "basic" },
                "session": { "type": "apiKey", "in": "cookie", "name": crate::doors::COOKIE },
            },
        },
    })
}

fn operation(route: &Route) -> Value {
    let in_path = route
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<Value> = in_path
        .map(|name| {
            let kind = if name == "id" {
                json!({ "type": "integer", "format": "uint64", "minimum": 0 })
            } else {
                json!({ "type": "string", "minLength": 1 })
            };
            json!({ "name": name, "in": "path", "required": true, "schema": kind })
        })
        .collect();
    for (name, about) in route.query {
        let kind = match *name {
            "wait" => json!({ "type": "integer", "minimum": 0, "maximum": 300 }),
            "after" | "limit" => {
                json!({ "type": "integer", "format": "uint64", "minimum": 0, "maximum": u64::MAX })
            }
            "label" => json!({ "type": "string", "pattern": "=" }),
            "vm" | "state" => json!({ "type": "string" }),
            _ => json!({ "type": "boolean" }),
        };
        parameters
            .push(json!({ "name": name, "in": "query", "description": about, "schema": kind }));
    }
    let (kind, schema) = shape(route.answer);
    let answer = described(route.about, kind.zip(schema));
    let mut responses = Map::new();
    responses.insert(route.status.to_string(), answer.clone());
    if route.status == 202 {
        responses.insert("200".to_owned(), answer);
    }
    responses.insert("default".to_owned(), reference_to("responses", "Problem"));
    let id: String = format!("{}{}", route.method, route.path)
        .chars()
        .map(|it| if it.is_ascii_alphanumeric() { it } else { '_' })
        .collect();
    let subject = route.path.trim_start_matches("/v1").split('/').nth(1);
    let mut operation = json!({
        "tags": [subject.unwrap_or_default()],
        "operationId": id.trim_end_matches('_').replace("__", "_"),
        "summary": route.about,
        "description": format!("For {}.", role(route.role)),
        "parameters": parameters,
        "responses": responses,
    });
    if let (Some(kind), Some(schema)) = shape(route.body) {
        // Most actions want nothing.
        let is_needed = !matches!(route.body, Shape::Named("ActionBody"));
        operation["requestBody"] = content(kind, &schema, is_needed);
    }
    operation
}

fn role(role: Role) -> &'static str {
    match role {
        Role::ReadOnly => "whoever has a token",
        Role::Operator => "Operator and Administrator",
        Role::Administrator => "Administrator",
    }
}

fn shape(shape: Shape) -> (Option<&'static str>, Option<Value>) {
    match shape {
        Shape::Empty => (None, None),
        Shape::Named(name) => (Some("application/json"), Some(reference(name))),
        Shape::Command(name) => (
            Some("application/json"),
            Some(reference(&format!("command-{name}"))),
        ),
        Shape::Events => (Some("text/event-stream"), Some(json!({ "type": "string" }))),
        Shape::Other("application/json") => {
            (Some("application/json"), Some(json!({ "type": "object" })))
        }
        Shape::Other(kind) => (Some(kind), Some(json!({ "type": "string" }))),
    }
}

fn described(about: &str, content: Option<(&str, Value)>) -> Value {
    match content {
        Some((kind, schema)) => {
            json!({ "description": about, "content": { kind: { "schema": schema } } })
        }
        None => json!({ "description": about }),
    }
}

fn content(kind: &str, schema: &Value, is_needed: bool) -> Value {
    json!({ "required": is_needed, "content": { kind: { "schema": schema } } })
}

fn reference(name: &str) -> Value {
    reference_to("schemas", name)
}

fn reference_to(part: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{part}/{name}") })
}

/// Every schema, with what it is made of beside it.
fn schemas() -> Map<String, Value> {
    let settings = schemars::generate::SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
    });
    let mut generator = SchemaGenerator::new(settings);
    add::<ActionBody>(&mut generator);
    add::<Application>(&mut generator);
    add::<Asked>(&mut generator);
    add::<Audit>(&mut generator);
    add::<Declaration>(&mut generator);
    add::<Differences>(&mut generator);
    add::<Entry>(&mut generator);
    add::<Events>(&mut generator);
    add::<HostView>(&mut generator);
    add::<MadeToken>(&mut generator);
    add::<NewToken>(&mut generator);
    add::<Operation>(&mut generator);
    add::<Operations>(&mut generator);
    add::<Problem>(&mut generator);
    add::<SessionView>(&mut generator);
    add::<Sessions>(&mut generator);
    add::<Tokens>(&mut generator);
    add::<VmView>(&mut generator);
    add::<Vms>(&mut generator);
    let mut all: Map<String, Value> = generator.take_definitions(true).into_iter().collect();
    let refused = json!({
        "type": "object",
        "required": ["error"],
        "properties": { "error": reference("Problem") },
    });
    all.insert("Refused".to_owned(), refused);
    for (name, packed) in COMMANDS {
        let schema = serde_json::from_slice(&unpacked(packed));
        let schema = schema.expect("a schema of ours is JSON");
        definitions::add(&mut all, &format!("command-{name}"), schema);
    }
    definitions::name_parts(&mut all);
    all.values_mut().for_each(definitions::simplify);
    all
}

fn add<T: JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `RENEW_SCHEMA=1` writes it.
    #[test]
    fn the_document_that_is_kept_is_the_one_that_is_served() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/schema/openapi.json"
        );
        let text = format!("{:#}\n", document(env!("CARGO_PKG_VERSION")));
        if std::env::var_os("RENEW_SCHEMA").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        assert!(
            std::fs::read_to_string(path).unwrap_or_default() == text,
            "docs/schema/openapi.json is old: RENEW_SCHEMA=1 cargo test -p serve"
        );
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document("1");
        let mut all = Vec::new();
        fn collect<'a>(value: &'a Value, all: &mut Vec<&'a str>) {
            match value {
                Value::Object(object) => {
                    all.extend(object.get("$ref").and_then(Value::as_str));
                    object.values().for_each(|value| collect(value, all));
                }
                Value::Array(values) => values.iter().for_each(|value| collect(value, all)),
                _ => {}
            }
        }
        collect(&document, &mut all);
        assert!(all.len() > 50);
        for reference in all {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
            // Deeper ones are right, and programs that generate clients do not find them.
            assert_eq!(pointer.split('/').count(), 4, "{reference}");
        }
    }
}
