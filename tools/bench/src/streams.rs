//! The streams' part of `cargo xtask bench io`: a program in a guest writes, and reads, on the software CPU and
//! on QEMU's TCG, turn and turn about.
//!
//! Kernel, initrd, program and the driver in the guest are the same, `virtio_console` on a port for each stream. On one
//! side the ports end in `mother run` and its standard streams, on the other in QEMU's `virtserialport` and Unix sockets,
//! where this program says what `mother` would say to the guest. Every byte is compared with what was sent. A time
//! begins when the program in the guest says that it runs and ends with the last byte.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use fixtures::Qemu;
use images::{Cache, DefaultGuest, GuestCommand, PROGRAM_PORTS};
use rustix::process::{Pid, Signal, kill_process};

use crate::boot::build_mother;
use crate::qemu::{MEMORY, limited, qemu, qemu_command};
use crate::runs::median;
use crate::workspace;

const COMMAND_LINE: &str = "console=ttyS0 quiet rdinit=/program panic=-1";
/// What each measurement moves.
const BYTES: usize = 256_000_000;
/// A guest that takes longer than this hangs.
const LIMIT_SECONDS: &str = "300";
/// What the program says when it runs, and when it has read everything.
const BEGIN: &[u8] = b"begin\n";
const END: &[u8] = b"end\n";
/// Bytes moved at once here.
const PIECE_BYTES: usize = 64 * 1024;
/// A prime, so that no piece of any size looks like another.
const PATTERN_BYTES: usize = 999_983;

/// What is measured.
#[derive(Clone, Copy)]
struct Measurement {
    title: &'static str,
    /// What the guest's shell runs.
    script: &'static str,
    /// Whether bytes go in, and whether they come out.
    goes_in: bool,
    comes_out: bool,
}

const MEASUREMENTS: [Measurement; 2] = [
    Measurement {
        title: "standard output, MB/s",
        script: "echo begin; exec dd if=/dev/zero bs=64k count=3906 2>/dev/null",
        goes_in: false,
        comes_out: true,
    },
    Measurement {
        title: "standard input, MB/s",
        script: "echo begin; cat >/dev/null; echo end",
        goes_in: true,
        comes_out: false,
    },
];

/// What the measurement of output moves: whole blocks.
const OUTPUT_BYTES: usize = 3906 * 64 * 1024;

/// Prints the comparison; whether nothing is slower.
pub fn compare(run_count: usize) -> Result<bool> {
    let qemu = qemu()?;
    let mother = build_mother()?;
    let cache = Cache::of_user()?;
    let guest = cache.default_guest(&mut |_| {})?;
    println!(
        "A program's streams over ports of virtio-console, {} MB each, compared byte for byte;\n{} with {MEMORY}, 1 vCPU, \
         {run_count} runs each, in turns\n\n{:<34}{:>10}{:>10}{:>12}",
        BYTES / 1_000_000,
        guest.kernel_package,
        "medians",
        "soft",
        "tcg",
        "soft / tcg"
    );
    let mut is_fast = true;
    for measurement in MEASUREMENTS {
        let mut ours = Vec::new();
        let mut theirs = Vec::new();
        for _ in 0..run_count {
            ours.push(on_mother(&mother, measurement).context("on `mother`")?);
            theirs.push(on_qemu(&qemu, &cache, &guest, measurement).context("on QEMU")?);
        }
        let our = median(ours);
        let their = median(theirs);
        is_fast &= our >= their;
        println!(
            "{:<34}{our:>10.1}{their:>10.1}{:>12.2}",
            measurement.title,
            our / their
        );
    }
    println!(
        "\nno slower than tcg: {}",
        if is_fast { "yes" } else { "NO" }
    );
    Ok(is_fast)
}

/// The rate on the software CPU.
fn on_mother(mother: &Path, measurement: Measurement) -> Result<f64> {
    let mut command = limited(LIMIT_SECONDS, &Command::new(mother));
    command.args(["run", "--engine", "soft", "--memory", MEMORY]);
    command.args(["--", "sh", "-c", measurement.script]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("start `mother run`")?;
    let to = child.stdin.take().context("a pipe was asked for")?;
    let from = child.stdout.take().context("a pipe was asked for")?;
    let rate = measure(measurement, to, from);
    let status = child.wait()?;
    ensure!(status.success(), "`mother run` ended with {status}");
    rate
}

/// Ends QEMU however the measurement went.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // `timeout` hands this on, as it would not SIGKILL.
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

/// A folder of sockets, gone afterwards.
struct Sockets(PathBuf);

impl Drop for Sockets {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The rate on QEMU.
fn on_qemu(
    qemu: &Qemu,
    cache: &Cache,
    guest: &DefaultGuest,
    measurement: Measurement,
) -> Result<f64> {
    let run = cache.run_folder()?;
    let command = GuestCommand {
        arguments: ["sh", "-c", measurement.script].map(str::to_owned).into(),
        environment: vec!["PATH=/bin".to_owned()],
        folder: "/".to_owned(),
        ..GuestCommand::default()
    };
    let guest = DefaultGuest {
        initrd: cache.program_initrd(guest, &command, &run)?,
        ..guest.clone()
    };
    let folder = workspace::root().join(format!("target/bench-streams-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let folder = Sockets(folder);
    let mut command = qemu_command(qemu, &guest, COMMAND_LINE);
    command.args(["-device", "virtio-serial-pci,disable-legacy=on"]);
    let mut listeners = Vec::new();
    for name in PROGRAM_PORTS {
        let path = folder.0.join(name);
        listeners.push(UnixListener::bind(&path).context("make a socket")?);
        command.arg("-chardev");
        command.arg(format!("socket,id={name},path={}", path.display()));
        command.arg("-device");
        command.arg(format!("virtserialport,chardev={name},name={name}"));
    }
    let mut command = limited(LIMIT_SECONDS, &command);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let child = Ended(command.spawn().context("start QEMU")?);
    let mut streams = Vec::new();
    for listener in listeners {
        streams.push(listener.accept()?.0);
    }
    let [control, input, output, errors] = <[UnixStream; 4]>::try_from(streams)
        .map_err(|_| anyhow::anyhow!("a stream for each port"))?;
    let rate = measure(measurement, Pieces(input), output);
    // Nobody answers it: the guest does not end by itself.
    drop((control, errors, child));
    rate
}

/// Standard input as the guest takes it: pieces behind their length, and one of none at the end.
struct Pieces(UnixStream);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let piece = [&(bytes.len() as u32).to_le_bytes(), bytes].concat();
        self.0.write_all(&piece)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        let _ = self.0.write_all(&[0; 4]);
        let _ = self.0.shutdown(Shutdown::Write);
    }
}

/// Has bytes go through the guest; megabytes in a second.
fn measure(
    measurement: Measurement,
    mut to: impl Write + Send,
    mut from: impl Read,
) -> Result<f64> {
    let pattern = pattern();
    expect(&mut from, BEGIN)?;
    let start = Instant::now();
    let bytes = if measurement.goes_in {
        BYTES
    } else {
        OUTPUT_BYTES
    };
    thread::scope(|scope| -> Result<()> {
        let sender = scope.spawn(|| -> Result<()> {
            let count = if measurement.goes_in { BYTES } else { 0 };
            let mut sent = 0;
            while sent < count {
                let at = sent % PATTERN_BYTES;
                let len = PIECE_BYTES.min(PATTERN_BYTES - at).min(count - sent);
                to.write_all(&pattern[at..at + len])?;
                sent += len;
            }
            drop(to);
            Ok(())
        });
        let zeros = vec![0; PATTERN_BYTES];
        let expected = if measurement.goes_in {
            &pattern
        } else {
            &zeros
        };
        if measurement.comes_out {
            compare_all(&mut from, expected, bytes)?;
        } else {
            expect(&mut from, END)?;
        }
        match sender.join() {
            Ok(sent) => sent.context("send to the guest"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    Ok(bytes as f64 / 1e6 / start.elapsed().as_secs_f64())
}

/// Bytes of all values that do not repeat soon.
fn pattern() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..PATTERN_BYTES).map(|_| next()).collect()
}

/// Reads exactly this.
fn expect(from: &mut impl Read, text: &[u8]) -> Result<()> {
    let mut got = vec![0; text.len()];
    from.read_exact(&mut got).context("hear from the guest")?;
    let shown = String::from_utf8_lossy(&got).into_owned();
    ensure!(got == text, "the guest said {shown:?}");
    Ok(())
}

/// Reads so many bytes of a pattern that repeats.
fn compare_all(from: &mut impl Read, pattern: &[u8], count: usize) -> Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut got = 0;
    while got < count {
        let at = got % pattern.len();
        let room = PIECE_BYTES.min(pattern.len() - at).min(count - got);
        let len = from.read(&mut buffer[..room])?;
        ensure!(len > 0, "the guest's output ended after {got} bytes");
        ensure!(
            buffer[..len] == pattern[at..at + len],
            "the guest's output differs within {len} bytes from {got}"
        );
        got += len;
    }
    Ok(())
}
