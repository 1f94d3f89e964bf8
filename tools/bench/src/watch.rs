//! Starts a VMM, reads its console, and notes when each landmark line came.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::memory::Memory;

/// Where a boot has got to, as its console shows it.
pub const FIRST_KERNEL_LINE: &str = "Linux version ";

/// What one boot took.
#[derive(Clone, Copy, Debug)]
pub struct Boot {
    /// Start of the process to the kernel's first line.
    pub kernel: Duration,
    /// Start of the process to the first line of `/init`.
    pub init: Duration,
    /// Memory of the process and of all that it started, at that moment.
    pub memory: Memory,
}

/// Runs `command`, which must print the guest's console, until the guest has reached `/init` and has ended itself.
pub fn boot(command: &mut Command, limit: Duration) -> Result<Boot> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("start {}", command.get_program().display()))?;
    let seen = watch(&mut child, start);
    let _ = wait(&mut child, start + limit);
    seen
}

fn watch(child: &mut Child, start: Instant) -> Result<Boot> {
    let mut output = child
        .stdout
        .take()
        .context("the output was asked for as a pipe")?;
    let mut text = String::new();
    let mut kernel = None;
    let mut buffer = [0; 4096];
    loop {
        let count = output.read(&mut buffer)?;
        let now = start.elapsed();
        if count == 0 {
            let end: Vec<&str> = text.lines().rev().take(5).collect();
            bail!("the guest ended before /init; its last lines, newest first: {end:#?}");
        }
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        if kernel.is_none() && text.contains(FIRST_KERNEL_LINE) {
            kernel = Some(now);
        }
        if text.contains(images::INIT_MARKER) {
            let memory = Memory::of_all(child.id())?;
            // The rest must be read, or the guest would wait for us.
            std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
            return Ok(Boot {
                kernel: kernel.context("/init came before the kernel's first line")?,
                init: now,
                memory,
            });
        }
    }
}

/// Waits for the guest to end by itself; ends it if it does not.
fn wait(child: &mut Child, deadline: Instant) -> Result<()> {
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
