//! The program suite of `guests/programs`: built statically for any Linux, run natively and inside a guest.
//!
//! A guest needs nothing but the default kernel and initrd: the kernel unpacks every archive of an initrd one after
//! the other, so the suite travels in a second archive behind the first.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use cpio::newc::{Builder, ModeFileType, trailer};

const SOURCES: [&str; 4] = ["suite.c", "arithmetic.c", "memory.c", "control.c"];
/// What a guest starts: `rdinit=` on its command line.
pub const INIT: &str = "/suite-init";
const INIT_SCRIPT: &str = "\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/suite
/bin/busybox sleep 1
/bin/busybox poweroff -f
";
/// The first line that the suite prints, and the last.
pub const FIRST_LINE: &str = "-- integers";
/// See [`FIRST_LINE`].
pub const LAST_LINE: &str = "-- end";
/// Archives in an initrd begin at multiples of this.
const ALIGNMENT: usize = 512;

/// Where the sources are.
fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/programs")
}

/// Builds the suite in `folder` and says where it is.
///
/// # Errors
/// When there is no C compiler or it refuses.
pub fn build(folder: &Path) -> anyhow::Result<PathBuf> {
    let program = folder.join("suite");
    let output = Command::new("cc")
        .current_dir(source_folder())
        .args([
            "-std=gnu11",
            "-O2",
            "-Wall",
            "-Wextra",
            "-static",
            "-no-pie",
            "-pthread",
            "-o",
        ])
        .arg(&program)
        .args(SOURCES)
        .arg("-lm")
        .output()
        .context("start the C compiler `cc`")?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "cannot build the program suite: {complaints}"
    );
    Ok(program)
}

/// Everything that the suite prints on this host.
///
/// # Errors
/// When it cannot be started or does not come to its end.
pub fn run_natively(program: &Path) -> anyhow::Result<String> {
    let output = Command::new("timeout")
        .arg("60")
        .arg(program)
        .output()
        .context("start the suite")?;
    ensure!(
        output.status.success(),
        "the suite ended with {}",
        output.status
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// `initrd` with the suite in it.
///
/// # Errors
/// When the program cannot be read.
pub fn add_to(initrd: Vec<u8>, program: &Path) -> io::Result<Vec<u8>> {
    add_files(
        initrd,
        &[
            ("suite", &std::fs::read(program)?),
            ("suite-init", INIT_SCRIPT.as_bytes()),
        ],
    )
}

/// `initrd` with more files in it, which everybody may run.
///
/// # Errors
/// None that memory does not make.
pub fn add_files(mut initrd: Vec<u8>, files: &[(&str, &[u8])]) -> io::Result<Vec<u8>> {
    initrd.resize(initrd.len().next_multiple_of(ALIGNMENT), 0);
    let mut archive = Vec::new();
    for (number, (name, bytes)) in files.iter().enumerate() {
        let entry = Builder::new(name)
            .mode(0o755)
            .set_mode_file_type(ModeFileType::Regular)
            .ino(number as u32);
        let mut writer = entry.write(&mut archive, bytes.len() as u32);
        writer.write_all(bytes)?;
        writer.finish()?;
    }
    initrd.extend(trailer(archive)?);
    Ok(initrd)
}

/// The suite's lines in what a guest wrote to its console.
pub fn lines_of(console: &str) -> String {
    let lines = console.lines().skip_while(|line| *line != FIRST_LINE);
    let mut text = String::new();
    for line in lines {
        text += line;
        text.push('\n');
        if line == LAST_LINE {
            break;
        }
    }
    text
}
