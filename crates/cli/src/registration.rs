//! A run's place in the inventory: its name, its log, its control socket, and what it leaves behind.

use std::ffi::CString;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use api::{EndKind, VmEnd, VmInfo, VmName, VmOrigin, VmSpec};
use fleet::{Claim, ClaimError, Inventory, LogWriter, Record};
use machine::{ControlServer, Ending, Machine, Report, StopCause, VmPlan};

use crate::ending::{CRASHED, KILLED, TIMED_OUT};
use crate::failure::Failure;

/// Gives out places.
pub struct Registrar {
    inventory: Inventory,
}

/// What is wanted of a place.
pub struct Place {
    /// The name, if one was asked for.
    pub name: Option<VmName>,
    /// Whether the VM is to outlive its terminal.
    pub is_detached: bool,
    /// What was asked for.
    pub asked: VmSpec,
}

/// The words of this command, without the one that `--detach` adds.
fn words() -> Vec<String> {
    let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    // It stands behind the command's name (`detach::start`); the guest's own words may be anything.
    let ours = |(at, word): &(usize, String)| *at == 2 && word == "--detached-child";
    let words = words.enumerate().filter(|numbered| !ours(numbered));
    words.map(|(_, word)| word).collect()
}

/// A place that is taken; the guest does not run yet.
pub struct Registration {
    claim: Claim,
    is_kept: bool,
    info: VmInfo,
    origin: Option<VmOrigin>,
}

/// A place of a VM that can be reached.
pub struct Served {
    claim: Claim,
    is_kept: bool,
    server: ControlServer,
}

impl Registrar {
    /// Looks whether `name` can be had, before work is done for nothing. What is no name at all is the plan's to say.
    pub fn new(name: Option<&VmName>) -> Result<Registrar, Failure> {
        let inventory = Inventory::of_user()?;
        if let Some(name) = name
            && inventory.is_running(name)?
        {
            return Err(claim_failure(name, ClaimError::Taken(name.clone())));
        }
        Ok(Registrar { inventory })
    }

    /// Takes the name that was asked for, or a free one, which becomes the plan's.
    pub fn register(
        &self,
        plan: &mut VmPlan,
        given: &VmSpec,
        place: Place,
    ) -> Result<Registration, Failure> {
        let is_kept = place.name.is_some() || place.is_detached;
        let mut registration = self.take(plan, place.name, is_kept)?;
        registration.info.detached = place.is_detached;
        registration.origin = Some(VmOrigin {
            words: words(),
            folder: std::env::current_dir().unwrap_or_default(),
            asked: place.asked,
            given: given.clone(),
        });
        Ok(registration)
    }

    /// Takes a free name for a VM that leaves nothing behind when it ends well.
    pub fn register_in_passing(&self, plan: &mut VmPlan) -> Result<Registration, Failure> {
        self.take(plan, None, false)
    }

    fn take(
        &self,
        plan: &mut VmPlan,
        asked: Option<VmName>,
        is_kept: bool,
    ) -> Result<Registration, Failure> {
        let claim = self
            .inventory
            .claim(asked)?
            .map_err(|source| Failure::Claim {
                name: plan.name.clone(),
                source,
            })?;
        plan.name = claim.name().to_string();
        name_process(&plan.name);
        let info = VmInfo {
            name: claim.name().clone(),
            pid: std::process::id(),
            mother: env!("CARGO_PKG_VERSION").to_owned(),
            engine: plan.engine.kind.to_string(),
            vcpus: plan.vcpu_count,
            memory_given_bytes: plan.memory_bytes,
            started_at: now(),
            detached: false,
            program: false,
        };
        Ok(Registration {
            claim,
            is_kept,
            info,
            origin: None,
        })
    }
}

impl Registration {
    /// The same for a guest that is one program, whose console is not for people.
    pub fn of_program(mut self) -> Registration {
        self.info.program = true;
        self
    }

    /// A writer that keeps a log of what goes to `output`.
    pub fn log_beside(
        &self,
        output: Box<dyn Write + Send>,
    ) -> Result<Box<dyn Write + Send>, Failure> {
        let log = self.log()?;
        Ok(Box::new(Logged { log, output }))
    }

    /// The log alone.
    pub fn log(&self) -> Result<LogWriter, Failure> {
        self.claim
            .log()
            .map_err(|source| claim_failure(self.claim.name(), source))
    }

    /// Opens the control socket of `machine`.
    pub fn serve(mut self, machine: &Machine) -> Result<Served, Failure> {
        let failed = |source| claim_failure(&self.info.name, source);
        let listener = self.claim.listen().map_err(failed)?;
        self.claim.describe(&self.info).map_err(failed)?;
        if let Some(origin) = &self.origin {
            self.claim.remember(origin).map_err(failed)?;
        }
        let server =
            ControlServer::start(listener, machine, self.info).map_err(Failure::Control)?;
        self.claim.started();
        Ok(Served {
            claim: self.claim,
            is_kept: self.is_kept,
            server,
        })
    }
}

impl Served {
    /// The VM's name.
    pub fn name(&self) -> &VmName {
        self.claim.name()
    }

    /// The VM's folder.
    pub fn record(&self) -> &Record {
        self.claim.record()
    }

    /// Says how the VM ended, to everybody who wants to know; `status` is that of the program that the guest was, if
    /// it was one.
    pub fn leave(self, ended: &Result<Report, Failure>, status: Option<u8>) -> Result<(), Failure> {
        let end = match (ended, status) {
            (Ok(report), Some(status)) => VmEnd {
                kind: EndKind::Exited,
                message: format!("its program ended with exit status {status}"),
                exit_status: status,
                ..end_of(report)
            },
            (Ok(report), None) => end_of(report),
            (Err(failure), _) => end_of_failure(failure),
        };
        // A run at a terminal has said everything there; what went wrong is kept all the same.
        let is_kept = self.is_kept || matches!(end.kind, EndKind::Crashed | EndKind::Failed);
        let name = self.claim.name().clone();
        let left = self
            .claim
            .finish(&end, is_kept)
            .map_err(|source| claim_failure(&name, source));
        self.server.finish(&end);
        left
    }
}

/// Has administrators find the process by the VM's name: in top, pgrep, journald, and what the kernel says when memory
/// runs out. The kernel shows 15 bytes of it. On the process's first thread.
fn name_process(vm: &str) {
    if let Ok(name) = CString::new(format!("mother: {vm}")) {
        // What it is called else is no reason not to run.
        let _ = rustix::thread::set_name(&name);
    }
}

fn claim_failure(name: &VmName, source: ClaimError) -> Failure {
    Failure::Claim {
        name: name.to_string(),
        source,
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

fn end_of(report: &Report) -> VmEnd {
    let (kind, message, exit_status) = match &report.ending {
        Ending::PoweredOff => (EndKind::PoweredOff, "the guest powered off".to_owned(), 0),
        Ending::DebugExit(status) => (
            EndKind::DebugExit,
            format!("the guest ended through the debug-exit port: status {status}"),
            *status,
        ),
        Ending::Crashed(_) => (EndKind::Crashed, "the guest crashed".to_owned(), CRASHED),
        Ending::TimedOut => (
            EndKind::TimedOut,
            "it ran out of time".to_owned(),
            TIMED_OUT,
        ),
        Ending::Stopped(cause) => stopped(*cause),
    };
    let detail = match &report.ending {
        Ending::Crashed(crash) => Some(crash.to_string()),
        _ => None,
    };
    VmEnd {
        kind,
        message,
        detail,
        exit_status,
        ended_at: Some(now()),
        uptime_seconds: Some(report.wall_time.as_secs_f64()),
        cpu_seconds: Some(report.cpu_time.as_secs_f64()),
    }
}

fn stopped(cause: StopCause) -> (EndKind, String, u8) {
    let (message, status) = match cause {
        StopCause::Left => ("whoever started it left it".to_owned(), 0),
        StopCause::Signal(signal) => (
            format!("its process got signal {signal}"),
            u8::try_from(128 + signal).unwrap_or(KILLED),
        ),
        StopCause::Killed => ("it was killed".to_owned(), KILLED),
        StopCause::GraceOver => (
            "it was ended: it did not power off in its grace time".to_owned(),
            KILLED,
        ),
    };
    (EndKind::Stopped, message, status)
}

fn end_of_failure(failure: &Failure) -> VmEnd {
    VmEnd {
        kind: EndKind::Failed,
        message: "Mother failed".to_owned(),
        detail: Some(failure.text()),
        exit_status: failure.status(),
        ended_at: Some(now()),
        uptime_seconds: None,
        cpu_seconds: None,
    }
}

/// Writes to the log, then to the output.
struct Logged {
    log: LogWriter,
    output: Box<dyn Write + Send>,
}

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.log.write_all(bytes)?;
        self.output.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
