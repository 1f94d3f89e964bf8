//! The programs that run inside guests, in one file: what it is called as is what it is.
//!
//! Each of them alone would bring a standard library and a C library of its own, which are nine tenths of it: three files took 4 MB
//! of every default guest's memory, and of the program that carries them.

mod clerk;
mod visitor;
mod warden;

use std::env;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let called = env::args_os().next().unwrap_or_default();
    let name = Path::new(&called).file_name().unwrap_or_default();
    match name.to_str() {
        Some("clerk") => clerk::main(),
        Some("visitor") => visitor::main(),
        // Some guests have it in folders and under names of their own.
        _ => match warden::main() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("warden: {error}");
                ExitCode::FAILURE
            }
        },
    }
}
