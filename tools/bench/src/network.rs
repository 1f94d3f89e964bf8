//! The network's part of `cargo xtask bench io`: TCP both ways between a guest and this host's loopback, on the
//! software CPU and on QEMU's TCG, turn and turn about.
//!
//! Both have the same network behind the card: passt, over a stream socket, with the same addresses and the same size of
//! packets; once the largest that passt carries, once Ethernet's. Guest, program and bytes are the same. The host measures,
//! from the first byte to the last.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fixtures::Qemu;
use images::{Cache, DefaultGuest};

use crate::boot::build_mother;
use crate::qemu::{MEMORY, limited, qemu, qemu_command};
use crate::runs::median;

/// Sizes of packets, and what goes each way with them: enough for a second or so.
const PACKETS: [(u16, u64); 2] = [(65_520, 1 << 30), (1500, 256 << 20)];
/// The guest's program sends so much at a time.
const BLOCK_BYTES: u64 = 64 << 10;
/// A guest that takes longer than this hangs.
const LIMIT_SECONDS: &str = "120";
/// How long passt may take to listen.
const PASST_START: Duration = Duration::from_secs(10);

/// What everybody runs.
struct Bench {
    qemu: Qemu,
    mother: PathBuf,
    passt: PathBuf,
    guest: DefaultGuest,
}

/// Prints the comparison; whether nothing is slower.
pub fn compare(run_count: usize) -> Result<bool> {
    let cache = Cache::of_user()?;
    let guest = cache.default_guest(&mut |_| {})?;
    let bench = Bench {
        qemu: qemu()?,
        mother: build_mother()?,
        passt: cache.passt(&mut |_| {})?,
        guest,
    };
    println!(
        "TCP between busybox in the guest and this host's loopback, both through passt;\n{} with {MEMORY}, 1 vCPU, \
         {run_count} runs each, in turns",
        bench.guest.kernel_package
    );
    println!(
        "\n{:<34}{:>10}{:>10}{:>12}",
        "medians", "soft", "tcg", "soft / tcg"
    );
    let mut is_fast = true;
    for (mtu, bytes) in PACKETS {
        let mut ours = Vec::new();
        let mut theirs = Vec::new();
        for _ in 0..run_count {
            ours.push(bench.ours(mtu, bytes).context("on `mother`")?);
            theirs.push(bench.theirs(mtu, bytes).context("on QEMU")?);
        }
        for (way, title) in [(0, "guest to host"), (1, "host to guest")] {
            let middle = |runs: &[[f64; 2]]| median(runs.iter().map(|run| run[way]).collect());
            let our = middle(&ours);
            let their = middle(&theirs);
            is_fast &= our >= their;
            let title = format!("{title}, MTU {mtu}, MiB/s");
            println!("{title:<34}{our:>10.0}{their:>10.0}{:>12.2}", our / their);
        }
    }
    println!(
        "\nno slower than tcg: {}",
        if is_fast { "yes" } else { "NO" }
    );
    Ok(is_fast)
}

impl Bench {
    fn ours(&self, mtu: u16, bytes: u64) -> Result<[f64; 2]> {
        measure(mtu, bytes, |cmdline| {
            let mut command = limited(LIMIT_SECONDS, &Command::new(&self.mother));
            command.args([
                "run",
                "--engine",
                "soft",
                "--memory",
                MEMORY,
                "--cmdline",
                cmdline,
            ]);
            command
                .arg("--kernel")
                .arg(&self.guest.kernel)
                .arg("--initrd")
                .arg(&self.guest.initrd);
            command.args(["--net", "user,host"]);
            command
        })
    }

    fn theirs(&self, mtu: u16, bytes: u64) -> Result<[f64; 2]> {
        let passt = Passt::start(&self.passt)?;
        measure(mtu, bytes, |cmdline| {
            let mut command = limited(
                LIMIT_SECONDS,
                &qemu_command(&self.qemu, &self.guest, cmdline),
            );
            let socket = passt.socket.display();
            let net = format!("stream,id=net,server=off,addr.type=unix,addr.path={socket}");
            let card = format!(
                "virtio-net-pci,netdev=net,disable-legacy=on,romfile=,host_mtu={}",
                PACKETS[0].0
            );
            command.args(["-netdev", &net, "-device", &card]);
            command
        })
    }
}

/// A passt for QEMU. Gone when this is dropped.
struct Passt {
    child: Child,
    folder: PathBuf,
    socket: PathBuf,
}

impl Passt {
    /// With the addresses that Mother's has, in a folder that it can write to: as root it becomes `nobody` first.
    /// On a host that has no way out it ends at the host's own addresses.
    fn start(program: &Path) -> Result<Passt> {
        Passt::start_on(program, &[]).or_else(|_| Passt::start_on(program, &["--interface", "lo"]))
    }

    fn start_on(program: &Path, interface: &[&str]) -> Result<Passt> {
        let folder =
            std::env::temp_dir().join(format!("mother-bench-passt-{}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o777))?;
        let socket = folder.join("socket");
        let _ = std::fs::remove_file(&socket);
        let mut command = Command::new(program);
        command
            .args([
                "--quiet",
                "--foreground",
                "--one-off",
                "--ipv4-only",
                "--socket",
            ])
            .arg(&socket);
        command.args([
            "--address",
            "10.0.2.15",
            "--netmask",
            "24",
            "--gateway",
            "10.0.2.2",
        ]);
        command.args(["--tcp-ports", "none", "--udp-ports", "none"]);
        command
            .args(interface)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let mut passt = Passt {
            child,
            folder,
            socket,
        };
        let give_up = Instant::now() + PASST_START;
        while !passt.socket.exists() {
            ensure!(passt.child.try_wait()?.is_none(), "passt ends at once");
            ensure!(Instant::now() < give_up, "passt does not make its socket");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(passt)
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Runs one guest; MiB per second from it and to it.
fn measure(mtu: u16, bytes: u64, command: impl FnOnce(&str) -> Command) -> Result<[f64; 2]> {
    let (sink_port, received) = serve(move |stream| take_all(stream, bytes))?;
    let (source_port, sent) = serve(move |stream| give_all(stream, bytes))?;
    let blocks = bytes / BLOCK_BYTES;
    let cmdline = format!(
        "console=ttyS0 quiet rdinit=/net mother.mtu={mtu} mother.blocks={blocks} mother.sink={sink_port} \
         mother.source={source_port}"
    );
    let mut child = command(&cmdline)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    child.wait()?;
    let rate = |done: Receiver<Result<Duration>>| -> Result<f64> {
        let took = done
            .recv_timeout(Duration::from_secs(1))
            .context("the guest did not do its part")??;
        Ok((bytes >> 20) as f64 / took.as_secs_f64())
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
        let served = listener
            .accept()
            .context("accept")
            .and_then(|(stream, _)| serve(stream));
        // Whoever waits no longer has said why.
        let _ = sender.send(served);
    });
    Ok((port, receiver))
}

fn take_all(mut stream: TcpStream, expected: u64) -> Result<Duration> {
    let mut part = vec![0; 1 << 20];
    let mut total = stream.read(&mut part)? as u64;
    let start = Instant::now();
    while total < expected {
        let count = stream.read(&mut part)?;
        ensure!(count > 0, "the guest sent {total} bytes of {expected}");
        total += count as u64;
    }
    Ok(start.elapsed())
}

fn give_all(mut stream: TcpStream, bytes: u64) -> Result<Duration> {
    let part = vec![0; 1 << 20];
    let start = Instant::now();
    for _ in 0..bytes >> 20 {
        stream.write_all(&part)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // The guest closes when it has everything.
    while stream.read(&mut [0; 64])? > 0 {}
    Ok(start.elapsed())
}
