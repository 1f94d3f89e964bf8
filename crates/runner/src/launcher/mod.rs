//! The launcher: the parent of a VM's process, which keeps what is the VM's on the host.
//!
//! It claims the name, starts the process, and then does what [`State`] says: threads bring events, one loop takes them.
//! It is the only one of a VM's processes that knows the VM's folder.

mod again;
mod events;
mod ground;
mod reaping;
mod refusals;
mod state;
mod upgrade;
mod weight;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use api::{JailWish, OnNetwork, VmInfo, VmName, VmOrigin};
use fleet::{Claim, Inventory};
use host::jail::Apart;
use machine::{
    AttachError, BuildError, EgressPlan, EngineKind, Kept, MacAddress, NetBackend, VmPlan,
};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, chdir, geteuid, getpid, pidfd_send_signal, set_child_subreaper, setsid,
};
use rustix::stdio::dup2_stderr;

use self::again::Again;
use self::events::{Between, Collected, Heard, Network};
use self::ground::Ground;
use self::reaping::reap;
use self::state::{Act, Event, IsKept, State};
use self::upgrade::Upgrading;
pub use self::weight::Means;
use self::weight::Weight;
use crate::ending;
use crate::network::Wanted;
use crate::own_log::{self, LogWish};
use crate::sharing::FolderServer;
use crate::spawn;
use crate::trouble::{OUR_FAULT, RunError, Trouble, causes};
use crate::wire::{
    Birth, Channel, Ended, Given, Guest, HostPath, Labelled, Launch, Outcome, Role, Sorted,
    ToClient, ToVm, Wish,
};

/// Launches a VM and stays until it has ended; the exit status, which says no more than whether the client was told.
pub(crate) fn launch(client: Channel, launch: Launch, descriptors: Vec<OwnedFd>) -> u8 {
    spawn::name_process("mother launcher");
    // Signals of a terminal are the client's. It fails only for a process that leads a session already.
    let _ = setsid();
    // What the VM's process started and left behind is reaped here.
    let _ = set_child_subreaper(Some(getpid()));
    let client = Arc::new(client);
    match Launcher::begin(&client, launch, descriptors) {
        Ok((launcher, state, events)) => {
            launcher.run(state, events);
            0
        }
        Err(error) => {
            // A client that is gone does not want to hear of it.
            let _ = client.send(&ToClient::Failed(Trouble::from(error)), &[]);
            OUR_FAULT
        }
    }
}

/// How often the launcher looks whether the VM's folder is there.
const LOOK: Duration = Duration::from_secs(2);

/// What the launcher has in its hands.
struct Launcher {
    client: Arc<Channel>,
    vm: Arc<Channel>,
    /// Which of the processes that were started for the VM runs it.
    present: u64,
    /// What is needed to have another one run it.
    ground: Ground,
    /// Another one is to run it.
    upgrading: Option<Upgrading>,
    /// The VM's process; its number cannot be another's as long as this is open.
    process: OwnedFd,
    claim: Option<Claim>,
    /// The claim's folder is complete.
    has_served: bool,
    /// The claim's folder is gone, and that was said.
    is_homeless: bool,
    info: VmInfo,
    messages: Option<File>,
    at_end: AtEnd,
    origin: Option<VmOrigin>,
    /// Opens what the guest stands on.
    collecting: JoinHandle<()>,
    /// What of that stays here until the VM has ended.
    kept: Option<Kept>,
    beyond: Beyond,
    /// Who serve the folders that the guest shares.
    servers: Vec<FolderServer>,
    /// How often its network was started again, and when last.
    network: (Again, Instant),
    events: SyncSender<Heard>,
    weight: Weight,
    leftovers: Leftovers,
}

/// What is to be between the VM's card and its network, and what is.
struct Beyond {
    /// Where the guest may send to, if that is listed.
    egress: Option<EgressPlan>,
    /// The place that it is to have on a network between VMs.
    wanted: Option<Wanted>,
    between: Between,
    /// Processes that carry networks and were started here: they stay when this process goes.
    carriers: Vec<Pid>,
}

impl Beyond {
    fn of(plan: &VmPlan, vm: &VmName) -> Beyond {
        let network = plan.network.as_ref();
        let wanted = network.and_then(|it| match &it.backend {
            NetBackend::Named(network) => Some(Wanted {
                network: network.clone(),
                vm: vm.clone(),
                card: it.mac,
                had: None,
                jail: plan.jail,
            }),
            _ => None,
        });
        Beyond {
            egress: network.and_then(|it| it.egress.clone()),
            wanted,
            between: Between::default(),
            carriers: Vec::new(),
        }
    }

    /// This is between them from now on; what the VM says of itself.
    fn set(&mut self, between: Between) -> Option<OnNetwork> {
        self.between = between;
        let member = self.between.member.as_ref()?;
        self.carriers.extend(member.carrier);
        let wanted = self.wanted.as_mut()?;
        wanted.had = Some(member.address);
        Some(OnNetwork {
            name: wanted.network.clone(),
            address: member.address,
        })
    }
}

/// What is done with what is known in the end.
struct AtEnd {
    /// Where it is written.
    report: Option<PathBuf>,
    /// Where the names in its profile are.
    symbols: Option<PathBuf>,
}

impl AtEnd {
    fn new(report: Option<PathBuf>, symbols: Option<PathBuf>) -> AtEnd {
        AtEnd {
            report: report.map(absolute),
            symbols: symbols.map(absolute),
        }
    }
}

/// What goes with the VM.
struct Leftovers {
    folders: Vec<PathBuf>,
    _locks: Vec<OwnedFd>,
}

impl Leftovers {
    fn of(folders: Vec<HostPath>, locks: Vec<OwnedFd>) -> Leftovers {
        Leftovers {
            folders: folders.into_iter().map(|folder| folder.0).collect(),
            _locks: locks,
        }
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        for folder in &self.folders {
            // The next run removes what we cannot.
            let _ = fs::remove_dir_all(folder);
        }
    }
}

impl Launcher {
    /// Claims the name and starts the process.
    fn begin(
        client: &Arc<Channel>,
        launch: Launch,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Launcher, State, Receiver<Heard>), RunError> {
        let failed = |act| move |source| RunError::Process { act, source };
        let sorted =
            Sorted::new(&launch.given, descriptors).map_err(failed("give descriptors to"))?;
        let leftovers = Leftovers::of(launch.remove, sorted.held);
        let mut plan = launch.plan;
        let claim = Inventory::of_user()?.claim(launch.name)?;
        let claim = claim.map_err(claim_error(&plan.name))?;
        rename(&mut plan, claim.name());
        let log = claim.begin_log().map_err(claim_error(&plan.name))?;
        let messages = launch.is_detached.then(|| open_messages(&claim));
        let messages = messages.transpose().map_err(failed("let go of"))?;
        let mut info = describe(&claim, &plan, &launch.guest, launch.is_detached);
        let mut labelled = Labelled::default();
        labelled.add(Given::Alive, Some(&claim));
        labelled.add(Given::Log, Some(&log));
        labelled.add(Given::Messages, messages.as_ref());
        labelled.add_streams([&sorted.input, &sorted.output, &sorted.errors]);
        let (child, vm, apart) =
            spawn::start_apart(&plan.name, apart(&plan)).map_err(failed("start"))?;
        info.pid = child.pid().as_raw_nonzero().get().cast_unsigned();
        let process = child.process().map_err(failed("hold"))?;
        let beyond = Beyond::of(&plan, claim.name());
        let weight = weighed(&plan)?;
        let is_alone = launch.is_detached && !labelled.has_streams();
        let ground = Ground::new(&plan, &launch.guest, is_alone, &log);
        let birth = Birth {
            window: launch.window,
            is_raw: launch.is_raw,
            ..birth(plan.clone(), launch.guest, apart, labelled.given)
        };
        let vm = Arc::new(vm);
        let sent = vm.send(&Role::Vm(Box::new(birth)), &labelled.descriptors);
        sent.map_err(failed("speak to"))?;
        let (events, heard) = events::hear(client, &vm, child).map_err(RunError::Thread)?;
        let wanted = beyond.wanted.clone();
        let collecting = events::collect(plan, wanted, messages.as_ref(), events.clone())?;
        let launcher = Launcher {
            client: Arc::clone(client),
            vm,
            present: 0,
            ground,
            upgrading: None,
            process,
            claim: Some(claim),
            has_served: false,
            is_homeless: false,
            info,
            messages,
            at_end: AtEnd::new(launch.report, launch.symbols),
            origin: launch.origin,
            collecting,
            kept: None,
            beyond,
            servers: Vec::new(),
            network: (Again::default(), Instant::now()),
            events,
            weight,
            leftovers,
        };
        let name = launcher.info.name.as_str();
        let state = State::new(name, launch.is_kept, launch.is_detached);
        Ok((launcher, state, heard))
    }

    /// Takes events until there is nothing left to do.
    fn run(mut self, mut state: State, events: Receiver<Heard>) {
        loop {
            let deadline = state.deadline().into_iter().chain(self.upgrade_deadline());
            let left = deadline
                .min()
                .map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let heard = events.recv_timeout(left.map_or(LOOK, |left| left.min(LOOK)));
            let event = match heard {
                Ok(Heard::Event(event)) => event,
                Ok(Heard::Process(number, said)) => match self.event_of(number, said) {
                    Some(event) => event,
                    None => continue,
                },
                Ok(Heard::Order(client, upgrade, program)) => {
                    self.upgrade(client, upgrade, program, &state);
                    continue;
                }
                Ok(Heard::Collected(collected)) => match self.hand_over(*collected) {
                    Ok(()) => continue,
                    Err(error) => Event::Refused(error.into()),
                },
                Ok(Heard::NetworkGone) => {
                    self.call_off("its network is gone and comes again; ask again in a moment");
                    self.start_network();
                    continue;
                }
                Ok(Heard::Network(started)) => {
                    self.plug_in(*started);
                    continue;
                }
                Ok(Heard::CallsRefused(count, what)) => {
                    self.calls_refused(count, what);
                    continue;
                }
                Ok(Heard::Refused(count, what)) => {
                    self.refused(count, &what);
                    continue;
                }
                Err(RecvTimeoutError::Timeout) if self.is_upgrade_late() => continue,
                Err(RecvTimeoutError::Timeout) if left.is_some_and(|left| left <= LOOK) => {
                    Event::TimeUp
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.look_after_folder();
                    continue;
                }
                // No thread brings anything any more, which none of them does before the process is gone.
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let mut acts = state.take(event, Instant::now()).into_iter();
            while let Some(act) = acts.next() {
                if act == Act::Leave {
                    // What is still being opened is closed by its thread, when nobody takes it.
                    drop(events);
                    let _ = self.collecting.join();
                    drop(self.leftovers);
                    reap(&self.beyond.carriers);
                    drop(self.weight);
                    return;
                }
                if let Err(error) = self.perform(act) {
                    let refused = Event::Refused(Trouble::from(error));
                    acts = state.take(refused, Instant::now()).into_iter();
                }
            }
        }
    }

    fn perform(&mut self, act: Act) -> Result<(), RunError> {
        match act {
            Act::Serve(jail) => {
                self.info.jail = Some(jail);
                return self.serve();
            }
            Act::TellVm(what) => {
                if matches!(what, ToVm::Stop(_) | ToVm::PowerOff { .. }) {
                    self.call_off("it was asked to end");
                }
                self.tell_vm(&what, None::<&File>);
            }
            Act::TellClient(what) => tell(&self.client, &what),
            Act::Grant(number, wish) => self.grant(number, wish),
            Act::LetGo => self.let_go(),
            Act::SuspendVm => self.signal(Signal::STOP),
            Act::ContinueVm => self.signal(Signal::CONT),
            Act::KillVm => self.signal(Signal::KILL),
            Act::Record(ended, is_kept) => self.record(&ended, is_kept == IsKept::Yes),
            Act::Discard => {
                self.ground.let_go();
                self.servers.clear();
                drop(std::mem::take(&mut self.beyond.between));
                drop(self.kept.take());
                drop(self.claim.take());
            }
            // Where nobody reads it, it is not worth more than a try.
            Act::Say(text) => drop(io::stderr().write_all(text.as_bytes())),
            Act::Leave => {}
        }
        Ok(())
    }

    /// Gives the VM's process what its guest stands on.
    fn hand_over(&mut self, collected: Result<Collected, BuildError>) -> Result<(), RunError> {
        let name = self.info.name.to_string();
        let collected = collected.map_err(|source| RunError::Build { name, source });
        // Paths were the client's until now. From here on this process keeps no folder from being unmounted.
        let _ = chdir("/");
        let Collected {
            descriptors,
            kept,
            between,
            servers,
        } = collected?;
        self.servers = servers;
        self.kept = Some(kept);
        self.info.network = self.beyond.set(between);
        self.weight.take_in();
        let failed = |act| move |source| RunError::Process { act, source };
        let labelled = descriptors.into_labelled();
        let (labelled, node) = labelled.map_err(failed("give descriptors to"))?;
        ground::give(&self.vm, &labelled, node);
        self.ground.hold(labelled, node);
        Ok(())
    }

    /// Has the network started again, if the VM has not ended: then it was ended by us.
    fn start_network(&mut self) {
        let Some(kept) = &self.kept else {
            return;
        };
        let (again, since) = &mut self.network;
        let mut after = || again.after(since.elapsed());
        let events = self.events.clone();
        let begun = if let Some(starter) = kept.network_starter() {
            let after = after();
            tracing::warn!("passt has ended; it is started again in {after:?}");
            let egress = self.beyond.egress.clone();
            let messages = self.messages.as_ref();
            let messages = messages.and_then(|messages| messages.try_clone().ok());
            events::start_network(starter, egress, messages, after, events)
        } else if let Some(wanted) = self.beyond.wanted.clone() {
            let after = after();
            let network = &wanted.network;
            tracing::warn!(
                "the network \"{network}\" is gone; the VM comes to it again in {after:?}"
            );
            events::come_again(wanted, after, events)
        } else {
            return;
        };
        if let Err(error) = begun {
            tracing::warn!("the guest is left without a network: {error}");
        }
    }

    /// Gives the VM's process the network that was started again.
    fn plug_in(&mut self, started: Result<Network, AttachError>) {
        let Some(kept) = &mut self.kept else {
            return;
        };
        self.network.1 = Instant::now();
        match started {
            Ok((running, socket, between)) => {
                if let Some(running) = running {
                    kept.keep_network(running);
                }
                let on = self.beyond.set(between);
                self.note_address(on);
                self.weight.take_in();
                self.tell_vm(&ToVm::Network, Some(&socket));
                self.ground.plug_in(socket);
            }
            Err(error) => {
                tracing::warn!("{error}: {}", causes(&error).join(": "));
                self.start_network();
            }
        }
    }

    /// Says which address the guest has on its network now, if that is another one: then it has to ask for it.
    fn note_address(&mut self, on: Option<OnNetwork>) {
        let Some(now) = on.filter(|now| self.info.network.as_ref() != Some(now)) else {
            return;
        };
        let OnNetwork { name, address } = &now;
        tracing::warn!(
            "the guest's address on the network \"{name}\" is {address} now: it reaches nobody before it asks for it (DHCP)"
        );
        self.info.network = Some(now);
        let written = self.claim.as_ref().map(|claim| claim.describe(&self.info));
        if let Some(Err(error)) = written {
            tracing::warn!("the VM's new address is not written down: {error}");
        }
    }

    /// System calls of the VM's process were refused.
    fn calls_refused(&mut self, count: u64, what: Option<String>) {
        if let Some(what) = what {
            let name = &self.info.name;
            tracing::warn!("the process of VM \"{name}\" was refused {what}");
        }
        self.tell_vm(&ToVm::CallsRefused { count }, None::<&File>);
    }

    /// Packets of the guest's were refused.
    fn refused(&mut self, count: u64, what: &[String]) {
        for what in what {
            tracing::warn!("{what}");
        }
        self.tell_vm(&ToVm::Refused { count }, None::<&File>);
    }

    /// Gives the VM's process a descriptor that it asks for, or says why not.
    fn grant(&mut self, number: u64, wish: Wish) {
        let granted = match wish {
            Wish::CpuWeight(weight) => self.weight.set(weight).map(|()| None),
            Wish::NextLog => {
                let next = self.claim.as_ref().and_then(|claim| claim.turn_log().ok());
                if let Some(next) = &next {
                    self.ground.log_goes_on(next);
                }
                let next = next.map(OwnedFd::from);
                next.ok_or_else(|| io::Error::from(Errno::NOSPC)).map(Some)
            }
            Wish::VsockPort(port) => {
                let kept = self.kept.as_ref().ok_or(io::Error::from(Errno::NOENT));
                kept.and_then(|kept| kept.connect_vsock(port))
                    .map(|stream| Some(stream.into()))
            }
        };
        let refusal = granted.as_ref().err().map(|error| {
            let number = Errno::from_io_error(error).unwrap_or(Errno::IO);
            number.raw_os_error()
        });
        self.tell_vm(
            &ToVm::Answer { number, refusal },
            granted.ok().flatten().as_ref(),
        );
    }

    /// Makes the control socket and hands it over.
    fn serve(&mut self) -> Result<(), RunError> {
        let Some(claim) = &mut self.claim else {
            return Ok(());
        };
        let name = self.info.name.clone();
        let listener = claim.listen().map_err(claim_error(name.as_str()))?;
        claim
            .describe(&self.info)
            .map_err(claim_error(name.as_str()))?;
        if let Some(origin) = &self.origin {
            claim.remember(origin).map_err(claim_error(name.as_str()))?;
        }
        claim.started();
        let info = self.info.clone();
        self.tell_vm(&ToVm::Serve { info }, Some(&listener));
        self.ground.listens(listener);
        self.take_orders()?;
        self.has_served = true;
        tell(&self.client, &ToClient::Serving { name });
        Ok(())
    }

    /// Makes the VM's folder anew, if somebody has removed it: the VM is to be found, and its name not to be had again.
    fn look_after_folder(&mut self) {
        if !self.has_served || !self.claim.as_ref().is_some_and(Claim::is_gone) {
            return;
        }
        match self.renew() {
            Ok(()) => {
                let folder = self.claim.as_ref().map(|claim| claim.record().folder());
                let folder = folder.unwrap_or(Path::new("")).display();
                tracing::warn!("the VM's folder was gone; {folder} was made anew");
                self.is_homeless = false;
            }
            // It is tried again and again; once is said.
            Err(error) if !std::mem::replace(&mut self.is_homeless, true) => {
                tracing::warn!("the VM's folder is gone, and cannot be made anew: {error}");
            }
            Err(_) => {}
        }
    }

    fn renew(&mut self) -> Result<(), RunError> {
        let name = self.info.name.clone();
        let claim = Inventory::of_user()?.claim(Some(name.clone()))?;
        let mut claim = claim.map_err(claim_error(name.as_str()))?;
        let failed = || claim_error(name.as_str());
        // The VM's process begins its log anew by turning it over.
        drop(claim.begin_log().map_err(failed())?);
        let listener = claim.listen().map_err(failed())?;
        claim.describe(&self.info).map_err(failed())?;
        if let Some(origin) = &self.origin {
            claim.remember(origin).map_err(failed())?;
        }
        let messages = self.messages.as_ref().map(|_| open_messages(&claim));
        let act = "let go of";
        let messages = messages
            .transpose()
            .map_err(|source| RunError::Process { act, source })?;
        // Not before all of it is there: what fails leaves nothing, and is tried again.
        claim.started();
        let mut descriptors = vec![claim.as_fd(), listener.as_fd()];
        descriptors.extend(messages.as_ref().map(AsFd::as_fd));
        // A process that is gone is heard of by the thread that waits for it.
        if let Err(error) = self.vm.send_now(&ToVm::Renewed, &descriptors) {
            tracing::debug!(%error, "the VM's process was not told of its folder");
        }
        if let Some(messages) = messages {
            self.messages = Some(messages);
            self.let_go();
        }
        self.call_off("its folder was gone and is made anew; ask again");
        self.ground.listens(listener);
        if let Some(gone) = self.claim.replace(claim) {
            gone.give_up();
        }
        self.take_orders()
    }

    /// Writes down the end and gives the name back, for this process and the VM's.
    fn record(&mut self, ended: &Ended, is_kept: bool) {
        // Who hears of the end finds nothing left of the VM.
        self.servers.clear();
        self.ground.let_go();
        drop(std::mem::take(&mut self.beyond.between));
        drop(self.kept.take());
        let Some(claim) = self.claim.take() else {
            return;
        };
        if let Err(error) = claim.finish(&ended.end, is_kept) {
            tracing::error!(
                "{}",
                Trouble::from(claim_error(self.info.name.as_str())(error)).text()
            );
        }
    }

    /// The end with its profile complete and its report written, if they were asked for; or that it could not be.
    fn settled(&self, mut ended: Ended) -> Ended {
        if let Outcome::Ran(ran) = &mut ended.outcome
            && let Some(profile) = &mut ran.report.profile
        {
            profile.give_names(self.at_end.symbols.as_deref());
            let table = profile.table();
            ran.words += &table;
            if self.messages.is_some() {
                // Where nobody reads it, it is not worth more than a try.
                drop(io::stderr().write_all(table.as_bytes()));
            }
        }
        let (Some(path), Outcome::Ran(ran)) = (&self.at_end.report, &ended.outcome) else {
            return ended;
        };
        let text = serde_json::to_string_pretty(&ran.report).map_err(io::Error::from);
        match text.and_then(|text| fs::write(path, text + "\n")) {
            Ok(()) => ended,
            Err(source) => {
                let path = path.clone();
                ending::of_trouble(RunError::Report { path, source }.into())
            }
        }
    }

    /// Nobody sits at the terminal any more.
    fn let_go(&self) {
        own_log::limit();
        if let Some(messages) = &self.messages
            && let Err(error) = dup2_stderr(messages)
        {
            tracing::warn!(%error, "standard error stays where it was");
        }
    }

    /// Takes orders of this user's commands from now on.
    fn take_orders(&self) -> Result<(), RunError> {
        let Some(claim) = &self.claim else {
            return Ok(());
        };
        let name = self.info.name.as_str();
        let listener = claim.listen_as_launcher().map_err(claim_error(name))?;
        events::hear_orders(listener, &self.events).map_err(RunError::Thread)
    }

    fn tell_vm(&self, what: &ToVm, descriptor: Option<&impl AsFd>) {
        let descriptors: Vec<_> = descriptor
            .iter()
            .map(|descriptor| descriptor.as_fd())
            .collect();
        // A process that is gone is heard of by the thread that waits for it; one that does not read is not waited for.
        if let Err(error) = self.vm.send_now(what, &descriptors) {
            tracing::debug!(%error, "the VM's process was not told");
        }
    }

    fn signal(&self, signal: Signal) {
        // A process that is gone needs none.
        let _ = pidfd_send_signal(&self.process, signal);
    }
}

/// The path as it is now, wherever this process will stand.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

fn tell(client: &Channel, what: &ToClient) {
    // A client that is gone is heard of by the thread that reads from it.
    if let Err(error) = client.send(what, &[]) {
        tracing::debug!(%error, "the client was not told");
    }
}

/// The VM has got this name. On a network between VMs a card that was named for a VM without a name is named for this one: else all
/// of them had the same.
fn rename(plan: &mut VmPlan, name: &VmName) {
    let planned = std::mem::replace(&mut plan.name, name.to_string());
    if let Some(network) = &mut plan.network
        && matches!(network.backend, NetBackend::Named(_))
        && network.mac == MacAddress::of_vm(&planned)
    {
        network.mac = MacAddress::of_vm(name.as_str());
    }
}

/// What is said of a VM, but for the number of its process, which is not there yet.
fn describe(claim: &Claim, plan: &VmPlan, guest: &Guest, is_detached: bool) -> VmInfo {
    VmInfo {
        name: claim.name().clone(),
        pid: 0,
        mother: env!("CARGO_PKG_VERSION").to_owned(),
        engine: plan.engine.kind.to_string(),
        vcpus: plan.vcpu_count,
        memory_given_bytes: plan.memory_bytes,
        started_at: ending::now(),
        detached: is_detached,
        program: matches!(guest, Guest::Program(_)),
        jail: None,
        network: None,
    }
}

/// What a process of a VM is to be that starts its guest, at no terminal.
fn birth(plan: VmPlan, guest: Guest, apart: Apart, given: Vec<Given>) -> Birth {
    Birth {
        plan,
        guest,
        window: None,
        is_raw: false,
        log: LogWish::of_environment(),
        is_apart: apart == Apart::Namespaces,
        goes_on: None,
        given,
    }
}

/// What keeps the weight of the VM, which has the one that was asked for.
fn weighed(plan: &VmPlan) -> Result<Weight, RunError> {
    let mut kept = Weight::new(&plan.name);
    if let Some(weight) = plan.rates.cpu_weight {
        let name = plan.name.clone();
        let set = kept.set(weight);
        set.map_err(|source| RunError::Weight {
            name,
            weight,
            source,
        })?;
    }
    Ok(kept)
}

/// How far apart from the rest of the host the VM's process is to be.
fn apart(plan: &VmPlan) -> Apart {
    if plan.jail == JailWish::Off {
        return Apart::No;
    }
    // A kernel that hands out its own page faults by privilege alone gives none to a namespace (before Linux 6.1), and a
    // guest on KVM cannot have a limit without.
    let needs_them = plan.paging.limit_bytes.is_some() && plan.engine.kind == EngineKind::Kvm;
    if needs_them && geteuid().is_root() && host::userfault::open_device().is_err() {
        return Apart::No;
    }
    Apart::Namespaces
}

/// Where the processes of a detached VM say what they have to say.
fn open_messages(claim: &Claim) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(claim.record().messages())
}

fn claim_error(name: &str) -> impl FnOnce(fleet::ClaimError) -> RunError {
    let name = name.to_owned();
    move |source| RunError::Claim { name, source }
}
