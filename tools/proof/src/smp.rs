//! Guests of several CPUs: the program of `guests/stress` as the one thing that a default guest runs.
//!
//! While the program stresses user space, scripts have the kernel patch its own code (static keys, tracepoints) and load
//! and unload modules, and in the end everything that the kernel said at the level of a warning or above is printed: a
//! guest that is well says nothing.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use host::lock::Lock;
use machine::{Console, Ending, Report};

use crate::programs::add_files;

const SOURCES: [&str; 4] = ["main.c", "processes.c", "memory.c", "code.c"];
/// What every line of the program and of its script begins with.
const MARK: &str = "stress: ";
/// What the kernel itself complained about.
const KERNEL: &str = "stress: kernel: ";
/// What a kernel says on a host whose cores are busy elsewhere in the middle of an interrupt; nobody's fault.
const LOST_ITS_CORE: &str = "hrtimer: interrupt took";
const INIT: &str = "/stress-init";

/// Patches kernel code until the program ends: each write turns static branches over, on all CPUs.
const SCRIPT: &str = r#"#!/bin/busybox sh
. /etc/mounts
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
patch() {
    while [ -e /tmp/go ]; do
        for on in 1 0; do
            echo $on >/proc/sys/kernel/sched_schedstats
            for event in sched/sched_switch irq timer; do
                echo $on >/sys/kernel/tracing/events/$event/enable
            done
        done 2>/dev/null
    done
}
modules() {
    while [ -e /tmp/go ]; do
        for name in failover net_failover vsock; do
            insmod /modules/$name.ko && echo $name >>/tmp/loaded
        done
        for name in vsock net_failover failover; do
            rmmod $name
        done
    done 2>/dev/null
}
if [ "$1" = run ]; then
    touch /tmp/go
    patch &
    modules &
fi
grep -c ^processor /proc/cpuinfo | sed 's/^/stress: processors /'
/stress "$@"
rm -f /tmp/go
wait
[ "$1" = run ] && echo "stress: modules loaded: $(wc -l </tmp/loaded)"
dmesg -r | grep -E '^<[0-4]>' | sed 's/^/stress: kernel: /'
echo "stress: end"
poweroff -f
"#;

/// What a guest did.
pub struct Done {
    /// The program's lines, without their mark.
    pub lines: Vec<String>,
    /// Warnings of the guest's kernel.
    pub warnings: Vec<String>,
    /// All that came to the console.
    pub console: String,
    /// What Mother counted.
    pub report: Report,
}

/// A guest to be run with different numbers of CPUs.
pub struct Guest {
    default: images::DefaultGuest,
    program: Vec<u8>,
    folder: PathBuf,
}

/// What the guest wrote, kept.
#[derive(Clone, Default)]
struct Kept(Arc<Lock<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Guest {
    /// Builds the program in `folder`, which must stay as long as the guest runs; takes the default guest from the cache.
    ///
    /// # Errors
    /// When there is no C compiler, or no default guest can be had.
    pub fn prepare(folder: &Path) -> anyhow::Result<Guest> {
        let default = images::Cache::of_user()?.default_guest(&mut |_| {})?;
        let program = std::fs::read(build(folder)?)?;
        Ok(Guest {
            default,
            program,
            folder: folder.to_owned(),
        })
    }

    /// Runs the program with these words on so many vCPUs, for `limit` at most.
    ///
    /// # Errors
    /// When the guest does not come to its end.
    pub fn run(&self, words: &str, vcpu_count: u32, limit: Duration) -> anyhow::Result<Done> {
        let initrd = self.folder.join("initrd");
        // The kernel hands words behind `--` to init.
        let files: [(&str, &[u8]); 2] = [
            ("stress", &self.program),
            ("stress-init", SCRIPT.as_bytes()),
        ];
        std::fs::write(
            &initrd,
            add_files(std::fs::read(&self.default.initrd)?, &files)?,
        )?;
        let spec = api::VmSpec {
            kernel: Some(self.default.kernel.clone()),
            initrd: Some(initrd),
            cmdline: Some(format!("console=ttyS0 quiet rdinit={INIT} -- {words}")),
            cpus: Some(api::VcpuCount::of(vcpu_count)),
            memory: Some(api::MemorySize::of_mib(1024)),
            engine: Some(api::EngineWish::Soft),
            timeout: Some(api::Timeout::of_seconds(limit.as_secs())),
            ..api::VmSpec::default()
        };
        let kept = Kept::default();
        let machine = machine::build(
            machine::plan(&spec, &machine::HostFindings::for_spec(&spec))?,
            Console::new(Box::new(kept.clone())),
        )?;
        let report = machine.run()?;
        let console = kept.0.lock().clone();
        let console = String::from_utf8_lossy(&console).replace('\r', "");
        ensure!(
            report.ending == Ending::PoweredOff,
            "the guest ended with {:?}:\n{console}",
            report.ending
        );
        let starting = |mark: &str| -> Vec<String> {
            console
                .lines()
                .filter_map(|line| line.strip_prefix(mark))
                .map(str::to_owned)
                .collect()
        };
        let warnings = starting(KERNEL);
        let lines = starting(MARK);
        ensure!(
            lines.last().is_some_and(|line| line == "end"),
            "the guest breaks off:\n{console}"
        );
        let lines = lines
            .into_iter()
            .filter(|line| !line.starts_with("kernel: "))
            .collect();
        Ok(Done {
            lines,
            warnings,
            console,
            report,
        })
    }
}

impl Done {
    /// What is wrong, in sentences; nothing if the guest was well.
    pub fn complaints(&self, vcpu_count: u32) -> Vec<String> {
        let mut complaints: Vec<String> = self
            .lines
            .iter()
            .filter(|line| line.contains("WRONG"))
            .cloned()
            .collect();
        let processors = format!("processors {vcpu_count}");
        let expected = [processors.as_str(), ", rounds done, 0 wrong"];
        for text in expected {
            if !self.lines.iter().any(|line| line.contains(text)) {
                complaints.push(format!("no line says \"{text}\""));
            }
        }
        let warnings = self
            .warnings
            .iter()
            .filter(|warning| !warning.contains(LOST_ITS_CORE));
        complaints.extend(warnings.map(|warning| format!("the kernel says {warning}")));
        complaints
    }
}

fn build(folder: &Path) -> anyhow::Result<PathBuf> {
    let program = folder.join("stress");
    let output = Command::new("cc")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/stress"))
        .args([
            "-std=gnu11",
            "-O2",
            "-Wall",
            "-Wextra",
            "-static",
            "-no-pie",
            "-pthread",
            "-o",
        ])
        .arg(&program)
        .args(SOURCES)
        .output()
        .context("start the C compiler `cc`")?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "cannot build the stress program: {complaints}"
    );
    Ok(program)
}
