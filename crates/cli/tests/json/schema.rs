//! As much of JSON Schema (draft 2020-12) as our schemas use. A word that is not known here fails the test.

use serde_json::Value;

/// Words that say nothing about which values are right.
const ANNOTATIONS: [&str; 8] = [
    "$schema",
    "$defs",
    "title",
    "description",
    "format",
    "examples",
    "default",
    "$comment",
];

/// What of `value` the schema does not allow, each with its place.
pub(crate) fn complaints(schema: &Value, value: &Value) -> Vec<String> {
    let mut complaints = Vec::new();
    Check { root: schema }.check(schema, value, "", &mut complaints);
    complaints
}

struct Check<'a> {
    root: &'a Value,
}

impl Check<'_> {
    fn check(&self, schema: &Value, value: &Value, place: &str, complaints: &mut Vec<String>) {
        let words = match schema {
            Value::Bool(true) => return,
            Value::Object(words) => words,
            other => panic!("{place}: no schema: {other}"),
        };
        for (word, rule) in words {
            let is_kept = match word.as_str() {
                "type" => is_of_type(rule, value),
                "const" => rule == value,
                "enum" => rule.as_array().unwrap().contains(value),
                "minimum" => value
                    .as_f64()
                    .is_none_or(|value| value >= rule.as_f64().unwrap()),
                "maximum" => value
                    .as_f64()
                    .is_none_or(|value| value <= rule.as_f64().unwrap()),
                "multipleOf" => value
                    .as_u64()
                    .is_none_or(|value| value.is_multiple_of(rule.as_u64().unwrap())),
                "minLength" => value
                    .as_str()
                    .is_none_or(|text| text.chars().count() as u64 >= rule.as_u64().unwrap()),
                "minItems" => len(value).is_none_or(|len| len >= rule.as_u64().unwrap()),
                "maxItems" => len(value).is_none_or(|len| len <= rule.as_u64().unwrap()),
                "required" => value.as_object().is_none_or(|fields| {
                    let names = rule.as_array().unwrap().iter();
                    names
                        .clone()
                        .all(|name| fields.contains_key(name.as_str().unwrap()))
                }),
                "$ref" => {
                    let path = rule.as_str().unwrap().trim_start_matches('#');
                    self.check(self.root.pointer(path).unwrap(), value, place, complaints);
                    true
                }
                "anyOf" => self.count(rule, value) > 0,
                "oneOf" => self.count(rule, value) == 1,
                "allOf" => self.count(rule, value) == rule.as_array().unwrap().len(),
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(rule, item, &format!("{place}/{index}"), complaints);
                    }
                    true
                }
                "prefixItems" => {
                    let pairs = rule.as_array().unwrap().iter();
                    for (rule, item) in pairs.zip(value.as_array().into_iter().flatten()) {
                        self.check(rule, item, place, complaints);
                    }
                    true
                }
                "properties" => {
                    for (name, rule) in rule.as_object().unwrap() {
                        if let Some(value) = value.get(name) {
                            self.check(rule, value, &format!("{place}/{name}"), complaints);
                        }
                    }
                    true
                }
                "additionalProperties" => {
                    self.others(words.get("properties"), rule, value, (place, complaints))
                }
                word if ANNOTATIONS.contains(&word) => true,
                word => panic!("{place}: the test does not know the word {word:?}"),
            };
            if !is_kept {
                complaints.push(format!("{place}: {value} breaks {word}: {rule}"));
            }
        }
    }

    /// How many of the schemas allow the value.
    fn count(&self, schemas: &Value, value: &Value) -> usize {
        let allows = |schema: &&Value| {
            let mut complaints = Vec::new();
            self.check(schema, value, "", &mut complaints);
            complaints.is_empty()
        };
        schemas.as_array().unwrap().iter().filter(allows).count()
    }

    /// Fields that `properties` does not name.
    fn others(
        &self,
        named: Option<&Value>,
        rule: &Value,
        value: &Value,
        (place, complaints): (&str, &mut Vec<String>),
    ) -> bool {
        let fields = value.as_object().into_iter().flatten();
        let others = fields.filter(|(name, _)| named.and_then(|named| named.get(name)).is_none());
        let mut is_kept = true;
        for (name, value) in others {
            match rule {
                Value::Bool(allowed) => is_kept &= allowed,
                schema => self.check(schema, value, &format!("{place}/{name}"), complaints),
            }
        }
        is_kept
    }
}

fn len(value: &Value) -> Option<u64> {
    value.as_array().map(|items| items.len() as u64)
}

/// One type, or one of several.
fn is_of_type(rule: &Value, value: &Value) -> bool {
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no such type: {other}"),
    };
    match rule {
        Value::Array(names) => names.iter().any(|name| is(name.as_str().unwrap())),
        name => is(name.as_str().unwrap()),
    }
}

#[test]
fn values_are_held_against_schemas() {
    let schema = serde_json::json!({
        "type": "array",
        "items": { "$ref": "#/$defs/one" },
        "$defs": { "one": { "type": "object", "required": ["a"], "properties": {
            "a": { "type": ["integer", "null"], "minimum": 1 }, "b": { "enum": ["x"] } } } },
    });
    let count = |value: Value| complaints(&schema, &value).len();
    assert_eq!(
        count(serde_json::json!([{ "a": 1, "b": "x", "c": 2 }, { "a": null }])),
        0
    );
    assert_eq!(count(serde_json::json!([{ "a": 0, "b": "y" }, {}, 7])), 4);
    assert_eq!(count(serde_json::json!({})), 1);
}
