//! `dist`: what is handed to users, in one folder and one archive.
//!
//! The program is linked statically, so one file runs on every distribution whatever its C library is, and on a root
//! that has none. Its debug information lies beside the archive, for whoever looks into a crash. Nothing in the program says
//! where on this machine it was built.

mod boot;
mod deb;
mod man;
mod sbom;
mod trial;

pub use boot::run as boot;
pub use trial::run as try_out;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::steps::cargo;
use crate::workspace;

/// What it is built for.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What a user copies is no larger: a third of it is the daemon with HTTP, TLS, its store and the page.
const SIZE_BYTES_MAX: u64 = 22_500_000;

/// What lets the program have user namespaces where AppArmor keeps them from others.
const APPARMOR: &str = "packaging/apparmor/mother";

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
    let folder = workspace::target().join("releases").join(&name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let debug = folder.with_file_name(format!("{name}.debug"));
    let program = strip(&built, &folder, &debug)?;
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
    let profile = fs::read_to_string(workspace::root().join(APPARMOR))?;
    write(&folder.join("apparmor/mother"), &profile)?;
    write(&folder.join("SHA256SUMS"), &sums(&folder)?)?;
    let archive = pack(&folder, &name)?;
    let package = deb::package(&folder, &number)?;
    let package_name = package.file_name().unwrap_or_default();
    let package_name = package_name.to_string_lossy().into_owned();
    let releases = workspace::target().join("releases");
    let beside = [
        format!("{name}.tar.gz"),
        format!("{name}.debug"),
        package_name,
    ];
    write(&releases.join("SHA256SUMS"), &sums_of(&releases, &beside)?)?;
    println!("{}", version.trim());
    println!(
        "{}: {} bytes",
        program.display(),
        fs::metadata(&program)?.len()
    );
    println!("{}", archive.display());
    println!("{}", package.display());
    Ok(true)
}

/// Builds the program, static and with its debug information.
fn build() -> Result<PathBuf> {
    let mut flags = "-Ctarget-feature=+crt-static".to_owned();
    for (folder, shown) in folders()? {
        flags.push_str(&format!(
            " --remap-path-prefix={}={shown}",
            folder.display()
        ));
    }
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
    Ok(workspace::target().join(TARGET).join("dist/mother"))
}

/// Folders of this machine that a panic would name, and what stands in their place.
fn folders() -> Result<[(PathBuf, &'static str); 2]> {
    let home = || std::env::home_dir().map(|home| home.join(".cargo"));
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = cargo
        .or_else(home)
        .context("neither CARGO_HOME nor HOME is set")?;
    Ok([
        (workspace::root(), "mother"),
        (cargo.join("registry/src"), "crates"),
    ])
}

/// The program without its debug information, which goes into a file beside the folder.
fn strip(built: &Path, folder: &Path, debug: &Path) -> Result<PathBuf> {
    let program = folder.join("mother");
    let objcopy = |options: &[&str], from: &Path, to: &Path| -> Result<()> {
        let mut command = Command::new("objcopy");
        command.args(options).arg(from).arg(to);
        ensure!(
            command.status().context("objcopy")?.success(),
            "{command:?}"
        );
        Ok(())
    };
    objcopy(&["--only-keep-debug"], built, debug)?;
    fs::set_permissions(debug, fs::Permissions::from_mode(0o644))?;
    let link = format!("--add-gnu-debuglink={}", debug.display());
    objcopy(&["--strip-all", &link], built, &program)?;
    check(&program)?;
    Ok(program)
}

/// What users get is small, static, and does not tell of this machine.
fn check(program: &Path) -> Result<()> {
    let bytes = fs::read(program)?;
    let len = bytes.len() as u64;
    ensure!(
        len <= SIZE_BYTES_MAX,
        "the program has {len} bytes, more than {SIZE_BYTES_MAX}"
    );
    let needs = tool("readelf", &["--program-headers"], program)?;
    ensure!(
        !needs.contains("INTERP"),
        "the program is not static: it asks for a loader"
    );
    for (folder, _) in folders()? {
        let name = folder.as_os_str().as_encoded_bytes();
        ensure!(
            !bytes.windows(name.len()).any(|part| part == name),
            "the program names {}",
            folder.display()
        );
    }
    Ok(())
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
    sums_of(folder, &files)
}

fn sums_of(folder: &Path, files: &[impl AsRef<OsStr>]) -> Result<String> {
    let output = Command::new("sha256sum")
        .args(files)
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

/// Packs everything, whatever the time is: the same files make the same archive.
fn pack(folder: &Path, name: &str) -> Result<PathBuf> {
    let archive = folder.with_file_name(format!("{name}.tar.gz"));
    let status = Command::new("tar")
        .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
        .args(["--mtime=@0", "-I", "gzip -n", "-cf"])
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
