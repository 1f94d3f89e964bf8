//! `dist --boot`: the Debian package under a real systemd, in a Debian guest of the very program that was packed.
//!
//! What is to be seen there and nowhere else: that units start and say so, that the daemon may be restarted and killed while its
//! VMs go on in units of their own, and that these have all of their walls. The guest's guests run on the software CPU within it,
//! and so take a while.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::trial::newest;
use crate::workspace;

/// Typed into the guest; the disk is its second one.
const TYPED: &str = "mount /dev/vdb /mnt && sh /mnt/systemd.sh\n";
/// What is done there.
const SCRIPT: &str = include_str!("systemd.sh");
/// What the guest's guest comes from, of the cache of who tries.
const CACHED: [&str; 5] = ["packages", "initrd", "kernel", "busybox", "profiles"];
/// How long all of it may take.
const LIMIT: &str = "2700s";

/// Tries the package that `dist` has made under systemd; whether it is as it should be.
pub fn run() -> Result<bool> {
    let package = newest()?;
    let program = program(&package)?;
    let folder = workspace::target().join("trees/boot");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let content = folder.join("disk");
    fs::create_dir_all(content.join("cache"))?;
    fs::copy(&package, content.join("mother.deb"))?;
    fs::write(content.join("systemd.sh"), SCRIPT)?;
    // Fetches the default guest if there is none yet.
    typed(&program, &["run"], "")?;
    copy_cache(&content.join("cache"))?;
    let disk = folder.join("disk.raw");
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-d"])
        .args([&content, &disk])
        .arg("400M")
        .status()
        .context("mke2fs")?;
    ensure!(made.success(), "mke2fs failed");
    let disk = disk.display().to_string();
    let words = [
        "run",
        "debian:12",
        "--net",
        "none",
        "--memory",
        "1536M",
        "--timeout",
        LIMIT,
        "--disk",
        &disk,
    ];
    let said = typed(&program, &words, TYPED)?;
    fs::remove_dir_all(&folder)?;
    let log = workspace::target().join("trees/boot.log");
    fs::write(&log, &said)?;
    println!("all that it said: {}", log.display());
    let is_told = |line: &&str| {
        line.starts_with("ok ")
            || line.starts_with("FAILED ")
            || line.contains(" failed")
            || line.contains("Overall exposure")
    };
    said.lines()
        .filter(is_told)
        .for_each(|line| println!("{line}"));
    Ok(said.lines().any(|line| line.ends_with(" passed, 0 failed")))
}

/// The program that was packed, beside its package.
fn program(package: &Path) -> Result<PathBuf> {
    let releases = package.parent().unwrap_or(package);
    for entry in fs::read_dir(releases)? {
        let program = entry?.path().join("mother");
        if program.is_file() {
            return Ok(program);
        }
    }
    anyhow::bail!("no program in {}", releases.display())
}

/// Runs the program with this on its standard input; what it prints.
fn typed(program: &Path, words: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| program.display().to_string())?;
    child
        .stdin
        .take()
        .context("standard input")?
        .write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    Ok(String::from_utf8_lossy(&output.stdout).replace('\r', ""))
}

fn copy_cache(to: &Path) -> Result<()> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::home_dir().map(|home| home.join(".cache"));
    let cache = cache
        .or(home)
        .context("neither XDG_CACHE_HOME nor HOME is set")?;
    for name in CACHED {
        let from = cache.join("mother").join(name);
        if from.exists() {
            let status = Command::new("cp").arg("-a").args([&from, to]).status()?;
            ensure!(status.success(), "cp {} failed", from.display());
        }
    }
    Ok(())
}
