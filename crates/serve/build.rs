//! Packs the web page and the schemas, so that a program that most people never ask for them carries a third of them.
#![forbid(unsafe_code)]

use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::exit;

use flate2::Compression;
use flate2::write::GzEncoder;

/// Folders, and what they are called among what was made.
const FOLDERS: [(&str, &str); 2] = [("page", "page"), ("../../docs/schema", "schema")];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let output = env::var_os("OUT_DIR").expect("cargo gives build scripts a folder");
    for (folder, name) in FOLDERS {
        println!("cargo::rerun-if-changed={folder}");
        if let Err(error) = pack(Path::new(folder), &PathBuf::from(&output).join(name)) {
            println!("cargo::error=cannot pack {folder}: {error}");
            exit(1);
        }
    }
}

/// Every file of a folder, with `.gz` behind its name, to another.
fn pack(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let mut name = entry.file_name();
        if entry.file_type()?.is_dir() {
            pack(&entry.path(), &to.join(name))?;
            continue;
        }
        name.push(".gz");
        let file = File::create(to.join(name))?;
        let mut encoder = GzEncoder::new(file, Compression::best());
        encoder.write_all(&fs::read(entry.path())?)?;
        encoder.finish()?.flush()?;
    }
    Ok(())
}
