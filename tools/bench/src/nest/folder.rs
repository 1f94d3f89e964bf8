//! The folder that lies at the same place in the nested machine and on this host: scripts, programs, guests, modules.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use fixtures::{KvmHost, Qemu};
use images::{Cache, DefaultGuest};
use serde_json::Value;

use crate::workspace;
use crate::workspace::cargo;

/// The scripts of the nested machine, and what is typed to its guests.
const SCRIPTS: [(&str, &str); 7] = [
    ("tests", include_str!("tests.sh")),
    ("exits", include_str!("exits.sh")),
    ("boot", include_str!("boot.sh")),
    ("commands", include_str!("commands.sh")),
    ("again-commands", include_str!("again.sh")),
    ("fill", include_str!("fill.sh")),
    ("worker", include_str!("worker.sh")),
];

/// What of QEMU's firmware a guest on KVM is started with.
const FIRMWARE: [&str; 7] = [
    "bios-256k.bin",
    "bios-microvm.bin",
    "kvmvapic.bin",
    "linuxboot_dma.bin",
    "qboot.rom",
    "pvh.bin",
    "multiboot_dma.bin",
];

/// Makes the folder anew.
pub(super) fn empty() -> Result<PathBuf> {
    let folder = workspace::root().join("target/xtask/nest");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("empty {}", folder.display()))?;
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Everything that the tests need.
pub(super) fn fill(
    folder: &Path,
    mother: &Path,
    host: &KvmHost,
    guest: &DefaultGuest,
) -> Result<()> {
    let init = include_str!("init.sh").replace("@NEST@", &folder.to_string_lossy());
    fs::write(folder.join("init"), init)?;
    make_executable(&folder.join("init"))?;
    for (name, text) in SCRIPTS {
        fs::write(folder.join(name), text)?;
    }
    strip(mother, &folder.join("mother"))?;
    let places = format!("NEST='{0}'\nMOTHER='{0}/mother'\n", folder.display());
    fs::write(folder.join("places"), places)?;
    copy(&guest.kernel, &folder.join("kernel"))?;
    copy(&guest.initrd, &folder.join("initrd"))?;
    for module in &host.modules {
        let name = module.file_name().context("a module has a name")?;
        copy(module, &folder.join(name))?;
    }
    build_vectors(folder)?;
    let built = built()?;
    strip(&program(&built, "kvm", true)?, &folder.join("kvm-tests"))?;
    build_guests_with(&program(&built, "guest", false)?, folder)
}

/// The bare guests.
pub(super) fn build_guests(folder: &Path) -> Result<()> {
    build_guests_with(&program(&built()?, "guest", false)?, folder)
}

fn build_guests_with(guest: &Path, folder: &Path) -> Result<()> {
    let mut command = Command::new(guest);
    command.arg("--build").arg(folder).stdout(Stdio::null());
    let status = command.status().context("start the maker of bare guests")?;
    ensure!(status.success(), "the bare guests do not build");
    Ok(())
}

/// The program that keeps values in vector registers.
fn build_vectors(folder: &Path) -> Result<()> {
    let mut compiler = Command::new("cc");
    compiler
        .args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-static", "-o"])
        .arg(folder.join("vectors"));
    let status = compiler
        .arg(workspace::root().join("guests/vectors/main.c"))
        .status();
    ensure!(
        status.context("start the C compiler `cc`")?.success(),
        "guests/vectors does not build"
    );
    Ok(())
}

/// Everything as the tests have it, in the very words with which they build it: other words are other features of crates, and
/// so all of them once more, in the place of programs that run at that moment.
fn built() -> Result<Vec<Value>> {
    let words = [
        "build",
        "--quiet",
        "--profile",
        "test",
        "--workspace",
        "--all-targets",
        "--message-format",
        "json",
    ];
    let output = cargo(&words)
        .stderr(Stdio::inherit())
        .output()
        .context("start cargo")?;
    ensure!(output.status.success(), "the workspace does not build");
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

/// Where a program is: one of tests, or one that is one.
fn program(built: &[Value], name: &str, is_test: bool) -> Result<PathBuf> {
    let is_it = |message: &&Value| {
        message["target"]["name"] == name
            && message["profile"]["test"] == is_test
            && message["executable"].is_string()
    };
    let found = built.iter().find(is_it);
    let path = found.and_then(|message| message["executable"].as_str());
    Ok(PathBuf::from(path.with_context(|| {
        format!("cargo does not say where {name} is")
    })?))
}

/// `mother` as the tests have it, built already where they have run.
pub fn build_for_tests() -> Result<PathBuf> {
    program(&built()?, "mother", false)
}

/// What passt needs beside itself. What it becomes lies there: one for newer CPUs, and for one in the cache, which has a folder
/// of its own, the C library that it is made for. The host's own lies among all of its programs.
pub(super) fn of_passt(cache: &Cache, passt: &Path) -> Result<Vec<PathBuf>> {
    let folder = passt.parent().context("passt lies in a folder")?;
    if folder.starts_with(cache.folder().canonicalize()?) {
        return Ok(vec![folder.to_owned()]);
    }
    let entries = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    let is_of_it = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("passt"))
    };
    Ok(entries
        .iter()
        .map(fs::DirEntry::path)
        .filter(is_of_it)
        .collect())
}

/// Has the nested machine find programs in a further folder, which is in it too.
pub(super) fn add_to_path(folder: &Path, programs: &Path) -> Result<()> {
    let places = folder.join("places");
    let text = fs::read_to_string(&places)?;
    Ok(fs::write(
        places,
        format!("{text}PATH=\"$PATH:{}\"\n", programs.display()),
    )?)
}

/// QEMU with what it needs to run, in a folder; a script `qemu` starts it.
pub(super) fn add_qemu(folder: &Path, qemu: &Qemu) -> Result<()> {
    let to = folder.join("qemu.d");
    fs::create_dir_all(&to)?;
    copy(&qemu.program, &to.join("qemu"))?;
    for library in qemu.libraries().context("ask for QEMU's libraries")? {
        copy(
            &library,
            &to.join(library.file_name().context("a library has a name")?),
        )?;
    }
    for name in FIRMWARE {
        let found = qemu
            .firmware_folders()
            .iter()
            .map(|place| place.join(name))
            .find(|path| path.exists());
        if let Some(path) = found {
            copy(&path, &to.join(name))?;
        }
    }
    let place = to.display();
    let script = format!(
        "exec {place}/ld-linux-x86-64.so.2 --library-path {place} {place}/qemu -L {place} \"$@\"\n"
    );
    Ok(fs::write(folder.join("qemu"), script)?)
}

/// A program without what only debuggers read, which is most of it: all of it has to fit into the machine's memory.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("strip").arg("-o").arg(to).arg(from).status();
    let status = status.context("start `strip`, which comes with the C compiler")?;
    ensure!(status.success(), "`strip` fails for {}", from.display());
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

fn make_executable(path: &Path) -> Result<()> {
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o755),
    )?)
}
