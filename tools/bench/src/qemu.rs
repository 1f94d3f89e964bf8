//! QEMU, with which measurements compare: the host's, or Debian's in the cache. Never a part of Mother.

use std::process::Command;

use anyhow::{Context, Result};
use fixtures::Qemu;
use images::{Cache, DefaultGuest};

/// Memory of every guest that is compared.
pub const MEMORY: &str = "512M";

/// QEMU; where the host has none, it comes from Debian into the cache.
pub fn qemu() -> Result<Qemu> {
    fixtures::qemu(&Cache::of_user()?, &mut |_| {}).context("get QEMU to compare with")
}

/// QEMU's software CPU with the guest that Mother has.
pub fn qemu_command(qemu: &Qemu, guest: &DefaultGuest, cmdline: &str) -> Command {
    let mut command = qemu.command();
    command.args([
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-M",
        "q35",
        "-m",
        MEMORY,
        "-smp",
        "1",
        "-nodefaults",
    ]);
    command.args([
        "-display",
        "none",
        "-monitor",
        "none",
        "-serial",
        "stdio",
        "-no-reboot",
    ]);
    command.args(["-append", cmdline]);
    command
        .arg("-kernel")
        .arg(&guest.kernel)
        .arg("-initrd")
        .arg(&guest.initrd);
    command
}

/// The same command, ended after some seconds whatever happens; `timeout` hands on the signal that ends it. More options
/// may follow.
pub fn limited(seconds: &str, inner: &Command) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", seconds])
        .arg(inner.get_program())
        .args(inner.get_args());
    command.envs(
        inner
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    command
}
