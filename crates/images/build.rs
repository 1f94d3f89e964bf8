//! Links the programs that run inside guests statically, so that a guest can run them without any library of its own, and packs
//! them.
//!
//! Cargo cannot yet build one binary for inclusion in another, but they use only the standard library, so one call of rustc does.
//! The same files are a workspace member and so checked like all others.
#![forbid(unsafe_code)]

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

use flate2::Compression;
use flate2::write::GzEncoder;

/// What holds all of them.
const PROGRAM: &str = "toolbox";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../../guests/{PROGRAM}/src");
    let folder = env::var_os("OUT_DIR").expect("cargo gives build scripts a folder");
    let program = PathBuf::from(folder).join(PROGRAM);
    link(&program);
    if let Err(error) = pack(&program) {
        println!("cargo::error=cannot pack {}: {error}", program.display());
        exit(1);
    }
}

/// Half of it is gone in `PROGRAM.gz`.
fn pack(program: &Path) -> io::Result<()> {
    let file = File::create(program.with_extension("gz"))?;
    let mut encoder = GzEncoder::new(file, Compression::best());
    encoder.write_all(&fs::read(program)?)?;
    encoder.finish()?.flush()
}

fn link(output: &Path) {
    let source = format!("../../guests/{PROGRAM}/src/main.rs");
    let rustc = env::var_os("RUSTC").expect("cargo tells build scripts the compiler");
    let mut command = Command::new(rustc);
    command.args(["--edition=2024", "--crate-name", PROGRAM]);
    command.args(["-Copt-level=2", "-Cpanic=abort", "-Cstrip=symbols"]);
    command.args(["-Ctarget-feature=+crt-static", "-Crelocation-model=static"]);
    command
        .arg("--target")
        .arg(env::var_os("TARGET").expect("cargo tells build scripts the target"));
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = OsString::from("-Clinker=");
        option.push(linker);
        command.arg(option);
    }
    let status = command.arg("-o").arg(output).arg(&source).status();
    if !status.as_ref().is_ok_and(|status| status.success()) {
        println!(
            "cargo::error=cannot link guests/{PROGRAM} statically ({status:?}); is libc6-dev installed?"
        );
        exit(1);
    }
}
