//! The JSON Schema of a spec, for editors and for programs that write one.

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{Schema, json_schema};
use serde_json::{Value, json};

use super::VmSpec;

/// The schema (draft 2020-12) of what `mother run --config` reads, as a file.
pub fn schema() -> String {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<VmSpec>();
    RecursiveTransform(plain).transform(&mut schema);
    schema.insert("title".to_owned(), json!("A VM of Mother"));
    format!("{:#}\n", schema.to_value())
}

/// Leaves out what says nothing: that what is not there is absent, and that it may be null.
fn plain(schema: &mut Schema) {
    schema.remove("default");
    if let Some(Value::Array(kinds)) = schema.get_mut("type") {
        kinds.retain(|kind| kind != "null");
        if let [kind] = &kinds[..] {
            let kind = kind.clone();
            schema.insert("type".to_owned(), kind);
        }
    }
    let null = json_schema!({ "type": "null" }).to_value();
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|choice| *choice != null);
        if let [Value::Object(only)] = &choices[..] {
            let only = only.clone();
            schema.remove("anyOf");
            for (key, value) in only {
                schema.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Where the schema is kept.
    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/schema/vm.json");
    /// What renews it.
    const RENEW: &str = "RENEW_SCHEMA=1 cargo test -p api schema";

    #[test]
    fn the_schema_in_docs_is_current() {
        if std::env::var_os("RENEW_SCHEMA").is_some() {
            std::fs::create_dir_all(Path::new(FILE).parent().unwrap()).unwrap();
            std::fs::write(FILE, schema()).unwrap();
        }
        let kept = std::fs::read_to_string(FILE).unwrap_or_default();
        assert!(
            kept == schema(),
            "docs/schema/vm.json is not current; renew it with `{RENEW}`"
        );
    }

    #[test]
    fn every_key_is_in_the_schema_with_its_words_and_no_other_is_allowed() {
        let schema: Value = serde_json::from_str(&schema()).unwrap();
        assert_eq!(
            schema["$schema"],
            "https://json-schema.org/draft/2020-12/schema"
        );
        assert_eq!(schema["additionalProperties"], false);
        let properties = schema["properties"].as_object().unwrap();
        let mut keys: Vec<&str> = properties.keys().map(String::as_str).collect();
        let mut expected = VmSpec::keys().to_vec();
        keys.sort_unstable();
        expected.sort_unstable();
        assert_eq!(keys, expected);
        for (key, property) in properties {
            assert!(property["description"].is_string(), "{key}: {property}");
            let has_kind = ["type", "$ref", "anyOf"]
                .iter()
                .any(|kind| property.get(kind).is_some());
            assert!(has_kind, "{key}: {property}");
            assert!(property.get("default").is_none(), "{key}: {property}");
        }
        assert_eq!(
            schema["$defs"]["Engine"]["enum"],
            json!(["auto", "kvm", "soft"])
        );
    }
}
