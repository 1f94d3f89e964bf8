//! A new binary under a running VM: another process, of another program, goes on with the guest. `machine`'s module of that name says
//! how; here is who does what when.

mod steps;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::Jail;
use rustix::process::{Signal, pidfd_send_signal};

use self::steps::{Seen, Step, Steps};
use super::events::{self, Said};
use super::state::{Event, State};
use super::{Launcher, apart, birth};
use crate::spawn;
use crate::trouble::{ANOTHER_WAY, RunError, causes};
use crate::wire::{
    Birth, Channel, FORMAT, FromLauncher, FromVm, Given, Labelled, Outcome, Refused, Role, ToVm,
    Upgrade, Upgraded,
};

/// What is said of a new process that is not there any more.
const GONE: &str = "the process that was to run it is gone";

/// Letters of a version that are kept.
const VERSION_MAX: usize = 32;

/// A process that is to run the VM.
pub(super) struct Upgrading {
    /// Who wants it.
    client: Channel,
    steps: Steps,
    number: u64,
    vm: Arc<Channel>,
    process: OwnedFd,
    pid: u32,
    version: String,
    from: String,
    format: u32,
    /// Since when the guest stands still.
    resting_since: Option<Instant>,
    /// What the old process has given.
    handed: Vec<OwnedFd>,
}

impl Launcher {
    /// A command wants the VM to run in a process of `program`.
    pub(super) fn upgrade(
        &mut self,
        client: Channel,
        wanted: Upgrade,
        program: OwnedFd,
        state: &State,
    ) {
        if let Some(refused) = self.refusal(&wanted, state) {
            return refuse(&client, refused);
        }
        if let Err((client, error)) = self.begin_upgrade(client, wanted, &program) {
            let mut words = vec![error.to_string()];
            words.extend(causes(&error));
            let refused = Refused {
                why: words.join(": "),
                help: None,
            };
            refuse(&client, refused);
        }
    }

    /// Why it stays in its process.
    fn refusal(&self, wanted: &Upgrade, state: &State) -> Option<Refused> {
        let no = |why: String, help: &str| {
            let help = Some(help.to_owned());
            Some(Refused { why, help })
        };
        if wanted.format != FORMAT {
            let ours = env!("CARGO_PKG_VERSION");
            let Upgrade { format, version } = wanted;
            let why = format!(
                "its launcher is of Mother {ours}, which speaks with a VM's process in format {FORMAT}, and Mother {} does in format \
                 {format}",
                plain(version)
            );
            return no(why, ANOTHER_WAY);
        }
        if self.upgrading.is_some() {
            return no("it is being upgraded".to_owned(), "wait for that");
        }
        if !state.is_running() {
            let why = "it is being started, or ends".to_owned();
            return no(why, "`mother ps` shows what it is doing");
        }
        let (why, help) = self.ground.keeps_it()?;
        no(why.to_owned(), help)
    }

    fn begin_upgrade(
        &mut self,
        client: Channel,
        wanted: Upgrade,
        program: &OwnedFd,
    ) -> Result<(), (Channel, RunError)> {
        match self.start_other(program) {
            Ok((number, vm, process, pid)) => {
                self.upgrading = Some(Upgrading {
                    client,
                    steps: Steps::begin(Instant::now()),
                    number,
                    vm,
                    process,
                    pid,
                    version: plain(&wanted.version),
                    from: self.info.mother.clone(),
                    format: self.ground.format(),
                    resting_since: None,
                    handed: Vec::new(),
                });
                Ok(())
            }
            Err(error) => Err((client, error)),
        }
    }

    /// Starts a process of `program` and gives it all but the guest.
    fn start_other(
        &mut self,
        program: &OwnedFd,
    ) -> Result<(u64, Arc<Channel>, OwnedFd, u32), RunError> {
        let failed = |act| move |source| RunError::Process { act, source };
        let plan = self.ground.plan();
        let mut labelled = Labelled::default();
        labelled.add(Given::Alive, self.claim.as_ref());
        labelled.add(Given::Messages, self.messages.as_ref());
        let name = &plan.name;
        let (child, vm, is_apart) =
            spawn::start_other(program.as_fd(), name, apart(&plan)).map_err(failed("start"))?;
        let pid = child.pid().as_raw_nonzero().get().cast_unsigned();
        let process = child.process().map_err(failed("hold"))?;
        let guest = self.ground.guest().clone();
        let birth = Birth {
            goes_on: Some(self.ground.format()),
            ..birth(plan, guest, is_apart, labelled.given)
        };
        let vm = Arc::new(vm);
        let number = self.ground.next_number();
        events::hear_process(number, &vm, child, &self.events).map_err(RunError::Thread)?;
        // One that is gone already, being none of ours, is heard of by the thread that waits for it.
        if let Err(error) = vm.send(&Role::Vm(Box::new(birth)), &labelled.descriptors) {
            tracing::debug!(%error, "the new process was not told what it is");
        }
        self.ground.give_to(&vm);
        self.weight.take_in();
        Ok((number, vm, process, pid))
    }

    /// What a process says, if that is the state's to hear.
    pub(super) fn event_of(&mut self, number: u64, said: Said) -> Option<Event> {
        if number != self.present {
            let is_new = self.upgrading.as_ref().map(|it| it.number) == Some(number);
            // Of the others, one that ran the VM once is gone, and one that was to run it was killed.
            if is_new {
                self.new_said(said);
            }
            return None;
        }
        match said {
            Said::Words(FromVm::Gives { rested_us }, handed) => {
                if let Some(upgrading) = &mut self.upgrading {
                    let rested = Duration::from_micros(rested_us);
                    upgrading.resting_since = Instant::now().checked_sub(rested);
                    upgrading.handed = handed;
                }
                self.seen(Seen::Gives);
                None
            }
            Said::Words(FromVm::Keeps { why }, _) => {
                let why = plain_words(&why);
                self.seen(Seen::Keeps(Refused { why, help: None }));
                None
            }
            Said::Words(FromVm::LetsNobodyIn, _) => {
                self.seen(Seen::Closed);
                None
            }
            Said::Words(FromVm::Ended(ended), _) => {
                self.call_off("it has ended");
                Some(Event::Vm(FromVm::Ended(Box::new(self.settled(*ended)))))
            }
            Said::Words(FromVm::Started, _) => {
                self.has_upgraded();
                Some(Event::Vm(FromVm::Started))
            }
            Said::Words(said, _) => Some(Event::Vm(said)),
            Said::Strange(trouble) => Some(Event::Refused(trouble)),
            Said::Gone(gone) => {
                self.call_off("its process is gone");
                Some(Event::VmGone(gone))
            }
        }
    }

    /// The process that is to run the VM says something.
    fn new_said(&mut self, said: Said) {
        let failed = |why: String, help| Seen::Failed(Refused { why, help });
        let seen = match said {
            Said::Words(FromVm::Ready { format }, _) => {
                if let Some(upgrading) = &mut self.upgrading {
                    upgrading.format = format;
                }
                Seen::Ready
            }
            Said::Words(FromVm::Built { jail }, _) => return self.built(jail),
            Said::Words(FromVm::Ended(ended), _) => match ended.outcome {
                Outcome::Failed(trouble) => {
                    let (why, help) = trouble.why_and_help();
                    failed(why, help)
                }
                Outcome::Ran(_) => failed("the new process ended".to_owned(), None),
            },
            Said::Words(..) => return,
            Said::Strange(trouble) => failed(trouble.why_and_help().0, None),
            Said::Gone(gone) => {
                let why = format!("{GONE} ({gone})");
                failed(
                    why,
                    Some("its guest goes on where it was; try again".to_owned()),
                )
            }
        };
        self.seen(seen);
    }

    fn built(&mut self, jail: Jail) {
        self.info.jail = Some(jail);
        self.seen(Seen::Built);
    }

    /// Something else comes first: the VM stays where it is, if it is not elsewhere already.
    pub(super) fn call_off(&mut self, why: &'static str) {
        self.seen(Seen::CalledOff(why));
    }

    /// When an upgrade takes too long.
    pub(super) fn upgrade_deadline(&self) -> Option<Instant> {
        self.upgrading.as_ref()?.steps.deadline()
    }

    /// Whether one does, which is called off then.
    pub(super) fn is_upgrade_late(&mut self) -> bool {
        let is_late = self
            .upgrade_deadline()
            .is_some_and(|it| it <= Instant::now());
        if is_late {
            self.seen(Seen::TimeUp);
        }
        is_late
    }

    fn seen(&mut self, seen: Seen) {
        let Some(upgrading) = &mut self.upgrading else {
            return;
        };
        match upgrading.steps.take(seen, Instant::now()) {
            Step::Wait => {}
            Step::Ask => self.tell_vm(&ToVm::GiveAway, None::<&OwnedFd>),
            Step::Hand => {
                if let Err(why) = self.hand() {
                    let help = None;
                    self.seen(Seen::Failed(Refused { why, help }));
                }
            }
            Step::Close => self.tell_vm(&ToVm::LetNobodyIn, None::<&OwnedFd>),
            Step::Commit => self.commit(),
            Step::CallOff(why) => self.keep(why),
        }
    }

    /// Hands the guest to the new process.
    fn hand(&mut self) -> Result<(), String> {
        let (Some(upgrading), Some(log)) = (&mut self.upgrading, self.ground.log()) else {
            return Err("it has no log".to_owned());
        };
        let log_bytes = log.metadata().map_or(0, |found| found.len());
        let handed = std::mem::take(&mut upgrading.handed);
        let mut descriptors = vec![log.as_fd()];
        descriptors.extend(handed.iter().map(AsFd::as_fd));
        let sent = upgrading
            .vm
            .send_now(&ToVm::GoOn { log_bytes }, &descriptors);
        sent.map_err(|error| format!("{GONE}, or does not take its guest ({error})"))
    }

    /// The new process has the guest from here on.
    fn commit(&mut self) {
        // It does nothing of the guest's, so nobody has to wait for its end.
        self.signal(Signal::KILL);
        let Some(upgrading) = &mut self.upgrading else {
            return;
        };
        self.vm = Arc::clone(&upgrading.vm);
        self.present = upgrading.number;
        self.ground.set_format(upgrading.format);
        if let Ok(process) = upgrading.process.try_clone() {
            self.process = process;
        }
        self.info.pid = upgrading.pid;
        self.info.mother.clone_from(&upgrading.version);
        let info = self.info.clone();
        self.tell_vm(&ToVm::Serve { info }, self.ground.listener());
        let written = self.claim.as_ref().map(|claim| claim.describe(&self.info));
        if let Some(Err(error)) = written {
            tracing::warn!("what the VM is now is not written down: {error}");
        }
    }

    /// The guest runs in the new process: who wanted that is told.
    fn has_upgraded(&mut self) {
        let is_over = |it: &Upgrading| it.steps.is_over();
        if !self.upgrading.as_ref().is_some_and(is_over) {
            return;
        }
        let Some(upgrading) = self.upgrading.take() else {
            return;
        };
        let pause = upgrading.resting_since.map(|since| since.elapsed());
        let Upgrading {
            client,
            from,
            version: to,
            pid,
            ..
        } = upgrading;
        let pause_seconds = pause.unwrap_or_default().as_secs_f64();
        tracing::info!(
            "Mother {to} runs the VM, and Mother {from} did; its guest stood still for {pause_seconds:.3} s"
        );
        let upgraded = Upgraded {
            from,
            to,
            pid,
            pause_seconds,
        };
        answer(&client, &FromLauncher::Upgraded(upgraded));
    }

    /// The old process keeps the guest.
    fn keep(&mut self, why: Refused) {
        let Some(upgrading) = self.upgrading.take() else {
            return;
        };
        // One that is gone needs no signal.
        let _ = pidfd_send_signal(&upgrading.process, Signal::KILL);
        self.tell_vm(&ToVm::Stays, None::<&OwnedFd>);
        refuse(&upgrading.client, why);
    }
}

fn refuse(client: &Channel, refused: Refused) {
    tracing::info!("the VM is not upgraded: {}", refused.why);
    answer(client, &FromLauncher::Refused(refused));
}

/// A command that is gone, or does not read, is not waited for.
fn answer(client: &Channel, what: &FromLauncher) {
    if let Err(error) = client.send_now(what, &[]) {
        tracing::debug!(%error, "who wanted an upgrade was not told");
    }
}

/// A version in plain letters: it is shown, and a command may say anything.
fn plain(version: &str) -> String {
    let is_plain = |letter: &char| letter.is_ascii_alphanumeric() || ".-+".contains(*letter);
    version.chars().filter(is_plain).take(VERSION_MAX).collect()
}

/// What a process that runs a guest says, for a terminal.
fn plain_words(words: &str) -> String {
    let is_plain = |letter: &char| !letter.is_control();
    words.chars().filter(is_plain).take(1000).collect()
}
