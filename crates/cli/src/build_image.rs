//! The guest that configures a new Debian's packages: our own machine is where their scripts are root.

use std::io::{self, Write};
use std::sync::Arc;

use api::{DiskFormat, DiskSerial, DiskSpec, MemorySize, VmName, VmSpec};
use host::lock::Lock;
use images::{
    Amount, Begun, CONFIGURED_MARKER, Cache, DebianBuild, DebianError, DebianRelease, Image,
    Progress, Unit,
};
use machine::{HostFindings, plan};
use runner::{Guest, Held, OnTerm, Order, Streams};

use crate::attend::Attended;
use crate::failure::{Failure, ImageFailure};
use crate::progress::{DEBIAN, Shown};

/// What dpkg says before it configures a package (`--status-fd`).
const CONFIGURING: &str = "processing: configure: ";

/// How much of the console is kept for the case that it fails.
const LOG_LINES: usize = 60;

/// Makes the image of a release.
pub fn debian(cache: &Cache, release: DebianRelease) -> Result<Image, Failure> {
    eprintln!("mother: making the image {release}, once");
    let mut shown = Shown::new("packages", &DEBIAN);
    match cache
        .begin_debian(release, &mut |progress| shown.show(progress))
        .map_err(ImageFailure::Debian)?
    {
        Begun::Found(image) => Ok(image),
        Begun::Build(build) => {
            // The guest boots for a while before it configures the first.
            let none = Amount::new(0, build.package_count, Unit::Packages);
            shown.show(Progress::Configuring(none));
            configure(&build, shown)?;
            Ok(build.finish().map_err(ImageFailure::Debian)?)
        }
    }
}

/// Has a guest configure the packages.
fn configure(debian: &DebianBuild, shown: Shown) -> Result<(), Failure> {
    let initrd = debian
        .initrd()
        .map_err(|error| ImageFailure::Debian(error.into()))?;
    let disk = DiskSpec {
        path: debian.disk(),
        format: Some(DiskFormat::Raw),
        serial: Some(DiskSerial::root()),
        ..DiskSpec::default()
    };
    let spec = VmSpec {
        name: VmName::new("image-build").ok(),
        kernel: Some(debian.kernel()),
        initrd: Some(initrd),
        cmdline: Some("console=ttyS0 quiet panic=-1 mother.mode=configure".to_owned()),
        memory: Some(MemorySize::of_mib(1024)),
        disks: vec![disk],
        no_reboot: true,
        ..VmSpec::default()
    };
    let plan = plan(&spec, &HostFindings::for_spec(&spec))?;
    let watched = Arc::new(Lock::new(Watched::new(shown, debian.package_count)));
    let order = Order {
        symbols: None,
        name: None,
        is_kept: false,
        is_detached: false,
        plan,
        guest: Guest::Console,
        window: None,
        is_raw: false,
        report: None,
        origin: None,
        held: Held::default(),
    };
    let (said, console) = io::pipe().map_err(Failure::Input)?;
    let streams = Streams {
        output: Some(console.into()),
        ..Streams::default()
    };
    let mut attended = Attended::start(order, streams, OnTerm::End)?;
    attended.copy(
        said,
        Lines {
            watched: watched.clone(),
            line: Vec::new(),
        },
    )?;
    let ran = attended.finish()?;
    let watched = watched.lock();
    if watched.configured && ran.report.ending.is_power_off() {
        return Ok(());
    }
    eprintln!("{}", watched.log.join("\n"));
    Err(ImageFailure::Debian(DebianError::Unconfigured).into())
}

/// What the guest has said.
struct Watched {
    shown: Shown,
    total: usize,
    done: usize,
    configured: bool,
    log: Vec<String>,
}

impl Watched {
    fn new(shown: Shown, total: usize) -> Watched {
        Watched {
            shown,
            total,
            done: 0,
            configured: false,
            log: Vec::new(),
        }
    }

    fn take(&mut self, line: &str) {
        if line.starts_with(CONFIGURING) {
            // It says so before it does it.
            let amount = Amount::new(self.done.min(self.total), self.total, Unit::Packages);
            self.shown.show(Progress::Configuring(amount));
            self.done += 1;
        }
        if line == CONFIGURED_MARKER {
            self.configured = true;
            self.shown.show(Progress::Finishing);
        }
        if !line.starts_with("status: ") {
            self.log.push(line.to_owned());
            let excess = self.log.len().saturating_sub(LOG_LINES);
            self.log.drain(..excess);
        }
    }
}

/// Cuts the console into lines.
struct Lines {
    watched: Arc<Lock<Watched>>,
    line: Vec<u8>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            if byte == b'\n' {
                let line = String::from_utf8_lossy(&self.line).trim_end().to_owned();
                self.watched.lock().take(&line);
                self.line.clear();
            } else if self.line.len() < 4096 {
                self.line.push(byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
