//! `dist`: what is handed to users, in one folder and one archive.
//!
//! The program is linked statically, so one file runs on every distribution whatever its C library is, and on a root
//! that has none. Its debug information lies beside it, for whoever looks into a crash.

mod man;
mod sbom;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::steps::cargo;
use crate::workspace;

/// What it is built for.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What a user copies is no larger.
const SIZE_BYTES_MAX: u64 = 16 << 20;

/// Shells with what their completions are called.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "mother.bash"),
    ("zsh", "_mother"),
    ("fish", "mother.fish"),
];

/// Makes everything; `true`, or why not.
pub fn run() -> Result<bool> {
    let built = build()?;
    let version = said(&built, &["--version"])?;
    let number = version.split_whitespace().nth(1).unwrap_or("0").to_owned();
    let name = format!("mother-{number}-x86_64-linux");
    let folder = workspace::root().join("target/releases").join(&name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let program = strip(&built, &folder)?;
    for (shell, file) in COMPLETIONS {
        write(
            &folder.join("completions").join(file),
            &said(&program, &["completions", shell])?,
        )?;
    }
    for (file, page) in man::pages(&|words| said(&program, words), version.trim())? {
        write(&folder.join("man").join(file), &page)?;
    }
    write(&folder.join("sbom.cdx.json"), &sbom::sbom(&number)?)?;
    for file in ["README.md", "LICENSE"] {
        fs::copy(workspace::root().join(file), folder.join(file))?;
    }
    write(&folder.join("SHA256SUMS"), &sums(&folder)?)?;
    let archive = pack(&folder, &name)?;
    println!("{}", version.trim());
    println!(
        "{}: {} bytes",
        program.display(),
        fs::metadata(&program)?.len()
    );
    println!("{}", archive.display());
    Ok(true)
}

/// Builds the program, static and with its debug information.
fn build() -> Result<PathBuf> {
    let flags = "-Ctarget-feature=+crt-static";
    let status = cargo(&[
        "build",
        "--profile",
        "dist",
        "--target",
        TARGET,
        "-p",
        "cli",
    ])
    .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", flags)
    .status()?;
    ensure!(status.success(), "the program could not be built");
    Ok(workspace::root()
        .join("target")
        .join(TARGET)
        .join("dist/mother"))
}

/// The program without its debug information, which goes into a file beside it.
fn strip(built: &Path, folder: &Path) -> Result<PathBuf> {
    let program = folder.join("mother");
    let debug = folder.join("mother.debug");
    let objcopy = |options: &[&str], from: &Path, to: &Path| -> Result<()> {
        let mut command = Command::new("objcopy");
        command.args(options).arg(from).arg(to);
        ensure!(
            command.status().context("objcopy")?.success(),
            "{command:?}"
        );
        Ok(())
    };
    objcopy(&["--only-keep-debug"], built, &debug)?;
    let link = format!("--add-gnu-debuglink={}", debug.display());
    objcopy(&["--strip-all", &link], built, &program)?;
    let len = fs::metadata(&program)?.len();
    ensure!(
        len <= SIZE_BYTES_MAX,
        "the program has {len} bytes, more than {SIZE_BYTES_MAX}"
    );
    let needs = tool("readelf", &["--program-headers"], &program)?;
    if needs.contains("INTERP") {
        bail!("the program is not static: it asks for a loader");
    }
    Ok(program)
}

/// What a program prints.
fn said(program: &Path, words: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(words)
        .env("COLUMNS", "100")
        .output()
        .with_context(|| format!("{} {words:?}", program.display()))?;
    ensure!(
        output.status.success(),
        "{} {words:?} failed",
        program.display()
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn tool(name: &str, words: &[&str], file: &Path) -> Result<String> {
    let output = Command::new(name)
        .args(words)
        .arg(file)
        .output()
        .context(name.to_owned())?;
    ensure!(output.status.success(), "{name} {} failed", file.display());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The sums of all files, as `sha256sum -c` reads them.
fn sums(folder: &Path) -> Result<String> {
    let mut files = Vec::new();
    list(folder, Path::new(""), &mut files)?;
    files.sort();
    let output = Command::new("sha256sum")
        .args(&files)
        .current_dir(folder)
        .output()
        .context("sha256sum")?;
    ensure!(output.status.success(), "sha256sum failed");
    Ok(String::from_utf8(output.stdout)?)
}

fn list(root: &Path, below: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(root, &path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Packs everything but the debug information, whatever the time is: the same files make the same archive.
fn pack(folder: &Path, name: &str) -> Result<PathBuf> {
    let archive = folder.with_file_name(format!("{name}.tar.gz"));
    let status = Command::new("tar")
        .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
        .args([
            "--mtime=@0",
            "--exclude=mother.debug",
            "-I",
            "gzip -n",
            "-cf",
        ])
        .arg(&archive)
        .arg("-C")
        .arg(folder.parent().unwrap_or(folder))
        .arg(name)
        .status()
        .context("tar")?;
    ensure!(status.success(), "tar failed");
    Ok(archive)
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text).with_context(|| path.display().to_string())
}
