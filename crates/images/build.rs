//! Links the programs that run inside guests statically, so that a guest can run them without any library of its own.
//!
//! Cargo cannot yet build one binary for inclusion in another, but each program uses only the
//! standard library, so one call of rustc does. The same files are workspace members and so checked like all others.
#![forbid(unsafe_code)]

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, exit};

/// Programs under `guests/`.
const PROGRAMS: [&str; 3] = ["visitor", "warden", "clerk"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for program in PROGRAMS {
        link(program);
    }
}

fn link(program: &str) {
    let source = format!("../../guests/{program}/src/main.rs");
    println!("cargo::rerun-if-changed=../../guests/{program}/src");
    let rustc = env::var_os("RUSTC").expect("cargo tells build scripts the compiler");
    let output = PathBuf::from(env::var_os("OUT_DIR").expect("cargo gives build scripts a folder"))
        .join(program);
    let mut command = Command::new(rustc);
    command.args(["--edition=2024", "--crate-name", program]);
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
    let status = command.arg("-o").arg(&output).arg(&source).status();
    if !status.as_ref().is_ok_and(|status| status.success()) {
        println!(
            "cargo::error=cannot link guests/{program} statically ({status:?}); is libc6-dev installed?"
        );
        exit(1);
    }
}
