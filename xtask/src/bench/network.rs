//! The network's part of `cargo xtask bench io`: TCP both ways between a guest and this host's loopback, on the
//! software CPU and on QEMU's TCG, turn and turn about.
//!
//! Each has the user network that it comes with: Mother passt, QEMU its own (`-netdev user`). The host measures, from the
//! first byte to the last.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use images::{Cache, DefaultGuest};

use super::boot::{MEMORY, build_mother, ensure_qemu, qemu_command};
use super::median;

/// What goes each way; the guest's script knows it too.
const BYTES: usize = 256 << 20;
/// A guest that takes longer than this hangs.
const LIMIT_SECONDS: &str = "120";

/// Prints the comparison; whether nothing is slower.
pub fn compare(run_count: usize) -> Result<bool> {
    ensure_qemu()?;
    let mother = build_mother()?;
    let cache = Cache::of_user()?;
    let guest = cache.default_guest(&mut |_| {})?;
    cache.passt(&mut |_| {})?;
    println!(
        "\nTCP between the guest's busybox and this host's loopback, {} MiB each way; {run_count} runs each, in turns",
        BYTES >> 20
    );
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..run_count {
        ours.push(run(|cmdline| mother_command(&mother, &guest, cmdline)).context("on `mother`")?);
        theirs.push(run(|cmdline| qemu_with_network(&guest, cmdline)).context("on QEMU")?);
    }
    println!("\n{:<34}{:>10}{:>10}{:>12}", "medians", "soft", "tcg", "soft / tcg");
    let mut is_fast = true;
    for (way, title) in [(0, "guest to host, MiB/s"), (1, "host to guest, MiB/s")] {
        let middle = |runs: &[[f64; 2]]| median(runs.iter().map(|run| run[way]).collect());
        let (our, their) = (middle(&ours), middle(&theirs));
        is_fast &= our >= their;
        println!("{title:<34}{our:>10.0}{their:>10.0}{:>12.2}", our / their);
    }
    println!("\nno slower than tcg: {}", if is_fast { "yes" } else { "NO" });
    Ok(is_fast)
}

fn mother_command(mother: &Path, guest: &DefaultGuest, cmdline: &str) -> Command {
    let mut command = limited();
    command.arg(mother).args(["run", "--engine", "soft", "--memory", MEMORY, "--cmdline", cmdline]);
    command.arg("--kernel").arg(&guest.kernel).arg("--initrd").arg(&guest.initrd);
    command.args(["--net", "user,host"]);
    command
}

fn qemu_with_network(guest: &DefaultGuest, cmdline: &str) -> Command {
    let qemu = qemu_command(guest, cmdline);
    let mut command = limited();
    command.arg(qemu.get_program()).args(qemu.get_args());
    command.args([
        "-netdev",
        "user,id=net",
        "-device",
        "virtio-net-pci,netdev=net,disable-legacy=on,romfile=",
    ]);
    command
}

fn limited() -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", LIMIT_SECONDS]);
    command
}

/// Runs one guest; MiB per second from it and to it.
fn run(command: impl FnOnce(&str) -> Command) -> Result<[f64; 2]> {
    let (sink_port, received) = serve(take_all)?;
    let (source_port, sent) = serve(give_all)?;
    let cmdline =
        format!("console=ttyS0 quiet rdinit=/net mother.sink={sink_port} mother.source={source_port}");
    let mut command = command(&cmdline);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    child.wait()?;
    let rate = |done: Receiver<Result<Duration>>| -> Result<f64> {
        let took = done.recv_timeout(Duration::from_secs(1)).context("the guest did not do its part")??;
        Ok((BYTES >> 20) as f64 / took.as_secs_f64())
    };
    Ok([rate(received)?, rate(sent)?])
}

/// A server for one connection on the loopback: its port, and what it says when it is done.
fn serve(
    serve: impl FnOnce(TcpStream) -> Result<Duration> + Send + 'static,
) -> Result<(u16, Receiver<Result<Duration>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let served = listener.accept().context("accept").and_then(|(stream, _)| serve(stream));
        // Whoever waits no longer has said why.
        let _ = sender.send(served);
    });
    Ok((port, receiver))
}

fn take_all(mut stream: TcpStream) -> Result<Duration> {
    let start = Instant::now();
    let (mut total, mut part) = (0, vec![0; 1 << 20]);
    loop {
        match stream.read(&mut part)? {
            0 => break,
            count => total += count,
        }
    }
    anyhow::ensure!(total == BYTES, "{total} bytes came");
    Ok(start.elapsed())
}

fn give_all(mut stream: TcpStream) -> Result<Duration> {
    let start = Instant::now();
    let part = vec![0; 1 << 20];
    for _ in 0..BYTES >> 20 {
        stream.write_all(&part)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // The guest closes when it has everything.
    while stream.read(&mut [0; 64])? > 0 {}
    Ok(start.elapsed())
}
