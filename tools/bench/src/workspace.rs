//! The workspace that this program was built in: where it lies, and cargo there.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the root manifest.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("this crate lies in tools/bench")
        .to_path_buf()
}

/// `cargo` with these words, as the cargo that runs us.
pub fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(words).current_dir(root());
    command
}
