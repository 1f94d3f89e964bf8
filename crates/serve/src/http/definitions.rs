//! Schemas of one document from several, each of which has its own definitions within (`$defs`): those go beside the others,
//! because programs that generate clients look for them nowhere else.
//!
//! Two schemas may have different definitions of the same name. What is another one then, and what refers to it, gets the name of
//! its schema in front.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// Where they are in the document.
const PLACE: &str = "#/components/schemas/";
/// Where they are in a schema alone.
const WITHIN: &str = "#/$defs/";

/// Adds a schema of this name and its definitions.
pub(super) fn add(all: &mut Map<String, Value>, name: &str, mut schema: Value) {
    let mut definitions = Map::new();
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("$schema");
        if let Some(Value::Object(within)) = schema.remove("$defs") {
            definitions = within;
        }
    }
    let beside = |reference: &str| Some(format!("{PLACE}{}", reference.strip_prefix(WITHIN)?));
    let mut definitions: Vec<(String, Value)> = definitions.into_iter().collect();
    for (_, definition) in &mut definitions {
        lead(definition, &beside);
    }
    lead(&mut schema, &beside);

    let others = others(all, &definitions);
    let own = |definition: &str| format!("{name}-{definition}");
    let renamed = |reference: &str| {
        let definition = reference.strip_prefix(PLACE)?;
        others
            .contains(definition)
            .then(|| format!("{PLACE}{}", own(definition)))
    };
    lead(&mut schema, &renamed);
    for (definition, mut value) in definitions {
        lead(&mut value, &renamed);
        let definition = match others.contains(&definition) {
            true => own(&definition),
            false => definition,
        };
        all.insert(definition, value);
    }
    all.insert(name.to_owned(), schema);
}

/// Alternatives that are words become one list of them, of which those programs make a type; and integers get the limits that their
/// format says.
pub(super) fn simplify(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if let Some((words, about)) = words(object) {
                object.remove("oneOf");
                object.insert("type".to_owned(), "string".into());
                object.insert("enum".to_owned(), words.into());
                object.insert("description".to_owned(), about.into());
            }
            if let Some(most) = object.get("format").and_then(most) {
                object.entry("maximum").or_insert_with(|| most.into());
            }
            object.values_mut().for_each(simplify);
        }
        Value::Array(all) => all.iter_mut().for_each(simplify),
        _ => {}
    }
}

/// The largest number of a format.
fn most(format: &Value) -> Option<u64> {
    match format.as_str()? {
        "int32" => Some(i32::MAX as u64),
        "uint32" => Some(u32::MAX.into()),
        "int64" => Some(i64::MAX as u64),
        "uint64" | "uint" => Some(u64::MAX),
        _ => None,
    }
}

/// The words of alternatives that are nothing else, and what is said of them.
fn words(object: &Map<String, Value>) -> Option<(Vec<Value>, String)> {
    let alternatives = object.get("oneOf")?.as_array()?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut about = object.get("description").map(text).unwrap_or_default();
    let mut words = Vec::new();
    for alternative in alternatives {
        match (&alternative["const"], &alternative["enum"]) {
            (Value::String(word), _) => {
                let what = text(&alternative["description"]);
                about.push_str(&format!("\n- `{word}`: {what}"));
                words.push(word.clone().into());
            }
            (_, Value::Array(all)) => words.extend(all.iter().cloned()),
            _ => return None,
        }
    }
    Some((words, about.trim_start().to_owned()))
}

/// Gives objects that are described within others a name and a place of their own, since programs that generate clients make a
/// type of each, and some of them lose those that have no name.
pub(super) fn name_parts(all: &mut Map<String, Value>) {
    let mut waiting: Vec<String> = all.keys().cloned().collect();
    while let Some(name) = waiting.pop() {
        let Some(mut schema) = all.remove(&name) else {
            continue;
        };
        let mut parts = Vec::new();
        take_parts(&mut schema, &name, &mut parts);
        all.insert(name, schema);
        for (name, part) in parts {
            waiting.push(name.clone());
            all.insert(name, part);
        }
    }
}

/// Takes objects out of a schema's properties, and leaves references.
fn take_parts(schema: &mut Value, name: &str, parts: &mut Vec<(String, Value)>) {
    match schema {
        Value::Object(object) => {
            for (key, value) in object {
                match (key.as_str(), value) {
                    ("properties", Value::Object(properties)) => {
                        for (property, value) in properties {
                            if value.get("properties").is_some() {
                                let mut part = format!("{name}-{property}");
                                // Alternatives may have different ones of the same name.
                                while parts.iter().any(|(known, _)| *known == part) {
                                    part.push_str("-other");
                                }
                                let reference = json!({ "$ref": format!("{PLACE}{part}") });
                                parts.push((part, std::mem::replace(value, reference)));
                            }
                        }
                    }
                    (_, value) => take_parts(value, name, parts),
                }
            }
        }
        Value::Array(all) => all
            .iter_mut()
            .for_each(|value| take_parts(value, name, parts)),
        _ => {}
    }
}

/// Which of these are not what is there by their names: they differ, or what they refer to does.
fn others(all: &Map<String, Value>, definitions: &[(String, Value)]) -> BTreeSet<String> {
    let mut others = BTreeSet::new();
    loop {
        let before = others.len();
        for (name, value) in definitions {
            let is_other = all.get(name).is_some_and(|known| known != value);
            let mut leads_to_other = false;
            each(value, &mut |reference| {
                let definition = reference.strip_prefix(PLACE);
                leads_to_other |= definition.is_some_and(|it| others.contains(it));
            });
            if is_other || leads_to_other {
                others.insert(name.clone());
            }
        }
        if others.len() == before {
            return others;
        }
    }
}

/// Calls `each_one` with each reference in a schema.
fn each(value: &Value, each_one: &mut impl FnMut(&str)) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get("$ref") {
                each_one(reference);
            }
            object.values().for_each(|value| each(value, each_one));
        }
        Value::Array(all) => all.iter().for_each(|value| each(value, each_one)),
        _ => {}
    }
}

/// Has references lead elsewhere, where `to` says so.
fn lead(value: &mut Value, to: &impl Fn(&str) -> Option<String>) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get_mut("$ref")
                && let Some(other) = to(reference)
            {
                *reference = other;
            }
            object.values_mut().for_each(|value| lead(value, to));
        }
        Value::Array(all) => all.iter_mut().for_each(|value| lead(value, to)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_stand_beside_each_other_and_each_is_the_right_one() {
        let with = |row: &str| {
            json!({
                "$schema": "x",
                "items": { "$ref": "#/$defs/Row" },
                "$defs": {
                    "Row": { "properties": { "cell": { "$ref": "#/$defs/Cell" }, "unit": { "$ref": "#/$defs/Unit" } } },
                    "Cell": { "type": row },
                    "Unit": { "type": "string" },
                },
            })
        };
        let mut all = Map::new();
        add(&mut all, "one", with("string"));
        add(&mut all, "same", with("string"));
        add(&mut all, "other", with("integer"));
        let names: Vec<&String> = all.keys().collect();
        let expected = [
            "Cell",
            "Row",
            "Unit",
            "one",
            "other",
            "other-Cell",
            "other-Row",
            "same",
        ];
        assert_eq!(names, expected);
        for name in ["one", "same"] {
            assert_eq!(
                all[name],
                json!({ "items": { "$ref": "#/components/schemas/Row" } })
            );
        }
        assert_eq!(
            all["other"]["items"]["$ref"],
            "#/components/schemas/other-Row"
        );
        let properties = &all["other-Row"]["properties"];
        assert_eq!(
            properties["cell"]["$ref"],
            "#/components/schemas/other-Cell"
        );
        assert_eq!(properties["unit"]["$ref"], "#/components/schemas/Unit");
        assert_eq!(all["other-Cell"]["type"], "integer");
    }

    #[test]
    fn an_object_in_another_gets_a_name() {
        let number = json!({ "type": "integer" });
        let inner = json!({ "properties": { "n": number } });
        let middle = json!({ "properties": { "inner": inner, "n": number } });
        let outer = json!({ "oneOf": [{ "properties": { "seen": middle } }, { "type": "null" }] });
        let mut all = Map::new();
        all.insert("Outer".to_owned(), outer);
        name_parts(&mut all);
        let to = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
        let expected = json!({
            "Outer": { "oneOf": [{ "properties": { "seen": to("Outer-seen") } }, { "type": "null" }] },
            "Outer-seen": { "properties": { "inner": to("Outer-seen-inner"), "n": number } },
            "Outer-seen-inner": inner,
        });
        assert_eq!(Value::Object(all), expected);
    }

    #[test]
    fn words_are_one_list() {
        let check = |mut schema: Value, expected: Value| {
            simplify(&mut schema);
            assert_eq!(schema, expected);
        };
        let word = |word: &str| json!({ "const": word, "type": "string", "description": "It is." });
        check(
            json!({ "a": { "description": "What.", "oneOf": [word("on"), word("off"), { "enum": ["x"], "type": "string" }] } }),
            json!({ "a": {
                "description": "What.\n- `on`: It is.\n- `off`: It is.",
                "enum": ["on", "off", "x"],
                "type": "string",
            } }),
        );
        let mixed = json!({ "oneOf": [word("on"), { "type": "object" }] });
        check(mixed.clone(), mixed);
        check(
            json!([{ "format": "uint32", "minimum": 0 }, { "format": "uint32", "maximum": 7 }]),
            json!([{ "format": "uint32", "minimum": 0, "maximum": 4294967295_u32 }, { "format": "uint32", "maximum": 7 }]),
        );
    }
}
