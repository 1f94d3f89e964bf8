//! What the program is made of: every package that is linked into it, in the form of CycloneDX 1.5.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::dist::TARGET;
use crate::steps::cargo;

/// The list, as JSON.
pub fn sbom(version: &str) -> Result<String> {
    let output = cargo(&[
        "metadata",
        "--format-version=1",
        "--locked",
        "--filter-platform",
        TARGET,
    ])
    .output()?;
    ensure!(output.status.success(), "cargo metadata failed");
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    Ok(format!("{:#}\n", listed(&metadata, version)?))
}

fn listed(metadata: &Value, version: &str) -> Result<Value> {
    let packages: BTreeMap<&str, &Value> = metadata["packages"]
        .as_array()
        .context("no packages")?
        .iter()
        .filter_map(|package| Some((package["id"].as_str()?, package)))
        .collect();
    let linked = linked(metadata, &packages)?;
    let components: Vec<Value> = linked
        .iter()
        .filter_map(|id| packages.get(id.as_str()))
        // What has no source is ours.
        .filter(|package| !package["source"].is_null())
        .map(|package| component(package))
        .collect();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": { "type": "application", "name": "mother", "version": version,
                                     "licenses": [{ "expression": "Apache-2.0" }] } },
        "components": components,
    }))
}

/// The packages that the program `mother` is linked of: no build scripts, no macros' own packages' tests.
fn linked(metadata: &Value, packages: &BTreeMap<&str, &Value>) -> Result<BTreeSet<String>> {
    let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()
        .context("no graph")?
        .iter()
        .filter_map(|node| Some((node["id"].as_str()?, node)))
        .collect();
    let root = packages
        .iter()
        .find(|(_, package)| package["name"] == "cli" && package["source"].is_null())
        .context("there is no package cli")?;
    let mut linked = BTreeSet::new();
    let mut next = vec![(*root.0).to_owned()];
    while let Some(id) = next.pop() {
        if !linked.insert(id.clone()) {
            continue;
        }
        let dependencies = nodes
            .get(id.as_str())
            .and_then(|node| node["deps"].as_array());
        for dependency in dependencies.into_iter().flatten() {
            // A kind of null is an ordinary dependency.
            let is_linked = dependency["dep_kinds"]
                .as_array()
                .is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()));
            if let Some(package) = dependency["pkg"].as_str().filter(|_| is_linked) {
                next.push(package.to_owned());
            }
        }
    }
    Ok(linked)
}

fn component(package: &Value) -> Value {
    let text = |key: &str| package[key].as_str().unwrap_or_default();
    let name = text("name");
    let version = text("version");
    // Older manifests write a slash for "or".
    let license = text("license").replace('/', " OR ");
    let mut component = json!({
        "type": "library", "name": name, "version": version,
        "purl": format!("pkg:cargo/{name}@{version}"),
    });
    if !license.is_empty() {
        component["licenses"] = json!([{ "expression": license }]);
    }
    component
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_linked_is_listed() {
        let package = |id: &str, name: &str, source: Value| {
            json!({ "id": id, "name": name, "version": "1.0.0",
            "license": "MIT/Apache-2.0", "source": source })
        };
        let dependency =
            |id: &str, kind: Value| json!({ "pkg": id, "dep_kinds": [{ "kind": kind }] });
        let metadata = json!({
            "packages": [
                package("c", "cli", Value::Null), package("a", "a", json!("registry")),
                package("b", "b", json!("registry")), package("t", "t", json!("registry")),
            ],
            "resolve": { "nodes": [
                { "id": "c", "deps": [dependency("a", Value::Null), dependency("t", json!("dev"))] },
                { "id": "a", "deps": [dependency("b", json!("build"))] },
            ] },
        });
        let listed = listed(&metadata, "0.1.0").unwrap();
        let expected = json!([{ "type": "library", "name": "a", "version": "1.0.0", "purl": "pkg:cargo/a@1.0.0",
            "licenses": [{ "expression": "MIT OR Apache-2.0" }] }]);
        assert_eq!(listed["components"], expected);
    }
}
