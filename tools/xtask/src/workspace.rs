//! The workspace as the tidy rules see it: members in their order, what each depends on, and every source file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use toml::{Table, Value};

use crate::source::Source;

/// Folders that hold Rust sources of ours.
const SOURCE_FOLDERS: [&str; 5] = ["crates", "tools", "guests", "tests", "fuzz"];

/// The workspace.
#[derive(Default)]
pub struct Workspace {
    /// Members in the order of the root manifest, which is the dependency order.
    pub members: Vec<Member>,
    /// Every Rust file of ours, members' or not, sorted by path.
    pub sources: Vec<Source>,
    /// The page of the house's words.
    pub glossary: String,
    /// Packages in the lock file that are not ours.
    pub locked_package_count: usize,
}

/// One workspace member.
pub struct Member {
    /// Package name.
    pub name: String,
    /// Folder, relative to the root.
    pub folder: String,
    /// Names of everything it depends on, also in tests and build scripts.
    pub dependencies: Vec<String>,
}

impl Member {
    /// Whether the file at `path` belongs to this member.
    pub fn owns(&self, path: &str) -> bool {
        path.strip_prefix(&self.folder)
            .is_some_and(|rest| rest.starts_with('/'))
    }
}

impl Workspace {
    /// Reads the workspace that this program was built in.
    pub fn load() -> Result<Workspace> {
        let root = root();
        let manifest = read_toml(&root.join("Cargo.toml"))?;
        let folders = manifest["workspace"]["members"]
            .as_array()
            .context("workspace.members is a list")?;
        let mut members = Vec::new();
        for folder in folders.iter().filter_map(Value::as_str) {
            members.push(read_member(&root, folder)?);
        }
        let mut sources = Vec::new();
        for folder in SOURCE_FOLDERS {
            read_sources(&root, Path::new(folder), &mut sources)?;
        }
        sources.sort_by(|a, b| a.path.cmp(&b.path));
        let lock = read_toml(&root.join("Cargo.lock"))?;
        let packages = lock
            .get("package")
            .and_then(Value::as_array)
            .map_or(0, Vec::len);
        let page = root.join("docs/glossary.md");
        Ok(Workspace {
            glossary: fs::read_to_string(&page)
                .with_context(|| format!("read {}", page.display()))?,
            locked_package_count: packages.saturating_sub(members.len()),
            members,
            sources,
        })
    }
}

/// The folder of the root manifest.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("xtask lies in tools/xtask")
        .to_path_buf()
}

/// Where cargo builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |folder| root().join(folder))
}

fn read_member(root: &Path, folder: &str) -> Result<Member> {
    let manifest = read_toml(&root.join(folder).join("Cargo.toml"))?;
    let name = manifest["package"]["name"]
        .as_str()
        .context("package.name is a string")?
        .to_owned();
    let mut dependencies = Vec::new();
    for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
        if let Some(table) = manifest.get(kind).and_then(Value::as_table) {
            dependencies.extend(table.keys().cloned());
        }
    }
    Ok(Member {
        name,
        folder: folder.to_owned(),
        dependencies,
    })
}

fn read_toml(path: &Path) -> Result<Table> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    text.parse()
        .with_context(|| format!("parse {}", path.display()))
}

fn read_sources(root: &Path, folder: &Path, into: &mut Vec<Source>) -> Result<()> {
    let Ok(entries) = fs::read_dir(root.join(folder)) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "target" {
                read_sources(root, &path, into)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(root.join(&path))?;
            let name = path.to_str().context("source paths are UTF-8")?;
            into.push(Source::parse(name, text)?);
        }
    }
    Ok(())
}
