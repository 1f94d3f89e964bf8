//! The client's side: an order becomes a VM that runs, and a handle on it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use api::{VmName, VmOrigin};
use fleet::Record;
use machine::{StopCause, VmPlan};

use crate::spawn;
use crate::trouble::{ANOTHER_WAY, OUR_FAULT, RunError, Trouble};
use crate::wire::{
    Channel, Ended, FORMAT, FromClient, FromLauncher, Given, Guest, HostPath, Labelled, Launch,
    Refused, Role, ToClient, ToLauncher, Upgrade, Upgraded,
};

/// What is to be started.
#[derive(Debug)]
pub struct Order {
    /// The name that was asked for; else it is `guest` or that with a number.
    pub name: Option<VmName>,
    /// Whether what the VM leaves is kept however it ends; otherwise only if something went wrong.
    pub is_kept: bool,
    /// Whether it lives on without this process once its guest runs.
    pub is_detached: bool,
    /// What will be built.
    pub plan: VmPlan,
    /// How its console is to be understood.
    pub guest: Guest,
    /// Rows and columns of this process's terminal.
    pub window: Option<(u16, u16)>,
    /// The terminal will be in raw mode while the guest runs.
    pub is_raw: bool,
    /// Where what is known at the end goes.
    pub report: Option<PathBuf>,
    /// Where what is known of kernel files is kept, for the names in a profile; nowhere if it has none.
    pub symbols: Option<PathBuf>,
    /// How it came to be, if that is worth remembering.
    pub origin: Option<VmOrigin>,
    /// What the guest stands on.
    pub held: Held,
}

/// Locks that are held and folders that are removed when the VM has ended.
#[derive(Debug, Default)]
pub struct Held {
    /// Open files whose locks are to be kept.
    pub locks: Vec<OwnedFd>,
    /// Folders that go with the VM.
    pub folders: Vec<PathBuf>,
}

impl Held {
    /// Holds this too.
    pub fn join(&mut self, other: Held) {
        self.locks.extend(other.locks);
        self.folders.extend(other.folders);
    }
}

/// What the guest is connected to. A program that is given no input reads its end at once.
#[derive(Debug, Default)]
pub struct Streams {
    /// What is typed, or a program's standard input.
    pub input: Option<OwnedFd>,
    /// Where the console or a program's standard output goes.
    pub output: Option<OwnedFd>,
    /// Where a program's standard error goes.
    pub errors: Option<OwnedFd>,
}

/// A VM that was started from here.
#[derive(Debug)]
pub struct Running {
    channel: Arc<Channel>,
    launcher: Child,
    name: String,
}

/// Acts on it from any thread. What comes when it has ended does nothing.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Channel>);

/// Starts a VM. It is being built when this returns.
///
/// # Errors
/// If there is no process for it.
pub fn start(order: Order, streams: &Streams) -> Result<Running, Trouble> {
    let name = order.plan.name.clone();
    let failed = |source| {
        Trouble::from(RunError::Process {
            act: "start",
            source,
        })
    };
    let called = format!("launcher of {name}");
    let (launcher, channel) = spawn::start(&called).map_err(failed)?;
    let mut labelled = Labelled::default();
    labelled.add(Given::Input, streams.input.as_ref());
    labelled.add(Given::Output, streams.output.as_ref());
    labelled.add(Given::Errors, streams.errors.as_ref());
    for lock in &order.held.locks {
        labelled.add(Given::Hold, Some(lock));
    }
    let launch = Launch {
        name: order.name,
        is_kept: order.is_kept,
        is_detached: order.is_detached,
        plan: order.plan,
        guest: order.guest,
        window: order.window,
        is_raw: order.is_raw,
        report: order.report,
        symbols: order.symbols,
        origin: order.origin,
        remove: order.held.folders.into_iter().map(HostPath).collect(),
        given: labelled.given,
    };
    let mut running = Running {
        channel: Arc::new(channel),
        launcher,
        name,
    };
    let role = Role::Launcher(Box::new(launch));
    if let Err(source) = running.channel.send(&role, &labelled.descriptors) {
        let _ = running.launcher.kill();
        let _ = running.launcher.wait();
        return Err(failed(source));
    }
    Ok(running)
}

/// Has the VM of `record`, which is called `name` and runs, go on in a process of this very program.
///
/// # Errors
/// Why it does not: it runs on as it did then, but if its launcher was lost.
pub fn upgrade(name: &VmName, record: &Record) -> Result<Upgraded, Trouble> {
    let refused = match order_upgrade(record) {
        Ok(Some(Ok(upgraded))) => return Ok(upgraded),
        Ok(Some(Err(refused))) => refused,
        Ok(None) => Refused {
            why: "its launcher takes no orders: it is of a version before this".to_owned(),
            help: Some(ANOTHER_WAY.to_owned()),
        },
        Err(error) => Refused {
            why: format!("its launcher was lost on the way: {error}"),
            help: Some("`mother ps -a` shows what became of it".to_owned()),
        },
    };
    Err(Trouble {
        message: format!("VM \"{name}\" is not upgraded"),
        causes: vec![refused.why],
        help: refused.help,
        status: OUR_FAULT,
        is_closed_pipe: false,
    })
}

/// What came of it; none if nobody takes orders there.
fn order_upgrade(record: &Record) -> io::Result<Option<Result<Upgraded, Refused>>> {
    let Some(socket) = record.connect_to_launcher()? else {
        return Ok(None);
    };
    let launcher = Channel::accepted(socket);
    // Whatever is at its path by now: it is the one that reads this.
    let program = File::open("/proc/self/exe")?;
    let order = ToLauncher::Upgrade(Upgrade {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    });
    launcher.send(&order, &[program.as_fd()])?;
    match launcher.receive::<FromLauncher>()? {
        Some((FromLauncher::Upgraded(upgraded), _)) => Ok(Some(Ok(upgraded))),
        Some((FromLauncher::Refused(refused), _)) => Ok(Some(Err(refused))),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

impl Running {
    /// To act on it.
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.channel))
    }

    /// What it is called; until it can be reached, what it was to be called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until it is built and can be reached.
    ///
    /// # Errors
    /// Why it was not.
    pub fn wait_until_serving(&mut self) -> Result<(), Trouble> {
        match self.next()? {
            ToClient::Serving { name } => {
                self.name = name.to_string();
                Ok(())
            }
            other => Err(self.strange(other)),
        }
    }

    /// Waits until its guest runs; the end, if it never did.
    ///
    /// # Errors
    /// If it was lost.
    pub fn wait_until_started(&mut self) -> Result<Option<Box<Ended>>, Trouble> {
        match self.next()? {
            ToClient::Started => Ok(None),
            ToClient::Ended(ended) => Ok(Some(ended)),
            other => Err(self.strange(other)),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it was lost.
    pub fn wait(mut self) -> Result<Box<Ended>, Trouble> {
        let ended = loop {
            match self.next() {
                Ok(ToClient::Ended(ended)) => break Ok(ended),
                Ok(ToClient::Serving { .. } | ToClient::Started) => {}
                Ok(other) => break Err(self.strange(other)),
                Err(trouble) => break Err(trouble),
            }
        };
        // It has nothing left to do.
        let _ = self.launcher.wait();
        ended
    }

    fn next(&mut self) -> Result<ToClient, Trouble> {
        match self.channel.receive() {
            Ok(Some((said, _))) => Ok(said),
            Ok(None) => {
                let _ = self.launcher.wait();
                Err(self.lost("its launcher vanished: killed from outside, or crashed".to_owned()))
            }
            Err(error) => Err(self.lost(format!("its launcher is not understood: {error}"))),
        }
    }

    /// What else there is to hear when something was expected.
    fn strange(&mut self, said: ToClient) -> Trouble {
        match said {
            ToClient::Failed(trouble) => {
                // It has nothing left to do.
                let _ = self.launcher.wait();
                trouble
            }
            _ => self.lost("its launcher says what makes no sense now".to_owned()),
        }
    }

    fn lost(&self, what: String) -> Trouble {
        let name = self.name.clone();
        RunError::Lost { name, what }.into()
    }
}

impl Handle {
    /// Ends it at once.
    pub fn stop(&self, cause: StopCause) {
        self.say(&FromClient::Stop(cause));
    }

    /// Presses its power button, and ends it after `grace`.
    pub fn power_off(&self, grace: Duration) {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.say(&FromClient::PowerOff { grace_ms });
    }

    /// The terminal has this size now.
    pub fn resize(&self, rows: u16, columns: u16) {
        self.say(&FromClient::Resize { rows, columns });
    }

    /// This process is about to be suspended: so is the guest.
    pub fn suspend(&self) {
        self.say(&FromClient::Suspend);
    }

    /// This process goes on, and the guest with it.
    pub fn go_on(&self) {
        self.say(&FromClient::GoOn);
    }

    fn say(&self, what: &FromClient) {
        // A launcher that is gone is heard of by the thread that waits for it.
        if let Err(error) = self.0.send(what, &[])
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            tracing::warn!(%error, "the VM's launcher was not told");
        }
    }
}
