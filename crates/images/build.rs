//! Links `guests/visitor` statically, so that the demo guest can run it without any library of its own.
//!
//! Cargo cannot yet build one binary for inclusion in another, but the program is a single file that uses only the
//! standard library, so one call of rustc does. The same file is a workspace member and so checked like all others.
#![forbid(unsafe_code)]

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

const SOURCE: &str = "../../guests/visitor/src/main.rs";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=build.rs");
    let rustc = env::var_os("RUSTC").expect("cargo tells build scripts the compiler");
    let output =
        PathBuf::from(env::var_os("OUT_DIR").expect("cargo gives build scripts a folder")).join("visitor");
    let mut command = Command::new(rustc);
    command.args([
        "--edition=2024",
        "--crate-name=visitor",
        "-Copt-level=2",
        "-Cpanic=abort",
        "-Cstrip=symbols",
    ]);
    command.args(["-Ctarget-feature=+crt-static", "-Crelocation-model=static"]);
    command.arg("--target").arg(env::var_os("TARGET").expect("cargo tells build scripts the target"));
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("-Clinker=");
        option.push(linker);
        command.arg(option);
    }
    let status = command.arg("-o").arg(&output).arg(SOURCE).status();
    if !status.as_ref().is_ok_and(|status| status.success()) {
        println!("cargo::error=cannot link guests/visitor statically ({status:?}); is libc6-dev installed?");
        exit(1);
    }
}
