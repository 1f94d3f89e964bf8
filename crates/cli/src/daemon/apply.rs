//! `mother apply`: the host becomes as it is written.
//!
//! A file, TOML or JSON, has VMs by name; each has the keys of `mother run --config`, and besides these `desired`,
//! `restart`, `boot` and `order`:
//!
//! ```toml
//! [vm.web]
//! image = "debian"
//! memory = "1G"
//! restart = "always"
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use api::{PartialSpec, SpecErrors};
use clap::Args;
use serde_json::{Map, Value, json};

use super::through::ask_daemon;
use crate::answers;
use crate::failure::{BadApplied, Failure};
use crate::output::say;

/// Keys of a VM that are the daemon's and not `mother run`'s.
const OF_DAEMON: [&str; 4] = ["desired", "restart", "boot", "order"];

/// `mother apply`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The file has a table for each VM, [vm.NAME], with the keys of `mother run --config` and besides
these desired, restart, boot and order. Of a folder every .toml and .json file is read. What
differs is shown first; what is as it is written stays untouched.

Examples:
  mother apply -f web.toml --dry-run
  mother apply -f /etc/mother/vms --prune")]
pub struct ApplyArguments {
    /// A file, or a folder with files
    #[arg(short, long, value_name = "FILE|FOLDER")]
    file: PathBuf,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    /// Forget, stop and remove declared VMs that are not written there
    #[arg(long)]
    prune: bool,
    /// As JSON: an object
    #[arg(long)]
    json: bool,
}

/// Applies; the exit status.
pub fn apply(arguments: &ApplyArguments) -> Result<u8, Failure> {
    let mut vms = Vec::new();
    for path in files(&arguments.file)? {
        vms.extend(read(&path)?);
    }
    let body = json!({ "vms": vms });
    let path = |is_dry: bool| format!("/v1/apply?prune={}&dry_run={is_dry}", arguments.prune);
    let answer = if arguments.json {
        ask_daemon("POST", &path(arguments.dry_run), Some(&body), None)?.body
    } else {
        let differences = ask_daemon("POST", &path(true), Some(&body), None)?.body;
        say(&shown(&differences))?;
        if arguments.dry_run {
            return Ok(0);
        }
        ask_daemon("POST", &path(false), Some(&body), None)?;
        return Ok(0);
    };
    say(&answers::text(&answer))?;
    Ok(0)
}

/// The file, or those of the folder by name.
fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |source| Failure::Applied {
        path: path.to_owned(),
        source,
    };
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("toml" | "json")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Declarations of one file.
fn read(path: &Path) -> Result<Vec<Value>, Failure> {
    let text = fs::read_to_string(path).map_err(|source| Failure::Applied {
        path: path.to_owned(),
        source,
    })?;
    let bad = |what: String| Failure::BadApplied {
        path: path.to_owned(),
        source: BadApplied(what),
    };
    let is_json = path
        .extension()
        .is_some_and(|extension| extension == "json");
    let whole: Map<String, Value> = if is_json {
        serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?
    } else {
        toml::from_str(&text).map_err(|error| bad(error.to_string()))?
    };
    if let Some(key) = whole.keys().find(|key| *key != "vm") {
        return Err(bad(format!(
            "{key:?} is nothing that can be applied: write [vm.NAME]"
        )));
    }
    let Some(Value::Object(vms)) = whole.get("vm") else {
        return Err(bad("there is no [vm.NAME] in it".to_owned()));
    };
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = absolute.parent().unwrap_or(Path::new("/"));
    vms.iter()
        .map(|(name, value)| declaration(path, folder, name, value))
        .collect()
}

fn declaration(path: &Path, folder: &Path, name: &str, value: &Value) -> Result<Value, Failure> {
    let Value::Object(keys) = value else {
        return Err(Failure::BadApplied {
            path: path.to_owned(),
            source: BadApplied(format!("[vm.{name}] is no table")),
        });
    };
    let mut spec = keys.clone();
    let mut declaration = Map::new();
    for key in OF_DAEMON {
        if let Some(value) = spec.remove(key) {
            declaration.insert(key.to_owned(), value);
        }
    }
    // Read as `mother run --config` reads it: all complaints at once.
    let text = Value::Object(spec.clone()).to_string();
    let place = format!("{} [vm.{name}]", path.display());
    let read = PartialSpec::from_file(&text, &place);
    if !read.complaints.is_empty() {
        return Err(SpecErrors {
            name: name.to_owned(),
            complaints: read.complaints,
        }
        .into());
    }
    declaration.insert("name".to_owned(), json!(name));
    declaration.insert("spec".to_owned(), Value::Object(read.spec.said()));
    declaration.insert("folder".to_owned(), json!(folder));
    Ok(Value::Object(declaration))
}

/// What differs, as a person reads it.
fn shown(answer: &Value) -> String {
    let empty = Vec::new();
    let all = answer["differences"].as_array().unwrap_or(&empty);
    let mut text = String::new();
    for one in all {
        let name = one["name"].as_str().unwrap_or_default();
        match one["change"].as_str() {
            Some("create") => text.push_str(&format!("+ {name}\n")),
            Some("delete") => text.push_str(&format!("- {name}\n")),
            Some("change") => {
                text.push_str(&format!("~ {name}\n"));
                for field in one["fields"].as_array().unwrap_or(&empty) {
                    let key = field["key"].as_str().unwrap_or_default();
                    text.push_str(&format!(
                        "    {key}: {} -> {}\n",
                        field["from"], field["to"]
                    ));
                }
            }
            _ => {}
        }
    }
    if text.is_empty() {
        text.push_str("everything is as it is written\n");
    }
    text
}
