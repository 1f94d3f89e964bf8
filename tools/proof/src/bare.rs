//! Bare guests: built from `guests/bare` with the C compiler that Rust links with, and run on an engine with nothing
//! around it but a serial port and the debug-exit port.
//!
//! They are multiboot kernels (Multiboot Specification 0.6.96), so the same images run under `mother run --kernel`,
//! and under other hypervisors to compare.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, ensure};
use mem::GuestMemory;
use vcpu::{Exit, Reply, Vcpu, VcpuState, gpr};
use x86::Gpa;

use crate::engine::MakeVcpu;

/// A guest: its name and its sources in `guests/bare`.
pub struct Guest {
    /// File name of the image, and what people call it.
    pub name: &'static str,
    pub(crate) sources: &'static [&'static str],
}

/// Every bare guest.
pub const GUESTS: [Guest; 5] = [
    Guest {
        name: "exits",
        sources: &["exits.c"],
    },
    Guest {
        name: "hello",
        sources: &["hello.c"],
    },
    Guest {
        name: "flood",
        sources: &["flood.c"],
    },
    Guest {
        name: "hostile",
        sources: &["hostile.c"],
    },
    Guest {
        name: "processor",
        sources: &[
            "processor.c",
            "trap.c",
            "pages.c",
            "exceptions.c",
            "paging.c",
            "ring3.c",
            "debugging.c",
            "self_modifying.c",
        ],
    },
];

/// Where the sources are.
pub fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/bare")
}

const COMPILER: [&str; 17] = [
    "-std=gnu11",
    "-Wall",
    "-Wextra",
    "-O2",
    "-m64",
    "-ffreestanding",
    "-fno-pic",
    "-fno-pie",
    "-fno-stack-protector",
    "-mno-red-zone",
    "-mgeneral-regs-only",
    "-fno-asynchronous-unwind-tables",
    "-fcf-protection=none",
    "-fno-toplevel-reorder",
    "-static",
    "-nostdlib",
    "-no-pie",
];

impl Guest {
    /// Builds the image in `folder` and says where it is.
    ///
    /// # Errors
    /// When there is no C compiler or it refuses.
    pub fn build(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let image = folder.join(format!("{}.bin", self.name));
        let sources = source_folder();
        let output = Command::new("cc")
            .current_dir(&sources)
            .args(COMPILER)
            .args([
                "-Wl,--oformat=binary",
                "-Wl,--build-id=none",
                "-Wl,-T,flat.ld",
                "-o",
            ])
            .arg(&image)
            .arg("start.S")
            .args(self.sources)
            .output()
            .context("start the C compiler `cc`")?;
        let complaints = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "cannot build guest {}: {complaints}",
            self.name
        );
        Ok(image)
    }
}

/// How a bare guest ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It wrote this to the debug-exit port.
    DebugExit(u8),
    /// It shut its processor down.
    TripleFault,
    /// It halted for ever.
    Halted,
    /// Its time was over.
    TimedOut,
}

/// What a bare guest did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// What it wrote to the serial port.
    pub console: String,
    /// How it ended.
    pub ending: Ending,
}

pub(crate) const MEMORY_BYTES: u64 = 128 << 20;
/// Where the multiboot information and the command line are put.
const INFO: u64 = 0x9000;
const COMMAND_LINE: u64 = 0x9100;
pub(crate) const SERIAL: u16 = 0x3f8;
const DEBUG_EXIT: u16 = 0xf4;
const BOOTED: u64 = 0x2bad_b002;
const HEADER_MAGIC: u32 = 0x1bad_b002;

/// Runs an image with a command line on an engine, for `limit` at most.
///
/// # Errors
/// When the image is no flat multiboot kernel, or the engine cannot go on.
pub fn run(
    make: &MakeVcpu,
    image: &[u8],
    command_line: &str,
    limit: Duration,
) -> anyhow::Result<Run> {
    let memory = Arc::new(GuestMemory::flat(MEMORY_BYTES)?);
    let state = boot(&memory, image, command_line)?;
    let mut vcpu = make(memory)?;
    vcpu.set_state(&state)?;
    let kicker = vcpu.kicker();
    let (done, waiting) = channel::<()>();
    let watch = std::thread::spawn(move || {
        if waiting.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            kicker.kick();
        }
    });
    let run = serve(&mut *vcpu);
    drop(done);
    watch.join().expect("the watch does not panic");
    run
}

/// Loads an image with its command line; returns the state in which its first processor starts.
pub(crate) fn boot(
    memory: &GuestMemory,
    image: &[u8],
    command_line: &str,
) -> anyhow::Result<VcpuState> {
    let entry = load(memory, image)?;
    memory.write(Gpa(INFO), &4_u32.to_le_bytes())?;
    memory.write(Gpa(INFO + 16), &(COMMAND_LINE as u32).to_le_bytes())?;
    memory.write(Gpa(COMMAND_LINE), command_line.as_bytes())?;
    let mut state = VcpuState::protected_mode();
    state.rip = u64::from(entry);
    state.gprs[gpr::RAX] = BOOTED;
    state.gprs[gpr::RBX] = INFO;
    Ok(state)
}

/// Loads the image as its multiboot header says; returns the entry point.
fn load(memory: &GuestMemory, image: &[u8]) -> anyhow::Result<u32> {
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(
            image.get(at..at + 4)?.try_into().expect("four bytes"),
        ))
    };
    let header = (0..8192)
        .step_by(4)
        .find(|&at| word(at) == Some(HEADER_MAGIC));
    let at = header.context("the image has no multiboot header")?;
    let field = |n: usize| word(at + 4 * n).context("the multiboot header is cut off");
    let header_address = field(3)?;
    let load_address = field(4)?;
    let entry = field(7)?;
    let skipped = (header_address - load_address) as usize;
    let start = at
        .checked_sub(skipped)
        .context("the multiboot header lies before its image")?;
    memory.write(Gpa(u64::from(load_address)), &image[start..])?;
    Ok(entry)
}

/// Answers exits until the guest ends.
fn serve(vcpu: &mut dyn Vcpu) -> anyhow::Result<Run> {
    let mut console = Vec::new();
    let mut reply = Reply::Done;
    let ending = loop {
        reply = match vcpu.run(reply)? {
            Exit::PioWrite {
                port: DEBUG_EXIT,
                value,
                ..
            } => break Ending::DebugExit(value as u8),
            Exit::PioWrite {
                port: SERIAL,
                value,
                ..
            } => {
                console.push(value as u8);
                Reply::Done
            }
            Exit::PioRead { port, .. } if port == SERIAL + 5 => Reply::Value(0x60),
            Exit::PioRead { .. } | Exit::MmioRead { .. } => Reply::Value(u64::MAX),
            Exit::MsrRead { .. } | Exit::MsrWrite { .. } => Reply::Fault,
            Exit::Halt => break Ending::Halted,
            Exit::TripleFault(_) => break Ending::TripleFault,
            Exit::Kicked => break Ending::TimedOut,
            _ => Reply::Done,
        };
    };
    Ok(Run {
        console: String::from_utf8_lossy(&console).into_owned(),
        ending,
    })
}
